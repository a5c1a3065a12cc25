"""What the stages share: the base with its adapters, rows made of text, the held-out split, adapters in and out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from lorarlhf.adapters import AdapterBank
from lorarlhf.algo.intervals import clearly_less
from lorarlhf.base import Base
from lorarlhf.data.chat import encode_prompt, encode_response
from lorarlhf.data.cutting import FIRST_PASSES, measured_every, passes_of, steps_of
from lorarlhf.data.tokens import Row
from lorarlhf.errors import DataError
from lorarlhf.forward import context_of
from lorarlhf.settings import RewardSettings, SFTSettings
from lorarlhf.train.optim import Group, Optimizer
from lorarlhf.train.order import batch_at
from lorarlhf.train.rates import suggested_rate, try_rates
from lorarlhf.train.team import Team
from lorarlhf.types import Prompt, is_heldout


class HasPrompt(Protocol):
    """Anything said about a prompt."""

    @property
    def prompt(self) -> Prompt:
        """The conversation it is about."""


P = TypeVar("P", bound=HasPrompt)

MOST_PASSES = 14
"""Passes over the examples of all cycles at most, where their number is left to us."""
GAIN = 1.5
"""Standard errors by which the held-out loss must have fallen in a cycle for another one."""
TRIED = 128
"""Examples of each kind (not seen yet, held out) that learning rates are compared on at most."""


class Studio(NamedTuple):
    """Where a stage works: one base, its adapters, and the processes that share the work."""

    base: Base
    bank: AdapterBank
    team: Team

    def row(self, prompt: Prompt, response: str, max_length: int) -> Row:
        """Encode a prompt and its whole answer; see `rows`."""
        return self.rows(prompt, [response], max_length)[0]

    def rows(self, prompt: Prompt, responses: Sequence[str], max_length: int) -> list[Row]:
        """Encode a prompt with several answers, all behind the same tokens.

        The prompt gives way where it and the longest answer are too long, down to half the room; then the answers.
        Too long for `max_length`, or for the base: learned positions end there.
        """
        max_length = min(max_length, context_of(self.base))
        encoded = [encode_response(self.base.tokenizer, text, self.base.eos_id) for text in responses]
        room = max(max_length // 2, max_length - max(len(tokens) for tokens in encoded))
        ids = encode_prompt(self.base.tokenizer, prompt, room)
        return [Row(ids, tokens[: max_length - len(ids)]) for tokens in encoded]

    @contextmanager
    def training(self, checkpointing: bool) -> Iterator[None]:
        """Let the base's layers recompute their activations in backward, if asked; dropout is 0 anyway."""
        model = self.base.model
        if not checkpointing:
            yield
            return
        # Newer transformers warn about the older pair of names.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
        enable({"use_reentrant": False, "preserve_rng_state": False})
        model.train()  # layers only checkpoint in train mode
        try:
            yield
        finally:
            model.eval()
            disable()


class Split(NamedTuple):
    """Examples to learn from and examples to measure on, apart by prompt."""

    train: list
    heldout: list


def split_by_prompt(examples: Iterable[P], share: float) -> Split:
    """Divide examples by the stable hash of their prompt, so that no prompt is on both sides."""
    split = Split([], [])
    for example in examples:
        (split.heldout if is_heldout(example.prompt, share) else split.train).append(example)
    return split


class Encoded(NamedTuple):
    """Examples as token rows, and what was left out."""

    rows: list
    refused: list[str]
    """Why the base's chat template refused an example, one line each."""

    def words(self, kind: str) -> list[str]:
        """Say what was left out; nothing where nothing was."""
        if not self.refused:
            return []
        return [f"left out {len(self.refused)} of {len(self.rows) + len(self.refused)} {kind}: {self.refused[0]}"]


def encode_all(examples: Iterable[P], encode: Callable[[P], Any]) -> Encoded:
    """Encode examples one by one; one that the chat template refuses does not stop the others."""
    found = Encoded([], [])
    for example in examples:
        try:
            found.rows.append(encode(example))
        except DataError as error:
            begins = " ".join(example.prompt[0]["content"].split())[:40] if example.prompt else ""
            found.refused.append(f"the conversation that begins “{begins}”: {error}")
    return found


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put a name before every key."""
    return {f"{prefix}.{key}": value for key, value in tensors.items()}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the tensors whose key has the prefix, without it."""
    return {key[len(prefix) + 1 :]: value for key, value in tensors.items() if key.startswith(prefix + ".")}


