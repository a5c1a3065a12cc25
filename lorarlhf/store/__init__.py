"""What happened, as rows: votes, runs, metrics, samples. Knows SQLite and nothing of models."""

from lorarlhf.store.codec import KINDS, Vote, fingerprint, kind_of, prompt_of
from lorarlhf.store.runs import Event, RunRow, Runs
from lorarlhf.store.votes import Row, Votes


class Store(Votes, Runs):
    """The workspace's database: everything people said and the engine did."""


__all__ = ["KINDS", "Event", "Row", "RunRow", "Store", "Vote", "fingerprint", "kind_of", "prompt_of"]
