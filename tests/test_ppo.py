"""PPO against mathematics, against a plain implementation, and against its own promises."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks import one_token
from lorarlhf.adapters import AdapterBank
from lorarlhf.base import load_base
from lorarlhf.errors import TrainingError
from lorarlhf.settings import LoadSettings, LoraSettings, PPOSettings
from lorarlhf.train.common import Studio
from lorarlhf.train.loop import StageDone
from lorarlhf.train.ppo import PPOStage
from lorarlhf.train.rollout import Roles
from lorarlhf.train.team import Team
from tests import tiny

LORA = LoraSettings(rank=4, alpha=8)
PROMPTS = [[256, 10 + i, 20, 30 + 2 * i] + [40] * (i % 3) for i in range(8)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tiny.save(tmp_path_factory.mktemp("bases") / "qwen3", arch="qwen3")
    return load_base(LoadSettings(base=str(folder), bits=4, compute="fp32", device="cpu"))


def like_short(rows, budget):
    """Reward few high tokens: any fixed function of the answer does."""
    return torch.tensor([-sum(t > 128 for t in row.response) / 4 for row in rows])


def make_stage(base, scorer=like_short, heldout=(), **changes) -> PPOStage:
    settings = PPOSettings(
        **{"batch_size": 8, "max_new_tokens": 8, "steps": 4, "value_warmup_steps": 0, "micro_batch_tokens": 64}
        | {"learning_rate": 3e-4, "critic": "head", "answers_per_prompt": 1, "ppo_epochs": 1, "mini_batches": 1}
        | changes
    )
    bank = AdapterBank(base)
    for name in list(bank.names):
        bank.delete(name)
    bank.create("reference", LORA, seed=1)
    generator = torch.Generator().manual_seed(1)
    state = {k: 0.1 * torch.randn(v.shape, generator=generator) for k, v in bank.state("reference").items()}
    bank.load_state("reference", state)
    bank.freeze("reference")
    bank.copy("reference", "policy")
    bank.create("reward", LORA, head=True, seed=2)
    bank.freeze("reward")
    bank.copy("reward", "value")
    return PPOStage(Studio(base, bank, Team()), Roles(), settings, scorer, PROMPTS, heldout)


@pytest.fixture
def stage(base):
    made = make_stage(base)
    yield made
    forget(made)


def forget(stage: PPOStage) -> None:
    for name in list(stage.studio.bank.names):
        stage.studio.bank.delete(name)


def test_ppo_reaches_the_closed_form_of_a_one_token_task():
    # The benchmark takes twice the steps, to end nearer still.
    found = one_token.run(0, one_token.SETTINGS.model_copy(update={"steps": 40}))
    assert found["start_nats"] > 0.2
    assert found["policy_to_best_nats"] <= 0.02
    assert found["best_to_policy_nats"] <= 0.03


def test_step_zero_has_no_kl_and_ratio_one(stage):
    metrics = stage.step(0)
    assert abs(metrics["objective/kl"]) < 1e-4
    assert metrics["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["policy/clipfrac"] == 0
    assert metrics["policy/approxkl"] < 1e-8
    assert {"objective/scores", "val/explained_variance", "response/length", "response/eos_share"} <= metrics.keys()


def test_a_policy_that_is_not_the_reference_at_the_start_is_refused(stage):
    bank = stage.studio.bank
    bank.load_state("policy", {k: v + 0.3 for k, v in bank.state("policy").items()})
    with pytest.raises(TrainingError, match="policy and reference differ"):
        stage.step(0)


def plain_gradient(stage: PPOStage, rollout, advantages) -> dict[int, torch.Tensor]:
    """Differentiate the clipped surrogate row by row through transformers' full logits."""
    bank, model = stage.studio.bank, stage.studio.base.model
    tokens = int(rollout.response_mask_BR.sum())
    with bank.activate("policy"):
        for b, row in enumerate(rollout.rows):
            ids = torch.tensor([row.prompt + row.response])
            logits = model(input_ids=ids, use_cache=False).logits[0].float()
            start, count = len(row.prompt), len(row.response)
            logprobs = torch.log_softmax(logits[start - 1 : start + count - 1], -1)
            new = logprobs[torch.arange(count), ids[0, start:]]
            ratio = (new - rollout.logprobs_BR[b, :count]).exp()
            advantage = advantages.advantages_BR[b, :count]
            surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            (-surrogate.sum() / tokens).backward()
    found = {i: p.grad.clone() for i, p in enumerate(bank.parameters("policy"))}
    for p in bank.parameters("policy"):
        p.grad = None
    return found


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_policy_gradient_is_that_of_a_plain_implementation(base, monkeypatch, checkpointing):
    stage = make_stage(base, gradient_checkpointing=checkpointing)
    rollout = stage.roll_out(0)
    advantages = stage.advantages(rollout)
    expected = plain_gradient(stage, rollout, advantages)
    monkeypatch.setattr(stage.optimizer, "step", lambda *args, **kwargs: {})
    stage.update(rollout, advantages, 0)
    for i, parameter in enumerate(stage.studio.bank.parameters("policy")):
        torch.testing.assert_close(parameter.grad, expected[i], rtol=1e-3, atol=1e-6)
    assert sum(float(g.abs().sum()) for g in expected.values()) > 0
    forget(stage)


