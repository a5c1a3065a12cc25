"""A rater's profile: by hand, without and with habits, and as text on the page."""

from __future__ import annotations

import math
from datetime import datetime

import pytest

from lorarlhf.types import Comparison, Origin, Outcome, Ranking, user
from lorarlhf.ui.rate.profile import DAYS, profile, profile_html
from lorarlhf.workspace import Workspace

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def store(tmp_path):
    with Workspace(tmp_path / "work").open().store() as opened:
        yield opened


def said(number: int, outcome: Outcome, left: str = "a", rater: str = "ann", **more: object) -> Comparison:
    seconds = more.pop("seconds", 2.0)
    origin = Origin(source=str(more.pop("source", "app")), rater=rater, seconds=seconds)  # type: ignore[arg-type]
    return Comparison(user(f"q{number}?"), "yes", "no", outcome, left=left, origin=origin, **more)  # type: ignore[arg-type]


def test_a_profile_is_counted_by_hand(store):
    votes = [said(i, Outcome.A, "a", seconds=float(i)) for i in range(3)]  # the left one
    votes += [said(3, Outcome.A, "b", seconds=9.0), said(4, Outcome.TIE, seconds=9.0), said(5, Outcome.SKIP)]
    votes += [said(6, Outcome.A, rater="bob"), said(7, Outcome.A, source="import")]
    ids = store.add_comparisons(votes)
    # Asked again with sides swapped: once the same, once not.
    store.add_comparisons([said(0, Outcome.A, "b", repeats=ids[0]), said(1, Outcome.B, "b", repeats=ids[1])])
    store.add_ranking(Ranking(user("r?"), ("x", "y", "z"), (1, 2, 3), Origin(source="app", rater="ann")))
    found = profile(store, "ann")
    assert found.votes == 8  # seven comparisons without the skip, and a ranking
    assert (found.consistency.hits, found.consistency.trials) == (1, 2)
    # Left won in q0, q1, q2; in q3 and the first repeat the right one did; in the second repeat b stood left.
    assert (found.left.hits, found.left.trials) == (4, 6)
    assert (found.ties.hits, found.ties.trials) == (1, 7)
    assert found.seconds == 2.0
    assert (len(found.days), sum(found.days)) == (DAYS, found.days[-1]) == (DAYS, 8)
    later = datetime.now().astimezone().date().replace(year=2100)
    assert sum(profile(store, "ann", later).days) == 0
    assert profile(store, "bob").votes == 1
    assert found.habit == ""


def test_a_habit_is_named_only_beyond_chance(store):
    store.add_comparisons([said(i, Outcome.A, "a" if i % 10 else "b") for i in range(30)])
    found = profile(store, "ann")
    assert found.habit == "left"
    assert "you favour the left side: read both first" in profile_html(found, "ann")
    store.add_comparisons([said(i, Outcome.A, "b") for i in range(100, 122)])
    found = profile(store, "ann")
    assert found.habit == ""
    assert "no habit beyond chance" in profile_html(found, "ann")


def test_the_card_is_text_and_says_what_is_not_known(store):
    assert "appears with your first votes" in profile_html(profile(store, ""), "")
    store.add_comparison(said(0, Outcome.TIE, rater=EVIL, seconds=None))
    found = profile(store, EVIL)
    assert math.isnan(found.seconds)
    page = profile_html(found, EVIL)
    assert "<img" not in page
    assert "not known yet" in page
    assert "Time to decide" not in page
    assert "today 1" in page
