"""Rounds read off adapters and votes, their figures against numbers by hand, and going back and forward again."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from lorarlhf import cli
from lorarlhf.errors import AdapterError
from lorarlhf.evaluate.health import judge_of
from lorarlhf.evaluate.round_figures import on_every_base, rounds_of
from lorarlhf.evaluate.round_words import best, cells, remarks, told, unscored, where
from lorarlhf.evaluate.rounds import Turn, course_now, course_of, go_to
from lorarlhf.library import delete_saved, list_on, revise_card
from lorarlhf.store import Contestant, Scored
from lorarlhf.types import Comparison, Origin, Outcome, Ranking, user
from lorarlhf.workspace import Workspace
from tests.test_ui_judge import put

SFT, PPO = "hash of sft-1", "hash of ppo-1"


def day(number: int, hour: int = 12) -> str:
    return f"2026-01-{number:02}T{hour:02}:00:00.000+00:00"


def vote(asked: str, *hashes: str, yes: str = "yes", outcome: Outcome = Outcome.A, source: str = "app") -> Comparison:
    """Somebody prefers `yes` to `no`."""
    origin = Origin(source=source, adapter_hashes=hashes, adapters=tuple("x" for _ in hashes))
    return Comparison(user(asked), yes, "no", outcome, origin=origin)


@pytest.fixture
def place(tmp_path):
    """Two whole rounds: sft-1, reward-1, ppo-1, reward-2, ppo-2, made on January 1, 3, 4, 6 and 7."""
    place = Workspace(tmp_path / "work").open()
    with place.store() as store:
        first = [store.insert(vote(f"one {i}?", SFT, SFT), created=day(2)) for i in range(4)]
        first.append(store.insert(vote("from a file?", source="import"), created=day(2)))
        run = store.start_run("reward", "reward-1", "starter", {}, {})
        store.finish_run(run, "done", {})
    put(place, "sft-1", "sft", created=day(1))
    learned = {"run": run, "settings": {"heldout_share": 0.0}, "data": {"comparisons": first}}
    right = {"eval/accuracy": 0.9, "eval/votes": 30.0}
    put(place, "reward-1", created=day(3), metrics=right, **learned)
    followed = {"sft": {"name": "sft-1", "hash": SFT}, "reward": {"name": "reward-1", "hash": "hash of reward-1"}}
    drift = {"eval/kl": 4.5, "eval/scores": 1.25, "eval/length": 30.0}
    put(place, "ppo-1", "ppo", created=day(4), parents=followed, metrics=drift)
    put(place, "reward-2", created=day(6))
    followed = {**followed, "reward": {"name": "reward-2", "hash": "hash of reward-2"}}
    put(place, "ppo-2", "ppo", created=day(7), parents=followed)
    return place


def course(place: Workspace, *turns: Turn):
    return course_of(list_on(place.adapters_dir, "f"), "f", turns)


def at(number: int, hour: int = 12) -> datetime:
    return datetime(2026, 1, number, hour, tzinfo=timezone.utc)


def named(found) -> list[tuple[int, str, list[str]]]:
    return [(one.number, one.name, [saved.name for saved in one.made]) for one in found.rounds.values()]


# -- which rounds there are -------------------------------------------------------------------------------------


def test_every_policy_begins_a_round_and_what_is_made_then_belongs_to_it(place):
    found = course(place)
    assert named(found) == [
        (1, "sft-1", ["sft-1", "reward-1", "ppo-1"]),
        (2, "ppo-1", ["reward-2", "ppo-2"]),
        (3, "ppo-2", []),
    ]
    assert [found.now.name, [one.name for one in found.path()]] == ["ppo-2", ["sft-1", "ppo-1", "ppo-2"]]
    assert [saved.name for saved in found.present] == ["sft-1", "reward-1", "ppo-1", "reward-2", "ppo-2"]
    assert named(course_of([], "f")) == [(1, "base", [])]


def test_a_vote_belongs_to_the_newest_policy_whose_answer_it_judges(place):
    found = course(place)
    assert found.of((SFT, SFT), at(9)) == "f"
    assert found.of(("f", "f"), at(9)) == "f"  # the bare base
    assert found.of((SFT, PPO), at(9)) == PPO
    assert found.of(("hash of ppo-2", PPO), at(9)) == "hash of ppo-2"
    assert found.of(("", PPO), at(9)) == PPO  # beside an answer the person wrote
    assert found.of((PPO, PPO), at(3)) == "f"  # of the same weights, before there was a policy
    assert [found.of((), at(i)) for i in (2, 5, 8)] == ["f", PPO, "hash of ppo-2"]  # from a file
    assert found.of(("deleted",), at(5)) == PPO
    assert found.of(("deleted",), at(5), frozenset({"deleted"})) == ""  # of an adapter on another base


def test_trying_ppo_again_on_the_same_reward_model_is_no_new_round(place):
    followed = {"reward": {"name": "reward-1", "hash": "hash of reward-1"}}
    put(place, "ppo-3", "ppo", created=day(4, 20), parents=followed)
    found = course(place)
    assert [(one.number, one.name) for one in found.rounds.values()][:3] == [(1, "sft-1"), (2, "ppo-1"), (2, "ppo-3")]
    assert [saved.name for saved in found.rounds["f"].policies()] == ["ppo-1", "ppo-3"]
    assert [one.name for one in found.path()] == ["sft-1", "ppo-3", "ppo-2"]  # reward-2 learned while ppo-3 answered
    assert found.policy(found.rounds["f"]).name == "ppo-3"  # the one that led here


def test_going_back_leaves_out_what_came_later_and_going_forward_brings_it_back(place):
    back = course(place, Turn(at(8), PPO))
    assert (back.now.name, [saved.name for saved in back.present]) == (
        "ppo-1",
        ["sft-1", "reward-1", "ppo-1", "reward-2"],
    )
    start = course(place, Turn(at(8), "f"))
    assert [start.newest(stage) and start.newest(stage).name for stage in ("sft", "reward", "ppo")] == [
        "sft-1",
        "reward-1",
        None,
    ]
    again = course(place, Turn(at(8), "f"), Turn(at(9), "hash of ppo-2"))
    assert again.present == course(place).present
    assert again.rounds == course(place).rounds
    assert course(place, Turn(at(8), "gone")).now.name == "ppo-2"  # its adapter was deleted since


def test_what_is_made_after_going_back_belongs_there_and_is_what_is_meant(place):
    put(place, "reward-3", created=day(10))
    followed = {"reward": {"name": "reward-3", "hash": "hash of reward-3"}}
    put(place, "ppo-3", "ppo", created=day(11), parents=followed)
    found = course(place, Turn(at(9), "f"))
    assert named(found)[0] == (1, "sft-1", ["sft-1", "reward-1", "ppo-1", "reward-3", "ppo-3"])
    assert (found.now.name, found.now.number, found.newest("reward").name) == ("ppo-3", 2, "reward-3")
    assert [one.name for one in found.path()] == ["sft-1", "ppo-3"]
    assert (found.reward(found.rounds["f"]).name, found.policy(found.rounds["f"]).name) == ("reward-3", "ppo-3")
    assert found.of((), at(10)) == "f"  # a file, dropped in meanwhile


def test_a_round_is_gone_to_in_the_workspace_and_votes_stay(place):
    saved = list_on(place.adapters_dir, "f")
    with place.store() as store:
        votes = store.comparisons()
        assert go_to(store, saved, "f", PPO).name == "ppo-1"
        assert course_now(store, saved, "f").now.name == "ppo-1"
        go_to(store, saved, "f", PPO)  # pressed twice
        assert len(course_now(store, saved, "f").turns) == 4  # the start, two policies, and this
        go_to(store, saved, "f", "hash of ppo-2")
        assert course_now(store, saved, "f").present == course(place).present
        with pytest.raises(AdapterError, match="not here any more"):
            go_to(store, saved, "f", "nobody")
        assert store.comparisons() == votes


# -- their figures ----------------------------------------------------------------------------------------------


def second_round(place: Workspace, right: int, of: int) -> None:
    """Votes on ppo-1's answers, which reward-1 scores as people do in `right` of them, and a few that do not count."""
    with place.store() as store:
        ids = [store.insert(vote(f"one {i % 4}?", PPO, PPO, yes=f"sure {i}"), created=day(5)) for i in range(of)]
        store.insert(vote("one 0?", PPO, PPO, source="script"), created=day(5))
        store.insert(vote("one 1?", PPO, PPO, outcome=Outcome.SKIP), created=day(5))
        store.insert(replace(vote("one 2?", PPO, PPO), origin=Origin("bob", adapter_hashes=(PPO, PPO))), created=day(5))
        store.insert(vote("of a file?", source="import"), created=day(5))
        store.insert(
            Ranking(user("three?"), ("x", "y", "z"), (1, 1, 1), Origin(adapter_hashes=(PPO,) * 3)), created=day(5)
        )
        judge = judge_of(next(one for one in list_on(place.adapters_dir, "f") if one.name == "reward-1"))
        scored = [(row.value.prompt, row.value.a, row.id in ids[:right]) for row in store.comparisons()]
        store.add_scores(judge, [(prompt, text, Scored(1.0 if up else -1.0, 5)) for prompt, text, up in scored])
        store.add_scores(
            judge, [(prompt, "no", Scored(0.0, 5)) for prompt, _, _ in scored if prompt != user("of a file?")]
        )


