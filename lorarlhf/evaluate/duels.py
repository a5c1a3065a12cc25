"""Who wins blind comparisons: win rates, when they are settled, and ratings of everybody. Ties count half.

People and every other judge stand apart: a figure is of one kind of judge, and people's only of votes cast blind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from lorarlhf.evaluate.bradley_terry import Game, Rating, ratings
from lorarlhf.evaluate.sequential import ALPHA, always_valid_interval, more_votes, settled
from lorarlhf.evaluate.statistics import Share, share_of
from lorarlhf.library import BARE, SavedAdapter
from lorarlhf.store import DuelVote, Store
from lorarlhf.types import Outcome, split_key

VALUES = {Outcome.A: 1.0, Outcome.B: 0.0, Outcome.TIE: 0.5, Outcome.BOTH_BAD: 0.5}
"""What an outcome is worth to the adapter that gave answer a; a skip says nothing."""
PEOPLE = ""
"""The judge that is people."""
SCRIPT = "script"
"""The judge that is the starter's scripted rater."""
Judge = tuple[str, str]
"""Name and content of a judge."""


@dataclass(frozen=True)
class Result:
    """How one adapter did against another."""

    first: str
    """By content."""
    second: str
    share: Share
    """How often the first won, with the interval for whoever looks once, after a number of votes fixed before."""
    always: tuple[float, float]
    """The interval for whoever looks after every vote. Of each prompt it takes the first vote alone: those that follow
    are no news about other prompts, and which they are was known."""
    settled: str
    """`first`, `second`, `equal`, or empty while it is open."""
    more: int | None
    """Votes on new prompts that would settle it if they went on as so far; None where that is out of sight."""
    prompts: int
    taken_back: int = 0
    """Blind votes that were taken back or changed once the names were known; they count nowhere."""
    ties: int = 0
    skipped: int = 0

    @property
    def votes(self) -> int:
        """Votes that say something."""
        return int(self.share.trials)

    def swapped(self) -> Result:
        """Tell the same of the second against the first."""
        share = Share(self.share.trials - self.share.hits, self.share.trials, 1 - self.share.high, 1 - self.share.low)
        names = {"first": "second", "second": "first"}
        return Result(
            first=self.second,
            second=self.first,
            share=share,
            always=(1 - self.always[1], 1 - self.always[0]),
            settled=names.get(self.settled, self.settled),
            more=self.more,
            prompts=self.prompts,
            taken_back=self.taken_back,
            ties=self.ties,
            skipped=self.skipped,
        )

    def as_json(self, names: dict[str, str]) -> dict[str, Any]:
        """Give it as JSON."""
        return {
            "first": {"name": names.get(self.first, ""), "hash": self.first},
            "second": {"name": names.get(self.second, ""), "hash": self.second},
            **self.figures(),
        }

    def figures(self) -> dict[str, Any]:
        """Give the numbers of the first as JSON."""
        return {
            "win_rate": round(self.share.value, 6) if self.share else None,
            "interval": [round(self.share.low, 6), round(self.share.high, 6)],
            "interval_at_any_time": [round(bound, 6) for bound in self.always],
            "votes": self.votes,
            "ties": self.ties,
            "prompts": self.prompts,
            "skipped": self.skipped,
            "taken_back": self.taken_back,
            "settled": self.settled,
            "more_votes": self.more,
        }


def result_of(
    votes: Iterable[DuelVote],
    first: str,
    second: str,
    *,
    taken_back: Iterable[tuple[str, str]] = (),
    alpha: float = ALPHA,
) -> Result:
    """Compute how one adapter did against another from the votes of one kind of judge, oldest first."""
    pair = {first, second}
    own = [vote for vote in votes if {vote.first, vote.second} == pair]
    said = [(split_key(v.prompt), _value(v, first), v.outcome) for v in own if v.outcome is not Outcome.SKIP]
    fresh: dict[str, float] = {}
    for prompt, value, _ in said:
        fresh.setdefault(prompt, value)
    wins, count = sum(fresh.values()), len(fresh)
    return Result(
        first=first,
        second=second,
        share=share_of([value for _, value, _ in said], clusters=[prompt for prompt, _, _ in said]),
        always=always_valid_interval(wins, count, alpha),
        settled=settled(wins, count, alpha),
        more=more_votes(wins, count, alpha),
        prompts=count,
        taken_back=sum({*both} == pair for both in taken_back),
        ties=sum(value == 0.5 for _, value, _ in said),
        skipped=len(own) - len(said),
    )


def _value(vote: DuelVote, first: str) -> float:
    value = VALUES[vote.outcome]
    return value if vote.first == first else 1 - value


def votes_by(votes: Sequence[DuelVote]) -> dict[Judge, list[DuelVote]]:
    """Sort votes by who cast them, people first."""
    found: dict[Judge, list[DuelVote]] = {}
    for vote in votes:
        found.setdefault((vote.judge, vote.judge_hash), []).append(vote)
    return dict(sorted(found.items(), key=lambda item: (item[0] != (PEOPLE, ""), item[0])))


def judge_name(judge: Judge) -> str:
    """Call a judge by name."""
    name, hash = judge
    return "people" if not name else "the scripted judge" if not hash else name


# -- everybody --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Board:
    """What one kind of judge says about everybody."""

    judge: Judge
    anchor: str
    """By content; it has 0 points."""
    results: tuple[Result, ...]
    """Of every pair that met."""
    ratings: dict[str, Rating]
    """By content; those no chain of votes links to the anchor are missing."""

    @property
    def placed(self) -> list[tuple[str, Rating]]:
        """List the rated ones, the strongest first."""
        return sorted(self.ratings.items(), key=lambda item: -item[1].points)

    @property
    def unplaced(self) -> list[str]:
        """List those that met somebody, but nobody linked to the anchor."""
        met = {hash for result in self.results for hash in (result.first, result.second)}
        return sorted(met - set(self.ratings))


def boards(store: Store, adapters: Sequence[SavedAdapter] = ()) -> list[Board]:
    """Rate everybody, once for each kind of judge; `adapters` tells who is the oldest."""
    taken_back, bases = store.taken_back(), _bases(store)
    ages = [adapter.hash for adapter in adapters]
    ages += [one.hash for duel in store.duels() for one in duel.contestants]
    found = []
    for judge, votes in votes_by(store.duel_votes()).items():
        met = {hash for vote in votes for hash in (vote.first, vote.second)}
        order = [hash for hash in dict.fromkeys([*bases, *ages]) if hash in met]
        results = [
            result_of(votes, first, second, taken_back=taken_back if judge[0] == PEOPLE else ())
            for second, first in combinations(order, 2)
            if any({vote.first, vote.second} == {first, second} for vote in votes)
        ]
        games = [
            Game(vote.first, vote.second, VALUES[vote.outcome], split_key(vote.prompt))
            for vote in votes
            if vote.outcome is not Outcome.SKIP
        ]
        anchor = order[0]
        found.append(Board(judge, anchor, tuple(results), ratings(games, anchor)))
    return found


def _bases(store: Store) -> list[str]:
    return list(dict.fromkeys(one.hash for duel in store.duels() for one in duel.contestants if not one.name))


def names_of(store: Store, adapters: Sequence[SavedAdapter]) -> dict[str, str]:
    """Name everybody who ever took part, as they are called today, or were called then."""
    names = {
        one.hash: f"{one.name} (deleted)" if one.name else BARE for duel in store.duels() for one in duel.contestants
    }
    return names | {adapter.hash: adapter.name for adapter in reversed(adapters)}
