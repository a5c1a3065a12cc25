"""What an adapter says about a few held-out conversations, as numbers two programs can compare.

Our numbers come from the base as it is loaded here; `lorarlhf.export.replay` makes the same from exported files.
Both write `NUMBERS`: per conversation the log-probabilities [R, V] of every token behind each state of the answer,
or a reward model's score [1].
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lorarlhf.adapters import AdapterBank
from lorarlhf.base import Base
from lorarlhf.data.chat import encode_prompt, encode_response, has_marks, is_dated
from lorarlhf.data.tokens import Row, collate
from lorarlhf.errors import DataError
from lorarlhf.forward import context_of, hidden_states, sequence_scores
from lorarlhf.store import Store
from lorarlhf.types import Message, Outcome, Prompt, is_heldout, prompt_key, user

CONVERSATIONS = 8
PROMPT_TOKENS = 192
ANSWER_TOKENS = 32
"""Of answers whose log-probabilities are kept: each costs a row of the vocabulary, a megabyte for the largest."""

Conversation = tuple[Prompt, str]

SPARE: tuple[Conversation, ...] = (
    (user("Where is my parcel?"), "It left us yesterday and should be with you by Friday."),
    (user("Say hello in three languages."), "Hello, bonjour, hola."),
    (user("What is seven times eight?"), "Seven times eight is 56."),
    (
        user("Can I return shoes I have worn outside?"),
        "I am afraid we only take back shoes not worn outside.",
    ),
    (user("Write a line about the sea."), "The sea keeps the time of a clock nobody wound."),
    (user("My order came broken. What now?"), "I am sorry. Send us a photo, and we replace it at no cost."),
    (user("Name a fruit that is not sweet."), "A lemon."),
    (user("Why is the sky blue?"), "Air scatters short waves of light more than long ones, and blue is short."),
)
"""For workspaces that hold too few held-out prompts; any text will do, as long as both sides read the same."""

NUMBERS, ROWS, SAID = "numbers.safetensors", "rows.json", "said.json"


@dataclass(frozen=True)
class Setup:
    """Where and in which format numbers were computed; the replay does it likewise."""

    device: str
    dtype: str
    """Of activations, as torch calls it."""


class Tolerance(NamedTuple):
    """How far apart two numbers may be, in nats or points of score."""

    most: float
    mean: float


TOLERANCES = {
    "float32": Tolerance(1e-3, 1e-4),
    # The last bit of a logit between 16 and 32 is worth 0.125 in bf16.
    "bfloat16": Tolerance(0.25, 0.03),
    "float16": Tolerance(0.05, 0.01),
}
"""Of the same weights in another program, by the format both compute in."""


@dataclass(frozen=True)
class Agreement:
    """How nearly two sides said the same about the same tokens."""

    conversations: int
    numbers: int
    """Tokens of answers, or scores."""
    most: float
    """Largest difference of a log-probability, in nats, or of a score."""
    mean: float
    kl: float | None
    """Of the second side's distribution from the first's, nats a token; None for scores."""
    top1: float | None
    """Share of tokens where both find the same one likeliest; None for scores."""
    order: float | None
    """Share of pairs of answers that both sides order alike; None for log-probabilities."""

    spread: float = 1.0
    """Standard deviation of the first side's scores, which have no unit of their own; 1 for log-probabilities."""

    def allowed(self, tolerance: Tolerance) -> Tolerance:
        """Give the tolerance in nats, or relative to how far scores are apart where that is more than a point."""
        scale = max(1.0, self.spread)
        return Tolerance(tolerance.most * scale, tolerance.mean * scale)

    def within(self, tolerance: Tolerance) -> bool:
        """Tell whether both sides are the same but for rounding; what is no number never is."""
        most, mean = self.allowed(tolerance)
        return self.most <= most and self.mean <= mean

    def as_json(self) -> dict[str, Any]:
        """Leave out what does not apply."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def conversations_of(store: Store, share: float = 0.1) -> list[Conversation]:
    """Choose held-out conversations of a workspace, no prompt twice, topped up where there are too few."""
    said: list[Conversation] = [(row.value.prompt, row.value.response) for row in store.demonstrations()]
    for row in store.comparisons():
        said.append((row.value.prompt, row.value.b if row.value.outcome is Outcome.B else row.value.a))
    heldout = {prompt_key(prompt): (prompt, text) for prompt, text in said if text and is_heldout(prompt, share)}
    # By hash: neither the oldest nor the newest, and the same ones each time.
    chosen = [heldout[key] for key in sorted(heldout)][:CONVERSATIONS]
    return chosen + list(SPARE[: CONVERSATIONS - len(chosen)])


@torch.no_grad()
def measure(base: Base, bank: AdapterBank, name: str, conversations: Iterable[Conversation], place: Path) -> Setup:
    """Write what the adapter in memory under `name` says, and what it was asked about, to `place`.

    That is written as tokens, and as messages where any reader's tokenizer should make the same tokens of them.
    """
    head = bank.heads.get(name)
    most = ANSWER_TOKENS if head is None else context_of(base) // 2
    asked = [(row, said) for said in conversations if (row := _row(base, said, most))]
    rows = [row for row, _ in asked]
    found = {}
    with bank.activate(name):
        for number, row in enumerate(rows):
            batch = collate([row], base.pad_id, base.device)
            if head is not None:
                found[str(number)] = sequence_scores(base, head, batch).float().cpu()
            else:
                hidden_TH = hidden_states(base, batch)[batch.predict_BL]
                found[str(number)] = base.logits_of(hidden_TH).float().log_softmax(-1).cpu().contiguous()
    save_file(found, place / NUMBERS)
    (place / ROWS).write_text(json.dumps(rows))
    (place / SAID).write_text(json.dumps([_messages(base, row, said, scored=head is not None) for row, said in asked]))
    return Setup(str(base.device), str(base.compute_dtype).removeprefix("torch."))


def _row(base: Base, said: Conversation, most: int) -> Row | None:
    """Encode a conversation, cut to what a check needs; None where the template refuses it."""
    try:
        answer = encode_response(base.tokenizer, said[1], base.eos_id)[:most]
        room = min(PROMPT_TOKENS, context_of(base) - len(answer))
        return Row(encode_prompt(base.tokenizer, said[0], room), answer)
    except DataError:
        return None


def _messages(base: Base, row: Row, said: Conversation, *, scored: bool) -> list[Message] | None:
    """Write a conversation as messages; None where its row was cut, or where we make rows by rules of our own.

    Those are for system turns, which not every template takes, for texts that hold control marks, and for the date.
    """
    (prompt, text), tokenizer = said, base.tokenizer
    odd = any(turn["role"] == "system" or has_marks(tokenizer, turn["content"]) for turn in prompt)
    if odd or has_marks(tokenizer, text) or (not scored and is_dated(tokenizer)):
        return None
    if encode_prompt(tokenizer, prompt) != row.prompt:
        return None
    if scored and encode_response(tokenizer, text, base.eos_id) != row.response:
        return None
    return [*prompt, {"role": "assistant", "content": text}]


def agreement(first: Path, second: Path, rows: Sequence[Sequence[list[int]]]) -> Agreement:
    """Compare two files of numbers about the same rows, a row at a time."""
    differences, kl, same, scores = [], 0.0, 0, []
    with safe_open(first, "numpy") as one, safe_open(second, "numpy") as other:
        for number, (_, answer) in enumerate(rows):
            p, q = one.get_tensor(str(number)), other.get_tensor(str(number))
            if p.ndim == 1:
                scores.append((float(p[0]), float(q[0])))
                differences.append(np.abs(p - q))
                continue
            taken = (np.arange(len(answer)), np.array(answer))
            differences.append(np.abs(p[taken] - q[taken]))
            kl += float((np.exp(p) * (p - q)).sum())
            same += int((p.argmax(-1) == q.argmax(-1)).sum())
    flat = np.concatenate(differences) if differences else np.array([np.nan])
    # NaN stays NaN, and is within no tolerance.
    most, mean, count = float(flat.max()), float(flat.mean()), len(flat)
    if scores:
        spread = float(np.std([score for score, _ in scores]))
        return Agreement(len(rows), count, most, mean, None, None, _same_order(scores), spread)
    return Agreement(len(rows), count, most, mean, kl / count, same / count, None)


def _same_order(scores: Sequence[tuple[float, float]]) -> float:
    """Share of neighbouring answers, sorted by the first side, that the second side sorts likewise."""
    pairs = list(pairwise(sorted(scores)))
    return sum(low[1] <= high[1] for low, high in pairs) / max(1, len(pairs))
