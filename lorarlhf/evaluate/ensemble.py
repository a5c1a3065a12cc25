"""An ensemble of Bradley–Terry heads on the hidden states a reward model reads: how sure can one be of a score?

Each head is fitted to another bootstrap sample of the votes, and is drawn to another random start where the votes say
nothing: so the heads agree on what the votes settle and differ on what they leave open, which a bootstrap alone does
not know (Osband et al., arXiv 1806.03335; ensembles against over-optimisation: Coste et al., arXiv 2310.02743). Hidden
states stay as they are, which is why a fit takes milliseconds, and why the heads share whatever mistakes those have.
Knows NumPy, no torch.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HEADS = 10
MOST_PAIRS = 1000
"""Votes that heads are fitted to; older ones are left out, so that a fit stays a matter of a second."""
FEWEST_PAIRS = 20
"""Votes below which heads say nothing but where they started."""
PENALTY = 1.0
"""Of the squared length of a head, where states are scaled so that a typical pair differs by a length of 1: before any
vote such a pair is judged at random, with log-odds of about ±1."""
MOST_STEPS, CLOSE = 50, 1e-9


def fit(
    differences_PH: Floats,
    targets_P: Floats,
    weights_P: Floats,
    start_H: Floats | None = None,
    penalty: float = PENALTY,
) -> Floats:
    """Fit one head to pairs → [H].

    Minimises Σ w · cross-entropy(σ(d · h), t) + penalty / 2 · |h − start|² by Newton's method within the space that the
    pairs span; outside of it the head stays where it started. `targets_P` is 1 where the first answer was preferred, ½
    of a tie.
    """
    start_H = np.zeros(differences_PH.shape[1]) if start_H is None else start_H
    used = weights_P > 0
    rows_PH, targets_P, weights_P = differences_PH[used], targets_P[used], weights_P[used]
    if not len(rows_PH):
        return start_H
    offsets_P = rows_PH @ start_H
    _, _, basis_RH = np.linalg.svd(rows_PH, full_matrices=False)
    inside_PR = rows_PH @ basis_RH.T
    moved_R = np.zeros(len(basis_RH))
    for _ in range(MOST_STEPS):
        chance_P = sigmoid(offsets_P + inside_PR @ moved_R)
        slope_R = inside_PR.T @ (weights_P * (chance_P - targets_P)) + penalty * moved_R
        curve_RR = (inside_PR.T * (weights_P * chance_P * (1 - chance_P))) @ inside_PR
        curve_RR[np.diag_indices_from(curve_RR)] += penalty
        step_R = np.linalg.solve(curve_RR, slope_R)
        moved_R = moved_R - _shortened(step_R, moved_R, offsets_P, inside_PR, targets_P, weights_P, penalty, slope_R)
        if np.abs(step_R).max() < CLOSE:
            break
    return np.asarray(start_H + moved_R @ basis_RH)


def _shortened(
    step_R: Floats,
    moved_R: Floats,
    offsets_P: Floats,
    inside_PR: Floats,
    targets_P: Floats,
    weights_P: Floats,
    penalty: float,
    slope_R: Floats,
) -> Floats:
    """Halve a step until it brings the loss down (Armijo): far from the minimum Newton's own may lead too far."""

    def loss(at_R: Floats) -> float:
        logits_P = offsets_P + inside_PR @ at_R
        entropy_P = np.logaddexp(0, logits_P) - targets_P * logits_P
        return float(weights_P @ entropy_P + penalty / 2 * at_R @ at_R)

    before, promised = loss(moved_R), float(slope_R @ step_R)
    for halvings in range(30):
        if loss(moved_R - step_R / 2**halvings) <= before - 1e-4 * promised / 2**halvings + 1e-12 * abs(before):
            return np.asarray(step_R / 2**halvings)
    return step_R * 0


def sigmoid(logits: Floats) -> Floats:
    """Turn log-odds into probabilities."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))


def bootstrap(
    differences_PH: Floats,
    targets_P: Floats,
    weights_P: Floats,
    clusters: Sequence[Hashable],
    *,
    heads: int = HEADS,
    penalty: float = PENALTY,
    seed: int = 0,
) -> Floats:
    """Fit heads to bootstrap samples of the clusters (votes on one prompt belong together) → [heads, H]."""
    scale = float(np.sqrt(np.mean(np.sum(differences_PH**2, axis=1)))) or 1.0
    scaled_PH = differences_PH / scale
    names = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    cluster_P = np.array([names[name] for name in clusters])
    found = []
    for number in range(heads):
        rng = np.random.default_rng([seed, number])
        counts_C = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        start_H = rng.normal(0.0, penalty**-0.5, scaled_PH.shape[1])
        found.append(fit(scaled_PH, targets_P, weights_P * counts_C[cluster_P], start_H, penalty) / scale)
    return np.stack(found)


def on_scale(scores_KN: Floats, voted_KM: Floats, known_M: Floats) -> Floats:
    """Shift and stretch what each head says, so that its scores of answers voted on are like those of the reward model.

    Differences of scores are all a head learns, and their size hangs on the penalty.
    """
    spread_K1 = voted_KM.std(axis=1, keepdims=True)
    spread_K1[spread_K1 == 0] = 1.0
    return np.asarray((scores_KN - voted_KM.mean(axis=1, keepdims=True)) / spread_K1 * known_M.std() + known_M.mean())
