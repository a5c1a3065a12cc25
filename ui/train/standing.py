"""What there is to train with, and what is at work, read off a desk. Knows no Gradio."""

from __future__ import annotations

from dataclasses import replace

from lorarlhf.store import RunRow
from lorarlhf.ui.desk import STARTER, Desk
from lorarlhf.ui.journey import decided
from lorarlhf.ui.judge.looked import unseen
from lorarlhf.ui.train.advice import Standing, count
from lorarlhf.ui.train.progress import why_not_resumed


class Runs:
    """The runs of a desk and what they leave to be done."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

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
                return f"{called} is {'being stopped' if self.desk.stopping else 'training'}"
            return "A run is about to start"
        other = next((run.called for run in runs if run.status == "running"), "")
        return f"{other} is training in another process" if other else ""

    def standing(self, runs: list[RunRow]) -> Standing:
        """Gather what advice is made of."""
        newest, course = runs[-1] if runs else None, self.desk.course()
        reward, policy = course.newest("reward"), course.newest("ppo")
        return Standing(
            **count(self.desk.store),
            adapters=self.desk.adapters(),
            present=course.present,
            base=bool(self.desk.fingerprint),
            sft_helps=self.desk.load_settings.base != STARTER,
            at_work=self.at_work(runs),
            unfinished=newest if newest and not self.why_not_resumed(newest) else None,
            tested=bool(policy and decided(policy, self.desk.store.duel_votes())),
            looked=not reward or not unseen(self.desk.store, reward),
        )

    def why_not_resumed(self, run: RunRow) -> str:
        """Say why a run cannot be gone on with; empty where it can."""
        return why_not_resumed(run, self.desk.fingerprint)
