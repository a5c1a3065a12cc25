"""Which of several adapters to keep, or of their checkpoints, by blind votes. Knows not where those come from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lorarlhf.evaluate.statistics import Share


class BlindVotes(NamedTuple):
    """How often an adapter's answers won blind votes against those of one opponent, the same for all of a lineage."""

    adapter: str
    wins: Share
    """Ties count half."""


def best_by_votes(lineage: Iterable[BlindVotes]) -> str:
    """Name the adapter to keep: the one whose win rate is surely highest; empty where none surely beats the opponent.

    It goes by the low end of the 95 % interval, so that three lucky votes do not outdo sixty good ones. Of the reward
    nothing is asked: blind votes are the one measure that no policy was trained on.
    """
    sure = [one for one in lineage if one.wins and one.wins.low > 0.5]
    return max(sure, key=lambda one: one.wins.low).adapter if sure else ""
