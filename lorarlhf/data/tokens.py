"""Token rows, and the batches they are put into. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
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
    shared: tuple[tuple[int, int], ...]
    """Per row an earlier one (or itself) that begins with the same prompt, and the tokens they share (or 0)."""


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
    return Batch(
        ids_BL.to(device),
        attention_mask_BL.to(device),
        predict_BL.to(device),
        targets_T.to(device),
        last_B.to(device),
        tuple((first, tokens * (first != b)) for b, (first, tokens) in enumerate(prompts_of(rows))),
    )


def prompts_of(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Give for each row the first one with the same prompt, maybe itself, and the prompt's tokens."""
    first: dict[tuple[int, ...], int] = {}
    return [(first.setdefault(tuple(row.prompt), b), len(row.prompt)) for b, row in enumerate(rows)]


def pad_flat(flat_T: Tensor, lengths: Sequence[int]) -> Tensor:
    """Lay the values of consecutive rows [T] out as [B, R], zeros after each row's end."""
    return torch.nn.utils.rnn.pad_sequence(list(flat_T.split(list(lengths))), batch_first=True)


def mask_of(lengths: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return the mask [B, R] that is True on the first `lengths[b]` columns of row b."""
    lengths_B = torch.tensor(list(lengths), device=device)
    return torch.arange(int(lengths_B.max()), device=device) < lengths_B[:, None]
