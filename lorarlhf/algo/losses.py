"""The losses of SFT, the reward model and PPO.

Losses come per element, never averaged: whoever sums over micro-batches and processes divides once by the count
of the whole batch, so that the way a batch is cut does not change its gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def bradley_terry(chosen_scores_P: Tensor, rejected_scores_P: Tensor, margin_P: Tensor, tie_P: Tensor) -> Tensor:
    """Return −log of the probability a Bradley–Terry model gives to each vote → [P] pairs.

    A clear vote costs −log σ(Δ − margin), Δ = chosen − rejected; the margin grows with the strength of the vote
    (Llama 2, arXiv 2307.09288, equation 2). A tie is half a vote each way: −½ log σ(Δ) − ½ log σ(−Δ), least at
    Δ = 0 (Davidson's tie model for a fixed tie rate has the same minimum). `tie_P` is True for ties.
    """
    difference_P = chosen_scores_P - rejected_scores_P
    clear_P = -F.logsigmoid(difference_P - margin_P)
    tied_P = -0.5 * (F.logsigmoid(difference_P) + F.logsigmoid(-difference_P))
    return torch.where(tie_P, tied_P, clear_P)


def below_zero(scores_P: Tensor) -> Tensor:
    """Cost of an answer a person called bad without preferring another: −log σ(−score) → [P].

    Scores are centred so that demonstrations average 0; an answer called bad belongs below them.
    """
    return -F.logsigmoid(-scores_P)


class ClippedLoss(NamedTuple):
    """A clipped loss and where the clip was in force."""

    loss_T: Tensor
    clipped_T: Tensor
    """True where the clipped branch decided."""


def ppo_policy(new_logprobs_T: Tensor, old_logprobs_T: Tensor, advantages_T: Tensor, clip: float) -> ClippedLoss:
    """Return PPO's clipped surrogate, negated to be minimised (arXiv 1707.06347, equation 7)."""
    ratio_T = (new_logprobs_T - old_logprobs_T).exp()
    plain_T = -advantages_T * ratio_T
    bounded_T = -advantages_T * ratio_T.clamp(1 - clip, 1 + clip)
    return ClippedLoss(torch.maximum(plain_T, bounded_T), bounded_T > plain_T)


def ppo_value(new_values_T: Tensor, old_values_T: Tensor, returns_T: Tensor, clip: float) -> ClippedLoss:
    """Return half the squared error of the value, clipped around the old value (arXiv 2403.17031)."""
    bounded_T = old_values_T + (new_values_T - old_values_T).clamp(-clip, clip)
    plain_T = (new_values_T - returns_T) ** 2
    clipped_T = (bounded_T - returns_T) ** 2
    return ClippedLoss(0.5 * torch.maximum(plain_T, clipped_T), clipped_T > plain_T)
