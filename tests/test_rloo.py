"""PPO without a critic: answers to one prompt compared with each other, by hand and by a plain implementation."""

from __future__ import annotations

import pytest
import torch

from benchmarks import one_token
from lorarlhf.engine.core import Engine
from lorarlhf.engine.training import resume, train
from lorarlhf.errors import RunPaused, SettingsError
from lorarlhf.settings import LoadSettings, PPOSettings, RewardSettings
from lorarlhf.train.ppo import PPOStage
from lorarlhf.types import Comparison, Outcome, user
from lorarlhf.workspace import Workspace
from tests import tiny
from tests.test_ppo import PROMPTS, base, forget, make_stage

__all__ = ["base"]

NONE = {"critic": "none", "answers_per_prompt": 4}


def without_critic(base, **changes) -> PPOStage:
    stage = make_stage(base, **{**NONE, **changes})
    stage.studio.bank.delete("value")  # nobody misses it
    return stage


def reinforce(stage: PPOStage, rollout, each: int) -> list[torch.Tensor]:
    """Differentiate −A · Σ log p, row by row, through transformers' full logits; A by the definition."""
    bank, model, price = stage.studio.bank, stage.studio.base.model, stage.settings.kl_coef
    counts = [len(row.response) for row in rollout.rows]
    apart = rollout.logprobs_BR - rollout.ref_logprobs_BR
    earned = [
        float(score) / stage.spread - price * float(apart[b, : counts[b]].sum())
        for b, score in enumerate(rollout.scores_B.tolist())
    ]
    with bank.activate("policy"):
        for b, row in enumerate(rollout.rows):
            first = b - b % each
            others = [earned[i] for i in range(first, first + each) if i != b]
            ids = torch.tensor([row.prompt + row.response])
            logits = model(input_ids=ids, use_cache=False).logits[0].float()
            start = len(row.prompt)
            logprobs = torch.log_softmax(logits[start - 1 : start + counts[b] - 1], -1)
            logprob = logprobs[torch.arange(counts[b]), ids[0, start:]].sum()
            (-(earned[b] - sum(others) / (each - 1)) * logprob / sum(counts)).backward()
    found = [p.grad.clone() for p in bank.parameters("policy")]
    for p in bank.parameters("policy"):
        p.grad = None
    return found


@pytest.mark.parametrize("each", [2, 4])
def test_at_ratio_one_the_gradient_is_that_of_reinforce(base, monkeypatch, each):
    stage = without_critic(base, answers_per_prompt=each, whiten_advantages=False, kl_coef=0.3)
    bank = stage.studio.bank
    # Away from the reference, so that its KL is a part of what an answer earned.
    bank.load_state("policy", {k: v + 0.02 for k, v in bank.state("policy").items()})
    rollout = stage.roll_out(0)
    assert len({len(row.response) for row in rollout.rows}) > 1  # so there is padding
    assert rollout.kl_B.abs().max() > 0.1
    expected = reinforce(stage, rollout, each)
    monkeypatch.setattr(stage.optimizer, "step", lambda *args, **kwargs: {})
    metrics = stage.update(rollout, stage.advantages(rollout), 0)
    assert metrics["policy/ratio"] == pytest.approx(1, abs=1e-5)
    for parameter, wanted in zip(bank.parameters("policy"), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-3, atol=1e-6)
    assert sum(float(wanted.abs().sum()) for wanted in expected) > 0
    forget(stage)


def test_whitening_scales_and_moves_nothing(base):
    found = {}
    for whiten in (True, False):
        stage = without_critic(base, whiten_advantages=whiten)
        rollout = stage.roll_out(0)
        found[whiten] = stage.advantages(rollout).advantages_BR
        forget(stage)
    mask = rollout.response_mask_BR
    factor = found[True][mask] / found[False][mask]
    torch.testing.assert_close(factor, factor[:1].expand_as(factor))
    assert found[True][mask].var(correction=0) == pytest.approx(1, rel=1e-3)
    # Every prompt's answers, whatever their lengths, are as much above as below.
    assert found[True][:, 0].view(-1, 4).sum(1).abs().max() < 1e-5


def test_answers_to_a_prompt_stand_together_and_differ(base):
    stage = without_critic(base)
    rollout = stage.roll_out(0)
    prompts = [rows[0].prompt for rows in (rollout.rows[:4], rollout.rows[4:])]
    assert [row.prompt for row in rollout.rows] == [prompts[0]] * 4 + [prompts[1]] * 4
    assert prompts[0] != prompts[1]
    assert len({tuple(row.response) for row in rollout.rows}) == 8
    # Each pass over the prompts takes every one of them, two a step.
    asked = [i for step in range(4) for i in stage._prompt_order(step)]
    assert sorted(asked) == [i for i in range(8) for _ in range(4)]
    forget(stage)


