"""What estimates, token by token, how much reward is still to come.

Two kinds. `HeadCritic` is a small network that reads the hidden states of the reward adapter: those are computed once,
in the pass that scores the answers, and no gradient goes through the base. `AdapterCritic` is an adapter of its own,
which costs a pass without and one with gradient for each of PPO's, and Adam's moments of a whole adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lorarlhf.data.cutting import Budget
from lorarlhf.data.tokens import Batch, Row
from lorarlhf.errors import TrainingError
from lorarlhf.forward import map_tokens, read_head, response_states, response_values
from lorarlhf.train.common import Studio

WIDTH = 256
"""Units of the hidden layer of a `HeadCritic`."""


class Seen(NamedTuple):
    """What a critic says of some rows, on the CPU."""

    values: list[Tensor]
    """Per row [R]: the value of every state a response token was chosen in."""
    states: list[Tensor]
    """Per row [R + 1, H]: the hidden states it read, and that of the last token; empty where it keeps none."""


class Critic(Protocol):
    """Something with values that learns them."""

    @property
    def adapter(self) -> str | None:
        """What must be active while it learns; None where the base has no part in it."""

    def look(self, rows: Sequence[Row], budget: Budget) -> Seen:
        """Value the states of all rows, without gradient."""

    def values(self, batch: Batch, states_TH: Tensor | None) -> Tensor:
        """Value the states of a batch anew, with gradient → [T]; `states_TH` are those it kept."""

    def parameters(self) -> list[nn.Parameter]:
        """List what learns."""

    def state(self) -> dict[str, Tensor]:
        """Return its tensors; not copies."""

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put tensors of `state` back."""


class AdapterCritic:
    """An adapter with a scalar head."""

    def __init__(self, studio: Studio, adapter: str) -> None:
        self.studio, self.adapter = studio, adapter

    def look(self, rows: Sequence[Row], budget: Budget) -> Seen:
        """Value the states of all rows in passes of its own."""
        with self.studio.bank.activate(self.adapter):
            return Seen(map_tokens(self.studio.base, rows, budget, lambda batch: self.values(batch, None)), [])

    def values(self, batch: Batch, states_TH: Tensor | None) -> Tensor:
        """Value the states of a batch in a pass of its own → [T]."""
        return response_values(self.studio.base, self.studio.bank.heads[self.adapter], batch)

    def parameters(self) -> list[nn.Parameter]:
        """List adapter and head."""
        return self.studio.bank.parameters(self.adapter)

    def state(self) -> dict[str, Tensor]:
        """Return adapter and head."""
        return self.studio.bank.state(self.adapter)

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put adapter and head back."""
        self.studio.bank.load_state(self.adapter, tensors)


class HeadCritic:
    """A linear head on the states of a frozen adapter, and a correction with one hidden layer; both start at 0."""

    adapter = None

    def __init__(self, studio: Studio, source: str, seed: int = 0) -> None:
        self.studio, self.source = studio, source
        width, device = studio.base.hidden_size, studio.base.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            last = nn.Linear(WIDTH, 1)
            correction, head = nn.Sequential(nn.Linear(width, WIDTH), nn.GELU(), last), nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        # Not the reward's own head: that was trained at the ends of answers, and elsewhere says nothing of the value.
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self.network = nn.ModuleDict({"head": head, "correction": correction}).to(device)

    def look(self, rows: Sequence[Row], budget: Budget) -> Seen:
        """Read the hidden states of all rows and value them."""
        base = self.studio.base
        with self.studio.bank.activate(self.source):
            states = map_tokens(base, rows, budget, lambda batch: response_states(base, batch), extra=1)
        with torch.no_grad():
            return Seen([self._read(found[:-1].to(base.device)).cpu() for found in states], states)

    def values(self, batch: Batch, states_TH: Tensor | None) -> Tensor:
        """Value kept states anew → [T]."""
        assert states_TH is not None
        return self._read(states_TH)

    def _read(self, states_TH: Tensor) -> Tensor:
        states_TH = states_TH.float()
        corrections_T1: Tensor = self.network["correction"](states_TH)
        return read_head(self.network["head"], states_TH) + corrections_T1.squeeze(-1)  # type: ignore[arg-type]

    def parameters(self) -> list[nn.Parameter]:
        """List head and correction."""
        return list(self.network.parameters())

    def state(self) -> dict[str, Tensor]:
        """Return head and correction."""
        return {key: tensor.detach() for key, tensor in self.network.state_dict().items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put head and correction back; raise `TrainingError` for tensors of another kind of critic."""
        mine = self.state()
        if mine.keys() != tensors.keys() or any(mine[key].shape != tensors[key].shape for key in mine):
            raise TrainingError(
                "the checkpoint holds another kind of critic; start again, or go on with its own version"
            )
        self.network.load_state_dict(tensors)
