"""Draw answers with the policy and collect everything PPO's update needs to know about them.

Each role runs alone, in its own forward passes: policy, reference, value, and whatever scores the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lorarlhf.data.cutting import Budget
from lorarlhf.data.tokens import Row, mask_of, pad_flat
from lorarlhf.forward import (
    batches,
    map_sequences,
    read_head,
    response_logprobs,
    sequence_scores,
)
from lorarlhf.sampling import Completion, complete, scored_row
from lorarlhf.settings import SamplingSettings
from lorarlhf.train.common import Studio
from lorarlhf.train.critic import Critic, Seen


class Rollout(NamedTuple):
    """A batch of drawn answers and what the roles say about them; all on the CPU, in one order."""

    rows: list[Row]
    completions: list[Completion]
    response_mask_BR: Tensor
    """True on response tokens."""
    scores_B: Tensor
    """Reward of the whole answer."""
    logprobs_BR: Tensor
    """Log-probabilities under the policy that drew the answers."""
    entropy_BR: Tensor
    ref_logprobs_BR: Tensor
    values_BR: Tensor | None
    """What the critic said; None without one."""
    states: list[Tensor]
    """What the critic read, as it likes to have it; for this process's rows in a team."""

    @property
    def kl_B(self) -> Tensor:  # noqa: N802
        """KL to the reference per answer, estimated by k1, in nats."""
        return ((self.logprobs_BR - self.ref_logprobs_BR) * self.response_mask_BR).sum(1)

    def take(self, indices: Sequence[int]) -> Rollout:
        """Pick some rows, in the order given."""
        picked = torch.tensor(list(indices))
        return Rollout(
            [self.rows[i] for i in indices],
            [self.completions[i] for i in indices],
            *(None if tensor is None else tensor[picked] for tensor in self[2:-1]),  # type: ignore[arg-type, call-arg]
            [self.states[i] for i in indices] if self.states else [],
        )


Scorer = Callable[[list[Row], Budget], Tensor]
"""Maps sampled answers to rewards [B] on the CPU, within a budget."""


class RewardScorer:
    """The reward adapter, which reads answers ended as those it was trained on."""

    def __init__(self, studio: Studio, adapter: str) -> None:
        self.studio, self.adapter = studio, adapter

    def __call__(self, rows: list[Row], budget: Budget) -> Tensor:
        """Score answers → [B] on the CPU."""
        base, head = self.studio.base, self.studio.bank.heads[self.adapter]
        ended = [scored_row(base, row.prompt, row.response) for row in rows]
        with self.studio.bank.activate(self.adapter):
            return map_sequences(base, ended, budget, lambda batch: sequence_scores(base, head, batch))

    @torch.no_grad()
    def read(self, rows: list[Row], last: list[Tensor], budget: Budget) -> Tensor:
        """Score answers by the reward adapter's hidden state [H] at the last token of each → [B] on the CPU.

        Those that end otherwise than with the base's end mark get a pass of their own.
        """
        head, end = self.studio.bank.heads[self.adapter], self.studio.base.eos_id
        scores_B = read_head(head, torch.stack(last).to(head.weight.device)).cpu() if last else torch.zeros(0)
        other = [i for i, row in enumerate(rows) if row.response[-1] != end]
        if other:
            scores_B[other] = self([rows[i] for i in other], budget)
        return scores_B


class Roles(NamedTuple):
    """Which adapter plays which role; None is the bare base."""

    policy: str = "policy"
    reference: str | None = "reference"
    value: str = "value"
    """Where a critic's values come from: an adapter that learns them, or the reward adapter, whose states are read."""


def draw(
    studio: Studio, policy: str | None, prompts: list[list[int]], sampling: SamplingSettings, budget: Budget
) -> list[Completion]:
    """Draw one answer per prompt, shared over the team, in the order of `prompts`."""
    team = studio.team
    mine = list(range(len(prompts)))[team.rank :: team.size]
    sampling = sampling.model_copy(update={"batch_rows": budget.side_by_side(len(mine))})
    with studio.bank.drawing(policy):
        drawn = complete(
            studio.base, team.share(prompts), sampling, streams=mine, on_step=lambda tokens: budget.breathe()
        )
    return team.gather(drawn)


def roll_out(
    studio: Studio,
    roles: Roles,
    scorer: Scorer,
    critic: Critic | None,
    prompts: list[list[int]],
    sampling: SamplingSettings,
    budget: Budget,
) -> Rollout:
    """Draw an answer to each prompt and let every role speak about it.

    Old log-probabilities are recomputed with the forward pass of training: decoding uses other kernels, whose small
    differences would show up as KL and as ratios that start away from 1.
    """
    bank, team = studio.bank, studio.team
    completions = draw(studio, roles.policy, prompts, sampling, budget)
    rows = [Row(prompt, c.tokens) for prompt, c in zip(prompts, completions, strict=True)]
    mine = team.share(rows)

    def logprobs(adapter: str | None) -> tuple[list[Tensor], list[Tensor]]:
        with bank.activate(adapter):
            return token_stats(studio, mine, budget, sampling.temperature)

    old, entropy = logprobs(roles.policy)
    reference, _ = logprobs(roles.reference)
    seen = critic.look(mine, budget) if critic else Seen([], [])
    if seen.states and isinstance(scorer, RewardScorer) and scorer.adapter == roles.value:
        # The critic has read the hidden states that scores are made of.
        scores_B = scorer.read(mine, [states[-1] for states in seen.states], budget)
    else:
        scores_B = scorer(mine, budget)

    def together(parts: list[Tensor]) -> Tensor:
        found = team.gather([part.tolist() for part in parts])
        return pad_flat(torch.tensor([x for row in found for x in row]), [len(row) for row in found])

    return Rollout(
        rows,
        completions,
        mask_of([len(row.response) for row in rows]),
        torch.tensor(team.gather(scores_B.tolist())),
        together(old),
        together(entropy),
        together(reference),
        together(seen.values) if critic else None,
        team.gather([states[:-1] for states in seen.states]) if team.size > 1 else [s[:-1] for s in seen.states],
    )


@torch.no_grad()
def token_stats(
    studio: Studio, rows: list[Row], budget: Budget, temperature: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Compute log-probability and entropy of every response token under the active adapter → per row [R]."""
    logprobs: list[Tensor] = [torch.zeros(0)] * len(rows)
    entropies: list[Tensor] = [torch.zeros(0)] * len(rows)
    for group, batch in batches(studio.base, rows, budget):
        scores = response_logprobs(studio.base, batch, temperature)
        lengths = [len(rows[i].response) for i in group]
        for index, lp, ent in zip(
            group, scores.logprobs_T.cpu().split(lengths), scores.entropy_T.cpu().split(lengths), strict=True
        ):
            logprobs[index], entropies[index] = lp, ent
    return logprobs, entropies