def figures(place: Workspace):
    with place.store() as store:
        return rounds_of(store, list_on(place.adapters_dir, "f"), "f")


def test_the_reward_model_of_a_round_is_tested_on_the_votes_of_the_next(place):
    second_round(place, right=15, of=40)
    first, second, third = figures(place).rows
    # 40 votes, bob's, the file's and the ranking; the script's apart, and no skip.
    counts = [(row.votes, row.imported, row.scripted) for row in (first, second, third)]
    assert counts == [(5, 1, 0), (43, 1, 1), (0, 0, 0)]
    # Wilson by hand: (0.9 + 1.9208/30) / (1 + 3.8415/30) ± 0.1108, and (0.375 + 1.9208/40) / (1 + 3.8415/40) ± 0.1437
    assert (first.heldout.hits, first.heldout.low, first.heldout.high) == pytest.approx((27, 0.7438, 0.9654), abs=1e-4)
    # Bob's vote is on a pair it learned from, the file's is not scored, the ranking is all ties.
    assert (first.next.hits, first.next.trials, first.unscored) == (15, 40, 1)
    assert (first.reward, first.policy, second.reward, second.policy) == ("reward-1", "ppo-1", "reward-2", "ppo-2")
    assert not second.next
    assert math.isnan(first.drift.low)
    assert (first.drift.kl, first.drift.reward, first.drift.length, first.drift.measured) == (4.5, 1.25, 30.0, False)
    assert second.drift is None


