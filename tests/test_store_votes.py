"""Votes: added, undone, replaced, never lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorarlhf.errors import StoreError
from lorarlhf.store import Store, fingerprint
from lorarlhf.types import Comparison, Demonstration, Message, Origin, Outcome, Ranking, user
from tests.votes import comparisons, demonstrations, prompts, rankings

VOTE = Comparison(user("Why?"), "Because.", "No idea.", Outcome.A)


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "workspace.db") as opened:
        yield opened


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_goes_in_comes_out(store: Store, data) -> None:
    vote = data.draw(comparisons())
    ranking, demonstration, prompt = data.draw(rankings()), data.draw(demonstrations()), data.draw(prompts())
    ids = store.add_comparison(vote), store.add_ranking(ranking), store.add_demonstration(demonstration)
    store.add_prompts([prompt], queue="q")
    rows = store.comparisons()[-1], store.rankings()[-1], store.demonstrations()[-1], store.prompts("q")[-1]
    assert tuple(row.id for row in rows[:3]) == ids
    assert [row.value for row in rows] == [vote, ranking, demonstration, prompt]


def test_many_are_added_all_or_none(store: Store) -> None:
    bad = replace(VOTE, repeats=999)
    with pytest.raises(StoreError, match="repeats = 999"):
        store.add_comparisons([VOTE, bad])
    assert store.history() == []
    assert store.add_comparisons([VOTE, replace(VOTE, a="Since.")]) == [1, 2]


@pytest.mark.parametrize(
    ("vote", "words"),
    [
        (replace(VOTE, a="\ud800"), "half a character"),
        (replace(VOTE, prompt=user("\udfff")), "half a character"),
        (replace(VOTE, strength=2**70), "too large"),
        (replace(VOTE, prompt=()), "without a single message"),
        (replace(VOTE, left="middle"), "cannot be stored"),
        (replace(VOTE, origin=Origin(sampling={"x": object()})), "JSON"),
    ],
)
def test_what_cannot_be_stored_is_refused_in_words(store: Store, vote: Comparison, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        store.add_comparison(vote)
    assert store.history() == []
    store.add_comparison(VOTE)  # the failed transaction left nothing open


def test_a_value_of_another_kind_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="does not belong among the comparisons"):
        store.add_comparisons([Demonstration(user("x"), "y")])  # type: ignore[list-item]


def test_undo_hides_a_row_and_keeps_it_in_the_history(store: Store) -> None:
    first, second = store.add_comparisons([VOTE, replace(VOTE, a="Since.")])
    store.undo("comparisons", first)
    assert [row.id for row in store.comparisons()] == [second]
    history = store.history("comparisons")
    assert [row.id for row in history] == [first, second]
    assert history[0].value == VOTE
    assert history[0].undone > history[0].created
    assert history[1].undone == ""
    assert store.counts() == {
        **{"comparisons": 1, "rankings": 0, "demonstrations": 0, "prompts": 0},
        **{"raters": 1, "undone": 1},
    }


def test_undo_says_what_it_cannot_undo(store: Store) -> None:
    id = store.add_comparison(VOTE)
    store.undo("comparisons", id)
    with pytest.raises(StoreError, match="row 1 of the comparisons was undone before"):
        store.undo("comparisons", id)
    with pytest.raises(StoreError, match="there is no row 7 among the comparisons"):
        store.undo("comparisons", 7)
    with pytest.raises(StoreError, match="did you mean comparisons"):
        store.undo("comparison", id)


def test_replace_keeps_the_old_row(store: Store) -> None:
    old = store.add_comparison(VOTE)
    new = store.replace("comparisons", old, replace(VOTE, outcome=Outcome.TIE))
    assert [(row.id, row.value.outcome) for row in store.comparisons()] == [(new, Outcome.TIE)]
    history = store.history("comparisons")
    assert (history[0].value, history[0].replaced_by) == (VOTE, new)
    with pytest.raises(StoreError, match="undone before"):
        store.replace("comparisons", old, VOTE)
    assert len(store.history()) == 2  # the failed replacement added nothing
    with pytest.raises(StoreError, match="cannot replace"):
        store.replace("comparisons", new, Demonstration(user("x"), "y"))


def test_a_replaced_prompt_stays_in_its_queue(store: Store) -> None:
    (id,) = store.add_prompts([user("a")], queue="evening")
    store.add_prompts([user("b")])
    store.replace("prompts", id, user("c"))
    assert [row.value for row in store.prompts("evening")] == [user("c")]
    assert len(store.prompts()) == 2


def test_ids_are_never_given_twice(store: Store) -> None:
    store.add_comparison(VOTE)
    newest = store.add_comparison(VOTE)
    store.query("DELETE FROM comparisons WHERE id = ?", (newest,))  # what a person's own tool might do
    assert store.add_comparison(VOTE) == newest + 1


def test_outcomes_and_raters_are_counted(store: Store) -> None:
    by = [replace(VOTE, origin=Origin(rater=name)) for name in ("ann", "bob", "ann")]
    store.add_comparisons([*by, replace(VOTE, outcome=Outcome.SKIP)])
    assert store.outcomes() == {"a": 3, "skip": 1}
    assert store.counts()["raters"] == 3  # one gave no name


def test_meta_keeps_json(store: Store) -> None:
    assert store.get_meta("base") is None
    store.set_meta("base", {"id": "starter", "bits": 4})
    store.set_meta("base", {"id": "other", "bits": 8})
    assert store.get_meta("base") == {"id": "other", "bits": 8}


def test_the_fingerprint_sees_what_was_said_and_nothing_else() -> None:
    name = fingerprint(VOTE)
    assert fingerprint(VOTE.swap()) == name
    assert fingerprint(replace(VOTE, strength=2)) == name
    assert fingerprint(replace(VOTE, outcome=Outcome.B)) != name
    assert fingerprint(replace(VOTE, a="b")) != name
    assert fingerprint(replace(VOTE, origin=Origin(rater="ann"))) != name
    assert fingerprint(replace(VOTE, prompt=(Message(role="user", content="Who?"),))) != name
    one = Ranking(user("x"), ("p", "q", "r"), (1, 2, 3))
    assert fingerprint(one) == fingerprint(Ranking(user("x"), ("r", "q", "p"), (3, 2, 1)))
    assert fingerprint(one) != fingerprint(Ranking(user("x"), ("r", "q", "p"), (1, 2, 3)))


def test_other_programs_can_query_plain_columns(store: Store) -> None:
    store.add_comparison(replace(VOTE, origin=Origin(rater="ann", round=3, seconds=2.5)))
    row = store.query("SELECT outcome, strength, rater, round, seconds, a, b FROM live_comparisons")[0]
    assert tuple(row) == ("a", 1, "ann", 3, 2.5, "Because.", "No idea.")
