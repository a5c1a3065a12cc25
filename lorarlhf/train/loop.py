"""Take a stage from its first step to its last: measure, keep the best, checkpoint, pause, resume.

Knows neither which stage it drives nor where the numbers go.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

import torch
from torch import Tensor

from lorarlhf.algo.intervals import clearly_less
from lorarlhf.data.cutting import Budget
from lorarlhf.errors import LoraRlhfError, RunPaused, StoreError, TrainingError
from lorarlhf.files import folder_bytes, size
from lorarlhf.hardware import is_out_of_memory, make_room, release_memory
from lorarlhf.train.checkpoint import (
    KEEP,
    Checkpoint,
    Found,
    find_checkpoint,
    forget_checkpoints,
    has_checkpoint,
    save_checkpoint,
)
from lorarlhf.train.common import prefixed, under
from lorarlhf.train.rollout import Rollout
from lorarlhf.train.team import Team

T = TypeVar("T")
Metrics = dict[str, float]


class Evaluation(NamedTuple):
    """A measurement on held-out prompts."""

    metrics: Metrics
    quality: float
    """What the best adapter is chosen by; higher is better. −∞: not to be kept."""
    each: Sequence[float] = ()
    """The quality of each example it is the mean of, for paired comparisons; same examples in the same order."""
    answers: Rollout | None = None
    """What was drawn to measure it, if anything was."""


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
    budget: Budget
    """How much it may put through the base at a time; it breathes there."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def prepare(self) -> list[str]:
        """Do what comes once, before the first step → what a person should know of it, in words."""

    def step(self, index: int) -> Metrics:
        """Make one optimizer step."""

    def extend(self, step: int, losses: list[float]) -> str:
        """Make `total` larger where the losses of the examples after `step` ask for it → that, in words."""

    def evaluate(self) -> Evaluation | None:
        """Measure on held-out prompts; None when there are none."""

    def finish(self) -> Metrics:
        """Put the last touches on the chosen adapter; return its final measurements."""

    def remarks(self) -> list[str]:
        """Return what a person should know about the step just made, in words; most often nothing."""

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

    def heldout(self, step: int, answers: Rollout) -> None:
        """Record answers to held-out prompts."""


@dataclass
class Best:
    """The adapter with the best measurement so far."""

    quality: float = -math.inf
    step: int = -1
    each: list[float] = field(default_factory=list)
    adapter: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Latest:
    """The latest measurement."""

    quality: float = -math.inf
    step: int = -1
    each: list[float] = field(default_factory=list)


class _PauseAsked(Exception):  # noqa: N818 - not an error
    """Somebody wants the run to stop; breaks off whatever it is at."""


class _NotANumber(TrainingError):  # noqa: N818 - says what happened
    """A step measured something that is no finite number."""


class Moment(NamedTuple):
    """All that the next step depends on, copied to the CPU."""

    step: int
    measured: int
    ended: bool
    tensors: dict[str, Tensor]
    state: dict[str, Any]


