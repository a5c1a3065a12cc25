"""The reward model: its loss by hand, its gradient against a plain computation, and a preference it must find."""

from __future__ import annotations

import math

import pytest
import torch

from lorarlhf.adapters import AdapterBank
from lorarlhf.data.pairs import Pair, Vote, votes_of
from lorarlhf.errors import TrainingError
from lorarlhf.settings import RewardSettings
from lorarlhf.train.common import Studio
from lorarlhf.train.order import batch_at
from lorarlhf.train.reward import RewardStage
from lorarlhf.train.team import Team
from lorarlhf.types import Demonstration, Outcome, Ranking, is_heldout, user
from tests.test_sft import captured, noisy, tiny_base

A, B, TIE = Outcome.A, Outcome.B, Outcome.TIE
MIXED = [
    Pair(user("one"), "good", "bad one", strength=2),
    Pair(user("two"), "this", "that", tie=True),
    Pair(user("three or so"), "x", "a very long rejected answer", weight=1 / 3),
    Pair(user("four"), "awful", "worse", tie=True, both_bad=True),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("bases") / "llama")


@pytest.fixture
def studio(base):
    bank = AdapterBank(base)
    noisy(bank, "reward", head=True)
    yield Studio(base, bank, Team())
    for name in bank.names:
        bank.delete(name)


def votes(pairs) -> list[Vote]:
    return [one if isinstance(one, Vote) else Vote((one,)) for one in pairs]


def make(studio, pairs=MIXED, anchors=(), **settings) -> RewardStage:
    known = {"heldout_share": 0, "batch_size": 4, "learning_rate": 0.02}
    return RewardStage(studio, "reward", RewardSettings(**known | settings), votes(pairs), anchors)


def measure(stage) -> dict[str, float]:
    return stage.evaluate().metrics


def plain_scores(studio, prompt, *answers: str) -> list[torch.Tensor]:
    """Score answers one by one from transformers' own hidden states."""
    found = []
    for answer in answers:
        row = studio.row(prompt, answer, 1024)
        ids = torch.tensor([row.prompt + row.response])
        hidden = studio.base.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[-1]
        found.append(studio.bank.heads["reward"](hidden[0, -1]).squeeze())
    return found


def log_sigmoid(x):
    return -torch.log1p(torch.exp(-x))


def plain_loss(studio, pairs, tie_weight=0.5, bad_weight=0.2, margin=0.5) -> torch.Tensor:
    """Write the loss down again, a pair at a time; the sum over pairs, not divided by anything."""
    total = torch.zeros(())
    for pair in pairs:
        chosen, rejected = plain_scores(studio, pair.prompt, pair.chosen, pair.rejected)
        difference = chosen - rejected
        if pair.tie:
            total = total - pair.weight * tie_weight * 0.5 * (log_sigmoid(difference) + log_sigmoid(-difference))
        else:
            total = total - pair.weight * log_sigmoid(difference - margin * (pair.strength - 1))
        if pair.both_bad:
            total = total - pair.weight * bad_weight * (log_sigmoid(-chosen) + log_sigmoid(-rejected))
    return total


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("budget", [16, 200, 10_000])
def test_gradients_are_those_of_the_loss_written_down_however_the_batch_is_cut(studio, budget, checkpointing):
    stage = make(studio, micro_batch_tokens=budget, gradient_checkpointing=checkpointing)
    metrics, found = captured(stage)
    # Weights: 1, ½ (tie), ⅓, ½ (tie)
    with studio.bank.activate("reward"):
        loss = plain_loss(studio, MIXED) / (1 + 0.5 + 1 / 3 + 0.5)
        loss.backward()
    assert metrics["loss/reward"] == pytest.approx(loss.item(), rel=1e-5)
    assert len(found) == 14 + 2  # the head's weight and bias too
    for parameter, gradient in zip(studio.bank.parameters("reward"), found, strict=True):
        assert gradient.abs().max() > 1e-5
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-6)
    with studio.bank.activate("reward"), torch.no_grad():
        right = sum(bool(c > r) for c, r in (plain_scores(studio, p.prompt, p.chosen, p.rejected) for p in MIXED[::2]))
    assert metrics["train/accuracy"] == right / 2


