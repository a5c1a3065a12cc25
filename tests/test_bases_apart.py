"""Votes, prompts and demonstrations belong to the base they were about, and count for others only when asked."""

from __future__ import annotations

import pytest

from lorarlhf.data.exporting import write_votes
from lorarlhf.data.importing import import_file
from lorarlhf.data.practice import TYPED, practice_counts, practice_rows, prompts_in
from lorarlhf.errors import SettingsError
from lorarlhf.settings import PPOSettings
from lorarlhf.store import OTHERS
from lorarlhf.types import Comparison, Demonstration, Outcome, user
from lorarlhf.workspace import Workspace

ONE, TWO = "fingerprint-1", "fingerprint-2"


def vote(text: str) -> Comparison:
    return Comparison(user(text), "yes", "no", Outcome.A)


@pytest.fixture
def store(tmp_path):
    with Workspace(tmp_path).open().store() as made:
        yield made


def prompts(store) -> list[str]:
    return [row.value.prompt[0]["content"] for row in store.comparisons()]


def test_what_was_said_about_a_base_counts_there_and_what_belongs_to_none_everywhere(store):
    store.add_comparisons([vote("of a file")])
    store.belong(ONE)
    first = store.add_comparison(vote("about one"))
    store.add_demonstration(Demonstration(user("about one"), "so"))
    assert prompts(store) == ["of a file", "about one"]
    store.belong(TWO)
    store.add_comparison(vote("about two"))
    assert prompts(store) == ["of a file", "about two"]
    assert store.counts()["comparisons"] == 2
    assert store.outcomes() == {"a": 2}
    assert store.demonstrations() == []
    assert store.elsewhere() == {"comparisons": 1, "rankings": 0, "demonstrations": 1, "prompts": 0}
    # A run goes on with what it began with, and what was undone on another base stays so.
    assert [row.id for row in store.some("comparisons", [first])] == [first]
    store.set_meta(OTHERS, True)
    assert prompts(store) == ["of a file", "about one", "about two"]
    store.set_meta(OTHERS, False)
    assert prompts(store) == ["of a file", "about two"]
    store.belong("")
    assert len(prompts(store)) == 3


def test_the_same_may_be_said_about_two_bases_and_a_mended_row_stays_with_its_own(store, tmp_path):
    store.belong(ONE)
    old = store.add_comparison(vote("asked twice"))
    store.belong(TWO)
    assert store.fingerprints("comparisons") == set()
    store.replace("comparisons", old, Comparison(user("asked twice"), "yes", "no", Outcome.B))
    assert prompts(store) == []
    store.belong(ONE)
    assert [row.value.outcome for row in store.comparisons()] == [Outcome.B]
    write_votes(store, tmp_path / "all.jsonl", "lossless")
    with Workspace(tmp_path / "other").open().store() as other:
        import_file(other, tmp_path / "all.jsonl", "all")
        other.belong(TWO)
        assert prompts(other) == []
        other.belong(ONE)
        assert [row.value.outcome for row in other.comparisons()] == [Outcome.B]


def test_a_policy_practises_on_the_union_of_what_is_chosen(store):
    store.add_demonstration(Demonstration(user("shown"), "so"))
    assert prompts_in(practice_rows(store, ["imported", "votes"])) == [user("shown")]
    store.add_comparisons([vote("voted"), vote("both")])
    store.add_prompts([user("both"), user("brought")], "mail")
    store.add_prompts([user("by hand")], TYPED)
    assert practice_counts(store) == {"imported": 2, "typed": 1, "votes": 2, "demonstrations": 1}

    def asked(sources: str) -> set[str]:
        rows = practice_rows(store, PPOSettings(practise_on=sources).sources)
        return {prompt[0]["content"] for prompt in prompts_in(rows)}

    # One prompt that was typed takes nothing from those that were voted on.
    assert asked("imported, typed, votes") == {"both", "brought", "by hand", "voted"}
    assert asked("typed") == {"by hand"}
    assert asked("votes,demonstrations") == {"voted", "both", "shown"}
    for wrong in ("", "vote", "votes, all"):
        with pytest.raises(SettingsError, match="practise_on names"):
            PPOSettings.parse({"practise_on": wrong})
