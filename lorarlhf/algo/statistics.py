"""Masked statistics and intervals. Masks are True where an element counts."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average `values` where `mask` is True; 0 where nothing is."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def masked_variance(values: Tensor, mask: Tensor) -> Tensor:
    """Return the population variance of `values` where `mask` is True."""
    centered = (values - masked_mean(values, mask)) * mask
    return (centered**2).sum() / mask.sum().clamp_min(1)


def center_and_scale(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Give the counted elements mean 0 and variance 1; the others become 0 (advantages, arXiv 2403.17031)."""
    shifted = values - masked_mean(values, mask)
    return shifted * torch.rsqrt(masked_variance(values, mask) + eps) * mask


def scale_only(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Give the counted elements variance 1 and keep their mean's sign and direction (rewards)."""
    return values * torch.rsqrt(masked_variance(values, mask) + eps) * mask


def explained_variance(predictions: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Return 1 − Var(target − prediction) / Var(target): 1 is perfect, 0 no better than a constant."""
    spread = masked_variance(targets, mask)
    return 1 - masked_variance(targets - predictions, mask) / spread.clamp_min(1e-12)


def wilson_interval(successes: float, trials: float, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a share (95 % by default); (0, 1) when there are no trials.

    Source: E. B. Wilson, "Probable inference", JASA 22 (1927). `successes` may be fractional (ties count half).
    """
    if trials <= 0:
        return 0.0, 1.0
    share = successes / trials
    denominator = 1 + z**2 / trials
    middle = (share + z**2 / (2 * trials)) / denominator
    half = z / denominator * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)
