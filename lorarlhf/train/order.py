"""Which examples each step works on: a function of seed and step alone, so that a resumed run sees the same."""

from __future__ import annotations

import torch


def permutation(length: int, seed: int, epoch: int) -> list[int]:
    """Return the order of the examples in one epoch: a function of seed and epoch alone."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(length, generator=generator).tolist()


def batch_at(index: int, batch_size: int, length: int, seed: int) -> list[int]:
    """Return the examples of optimizer step `index`; a batch is never larger than the data, but one whole pass."""
    return walk_at(index, min(batch_size, length), length, seed)


def walk_at(index: int, size: int, length: int, seed: int) -> list[int]:
    """Return stretch `index` of an endless walk through one permutation after another, `size` examples long."""
    walk: list[int] = []
    position = index * size
    while len(walk) < size:
        epoch, offset = divmod(position, length)
        taken = permutation(length, seed, epoch)[offset : offset + size - len(walk)]
        walk += taken
        position += len(taken)
    return walk
