"""Stages that start by themselves, one when the one before it is done: "SFT, then reward, then PPO, overnight".

The queue is a row of the workspace, so it outlives the app: the next one goes on with it. It stops, and says why, as
soon as anything did not go as planned; nothing is trained on top of what failed. Knows no Gradio.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lorarlhf.engine.client import Job
from lorarlhf.errors import LoraRlhfError, StoreError, TrainingError
from lorarlhf.library import check_new_name
from lorarlhf.settings import STAGES, Settings
from lorarlhf.store import QUEUE, RunRow
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.judge.looked import UnseenReward, check_looked, reward_for
from lorarlhf.ui.train.progress import STAGE_NAMES


@dataclass(frozen=True)
class Waiting:
    """A stage that waits for its turn."""

    stage: str
    settings: dict[str, Any]
    name: str = ""
    """Of the adapter to be; empty where it is made up when it starts."""
    base: str = ""
    fingerprint: str = ""
    unseen: bool = False
    """Whether the person wants PPO even on a reward model they have not looked at."""

    @property
    def called(self) -> str:
        """Name it for a person."""
        return f"{STAGE_NAMES.get(self.stage, self.stage)}{f' → {self.name}' if self.name else ''}"


@dataclass(frozen=True)
class Line:
    """The queue as it stands."""

    waiting: tuple[Waiting, ...] = ()
    after: str = ""
    """The run that must be done before the next one starts."""
    resumed_at: int = -1
    """Step of that run after which the queue resumed it by itself; twice at the same one helps nobody."""
    start_after: int | None = None
    """Runs there were when the first one was told to start; None while it waits."""
    stopped: str = ""
    """Why nothing starts any more; empty while the queue goes on."""


@dataclass
class Queue:
    """The queue of a desk. Any thread may look at it; only the desk's watch moves it on."""

    desk: Desk
    at_work: Callable[[], str]
    """Says what is at work, whoever started it; empty where nothing is."""
    missing: Callable[[str], str]
    """Says what keeps a stage from starting; empty where nothing does."""
    why_not_resumed: Callable[[RunRow], str]
    _starting: Job | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def line(self) -> Line:
        """Read the queue."""
        found = self.desk.store.get_meta(QUEUE, {})
        return Line(**{**found, "waiting": tuple(Waiting(**one) for one in found.get("waiting", ()))})

    def add(self, stage: str, settings: Settings, name: str = "", *, unseen: bool = False) -> None:
        """Put a stage at the end; raise `LoraRlhfError` where its name is taken already.

        PPO on a reward model that nobody has looked at, or that is yet to be made, raises `UnseenReward`, unless the
        person wants it `unseen`.
        """
        name = name.strip()
        with self._lock:
            line = self.line()
            if name:
                if name in (one.name for one in line.waiting):
                    raise TrainingError(f"{name} is in the queue already; choose another name")
                check_new_name(self.desk.workspace.adapters_dir, name, self.desk.store.promised())
            base, mark = self.desk.load_settings.base, self.desk.fingerprint
            if not mark:
                raise TrainingError("The base is not in memory yet; wait for it, or load one under Models.")
            self._look_first(line, stage, settings, unseen)
            one = Waiting(stage, settings.model_dump(mode="json"), name, base, mark, unseen)
            self._keep(replace(line, waiting=(*line.waiting, one)))

    def _look_first(self, line: Line, stage: str, settings: Settings, unseen: bool) -> None:
        running = self.desk.running
        to_come = any(one.stage == "reward" for one in line.waiting) or (running and running.stage == "reward")
        if stage == "ppo" and to_come and not getattr(settings, "reward", ""):
            if not unseen:
                raise UnseenReward("The reward model for it is yet to be trained, so nobody has looked at it")
            return
        check_looked(self.desk.store, reward_for(self.desk, stage, settings), skip=unseen)

    def remove(self, place: int) -> None:
        """Take a stage out; nothing happens where there is none at that place any more, or where it starts already."""
        with self._lock:
            line = self.line()
            if place == 0 and self._starting:
                return
            waiting = tuple(one for i, one in enumerate(line.waiting) if i != place)
            start_after = line.start_after if place else None
            self._keep(replace(line, waiting=waiting, start_after=start_after) if waiting else Line())

    def go_on(self) -> None:
        """Start again what was stopped; what it stopped over is the person's affair now."""
        with self._lock:
            self._keep(replace(self.line(), stopped="", after="", resumed_at=-1))

    def advance(self) -> None:
        """Start the next stage if its turn has come; called again and again by the desk's watch."""
        with self._lock:
            line = self.line()
            if not line.waiting or line.stopped:
                return
            if self.desk.given_up:
                self._starting = None
                self._stop("The engine died again and again")
                return
            if not self.desk.fingerprint or self.desk.loading:
                return
            try:
                self._move(line)
            except LoraRlhfError as error:
                self._starting = None
                self._stop(str(error))

    def _move(self, line: Line) -> None:
        if job := self._starting:
            self._started(line, job)
            return
        if line.start_after is not None:
            self._start_anew(line)
            return
        if self.at_work():
            if (run := self.desk.running) and run.id != line.after:
                self._keep(replace(line, after=run.id, resumed_at=-1))
            return
        if self._ended_well(line):
            self._start(line)

    def _started(self, line: Line, job: Job) -> None:
        """Take the first one out as soon as it is a run; one that never became one stops the queue."""
        if run := job.progress.run:
            self._starting = None
            self._take_out(line, run)
        elif job.done:
            self._starting = None
            if self._became(line) is None:
                self._keep(replace(line, start_after=None))
                job.result()

    def _start_anew(self, line: Line) -> None:
        """Go on where an earlier app ended as the first one started: it may be a run by now, and is trained once."""
        run = self._became(line)
        if run is None:
            self._keep(replace(line, start_after=None))
        elif run.status != "running":  # else the engine of that app is about to end
            self._take_out(line, run.id)
            if run.status == "paused":  # by the end of that app, and by nobody
                self.desk.resume(run.id)

    def _became(self, line: Line) -> RunRow | None:
        """Find the run that the first one became since it was told to start."""
        first = line.waiting[0]
        for run in self.desk.store.runs()[line.start_after :]:
            if (run.stage, run.settings) == (first.stage, first.settings) and first.name in ("", run.adapter):
                return run
        return None

    def _take_out(self, line: Line, run: str) -> None:
        """Let the next one wait for the run that the first one became."""
        self._keep(replace(line, waiting=line.waiting[1:], after=run, resumed_at=-1, start_after=None))

    def _ended_well(self, line: Line) -> bool:
        """Tell whether the run before is done; go on with one that broke off, or stop the queue over it."""
        if not line.after:
            return True
        try:
            run = self.desk.store.run(line.after)
        except StoreError:
            return True
        if run.status == "done":
            return True
        if run.status == "interrupted" and run.step > line.resumed_at and not self.why_not_resumed(run):
            self._keep(replace(line, resumed_at=run.step))
            self.desk.resume(run.id)
            return False
        words = {"paused": "was stopped", "failed": f"failed: {run.error}", "interrupted": "broke off"}
        raise TrainingError(f"{run.called} {words.get(run.status, run.status)}")

    def _start(self, line: Line) -> None:
        first = line.waiting[0]
        if first.fingerprint != self.desk.fingerprint:
            raise TrainingError(f"{first.called} was meant for the base {first.base}: load it first")
        if problem := self.missing(first.stage):
            raise TrainingError(problem)
        settings = STAGES[first.stage].parse(first.settings, f"queued {first.stage}")
        check_looked(self.desk.store, reward_for(self.desk, first.stage, settings), skip=first.unseen)
        self._keep(replace(line, start_after=len(self.desk.store.runs())))
        self._starting = self.desk.train(first.stage, settings, first.name)

    def _stop(self, why: str) -> None:
        self._keep(replace(self.line(), stopped=why))

    def _keep(self, line: Line) -> None:
        self.desk.store.set_meta(QUEUE, asdict(line))
