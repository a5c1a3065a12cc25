"""What the stages share: the base with its adapters, rows made of text, the held-out split, adapters in and out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from lorarlhf.adapters import AdapterBank
from lorarlhf.base import Base
from lorarlhf.data.chat import encode_prompt, encode_response
from lorarlhf.data.tokens import Row
from lorarlhf.forward import context_of
from lorarlhf.train.team import Team
from lorarlhf.types import Prompt, is_heldout


class HasPrompt(Protocol):
    """Anything said about a prompt."""

    @property
    def prompt(self) -> Prompt:
        """The conversation it is about."""


P = TypeVar("P", bound=HasPrompt)


class Studio(NamedTuple):
    """Where a stage works: one base, its adapters, and the processes that share the work."""

    base: Base
    bank: AdapterBank
    team: Team

    def row(self, prompt: Prompt, response: str, max_length: int) -> Row:
        """Encode a prompt and its whole answer; the prompt gives way where both are too long, then the answer.

        Too long for `max_length`, or for the base: learned positions end there.
        """
        max_length = min(max_length, context_of(self.base))
        tokens = encode_response(self.base.tokenizer, response, self.base.eos_id)[: max_length - 1]
        return Row(encode_prompt(self.base.tokenizer, prompt, max_length - len(tokens)), tokens)

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


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put a name before every key."""
    return {f"{prefix}.{key}": value for key, value in tensors.items()}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the tensors whose key has the prefix, without it."""
    return {key[len(prefix) + 1 :]: value for key, value in tensors.items() if key.startswith(prefix + ".")}


class OneAdapterStage:
    """The bookkeeping of a stage that trains one adapter with one optimizer."""

    studio: Studio
    trained: str

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
        return prefixed("adapter", self.adapter()) | prefixed("optimizer", self.optimizer.state())  # type: ignore[attr-defined]

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put tensors of `tensors` back."""
        self.load_adapter(under("adapter", tensors))
        self.optimizer.load_state(under("optimizer", tensors))  # type: ignore[attr-defined]

    def state(self) -> dict:
        """Nothing besides tensors: everything else is a function of the step."""
        return {}

    def load_state(self, state: dict) -> None:
        """Nothing to put back."""
