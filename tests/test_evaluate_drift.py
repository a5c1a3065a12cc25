"""A policy's figures from answers whose truth is known, and what the rules say about planted faults."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from lorarlhf.evaluate import bestof
from lorarlhf.evaluate.bestof import best_of
from lorarlhf.evaluate.drift import Drift, drift_key, drift_of, figures
from lorarlhf.evaluate.drift_alarms import RULES, alarms
from lorarlhf.evaluate.drift_telling import FINE, told
from lorarlhf.evaluate.lineage import BlindVotes, best_by_votes
from lorarlhf.evaluate.questions import QUESTIONS, TEXT
from lorarlhf.evaluate.statistics import share_of
from lorarlhf.library import SavedAdapter
from lorarlhf.store import Store

Row = dict[str, Any]
Bend = Callable[[Row, random.Random], Row]


def answer(i: int, rng: random.Random, **more: Any) -> Row:
    """An answer as the engine writes it down; every prompt has its own length, as in life."""
    length = 10 + 2 * (i % 8) + rng.randint(0, 4)
    score = rng.gauss(0, 1)
    row = {"prompt": f"question {i}", "text": f"answer {i} {rng.random()}", "ended": True, "repeated": 0.0}
    row |= {"tokens": [rng.randrange(500) for _ in range(length)], "entropy": rng.gauss(1, 0.1), "kl": 0.0}
    row |= {"score": score, "heads": [score + rng.gauss(0, 0.3) for _ in range(10)]}
    return row | more


def healthy(row: Row, rng: random.Random) -> Row:
    """A policy that gained a little by all heads and changed nothing else."""
    gain = rng.gauss(0.8, 0.4)
    heads = [head + gain for head in row["heads"]]
    return row | {"kl": rng.gauss(3, 1), "score": row["score"] + gain, "heads": heads}


def kept(bend: Bend = healthy, number: int = 32, seed: int = 0, **more: Any) -> Row:
    """What the engine writes down of a policy whose answers are bent."""
    rng = random.Random(seed)
    before = [answer(i, rng) for i in range(number)]
    after = [bend(answer(i, rng), rng) for i in range(number)]
    surprise = [{"surprise": rng.gauss(60, 9), "tokens": 20} for _ in TEXT]
    moved = [row | {"surprise": row["surprise"] + rng.gauss(0, 1)} for row in surprise]
    right = [rng.random() < 0.8 for _ in QUESTIONS]
    row = {"with": {}, "caveats": [], "reference": "sft-1", "reward": "reward-1", "unended": -3.0, "course": []}
    row |= {"before": before, "after": after, "options": [4] * len(QUESTIONS)}
    row |= {"text": {"before": surprise, "after": moved}, "right": {"before": right, "after": list(right)}}
    return row | more


def drift(bend: Bend = healthy, **more: Any) -> Drift:
    return figures("ppo-1", kept(bend, **more))


# -- figures ----------------------------------------------------------------------------------------------------


def test_the_figures_of_two_answers_by_hand():
    rows = [answer(i, random.Random(i), entropy=1.0) for i in range(2)]
    one = rows[0] | {"tokens": [1, 2, 3, 4], "score": 1.0, "heads": [0.0, 2.0]}
    two = rows[1] | {"tokens": [1, 2], "score": -1.0, "heads": [-1.0, -1.0]}
    new = one | {"tokens": [1, 2, 1, 2, 1, 2, 1, 2], "score": 2.0, "heads": [1.0, 5.0], "kl": 4.0, "text": "other"}
    cut = two | {"tokens": [7, 8, 9, 9], "ended": False, "kl": 1.0, "heads": [3.0, 3.0], "score": -3.0, "entropy": 0.5}
    text = {"before": [{"surprise": 2.0, "tokens": 2}, {"surprise": 4.0, "tokens": 1}]}
    text["after"] = [{"surprise": 5.0, "tokens": 2}, {"surprise": 4.0, "tokens": 1}]
    right = {"before": [True, True, False], "after": [False, True, True]}
    found = figures(
        "p", kept() | {"before": [one, two], "after": [new, cut], "text": text, "right": right, "options": [4, 4, 2]}
    )
    assert (found.kl.value, found.root_kl) == (2.5, math.sqrt(2.5))
    assert (found.reward_gain.before, found.reward_gain.after, found.reward_gain.change.value) == (0.0, -0.5, -0.5)
    # The least of the heads; an answer that was cut off counts −3 at most.
    assert (found.least_gain.before, found.least_gain.after) == (-0.5, -1.0)
    assert found.disagreement.change.value == (2.0 + 0.0) / (1.0 + 0.0)
    assert (found.length.before, found.length.change.value) == (3.0, 2.0)
    assert found.entropy.change.value == 0.75
    assert [share.value for share in found.ended] == [1.0, 0.5]
    # At equal length: 12 23 34 | 12 against 12 21 12 | 78.
    assert found.distinct == (3 / 4, 3 / 4)
    assert (found.perplexity.before, found.perplexity.after) == pytest.approx((math.e**2, math.e**3))
    assert found.perplexity.change.value == pytest.approx(math.e)
    assert (found.known.before, found.known.after, found.known.lost, found.known.won) == (2, 2, 1, 1)
    assert found.known.guessing == 1.0
    assert found.to_read[0][1].text == "other"
    json.dumps(found.as_json(), allow_nan=False)


def test_without_a_reward_model_or_an_ensemble_the_rest_is_told():
    def bare(row: Row, rng: random.Random) -> Row:
        return row | {"score": None, "heads": [], "kl": 2.0}

    rows = kept(bare)
    found = figures("p", rows | {"before": [bare(row, random.Random()) for row in rows["before"]], "reward": ""})
    assert (found.reward_gain, found.least_gain, found.disagreement, found.heads) == (None, None, None, 0)
    assert "there is no reward model to say what that gained" in told(found)
    assert alarms(found) == []
    json.dumps(found.as_json(), allow_nan=False)


def test_nothing_is_said_of_a_policy_that_was_not_measured(tmp_path):
    saved = SavedAdapter(tmp_path / "ppo-1", {"hashes": {"adapter": "h"}, "stage": "ppo"})
    with Store(tmp_path / "work.db") as store:
        assert drift_of(store, saved) is None
        store.set_meta(drift_key(saved), kept())
        assert drift_of(store, saved).prompts == 32


# -- the rules: each fires on what was planted, and stays silent on a healthy policy ------------------------------


def test_a_healthy_policy_has_nothing_said_against_it():
    said = [(seed, alarms(drift(seed=seed))) for seed in range(100)]
    assert [found for found in said if found[1]] == []
    assert FINE in told(drift())


def bent(**changes: Callable[[Row, random.Random], Any]) -> Bend:
    """A healthy policy with some figures changed."""

    def bend(row: Row, rng: random.Random) -> Row:
        row = healthy(row, rng)
        return row | {name: change(row, rng) for name, change in changes.items()}

    return bend


def forgetting(by: float) -> Drift:
    row = kept()
    row["text"]["after"] = [one | {"surprise": one["surprise"] + by * one["tokens"]} for one in row["text"]["after"]]
    return figures("ppo-1", row)


def ignorant() -> Drift:
    row = kept()
    row["right"]["after"] = [right and i % 3 > 0 for i, right in enumerate(row["right"]["before"])]
    return figures("ppo-1", row)


ILL: list[tuple[str, Callable[[], Drift]]] = [
    (
        "the policy has learnt to fool the reward model",
        lambda: drift(bent(heads=lambda row, rng: [h - 3 for h in row["heads"]])),
    ),
    ("even by the measure it was trained on", lambda: drift(bent(score=lambda row, rng: row["score"] - 2))),
    (
        "your votes say little about such answers",
        lambda: drift(bent(heads=lambda row, rng: [h + 2 + rng.gauss(0, 1) for h in row["heads"]])),
    ),
    ("its answers are clearly no longer those", lambda: drift(bent(kl=lambda row, rng: rng.gauss(15.5, 3)))),
    ("far from those of its reference, where", lambda: drift(bent(kl=lambda row, rng: rng.gauss(45, 9)))),
    ("most of what was gained may be length", lambda: drift(bent(tokens=lambda row, rng: row["tokens"] + [1] * 12))),
    ("leaving out what answers are for", lambda: drift(bent(tokens=lambda row, rng: row["tokens"][:5]))),
    ("says the same again and again", lambda: drift(bent(repeated=lambda row, rng: rng.uniform(0.2, 0.6)))),
    ("the answers are becoming all alike", lambda: drift(bent(entropy=lambda row, rng: row["entropy"] * 0.3))),
    ("ramble on until they are cut off", lambda: drift(bent(ended=lambda row, rng: rng.random() < 0.3))),
    ("forgets the language", lambda: forgetting(0.6)),
    ("It knows 19 of 40 easy questions", ignorant),
]


@pytest.mark.parametrize(("said", "make"), ILL, ids=[said[:40] for said, _ in ILL])
def test_what_was_planted_is_said_and_nothing_else_is(said, make):
    found = alarms(make())
    hits = [remark for remark in found if said in str(remark)]
    assert len(hits) == 1, found
    assert hits[0].do
    # Answers that are cut off score low, which heads that do not know of that rule may see first.
    assert len(found) == 1 or "cut off" in said, found


def test_every_rule_has_its_case():
    fired = set()
    for _, make in ILL:
        found = make()
        fired |= {rule.__name__ for rule in RULES if rule(found)}
    assert fired == {rule.__name__ for rule in RULES}


def test_of_few_prompts_and_of_a_text_the_base_does_not_know_nothing_is_said():
    few = drift(bent(entropy=lambda row, rng: 0.1, kl=lambda row, rng: 90.0), number=8)
    assert alarms(few) == []
    assert "8 prompts are too few" in told(few)
    row = kept()
    for side, more in (("before", 10.0), ("after", 10.6)):
        row["text"][side] = [one | {"surprise": more * one["tokens"]} for one in row["text"][side]]
    assert alarms(figures("p", row)) == []


def test_what_is_wrong_with_its_run_is_told_as_well(tmp_path):
    card = {"hashes": {"adapter": "h"}, "stage": "ppo", "run": "ppo-1"}
    with Store(tmp_path / "work.db") as store:
        run = store.start_run("ppo", "ppo-1", "b", {"value_warmup_steps": 0}, {})
        saved = SavedAdapter(tmp_path / "ppo-1", card)
        store.set_meta(drift_key(saved), kept())
        assert alarms(drift_of(store, saved)) == []
        store.log_metrics(run, 1, {"objective/kl": 0.0, "policy/ratio": 1.4})
        for step in range(1, 20):
            store.log_metrics(run, step, {"val/explained_variance": -0.5})
        found = [str(remark) for remark in alarms(drift_of(store, saved))]
    assert len(found) == 2
    assert "probability ratio is 1.4" in found[0]
    assert "The value explains −50%" in found[1]


# -- best of n --------------------------------------------------------------------------------------------------


def tried(spread: float = 1.0, agree: float = 1.0, length: float = 0.0, prompts: int = 16, seed: int = 0) -> Row:
    """What the engine writes down of a try-out: heads agree with the score by so much, and so does length."""
    rng = random.Random(seed)
    rows = []
    for _ in range(prompts):
        scores = [rng.gauss(0, spread) for _ in range(16)]
        least = [agree * s + rng.gauss(-0.3, 0.3) for s in scores]
        tokens = [round(30 * math.exp(length * s + rng.gauss(0, 0.2))) for s in scores]
        rows.append({"scores": scores, "least": least, "tokens": tokens})
    return {"adapter": "sft-1", "reward": "reward-1", "prompts": rows, "heads": 10, "voted": 1.5, "caveats": []}


def test_a_try_out_says_what_n_would_gain():
    for seed in range(40):
        assert bestof.remarks(best_of(tried(seed=seed))) == []
    found = best_of(tried())
    assert [p.n for p in found.points] == list(range(1, 17))
    assert (found.points[0].gain.value, found.points[0].kl, found.points[0].tokens.value) == (0, 0, 1)
    gains = [p.gain.value for p in found.points]
    assert gains == sorted(gains)
    assert found.whole.gain.value == pytest.approx(1.77, abs=0.3)  # of 16 normal numbers
    words = bestof.told(found)
    assert bestof.FINE in words
    assert "PPO can aim for about that" in words
    assert found.examples == ()
    rows = tried()["prompts"]
    rows[0] |= {"prompt": "q", "texts": [f"{score:.6f}" for score in rows[0]["scores"]]}
    (one,) = best_of(tried() | {"prompts": rows}).examples
    low_to_high = sorted(rows[0]["scores"])
    assert (one.best, one.middle) == (f"{low_to_high[15]:.6f}", f"{low_to_high[7]:.6f}")
    assert (one.best_score, one.middle_score) == (low_to_high[15], low_to_high[7])
    json.dumps(found.as_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("said", "row"),
    [
        ("PPO has nothing to go by", tried(spread=0.05, agree=20.0)),
        ("not in your votes for certain", tried(agree=-0.5)),
        ("the reward model goes by length", tried(length=0.4)),
    ],
)
def test_what_speaks_against_ppo_is_said_before_it(said, row):
    found = [str(remark) for remark in bestof.remarks(best_of(row))]
    assert len(found) == 1, found
    assert said in found[0]


def test_of_few_prompts_a_try_out_says_nothing_against_ppo():
    found = best_of(tried(agree=-1.0, prompts=4))
    assert bestof.remarks(found) == []
    assert "4 prompts are too few" in bestof.told(found)


# -- which one to keep ------------------------------------------------------------------------------------------


def test_the_best_of_a_lineage_is_the_one_whose_votes_are_surest():
    def votes(name: str, wins: int, of: int) -> BlindVotes:
        return BlindVotes(name, share_of([1.0] * wins + [0.0] * (of - wins)))

    lucky, good, early = votes("ppo-3", 4, 4), votes("ppo-2", 48, 60), votes("ppo-1", 40, 60)
    assert best_by_votes([early, lucky, good]) == "ppo-2"
    assert best_by_votes([votes("ppo-1", 30, 60), votes("ppo-2", 2, 3)]) == ""
    assert best_by_votes([]) == ""
