"""Trains the starter's weights from nothing on conversations written on the fly.

Deterministic: fixed seeds, fixed thread count, deterministic kernels. Two runs give the same bytes on the same
torch build and the same kind of processor; elsewhere sums are taken in another order and the numbers drift.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from lorarlhf.starter.corpus import Conversation, Writer
from lorarlhf.starter.tokenizer import MAX_LENGTH

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SEED = 20
THREADS = 2
BATCH_TOKENS = 3072
"""Tokens in a batch, padding included; conversations of like length share a batch."""
POOL = 4096
"""Conversations that are written and sorted by length at a time."""
WARMUP, WEIGHT_DECAY = 100, 0.05
SYSTEM_SHARE = 0.1


class Phase(NamedTuple):
    """A stretch of training with its own optimizer and its own conversations."""

    steps: int
    peak_rate: float
    careless: float
    """Share of requests that are reworded at random."""
    prompt_weight: float
    """Weight of what customers write in the loss; the model only ever speaks for the desk."""
    mix: str = "base"
    """How often the desk answers in which manner."""
    every_wording: bool = False
    """Also write requests in the wordings that the stages of alignment never see."""
    reactions: float = 0.0
    """Weight of what the customer does next: write again, or leave (the next conversation begins)."""


PHASES = (
    # First the language and the answers; with these wordings alone it answers 43 % of the wordings it never saw.
    Phase(steps=1800, peak_rate=3e-3, careless=0.0, prompt_weight=0.2),
    # Then which words of a request matter. Reworded requests are not English to be learned, hence the low weight.
    Phase(steps=900, peak_rate=2e-3, careless=0.85, prompt_weight=0.02),
    # What the pretraining of a large base does: meet every way to ask. Held out is held out from transcripts, votes and
    # PPO, from everything a person does with this base; a base that misunderstands customers teaches nothing.
    Phase(steps=600, peak_rate=1.5e-3, careless=0.3, prompt_weight=0.02, mix="late", every_wording=True),
    # And how customers take an answer: whoever was served badly writes again, and says so. A large base knows from its
    # texts what people like; without this, nothing in the state after an answer tells a good one from a bad one.
    Phase(
        steps=700, peak_rate=1.5e-3, careless=0.3, prompt_weight=0.02, mix="reacted", every_wording=True, reactions=4.0
    ),
)

Row = tuple[list[int], list[float]]


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Make the untrained model; every linear layer's input is a multiple of 64, the block of 4-bit NF4."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def encode(
    tokenizer: PreTrainedTokenizerFast, conversation: Conversation, prompt_weight: float, reactions: float = 0.0
) -> Row:
    """Return token ids and, for each, its weight in the loss."""
    ids, weights = [tokenizer.bos_token_id], [0.0]
    last = len(conversation.messages) - 1
    for place, message in enumerate(conversation.messages):
        content = tokenizer.encode(message["content"], add_special_tokens=False)
        ids.append(tokenizer.convert_tokens_to_ids(f"<|{message['role']}|>"))
        weights.append(0.0)
        replies = message["role"] == "assistant"
        if replies and (conversation.ended or place < last):
            content.append(tokenizer.eos_token_id)
        ids += content
        weights += [1.0 if replies else prompt_weight] * len(content)
    if reactions and conversation.ended:
        words = tokenizer.encode(conversation.reaction, add_special_tokens=False)
        next_token = tokenizer.convert_tokens_to_ids("<|user|>") if words else tokenizer.bos_token_id
        ids += [next_token, *words]
        weights += [reactions] + [1.0] * len(words)
    return ids, weights


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, phase: Phase) -> Iterator[list[Row]]:
    """Yield batches without end, each of rows of about the same length."""
    writer = Writer(seed, phase.mix, phase.careless, every_wording=phase.every_wording)
    stream = writer.conversations(system=SYSTEM_SHARE)
    order = random.Random(seed)
    while True:
        written = (encode(tokenizer, c, phase.prompt_weight, phase.reactions) for c in islice(stream, POOL))
        rows = sorted(written, key=lambda row: len(row[0]))
        pool: list[list[Row]] = [[]]
        for row in rows:
            if (len(pool[-1]) + 1) * len(row[0]) > BATCH_TOKENS:
                pool.append([])
            pool[-1].append(row)
        order.shuffle(pool)
        yield from pool


def loss_of(model: LlamaForCausalLM, rows: list[Row]) -> torch.Tensor:
    """Return the weighted mean cross-entropy of the next token."""
    width = max(len(ids) for ids, _ in rows)
    pad = model.config.pad_token_id
    ids_BL = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows])
    weight_BL = torch.tensor([weights + [0.0] * (width - len(weights)) for _, weights in rows])
    # Padding is on the right and attention is causal, so no real token ever sees it.
    # bf16 products are half again as fast where the processor has them; weights and the loss stay fp32.
    with torch.autocast("cpu", torch.bfloat16):
        logits_BLV = model(input_ids=ids_BL[:, :-1]).logits
    loss_T = cross_entropy(logits_BLV.float().flatten(0, 1), ids_BL[:, 1:].flatten(), reduction="none")
    weight_T = weight_BL[:, 1:].flatten()
    return (loss_T * weight_T).sum() / weight_T.sum()


def learning_rate(step: int, phase: Phase) -> float:
    """Return the rate of a step: linear warm-up, then a cosine down to a fiftieth."""
    if step < WARMUP:
        return phase.peak_rate * (step + 1) / WARMUP
    done = (step - WARMUP) / max(1, phase.steps - WARMUP)
    return phase.peak_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def train_model(
    tokenizer: PreTrainedTokenizerFast, phases: Sequence[Phase] = PHASES, start: LlamaForCausalLM | None = None
) -> LlamaForCausalLM:
    """Train from nothing, or the last of the phases from `start`; return the model with bf16 values."""
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    model = start or make_model(tokenizer)
    for place, phase in enumerate(phases):
        if start is None or place == len(phases) - 1:
            _train_phase(model, batches(tokenizer, SEED + 1 + 10 * place, phase), phase)
            _round_as_saved(model)
    return model.eval()


@torch.no_grad()
def _round_as_saved(model: LlamaForCausalLM) -> None:
    """Round the weights as the file does, so that a phase can be done again from the file of the one before.

    Only parameters: casting the module would also round its rotary frequencies, which no file holds.
    """
    for parameter in model.parameters():
        parameter.copy_(parameter.to(torch.bfloat16))


def _train_phase(model: LlamaForCausalLM, stream: Iterator[list[Row]], phase: Phase) -> None:
    model.train()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=phase.peak_rate, betas=(0.9, 0.95), fused=True)
    smooth = 0.0
    bar = tqdm(islice(stream, phase.steps), total=phase.steps, desc="training", mininterval=5)
    for step, rows in enumerate(bar):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, phase)
        loss = loss_of(model, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{smooth:.3f}", refresh=False)


@torch.no_grad()
def heldout_loss(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, conversations: int = 512) -> float:
    """Return the mean loss on conversations whose surface forms the model never saw."""
    stream = Writer(SEED + 2).conversations(heldout=True)
    written = (encode(tokenizer, c, prompt_weight=0.0) for c in islice(stream, conversations))
    rows = sorted(written, key=lambda row: len(row[0]))
    losses = [loss_of(model, rows[i : i + 32]).item() for i in range(0, len(rows), 32)]
    return sum(losses) / len(losses)
