"""Estimates of the KL divergence from samples, and the controllers of its price.

k1 and k3 are named as in J. Schulman, "Approximating KL divergence" (2020).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Estimate KL(policy ‖ reference) per token as log p − log q: unbiased, used in the reward."""
    return logprobs - ref_logprobs


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Estimate KL(policy ‖ reference) per token as r − 1 − log r with r = q/p: unbiased and never negative."""
    log_ratio = ref_logprobs - logprobs
    return log_ratio.exp() - 1 - log_ratio


def approx_kl(new_logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """Estimate how far an update moved the policy, per token: ½ (Δ log p)² (arXiv 2403.17031)."""
    return 0.5 * (new_logprobs - old_logprobs) ** 2


@dataclass
class FixedKL:
    """The price of a nat stays what it was."""

    coef: float

    def update(self, kl: float, answers: int) -> None:
        """Ignore the measured KL."""


@dataclass
class AdaptiveKL:
    """Raise the price while KL is above the target, lower it below (Ziegler et al. 2019, section 2.2)."""

    coef: float
    target: float
    horizon: float

    def update(self, kl: float, answers: int) -> None:
        """Move the price by at most 20 % × answers / horizon towards holding `kl` (nats an answer) at the target."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * answers / self.horizon


KLController = FixedKL | AdaptiveKL
