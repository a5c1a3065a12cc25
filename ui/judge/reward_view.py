"""The reward models of a desk and how good they are: what the page asks for, and what it is told. Knows no Gradio.

The figures are a function of rows; they are computed anew only when a row they come from was added.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from lorarlhf.errors import DataError, LoraRlhfError
from lorarlhf.evaluate.health import Health, drawn_key, health_of, judge_of
from lorarlhf.evaluate.votes import SECOND_LOOK, learned_of, scored_pairs
from lorarlhf.figures import figure
from lorarlhf.library import SavedAdapter
from lorarlhf.store import Row
from lorarlhf.types import Comparison, Outcome, user
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.judge.at_work import Measurement
from lorarlhf.ui.judge.looked import remember
from lorarlhf.ui.rate.preferences import load_preferences
from lorarlhf.ui.rate.sheets import PREFERRED, About, Sheet


class RewardView:
    """The figures of reward models, shared by all pages."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, Health]] = {}
        self.measurement = Measurement()

    def news(self) -> str:
        """Write what changes whenever anything does that a page shows, whichever reward model it has chosen."""
        return str((self.names(), self.measurement.now(), self.desk.store.changes()))

    # -- which ones there are ---------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """List the reward models of this base, newest first."""
        return [saved.name for saved in reversed(self.desk.adapters("reward"))]

    def saved(self, name: str) -> SavedAdapter | None:
        """Find a reward model of this base."""
        return next((saved for saved in self.desk.adapters("reward") if saved.name == name), None)

    # -- their figures ----------------------------------------------------------------------------------------

    def stamp(self, name: str) -> str:
        """Write what the figures of a reward model depend on."""
        saved = self.saved(name)
        if saved is None:
            return ""
        sql = """SELECT (SELECT max(id) FROM comparisons), (SELECT max(id) FROM rankings),
            (SELECT max(id) FROM retractions), (SELECT count(*) FROM scores WHERE judge = ?),
            (SELECT value FROM meta WHERE key = ?)"""
        row = self.desk.store.query(sql, (judge_of(saved), drawn_key(saved)))[0]
        return f"{judge_of(saved)} {tuple(row)[:4]} {hash(row[4])}"

    def health(self, name: str) -> Health | None:
        """Give the figures of a reward model; None where there is none of that name."""
        saved, stamp = self.saved(name), self.stamp(name)
        if saved is None:
            return None
        with self._lock:
            known = self._known.get(name)
            if known is None or known[0] != stamp:
                known = self._known[name] = (stamp, health_of(self.desk.store, saved))
            return known[1]

    def measured(self, health: Health) -> bool:
        """Tell whether there is anything to show."""
        return bool(health.voted)

    def see(self, name: str) -> None:
        """Note that somebody has the figures of a reward model in front of them."""
        saved = self.saved(name)
        if saved is not None:
            remember(self.desk.store, saved, "seen")

    # -- measuring --------------------------------------------------------------------------------------------

    def measure(self, name: str) -> None:
        """Have the engine score what is not scored yet; raise `LoraRlhfError` where that cannot be."""
        if self.saved(name) is None:
            raise LoraRlhfError("no such reward model on this base any more")
        self.measurement.begin(("reward", name), lambda: self.desk.engine.judge(name, self.desk.sampling()))

    # -- voting again -----------------------------------------------------------------------------------------

    def pair(self, id: int) -> tuple[Row[Comparison], Sheet]:
        """Lay a pair that was voted on out again, with its sides swapped."""
        rows = self.desk.store.some("comparisons", [id])
        if not rows or rows[0].undone:
            raise DataError("that vote was changed or taken back meanwhile")
        sheet = Sheet.of_comparison(rows[0].value, swapped=True)
        sheet.repeats = id
        sheet.show()
        return rows[0], sheet

    def vote(self, id: int, verdict: str, name: str) -> str:
        """Add a second vote on a pair, beside the first; tell how the two and the reward model compare."""
        row, sheet = self.pair(id)
        said = sheet.comparison(verdict, About(rater=load_preferences(self.desk.store).rater))
        said = replace(said, origin=replace(said.origin, source=SECOND_LOOK, seconds=None))
        self.desk.store.add_comparison(said)
        if said.outcome is Outcome.SKIP:
            return "Saved as skipped."
        same = "the same as" if said.outcome is row.value.outcome else "otherwise than"
        words = f"Saved: {same} the first time."
        return f"{words} {self._sides(row.id, verdict, sheet, name)}".strip()

    def _sides(self, id: int, verdict: str, sheet: Sheet, name: str) -> str:
        """Say which of the two the reward model prefers, by the names they had on the page."""
        saved = self.saved(name)
        pairs = scored_pairs(self.desk.store, judge_of(saved), learned_of(self.desk.store, saved))[0] if saved else []
        one = next((one for one in pairs if (one.kind, one.row) == ("comparisons", id)), None)
        if one is None or not one.gap or sheet.placed[0] == sheet.placed[1]:
            return ""
        liked = one.pair.chosen if one.gap > 0 else one.pair.rejected
        place = sheet.placed.index(liked)
        agrees = ", as you do now" if verdict in PREFERRED and verdict != "tie" and PREFERRED[verdict] == place else ""
        return f"{name} prefers {'AB'[place]}{agrees}."

    # -- scoring by hand --------------------------------------------------------------------------------------

    def score(self, name: str, prompt: str, answer: str) -> str:
        """Score an answer somebody typed, and place it among those that were voted on."""
        if not prompt.strip() or not answer.strip():
            raise DataError("write a prompt and an answer first")
        if self.saved(name) is None:
            raise DataError("there is no reward model to score it with yet")
        score: float = self.desk.engine.score(name, [(user(prompt.strip()), answer.strip())]).result()[0]
        health = self.health(name)
        voted = health.voted if health else ()
        place = (
            f", higher than {sum(s < score for s in voted) / len(voted):.0%} of the answers voted on" if voted else ""
        )
        return f"Score {figure(score, '+.2f')}{place}"


def second_verdicts() -> list[tuple[str, str]]:
    """List what can be said about a pair the second time, as words and verdict."""
    words: dict[str, Any] = {"a2": "A much better", "a1": "A better", "tie": "Tie", "b1": "B better"}
    return [(text, name) for name, text in {**words, "b2": "B much better", "both_bad": "Both bad"}.items()]
