"""Learning rates for adapters on a base nobody has tuned: where to begin, and a short trial of a few around that.

`suggested_rate` is the rule of "LoRA Without Regret" (Thinking Machines, 2025) as its authors' cookbook applies it: ten
times the rate of full fine-tuning, falling with the width of the base; α / r with α = 32 makes it hold for every rank.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

from torch import Tensor

from lorarlhf.algo.intervals import clearly_less
from lorarlhf.data.cutting import trial_steps
from lorarlhf.settings import RewardSettings, SFTSettings
from lorarlhf.train.optim import Optimizer

FULL, LORA, WIDTH, POWER = 5e-5, 10.0, 2000.0, 0.781
"""Rate of full fine-tuning at a width of 2,000, what LoRA takes more, and how the rate falls with the width."""

FACTORS, BEYOND = (0.25, 1.0, 4.0), 4.0
"""What the suggested rate is multiplied by in a trial."""


def suggested_rate(hidden_size: int) -> float:
    """Return the learning rate of Adam to begin with for adapters on a base of this width."""
    return float(FULL * LORA * (WIDTH / hidden_size) ** POWER)


class Tried(NamedTuple):
    """The rate to train with, and how it came about."""

    rate: float
    words: str


class TriesRates(Protocol):
    """A stage whose first steps can be made several times."""

    optimizer: Optimizer
    examples: int
    settings: SFTSettings | RewardSettings
    rate: float

    def step(self, index: int) -> dict[str, float]:
        """Make one optimizer step."""

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor the next step depends on."""

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put tensors of `tensors` back."""

    def trial_losses(self, used: int) -> list[float]:
        """Measure examples that the first `used` steps have not seen."""


def try_rates(stage: TriesRates) -> Tried:
    """Make the first steps at a few rates around the suggested one, and measure examples that no step has seen.

    Every rate starts from the same weights and sees the same batches. The suggested rate stands unless another one is
    better by more than chance explains: what learns fastest in the first steps is often not what learns most. Where
    the largest or smallest is clearly the best, one beyond it is tried as well. The stage is left as it was.
    """
    start, suggested = {key: value.detach().clone() for key, value in stage.tensors().items()}, stage.rate
    steps = trial_steps(stage.settings.batch_size, stage.examples)
    losses: dict[float, list[float]] = {}

    def measure(rate: float) -> None:
        stage.load_tensors(start)
        stage.optimizer.groups[0].learning_rate = rate
        sound = all(all(map(math.isfinite, stage.step(index).values())) for index in range(steps))
        losses[rate] = stage.trial_losses(steps) if sound else []

    def best() -> float:
        """Return the best of those clearly better than the suggested one, else that; any sound one where it broke."""
        sound = {
            rate: sum(found) / len(found) for rate, found in losses.items() if found and all(map(math.isfinite, found))
        }
        if suggested not in sound:
            return min(sound, key=sound.__getitem__, default=suggested)
        better = [rate for rate in sound if clearly_less(losses[rate], losses[suggested])]
        return min(better, key=sound.__getitem__, default=suggested)

    for factor in FACTORS:
        measure(suggested * factor)
    if best() != suggested:
        measure(best() * (BEYOND if best() > suggested else 1 / BEYOND))
    stage.load_tensors(start)
    rate, count = best(), len(losses[suggested])
    tried = ", ".join(f"{one:.2g}" for one in sorted(losses) if one != rate)
    if rate == suggested:
        return Tried(
            rate,
            f"learning rate {rate:.2g}, by the width of the base; none of {tried} did clearly better in {steps} steps",
        )
    return Tried(
        rate, f"learning rate {rate:.2g}: in {steps} steps it did clearly better than {tried} on {count} examples"
    )
