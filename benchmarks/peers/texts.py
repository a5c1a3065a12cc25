"""Texts to train on, the same for both sides: a prompt, a better answer and a worse one, as long as real ones are."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers.workloads import BATCH, RANK, make_base

SHORTEST, LONGEST = 30, 200
"""Tokens of a prompt and an answer together."""
SEED = 0
"""Fixes the order of the rows, the weights of the adapter and those of the head."""


class Texts(NamedTuple):
    """One row."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class TextWork:
    """Training on texts: `sft` on the better answers, `reward` on the pairs."""

    stage: str
    base: str
    """Folder of the base model."""
    rows: list[Texts]

    def save(self, path: Path) -> Path:
        """Write it for the processes that do it."""
        path.write_text(json.dumps(asdict(self)))
        return path

    @classmethod
    def read(cls, path: str) -> TextWork:
        """Read what `save` wrote."""
        found = json.loads(Path(path).read_text())
        return cls(found["stage"], found["base"], [Texts(*row) for row in found["rows"]])

    def batches(self, steps: int) -> list[list[int]]:
        """List the rows of every step, in the order in which this project takes them."""
        from lorarlhf.train.order import batch_at

        return [batch_at(step, BATCH, len(self.rows), SEED) for step in range(steps)]


def make_texts(folder: Path, stage: str, rows: int = 12 * BATCH, **shape: int) -> TextWork:
    """Make a random base in `folder` and cut texts of all lengths from the starter's conversations."""
    from transformers import AutoTokenizer

    from lorarlhf import starter

    tokenizer = AutoTokenizer.from_pretrained(make_base(folder, **shape))
    rng = random.Random(SEED)
    words = " ".join(told.response for told in starter.transcripts()).split()
    made: list[Texts] = []
    while len(made) < rows:
        asked = _some(words, rng, rng.randint(8, 60))
        # Most answers are short, some long, as people write them.
        row = Texts(asked, *(_some(words, rng, round(rng.triangular(12, 120, 30))) for _ in range(2)))
        if all(SHORTEST <= count <= LONGEST for count in lengths(tokenizer, row)):
            made.append(row)
    return TextWork(stage, str(folder), made)


def _some(words: list[str], rng: random.Random, count: int) -> str:
    start = rng.randrange(len(words) - count)
    return " ".join(words[start : start + count])


def lengths(tokenizer: Any, row: Texts) -> tuple[int, int]:
    """Count the tokens of the prompt with the better answer, and with the worse one."""
    from lorarlhf.data.chat import encode_prompt, encode_response
    from lorarlhf.types import user

    asked = len(encode_prompt(tokenizer, user(row.prompt)))
    chosen, rejected = (
        asked + len(encode_response(tokenizer, answer, tokenizer.eos_token_id)) for answer in (row.chosen, row.rejected)
    )
    return chosen, rejected


def head_weight(hidden: int) -> Any:
    """Draw the weights that the head of both sides starts with → [1, H]."""
    import torch

    return torch.randn(1, hidden, generator=torch.Generator().manual_seed(SEED)) / (hidden + 1) ** 0.5


LORA = {"rank": RANK, "alpha": 2 * RANK}
