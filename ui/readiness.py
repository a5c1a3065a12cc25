"""How much the votes are good for: computed once, in the same words on every page. Knows no Gradio."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_VOTES, USABLE_VOTES, RELIABLE_VOTES = 50, 150, 400
"""Votes that make a reward model worth a first try, usable, and reliable: the README's figures come from the last."""
FRESH_VOTES = 50
"""New votes that make it pay to train again."""
LEVELS = ((RELIABLE_VOTES, "reliable"), (USABLE_VOTES, "usable"), (FIRST_VOTES, "a first try"), (0, "too few"))


@dataclass(frozen=True)
class Readiness:
    """What so many votes are good for."""

    votes: int

    @property
    def level(self) -> str:
        """Name it: `too few`, `a first try`, `usable` or `reliable`."""
        return next(name for least, name in LEVELS if self.votes >= least)

    @property
    def next(self) -> tuple[int, str]:
        """Say how many more votes make what; 0 and nothing beyond the last level."""
        higher = [(least - self.votes, name) for least, name in LEVELS if least > self.votes]
        return higher[-1] if higher else (0, "")

    @property
    def words(self) -> str:
        """Say where the votes stand and how many more lead further."""
        more, name = self.next
        if not more:
            return f"{self.votes:,} votes: reliable"
        return f"{self.votes:,} votes: {self.level}, {more:,} more for {name}"


def missing_votes(votes: int, fresh: int | None) -> str:
    """Say how many votes are left before training makes sense; empty where it does.

    `fresh` are those since the newest reward model, if there is one.
    """
    if fresh is None:
        return f"{FIRST_VOTES - votes} more for a first reward model" if votes < FIRST_VOTES else ""
    return f"{FRESH_VOTES - fresh} more before it pays to retrain" if fresh < FRESH_VOTES else ""


def milestone(votes: int, fresh: int | None) -> str:
    """Say what the next votes are good for, or what the votes there are would be good for now."""
    if left := missing_votes(votes, fresh):
        return left
    if fresh is None:
        return f"Enough for {Readiness(votes).level}. Train the reward model"
    if votes < RELIABLE_VOTES:
        return f"Retrain now, or keep going: about {RELIABLE_VOTES} votes make it reliable"
    return f"Retrain: {fresh:,} new votes"
