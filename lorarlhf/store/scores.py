"""Scores that reward models gave to answers, so that none is computed twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from lorarlhf.store.database import Database
from lorarlhf.types import Prompt, prompt_key


class Scored(NamedTuple):
    """What a reward model said about an answer."""

    score: float
    tokens: int
    """Length of the answer in the tokens of its base."""


class Scores(Database):
    """Scores by judge, prompt and answer. A judge is named by the content of its adapter and head, not by its name."""

    def add_scores(self, judge: str, scores: Iterable[tuple[Prompt, str, Scored]]) -> None:
        """Record what a judge said; said again, it takes the place of the first."""
        rows = [(judge, prompt_key(prompt), answer_key(answer), *scored) for prompt, answer, scored in scores]
        with self.transaction(durable=False) as db:  # what power loss takes is computed again
            db.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?)", rows)

    def scores(self, judge: str) -> dict[tuple[str, str], Scored]:
        """Give all a judge said, by `prompt_key` and `answer_key`."""
        sql = "SELECT prompt, answer, score, tokens FROM scores WHERE judge = ?"
        return {(row[0], row[1]): Scored(row[2], row[3]) for row in self.query(sql, (judge,))}


def answer_key(answer: str) -> str:
    """Name an answer by its content: 16 hex digits."""
    return hashlib.sha256(answer.encode("utf-8", "surrogatepass")).hexdigest()[:16]
