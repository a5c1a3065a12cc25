"""Token rows, and how they are cut into micro-batches. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Row(NamedTuple):
    """One prompt with one response, as token ids; the response carries its end mark if it has one."""

    prompt: list[int]
    response: list[int]

    @property
    def length(self) -> int:
        """Tokens of both together."""
        return len(self.prompt) + len(self.response)


class Batch(NamedTuple):
    """Rows padded on the right, and where their responses are."""

    ids_BL: Tensor
    attention_mask_BL: Tensor
    """True on real tokens."""
    predict_BL: Tensor
    """True where the *next* token is a response token: the positions whose logits and values count."""
    targets_T: Tensor
    """The response tokens of all rows, one row after the other."""
    last_B: Tensor
    """Index of the last real token of each row."""


def collate(rows: Sequence[Row], pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """Pad rows on the right into one batch; every row needs at least one prompt token."""
    length = max(row.length for row in rows)
    ids_BL = torch.full((len(rows), length), pad_id)
    attention_mask_BL = torch.zeros(len(rows), length, dtype=torch.bool)
    predict_BL = torch.zeros(len(rows), length, dtype=torch.bool)
    for b, row in enumerate(rows):
        ids_BL[b, : row.length] = torch.tensor(row.prompt + row.response)
        attention_mask_BL[b, : row.length] = True
        predict_BL[b, len(row.prompt) - 1 : row.length - 1] = True
    targets_T = torch.tensor([token for row in rows for token in row.response], dtype=torch.long)
    last_B = torch.tensor([row.length - 1 for row in rows])
    return Batch(*(tensor.to(device) for tensor in (ids_BL, attention_mask_BL, predict_BL, targets_T, last_B)))


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


@dataclass
class Budget:
    """How much goes through the base at a time; less takes less memory and gives the same numbers within rounding."""

    tokens: int
    """Padded tokens of a forward and backward pass, unless a single row is longer."""
    rows: int = 1
    """Answers drawn side by side."""
    breathe: Callable[[], None] = lambda: None
    """Called before every pass and after every decoded token; may raise to break off."""
    most_tokens: int = 0
    """Tokens of the largest pass since `begin`."""
    most_rows: int = 0
    """Rows of the pass with the most of them since `begin`."""
    most_drawn: int = 0
    """Answers drawn side by side at most since `begin`."""

    def begin(self) -> None:
        """Forget what passes were made so far."""
        self.most_tokens = self.most_rows = self.most_drawn = 0

    def cut(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Yield the micro-batches of rows of these lengths, as row indices."""
        for group in micro_batches(lengths, self.tokens):
            self.breathe()
            self.most_tokens = max(self.most_tokens, len(group) * lengths[group[0]])
            self.most_rows = max(self.most_rows, len(group))
            yield group

    def side_by_side(self, answers: int) -> int:
        """Tell how many of `answers` to draw side by side."""
        self.breathe()
        rows = max(1, min(answers, self.rows))
        self.most_drawn = max(self.most_drawn, rows)
        return rows

    def halve(self) -> str:
        """Make the next passes half as large as the largest was → what changed, in words.

        Empty where no pass can be smaller: each was of a single row.
        """
        if max(self.most_rows, self.most_drawn) == 1 or self.tokens == 1:
            return ""
        before = self.tokens, self.rows
        self.tokens = max(1, min(self.tokens, self.most_tokens or self.tokens) // 2)
        self.rows = max(1, min(self.rows, self.most_drawn or self.rows) // 2)
        words = [f"micro_batch_tokens {before[0]} → {self.tokens}"]
        if before[1] > self.rows:
            words.append(f"rollout_rows {before[1]} → {self.rows}")
        return ", ".join(words)


def pad_flat(flat_T: Tensor, lengths: Sequence[int]) -> Tensor:
    """Lay the values of consecutive rows [T] out as [B, R], zeros after each row's end."""
    return torch.nn.utils.rnn.pad_sequence(list(flat_T.split(list(lengths))), batch_first=True)


def mask_of(lengths: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return the mask [B, R] that is True on the first `lengths[b]` columns of row b."""
    lengths_B = torch.tensor(list(lengths), device=device)
    return torch.arange(int(lengths_B.max()), device=device) < lengths_B[:, None]
