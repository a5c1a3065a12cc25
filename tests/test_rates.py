"""What nobody has to choose: learning rates, how fast a policy moves, and which adapter is kept."""

from __future__ import annotations

import math
import random

import pytest
import torch

from lorarlhf.algo.intervals import clearly_less
from lorarlhf.algo.probe import fit_probe
from lorarlhf.settings import SFTSettings
from lorarlhf.train import ppo
from lorarlhf.train.pace import Pace
from lorarlhf.train.rates import suggested_rate, try_rates
from tests.test_ppo import base, forget, make_stage  # noqa: F401 - a fixture


def test_the_suggested_rate_by_hand():
    assert suggested_rate(2000) == pytest.approx(5e-4)
    assert suggested_rate(1000) == pytest.approx(5e-4 * 2**0.781)
    assert suggested_rate(64) == pytest.approx(7.35e-3, rel=0.01)


# -- the trial --------------------------------------------------------------------------------------------------------


class Valley:
    """A stage that goes downhill on (x − 1)²; examples lose that much and some noise of their own."""

    examples, rate = 400, 0.01
    settings = SFTSettings()

    def __init__(self, steepness: float, noise: float = 0.01) -> None:
        self.x, self.steepness = torch.zeros(1), steepness
        rng = random.Random(0)
        self.noise = [rng.gauss(0, noise) for _ in range(60)]
        self.optimizer = type("Optimizer", (), {"groups": [type("Group", (), {"learning_rate": self.rate})()]})()
        self.tried: list[float] = []

    def step(self, index):
        rate = self.optimizer.groups[0].learning_rate
        self.tried += [rate] if rate not in self.tried else []
        self.x -= rate * self.steepness * (self.x - 1)
        return {"loss": float((self.x - 1) ** 2)}

    def tensors(self):
        return {"x": self.x}

    def load_tensors(self, tensors):
        self.x = tensors["x"].clone()

    def trial_losses(self, used):
        return [float((self.x - 1) ** 2) + one * float(self.x) for one in self.noise]


@pytest.mark.parametrize(
    ("steepness", "best"), [(1.0, 0.16), (0.1, 0.16), (25.0, 0.04), (100.0, 0.01), (400.0, 0.0025)]
)
def test_the_trial_finds_the_rate_that_loses_least(steepness, best):
    stage = Valley(steepness)
    found = try_rates(stage)
    assert found.rate == pytest.approx(best)
    assert float(stage.x) == 0.0  # as it was
    assert len(stage.tried) in (3, 4)
    assert f"learning rate {best:.2g}" in found.words


def test_the_suggested_rate_stands_where_nothing_is_clear():
    stage = Valley(0.001, noise=60.0)
    assert try_rates(stage).rate == 0.01
    stage.trial_losses = lambda used: []
    assert try_rates(stage).rate == 0.01


def test_a_rate_that_breaks_the_numbers_is_never_chosen():
    stage = Valley(2e3)
    assert try_rates(stage).rate == pytest.approx(0.01 / 16)


# -- the pace ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stiffness", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("straight", [0.3, 1.0])
def test_a_policy_nobody_tuned_comes_near_its_target(stiffness, straight):
    """Distance grows by `straight` of each update's length, which is the rate times what nobody knows."""
    pace, distance, steps = Pace(0.01, target=8.0), 0.0, 40
    rng = random.Random(1)
    longest = 0.0
    for step in range(steps):
        pace.look(distance**2 + rng.gauss(0, 0.1))
        wanted = pace.wanted(step, steps)
        length = pace.rate * stiffness * rng.uniform(0.7, 1.4)
        pace.steer(length**2, wanted)
        length = min(length, 2 * wanted)  # what is too far is taken back
        longest = max(longest, length)
        distance += straight * length
    assert 0.5 * 8.0 < distance**2 < 1.6 * 8.0 or (stiffness < 1 and distance > 1)
    assert longest < 8 * math.sqrt(8.0) / steps


def test_an_update_that_went_too_far_is_taken_back(base):  # noqa: F811
    stage = make_stage(base, learning_rate="auto", critic="none", answers_per_prompt=2, steps=8, kl_target=0.05)
    stage.pace.rate = stage.optimizer.groups[0].learning_rate = 0.5
    before = {k: v.clone() for k, v in stage.adapter().items()}
    rollout = stage.roll_out(0)
    metrics = stage.update(rollout, stage.advantages(rollout), 0)
    wanted = stage.pace.wanted(0, 8)
    assert metrics["policy/update_share"] < 0.5
    assert stage.pace.rate < 0.5
    moved, _ = stage._moved(rollout)
    assert math.sqrt(moved) <= 2 * wanted
    assert any(not torch.equal(before[k], v) for k, v in stage.adapter().items())
    forget(stage)


