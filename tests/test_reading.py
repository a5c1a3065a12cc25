"""What a run's numbers are said to mean: every rule once where it must speak, and where it must keep silent."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lorarlhf.figures import figure, number
from lorarlhf.reading import RULES, best_step, remarks, series_of
from lorarlhf.workspace import Workspace

ROOT = Path(__file__).parent.parent


@pytest.fixture
def store(tmp_path):
    with Workspace(tmp_path / "store").store() as opened:
        yield opened


def a_run(store, stage: str, status: str = "running", **settings):
    return replace(store.run(store.start_run(stage, f"{stage}-1", "starter", settings, {})), status=status)


def steady(value: float, last: float | None = None, steps: int = 20) -> list:
    """A series that stays at a value, or goes in a line from it to another; its last step is `steps`."""
    last = value if last is None else last
    return [(i + 1, value + (last - value) * i / (steps - 1)) for i in range(steps)]


SETTINGS = {"kl_budget": 100.0, "kl_coef": 0.05, "steps": 40, "value_warmup_steps": 2, "ppo_epochs": 1}
HEALTHY = {
    "objective/kl": steady(0, 8),
    "objective/entropy": steady(0.4, 0.3),
    "objective/scores": steady(-1, 2),
    "objective/scores_std": steady(1),
    "objective/scores_min": steady(-3, -2),
    "response/eos_share": steady(0.95),
    "response/length": steady(30, 35),
    "policy/clipfrac": steady(0.05),
    "policy/approxkl": steady(0.01),
    "policy/ratio": steady(1),
    "val/explained_variance": steady(-2, 0.8),
    "eval/scores": [(0, -1.0), (10, 0.5), (20, 1.9)],
    "eval/kl": [(0, 0.0), (10, 4.0), (20, 8.0)],
}
FLAT = steady(-1, -0.95)
EXPLOITED = {"objective/scores_min": steady(-3, -5)}

ILL = [
    (
        {"objective/kl": [(1, 0.4), *steady(0, 8)[1:]]},
        {},
        "KL is 0.40 nats at step 1: before any update it should be 0",
    ),
    ({"policy/ratio": [(1, 1.0), (2, 1.0), (3, 1.08), (4, 1.0)]}, {}, "The probability ratio is 1.080 at step 3"),
    ({"objective/kl": steady(0, 14)}, {}, "KL is 14.0 nats an answer at step 20: answers are clearly no longer"),
    ({"objective/kl": steady(0, 41)}, {}, "KL is 41.0 nats an answer at step 20: answers are far from the SFT model's"),
    ({"objective/kl": steady(0, 9)}, {"kl_budget": 10.0}, "KL is 9.0 nats an answer at step 20: the run ends at 10"),
    ({"objective/kl": steady(0, 9)}, {"kl_budget": 8.5}, "over the budget of 8.5, where the run ends"),
    ({"objective/scores": steady(1, -1)}, {}, "to −1 at step 20: the policy collapses"),
    ({"objective/scores": FLAT}, {}, "Reward is −0.95 at step 20, and was −0.997 in the first steps"),
    (EXPLOITED, {}, "√KL 2.8, the mean reward is up from −0.842 to 2, the lowest down from −3.11 to −5"),
    ({"eval/scores": [(0, 0.0), (10, 2.0), (20, 1.5)]}, {}, "peaked at step 10 (2, √KL 2.0) and is 1.5 at step 20"),
    ({"response/length": steady(30, 45)}, {}, "Answers have 45 tokens at step 20"),
    ({"objective/entropy": steady(0.4, 0.1)}, {}, "Entropy is 0.1 at step 20, 26% of what it was"),
    ({"response/eos_share": steady(0.9, 0.72)}, {}, "Only 72% of the training answers came to an end by themselves at"),
    ({"val/explained_variance": steady(-2, -0.5)}, {}, "The value explains −50% of what the rewards turn out to be"),
    ({"policy/clipfrac": steady(0.4)}, {}, "40% of the tokens are clipped at step 20: the steps are too long"),
    ({"policy/approxkl": steady(0.2)}, {}, "A single update moves the policy by 0.2 nats a token"),
]


@pytest.mark.parametrize(("series", "settings", "words"), ILL, ids=[words[:30] for _, _, words in ILL])
def test_what_goes_wrong_in_ppo_is_said_with_its_number_and_nothing_else_is(store, series, settings, words):
    run = a_run(store, "ppo", **{**SETTINGS, **settings})
    (found,) = remarks(run, {**HEALTHY, **series})
    assert words in str(found)
    assert found.do
    assert remarks(a_run(store, "ppo", **SETTINGS), HEALTHY) == []


def test_rules_of_ppo_keep_silent_where_they_know_better(store):
    run = a_run(store, "ppo", **SETTINGS)
    # One odd batch is no alarm, neither is a trend that its newest batch contradicts.
    for name, odd in (("response/eos_share", 0.3), ("policy/clipfrac", 0.9), ("objective/entropy", 0.01)):
        assert remarks(run, {**HEALTHY, name: [*HEALTHY[name][:-1], (20, odd)]}) == []
    assert remarks(run, {**HEALTHY, "response/eos_share": [*steady(0.6)[:-1], (20, 0.95)]}) == []
    # A policy that goes on from another one does not start at its reference.
    further = a_run(store, "ppo", **SETTINGS, parent="ppo-1")
    assert remarks(further, {**HEALTHY, "objective/kl": steady(5)}) == []
    # With several updates a step the ratio moves within the first one.
    several = a_run(store, "ppo", **{**SETTINGS, "ppo_epochs": 2})
    assert remarks(several, {**HEALTHY, "policy/ratio": steady(1.08)}) == []
    # The value is not asked to explain anything while it warms up.
    assert remarks(run, {**HEALTHY, "val/explained_variance": steady(-2, -1, 5)}) == []
    # Reward may stay where it is for the first half of the steps.
    slow = a_run(store, "ppo", **{**SETTINGS, "steps": 100})
    assert remarks(slow, {**HEALTHY, "objective/scores": FLAT}) == []
    # A worst answer that gets worse is no news while the mean falls, or while KL is small.
    assert remarks(run, {**HEALTHY, **EXPLOITED, "objective/kl": steady(0, 0.5)}) == []
    # A few batches say nothing; nothing says nothing.
    assert remarks(run, {name: points[:3] for name, points in HEALTHY.items()}) == []
    assert remarks(run, {}) == remarks(run, {name: [(1, math.nan)] for name in HEALTHY}) == []


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_losses_are_read(store, stage):
    run, name = a_run(store, stage), f"loss/{stage}"

    def said(**series) -> list[str]:
        return [str(one) for one in remarks(run, {name: steady(1, 0.5), **series})]

    assert said() == []
    assert said(**{"eval/loss": [(0, 0.7), (20, 0.6), (40, 0.61)]}) == []
    assert (
        "is 0.947 in the newest quarter of the steps, 0.553 in the first: it rises" in said(**{name: steady(0.5, 1)})[0]
    )
    assert "does not fall" in said(**{name: steady(0.69, 0.688)})[0]
    assert said(**{name: steady(0.69, 0.688, 8)}) == []
    (text,) = said(**{"eval/loss": [(0, 0.7), (20, 0.5), (40, 0.6)]})
    assert "lowest at step 20 (0.5) and is 0.6 at step 40: it may be learning by heart" in text


def test_a_reward_model_judged_by_few_votes_says_so_and_one_that_guesses_too(store):
    def said(status: str, votes: float, low: float) -> list[str]:
        found = {"eval/votes": votes, "eval/accuracy": 0.6, "eval/accuracy_low": low, "eval/accuracy_high": 0.8}
        series = {name: [(0, 0.0), (9, value)] for name, value in found.items()}
        return [str(one) for one in remarks(a_run(store, "reward", status), series)]

    (few,) = said("running", 8, 0.3)
    assert "Judged by 8 test votes, its accuracy lies anywhere from 30% to 80%: that is too few to tell" in few
    (guess,) = said("done", 40, 0.45)
    assert "right about 60% of 40 test votes at step 9 (95 % interval from 45%): it may be guessing" in guess
    assert said("running", 40, 0.45) == []  # while it learns that is no news
    assert said("done", 40, 0.52) == []


def test_a_run_that_kept_what_it_began_with_says_so(store):
    worse = {"eval/loss": [(0, 0.5), (20, 0.51), (40, 0.6)]}
    for stage in ("sft", "reward"):
        (text,) = remarks(a_run(store, stage, "done"), worse)
        assert "is step 0, before training (0.5)" in str(text)
        assert remarks(a_run(store, stage), worse) == []  # it may still get better
        assert remarks(a_run(store, stage, "done"), {"eval/loss": [(0, 0.5), (20, 0.49)]}) == []
    ppo = a_run(store, "ppo", "done", kl_coef=0.1, kl_budget=20.0)
    # 1.0 at no KL; 1.5 − 0.1 × 6 = 0.9; 3.0, but past the budget
    series = {"eval/scores": [(0, 1.0), (5, 1.5), (9, 3.0)], "eval/kl": [(0, 0.0), (5, 6.0), (9, 25.0)]}
    assert best_step(ppo, series) == 0
    assert "the policy as it began is what was kept" in str(remarks(ppo, series)[0])
    assert best_step(ppo, {**series, "eval/kl": [(0, 0.0), (5, 4.0), (9, 25.0)]}) == 5
    assert best_step(ppo, {}) is None


def test_every_rule_is_tried_above():
    rules = {rule.__name__ for some in RULES.values() for rule in some}
    assert len(rules) == 17
    assert len({words for _, _, words in ILL}) == 16


def test_numbers_come_from_the_rows_and_are_written_shortly(store):
    run = store.start_run("sft", "sft-1", "starter", {}, {})
    store.log_metrics(run, 1, {"loss/sft": 2.0, "lr/sft": 0.1})
    store.log_metrics(run, 2, {"loss/sft": 1.5})
    assert series_of(store, run) == {"loss/sft": [(1, 2.0), (2, 1.5)], "lr/sft": [(1, 0.1)]}
    shown = [number(v) for v in (0, 2.1504, -0.85432, 27.03, 1234.6, 0.00002, 1e6)]
    assert shown == ["0", "2.15", "−0.854", "27", "1235", "2.0e−05", "1.0e+06"]
    assert [number(v, True) for v in (0, 0.005, 0.755, 1)] == ["0 %", "0.5 %", "76 %", "100 %"]
    assert [number(v, True) for v in (-0.37, -0.0004)] == ["−37 %", "0 %"]


def test_a_figure_has_the_minus_of_print_and_a_mere_zero_has_none():
    written = [figure(v, form) for v, form in ((-0.37, ".0%"), (-1.5, "+.2f"), (-0.001, "+.2f"), (-0.001, ".1f"))]
    assert written == ["−37%", "−1.50", "+0.00", "0.0"]
    assert figure(-0.25, "+6.1f") == "  −0.2"  # as wide as asked for, so that tables stay tables
    assert [figure(v, ".1f") for v in (math.inf, -math.inf)] == ["inf", "−inf"]


def test_no_page_writes_a_signed_number_by_itself():
    signed = re.compile(r"\{[^{}]*:\+[0-9]*\.?[0-9]*[f%g]\}|replace\(.-., ")
    files = [path for folder in ("lorarlhf/evaluate", "ui") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 50
    assert not [(path.name, line) for path in files for line in path.read_text().splitlines() if signed.search(line)]
