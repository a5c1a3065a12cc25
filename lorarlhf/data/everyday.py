"""Two hundred everyday questions of our own, for whoever brings a model and nothing to ask it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lorarlhf.types import Prompt, user


@cache
def everyday() -> tuple[Prompt, ...]:
    """Return the questions, one prompt each."""
    lines = (Path(__file__).parent / "everyday.txt").read_text(encoding="utf-8").splitlines()
    return tuple(user(line) for line in lines if line.strip())
