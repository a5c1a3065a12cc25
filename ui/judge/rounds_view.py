"""The rounds of a desk: what each came to, what to do next, and going back to one. Knows no Gradio."""

from __future__ import annotations

import threading
from dataclasses import replace

from lorarlhf.checkpoints import checkpoints_stamp
from lorarlhf.errors import LoraRlhfError
from lorarlhf.evaluate.contest import keep
from lorarlhf.evaluate.failures import failures, stamp
from lorarlhf.evaluate.round_figures import Rounds, rounds_on
from lorarlhf.evaluate.round_words import unscored
from lorarlhf.evaluate.rounds import go_to
from lorarlhf.library import list_saved
from lorarlhf.reading import FEW_VOTES
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.judge.at_work import Measurement
from lorarlhf.ui.judge.lineage_html import lineage, lineage_html
from lorarlhf.ui.rate.preferences import load_preferences, save_preferences
from lorarlhf.ui.train.advice import Standing, Step, next_step
from lorarlhf.ui.train.standing import Runs

GO = "go "
"""Before the key of a round that is gone to, in the name of a button."""
DUEL = "Blind comparison"
"""Where adapters are compared blind, as that section is called."""


class RoundsView:
    """The rounds, shared by all pages."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.runs = desk, Runs(desk)
        self.measurement = Measurement()
        self._lock = threading.Lock()
        self._known: tuple[str, Rounds] | None = None
        self._failing = ("", 0)

    def rounds(self) -> Rounds:
        """Give all rounds on this base; they are computed anew only when a row they come from was added."""
        with self._lock:
            seen = self._stamp()
            if self._known is None or self._known[0] != seen:
                saved = list_saved(self.desk.workspace.adapters_dir)
                self._known = seen, rounds_on(self.desk.store, saved, self.desk.fingerprint, self.desk.checkpoints())
            return self._known[1]

    def _stamp(self) -> str:
        sql = """SELECT (SELECT max(id) FROM comparisons), (SELECT max(id) FROM rankings),
            (SELECT max(id) FROM retractions), (SELECT max(id) FROM duel_votes), (SELECT count(*) FROM scores),
            (SELECT max(rowid) FROM meta WHERE key LIKE 'drift %' OR key LIKE 'rounds %')"""
        shelf = self.desk.workspace.adapters_dir.stat().st_mtime_ns
        rows = tuple(self.desk.store.query(sql)[0])
        return f"{self.desk.fingerprint} {shelf} {checkpoints_stamp(self.desk.workspace)} {rows}"

    def lineage(self) -> str:
        """Draw the map of everything trained on this base."""
        found, desk = self.rounds(), self.desk
        nodes, edges = lineage(desk.adapters(), desk.store.duel_votes(), desk.fingerprint)
        # A round is gone back to from the adapter that answers in it; of several in one, the newest row counts.
        keys = {row.name: row.key for row in found.rows}
        return lineage_html(nodes, edges, keys, found.now.key, GO)

    # -- what to do -------------------------------------------------------------------------------------------

    def step(self) -> Step:
        """Choose the one obvious step in the round that is on."""
        step = next_in_round(self.runs.standing(self.runs.runs()), self.rounds())
        if step.do == "Rate" and self.failing():
            return replace(step, label="Rate weak spots first")
        return step

    def failing(self) -> int:
        """Count the prompts that are known to go wrong and were not rated since."""
        course, store = self.desk.course(), self.desk.store
        who = course.newest("ppo") or course.newest("sft"), course.newest("reward")
        with self._lock:
            seen = f"{self._stamp()} {stamp(store, *who)}"
            if self._failing[0] != seen:
                self._failing = seen, len(failures(store, *who))
            return self._failing[1]

    def take_step(self) -> None:
        """Prepare what the step leads to: under Rate the failures come first, where there are some."""
        store = self.desk.store
        if self.step().do == "Rate" and self.failing():
            save_preferences(store, load_preferences(store).model_copy(update={"source": "failures"}))

    def go_to(self, key: str) -> None:
        """Make a round the one that is on; raise `LoraRlhfError` where that cannot be now.

        In Rate its adapter answers from then on, also where another one was chosen there.
        """
        store = self.desk.store
        with store.transaction():
            go_to(store, self.desk.adapters(), self.desk.fingerprint, key)
            save_preferences(store, load_preferences(store).model_copy(update={"first": "", "second": ""}))

    def keep(self, name: str) -> str:
        """Make a checkpoint an adapter, which answers from then on; return its name."""
        return keep(self.desk.store, self.desk.workspace, name).name

    def measure(self) -> None:
        """Have the engine score the next round's votes with the first reward model that has not."""
        left = unscored(self.rounds())
        if not left:
            raise LoraRlhfError("everything is scored already")
        name = left[0].reward
        self.measurement.begin(("reward", name), lambda: self.desk.engine.judge(name, self.desk.sampling()))


def next_in_round(now: Standing, found: Rounds) -> Step:
    """Choose the next step: that of the Train tab, but a new policy is compared blind before its answers are rated."""
    step, led = next_step(now), [row for row in found.rows if row.led]
    if step.section != DUEL or len(led) < 2:
        return step
    wins, policy, before = led[-2].wins, led[-1].name, led[-2].name
    if wins and (wins.settled or wins.votes >= FEW_VOTES):
        return next_step(replace(now, tested=True))
    left = FEW_VOTES - (wins.votes if wins else 0)
    why = f"Only your own blind votes tell whether round {led[-2].number} made it better; about {left} say something."
    return Step(f"{policy} is new: compare it blind with {before}", why, "Compare blind", DUEL)
