"""How much answers repeat themselves and each other. Token ids or words in, shares out."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence

LONG, SHORT = 4, 2
"""Tokens of the n-grams that tell of repetition within an answer, and of variety over answers."""


def ngrams(tokens: Sequence[Hashable], n: int) -> Iterable[tuple[Hashable, ...]]:
    """Give every n tokens that stand together."""
    return (tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def repeated_share(tokens: Sequence[Hashable], n: int = LONG) -> float:
    """Return the share of an answer's n-grams that stood in it before (seq-rep-n, Welleck et al., arXiv 1908.04319)."""
    found = list(ngrams(tokens, n))
    return 1 - len(set(found)) / len(found) if found else 0.0


def distinct(answers: Iterable[Sequence[Hashable]], n: int = SHORT) -> float:
    """Return different n-grams of all answers, by how many there are (distinct-n, Li et al., arXiv 1510.03055)."""
    found = [gram for answer in answers for gram in ngrams(answer, n)]
    return len(set(found)) / len(found) if found else math.nan


def distinct_of_equal_length(
    before: Sequence[Sequence[Hashable]], after: Sequence[Sequence[Hashable]], n: int = SHORT
) -> tuple[float, float]:
    """Return distinct-n of both, each answer cut to the shorter of its prompt: long texts have a lower one anyway."""
    rooms = [min(len(old), len(new)) for old, new in zip(before, after, strict=True)]
    first, second = (
        distinct((answer[:room] for answer, room in zip(answers, rooms, strict=True)), n) for answers in (before, after)
    )
    return first, second
