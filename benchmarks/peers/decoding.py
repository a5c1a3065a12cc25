"""The decoding both sides do, and how it is timed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

REPEATS = 2
"""The quickest counts: whatever else the machine does only ever makes it slower."""

Draw = Callable[[list[list[int]]], list[list[int]]]
"""Takes prompts, gives the tokens drawn for each."""


@dataclass(frozen=True)
class DecodeWork:
    """Answers of fixed length to random prompts."""

    base: str
    """Folder of the base model."""
    adapter: str
    """Folder of the adapter."""
    device: str
    prompt: int
    """Tokens of every prompt."""
    tokens: int
    """Tokens of every answer."""
    rows: list[int]
    """How many are drawn side by side: one measurement each."""

    @classmethod
    def read(cls, path: str) -> DecodeWork:
        """Read what `benchmarks.decode` wrote."""
        return cls(**json.loads(Path(path).read_text()))

    def prompts(self, rows: int, vocabulary: int) -> list[list[int]]:
        """Draw random prompts, the same on both sides."""
        words = torch.Generator().manual_seed(rows)
        found: list[list[int]] = torch.randint(8, vocabulary, (rows, self.prompt), generator=words).tolist()
        return found


def tokens_per_second(work: DecodeWork, vocabulary: int, draw: Draw) -> dict[str, float]:
    """Time every number of rows, prompts included, after one that warms up."""
    found = {}
    for rows in work.rows:
        prompts = work.prompts(rows, vocabulary)
        draw(prompts)
        seconds = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            drawn = draw(prompts)
            if work.device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
            if [len(answer) for answer in drawn] != [work.tokens] * rows:
                raise SystemExit(f"answers of {work.tokens} tokens were asked for, others came")
        found[str(rows)] = rows * work.tokens / min(seconds)
    return found