def test_a_vote_of_the_next_round_that_it_did_learn_from_is_no_test(place):
    second_round(place, right=15, of=40)
    (reward,) = (one for one in list_on(place.adapters_dir, "f") if one.name == "reward-1")
    with place.store() as store:
        ids = [row.id for row in store.comparisons() if row.value.a in ("sure 0", "sure 39")]
    revise_card(reward, {"data": {"comparisons": [*reward.card["data"]["comparisons"], *ids]}})
    first = figures(place).rows[0]
    assert (first.next.hits, first.next.trials, first.unscored) == (14, 38, 1)


def test_the_interval_on_as_many_prompts_as_votes_is_wilsons(place):
    with place.store() as store:
        for i in range(40):
            store.insert(vote(f"new {i}?", PPO, PPO), created=day(5))
        judge = judge_of(next(one for one in list_on(place.adapters_dir, "f") if one.name == "reward-1"))
        new = [row.value.prompt for row in store.comparisons() if row.value.prompt[0]["content"].startswith("new")]
        store.add_scores(judge, [(p, "yes", Scored(float(i < 15), 5)) for i, p in enumerate(new)])
        store.add_scores(judge, [(p, "no", Scored(0.5, 5)) for p in new])
    share = figures(place).rows[0].next
    assert (share.value, share.low, share.high) == pytest.approx((0.375, 0.2422, 0.5297), abs=1e-4)


def test_a_reward_model_that_fails_on_the_next_rounds_votes_is_told_in_words(place):
    second_round(place, right=15, of=40)
    found = figures(place)
    said = [str(remark) for remark in remarks(found)]
    assert len(said) == 1
    assert said[0].startswith("reward-1 is right about 38% (")
    assert "of 40 votes of round 2, on answers of ppo-1, where it was right about 90% (74% to 97%) of those" in said[0]
    assert "reward-2 has learned from them since: let PPO go on with that one" in said[0]
    delete_saved(place.adapters_dir, "reward-2")
    (said,) = map(str, remarks(figures(place)))
    assert said.endswith("Train a new reward model on the votes of round 2 before PPO goes on.")
    assert unscored(found) == [("reward-1", 1)]


def test_a_reward_model_that_holds_on_the_next_rounds_votes_is_spoken_well_of_by_silence(place):
    second_round(place, right=36, of=40)
    assert remarks(figures(place)) == []


def duel(place: Workspace, other: str, wins: int, losses: int, of: str = PPO) -> None:
    with place.store() as store:
        prompts = [user(f"blind {of} {other} {i}?") for i in range(wins + losses)]
        number = store.start_duel([Contestant("a", of), Contestant("b", other)], "f", prompts, {})
        for i, prompt in enumerate(prompts):
            said = Outcome.A if i < wins else Outcome.B
            origin = Origin(source="duel", adapter_hashes=(of, other))
            store.add_duel_vote(number, Comparison(prompt, "yes", "no", said, origin=origin))