def test_rounding_is_not_taken_for_movement(base, monkeypatch):  # noqa: F811
    """In 16 bits the smallest change of the weights changes log-probabilities by more than an update may."""
    exact, generator, rounding = ppo.token_stats, torch.Generator().manual_seed(0), 0.1

    def rounded(*given):
        logprobs, entropies = exact(*given)
        return [lp + rounding * torch.randn(lp.shape, generator=generator) for lp in logprobs], entropies

    found = {}
    for noisy in (False, True):
        stage = make_stage(base, learning_rate="auto", critic="none", answers_per_prompt=2, steps=8, kl_target=0.05)
        monkeypatch.setattr(ppo, "token_stats", rounded if noisy else exact)
        monkeypatch.setattr(ppo.PPOStage, "_exact", not noisy)
        for index in range(4):
            rollout = stage.roll_out(index)
            found[noisy] = stage.update(rollout, stage.advantages(rollout), index)
        found[noisy]["rate"] = stage.pace.rate
        tokens = sum(len(row.response) for row in rollout.rows) / len(rollout.rows)
        forget(stage)
    # What rounding makes of nothing is more than an update may be; taken for movement, it would end all movement.
    assert tokens * rounding**2 / 2 > 4 * Pace(0.0, 0.05).wanted(3, 8) ** 2
    assert found[True]["policy/update_share"] > 0.1
    assert found[True]["rate"] == pytest.approx(found[False]["rate"], rel=0.75)


def test_answers_that_never_end_are_capped_where_most_do_end():
    assert ppo.cap_of(-3.0, [False]) == -3.0
    assert ppo.cap_of("auto", [True, False]) == -2.0
    assert ppo.cap_of("auto", [True, False, False]) is None


def test_a_rate_given_by_hand_is_obeyed(base):  # noqa: F811
    stage = make_stage(base, learning_rate=1e-3, schedule="constant", warmup=0)
    assert stage.step(0)["lr/policy"] == stage.step(1)["lr/policy"] == 1e-3
    forget(stage)


# -- evidence ---------------------------------------------------------------------------------------------------------


def test_few_votes_never_prefer_an_untrained_model_to_one_that_is_right():
    """An untrained model guesses; the other is right about three of four votes. Losses are those at the best scale."""
    rng, wrong = random.Random(0), {5: 0, 40: 0, 160: 0}
    for votes in wrong:
        for _ in range(400):
            guess = [math.log(2)] * votes
            right = [-math.log(0.75) if rng.random() < 0.75 else -math.log(0.25) for _ in range(votes)]
            wrong[votes] += clearly_less(guess, right)
    assert wrong[5] == 0
    assert max(wrong.values()) <= 0.01 * 400
    # And what is clearly better is seen: ten votes in a hundred more.
    seen = sum(
        clearly_less([0.5 + rng.gauss(0, 0.1) for _ in range(40)], [0.6 + rng.gauss(0, 0.1) for _ in range(40)])
        for _ in range(100)
    )
    assert seen > 90


# -- the head ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [8, 300])
def test_the_head_is_fitted_to_votes_and_ties(width):
    generator = torch.Generator().manual_seed(0)
    x_PH = torch.randn(200, width, generator=generator) * 50
    truth_H = torch.zeros(width)
    truth_H[:4] = 0.1
    chosen_P = (torch.rand(200, generator=generator) < torch.sigmoid(x_PH @ truth_H)).float() * 2 - 1
    ones_P = torch.ones(200)
    w_H = fit_probe(x_PH * chosen_P[:, None], ones_P, ones_P, range(200))
    new_PH = torch.randn(500, width, generator=generator) * 50
    assert float(((new_PH @ w_H > 0) == (new_PH @ truth_H > 0)).float().mean()) > (0.9 if width == 8 else 0.6)
    # Ties alone say that nothing matters.
    assert float(fit_probe(x_PH, 0.5 * ones_P, ones_P, range(200)).norm()) < 1e-6


def test_the_head_agrees_with_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    from lorarlhf.algo.probe import _newton

    generator = torch.Generator().manual_seed(1)
    x_PK = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    y_P = (x_PK[:, 0] + 0.5 * torch.randn(60, generator=generator, dtype=torch.float64) > 0).double()
    mine_K = _newton(x_PK, y_P, torch.ones(60, dtype=torch.float64), 0.1)
    theirs = LogisticRegression(C=1 / (0.1 * 60), fit_intercept=False, tol=1e-10, max_iter=1000).fit(x_PK, y_P)
    torch.testing.assert_close(mine_K, torch.tensor(theirs.coef_[0]), rtol=1e-4, atol=1e-5)
