"""The engine: one base in memory for its whole life, the adapters on it, and the workspace it serves.

Terminal and app call the same methods. Adapters come from disk when a job needs them and leave when it ends; the
base is loaded once, on first use, and never again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from lorarlhf.adapters import AdapterBank
from lorarlhf.base import Base, load_base
from lorarlhf.checkpoints import find_adapter
from lorarlhf.data.cutting import Budget
from lorarlhf.errors import AdapterError
from lorarlhf.forward import context_of, map_sequences, sequence_scores
from lorarlhf.hardware import free_bytes
from lorarlhf.library import BARE, SavedAdapter
from lorarlhf.sampling import Completion, OnStep, generate
from lorarlhf.settings import LoadSettings, SamplingSettings
from lorarlhf.store import Store
from lorarlhf.train.common import Studio
from lorarlhf.train.team import Team
from lorarlhf.types import Prompt
from lorarlhf.workspace import Workspace

if TYPE_CHECKING:
    from lorarlhf.plan.planning import Probed

KEPT = 3
"""Adapters that stay in memory between jobs that only read them."""


class Engine:
    """A base, its adapters, and a workspace."""

    def __init__(
        self, workspace: Workspace, load: LoadSettings, progress: Callable[[str, float], None] | None = None
    ) -> None:
        self.workspace = workspace.open()
        self.load_settings = load
        self._progress = progress
        self._kept: dict[str, dict[str, str]] = {}
        """Adapters that stay in memory after use → the hashes of their files, the newest last."""
        self.probes: dict[str, Probed] = {}
        """What probes found, by what they depend on."""

    @cached_property
    def store(self) -> Store:
        """The workspace's database."""
        return self.workspace.store()

    @cached_property
    def base(self) -> Base:
        """The frozen base, loaded on first use."""
        base = load_base(self.load_settings, self._progress)
        self.store.belong(str(base.identity["fingerprint"]))
        return base

    @cached_property
    def bank(self) -> AdapterBank:
        """The adapters on the base."""
        return AdapterBank(self.base)

    @cached_property
    def studio(self) -> Studio:
        """Base, adapters and team, as the stages want them."""
        return Studio(self.base, self.bank, Team(self.base.device))

    def saved(self, name: str) -> SavedAdapter:
        """Read the card of an adapter of this workspace, or of a checkpoint, RUN@STEP."""
        return find_adapter(self.store, self.workspace, name)

    @contextmanager
    def borrowed(self, name: str) -> Iterator[str | None]:
        """Have a saved adapter in memory → its name in the bank, None for the bare base.

        The last few stay there: whoever rates draws from the same one or two all evening.
        """
        if name in ("", BARE):
            yield None
            return
        saved = self.saved(name)
        hashes = saved.card["hashes"]
        if self._kept.get(name) != hashes:
            self._let_go([name] if name in self._kept else list(self._kept)[: len(self._kept) + 1 - KEPT])
            self.bank.load(name, saved.path, frozen=True)
        self._kept[name] = self._kept.pop(name, hashes)
        yield name

    def _let_go(self, names: Iterable[str]) -> None:
        for name in names:
            del self._kept[name]
            self.bank.delete(name)

    @contextmanager
    def cleared(self) -> Iterator[None]:
        """Give a block the memory of the adapters that were only kept, and forget in the end those it brought."""
        self._let_go(list(self._kept))
        before = set(self.bank.names)
        try:
            yield
        finally:
            for name in [name for name in self.bank.names if name not in before]:
                self.bank.delete(name)

    def generate(
        self,
        prompts: Sequence[Prompt],
        n: int,
        sampling: SamplingSettings,
        adapter: str = "",
        on_step: OnStep | None = None,
    ) -> list[list[Completion]]:
        """Draw `n` answers to each prompt with an adapter, or with the bare base."""
        with self.borrowed(adapter) as name, self.bank.drawing(name):
            return generate(self.base, prompts, n, sampling, on_step=on_step)

    def score(self, adapter: str, answers: Sequence[tuple[Prompt, str]], tokens: int = 2048) -> list[float]:
        """Score answers to prompts with a reward adapter."""
        if not self.saved(adapter).has_head:
            raise AdapterError(f"adapter {adapter} is no reward model; train one first")
        rows = [self.studio.row(prompt, response, context_of(self.base)) for prompt, response in answers]
        with self.borrowed(adapter) as name, self.bank.activate(name):
            head = self.bank.heads[adapter]
            scores_B = map_sequences(
                self.base, rows, Budget(tokens), lambda batch: sequence_scores(self.base, head, batch)
            )
        return [float(score) for score in scores_B]

    def describe(self) -> dict[str, Any]:
        """Say what is in memory: base, adapters, bytes; on a card of its own also what is free there, and its size."""
        report, device = self.base.report, self.base.device
        card = {}
        if device.type in ("cuda", "xpu"):
            total = getattr(torch, device.type).mem_get_info(device)[1]
            card = {"free_bytes": free_bytes(device), "total_bytes": total}
        return {
            **card,
            "base": self.base.identity,
            "device": str(device),
            "compute": str(self.base.compute_dtype).removeprefix("torch."),
            "base_bytes": report.bytes_on_device,
            "adapters": {name: self.bank.bytes_of(name) for name in self.bank.names},
        }