class OneAdapterStage:
    """What stages share that train one adapter on examples: passes over them, learning rates, state.

    With `epochs = auto` a run is a cycle of cosine decay over two passes, and as long as the held-out loss fell in a
    cycle by more than chance explains, another one twice as long follows (warm restarts: arXiv 1608.03983).
    """

    studio: Studio
    trained: str
    settings: SFTSettings | RewardSettings
    optimizer: Optimizer
    total: int
    eval_every: int
    left_out: list[str]
    """What examples were left out and why, in words."""

    def plan_steps(self, examples: int) -> None:
        """Set out the steps of a run over so many examples, and the optimizer."""
        s = self.settings
        self.examples = examples
        self.rate = suggested_rate(self.studio.base.hidden_size) if s.learning_rate == "auto" else s.learning_rate
        self.cycle, self.total = 0, steps_of(passes_of(s.epochs), s.batch_size, examples)
        self.eval_every = measured_every(s.eval_every, self.total)
        self.cycle_losses: list[float] = []
        group = Group(self.trained, self.studio.bank.parameters(self.trained), self.rate)
        self.optimizer = Optimizer([group], s, self.studio.team)

    def update(self, index: int) -> dict[str, float]:
        """Take the optimizer's step within its cycle."""
        return self.optimizer.step(index - self.cycle, self.total - self.cycle)

    def prepare(self) -> list[str]:
        """Choose the learning rate where that is left to us → what was found, in words."""
        if self.settings.learning_rate != "auto":
            return self.left_out
        found = try_rates(self)
        self._set_rate(found.rate)
        return [*self.left_out, found.words]

    def step(self, index: int) -> dict[str, float]:
        """Make one optimizer step."""
        raise NotImplementedError

    def trial_losses(self, used: int) -> list[float]:
        """Measure some examples, each by itself, that the first `used` steps have not seen; always the same ones."""
        raise NotImplementedError

    def unseen(self, used: int) -> list[int]:
        """List some examples that the first `used` steps do not touch."""
        s = self.settings
        seen = {i for step in range(used) for i in batch_at(step, s.batch_size, self.examples, s.seed)}
        return [i for i in range(self.examples) if i not in seen][:TRIED]

    def extend(self, step: int, losses: list[float]) -> str:
        """Add another cycle where the one that ended at `step` lowered the held-out losses → that, in words."""
        if self.settings.epochs != "auto" or step not in (0, self.total):
            return ""
        before, self.cycle_losses = self.cycle_losses, losses
        length = (
            steps_of(2 * FIRST_PASSES, self.settings.batch_size, self.examples)
            if not self.cycle
            else 2 * (self.total - self.cycle)
        )
        most = steps_of(MOST_PASSES, self.settings.batch_size, self.examples)
        if not before or self.total + length > most or not clearly_less(losses, before, GAIN):
            return ""
        self.cycle, self.total = self.total, self.total + length
        return f"the held-out loss still fell, so {length} more steps follow"

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.studio.base.device

    def remarks(self) -> list[str]:
        """Nothing a person should know that the numbers do not say."""
        return []

    def adapter(self) -> dict[str, Tensor]:
        """Return the tensors of the adapter being trained."""
        return self.studio.bank.state(self.trained)

    def load_adapter(self, tensors: dict[str, Tensor]) -> None:
        """Put tensors of `adapter` back."""
        self.studio.bank.load_state(self.trained, tensors)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor the next step depends on."""
        return prefixed("adapter", self.adapter()) | prefixed("optimizer", self.optimizer.state())

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put tensors of `tensors` back."""
        self.load_adapter(under("adapter", tensors))
        self.optimizer.load_state(under("optimizer", tensors))

    def state(self) -> dict[str, Any]:
        """Return the learning rate that was chosen and where the cycles of the run stand."""
        rate = {"now": self.rate, "asked": self.settings.learning_rate}
        cycle = {"start": self.cycle, "total": self.total, "losses": self.cycle_losses, "asked": self.settings.epochs}
        return {"rate": rate, "cycle": cycle}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put the numbers of `state` back; what was set anew since stays."""
        if state["rate"]["asked"] == self.settings.learning_rate:
            self._set_rate(state["rate"]["now"])
        if state["cycle"]["asked"] == self.settings.epochs:
            self.cycle, self.total = state["cycle"]["start"], state["cycle"]["total"]
            self.cycle_losses = state["cycle"]["losses"]

    def _set_rate(self, rate: float) -> None:
        self.rate = self.optimizer.groups[0].learning_rate = rate
