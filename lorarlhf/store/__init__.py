"""What happened, as rows: votes, runs, metrics, samples. Knows SQLite and nothing of models."""

from lorarlhf.store.codec import KINDS, Vote, fingerprint, kind_of, prompt_of
from lorarlhf.store.duels import Contestant, Duel, Duels, DuelVote
from lorarlhf.store.owners import OwnedRuns
from lorarlhf.store.runs import QUEUE, UNFINISHED, Event, RunRow
from lorarlhf.store.scores import Scored, Scores
from lorarlhf.store.votes import OTHERS, Row


class Store(OwnedRuns, Scores, Duels):
    """The workspace's database: everything people said and the engine did."""


__all__ = [
    "KINDS",
    "OTHERS",
    "QUEUE",
    "UNFINISHED",
    "Contestant",
    "Duel",
    "DuelVote",
    "Event",
    "Row",
    "RunRow",
    "Scored",
    "Store",
    "Vote",
    "fingerprint",
    "kind_of",
    "prompt_of",
]
