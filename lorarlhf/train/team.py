"""One process or several (`accelerate launch`): who does which rows, and how sums are taken.

Only adapters are trained, a few million numbers, so gradients are summed once per optimizer step instead of
wrapping the model; every process then makes the same update.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from torch import Tensor, nn

T = TypeVar("T")


class Team:
    """The processes of a run."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._state = PartialState(cpu=torch.device(device).type == "cpu")

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return int(self._state.process_index)

    @property
    def size(self) -> int:
        """How many processes there are."""
        return int(self._state.num_processes)

    @property
    def is_main(self) -> bool:
        """True in the one process that writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Take this process's part of a list that all processes hold."""
        return list(items[self.rank :: self.size])

    def gather(self, mine: list[T]) -> list[T]:
        """Put the parts that `share` dealt out together again, in the original order, in every process."""
        if self.size == 1:
            return mine
        parts: list[list[T]] = gather_object([mine])
        longest = max(len(part) for part in parts)
        return [part[i] for i in range(longest) for part in parts if i < len(part)]

    def broadcast(self, item: T) -> T:
        """Give every process the main one's item."""
        if self.size == 1:
            return item
        box = [item]
        broadcast_object_list(box)
        return box[0]

    def sum(self, values: Tensor) -> Tensor:
        """Add a tensor up over all processes."""
        return values if self.size == 1 else reduce(values, "sum")

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add the gradients up over all processes, in place."""
        if self.size == 1:
            return
        owners = [p for p in parameters if p.requires_grad]
        for parameter in owners:
            if parameter.grad is None:  # a process without rows takes part with zeros
                parameter.grad = torch.zeros_like(parameter)
        flat = self.sum(torch.cat([p.grad.flatten() for p in owners if p.grad is not None]))
        for parameter, part in zip(owners, flat.split([p.numel() for p in owners]), strict=True):
            parameter.grad = part.view_as(parameter).clone()
