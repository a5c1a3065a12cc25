"""Take a stage from its first step to its last: measure, keep the best, checkpoint, pause, resume.

Knows neither which stage it drives nor where the numbers go.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lorarlhf.errors import RunPaused, TrainingError
from lorarlhf.hardware import release_memory
from lorarlhf.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from lorarlhf.train.common import prefixed, under
from lorarlhf.train.team import Team

Metrics = dict[str, float]


class Evaluation(NamedTuple):
    """A measurement on held-out prompts."""

    metrics: Metrics
    quality: float
    """What the best adapter is chosen by; higher is better."""


class StageDone(Exception):  # noqa: N818 - not an error: the stage has reached its end early
    """Raised by a step that must be the last; says why, and what the step measured."""

    def __init__(self, why: str, metrics: Metrics) -> None:
        super().__init__(why)
        self.metrics = metrics


class Stage(Protocol):
    """One training algorithm, a step at a time. All randomness is a function of the seed and the step."""

    total: int
    eval_every: int
    trained: str
    """The adapter this stage is for."""

    def step(self, index: int) -> Metrics:
        """Make one optimizer step."""

    def evaluate(self) -> Evaluation | None:
        """Measure on held-out prompts; None when there are none."""

    def finish(self) -> Metrics:
        """Put the last touches on the chosen adapter; return its final measurements."""

    def adapter(self) -> dict[str, Tensor]:
        """Return the tensors of the adapter being trained."""

    def load_adapter(self, tensors: dict[str, Tensor]) -> None:
        """Put tensors of `adapter` back."""

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor the next step depends on."""

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put tensors of `tensors` back."""

    def state(self) -> dict[str, Any]:
        """Return every other number the next step depends on, as JSON."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Put the numbers of `state` back."""


class Journal(Protocol):
    """Where a run is written down."""

    def metrics(self, step: int, metrics: Metrics) -> None:
        """Record numbers of a step."""

    def event(self, step: int, text: str) -> None:
        """Record that something happened, in words."""

    def progress(self, step: int, total: int, metrics: Metrics) -> None:
        """Show how far the run is."""


@dataclass
class Best:
    """The best adapter so far."""

    quality: float = -math.inf
    step: int = -1
    adapter: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Loop:
    """A stage on its way."""

    stage: Stage
    journal: Journal
    team: Team
    folder: Path
    checkpoint_every: int
    paused: Callable[[], bool] = lambda: False
    best: Best = field(default_factory=Best)
    next_step: int = 0

    def run(self) -> Metrics:
        """Make all remaining steps; leave the best adapter in memory and return its measurements.

        Raises `RunPaused` after saving when `paused` says so between two steps.
        """
        if self.next_step == 0:
            # Whoever reads the rows later can tell how far it is.
            self.journal.metrics(0, {"run/steps": float(self.stage.total)})
            self._evaluate(0)
        try:
            while self.next_step < self.stage.total:
                self._one_step()
        except StageDone as done:
            self.next_step += 1
            self.journal.metrics(self.next_step, done.metrics)
            self.journal.event(self.next_step, str(done))
        if self.best.adapter:
            self.stage.load_adapter(self.best.adapter)
            self.journal.event(
                self.next_step, f"kept the adapter of step {self.best.step}, the best on held-out prompts"
            )
        metrics = self.stage.finish()
        self.journal.metrics(self.next_step, metrics)
        return metrics

    def _one_step(self) -> None:
        index, began = self.next_step, time.perf_counter()
        metrics = self.stage.step(index)
        if bad := [name for name, value in metrics.items() if not math.isfinite(value)]:
            raise TrainingError(f"step {index}: {bad[0]} is {metrics[bad[0]]}; start again with a lower learning_rate")
        metrics["time/step"] = time.perf_counter() - began
        release_memory()
        self.next_step = index + 1
        self.journal.metrics(self.next_step, metrics)
        last = self.next_step == self.stage.total
        if last or self.next_step % self.stage.eval_every == 0:
            metrics |= self._evaluate(self.next_step)
        self.journal.progress(self.next_step, self.stage.total, metrics)
        pausing = self.team.broadcast(self.paused())
        if pausing or (self.checkpoint_every and self.next_step % self.checkpoint_every == 0 and not last):
            self.save()
        if pausing and not last:
            raise RunPaused(f"paused after step {self.next_step} of {self.stage.total}; everything is saved")

    def _evaluate(self, step: int) -> Metrics:
        evaluation = self.stage.evaluate()
        if evaluation is None:
            return {}
        self.journal.metrics(step, evaluation.metrics)
        if evaluation.quality > self.best.quality:
            adapter = {key: value.detach().cpu().clone() for key, value in self.stage.adapter().items()}
            self.best = Best(evaluation.quality, step, adapter)
        return evaluation.metrics

    def save(self) -> None:
        """Write a checkpoint of this moment."""
        if not self.team.is_main:
            return
        tensors = prefixed("stage", self.stage.tensors()) | prefixed("best", self.best.adapter)
        quality = self.best.quality if self.best.adapter else None
        state = {"stage": self.stage.state(), "best": {"quality": quality, "step": self.best.step}}
        save_checkpoint(self.folder, Checkpoint(self.next_step, tensors, state))

    def restore(self) -> None:
        """Go back to the newest checkpoint; raise `TrainingError` when there is none."""
        step, tensors, state = load_checkpoint(self.folder)
        self.next_step = step
        self.stage.load_tensors(under("stage", tensors))
        self.stage.load_state(state["stage"])
        if state["best"]["quality"] is not None:
            self.best = Best(state["best"]["quality"], state["best"]["step"], under("best", tensors))


def permutation(length: int, seed: int, epoch: int) -> list[int]:
    """Return the order of the examples in one epoch: a function of seed and epoch alone."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(length, generator=generator).tolist()


def batch_at(index: int, batch_size: int, length: int, seed: int) -> list[int]:
    """Return the examples of optimizer step `index`: an endless walk through one permutation after another.

    A batch is never larger than the data: then every batch is one whole pass.
    """
    size = min(batch_size, length)
    walk: list[int] = []
    position = index * size
    while len(walk) < size:
        epoch, offset = divmod(position, length)
        taken = permutation(length, seed, epoch)[offset : offset + size - len(walk)]
        walk += taken
        position += len(taken)
    return walk
