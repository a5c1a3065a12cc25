"""Blind comparisons of adapters, called duels: who meets whom, on which prompts, and every vote.

What a person says is a comparison like any other (`source` is `duel`), and a row here that says it was cast blind. A
row here never changes and is never added later: a vote that is taken back or changed afterwards, when its names are
known, is a comparison still, but no blind one any more. What the scripted judge or a reward model says is a row here
alone, so that it teaches no reward model and enters no figure about people.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lorarlhf.errors import StoreError
from lorarlhf.store.codec import dump
from lorarlhf.store.migrations import now
from lorarlhf.store.votes import Row, Votes
from lorarlhf.types import Comparison, Outcome, Prompt, prompt_key

SOURCE = "duel"
"""Source of the comparisons that people make in a duel."""


class Contestant(NamedTuple):
    """An adapter as it took part: by content, with the name it had then."""

    name: str
    """Empty for the bare base, RUN@STEP for a checkpoint of a run."""
    hash: str
    """Of its weights; the base's fingerprint for the bare base."""


@dataclass(frozen=True)
class Duel:
    """Two or more adapters that are compared blind."""

    id: int
    created: str
    contestants: tuple[Contestant, ...]
    base: str
    """Fingerprint of the base they stand on."""
    sampling: dict[str, Any]
    teaches: bool
    """Whether people's votes may train a reward model."""


@dataclass(frozen=True)
class DuelVote:
    """One blind vote that counts."""

    id: int
    created: str
    duel: int
    judge: str
    """Empty for a person, `script`, or the name of a reward model."""
    judge_hash: str
    """What the reward model is by content."""
    prompt: Prompt
    first: str
    """Hash of the adapter that gave answer a."""
    second: str
    outcome: Outcome
    comparison: int | None
    """The comparison it is, if a person's."""


class Duels(Votes):
    """What was compared blind."""

    def start_duel(
        self,
        contestants: Sequence[Contestant],
        base: str,
        prompts: Iterable[Prompt],
        sampling: dict[str, Any],
        *,
        teaches: bool = True,
    ) -> int:
        """Record a duel on some prompts, in this order; return its id."""
        with self.transaction() as db:
            cursor = db.execute(
                "INSERT INTO duels (created, contestants, base, sampling, teaches) VALUES (?, ?, ?, ?, ?)",
                (now(), dump([list(one) for one in contestants]), base, dump(sampling), teaches),
            )
            duel = int(cursor.lastrowid or 0)
            for prompt in prompts:
                self.add_duel_prompt(duel, prompt)
        return duel

    def add_duel_prompt(self, duel: int, prompt: Prompt) -> None:
        """Add a prompt to a duel, after those it has; one that it has already stays where it is."""
        with self.transaction() as db:
            key = self._keep(db, prompt)
            db.execute("INSERT OR IGNORE INTO duel_prompts (duel, prompt) VALUES (?, ?)", (duel, key))

    def duels(self) -> list[Duel]:
        """List the duels, oldest first."""
        return [_duel(row) for row in self.query("SELECT * FROM duels ORDER BY id")]

    def duel(self, id: int) -> Duel:
        """Read a duel; raise `StoreError` if there is none."""
        rows = self.query("SELECT * FROM duels WHERE id = ?", (id,))
        if not rows:
            raise StoreError(f"there is no duel {id}")
        return _duel(rows[0])

    def duel_prompts(self, duel: int) -> list[Prompt]:
        """List the prompts of a duel in their order."""
        sql = """SELECT messages FROM duel_prompts JOIN conversations ON key = prompt WHERE duel = ?
            ORDER BY duel_prompts.id"""
        return [tuple(json.loads(row["messages"])) for row in self.query(sql, (duel,))]

    def add_duel_vote(self, duel: int, said: Comparison) -> int:
        """Store what a person said, both the comparison and that it was cast blind; return the comparison's id."""
        with self.transaction() as db:
            id = self.insert(said)
            self._add_vote(db, duel, said, comparison=id)
        return id

    def add_judged(self, duel: int, judge: str, judge_hash: str, said: Iterable[Comparison]) -> None:
        """Store what a judge that is no person said, all or nothing."""
        with self.transaction() as db:
            for one in said:
                self._add_vote(db, duel, one, judge=judge, judge_hash=judge_hash)

    def duel_votes(self) -> list[DuelVote]:
        """List the blind votes that count, oldest first."""
        return [_vote(row) for row in self.query("SELECT * FROM live_duel_votes ORDER BY id")]

    def taken_back(self) -> list[tuple[str, str]]:
        """Give both adapters of every blind vote that was taken back or changed later."""
        sql = "SELECT first, second FROM duel_votes WHERE id NOT IN (SELECT id FROM live_duel_votes)"
        return [(row["first"], row["second"]) for row in self.query(sql)]

    def lessons(self, stage: str) -> list[Row[Comparison]]:
        """List the comparisons a stage may learn from: not those of duels that the person keeps for measuring.

        No policy practises on prompts of duels: they are there to tell how it does on prompts it never saw.
        """
        ids = self._of_duels("" if stage == "ppo" else " AND teaches = 0")
        return [row for row in self.comparisons() if row.id not in ids] if ids else self.comparisons()

    def kept_for_measuring(self) -> list[Row[Comparison]]:
        """List the comparisons that no stage may learn from."""
        found: list[Row[Comparison]] = self.some("comparisons", self._of_duels(" AND teaches = 0"))
        return [row for row in found if not row.undone]

    def _of_duels(self, which: str) -> set[int]:
        sql = "SELECT comparison FROM duel_votes JOIN duels ON duels.id = duel WHERE comparison IS NOT NULL"
        return {row["comparison"] for row in self.query(sql + which)}

    def _add_vote(
        self,
        db: sqlite3.Connection,
        duel: int,
        said: Comparison,
        *,
        judge: str = "",
        judge_hash: str = "",
        comparison: int | None = None,
    ) -> None:
        first, second = said.origin.adapter_hashes
        key = self._keep(db, said.prompt)
        # A person's answers stand in the comparison.
        a, b = ("", "") if comparison is not None else (said.a, said.b)
        outcome = Outcome(said.outcome).value
        db.execute(
            """INSERT INTO duel_votes
            (created, duel, judge, judge_hash, prompt, first, second, outcome, a, b, comparison)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (now(), duel, judge, judge_hash, key, first, second, outcome, a, b, comparison),
        )

    def _keep(self, db: sqlite3.Connection, prompt: Prompt) -> str:
        key = prompt_key(prompt)
        db.execute("INSERT OR IGNORE INTO conversations VALUES (?, ?)", (key, dump(prompt)))
        return key


def _duel(row: sqlite3.Row) -> Duel:
    return Duel(
        id=row["id"],
        created=row["created"],
        contestants=tuple(Contestant(*one) for one in json.loads(row["contestants"])),
        base=row["base"],
        sampling=json.loads(row["sampling"]),
        teaches=bool(row["teaches"]),
    )


def _vote(row: sqlite3.Row) -> DuelVote:
    return DuelVote(
        id=row["id"],
        created=row["created"],
        duel=row["duel"],
        judge=row["judge"],
        judge_hash=row["judge_hash"],
        prompt=tuple(json.loads(row["messages"])),
        first=row["first"],
        second=row["second"],
        outcome=Outcome(row["outcome"]),
        comparison=row["comparison"],
    )
