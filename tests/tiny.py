"""Miniature models with random weights, made in memory: every architecture in well under a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

ARCHS = ("llama", "qwen3", "gemma3", "mistral", "phi3", "gpt2")

CHATML = (
    "{{ bos_token or '' }}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>")
VOCAB = 256 + len(SPECIALS) + 9
"""A few rows more than the tokenizer has tokens, like many released models."""


def tokenizer(*, chat: bool | str = True, pad: bool = True, bos: bool = True) -> PreTrainedTokenizerBase:
    """Make a byte-level tokenizer of 263 tokens; `chat` may be a template of your own."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIALS if pad else [s for s in SPECIALS if s != "<pad>"]))
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", inner.token_to_id("<s>"))]
        )
    tok = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="</s>",
        pad_token="<pad>" if pad else None,
        bos_token="<s>" if bos else None,
        clean_up_tokenization_spaces=False,
    )
    if chat:
        tok.chat_template = CHATML if chat is True else chat
    return tok


def config(arch: str, *, tied: bool = False, layers: int = 2, hidden: int = 64, inner: int = 128) -> Any:
    """Describe a miniature of `arch`: 4 query heads, 2 key heads where the architecture has groups."""
    common: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": 258,
    }
    if arch == "llama":
        return LlamaConfig(**common)
    if arch == "qwen3":
        return Qwen3Config(**common, head_dim=16)
    if arch == "gemma3":
        return Gemma3TextConfig(**common, head_dim=16, sliding_window=32, query_pre_attn_scalar=16)
    if arch == "mistral":
        return MistralConfig(**common, head_dim=16, sliding_window=None)
    if arch == "phi3":
        return Phi3Config(**common)
    if arch == "gpt2":
        return GPT2Config(
            vocab_size=VOCAB,
            n_embd=hidden,
            n_inner=inner,
            n_layer=layers,
            n_head=4,
            n_positions=256,
            tie_word_embeddings=tied,
            bos_token_id=256,
            eos_token_id=257,
        )
    raise ValueError(f"unknown architecture {arch}; known: {', '.join(ARCHS)}")


def model(arch: str = "llama", *, tied: bool = False, seed: int = 0, **shape: int) -> PreTrainedModel:
    """Make the model in fp32, with weights large enough that its answers are not all alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = AutoModelForCausalLM.from_config(config(arch, tied=tied, **shape), dtype=torch.float32)
        with torch.no_grad():
            for name, weight in made.named_parameters():
                if weight.ndim == 2:
                    weight.normal_(0.0, 0.08)
                elif name.endswith("bias"):
                    weight.normal_(0.0, 0.02)
    return made.eval()


def save(
    folder: str | Path,
    arch: str = "llama",
    *,
    tied: bool = False,
    chat: bool | str = True,
    pad: bool = True,
    bos: bool = True,
    seed: int = 0,
    **shape: int,
) -> Path:
    """Write model and tokenizer to `folder` (safetensors) and return it; `shape`: layers, hidden, inner."""
    folder = Path(folder)
    model(arch, tied=tied, seed=seed, **shape).save_pretrained(folder)
    tokenizer(chat=chat, pad=pad, bos=bos).save_pretrained(folder)
    return folder
