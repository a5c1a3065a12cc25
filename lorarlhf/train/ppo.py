"""PPO with a KL penalty on adapters of one base (Schulman et al. 2017; details of arXiv 2403.17031).

One step, as `PPOStage.step` makes it:

    1. draw an answer to each prompt with the policy
    2. score it; log-probabilities under policy and reference, values under the critic   (rollout.py)
    3. reward per token: −β · (log p − log ref), plus the score at the last token
    4. advantages by GAE, centred and scaled over the batch
    5. for every epoch and mini-batch: clipped policy loss, clipped value loss, one Adam step
    6. let the KL controller look at the KL; stop when it passed the budget

Without a critic (`critic = none`: REINFORCE leave-one-out, arXiv 2402.14740) each prompt is answered several times, and
step 4 compares an answer with the others to its prompt; nothing has or learns a value. The loss stays the clipped one
with a ratio per token: at ratio 1, always so with one epoch and one mini-batch, its gradient is that of REINFORCE,
−A · Σ log p over the answer's tokens. Beyond it a ratio of whole answers would be out of the clip range within a few
tokens' drift, and throw away whole answers where this throws away tokens.

Policy and value share no parameters: the value is a network on the reward adapter's hidden states, or an adapter of its
own (critic.py), and what one of them does is finished, backward included, before the other begins. There is no value
coefficient: with parameters of its own, under Adam, a factor on the value loss would cancel; the value has a learning
rate instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lorarlhf.algo.gae import Advantages, gae, leave_one_out, token_rewards
from lorarlhf.algo.kl import AdaptiveKL, FixedKL, KLController, approx_kl, k3
from lorarlhf.algo.losses import ppo_policy, ppo_value
from lorarlhf.algo.statistics import center_and_scale, explained_variance, masked_mean, scale_only
from lorarlhf.data.cutting import Budget
from lorarlhf.errors import TrainingError
from lorarlhf.forward import Batch, batches, response_logprobs
from lorarlhf.settings import PPOSettings, SamplingSettings
from lorarlhf.train.common import Studio, prefixed, under
from lorarlhf.train.critic import AdapterCritic, Critic, HeadCritic
from lorarlhf.train.health import SAME_SCORE, Health
from lorarlhf.train.loop import Evaluation, Metrics, StageDone
from lorarlhf.train.optim import Group, Optimizer
from lorarlhf.train.order import batch_at, walk_at
from lorarlhf.train.pace import CHANGE, TOKEN_KL, Pace
from lorarlhf.train.rates import suggested_rate
from lorarlhf.train.rollout import Roles, Rollout, Scorer, roll_out, token_stats

OnSamples = Callable[[int, Rollout], None]

START_KL, START_RATIO = 0.5, 0.1
"""Before the first update the policy is the reference: KL per answer and mean |ratio − 1| beyond these are a bug."""
FIRST_RATE = 0.1
"""Share of the rate suggested for supervised training with which a steered policy begins."""
MOVED_ROWS = 32
"""Answers on which the length of an update is measured."""
LEAST_KEPT = 1e-4
"""Share of an update below which no more of it is taken back."""
ROUNDING = 0.01
"""Nats a token beyond which a movement cannot be rounding: bf16 makes about 0.002 of it."""
STRETCH, LONGEST_STRETCH, GROWN = 4, 64, 4.0
"""How much longer an update is made to be measured, at most, and how much more KL shows that it is movement."""
USUAL_CAP, OFTEN_CUT = -2.0, 0.5
"""Most that answers score that never ended, in spreads; not where so many of the first answers never did: then it would
decide nearly everything, and a person has voted on such answers."""


class PPOStage:
    """The policy adapter and its critic, if it has one, and the loop's six verbs on them."""

    def __init__(
        self,
        studio: Studio,
        roles: Roles,
        settings: PPOSettings,
        scorer: Scorer,
        prompts: Sequence[list[int]],
        heldout: Sequence[list[int]] = (),
        on_samples: OnSamples = lambda step, rollout: None,
    ) -> None:
        """Prepare PPO on token prompts; `heldout` ones (else the first of the others) choose the best policy."""
        if not prompts:
            raise TrainingError("no prompts to practise on; import some with `lorarlhf import FILE --as prompts`")
        self.studio, self.roles, self.settings, self.scorer = studio, roles, settings, scorer
        self.prompts, self.on_samples = list(prompts), on_samples
        # Without held-out prompts the training ones must choose: a policy past the KL budget is never to be kept.
        self.heldout = list(heldout or prompts)[: settings.eval_prompts]
        self.total, self.eval_every, self.trained = settings.steps, settings.eval_every, roles.policy
        self.kl_control = _controller(settings)
        self.spread: float | None = None
        self.cap: float | None = USUAL_CAP
        """Most that an answer scores that never ended, in spreads; None for no limit."""
        self.left_out: list[str] = []
        self.health = Health()
        self.critic = _critic(studio, roles, settings)
        self.pace = Pace(FIRST_RATE * suggested_rate(studio.base.hidden_size), settings.kl_target)
        policy = studio.bank.parameters(roles.policy)
        steered = settings.learning_rate == "auto"
        rate = self.pace.rate if settings.learning_rate == "auto" else settings.learning_rate
        groups = [Group("policy", policy, rate, first_step=settings.value_only_steps, scheduled=not steered)]
        if self.critic:
            groups.append(Group("value", self.critic.parameters(), settings.value_learning_rate))
        self.optimizer = Optimizer(groups, settings, studio.team, eps=settings.adam_eps)
        self.budget = Budget(settings.micro_batch_tokens, settings.rollout_rows)

    def prepare(self) -> list[str]:
        """Say which prompts were left out; nothing else comes before the first step."""
        return self.left_out

    def extend(self, step: int, losses: list[float]) -> str:
        """Nothing: the number of steps is asked for."""
        return ""

    # -- one step ---------------------------------------------------------------------------------------------

    def step(self, index: int) -> Metrics:
        """Make one PPO step; raise `StageDone` when the policy has left the KL budget or its answers have decayed."""
        rollout = self.roll_out(index)
        advantages = self.advantages(rollout)
        metrics = self.describe(rollout, advantages) | self.update(rollout, advantages, index)
        if index % self.settings.sample_every == 0:
            self.on_samples(index, rollout)
        self.check_start(index, metrics)
        self.kl_control.update(metrics["objective/kl"], len(rollout.rows))
        if metrics["objective/kl"] > self.settings.kl_budget:
            raise StageDone(
                f"stopped at step {index + 1}: KL of {metrics['objective/kl']:.1f} nats an answer passed kl_budget "
                f"{self.settings.kl_budget:g}; raise kl_coef or lower learning_rate to go further",
                metrics,
            )
        if why := self.health.look(metrics, [completion.text for completion in rollout.completions]):
            raise StageDone(f"stopped at step {index + 1}: {why}", metrics)
        return metrics

    def remarks(self) -> list[str]:
        """Return what a person should know about the answers of the step just made."""
        return self.health.remarks(self.settings.max_new_tokens)

    def roll_out(self, index: int) -> Rollout:
        """Draw and judge the answers of one step."""
        chosen = [self.prompts[i] for i in self._prompt_order(index)]
        return self._roll_out(chosen, self._sampling(1 + index))

    def _roll_out(self, prompts: list[list[int]], sampling: SamplingSettings) -> Rollout:
        rollout = roll_out(self.studio, self.roles, self.scorer, self.critic, prompts, sampling, self.budget)
        ended_B = torch.tensor([completion.ended for completion in rollout.completions])
        if self.spread is None:
            self.spread = spread_of(rollout.scores_B)
            self.cap = cap_of(self.settings.missing_eos_score, ended_B.tolist())
        if self.cap is None:
            return rollout
        least_B = rollout.scores_B.clamp_max(self.cap * self.spread)
        return rollout._replace(scores_B=torch.where(ended_B, rollout.scores_B, least_B))

    def _prompt_order(self, index: int) -> list[int]:
        """Choose the prompts of a step, each as often as the others; the answers to one of them stand together."""
        each = self.settings.answers_per_prompt
        chosen = walk_at(index, self.settings.batch_size // each, len(self.prompts), self.settings.seed)
        return [i for i in chosen for _ in range(each)]

    def _sampling(self, stream: int) -> SamplingSettings:
        s = self.settings
        return SamplingSettings(
            temperature=s.temperature,
            top_p=s.top_p,
            max_new_tokens=s.max_new_tokens,
            seed=(s.seed * 1_000_003 + stream) % 2**63,
        )

    def advantages(self, rollout: Rollout) -> Advantages:
        """Turn scores and KL into advantages and value targets → [B, R] each.

        Leave-one-out advantages are scaled at most, never centred: those of a prompt add up to 0 as they are, and a
        mean over tokens, in which long answers weigh more, would make the baseline depend on the answer itself. One
        scale for the batch leaves the gradient's direction, and lets learning rate and gradient norm mean the same as
        with a critic.
        """
        s, mask_BR = self.settings, rollout.response_mask_BR
        rewards_BR = token_rewards(
            rollout.scores_B / self._spread, rollout.logprobs_BR, rollout.ref_logprobs_BR, mask_BR, self.kl_control.coef
        )
        if s.whiten_rewards:
            rewards_BR = scale_only(rewards_BR, mask_BR)
        if rollout.values_BR is None:
            found, whiten = leave_one_out(rewards_BR, mask_BR, s.answers_per_prompt), scale_only
        else:
            found, whiten = gae(rewards_BR, rollout.values_BR, mask_BR, s.gamma, s.lam), center_and_scale
        if s.whiten_advantages:
            found = found._replace(advantages_BR=whiten(found.advantages_BR, mask_BR))
        return found

    def update(self, rollout: Rollout, advantages: Advantages, index: int) -> Metrics:
        """Take the optimizer steps of one batch; during the value warm-up the policy stays as it is."""
        s = self.settings
        warming = index < s.value_only_steps
        sums = torch.zeros(len(UPDATE_METRICS))
        optim: Metrics = {}
        before = [p.detach().clone() for p in self._policy] if self._steered and not warming else []
        for number, chosen in enumerate(self._mini_batches(index, len(rollout.rows))):
            part = rollout.take(chosen)
            targets = Advantages(*(x_BR[torch.tensor(chosen)] for x_BR in advantages))
            if not warming:
                seen = self._accumulate(part, targets, self._policy_loss, self.roles.policy)
                if index == s.value_only_steps and number == 0:
                    self._check_ratio(float(seen[UPDATE_METRICS.index("policy/ratio")]))
                sums += seen
            if self.critic:
                sums += self._accumulate(part, targets, self._value_loss, self.critic.adapter)
            optim = self.optimizer.step(index, self.total, only="value" if warming else None)
        found = dict(zip(UPDATE_METRICS, (sums / (s.ppo_epochs * s.mini_batches)).tolist(), strict=True))
        if not self.critic:
            found = {name: found[name] for name in POLICY_METRICS}
        if warming:
            found |= {"policy/ratio": 1.0}
        return found | optim | (self._steer(rollout, before, index) if before else {})

    def _mini_batches(self, index: int, rows: int) -> Iterator[list[int]]:
        """Yield the rows of each optimizer step: every epoch goes through all of them in an order of its own."""
        s = self.settings
        size = rows // s.mini_batches
        for epoch in range(s.ppo_epochs):
            order = batch_at(0, rows, rows, s.seed + index * s.ppo_epochs + epoch)
            yield from (order[start : start + size] for start in range(0, rows, size))

    def _check_ratio(self, ratio: float) -> None:
        """Refuse to update a policy whose log-probabilities are not those its answers were recorded with."""
        if abs(ratio - 1) > START_RATIO:
            raise TrainingError(f"the probability ratio starts at {ratio:.3f}, not 1; use --compute fp32")

    def _steer(self, rollout: Rollout, before: list[Tensor], index: int) -> Metrics:
        """Measure how far the update moved the policy, take back what was too far, and set the next rate."""
        start = self.settings.value_only_steps
        self.pace.look(float(rollout.kl_B.mean()))
        wanted = self.pace.wanted(index - start, self.total - start)
        after = [parameter.detach().clone() for parameter in self._policy]
        moved, tokens = self._length(rollout, before, after, 1.0)
        most = min((CHANGE * wanted) ** 2, TOKEN_KL * tokens)
        self.pace.steer(moved, wanted)
        self.optimizer.groups[0].learning_rate = self.pace.rate
        kept = 1.0
        while moved > most and kept > LEAST_KEPT:
            # A short way is as long as the root of its KL, a long one longer: hence more than once.
            kept *= min(0.7, math.sqrt(most / moved))
            moved, _ = self._length(rollout, before, after, kept)
        return {"policy/update_kl": moved, "policy/update_share": kept}

    def _length(self, rollout: Rollout, before: list[Tensor], after: list[Tensor], share: float) -> tuple[float, float]:
        """Go a share of the way and measure it → nats an answer, and its tokens.

        In 16 bits any change of the weights, however small, changes log-probabilities by a rounding that is worth as
        much as an update. What may be that is measured by what the KL gains where the way is several times as long: it
        grows by the square of it, and rounding does not.
        """
        self._put(before, after, share)
        near, tokens = self._moved(rollout)
        if self._exact or near > ROUNDING * tokens:
            return near, tokens
        times, far = 1, near
        while times < LONGEST_STRETCH and far < GROWN * near:
            times, near = times * STRETCH, far
            self._put(before, after, share * times)
            far, _ = self._moved(rollout)
        self._put(before, after, share)
        return max(0.0, far - near) / (times**2 - (times / STRETCH) ** 2), tokens

    @property
    def _exact(self) -> bool:
        """Tell whether rounding is too small to be taken for movement."""
        return self.studio.base.compute_dtype == torch.float32

    def _put(self, before: list[Tensor], after: list[Tensor], share: float) -> None:
        with torch.no_grad():
            for parameter, old, new in zip(self._policy, before, after, strict=True):
                parameter.copy_(old + share * (new - old) if share != 1 else new)

    def _moved(self, rollout: Rollout) -> tuple[float, float]:
        """Estimate KL(before ‖ after) of an update on the answers sampled before → nats and tokens an answer."""
        studio = self.studio
        rows = rollout.rows[:MOVED_ROWS]
        mine = studio.team.share(rows)
        with studio.bank.activate(self.roles.policy):
            new, _ = token_stats(studio, mine, self.budget, self.settings.temperature)
        found = studio.team.gather([part.tolist() for part in new])
        total = 0.0
        for i, part in enumerate(found):
            old_R = rollout.logprobs_BR[i, : len(part)]
            # The reference of k3 is the policy after the update: samples are of the one before.
            total += float(k3(old_R, torch.tensor(part)).sum())
        return total / len(rows), sum(map(len, found)) / len(rows)

    def _accumulate(self, part: Rollout, targets: Advantages, loss_of: LossOf, role: str | None) -> Tensor:
        """Add up one role's gradients over a mini-batch → its metrics, averaged over response tokens."""
        base, team = self.studio.base, self.studio.team
        tokens = int(part.response_mask_BR.sum())
        mine = team.share(list(range(len(part.rows))))
        sums = torch.zeros(len(UPDATE_METRICS), device=base.device)
        rows = [part.rows[i] for i in mine]
        with self.studio.training(self.settings.gradient_checkpointing), self.studio.bank.activate(role):
            for group, batch in batches(base, rows, self.budget):
                loss, metrics = loss_of(batch, _Flat(part, targets, [mine[i] for i in group], base.device))
                (loss / tokens).backward()
                sums += metrics / tokens
        return team.sum(sums).cpu()

    def _policy_loss(self, batch: Batch, old: _Flat) -> tuple[Tensor, Tensor]:
        entropy = self.settings.entropy_coef
        new = response_logprobs(self.studio.base, batch, self.settings.temperature, learn_entropy=entropy > 0)
        clipped = ppo_policy(new.logprobs_T, old.logprobs_T, old.advantages_T, self.settings.clip)
        loss = clipped.loss_T.sum() - entropy * new.entropy_T.sum()
        with torch.no_grad():
            return loss, _sums(
                {
                    "loss/policy": clipped.loss_T,
                    "policy/clipfrac": clipped.clipped_T,
                    "policy/approxkl": approx_kl(new.logprobs_T, old.logprobs_T),
                    "policy/ratio": (new.logprobs_T - old.logprobs_T).exp(),
                    "policy/entropy": new.entropy_T,
                }
            )

    def _value_loss(self, batch: Batch, old: _Flat) -> tuple[Tensor, Tensor]:
        assert self.critic
        assert old.values_T is not None
        new_T = self.critic.values(batch, old.states_TH)
        clipped = ppo_value(new_T, old.values_T, old.returns_T, self.settings.value_clip)
        metrics = {"loss/value": clipped.loss_T.detach(), "val/clipfrac": clipped.clipped_T}
        return clipped.loss_T.sum(), _sums(metrics)

    # -- judging ----------------------------------------------------------------------------------------------

    def describe(self, rollout: Rollout, advantages: Advantages) -> Metrics:
        """Name what happened in a batch of answers, in the field's usual words; KL and scores are per answer."""
        mask_BR = rollout.response_mask_BR
        kl, score, coef = float(rollout.kl_B.mean()), float(rollout.scores_B.mean()), self.kl_control.coef
        found = {
            "objective/kl": kl,
            "objective/scores": score,
            "objective/scores_std": float(rollout.scores_B.std(unbiased=False)),
            "objective/scores_min": float(rollout.scores_B.min()),
            "objective/non_score_reward": -coef * kl,
            "objective/rlhf_reward": score / self._spread - coef * kl,
            "objective/kl_coef": coef,
            "objective/entropy": float(masked_mean(rollout.entropy_BR, mask_BR)),
            "response/length": float(mask_BR.sum(1).float().mean()),
            "response/eos_share": sum(c.ended for c in rollout.completions) / len(rollout.completions),
        }
        if rollout.values_BR is None:
            return found
        return found | {
            "val/explained_variance": float(explained_variance(rollout.values_BR, advantages.returns_BR, mask_BR)),
            "val/mean": float(masked_mean(rollout.values_BR, mask_BR)),
        }

    def check_start(self, index: int, metrics: Metrics) -> None:
        """Refuse to go on when the untouched policy is not the reference: something is wired wrongly."""
        kl = metrics["objective/kl"]
        if index == 0 and not self.settings.parent and abs(kl) > START_KL:
            raise TrainingError(f"KL is {kl:.2f} nats before the first update, not 0: policy and reference differ")

    def evaluate(self) -> Evaluation:
        """Draw answers to held-out prompts; the quality is the mean score less the price of its KL."""
        rollout = self._roll_out(self.heldout, self._sampling(0))
        kl, score = float(rollout.kl_B.mean()), float(rollout.scores_B.mean())
        each_B = rollout.scores_B / self._spread - self.settings.kl_coef * rollout.kl_B
        inside = kl <= self.settings.kl_budget
        quality = float(each_B.mean()) if inside else -math.inf
        ended = sum(c.ended for c in rollout.completions) / len(rollout.completions)
        length = float(rollout.response_mask_BR.sum(1).float().mean())
        metrics = {"eval/scores": score, "eval/kl": kl, "eval/length": length, "eval/eos_share": ended}
        return Evaluation(metrics, quality, each_B.tolist() if inside else [], rollout)

    def finish(self) -> Metrics:
        """Measure the chosen policy once more."""
        limit = {} if self.cap is None else {"reward/cap": self.cap}
        return {**self.evaluate().metrics, "reward/spread": self._spread, **limit}

    # -- for the loop -----------------------------------------------------------------------------------------

    @property
    def _spread(self) -> float:
        """Unit of everything that scores are weighed against: the price of KL, values, answers that never ended."""
        return self.spread or 1.0

    @property
    def _policy(self) -> list[nn.Parameter]:
        return self.optimizer.groups[0].parameters

    @property
    def _steered(self) -> bool:
        return self.settings.learning_rate == "auto"

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.studio.base.device

    def adapter(self) -> dict[str, Tensor]:
        """Return the tensors of the policy."""
        return self.studio.bank.state(self.roles.policy)

    def load_adapter(self, tensors: dict[str, Tensor]) -> None:
        """Put tensors of `adapter` back."""
        self.studio.bank.load_state(self.roles.policy, tensors)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor the next step depends on."""
        return (
            prefixed("policy", self.adapter())
            | prefixed("value", self.critic.state() if self.critic else {})
            | prefixed("optimizer", self.optimizer.state())
        )

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put tensors of `tensors` back."""
        self.load_adapter(under("policy", tensors))
        if self.critic:
            self.critic.load_state(under("value", tensors))
        self.optimizer.load_state(under("optimizer", tensors))

    def state(self) -> dict[str, Any]:
        """Return the KL price and how the answers fared; all else is a function of the step."""
        kl = {"coef": self.kl_control.coef, "asked": self.settings.kl_coef}
        return {
            "kl": kl,
            "health": self.health.state(),
            "spread": self.spread,
            "cap": self.cap,
            "pace": self.pace.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Put the numbers of `state` back; a price that was set anew since stays."""
        if state["kl"]["asked"] == self.settings.kl_coef:
            self.kl_control.coef = state["kl"]["coef"]
        self.health = Health.of(state["health"])
        self.cap = state.get("cap", self.cap)
        self.spread, self.pace = state["spread"], Pace(**{**state["pace"], "target": self.settings.kl_target})
        if self._steered:
            self.optimizer.groups[0].learning_rate = self.pace.rate


def cap_of(asked: float | str, ended: Sequence[bool]) -> float | None:
    """Choose the most that answers score that never ended, in spreads: as asked, or by how many of the first ended."""
    if isinstance(asked, float):
        return asked
    return USUAL_CAP if sum(ended) >= OFTEN_CUT * len(ended) else None


def spread_of(scores_B: Tensor) -> float:
    """Return the standard deviation of scores, 1 where they hardly differ."""
    spread = float(scores_B.std(unbiased=False))
    return spread if spread > SAME_SCORE else 1.0


POLICY_METRICS = ("loss/policy", "policy/clipfrac", "policy/approxkl", "policy/ratio", "policy/entropy")
UPDATE_METRICS = (*POLICY_METRICS, "loss/value", "val/clipfrac")


def _sums(per_token: dict[str, Tensor]) -> Tensor:
    """Sum metrics over tokens, in the order of UPDATE_METRICS, 0 for absent ones."""
    device = next(iter(per_token.values())).device
    zero = torch.zeros((), device=device)
    return torch.stack([per_token[m].float().sum() if m in per_token else zero for m in UPDATE_METRICS])


def _critic(studio: Studio, roles: Roles, settings: PPOSettings) -> Critic | None:
    if settings.critic == "none":
        return None
    if settings.critic == "adapter":
        return AdapterCritic(studio, roles.value)
    return HeadCritic(studio, roles.value, settings.seed)


def _controller(settings: PPOSettings) -> KLController:
    if settings.kl_control == "fixed":
        return FixedKL(settings.kl_coef)
    return AdaptiveKL(settings.kl_coef, settings.kl_target, settings.kl_horizon)


class _Flat:
    """What the rollout recorded for the rows of one micro-batch, token after token, on the device."""

    def __init__(self, part: Rollout, targets: Advantages, chosen: list[int], device: torch.device) -> None:
        rows = torch.tensor(chosen)
        mask_BR = part.response_mask_BR[rows]

        def flat(values_BR: Tensor) -> Tensor:
            return values_BR[rows][mask_BR].to(device)

        self.logprobs_T = flat(part.logprobs_BR)
        self.values_T = None if part.values_BR is None else flat(part.values_BR)
        self.advantages_T = flat(targets.advantages_BR)
        self.returns_T = flat(targets.returns_BR)
        self.states_TH = torch.cat([part.states[i] for i in chosen]).to(device) if part.states else None


LossOf = Callable[[Batch, _Flat], tuple[Tensor, Tensor]]
