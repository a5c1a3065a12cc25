"""Masked statistics and intervals. Masks are True where an element counts."""

from __future__ import annotations

import torch
from torch import Tensor

from lorarlhf.algo.intervals import wilson_interval as wilson_interval


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