def test_weights_mean_the_same_whatever_shares_the_batch(studio):
    """Gradients of batches of one add up to those of the whole: a lone tie must not count as a lone vote."""
    _, whole = captured(make(studio))
    alone = make(studio, batch_size=1)
    parts = [captured(alone, index)[1] for index in range(4)]
    for k, gradient in enumerate(whole):
        torch.testing.assert_close(sum(part[k] for part in parts) / 4, gradient, rtol=1e-3, atol=1e-6)


def test_ties_may_weigh_nothing(studio):
    tied = [pair for pair in MIXED if pair.tie]
    stage = make(studio, [MIXED[0], *tied], tie_weight=0, both_bad_weight=0, batch_size=1)
    chosen = [batch_at(i, 1, 3, 0)[0] for i in range(3)]
    for index, which in enumerate(chosen):
        metrics, gradients = captured(stage, index)
        assert math.isfinite(metrics["loss/reward"])
        assert any(g.any() for g in gradients) == (which == 0)


def test_both_bad_is_also_a_push_below_zero(studio):
    bad = [MIXED[0], MIXED[3]]
    _, with_push = captured(make(studio, bad, tie_weight=0, both_bad_weight=1.0))
    _, without = captured(make(studio, bad, tie_weight=0, both_bad_weight=0))
    # The bias cancels in differences; only the push has a gradient there, and downhill is down.
    assert without[-1].item() == pytest.approx(0, abs=1e-6)
    assert with_push[-1].item() > 0.05


def test_measures_by_hand(studio):
    held = [
        Pair(user("a"), "c", "r", criteria=(("short", B), ("warm", A))),
        Pair(user("b"), "c", "r", strength=2, criteria=(("warm", TIE),)),
        Pair(user("c"), "c", "r", tie=True, criteria=(("short", A), ("warm", B))),
        Pair(user("d"), "c", "r"),
    ]
    stage = make(studio)
    stage.heldout = [stage._encode(Vote((pair,))) for pair in held]
    stage.scores = lambda rows: torch.tensor([2.0, 1.0, 0.5, -1.0, 1.0, 0.0, -1.0, 0.0])
    found = measure(stage)
    cost = lambda x: math.log1p(math.exp(-x))  # noqa: E731
    # Δ = 1; 1.5 less the margin 0.5; tie at Δ = 1, weight ½; Δ = −1
    expected = (cost(1) + cost(1) + 0.5 * 0.5 * (cost(1) + cost(-1)) + cost(-1)) / 3.5
    assert found["eval/loss"] == pytest.approx(expected, rel=1e-5)
    assert found["eval/accuracy"] == pytest.approx(2 / 3)
    assert found["eval/votes"] == 3
    assert found["eval/accuracy_low"] == pytest.approx(0.2077, abs=1e-3)  # Wilson, 2 of 3
    assert found["eval/accuracy_high"] == pytest.approx(0.9385, abs=1e-3)
    # short: B said, chosen scored higher: wrong; A, right. warm: A, right; B, wrong; a tie says nothing.
    assert found["eval/accuracy/short"] == 0.5
    assert found["eval/accuracy/warm"] == 0.5
    assert stage.evaluate().quality >= -found["eval/loss"]


def test_the_best_adapter_is_right_most_often_not_least_sure(studio):
    stage = make(studio)
    stage.heldout = [stage._encode(Vote((Pair(user(name), "c", "r"),))) for name in "abcde"]

    def judged(*differences):
        stage.scores = lambda rows: torch.tensor([x for d in differences for x in (d, 0.0)])
        return stage.evaluate()

    sure, unsure = judged(6.0, 6.0, 6.0, 6.0, -6.0), judged(0.1, -0.1, 0.1, -0.1, 0.1)
    assert sure.metrics["eval/loss"] > unsure.metrics["eval/loss"]
    assert sure.quality > unsure.quality
    # At the best scale four of five are as sure as they are right: the entropy of 0.8.
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    assert -sure.quality == pytest.approx(entropy, abs=0.005)
    # Of scores that say the opposite the best scale is none at all.
    assert -judged(-1.0, -1.0, -1.0, -1.0, -1.0).quality == pytest.approx(math.log(2), abs=0.01)