def test_micro_batches_do_not_change_the_numbers(base):
    found = []
    for budget in (16, 64, 4096):
        stage = make_stage(base, micro_batch_tokens=budget)
        found.append(stage.step(0))
        forget(stage)
    for other in found[1:]:
        for key, value in found[0].items():
            if not key.startswith("time"):
                assert other[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key


@pytest.mark.parametrize("critic", ["head", "adapter"])
def test_warm_up_trains_the_critic_only_and_others_are_never_touched(base, critic):
    stage = make_stage(base, value_warmup_steps=1, critic=critic)
    bank = stage.studio.bank

    def snapshot():
        roles = {name: bank.state(name) for name in bank.names} | {"critic": stage.critic.state()}
        return {name: {k: v.clone() for k, v in tensors.items()} for name, tensors in roles.items()}

    def changed(before, after):
        return {name for name in before if any(not torch.equal(before[name][k], after[name][k]) for k in before[name])}

    start = snapshot()
    stage.step(0)
    warmed = snapshot()
    stage.step(1)
    learning = {"critic", "value"} if critic == "adapter" else {"critic"}
    assert changed(start, warmed) == learning
    assert changed(warmed, snapshot()) == learning | {"policy"}
    forget(stage)


def test_leaving_the_kl_budget_ends_the_stage_with_words(base):
    stage = make_stage(base, kl_budget=1e-6, learning_rate=0.05)
    stage.step(0)  # at the reference still
    with pytest.raises(StageDone, match="passed kl_budget"):
        stage.step(1)
    forget(stage)


def test_a_policy_over_the_budget_is_never_the_best(base):
    stage = make_stage(base, heldout=PROMPTS, kl_budget=0.01)
    inside = stage.evaluate()
    bank = stage.studio.bank
    bank.load_state("policy", {k: v + 0.3 for k, v in bank.state("policy").items()})
    outside = stage.evaluate()
    assert math.isfinite(inside.quality)
    assert outside.metrics["eval/kl"] > 0.01
    assert outside.quality == -math.inf
    forget(stage)


def test_answers_that_never_ended_get_the_low_score(base):
    stage = make_stage(base, missing_eos_score=-7.0)
    rollout = stage.roll_out(0)
    raw_B = torch.tensor([-sum(t > 128 for t in row.response) / 4 for row in rollout.rows])
    assert stage.spread == pytest.approx(raw_B.std(unbiased=False).item())
    ended_B = torch.tensor([c.ended for c in rollout.completions])
    assert not ended_B.all()
    torch.testing.assert_close(rollout.scores_B[ended_B], raw_B[ended_B])
    torch.testing.assert_close(rollout.scores_B[~ended_B], raw_B[~ended_B].clamp_max(-7 * stage.spread))
    forget(stage)


def test_fewer_prompts_than_answers_repeats_prompts_with_different_answers(base):
    stage = make_stage(base, batch_size=24)
    rollout = stage.roll_out(0)
    assert len(rollout.rows) == 24
    answers = {tuple(r.response) for r in rollout.rows if r.prompt == PROMPTS[0]}
    assert len(answers) == 3
    forget(stage)


def test_no_prompts_is_an_error_that_says_what_to_do(base):
    with pytest.raises(TrainingError, match="no prompts to practise on"):
        PPOStage(Studio(base, AdapterBank(base), Team()), Roles(), PPOSettings(), like_short, [])