def test_nothing_is_made_of_a_value(base):
    stage = without_critic(base, value_warmup_steps=3, steps=2)
    start = {k: v.clone() for k, v in stage.adapter().items()}
    metrics = stage.step(0)
    # There is no warm-up to wait for.
    assert any(not torch.equal(start[k], v) for k, v in stage.adapter().items())
    assert metrics["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert not [name for name in metrics if name.startswith("val/") or "value" in name]
    assert {"objective/kl", "policy/clipfrac", "grad_norm/policy", "lr/policy"} <= metrics.keys()
    assert not [key for key in stage.tensors() if key.startswith(("value", "optimizer.value"))]
    assert stage.roll_out(1).values_BR is None
    assert stage.roll_out(1).states == []
    assert [group.name for group in stage.optimizer.groups] == ["policy"]
    forget(stage)


def test_fewer_prompts_than_a_step_asks_for_come_again(base):
    stage = without_critic(base, batch_size=48)
    rollout = stage.roll_out(0)
    first, second = ([row.prompt for row in stage.roll_out(i).rows[::4]] for i in (0, 1))
    assert [row.prompt for row in rollout.rows] == [prompt for prompt in first for _ in range(4)]
    # Over 24 prompts each of the 8 comes three times, none more often than the others.
    assert sorted(first[:8]) == sorted(PROMPTS)
    assert sorted(first + second) == sorted(PROMPTS * 3)
    assert torch.isfinite(torch.tensor(list(stage.step(0).values()))).all()
    forget(stage)


def test_it_comes_near_the_closed_form_of_a_one_token_task():
    # The whole of `benchmarks.one_token --critic none` takes its time, and ends within 0.005 nats.
    changes = {**NONE, "answers_per_prompt": 8, "steps": 24, "learning_rate": 5e-3}
    found = one_token.run(0, PPOSettings.parse({**one_token.SETTINGS.model_dump(), **changes}))
    assert found["start_nats"] > 0.2
    assert found["policy_to_best_nats"] <= 0.04
    assert found["best_to_policy_nats"] <= 0.04


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"critic": "none", "answers_per_prompt": 1},
            "critic = none compares answers to one prompt: set answers_per_prompt to 2 or more, say 4",
        ),
        ({**NONE, "batch_size": 30}, "batch_size 30 must be a multiple of answers_per_prompt 4"),
        ({"answers_per_prompt": 3}, "batch_size 64 must be a multiple of answers_per_prompt 3"),
        ({"steps": 5, "critic": "head"}, r"steps = 5: the first 5 \(value_warmup_steps\) train no policy"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_in_a_line(changes, said):
    with pytest.raises(SettingsError, match=f"^ppo: {said}$"):
        PPOSettings.parse(changes, "ppo")
    assert PPOSettings.parse({**NONE, "steps": 1}).value_only_steps == 0


# -- as a person would ------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path):
    folder = tiny.save(tmp_path / "qwen3", arch="qwen3", layers=1)
    made = Engine(Workspace(tmp_path / "work"), LoadSettings(base=str(folder), compute="fp32", device="cpu"))
    made.store.add_comparisons(Comparison(user(f"q {i}"), f"good {i}", "bad", Outcome.A) for i in range(12))
    train(made, "reward", RewardSettings(rank=2, batch_size=4, epochs=1, parent="base"), "judge")
    yield made
    made.store.close()


def test_a_run_without_critic_goes_on_where_it_was_paused_with_the_same_numbers(engine):
    settings = PPOSettings(
        **{**NONE, "rank": 2, "steps": 4, "batch_size": 8, "max_new_tokens": 6, "micro_batch_tokens": 128},
        **{"eval_every": 2, "eval_prompts": 3, "checkpoint_every": 1, "kl_control": "adaptive", "ppo_epochs": 2},
    )
    whole = train(engine, "ppo", settings, "whole")
    looks = iter([False] * 16 + [True])
    with pytest.raises(RunPaused):
        train(engine, "ppo", settings, "mine", paused=lambda: next(looks, False))
    run = engine.store.runs()[-1].id
    saved = list((engine.workspace.runs_dir / run).rglob("*.safetensors"))
    assert saved
    assert not [path for path in saved if b'"value' in path.read_bytes()]
    assert resume(engine, run)["metrics"] == whole["metrics"]
    first, second = (
        {(s, n): v for s, n, v in engine.store.metrics(r) if not n.startswith("time/")} for r in ("ppo-1", run)
    )
    assert second == first
    assert engine.saved("mine").content("adapter") == engine.saved("whole").content("adapter")
    assert engine.saved("mine").card["settings"]["critic"] == "none"