def test_scores_stand_in_the_order_of_the_rows(studio):
    stage = make(studio, micro_batch_tokens=16)
    rows = [row for vote in stage.votes for row in vote.rows]
    with studio.bank.activate("reward"), torch.no_grad():
        expected = torch.stack([s for p in MIXED for s in plain_scores(studio, p.prompt, p.chosen, p.rejected)])
    torch.testing.assert_close(stage.scores(rows), expected, rtol=1e-4, atol=1e-4)
    assert stage.scores([]).shape == (0,)


@pytest.mark.parametrize("anchored", [True, False])
def test_centring_makes_the_anchors_average_zero_and_keeps_the_order(studio, anchored):
    anchors = [Demonstration(user(f"q{i}"), "an answer") for i in range(3)] if anchored else []
    stage = make(studio, anchors=anchors)
    clear = [vote.rows[0] for vote in stage.votes if vote.vote.clear]
    before = stage.scores(clear)
    shift = stage.finish()["score/shift"]
    assert abs(shift) > 0.01
    centred = stage.anchors if anchored else clear
    assert float(stage.scores(centred).mean()) == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(stage.scores(clear), before - shift, rtol=1e-4, atol=1e-5)
    after = stage.scores(clear)
    assert "score/shift" not in make(studio, anchors=anchors, center=False).finish()
    assert torch.equal(stage.scores(clear), after)


def planted(count: int) -> list[Pair]:
    """People who like exclamation marks."""
    generator = torch.Generator().manual_seed(0)
    words = ["sun", "rain", "tea", "bread", "road", "lamp"]
    pairs = []
    for i in range(count):
        first, second = (words[j] for j in torch.randint(6, (2,), generator=generator).tolist())
        pairs.append(Pair(user(f"say {i}"), f"{first}!", f"{second}."))
    return pairs


def test_a_planted_preference_is_learned_for_prompts_never_seen(studio):
    pairs = planted(80)
    assert 8 < sum(is_heldout(p.prompt, 0.3) for p in pairs) < 40
    stage = make(studio, pairs, heldout_share=0.3, batch_size=16, epochs=6, learning_rate=0.01)
    before = measure(stage)["eval/accuracy"]
    for index in range(stage.total):
        stage.step(index)
    after = measure(stage)
    assert before < 0.9
    assert after["eval/accuracy"] > 0.95
    assert after["eval/accuracy_low"] > 0.7


def test_a_ranking_weighs_as_one_vote_in_the_gradient(studio):
    """The gradient of a ranking of three is the mean over its three pairs."""
    ranking = Ranking(user("rank"), ("best", "middle", "last"), (1, 2, 3))
    vote = Pair(user("vote"), "good", "bad one")
    _, found = captured(make(studio, [vote, *votes_of([], [ranking])]))
    with studio.bank.activate("reward"):
        scores = plain_scores(studio, ranking.prompt, *ranking.completions)
        couples = [(0, 1), (0, 2), (1, 2)]
        of_ranking = -sum(log_sigmoid(scores[i] - scores[j]) for i, j in couples) / 3
        ((plain_loss(studio, [vote]) + of_ranking) / 2).backward()
    for parameter, gradient in zip(studio.bank.parameters("reward"), found, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("pairs", [[], [MIXED[1], MIXED[3]]], ids=["none", "ties only"])
def test_without_a_clear_vote_it_says_what_to_do(studio, pairs):
    with pytest.raises(TrainingError, match="no votes for either answer"):
        make(studio, pairs)


def test_without_a_clear_heldout_vote_nothing_is_measured(studio):
    assert make(studio).evaluate() is None
    assert "eval/loss" not in make(studio).finish()