def test_a_policy_is_set_against_who_answered_in_its_round_and_the_best_is_kept_by_blind_votes(place):
    duel(place, SFT, 40, 10)
    duel(place, SFT, 26, 24, of="hash of ppo-2")
    found = figures(place)
    first, second, third = found.rows
    assert (first.wins.share.hits, first.wins.votes, first.wins.settled) == (40, 50, "first")
    assert second.wins.votes == 0  # ppo-2 never met ppo-1
    assert (first.votes, second.votes, third.votes) == (5, 50, 50)  # a blind vote is one on the policy's answers
    assert (found.against, found.best.adapter) == ("sft-1", "ppo-1")
    assert best(found) == "By blind votes ppo-1 is the one to keep: it wins 80% (58% to 94%) of 50 votes against sft-1"
    duel(place, PPO, 2, 30, of="hash of ppo-2")
    said = [str(remark) for remark in remarks(figures(place))]
    lost = next(one for one in said if "ppo-2 wins only 6%" in one)
    assert lost.endswith("Go back to round 2, rate more answers there, and train again.")


def test_the_table_says_what_is_known(place):
    second_round(place, right=15, of=40)
    found = figures(place)
    assert cells(found.rows[0])[2] == "5 (1 from files)"
    # Who wrote what was voted on, whoever answers in that round by now.
    assert cells(replace(found.rows[0], wrote=("base", "sft-1")))[1] == "base, sft-1"
    assert found.rows[1].wrote == ("ppo-1",)
    assert cells(found.rows[1])[:4] == ("2", "ppo-1", "43 of people (1 from files), 1 scripted", "reward-2")
    assert where(found) == "Round 3: ppo-2 answers, with 0 votes so far"
    assert "1 pair of the next round not scored by reward-1: `lorarlhf judge reward reward-1`" in told(found)


def test_votes_of_the_scripted_rater_stand_apart_in_words_and_are_not_hidden(tmp_path):
    place = Workspace(tmp_path / "demo").open()
    with place.store() as store:
        # As the demo writes them: without a word on who wrote the answers.
        said = [vote(f"{i}?", source="script", outcome=o) for i, o in enumerate([Outcome.A] * 3 + [Outcome.SKIP])]
        store.add_comparisons(said)
        (found,) = on_every_base(store, place).values()
    assert where(found) == "Round 1: base answers, with 0 votes of people and 3 scripted so far"
    assert cells(found.now)[2] == "0 of people, 3 scripted"
    (row,) = found.as_json()["rounds"]
    assert (row["votes"], row["imported"], row["scripted"]) == (0, 0, 3)


def terminal(place: Workspace, monkeypatch, capsys, *options: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["lorarlhf", "judge", "rounds", *options, "--workspace", str(place.path)])
    status = 0
    try:
        cli.main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    return status, capsys.readouterr().out


def test_the_terminal_prints_the_table_and_goes_back(place, monkeypatch, capsys):
    second_round(place, right=15, of=40)
    status, out = terminal(place, monkeypatch, capsys)
    assert status == 0
    assert [line[0] for line in out.splitlines() if line[3:4].isdigit()] == [" ", " ", ">"]
    status, out = terminal(place, monkeypatch, capsys, "--go-to", "ppo-1", "--json")
    (on,) = json.loads(out)
    assert [(row["answers"], row["on"], row["led"]) for row in on["rounds"]] == [
        ("sft-1", False, True),
        ("ppo-1", True, True),
        ("ppo-2", False, False),
    ]
    assert on["rounds"][0]["next"]["value"] == 0.375
    assert terminal(place, monkeypatch, capsys, "--go-to", "nobody")[0] == 1
    assert "Not on the way here, but still there with all votes: ppo-2" in terminal(place, monkeypatch, capsys)[1]


def test_a_workspace_of_votes_alone_has_its_first_round_and_each_base_its_own(place, tmp_path):
    other = Workspace(tmp_path / "other").open()
    with other.store() as store:
        store.add_comparison(vote("one?"))
        (found,) = on_every_base(store, other).values()
        assert [(row.name, row.votes, row.imported) for row in found.rows] == [("base", 1, 1)]
        # On answers of a base that is not loaded here, or of an adapter that was deleted since: from no file.
        store.add_comparison(vote("two?", "a base", "a base"))
        (found,) = on_every_base(store, other).values()
        assert [(row.votes, row.imported) for row in found.rows] == [(2, 1)]
    put(place, "sft-9", "sft", created=day(9), base={"fingerprint": "g", "name": "another"})
    with place.store() as store:
        store.add_comparison(vote("one?", "hash of sft-9", "g"))
        store.add_comparison(vote("two?", PPO, PPO))
        there = on_every_base(store, place)
        assert {base: [row.votes for row in found.rows] for base, found in there.items()} == {"f": [5, 1, 0], "g": [2]}
