"""How far a person agrees with themselves: some pairs are asked again later, sides swapped. Knows no Gradio.

Whoever agrees with themselves in 80 of 100 cases sets the bar: no reward model can learn to agree more.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import NamedTuple

from lorarlhf.store import Row, Store
from lorarlhf.types import Comparison, Outcome
from lorarlhf.ui.rate.sheets import Sheet

SHARE = 1 / 20
"""Share of the pairs that are asked again."""
LATER = 10
"""Votes that lie at least between the two times."""


class Agreement(NamedTuple):
    """How often the same was said twice."""

    asked: int
    agreed: int

    @property
    def words(self) -> str:
        """Say it in one sentence; empty before anything was asked twice."""
        if not self.asked:
            return ""
        times = "once" if self.asked == 1 else f"{self.asked} times"
        share = f" ({self.agreed / self.asked:.0%})" if self.asked > 1 else ""
        return f"Asked again {times}, you said the same {self.agreed} of {self.asked}{share}"


def again(store: Store, rater: str, busy: Collection[int], rng: random.Random) -> Sheet | None:
    """Now and then, lay an earlier pair out again with its sides swapped; most times, nothing."""
    if rng.random() >= SHARE:
        return None
    sql = """SELECT id FROM live_comparisons
        WHERE source = 'app' AND rater = ? AND repeats IS NULL AND outcome != 'skip'
        AND id NOT IN (SELECT repeats FROM comparisons WHERE repeats IS NOT NULL)
        ORDER BY id DESC LIMIT -1 OFFSET ?"""
    free = [row["id"] for row in store.query(sql, (rater, LATER)) if row["id"] not in busy]
    if not free:
        return None
    row = store.some("comparisons", [rng.choice(free)])[0]
    sheet = Sheet.of_comparison(row.value, swapped=True)
    sheet.repeats = row.id
    return sheet


def agreement(store: Store, rater: str) -> Agreement:
    """Compare what one person said the first and the second time; strength and skips do not count."""
    sql = "SELECT id, repeats FROM live_comparisons WHERE repeats IS NOT NULL AND rater = ?"
    asked = [(row["id"], row["repeats"]) for row in store.query(sql, (rater,))]
    known = {row.id: row for row in store.some("comparisons", {id for pair in asked for id in pair})}
    same = []
    for second, first in asked:
        earlier = _counting(store, known[first])
        if earlier and Outcome.SKIP not in (earlier.outcome, known[second].value.outcome):
            same.append(_same(earlier, known[second].value))
    return Agreement(len(same), sum(same))


def _counting(store: Store, row: Row[Comparison]) -> Comparison | None:
    """Follow a row that was changed to what counts now; None where it was undone."""
    while row.replaced_by is not None:
        row = store.some("comparisons", [row.replaced_by])[0]
    return None if row.undone else row.value


def _same(first: Comparison, second: Comparison) -> bool:
    again = second if second.a == first.a else second.swap()
    return first.outcome is again.outcome
