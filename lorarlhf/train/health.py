"""Notice when a policy's answers have decayed: empty, endless, all worth the same, or far worse than at the start.

A look costs nothing and knows only the numbers of a step and the texts. A sign must show in several steps in a row
before it ends a run: a single batch may be unlucky.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

PATIENCE = 5
"""Steps in a row that must show the same sign."""
SAME_SCORE = 1e-6
"""Scores of a batch that spread less than this are the same."""
LEAST_SPREAD = 0.1
"""Scores that spread less than this at the start are taken to spread that much."""


@dataclass
class Health:
    """What was seen so far; part of a checkpoint."""

    start_score: float | None = None
    start_spread: float = 0.0
    """Mean and standard deviation of the scores of the first step."""
    ever_ended: bool = False
    """Whether any answer ended by itself."""
    streaks: dict[str, int] = field(default_factory=dict)
    """Sign → steps in a row, up to now, that show it."""
    told_endless: bool = False

    @classmethod
    def of(cls, state: dict[str, Any]) -> Health:
        """Go on with what `state` gave."""
        return cls(**state)

    def state(self) -> dict[str, Any]:
        """Return everything as JSON; a copy."""
        return asdict(self)

    def look(self, metrics: dict[str, float], texts: Sequence[str]) -> str:
        """Look at a step → why the run should end, in words with what to change; empty while it may go on."""
        score, spread = metrics["objective/scores"], metrics["objective/scores_std"]
        if self.start_score is None:
            self.start_score, self.start_spread = score, spread
        ended = metrics["response/eos_share"] > 0
        self.ever_ended = self.ever_ended or ended
        fall = self.start_score - score
        signs = {
            "empty": not any(text.strip() for text in texts),
            "endless": not ended,
            "flat": spread < SAME_SCORE,
            "worse": fall > max(self.start_spread, LEAST_SPREAD),
        }
        self.streaks = {sign: self.streaks.get(sign, 0) + 1 for sign, shows in signs.items() if shows}
        lasting = [sign for sign, steps in self.streaks.items() if steps >= PATIENCE]
        if "endless" in lasting and not self.ever_ended:
            lasting.remove("endless")  # it began like that: a remark says so
        return self._words(lasting[0], score) if lasting else ""

    def _words(self, sign: str, score: float) -> str:
        change = "raise kl_coef or lower learning_rate"
        return {
            "empty": f"every answer of the last {PATIENCE} steps was empty; {change}, and check that the reward model "
            "does not prefer empty answers",
            "endless": f"no answer of the last {PATIENCE} steps ended by itself, as earlier ones did; {change}, or "
            "lower missing_eos_score",
            "flat": f"all answers of each of the last {PATIENCE} steps got the same score, {score:.3g}, so there is "
            "nothing to learn from; raise max_new_tokens if none of them ended, else train the reward model on more "
            "votes",
            "worse": f"the mean score fell to {score:.2f} from {self.start_score or 0.0:.2f} at the start and stayed "
            f"there for {PATIENCE} steps; {change}",
        }[sign]

    def remarks(self, max_new_tokens: int) -> list[str]:
        """Return what a person should know though the run goes on, once."""
        if self.ever_ended or self.told_endless:
            return []
        self.told_endless = True
        return [
            f"no answer ended by itself within {max_new_tokens} tokens: raise "
            "max_new_tokens, or teach answers that end with SFT first"
        ]
