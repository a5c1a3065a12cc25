"""A linear Bradley–Terry model on fixed states: convex, so it needs no learning rate and no luck."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FOLDS = 5


def fit_probe(differences_PH: Tensor, target_P: Tensor, weight_P: Tensor, group_P: Sequence[int]) -> Tensor:
    """Fit w such that σ(w · (state of chosen − state of rejected)) predicts votes → [H].

    `target_P` is 1 for a clear vote and ½ for a tie. The ridge penalty is chosen by cross-validation in which pairs of
    one group (a prompt) stay together. States are scaled by one number first, so that a penalty means the same on
    every base; where there are fewer pairs than dimensions, the fit is made in the space the pairs span.
    """
    scale = differences_PH.pow(2).sum(1).mean().sqrt().clamp_min(1e-12)
    x_PH = (differences_PH / scale).double()
    basis_HK = torch.linalg.svd(x_PH, full_matrices=False).Vh.T if len(x_PH) < x_PH.shape[1] else None
    x_PK = x_PH if basis_HK is None else x_PH @ basis_HK
    target_P, weight_P = target_P.double(), weight_P.double()
    fold_P = torch.tensor([group % FOLDS for group in group_P])

    def cost(penalty: float) -> float:
        total = 0.0
        for fold in range(FOLDS):
            out_P = fold_P == fold
            if not out_P.any() or out_P.all():
                continue
            w_K = _newton(x_PK[~out_P], target_P[~out_P], weight_P[~out_P], penalty)
            total += float(_losses(x_PK[out_P] @ w_K, target_P[out_P], weight_P[out_P]).sum())
        return total

    w_K = _newton(x_PK, target_P, weight_P, min(PENALTIES, key=cost))
    w_H = w_K if basis_HK is None else basis_HK @ w_K
    return (w_H / scale).float()


def _losses(logit_P: Tensor, target_P: Tensor, weight_P: Tensor) -> Tensor:
    return -weight_P * (target_P * F.logsigmoid(logit_P) + (1 - target_P) * F.logsigmoid(-logit_P))


def _newton(x_PK: Tensor, target_P: Tensor, weight_P: Tensor, penalty: float, steps: int = 12) -> Tensor:
    """Minimise the mean weighted loss plus penalty · |w|² / 2 by Newton's method, from 0."""
    w_K = torch.zeros(x_PK.shape[1], dtype=x_PK.dtype)
    total = weight_P.sum().clamp_min(1e-12)
    ridge_KK = penalty * torch.eye(len(w_K), dtype=x_PK.dtype)
    for _ in range(steps):
        p_P = torch.sigmoid(x_PK @ w_K)
        gradient_K = x_PK.T @ (weight_P * (p_P - target_P)) / total + penalty * w_K
        hessian_KK = (x_PK.T * (weight_P * p_P * (1 - p_P) / total)) @ x_PK + ridge_KK
        step_K = torch.linalg.solve(hessian_KK, gradient_K)
        w_K = w_K - step_K
        if float(step_K.abs().max()) < 1e-8:
            break
    return w_K
