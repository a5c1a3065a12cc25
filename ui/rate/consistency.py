"""How far a person agrees with themselves: some pairs are asked again later, sides swapped. Knows no Gradio.

Whoever agrees with themselves in 80 of 100 cases sets the bar: even a perfect reward model agrees in at most 89.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import NamedTuple

from lorarlhf.evaluate.votes import asked_twice, clear_twice
from lorarlhf.store import Store
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
        pairs = f"re-asked pair{'s' * (self.asked != 1)}"
        return f"Consistency: {self.agreed} of {self.asked} {pairs}"


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
    """Compare what one person said the first and the second time, where both times an answer was preferred."""
    same = [first.outcome is second.outcome for first, second in clear_twice(asked_twice(store, rater))]
    return Agreement(len(same), sum(same))
