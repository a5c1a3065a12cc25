"""Write a run down in the workspace, and tell whoever watches it live."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from lorarlhf.engine.tracking import Tracker
from lorarlhf.store import Store
from lorarlhf.train.common import Studio
from lorarlhf.train.loop import Metrics
from lorarlhf.train.rollout import Rollout

Watch = Callable[[int, int, Metrics], None]
"""Told (steps done, steps in all, newest metrics) after every step."""

SAMPLES = 8
"""Answers stored of a rollout: enough to read, little to keep."""


class StoreJournal:
    """The journal of one run; only the main process of a team writes."""

    def __init__(self, store: Store, run: str, studio: Studio, watch: Watch | None = None) -> None:
        self.store, self.run, self.studio, self.watch = store, run, studio, watch
        self.tracker: Tracker | None = None

    def track(self, tracker: Tracker) -> None:
        """Send what is measured from now on to a tracker as well."""
        self.tracker = tracker

    def close(self) -> None:
        """Let go of the tracker."""
        if self.tracker:
            self.tracker.finish()

    @property
    def _writes(self) -> bool:
        return self.studio.team.is_main

    def metrics(self, step: int, metrics: Metrics) -> None:
        """Record numbers of a step."""
        if self._writes:
            self.store.log_metrics(self.run, step, metrics)
            if self.tracker and (problem := self.tracker.log(step, metrics)):
                self.event(step, problem)

    def event(self, step: int, text: str) -> None:
        """Record that something happened, in words."""
        if self._writes:
            self.store.log_event(self.run, step, text)

    def progress(self, step: int, total: int, metrics: Metrics) -> None:
        """Tell the watcher; the store has it already."""
        if self._writes and self.watch:
            self.watch(step, total, metrics)

    def samples(self, step: int, rollout: Rollout) -> None:
        """Record the first answers of a rollout with their score and KL."""
        if self._writes:
            self.store.log_samples(self.run, step, self._answers(rollout))

    def heldout(self, step: int, answers: Rollout) -> None:
        """Record the first answers to held-out prompts, the same prompts each time."""
        if self._writes:
            self.store.log_samples(self.run, step, self._answers(answers), heldout=True)

    def _answers(self, rollout: Rollout) -> list[dict[str, Any]]:
        return [
            {
                "prompt": readable(self.studio.base.tokenizer, rollout.rows[i].prompt),
                "response": rollout.completions[i].text,
                "ended": rollout.completions[i].ended,
                "score": float(rollout.scores_B[i]),
                "kl": float(rollout.kl_B[i]),
            }
            for i in range(min(SAMPLES, len(rollout.rows)))
        ]


def readable(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Write a prompt's tokens as text, a line wherever special tokens part it: two turns never run together."""
    special = set(tokenizer.all_special_ids)
    parts = [tokenizer.decode(list(part)) for mark, part in groupby(tokens, special.__contains__) if not mark]
    return "\n".join(text for part in parts if (text := part.strip()))
