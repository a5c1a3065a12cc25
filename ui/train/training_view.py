"""What the Train tab shows and starts: rows and files read into words, shared by all pages. Knows no Gradio."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from statistics import fmean
from typing import Any

from lorarlhf.engine.client import Job
from lorarlhf.errors import RunDiffers, TrainingError
from lorarlhf.figures import duration
from lorarlhf.library import check_new_name
from lorarlhf.settings import STAGES, Settings
from lorarlhf.store import RunRow
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.judge.looked import check_looked, reward_for
from lorarlhf.ui.train.advice import Standing, missing, steps_of, work
from lorarlhf.ui.train.align import Align
from lorarlhf.ui.train.costs import Costs
from lorarlhf.ui.train.efforts import EFFORTS, LENGTH, defaults, efforts_of, length_of
from lorarlhf.ui.train.progress import PACE_STEPS, RunNumbers
from lorarlhf.ui.train.queue import Queue
from lorarlhf.ui.train.standing import Runs

START_SECONDS = 5.0
"""How long a start waits to see whether the engine takes it; one that is busy with something else takes it later."""
LOOK_SECONDS = 0.05


class TrainingView(Runs):
    """The training side of a desk."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.numbers = RunNumbers(desk.store)
        self.costs = Costs(desk)
        self.queue = Queue(
            desk,
            at_work=lambda: self.at_work(self.runs()),
            missing=lambda stage: missing(stage, self.standing(self.runs())),
            why_not_resumed=self.why_not_resumed,
        )
        self.align = Align(
            desk,
            self.queue,
            at_work=lambda: self.at_work(self.runs()),
            fresh=lambda: self.standing(self.runs()).fresh_votes(),
        )
        desk.watchers += [self.queue.advance, self.align.advance]

    def pace(self, stage: str, runs: list[RunRow]) -> float | None:
        """Find the seconds that a stage took the last time on this base, per step and unit of `work`."""
        for run in reversed(runs):
            fits = run.stage == stage and run.parents.get("base", {}).get("fingerprint") == self.desk.fingerprint
            if fits and (found := [seconds for _, seconds in self.numbers.of(run).get("time/step", [])]):
                return fmean(found[-PACE_STEPS:]) / work(run.settings)
        return None

    def efforts(self, stage: str, now: Standing, given: Mapping[str, Any], runs: list[RunRow]) -> list[tuple[str, str]]:
        """List (words, value) of the efforts of a stage, with the time each would take, where that is known.

        `given` are the settings that decide about steps and their size.
        """
        found = []
        pace, plan = self.pace(stage, runs), self.costs.plan(stage)
        seconds, usual = plan.get("seconds"), defaults(self.desk, stage)
        each = pace * work(given) if pace else seconds / plan["steps"] if seconds else None
        for effort in efforts_of(stage):
            length = length_of(stage, effort, usual)
            steps = steps_of(stage, now, {**given, LENGTH[stage]: length})
            time = "" if each is None else f" · about {duration(steps * each)}"
            longer = " or more" if time and length == "auto" else ""
            found.append((f"{EFFORTS[effort]}{time}{longer}", effort))
        return found

    def news(self) -> str:
        """Write what changes whenever anything does that a page shows, but for what is filled in on that page."""
        runs = self.runs()
        states = [(run.id, run.status, run.updated, self.why_not_resumed(run)) for run in runs]
        costs = [self.costs.stamp(stage) for stage in STAGES]
        desk = (self.desk.load_settings.base, self.desk.fingerprint, self.desk.stopping)
        return str((desk, self.standing(runs).stamp(), states, self.queue.line(), self.align.report(), costs))

    def train(self, stage: str, settings: Settings, name: str, *, unseen: bool = False) -> None:
        """Start a stage; raise `LoraRlhfError` where it cannot be, in one line that says what to do.

        PPO on a reward model that nobody looked at raises `UnseenReward`, unless the person wants it `unseen`.
        """
        if problem := missing(stage, self.standing(self.runs())):
            raise TrainingError(problem)
        name = name.strip()
        if name:
            check_new_name(self.desk.workspace.adapters_dir, name, self.desk.store.promised())
        check_looked(self.desk.store, reward_for(self.desk, stage, settings), skip=unseen)
        _await_start(self.desk.train(stage, settings, name))

    def resume(self, run: str) -> None:
        """Go on with a run; raise `LoraRlhfError` where that cannot be."""
        row = self.desk.store.run(run)
        if problem := self.why_not_resumed(row):
            raise TrainingError(problem)
        with suppress(RunDiffers):  # a notice says what differs, and that asking again accepts it
            _await_start(self.desk.resume(run))


def _await_start(job: Job) -> None:
    """Wait a moment for a run to be at work; raise what kept it from that."""
    deadline = time.monotonic() + START_SECONDS
    while not job.done and not job.progress.run and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    if job.done and not job.progress.run:
        job.result()
