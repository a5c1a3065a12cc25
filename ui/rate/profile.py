"""What the votes say about the person who cast them: consistency, sides, ties, pace, days. Knows no Gradio.

Everything is a function of rows; names are escaped where HTML is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from html import escape
from typing import Any

from lorarlhf.evaluate.statistics import Share, binomial_test, share_of
from lorarlhf.evaluate.votes import asked_twice, clear_twice, places
from lorarlhf.figures import moment
from lorarlhf.store import Row, Store
from lorarlhf.types import Outcome

DAYS = 28
"""Days that are shown."""
SURE = 0.05
"""Probability below which a preference for one side is no chance."""
FEW = 20
"""Votes without which nothing is said about a habit."""


@dataclass(frozen=True)
class Profile:
    """One rater."""

    votes: int
    """Comparisons and rankings cast in the app, skips left out."""
    consistency: Share
    """How often the same was said of a pair that was asked again."""
    left: Share
    """How often the left answer was preferred, where one was."""
    chance: float
    """Probability of so uneven a count by chance."""
    ties: Share
    seconds: float
    """Median time to decide; NaN where none is known."""
    days: tuple[int, ...]
    """Votes of each of the last days, today last."""

    @property
    def habit(self) -> str:
        """Name the side that is preferred beyond chance; empty where none is."""
        if self.left.trials < FEW or self.chance >= SURE:
            return ""
        return "left" if self.left.value > 0.5 else "right"


def profile(store: Store, rater: str, today: date | None = None) -> Profile:
    """Compute a rater's profile from the votes of this base."""
    said = [row for row in store.comparisons() if row.value.origin.source == "app" and row.value.origin.rater == rater]
    kept = [row for row in said if row.value.outcome is not Outcome.SKIP]
    ranked = [row for row in store.rankings() if row.value.origin.source == "app" and row.value.origin.rater == rater]
    sides = [left for _, left in places(kept)]
    same = [first.outcome is second.outcome for first, second in clear_twice(asked_twice(store, rater))]
    times = sorted(one for row in kept if (one := row.value.origin.seconds) is not None)
    return Profile(
        votes=len(kept) + len(ranked),
        consistency=share_of(map(float, same)),
        left=share_of(map(float, sides)),
        chance=binomial_test(sum(sides), len(sides)),
        ties=share_of(float(row.value.outcome is Outcome.TIE) for row in kept),
        seconds=times[len(times) // 2] if times else float("nan"),
        days=_days([*kept, *ranked], today or datetime.now().astimezone().date()),
    )


def _days(rows: Sequence[Row[Any]], today: date) -> tuple[int, ...]:
    when = Counter(moment(row.created).date() for row in rows)
    return tuple(when[today - timedelta(days=back)] for back in range(DAYS - 1, -1, -1))


# -- as HTML ----------------------------------------------------------------------------------------------------


def profile_html(found: Profile, rater: str) -> str:
    """Write the card."""
    if not found.votes:
        return "<p class='faint'>Your profile appears with your first votes.</p>"
    who = escape(rater) if rater else "You"
    facts = [("Consistency", *_consistency(found)), ("Sides", *_sides(found))]
    facts.append(("Ties", f"{found.ties.value:.0%}" if found.ties else "–", "of your comparisons"))
    if found.seconds == found.seconds:  # not NaN
        facts.append(("Time to decide", f"{found.seconds:.1f} s", "in the middle"))
    body = "".join(
        f"<div><dt>{name}</dt><dd><b>{escape(value)}</b> <span>{escape(about)}</span></dd></div>"
        for name, value, about in facts
    )
    return (
        f"<h3>{who}, {found.votes:,} vote{'s' * (found.votes != 1)}</h3><dl class='facts'>{body}</dl>"
        f"{_sparkline(found.days)}"
    )


def _consistency(found: Profile) -> tuple[str, str]:
    share = found.consistency
    if not share:
        return "not known yet", "1 pair in 20 is asked again"
    about = f"{share.hits:.0f} of {share.trials:.0f} re-asked pairs"
    return f"{share.value:.0%}", f"{about}, {share.low:.0%} to {share.high:.0%}"


def _sides(found: Profile) -> tuple[str, str]:
    if not found.left:
        return "–", "no answer was preferred yet"
    value = f"{found.left.value:.0%} left"
    if found.left.trials < FEW:
        return value, "too few votes to tell a habit"
    if found.habit:
        return value, f"you favour the {found.habit} side: read both first"
    return value, "no habit beyond chance"


def _sparkline(days: Sequence[int]) -> str:
    """Draw the votes of the last days as bars."""
    most, wide = max(days), 8
    bars = "".join(
        f"<rect x='{i * wide}' y='{40 - 38 * count / most:.1f}' width='{wide - 2}' height='{38 * count / most:.1f}'/>"
        for i, count in enumerate(days)
        if count
    )
    label = f"Votes a day, the last {len(days)} days: at most {most}, today {days[-1]}"
    return (
        f"<figure><svg viewBox='0 0 {len(days) * wide} 41' role='img' aria-label='{label}'>"
        f"<path d='M0 40.5H{len(days) * wide}'/>{bars}</svg><figcaption>{escape(label)}</figcaption></figure>"
    )
