"""*Align for me*: reward model, check, PPO, check, and a blind test that lies ready, from one press of a button.

It goes through the queue, so that a night's work outlives app and engine, and stops where a check fails: nothing is
trained on a reward model that may be guessing, and no test is prepared of a policy that cheated. What happened is kept
as a report in the workspace. Knows no Gradio.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from html import escape
from typing import Any

from lorarlhf.engine.client import Job
from lorarlhf.errors import LoraRlhfError, TrainingError
from lorarlhf.evaluate import drift_telling, telling
from lorarlhf.evaluate.drift import drift_of
from lorarlhf.evaluate.duel_words import counted
from lorarlhf.evaluate.health import health_of
from lorarlhf.figures import clock
from lorarlhf.library import BARE, SavedAdapter
from lorarlhf.settings import Settings
from lorarlhf.ui.desk import Desk, Notice
from lorarlhf.ui.judge.drift_html import drift_color
from lorarlhf.ui.judge.duel_desk import lay_out
from lorarlhf.ui.judge.health_html import health_color
from lorarlhf.ui.judge.light import BAD, DOUBT
from lorarlhf.ui.judge.looked import remember
from lorarlhf.ui.judge.rounds_view import DUEL
from lorarlhf.ui.train.queue import Queue

META = "align for me"
"""Name of its report in the workspace."""
REWARD, CHECK, TRAIN, DRIFT, TEST, DONE = "reward", "check", "train", "drift", "test", "done"
STEPS = {
    REWARD: "Train a reward model on your votes",
    CHECK: "Check whether it agrees with your test votes",
    TRAIN: "Train the policy with PPO",
    DRIFT: "Check whether the policy cheated",
    TEST: "Prepare a blind test",
}


@dataclass(frozen=True)
class Report:
    """How far it is, and what came of each step."""

    at: str = ""
    """The step at work; empty where it was never begun, `done` at the end."""
    told: tuple[tuple[str, str, str], ...] = ()
    """Step, when it ended, and what came of it."""
    stopped: str = ""
    """Why it went no further."""
    asked: bool = False
    """Whether what the step needs has been asked for."""
    fingerprint: str = ""
    settings: Mapping[str, dict[str, Any]] | None = None
    reward: str = ""
    policy: str = ""

    @property
    def at_work(self) -> bool:
        """Tell whether there is more to do."""
        return bool(self.at) and self.at != DONE and not self.stopped


class Align:
    """The one report of a desk. Any thread may look at it; only the desk's watch moves it on."""

    def __init__(self, desk: Desk, queue: Queue, at_work: Callable[[], str], fresh: Callable[[], int]) -> None:
        self._desk, self._queue, self._at_work, self._fresh = desk, queue, at_work, fresh
        self._job: Job | None = None
        self._lock = threading.RLock()
        self._steps = {
            REWARD: self._reward,
            CHECK: self._check,
            TRAIN: self._train,
            DRIFT: self._drift,
            TEST: self._test,
        }

    def report(self) -> Report:
        """Read how far it is."""
        found = self._desk.store.get_meta(META, {})
        return Report(**{**found, "told": tuple(tuple(line) for line in found.get("told", ()))})

    def begin(self, reward: Settings, ppo: Settings) -> None:
        """Begin with the settings of both stages; raise `LoraRlhfError` while something is at work."""
        with self._lock:
            if at_work := self._at_work():
                raise TrainingError(f"{at_work}; stop it first, or wait for its end")
            if self._queue.line().waiting:
                raise TrainingError("Stages wait in the queue; take them out first, or wait for them")
            # PPO follows the reward model that is about to be made, whichever the form names.
            settings = {"reward": reward.model_dump(mode="json"), "ppo": {**ppo.model_dump(mode="json"), "reward": ""}}
            self._keep(Report(at=REWARD, fingerprint=self._desk.fingerprint, settings=settings))

    def stop(self) -> None:
        """Go no further; what was made stays, and a run at work is saved."""
        with self._lock:
            report = self.report()
            if not report.at_work:
                return
            self._keep(replace(report, stopped="You stopped it"))
            if self._job:
                self._job.stop()
            for place in reversed(range(len(self._queue.line().waiting))):
                self._queue.remove(place)
            self._desk.stop_run()

    def forget(self) -> None:
        """Put the report away."""
        with self._lock:
            if not self.report().at_work:
                self._keep(Report())

    def advance(self) -> None:
        """Take the next step if its turn has come; called again and again by the desk's watch."""
        with self._lock:
            report = self.report()
            if not report.at_work or not self._desk.fingerprint or self._desk.loading:
                return
            try:
                if report.fingerprint != self._desk.fingerprint:
                    raise TrainingError("Another model was loaded")
                self._steps[report.at](report)
            except LoraRlhfError as error:
                self._job = None
                self._stop(str(error))

    # -- the steps --------------------------------------------------------------------------------------------

    def _reward(self, report: Report) -> None:
        """Train a reward model, unless the newest one knows every vote."""
        saved = self._desk.newest("reward")
        if saved and not report.asked and not self._fresh():
            self._done(replace(report, reward=saved.name), CHECK, f"{saved.name} knows every vote already")
        elif self._trained(report, "reward"):
            saved = self._newest("reward")
            self._done(replace(report, reward=saved.name), CHECK, f"{saved.name} is trained")

    def _check(self, report: Report) -> None:
        saved = self._named("reward", report.reward)
        if not self._measured(lambda: self._desk.engine.judge(saved.name, self._desk.sampling())):
            return
        health = health_of(self._desk.store, saved)
        color, words = health_color(health), telling.verdict(health)
        if color == BAD:
            raise TrainingError(f"{words}: it may be guessing, and PPO would chase its mistakes. Rate more pairs")
        remember(self._desk.store, saved, "skipped")
        more = ". Rate more pairs for a surer one" if color == DOUBT else ""
        self._done(report, TRAIN, f"{words}{more}")

    def _train(self, report: Report) -> None:
        if self._trained(report, "ppo"):
            saved = self._newest("ppo")
            self._done(replace(report, policy=saved.name), DRIFT, f"{saved.name} is trained")

    def _drift(self, report: Report) -> None:
        saved = self._named("ppo", report.policy)
        if not self._measured(lambda: self._desk.engine.drift(saved.name)):
            return
        drift = drift_of(self._desk.store, saved)
        if drift is None:
            raise TrainingError(f"{saved.name} could not be measured")
        words = drift_telling.verdict(drift)
        if drift_color(drift) == BAD:
            raise TrainingError(f"{words}. That looks like cheating or worse: look under Judge, Policy")
        self._done(report, TEST, f"{words}. {drift_telling.outcome(drift)}")

    def _test(self, report: Report) -> None:
        """Lay a blind test out: the policy against what it began from."""
        desk, saved = self._desk, self._named("ppo", report.policy)
        parents = saved.card.get("parents", {})
        first = str(parents.get("sft", {}).get("name") or BARE)
        there = {one.name for one in desk.adapters()}
        other = first if first in there else BARE
        prompts, _ = lay_out(desk, [saved.name, other])
        self._done(report, DONE, f"{saved.name} against {other}, {counted(prompts, 'question')}: your turn")
        desk.tell(Notice(f"Aligned: {saved.name} is ready. Is it better? The blind test waits for you.", good=True))

    # -- how it is done ---------------------------------------------------------------------------------------

    def _trained(self, report: Report, stage: str) -> bool:
        """Put a stage into the queue, and tell whether it came out of it."""
        line = self._queue.line()
        if not report.asked:
            settings = self._desk.stage_settings(stage, dict((report.settings or {})[stage]))
            self._queue.add(stage, settings, unseen=True)
            self._keep(replace(report, asked=True))
            return False
        if line.stopped:
            raise TrainingError(line.stopped)
        return not line.waiting and not self._at_work() and self._ended(line.after)

    def _ended(self, run: str) -> bool:
        row = self._desk.store.run(run)
        if row.status in ("failed", "paused"):
            raise TrainingError(f"{row.called} {'failed: ' + row.error if row.status == 'failed' else 'was stopped'}")
        return row.status == "done"

    def _measured(self, ask: Callable[[], Job]) -> bool:
        """Have the engine measure, and tell whether it has; asked again by another app, nothing is measured twice."""
        if self._job is None:
            self._job = ask()
        if not self._job.done:
            return False
        job, self._job = self._job, None
        job.result()
        return True

    def _newest(self, stage: str) -> SavedAdapter:
        saved = self._desk.newest(stage)
        if saved is None:
            raise TrainingError(f"The {stage} adapter is gone")
        return saved

    def _named(self, stage: str, name: str) -> SavedAdapter:
        for saved in self._desk.adapters(stage):
            if saved.name == name:
                return saved
        raise TrainingError(f"{name} was deleted or renamed meanwhile")

    def _done(self, report: Report, then: str, words: str) -> None:
        told = (*report.told, (report.at, datetime.now(timezone.utc).isoformat(), words))
        self._keep(replace(report, at=then, told=told, asked=False))

    def _stop(self, why: str) -> None:
        self._keep(replace(self.report(), stopped=why))
        self._desk.tell(Notice(f"Align for me stopped: {why}"))

    def _keep(self, report: Report) -> None:
        self._desk.store.set_meta(META, asdict(report))