@dataclass
class Loop:
    """A stage on its way. Every step and every measurement happens as a whole, or not at all.

    Broken off in the middle, by a wish to pause or for want of memory, it leaves the stage as it found it. Several
    processes must agree on such things, which they only can between two steps: there a pause waits for the step's
    end, and a process that runs out of memory ends the run.
    """

    stage: Stage
    journal: Journal
    team: Team
    folder: Path
    checkpoint_every: int
    paused: Callable[[], bool] = lambda: False
    on_saved: Callable[[int], object] = lambda step: None
    """Told, by the main process, after which step the weights that are in memory are worth keeping by themselves."""
    best: Best = field(default_factory=Best)
    latest: Latest = field(default_factory=Latest)
    next_step: int = 0
    measured: int = -1
    """The latest step that was measured on held-out prompts."""
    ended: bool = False
    """Whether the stage has reached its end early."""
    prepared: bool = False
    """Whether what comes before the first step is done."""

    def __post_init__(self) -> None:
        self._earlier: Moment | None = None
        """Before the latest step that went well: what one too large has spoilt, only the next one shows."""
        self._asked = [self.stage.budget.tokens, self.stage.budget.rows]

    def run(self) -> Metrics:
        """Make all remaining steps; leave the best adapter in memory and return its measurements.

        Raises `RunPaused` after saving when `paused` says so, within the time of a micro-batch, and `TrainingError`
        when the run must not go on; it stands saved as it was before the step that went wrong.
        """
        self.stage.budget.breathe = self._breathe
        # Whoever reads the rows later can tell how far it is.
        self.journal.metrics(0, {"run/steps": float(self.stage.total)})
        self._prepare()
        self._measure()
        while not self.ended and self.next_step < self.stage.total:
            metrics = self._step() | self._measure()
            self.journal.progress(self.next_step, self.stage.total, metrics)
            over = self.ended or self.next_step == self.stage.total
            if self.checkpoint_every and self.next_step % self.checkpoint_every == 0 and not over:
                self.save()
        self._keep_last()
        try:
            metrics = self._whole("the last measurement", self._finish)
        except _NotANumber as error:
            self._leave_spoilt(error)
        if self.best.adapter:
            self.journal.event(self.next_step, self._why_kept())
        # Not a measurement of the last step, so no row: it is the run's result.
        return metrics

    @property
    def kept_step(self) -> int:
        """The step whose adapter the run keeps.

        The last stands unless an earlier one is better on held-out examples by more than chance explains: picking the
        best of several noisy measurements would often pick an adapter that has learned less.
        """
        last = self.latest
        stands = not self.ended and last.step == self.next_step and last.quality > -math.inf
        if not self.best.adapter or (stands and not clearly_less(last.each, self.best.each)):
            return self.next_step
        return self.best.step

    def _why_kept(self) -> str:
        kept, count = self.kept_step, len(self.best.each)
        if kept == self.best.step == self.next_step:
            why = "the best on test prompts"
        elif kept == self.next_step:
            unclear = f"step {self.best.step} was not better by more than chance explains on {count} test examples"
            why = f"the last: {unclear}"
        elif kept == 0:
            why = "before training, because no later step was better on test prompts"
        else:
            why = "the best on test prompts"
        return f"saved step {kept}, {why}"

    def _prepare(self) -> None:
        """Let the stage prepare, unless the run goes on from a checkpoint made later."""
        if self.next_step or self.prepared:
            return
        said = self._whole("the preparation", self.stage.prepare)
        self.prepared = True
        for text in said:
            self.journal.event(0, text)

    def _step(self) -> Metrics:
        began = time.perf_counter()
        index = self.next_step
        try:
            metrics, why = self._whole(f"step {index + 1}", lambda: self._one_step(index))
        except _NotANumber as error:
            self._leave_spoilt(error)
        self.next_step, self.ended = index + 1, bool(why)
        metrics["time/step"] = time.perf_counter() - began
        release_memory()
        self.journal.metrics(self.next_step, metrics)
        if why:
            self.journal.event(self.next_step, why)
        for remark in self.stage.remarks():
            self.journal.event(self.next_step, remark)
        return metrics

    def _one_step(self, index: int) -> tuple[Metrics, str]:
        """Make a step → its measurements, and why it was the last one where it was."""
        why = ""
        try:
            metrics = self.stage.step(index)
        except StageDone as done:
            metrics, why = done.metrics, str(done)
        self._check_numbers(f"step {index + 1}", metrics)
        return metrics, why

    def _check_numbers(self, what: str, metrics: Metrics) -> None:
        if bad := [name for name, value in metrics.items() if not math.isfinite(value)]:
            raise _NotANumber(
                f"{what}: {bad[0]} is {metrics[bad[0]]}; what was good before is saved: go on with a lower learning "
                f"rate, `lorarlhf resume {self.folder.name} --learning-rate …`, or start again with --compute fp32"
            )

    def _leave_spoilt(self, error: _NotANumber) -> NoReturn:
        """Go back to before the step that spoilt the weights, save that alone, and raise."""
        if self._earlier is None:
            # The first step since a resume: what was saved last is spoilt, so that the one before it counts.
            forget_checkpoints(self.folder, self.next_step - 1)
            raise error
        self._go_back(self._earlier)
        forget_checkpoints(self.folder, self.next_step)
        self._fail(error)

    def _measure(self) -> Metrics:
        """Measure on held-out prompts, where it is time to and not done yet; remember the best adapter."""
        step = self.next_step
        on_the_beat = step % self.stage.eval_every == 0 or step == self.stage.total
        if self.ended or step <= self.measured or not on_the_beat:
            return {}
        evaluation = self._whole(f"the measurement after step {step}", self.stage.evaluate, changes=False)
        self.measured = step
        if evaluation is None:
            return {}
        self.journal.metrics(step, evaluation.metrics)
        if evaluation.answers is not None:
            self.journal.heldout(step, evaluation.answers)
        each = list(evaluation.each)
        self.latest = Latest(evaluation.quality, step, each)
        # The first counts whatever it is: a parent that must not be kept is better than what went further.
        if evaluation.quality > self.best.quality or not self.best.adapter:
            self.best = Best(evaluation.quality, step, each, _copied(self.stage.adapter()))
        if more := self.stage.extend(step, [-quality for quality in each]):
            self.journal.event(step, more)
            self.journal.metrics(0, {"run/steps": float(self.stage.total)})
        return evaluation.metrics

    def _keep_last(self) -> None:
        """Keep the weights of the last step where an earlier one is the best: people may like those better."""
        if not (self.checkpoint_every and self.team.is_main and self.best.adapter) or self.ended:
            return
        sound = all(bool(torch.isfinite(tensor).all()) for tensor in self.stage.adapter().values())
        if self.kept_step != self.next_step and sound:
            self.on_saved(self.next_step)

    def _finish(self) -> Metrics:
        if self.kept_step != self.next_step or self.ended:
            self.stage.load_adapter(self.best.adapter)
        metrics = self.stage.finish()
        # Where nothing is held out nobody has looked at the last step's weights yet.
        largest = max(float(tensor.abs().max()) for tensor in self.stage.adapter().values())
        self._check_numbers("the last measurement", metrics | {"largest weight": largest})
        return metrics

    # -- whole or not at all ----------------------------------------------------------------------------------

    def _whole(self, what: str, action: Callable[[], T], *, changes: bool = True) -> T:
        """Do something that `changes` the stage as a whole: pausing or failing in it undoes it, then saves."""
        before = self._moment() if changes else None
        while True:
            self.stage.budget.begin()
            pause, failure = False, None
            try:
                if self.team.broadcast(self.paused()):
                    raise _PauseAsked
                done = action()
                if before:
                    self._earlier = before
                return done
            except _NotANumber:
                raise
            except _PauseAsked:
                pause = True
            except LoraRlhfError as error:
                failure = error
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.team.size > 1:
                    raise TrainingError(
                        f"out of memory in {what}, which several processes cannot repeat together; go on with less, "
                        f"`lorarlhf resume {self.folder.name} --micro-batch-tokens {self.stage.budget.tokens // 2}`"
                    ) from None
                # The error keeps the frames it went through, and they keep their tensors.
                traceback.clear_frames(error.__traceback__)
            self._go_back(before)
            if not pause and failure is None:
                failure = self._make_room(what)
            if failure is not None:
                self._fail(failure)
            if pause:
                self.save()
                raise RunPaused(f"paused after step {self.next_step} of {self.stage.total}; everything is saved")

    def _moment(self) -> Moment:
        return Moment(self.next_step, self.measured, self.ended, _copied(self.stage.tensors()), self.stage.state())

    def _go_back(self, moment: Moment | None) -> None:
        if moment:
            self.next_step, self.measured, self.ended = moment[:3]
            self.stage.load_tensors(moment.tensors)
            self.stage.load_state(moment.state)

    def _breathe(self) -> None:
        if self.team.size == 1 and self.paused():
            raise _PauseAsked

    def _make_room(self, what: str) -> TrainingError | None:
        """Halve the budget after memory ran out; return the error to stop with where that is not possible."""
        make_room(self.stage.device)
        halved = self.stage.budget.halve()
        if halved:
            self.journal.event(self.next_step, f"out of memory in {what}: {halved}; it is repeated")
            return None
        return TrainingError(
            f"out of memory in {what} with a single row at a time; all before it is saved. Go on with less, `lorarlhf "
            f"resume {self.folder.name} --gradient-checkpointing` or a smaller --max-length, or start again with a "
            "lower rank or a smaller base"
        )

    def _fail(self, failure: LoraRlhfError) -> NoReturn:
        """Save what was before something failed, and raise the failure."""
        try:
            self.save()
        except StoreError as error:
            raise failure from error  # the checkpoints before this one stand
        raise failure

    # -- checkpoints ------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint of this moment."""
        if not self.team.is_main:
            return
        tensors = prefixed("stage", self.stage.tensors()) | prefixed("best", self.best.adapter)
        quality = _finite(self.best.quality)
        state = {
            "stage": self.stage.state(),
            "best": {"quality": quality, "step": self.best.step, "each": self.best.each},
            "latest": {"quality": _finite(self.latest.quality), "step": self.latest.step, "each": self.latest.each},
            "measured": self.measured,
            "prepared": self.prepared,
            "ended": self.ended,
            "budget": {"asked": self._asked, "now": [self.stage.budget.tokens, self.stage.budget.rows]},
        }
        first = not has_checkpoint(self.folder)
        path = save_checkpoint(self.folder, Checkpoint(self.next_step, tensors, state))
        if first:
            words = f"a checkpoint takes {size(folder_bytes(path))} of disk; the last {KEEP} are kept"
            self.journal.event(self.next_step, words)
        self.on_saved(self.next_step)

    def restore(self, found: Found | None = None) -> None:
        """Go back to the newest checkpoint that is whole, or to the start where nothing was saved yet."""
        checkpoint, damaged = found or find_checkpoint(self.folder)
        if damaged:
            since = f"step {checkpoint.step}" if checkpoint else "the start"
            words = f"{' and '.join(damaged)} of the checkpoints {'are' if damaged[1:] else 'is'} damaged"
            self.journal.event(checkpoint.step if checkpoint else 0, f"{words}: going on from {since}")
        if checkpoint is None:
            return
        self.next_step, tensors, state = checkpoint
        try:
            self.measured, self.ended, self.prepared = state["measured"], state["ended"], state["prepared"]
            if state["budget"]["asked"] == self._asked:
                self.stage.budget.tokens, self.stage.budget.rows = state["budget"]["now"]
            self.stage.load_tensors(under("stage", tensors))
            self.stage.load_state(state["stage"])
            best, latest, adapter = state["best"], state["latest"], under("best", tensors)
            if adapter:
                self.best = Best(_number(best["quality"]), best["step"], best["each"], adapter)
            self.latest = Latest(_number(latest["quality"]), latest["step"], latest["each"])
        except (KeyError, TypeError):
            raise TrainingError(
                f"run {self.folder.name} was saved by another version of lorarlhf; go on with that one"
            ) from None


def _finite(quality: float) -> float | None:
    """Write −∞ as JSON can hold it."""
    return quality if math.isfinite(quality) else None


def _number(quality: float | None) -> float:
    return -math.inf if quality is None else quality


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().to("cpu", copy=True) for key, value in tensors.items()}


def checkpoint_bytes(stage: Stage) -> int:
    """Return how large a checkpoint grows: the weights, Adam's two moments of each, the best adapter, and this one."""
    weights = sum(tensor.nbytes for key, tensor in stage.tensors().items() if not key.startswith("optimizer."))
    return 3 * weights + 2 * sum(tensor.nbytes for tensor in stage.adapter().values())
