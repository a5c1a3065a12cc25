"""Steer PPO's step size so that the policy moves as far in a run as its KL target allows, and no faster.

How far a step size moves a policy depends on the base, the adapter and the reward: a rate that is right for one base
does nothing or harm on another. Measured instead is what a step does. √KL to the reference is the distance the policy
has covered (Gao et al., arXiv 2210.10760); it should grow towards √target in steps that become shorter to the end.
After each update the rate is multiplied by wanted length / measured length, as in the KL-adaptive rates of
Schulman et al. (arXiv 1707.06347, section 4) and of robotics; the length of an update grows in line with the rate.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

SHARE = 0.8
"""Share of the steps after which the policy should have come nearly all the way."""
LOOK_AHEAD = 3
"""Steps in which a policy that has fallen behind should catch up."""
LONGEST, SHORTEST = 4.0, 0.25
"""Most and least that a step may cover, in even steps from start to target."""
CHANGE = 2.0
"""Most by which one step changes the rate, either way."""
TOKEN_KL = 0.02
"""Most nats an update may move the policy by, per token."""


@dataclass
class Pace:
    """The step size, and where the policy is on its way."""

    rate: float
    target: float
    """Nats an answer to have moved by at the end."""
    distance: float = 0.0
    """Smoothed √KL to the reference."""

    def look(self, kl: float) -> None:
        """Take in the KL of fresh answers, in nats an answer; it is noisy, and below 0 by chance near the start."""
        self.distance = 0.5 * self.distance + 0.5 * math.sqrt(max(kl, 0.0))

    def wanted(self, step: int, steps: int) -> float:
        """Return how long the update of a step should be: the root of its KL in nats an answer."""
        even = math.sqrt(self.target) / max(1, steps)
        done = min(1.0, (step + LOOK_AHEAD) / max(1.0, SHARE * steps))
        planned = math.sqrt(self.target) * (1 - (1 - done) ** 2)
        return min(max((planned - self.distance) / LOOK_AHEAD, SHORTEST * even), LONGEST * even)

    def steer(self, moved: float, wanted: float) -> None:
        """Set the rate for the next update after one of KL `moved`, in nats an answer."""
        # Half the way, in powers: one update is a noisy measure of the next.
        factor = math.sqrt(wanted / math.sqrt(moved)) if moved > 0 else CHANGE
        self.rate *= min(max(factor, 1 / CHANGE), CHANGE)

    def state(self) -> dict[str, float]:
        """Return everything as JSON."""
        return asdict(self)