def report_html(report: Report) -> str:
    """Write the report; nothing where it was never begun."""
    if not report.at:
        return ""
    told = {step: (when, words) for step, when, words in report.told}
    items = []
    for step, title in STEPS.items():
        state = "done" if step in told else "failed" if step == report.at and report.stopped else ""
        state = state or ("now" if step == report.at else "later")
        mark = {"done": "✓", "failed": "✗", "now": "…", "later": ""}[state]
        when, words = told.get(step, ("", report.stopped if state == "failed" else ""))
        time = f" <time>{escape(clock(when))}</time>" if when else ""
        said = f"<p>{escape(words)}.</p>" if words else ""
        items.append(f"<li class='{state}'><i aria-hidden='true'>{mark}</i><div><b>{title}</b>{time}{said}</div></li>")
    title = "Align for me: done" if report.at == DONE else "Align for me"
    if report.stopped:
        title = "Align for me: stopped"
    test = f"<button type='button' class='primary' data-go='Judge' data-section='{DUEL}'>Begin the blind test</button>"
    buttons = test if report.at == DONE else ""
    away = "stop" if report.at_work else "forget"
    buttons += f"<button type='button' data-do='{away}' data-run=''>{'Stop' if report.at_work else 'Put away'}</button>"
    return (
        f"<section class='align' aria-label='Align for me'><h3>{title}</h3><ol>{''.join(items)}</ol>"
        f"<p class='do'>{buttons}</p></section>"
    )
