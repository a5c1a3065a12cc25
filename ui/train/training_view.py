"""What the Train tab shows and starts: rows and files read into words, shared by all pages. Knows no Gradio."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from statistics import fmean

from lorarlhf.engine.client import Job
from lorarlhf.errors import RunDiffers, TrainingError
from lorarlhf.library import check_new_name
from lorarlhf.settings import Settings
from lorarlhf.store import RunRow
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.judge.looked import check_looked, reward_for, unseen
from lorarlhf.ui.train.advice import Standing, count, missing, work
from lorarlhf.ui.train.costs import Costs
from lorarlhf.ui.train.progress import PACE_STEPS, RunNumbers, why_not_resumed
from lorarlhf.ui.train.queue import Queue

START_SECONDS = 5.0
"""How long a start waits to see whether the engine takes it; one that is busy with something else takes it later."""
LOOK_SECONDS = 0.05


class TrainingView:
    """The training side of a desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.numbers = RunNumbers(desk.store)
        self.costs = Costs(desk)
        self.queue = Queue(
            desk,
            at_work=lambda: self.at_work(self.runs()),
            missing=lambda stage: missing(stage, self.standing(self.runs())),
            why_not_resumed=self.why_not_resumed,
        )
        desk.watchers.append(self.queue.advance)

    def runs(self) -> list[RunRow]:
        """List all runs, oldest first; one that is just being gone on with counts as at work already."""
        job = self.desk.run_job
        mine = job.progress.run if job and not job.done else ""
        return [replace(run, status="running", error="") if run.id == mine else run for run in self.desk.store.runs()]

    def at_work(self, runs: list[RunRow]) -> str:
        """Say which run is at work, here or in another process; empty where none is."""
        job = self.desk.run_job
        if job and not job.done:
            if run := job.progress.run:
                called = next((row.called for row in runs if row.id == run), run)
                return f"{called} is {'being stopped' if self.desk.stopping else 'at work'}"
            return "A run is about to start"
        other = next((run.called for run in runs if run.status == "running"), "")
        return f"{other} is at work in another process" if other else ""

    def standing(self, runs: list[RunRow]) -> Standing:
        """Gather what advice is made of."""
        newest, course = runs[-1] if runs else None, self.desk.course()
        reward = course.newest("reward")
        return Standing(
            **count(self.desk.store),
            adapters=self.desk.adapters(),
            present=course.present,
            base=bool(self.desk.fingerprint),
            at_work=self.at_work(runs),
            unfinished=newest if newest and not self.why_not_resumed(newest) else None,
            looked=not reward or not unseen(self.desk.store, reward),
        )

    def why_not_resumed(self, run: RunRow) -> str:
        """Say why a run cannot be gone on with; empty where it can."""
        return why_not_resumed(run, self.desk.fingerprint)

    def pace(self, stage: str, runs: list[RunRow]) -> float | None:
        """Find the seconds that a stage took the last time on this base, per step and unit of `work`."""
        for run in reversed(runs):
            fits = run.stage == stage and run.parents.get("base", {}).get("fingerprint") == self.desk.fingerprint
            if fits and (found := [seconds for _, seconds in self.numbers.of(run).get("time/step", [])]):
                return fmean(found[-PACE_STEPS:]) / work(run.settings)
        return None

    def train(self, stage: str, settings: Settings, name: str, *, unseen: bool = False) -> None:
        """Start a stage; raise `LoraRlhfError` where it cannot be, in one line that says what to do.

        PPO on a reward model that nobody looked at raises `UnseenReward`, unless the person wants it `unseen`.
        """
        if problem := missing(stage, self.standing(self.runs())):
            raise TrainingError(problem)
        name = name.strip()
        if name:
            check_new_name(self.desk.workspace.adapters_dir, name)
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
