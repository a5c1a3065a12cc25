"""Rewards per token, and advantages made of them: with a critic, or by leaving one answer out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lorarlhf.algo.kl import k1


class Advantages(NamedTuple):
    """What PPO learns from."""

    advantages_BR: Tensor
    returns_BR: Tensor
    """What values should have been: the advantage and its baseline together."""


def token_rewards(
    scores_B: Tensor, logprobs_BR: Tensor, ref_logprobs_BR: Tensor, response_mask_BR: Tensor, kl_coef: float
) -> Tensor:
    """Charge −kl_coef · (log p − log ref) at every token and pay the score at the last one; 0 elsewhere → [B, R].

    Source: Ziegler et al. 2019, equation 2; score placement as in arXiv 2403.17031. Every row needs ≥ 1 True in the
    mask, and the True ones stand at its start.
    """
    rewards_BR = -kl_coef * k1(logprobs_BR, ref_logprobs_BR) * response_mask_BR
    last_B = response_mask_BR.sum(1) - 1
    rows_B = torch.arange(scores_B.shape[0], device=scores_B.device)
    return rewards_BR.index_put((rows_B, last_B), scores_B, accumulate=True)


def gae(rewards_BR: Tensor, values_BR: Tensor, response_mask_BR: Tensor, gamma: float, lam: float) -> Advantages:
    """Estimate advantages and value targets (Schulman et al. 2016, equation 16).

    The state after the last counted token is terminal: its value is 0. Elements outside the mask are 0.
    """
    values_BR = values_BR * response_mask_BR
    next_advantage_B = torch.zeros_like(values_BR[:, 0])
    next_value_B = torch.zeros_like(next_advantage_B)
    columns: list[Tensor] = []
    for t in reversed(range(values_BR.shape[1])):
        alive_B = response_mask_BR[:, t]
        delta_B = rewards_BR[:, t] + gamma * next_value_B - values_BR[:, t]
        next_advantage_B = (delta_B + gamma * lam * next_advantage_B) * alive_B
        next_value_B = values_BR[:, t]
        columns.append(next_advantage_B)
    advantages_BR = torch.stack(columns[::-1], dim=1)
    return Advantages(advantages_BR, advantages_BR + values_BR)


def leave_one_out(rewards_BR: Tensor, response_mask_BR: Tensor, answers: int) -> Advantages:
    """Compare each answer with the others to its prompt: A_i = R_i − mean of the others' R, at every token of i.

    R is all that an answer earned: its score, less what its KL cost. Rows stand prompt by prompt, `answers` ≥ 2 for
    each. The others were drawn without regard to answer i, so that their mean is a baseline that leaves the gradient
    unbiased. A whole answer is one action, hence no discount and no λ (RLOO, arXiv 2402.14740; Kool et al. 2019).
    Elements outside the mask are 0.
    """
    returns_PK = (rewards_BR * response_mask_BR).sum(1).view(-1, answers)
    # R − (S − R)/(k − 1), with S the sum of all k, is k/(k − 1) of R's distance from their mean.
    advantages_PK = (returns_PK - returns_PK.mean(1, keepdim=True)) * (answers / (answers - 1))

    def at_every_token(values_PK: Tensor) -> Tensor:
        return values_PK.reshape(-1, 1) * response_mask_BR

    return Advantages(at_every_token(advantages_PK), at_every_token(returns_PK))
