"""A reward model's figures from votes whose truth is known, and what the rules say about planted faults."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lorarlhf.data.pairs import Pair
from lorarlhf.evaluate.health import Drawn, Health, figures, health_of, judge_of
from lorarlhf.evaluate.telling import FINE, told
from lorarlhf.evaluate.votes import SECOND_LOOK, ScoredPair, answers_of, asked_twice, learned_of, second_looks
from lorarlhf.evaluate.warnings import RULES, warnings
from lorarlhf.library import CARD, SavedAdapter, read_saved
from lorarlhf.store import Scored, Store
from lorarlhf.types import Comparison, Origin, Outcome, Ranking, is_heldout, user

A, B = Outcome.A, Outcome.B


def pairs(
    number: int = 200,
    score: Callable[[float, int], float] = lambda quality, tokens: quality,
    vote: Callable[[float, float, str], bool] = lambda one, two, rater: one > two,
    seed: int = 0,
    **more: object,
) -> list[ScoredPair]:
    """Pairs of answers of known quality and length; a person votes by `vote`, the model scores by `score`."""
    rng, found = random.Random(seed), []
    for i in range(number):
        rater = rng.choice(["ann", "ann", "bob"])
        answers = [(rng.gauss(0, 2), rng.randint(5, 60)) for _ in range(2)]
        first = vote(answers[0][0], answers[1][0], rater)
        (chosen, long), (rejected, short) = answers if first else answers[::-1]
        pair = Pair(user(f"question {i}"), f"chosen {i}", f"rejected {i}")
        scored = Scored(score(chosen, long), long), Scored(score(rejected, short), short)
        found.append(ScoredPair("comparisons", i, pair, *scored, learned=i % 3 == 0, rater=rater, **more))
    return found


def noisy(seed: int = 3, share: float = 0.12) -> Callable[[float, float, str], bool]:
    """A person who is wrong now and then."""
    rng = random.Random(seed)
    return lambda one, two, rater: (one > two) != (rng.random() < share)


def words(health: Health) -> str:
    return "\n".join(map(str, warnings(health)))


GOOD = {"vote": noisy()}


def good(**more: object) -> Health:
    return figures("reward-1", pairs(**{**GOOD, "vote": noisy()}), **more)


# -- figures ----------------------------------------------------------------------------------------------------


def test_the_figures_of_six_votes_by_hand():
    def one(i: int, gap: float, chosen: int, rejected: int, **more: object) -> ScoredPair:
        pair = Pair(user(f"q{i // 2}"), f"c{i}", f"r{i}", **more)
        return ScoredPair("comparisons", i, pair, Scored(gap, chosen), Scored(0.0, rejected), learned=False)

    some = [
        one(0, 1.0, 10, 5),  # right, the longer one by far
        one(1, 2.0, 10, 9, criteria=(("kind", B),)),  # right, about as long; wrong about kindness
        one(2, -1.0, 4, 9),  # wrong, less than half as long
        one(3, 3.0, 6, 9),  # right, shorter
        one(4, 0.0, 8, 8),  # no difference: half right
        one(5, 5.0, 1, 2, tie=True, criteria=(("kind", A),)),  # a tie, but kinder
        replace(one(6, -9.0, 5, 5), learned=True),
    ]
    found = figures("r", some)
    assert (found.accuracy.hits, found.accuracy.trials, found.prompts) == (3.5, 5, 3)
    assert (found.learned.hits, found.learned.trials) == (0, 1)
    assert {name: (s.hits, s.trials) for name, s in found.length.buckets} == {
        "less than half as long": (0, 1),
        "shorter": (1, 1),
        "about as long": (1.5, 2),
        "longer": (1, 1),  # twice as long is not more than twice
        "more than twice as long": (0, 0),
    }
    assert (found.length.person.hits, found.length.person.trials) == (2, 4)
    # It takes the longer one in pairs 0 and 1 with the person, in 2 against them.
    assert (found.length.model.hits, found.length.longer_of_differing.hits) == (3, 1)
    (kind,) = found.groups["criterion"]
    assert (kind.heldout.hits, kind.heldout.trials) == (1, 2)
    assert [one.row for one in found.disagreements] == [6, 2]
    assert len(found.voted) == 14
    json.dumps(found.as_json(), allow_nan=False)


def test_a_ranking_weighs_as_one_vote_and_nothing_can_be_said_about_no_votes():
    some = [replace(one, pair=one.pair._replace(weight=1 / 3)) for one in pairs(6)]
    assert figures("r", some).accuracy.trials == pytest.approx(4 / 3)
    empty = figures("r", [])
    assert "no vote on a prompt it never learned from" in words(empty)
    assert "Nobody knows yet how good r is" in told(empty)
    json.dumps(empty.as_json(), allow_nan=False)


def twice(same: int, other: int, side: str = "a") -> list[tuple[Comparison, Comparison]]:
    """Pairs asked again, with sides swapped: the same was said of some, of the others the same side won twice."""
    one = Comparison(user("q"), "x", "y", A, left=side)
    again = replace(one, left="b" if side == "a" else "a", repeats=1)
    return [(one, again)] * same + [(one, replace(again, outcome=B))] * other


def test_what_the_person_does():
    found = good(twice=[*twice(8, 2), (twice(1, 0)[0][0], replace(twice(1, 0)[0][1], outcome=Outcome.TIE))])
    assert (found.consistency.hits, found.consistency.trials) == (8, 10)
    assert found.ceiling == pytest.approx((0.8, (1 + 0.6**0.5) / 2))
    assert (found.position.kept_side.hits, found.position.kept_side.trials) == (2, 2)
    found = good(sides=[True] * 30 + [False] * 10, first=[(1.0, 3), (0.0, 3), (0.5, 2)])
    assert (found.position.left.hits, found.position.chance) == (30, pytest.approx(0.0022, abs=1e-4))
    assert (found.position.first.hits, found.position.first_expected) == (1.5, pytest.approx((2 / 3 + 0.5) / 3))


# -- the rules: each fires on what was planted, and stays silent on a good model ----------------------------------


def test_a_good_model_has_nothing_said_against_it():
    for seed in range(30):
        rng = random.Random(seed)
        health = figures(
            "reward-1",
            pairs(240, vote=noisy(seed), seed=seed),
            twice=twice(36, 6),
            sides=[rng.random() < 0.5 for _ in range(200)],
            drawn=drawn(rng),
        )
        said = [remark for remark in warnings(health) if "preferred the" not in remark.seen]
        assert not said, (seed, said)  # of left and right the next test counts the false alarms
    assert FINE in told(good())


def test_left_or_right_is_said_of_one_fair_person_in_twenty():
    rng = random.Random(0)
    quiet = good()
    alarms = 0
    for _ in range(300):
        sides = [rng.random() < 0.5 for _ in range(200)]
        left = figures("r", [], sides=sides).position
        alarms += "preferred the" in words(replace(quiet, position=left))
    assert 0.02 <= alarms / 300 <= 0.08


def drawn(rng: random.Random, base: float = -1.0, sft: float = 1.0, ppo: float = 2.0, wide: float = 1.5) -> list[Drawn]:
    """Fresh answers of base, SFT and policy, 32 each."""
    means = (("base", "", base), ("sft-1", "sft", sft), ("ppo-1", "ppo", ppo))
    return [Drawn(n, stage, tuple(rng.gauss(m, wide) for _ in range(32)), (9,) * 32) for n, stage, m in means]


def flipped(one: float, two: float, rater: str) -> bool:
    return (one > two) != (rater == "bob")


def in_round(health: Health, *shares: tuple[float, int]) -> Health:
    rng = random.Random(0)
    some = [
        replace(one, round=number, chosen=Scored(1.0 if rng.random() < right else -1.0, 5), rejected=Scored(0.0, 5))
        for number, (right, votes) in enumerate(shares)
        for one in pairs(votes, seed=number)
    ]
    return figures("r", [replace(one, learned=False) for one in some])


def longer(share: float) -> list[ScoredPair]:
    """Pairs whose better answer is the longer one this often."""
    some, rng = pairs(200, seed=4), random.Random(0)
    return [
        replace(one, chosen=one.chosen._replace(tokens=40), rejected=one.rejected._replace(tokens=20))
        if rng.random() < share
        else replace(one, chosen=one.chosen._replace(tokens=20), rejected=one.rejected._replace(tokens=40))
        for one in some
    ]


def by_heart(one: ScoredPair) -> ScoredPair:
    return replace(one, chosen=one.chosen._replace(score=99.0)) if one.learned else one


ILL: list[tuple[str, Callable[[], Health]]] = [
    ("There is no vote on a prompt", lambda: figures("r", [replace(p, learned=True) for p in pairs(90)])),
    ("It is judged by 10 votes it never learned from, which leaves", lambda: figures("r", pairs(15))),
    ("it may be guessing", lambda: figures("r", pairs(90, score=lambda q, t: random.Random(q).gauss(0, 1)))),
    (
        "it does better than chance, but",
        lambda: figures("r", pairs(1800, score=lambda q, t: q + random.Random(q).gauss(0, 7))),
    ),
    ("It prefers the longer answer in 100%", lambda: figures("r", pairs(score=lambda q, t: t / 4))),
    ("It prefers the shorter answer in 100%", lambda: figures("r", pairs(score=lambda q, t: -t / 4))),
    ("of your votes the better answer is the longer one", lambda: figures("r", longer(0.93))),
    ("of the votes of bob; with 100% of the others'", lambda: figures("r", pairs(vote=flipped))),
    (
        "better on “kind” in only 0%",
        lambda: figures("r", [replace(p, pair=p.pair._replace(criteria=(("kind", B),))) for p in pairs(90)]),
    ),
    ("On answers of the newest policy it is right about", lambda: in_round(good(), (0.9, 100), (0.55, 60))),
    ("of the answers of ppo-1 score higher than 99 %", lambda: good(drawn=drawn(random.Random(0), ppo=9.0))),
    ("It scores the answers of sft-1 higher than the bare", lambda: good(drawn=drawn(random.Random(0), base=3.0))),
    ("Scores of fresh answers of sft-1 lie within", lambda: good(drawn=drawn(random.Random(0), wide=0.05))),
    (
        "much of what it knows it knows by heart",
        lambda: figures(
            "r",
            [replace(p, chosen=p.chosen._replace(score=99.0)) if p.learned else p for p in pairs(vote=noisy(1, 0.3))],
        ),
    ),
    (
        "so that PPO takes its mistakes for great differences",
        lambda: figures("r", pairs(score=lambda q, t: 9 * q, vote=noisy(1, 0.3))),
    ),
    ("Of pairs asked a second time you said the same in 58%", lambda: good(twice=twice(21, 15))),
    ("You preferred the left answer in 75% of 40 votes", lambda: good(sides=[True] * 30 + [False] * 10)),
    ("You preferred the right answer in 75% of 40 votes", lambda: good(sides=[False] * 30 + [True] * 10)),
]


@pytest.mark.parametrize(("said", "make"), ILL, ids=[said[:40] for said, _ in ILL])
def test_what_speaks_against_ppo_is_said_and_nothing_else_is(said, make):
    found = warnings(make())
    hits = [remark for remark in found if said in str(remark)]
    assert len(hits) == 1, found
    assert hits[0].do
    # Who goes by length alone is also right half of the time.
    others = [remark for remark in found if remark not in hits and "it may be guessing" not in remark.means]
    assert not others


def test_every_rule_has_its_case():
    fired = set()
    for _, make in ILL:
        health = make()
        fired |= {rule.__name__ for rule in RULES if rule(health)}
    assert fired == {rule.__name__ for rule in RULES}


def test_a_rater_who_swaps_the_keys_is_found_by_votes_it_learned_from_as_well():
    some = [replace(one, learned=True) if one.rater == "bob" else one for one in pairs(vote=flipped)]
    assert "votes of bob, though it learned from them" in words(figures("r", some))


# -- which votes are new to it ----------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with Store(tmp_path / "work.db") as store:
        yield store


def saved(
    folder: Path, name: str, rows: list[int], run: str, parent: tuple[str, str] = ("base", ""), **more: object
) -> SavedAdapter:
    (folder / name).mkdir(parents=True)
    card = {
        "hashes": {"adapter": f"hash of {name}", "head": "h"},
        "base": {"fingerprint": "f", "name": "b"},
        "stage": "reward",
        "run": run,
        "created": name,
        "settings": {"heldout_share": 0.3},
        "data": {"comparisons": rows, "rankings": []},
        "parents": {"parent": {"name": parent[0], "hash": parent[1]}},
        **more,
    }
    (folder / name / CARD).write_text(json.dumps(card))
    return read_saved(folder / name)


def run_of(store: Store, name: str, rows: list[int], parent: str = "base") -> str:
    parents = {"data": {"comparisons": rows, "rankings": []}, "adapters": {"parent": parent}}
    return store.start_run("reward", name, "b", {"heldout_share": 0.3}, parents)


def ask(store: Store, prompts: list[str]) -> list[int]:
    return store.add_comparisons(Comparison(user(p), f"yes {p}", f"no {p}", A, origin=Origin()) for p in prompts)


def test_no_vote_on_a_prompt_it_learned_from_is_counted_as_new(store, tmp_path):
    first = [f"Question {i}?" for i in range(40)]
    ids = ask(store, first)
    reward = saved(tmp_path / "adapters", "reward-1", ids, run_of(store, "reward-1", ids))
    # Cast later: on the same prompts again in other letters, and on prompts it never saw.
    ask(store, [f"  question {i}? " for i in range(40)])
    ask(store, [f"Other {i}?" for i in range(40)])
    learned = learned_of(store, reward)
    kept = {p for p in first if is_heldout(user(p), 0.3)}
    assert 5 < len(kept) < 25
    for prompt in first:
        assert learned.about(user(prompt)) == (prompt not in kept)
        assert learned.about(user(prompt.upper())) == (prompt not in kept)
    assert not any(learned.about(user(f"Other {i}?")) for i in range(40))
    store.add_scores(
        judge_of(reward), [(p, a, Scored(1.0 if a.startswith("yes") else 0.0, 3)) for p, a in answers_of(store)]
    )
    health = health_of(store, reward)
    assert (health.accuracy.trials, health.prompts) == (2 * len(kept) + 40, len(kept) + 40)
    assert health.learned.trials == 2 * (40 - len(kept))
    times = {group.name: group.heldout.trials for group in health.groups["time"]}
    assert times == {"kept apart in training": len(kept), "cast since it was trained": len(kept) + 40}


def test_what_its_forerunners_learned_from_is_not_new_either(store, tmp_path):
    folder = tmp_path / "adapters"
    old, new = ask(store, [f"Old {i}?" for i in range(20)]), ask(store, [f"New {i}?" for i in range(20)])
    first = saved(folder, "reward-1", old, run_of(store, "reward-1", old))
    second = saved(folder, "reward-2", new, run_of(store, "reward-2", new, "reward-1"), ("reward-1", first.hash))
    heldout = [i for i in range(20) if is_heldout(user(f"Old {i}?"), 0.3)]

    def check(learned) -> None:
        assert [i for i in range(20) if not learned.about(user(f"Old {i}?"))] == heldout
        assert not learned.caveats

    check(learned_of(store, second))
    (folder / "reward-1").rename(folder / "renamed")
    check(learned_of(store, second))
    for file in (folder / "renamed").iterdir():
        file.unlink()
    (folder / "renamed").rmdir()
    check(learned_of(store, second))  # deleted: its run still knows
    strange = saved(folder, "reward-3", new, run_of(store, "reward-3", new), ("lost", "no such hash"))
    assert "lost, which it started from, is gone" in learned_of(store, strange).caveats[0]


def test_a_reward_model_that_kept_the_weights_it_started_from_is_not_its_own_forerunner(store, tmp_path):
    folder = tmp_path / "adapters"
    ids = ask(store, [f"Question {i}?" for i in range(20)])
    sft = saved(folder, "sft-1", [], "", stage="sft", created="1")
    reward = saved(folder, "reward-1", ids, run_of(store, "reward-1", ids, "sft-1"), ("sft-1", sft.hash))
    card = {**reward.card, "created": "2", "hashes": {**reward.card["hashes"], "adapter": sft.hash}}
    (reward.path / CARD).write_text(json.dumps(card))
    learned = learned_of(store, read_saved(reward.path))
    assert not learned.caveats
    assert learned.keys == {f"question {i}?" for i in range(20) if not is_heldout(user(f"Question {i}?"), 0.3)}


def test_of_an_adapter_from_elsewhere_only_the_hash_tells(store, tmp_path):
    ids = ask(store, [f"Question {i}?" for i in range(30)])
    learned = learned_of(store, saved(tmp_path / "adapters", "mine", ids, "run of another workspace"))
    assert all(learned.about(user(f"Q {i}?")) != is_heldout(user(f"Q {i}?"), 0.3) for i in range(50))
    assert "are not in this workspace" in learned.caveats[0]


def test_a_pair_asked_twice_counts_once_and_a_second_look_does_not_measure_the_person(store, tmp_path):
    (one, two, three) = ask(store, ["a?", "b?", "c?"])
    first = store.comparisons()[0].value
    store.add_comparison(replace(first, outcome=B, left="b", repeats=one))
    looked = store.comparisons()[1].value.swap()
    store.add_comparison(replace(looked, outcome=A, repeats=two, origin=Origin(source=SECOND_LOOK)))
    store.add_comparison(replace(store.comparisons()[2].value, repeats=three))
    store.undo("comparisons", three)
    assert [(x.outcome, y.outcome) for x, y in asked_twice(store)] == [(A, B)]
    assert second_looks(store) == {two: B}  # seen from the answer that was chosen the first time
    reward = saved(tmp_path / "adapters", "reward-1", [], run_of(store, "reward-1", []))
    store.add_scores(judge_of(reward), [(p, a, Scored(float(a.startswith("no")), 3)) for p, a in answers_of(store)])
    health = health_of(store, reward)
    assert health.accuracy.trials == 3  # of the third the repeat is all there is
    assert [found.row for found in health.disagreements] == [one, 6]


def test_what_is_not_scored_yet_is_counted_and_left_out(store, tmp_path):
    ask(store, ["a?", "b?"])
    store.add_ranking(Ranking(user("c?"), ("x", "y", "z"), (1, 2, 2)))
    reward = saved(tmp_path / "adapters", "reward-1", [], run_of(store, "reward-1", []))
    store.add_scores(judge_of(reward), [(user("a?"), a, Scored(1.0, 2)) for a in ("yes a?", "no a?")])
    assert (health_of(store, reward).unscored, health_of(store, reward).accuracy.trials) == (1 + 3, 1)
