"""Whole stages over several steps against `tests.plain`: every number that is logged, and every weight."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lorarlhf.adapters import AdapterBank
from lorarlhf.base import Base, load_base
from lorarlhf.data.pairs import Pair, Vote
from lorarlhf.settings import LoadSettings, PPOSettings, RewardSettings, SFTSettings
from lorarlhf.train.common import Studio
from lorarlhf.train.ppo import PPOStage
from lorarlhf.train.reward import RewardStage
from lorarlhf.train.rollout import Roles
from lorarlhf.train.sft import SFTStage
from lorarlhf.train.team import Team
from lorarlhf.types import Demonstration, is_heldout, user
from tests import plain, tiny
from tests.test_sft import noisy

PROMPTS = [[256, 10 + i, 20, 30 + 2 * i] + [40] * (i % 3) for i in range(8)]
HELDOUT = [[256, 90 + i, 21] for i in range(4)]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Base, Base]:
    """Load the same base twice: one for the stage, one for its twin."""
    folder = tiny.save(tmp_path_factory.mktemp("bases") / "llama", layers=1)
    one, other = (load_base(LoadSettings(base=str(folder), bits=16, compute="fp32", device="cpu")) for _ in range(2))
    return one, other


@pytest.fixture
def banks(bases):
    made = [AdapterBank(base) for base in bases]
    yield made
    for bank in made:
        for name in list(bank.names):
            bank.delete(name)


def raw_score(response: list[int]) -> float:
    """Reward few high tokens; any fixed function of the answer does, that is above what unended ones may score."""
    return 2.0 - sum(token > 128 for token in response) / 6


def close(found: dict[str, float], expected: dict[str, float]) -> None:
    for name, value in expected.items():
        # Within the range both branches are equal but for rounding, which decides for a token now and then.
        # The policy's loss is what is left of terms that cancel: processors differ by up to 2e-5 of it.
        slack = 0.02 if name.endswith("clipfrac") else 4e-5 if name == "loss/policy" else 2e-5
        # Adam divides small gradients by their own size: what rounding does to them grows from step to step.
        assert found[name] == pytest.approx(value, rel=1e-2 if name.startswith("eval/") else 2e-3, abs=slack), name


# -- PPO --------------------------------------------------------------------------------------------------------------

COMMON: dict[str, Any] = {
    **{"steps": 4, "batch_size": 8, "max_new_tokens": 14, "micro_batch_tokens": 60, "learning_rate": 4e-3, "seed": 3},
    **{"temperature": 0.7, "gamma": 0.9, "lam": 0.6, "clip": 0.05, "value_clip": 0.07, "value_learning_rate": 2e-3},
    **{"ppo_epochs": 2, "mini_batches": 2, "kl_coef": 0.3, "missing_eos_score": -0.8, "weight_decay": 0.02},
    **{"warmup": 0.5, "schedule": "linear", "max_grad_norm": 0.4, "eval_prompts": 3, "answers_per_prompt": 1},
}
CASES: dict[str, dict[str, Any]] = {
    "head": {"critic": "head", "kl_control": "adaptive", "kl_target": 0.5, "kl_horizon": 20, "value_warmup_steps": 1},
    "adapter": {"critic": "adapter", "value_warmup_steps": 2, "whiten_rewards": True, "entropy_coef": 0.05},
    "none": {"critic": "none", "answers_per_prompt": 2, "kl_control": "adaptive", "kl_target": 0.01, "kl_horizon": 30},
    "parent": {"critic": "head", "value_warmup_steps": 0, "whiten_advantages": False, "parent": "earlier"},
}


def roles_in(bank: AdapterBank, case: dict[str, Any]) -> Roles:
    noisy(bank, "reference", seed=1)
    bank.freeze("reference")
    if case.get("parent"):
        noisy(bank, "policy", seed=1)
        bank.load_state("policy", {k: 0.9 * v for k, v in bank.state("reference").items()})
    else:
        bank.copy("reference", "policy")
    noisy(bank, "reward", seed=2, head=True)
    bank.freeze("reward")
    if case["critic"] == "adapter":
        bank.copy("reward", "value")
    return Roles(value="value" if case["critic"] == "adapter" else "reward")


class Twin:
    """PPO as its papers write it, on lists."""

    def __init__(self, base: Base, bank: AdapterBank, settings: PPOSettings, critic: dict[str, torch.Tensor]) -> None:
        self.base, self.bank, self.s = base, bank, settings
        self.coef, self.spread = settings.kl_coef, 0.0
        self.policy = bank.parameters("policy")
        self.network = {k: v.clone().requires_grad_() for k, v in critic.items()} if settings.critic == "head" else {}
        self.value = bank.parameters("value") if settings.critic == "adapter" else list(self.network.values())
        more = {"eps": settings.adam_eps, "weight_decay": settings.weight_decay}
        self.adam = torch.optim.AdamW(self.policy, **more)
        self.value_adam = torch.optim.AdamW(self.value, **more) if self.value else None

    def said(self, adapter: str | None, row: Any) -> tuple[torch.Tensor, torch.Tensor]:
        with self.bank.activate(adapter):
            return plain.logprobs(self.base, row, self.s.temperature)

    def values(self, row: Any) -> torch.Tensor:
        if self.s.critic == "adapter":
            with self.bank.activate("value"):
                return self.bank.heads["value"](plain.states(self.base, row)[:-1]).squeeze(-1)
        with self.bank.activate("reward"), torch.no_grad():
            seen = plain.states(self.base, row)[:-1]
        hidden = torch.nn.functional.gelu(plain.linear(self.network, "correction.0", seen))
        return (plain.linear(self.network, "head", seen) + plain.linear(self.network, "correction.2", hidden))[:, 0]

    def score(self, rows: list[Any], ended: list[bool]) -> list[float]:
        raw = [raw_score(row.response) for row in rows]
        if not self.spread:
            self.spread = float(torch.tensor(raw).std(unbiased=False))
        least = self.s.missing_eos_score * self.spread
        return [one if end else min(one, least) for one, end in zip(raw, ended, strict=True)]

    def evaluate(self, rows: list[Any], ended: list[bool]) -> dict[str, float]:
        scores = self.score(rows, ended)
        with torch.no_grad():
            kl = [float((self.said("policy", r)[0] - self.said("reference", r)[0]).sum()) for r in rows]
        quality = [s / self.spread - self.s.kl_coef * k for s, k in zip(scores, kl, strict=True)]
        count = len(rows)
        return {
            **{"eval/scores": sum(scores) / count, "eval/kl": sum(kl) / count, "eval/eos_share": sum(ended) / count},
            **{"eval/length": sum(len(r.response) for r in rows) / count, "quality": sum(quality) / count},
        }

    def step(self, index: int, rows: list[Any], ended: list[bool]) -> dict[str, float]:
        s, count = self.s, len(rows)
        scores = self.score(rows, ended)
        with torch.no_grad():
            old, entropy = zip(*(self.said("policy", row) for row in rows), strict=True)
            reference = [self.said("reference", row)[0] for row in rows]
            values = [self.values(row).tolist() for row in rows] if self.value else None
        price = self.coef
        apart = [(o - r).tolist() for o, r in zip(old, reference, strict=True)]
        rewards = [[-price * x for x in row] for row in apart]
        for row, score in zip(rewards, scores, strict=True):
            row[-1] += score / self.spread
        if s.whiten_rewards:
            rewards = plain.whitened(rewards, centre=False)
        ahead, returns = plain.advantages(rewards, values, s.gamma, s.lam, s.answers_per_prompt)
        if s.whiten_advantages:
            ahead = plain.whitened(ahead, centre=values is not None)
        found = self.update(index, rows, old, values, ahead, returns)
        kl = sum(map(sum, apart)) / count
        tokens = sum(len(row.response) for row in rows)
        found |= {
            **{"objective/kl": kl, "objective/scores": sum(scores) / count, "objective/kl_coef": price},
            **{"objective/non_score_reward": -price * kl, "response/length": tokens / count},
            "objective/rlhf_reward": sum(scores) / count / self.spread - price * kl,
            "objective/scores_std": float(torch.tensor(scores).std(unbiased=False)),
            "objective/scores_min": min(scores),
            "objective/entropy": float(sum(e.sum() for e in entropy)) / tokens,
            "response/eos_share": sum(ended) / count,
        }
        if values is not None:
            target = torch.tensor([x for row in returns for x in row])
            rest = target - torch.tensor([x for row in values for x in row])
            found["val/explained_variance"] = 1 - float(rest.var(unbiased=False) / target.var(unbiased=False))
            found["val/mean"] = sum(map(sum, values)) / tokens
        if s.kl_control == "adaptive":
            self.coef *= 1 + max(-0.2, min(0.2, kl / s.kl_target - 1)) * count / s.kl_horizon
        return found

    def update(self, index: int, rows: Any, old: Any, values: Any, ahead: Any, returns: Any) -> dict[str, float]:
        s, count = self.s, len(rows)
        rest = s.value_only_steps
        sums: dict[str, float] = {}
        size = count // s.mini_batches
        for epoch in range(s.ppo_epochs):
            mixed = plain.order(count, s.seed + index * s.ppo_epochs + epoch)
            for start in range(0, count, size):
                chosen = mixed[start : start + size]
                tokens = sum(len(rows[i].response) for i in chosen)
                seen: dict[str, float] = {}
                for i in chosen:
                    a_R, old_R = torch.tensor(ahead[i]), old[i].detach()
                    if index >= rest:
                        new_R, entropy_R = self.said("policy", rows[i])
                        ratio_R = (new_R - old_R).exp()
                        one_R, other_R = ratio_R * a_R, ratio_R.clamp(1 - s.clip, 1 + s.clip) * a_R
                        loss_R = -torch.minimum(one_R, other_R)
                        ((loss_R.sum() - s.entropy_coef * entropy_R.sum()) / tokens).backward()
                        for name, x in (
                            ("loss/policy", loss_R),
                            ("policy/clipfrac", (other_R < one_R).float()),
                            ("policy/approxkl", 0.5 * (new_R - old_R) ** 2),
                            ("policy/ratio", ratio_R),
                            ("policy/entropy", entropy_R),
                        ):
                            seen[name] = seen.get(name, 0.0) + float(x.sum()) / tokens
                    if values is not None:
                        before_R, target_R = torch.tensor(values[i]), torch.tensor(returns[i])
                        now_R = self.values(rows[i])
                        near_R = before_R + (now_R - before_R).clamp(-s.value_clip, s.value_clip)
                        plain_R, held_R = (now_R - target_R) ** 2, (near_R - target_R) ** 2
                        worst_R = 0.5 * torch.maximum(plain_R, held_R)
                        (worst_R.sum() / tokens).backward()
                        seen["loss/value"] = seen.get("loss/value", 0.0) + float(worst_R.detach().sum()) / tokens
                        clipped = float((held_R > plain_R).sum()) / tokens
                        seen["val/clipfrac"] = seen.get("val/clipfrac", 0.0) + clipped
                for name, value in seen.items():
                    sums[name] = sums.get(name, 0.0) + value / (s.ppo_epochs * s.mini_batches)
                sums |= self.optimise(index)
        return sums if index >= rest else {**sums, "policy/ratio": 1.0}

    def optimise(self, index: int) -> dict[str, float]:
        s, rest, found = self.s, self.s.value_only_steps, {}
        if index >= rest:
            rate = plain.rate_at(index - rest, s.steps - rest, float(s.learning_rate), s.warmup, s.schedule)
            found |= {"lr/policy": rate, "grad_norm/policy": plain.clip_norm(self.policy, s.max_grad_norm)}
            self.adam.param_groups[0]["lr"] = rate
            self.adam.step()
        if self.value_adam:
            rate = plain.rate_at(index, s.steps, s.value_learning_rate, s.warmup, s.schedule)
            found |= {"lr/value": rate, "grad_norm/value": plain.clip_norm(self.value, s.max_grad_norm)}
            self.value_adam.param_groups[0]["lr"] = rate
            self.value_adam.step()
        for parameter in [*self.policy, *self.value]:
            parameter.grad = None
        return found


@pytest.mark.parametrize("name", CASES)
def test_ppo_is_its_papers_row_by_row(bases, banks, name):
    case = CASES[name]
    settings = PPOSettings(**COMMON | case)
    roles, _ = (roles_in(bank, case) for bank in banks)

    def scorer(rows, budget):
        return torch.tensor([raw_score(row.response) for row in rows])

    stage = PPOStage(Studio(bases[0], banks[0], Team()), roles, settings, scorer, PROMPTS, HELDOUT)
    critic = {k: v.clone() for k, v in stage.critic.state().items()} if case["critic"] == "head" else {}
    twin = Twin(bases[1], banks[1], settings, critic)
    rolled: list[Any] = []
    roll_out = stage._roll_out
    stage._roll_out = lambda *asked: rolled.append((asked[0], roll_out(*asked))) or rolled[-1][1]
    lengths, ends, clips = set(), set(), 0.0
    for index in range(settings.steps):
        if index in (0, 2):
            measured = stage.evaluate()
            asked, rollout = rolled.pop()
            assert asked == HELDOUT[:3]
            ended = [c.ended for c in rollout.completions]
            expected = twin.evaluate(rollout.rows, ended)
            close({**measured.metrics, "quality": measured.quality}, expected)
            assert sum(measured.each) / 3 == pytest.approx(measured.quality, rel=1e-5)
        metrics = stage.step(index)
        asked, rollout = rolled.pop()
        each = settings.answers_per_prompt
        turns = plain.walk(index, 8 // each, len(PROMPTS), settings.seed)
        assert asked == [PROMPTS[i] for i in turns for _ in range(each)]
        expected = twin.step(index, rollout.rows, [c.ended for c in rollout.completions])
        close(metrics, expected)
        lengths |= {len(row.response) for row in rollout.rows}
        ends |= {c.ended for c in rollout.completions}
        clips += expected.get("policy/clipfrac", 0.0) + expected.get("val/clipfrac", 0.0)
    assert len(lengths) > 1
    assert ends == {True, False}
    assert clips > 0
    for mine, its in zip(stage._policy, twin.policy, strict=True):
        torch.testing.assert_close(mine, its, rtol=5e-3, atol=2e-4)
    if stage.critic:
        trained = stage.critic.state() if twin.network else dict(enumerate(stage.critic.parameters()))
        others = twin.network or dict(enumerate(twin.value))
        for key, tensor in trained.items():
            torch.testing.assert_close(tensor, others[key], rtol=5e-3, atol=2e-4)


def test_what_is_sampled_is_asked_for(bases, banks, monkeypatch):
    settings = PPOSettings(**COMMON | CASES["none"] | {"top_p": 0.9})
    roles = roles_in(banks[0], CASES["none"])
    seen: list[Any] = []
    from lorarlhf.train import rollout as module

    complete = module.complete
    monkeypatch.setattr(
        module, "complete", lambda base, ids, s, **k: seen.append((ids, s)) or complete(base, ids, s, **k)
    )
    stage = PPOStage(
        Studio(bases[0], banks[0], Team()),
        roles,
        settings,
        lambda rows, budget: torch.zeros(len(rows)),
        PROMPTS,
        HELDOUT,
    )
    stage.evaluate()
    stage.step(0)
    stage.step(1)
    assert seen[0][0] == HELDOUT[:3]
    assert all(ids in PROMPTS for ids in seen[1][0] + seen[2][0])
    assert {(s.temperature, s.top_p, s.max_new_tokens) for _, s in seen} == {(0.7, 0.9, 14)}
    assert len({s.seed for _, s in seen}) == 3


# -- reward -----------------------------------------------------------------------------------------------------------

VOTES = [
    *(Vote((Pair(user(f"one {i}"), f"good {i}", f"bad one {i}", strength=1 + i % 2),)) for i in range(6)),
    Vote((Pair(user("two"), "this", "that", tie=True),)),
    Vote((Pair(user("three"), "awful", "worse", tie=True, both_bad=True),)),
    Vote(
        tuple(
            Pair(user("four"), a, b, weight=1 / 3)
            for a, b in (("best", "middling"), ("best", "last of all"), ("middling", "last of all"))
        )
    ),
]


def test_the_reward_model_learns_votes_row_by_row(bases, banks):
    settings = RewardSettings(
        **{"learning_rate": 0.01, "epochs": 2, "batch_size": 4, "heldout_share": 0.2, "weight_decay": 0.05, "seed": 5},
        **{"max_grad_norm": 0.3, "micro_batch_tokens": 60, "margin": 0.4, "tie_weight": 0.6, "both_bad_weight": 0.7},
    )
    for bank in banks:
        noisy(bank, "reward", head=True)
    studio = Studio(bases[0], banks[0], Team())
    stage = RewardStage(studio, "reward", settings, VOTES)
    votes = [vote for vote in VOTES if not is_heldout(vote.prompt, 0.2)]
    assert 1 < len(votes) < len(VOTES)
    base, bank = bases[1], banks[1]
    parameters, head = bank.parameters("reward"), bank.heads["reward"]
    adam = torch.optim.AdamW(parameters, weight_decay=0.05)

    def score(prompt: Any, text: str) -> torch.Tensor:
        return head(plain.states(base, studio.row(prompt, text, 1024))[-1])[0]

    def cost(x: torch.Tensor) -> torch.Tensor:
        return torch.log1p(torch.exp(-x))

    def loss_of(vote: Vote) -> torch.Tensor:
        total = torch.zeros(())
        for pair in vote.pairs:
            chosen, rejected = score(pair.prompt, pair.chosen), score(pair.prompt, pair.rejected)
            gap = chosen - rejected
            if pair.tie:
                total = total + pair.weight * 0.6 * 0.5 * (cost(gap) + cost(-gap))
            else:
                total = total + pair.weight * cost(gap - 0.4 * (pair.strength - 1))
            if pair.both_bad:
                total = total + pair.weight * 0.7 * (cost(-chosen) + cost(-rejected))
        return total

    mean = sum(pair.weight * (0.6 if pair.tie else 1.0) for vote in votes for pair in vote.pairs) / len(votes)
    steps = math.ceil(2 * len(votes) / 4)
    assert stage.total == steps
    for index in range(steps):
        metrics = stage.step(index)
        chosen = plain.walk(index, 4, len(votes), 5)
        with bank.activate("reward"):
            loss = sum(loss_of(votes[i]) for i in chosen) / (4 * mean)
            loss.backward()
        rate = plain.rate_at(index, steps, 0.01, 0.05, "cosine")
        expected = {"loss/reward": float(loss), "lr/reward": rate, "grad_norm/reward": plain.clip_norm(parameters, 0.3)}
        close(metrics, expected)
        adam.param_groups[0]["lr"] = rate
        adam.step()
        adam.zero_grad()
    for mine, its in zip(banks[0].parameters("reward"), parameters, strict=True):
        torch.testing.assert_close(mine, its, rtol=2e-3, atol=2e-5)


# -- SFT --------------------------------------------------------------------------------------------------------------


def test_sft_raises_the_probability_of_answers_token_by_token(bases, banks):
    shown = [Demonstration(user(f"question {i}?"), "an answer, " * (1 + i % 3)) for i in range(10)]
    settings = SFTSettings(learning_rate=0.02, epochs=2, batch_size=3, heldout_share=0.3, max_grad_norm=0.5, seed=2)
    for bank in banks:
        noisy(bank, "sft")
    studio = Studio(bases[0], banks[0], Team())
    stage = SFTStage(studio, "sft", settings, shown)
    rows = [studio.row(d.prompt, d.response, 1024) for d in shown if not is_heldout(d.prompt, 0.3)]
    held = [studio.row(d.prompt, d.response, 1024) for d in shown if is_heldout(d.prompt, 0.3)]
    assert held
    base, bank = bases[1], banks[1]
    parameters = bank.parameters("sft")
    adam = torch.optim.AdamW(parameters, weight_decay=0.0)
    steps = math.ceil(2 * len(rows) / 3)
    for index in range(steps):
        metrics = stage.step(index)
        chosen = [rows[i] for i in plain.walk(index, 3, len(rows), 2)]
        with bank.activate("sft"):
            loss = -sum(plain.logprobs(base, row)[0].sum() for row in chosen) / sum(len(r.response) for r in chosen)
            loss.backward()
        rate = plain.rate_at(index, steps, 0.02, 0.05, "cosine")
        close(metrics, {"loss/sft": float(loss), "lr/sft": rate, "grad_norm/sft": plain.clip_norm(parameters, 0.5)})
        adam.param_groups[0]["lr"] = rate
        adam.step()
        adam.zero_grad()
    with bank.activate("sft"), torch.no_grad():
        heldout = -sum(float(plain.logprobs(base, row)[0].sum()) for row in held) / sum(len(r.response) for r in held)
    assert stage.evaluate().metrics["eval/loss"] == pytest.approx(heldout, rel=1e-4)
    for mine, its in zip(banks[0].parameters("sft"), parameters, strict=True):
        torch.testing.assert_close(mine, its, rtol=2e-3, atol=2e-5)
