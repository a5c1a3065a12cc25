"""How examples are cut into steps and micro-batches. Knows no tensors, so that a plan can cut them the same way."""

from __future__ import annotations

import math
from collections.abc import Sequence


def micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut rows into groups whose padded size stays within `budget` tokens → row indices, longest rows first.

    Neighbours in length share a group, so little is padding. A row longer than the budget gets a group of its own.
    """
    groups: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if room == 0:
            groups.append([])
            room = max(1, budget // max(1, lengths[index]))
        groups[-1].append(index)
        room -= 1
    return groups


def steps_of(epochs: float, batch_size: int, length: int) -> int:
    """Return how many batches of at most `batch_size` make `epochs` passes over `length` examples, at least one."""
    return max(1, math.ceil(epochs * length / min(batch_size, length)))
