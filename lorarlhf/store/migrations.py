"""The schema, as the ordered list of what was ever done to it.

Released entries are never edited: a change is a new entry at the end. Each runs once per database, in the order
of this list, and its name is recorded in the table `migrations`. Views named `live_…` leave out what was undone or
replaced; they are what other programs should query.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime, timezone
from pathlib import Path

from lorarlhf import __version__
from lorarlhf.errors import StoreError

_ORIGIN = """
    rater TEXT NOT NULL, round INTEGER NOT NULL, source TEXT NOT NULL, seconds REAL,
    adapters TEXT NOT NULL, adapter_hashes TEXT NOT NULL, sampling TEXT NOT NULL, note TEXT NOT NULL,
    fingerprint TEXT NOT NULL
"""
_HEAD = """
    id INTEGER PRIMARY KEY AUTOINCREMENT, created TEXT NOT NULL,
    prompt TEXT NOT NULL REFERENCES conversations(key)
"""


def _live(kind: str) -> str:
    return f"""CREATE VIEW live_{kind} AS SELECT {kind}.*, messages FROM {kind}
        JOIN conversations ON conversations.key = {kind}.prompt
        WHERE id NOT IN (SELECT row FROM retractions WHERE kind = '{kind}')"""


MIGRATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "0001-votes",
        (
            "CREATE TABLE conversations (key TEXT PRIMARY KEY, messages TEXT NOT NULL)",
            f"""CREATE TABLE comparisons ({_HEAD}, a TEXT NOT NULL, b TEXT NOT NULL,
                outcome TEXT NOT NULL CHECK (outcome IN ('a', 'b', 'tie', 'both_bad', 'skip')),
                strength INTEGER NOT NULL, left_side TEXT NOT NULL CHECK (left_side IN ('a', 'b')),
                criteria TEXT NOT NULL, reasons TEXT NOT NULL,
                repeats INTEGER REFERENCES comparisons(id), {_ORIGIN})""",
            f"CREATE TABLE rankings ({_HEAD}, completions TEXT NOT NULL, ranks TEXT NOT NULL, {_ORIGIN})",
            f"CREATE TABLE demonstrations ({_HEAD}, response TEXT NOT NULL, {_ORIGIN})",
            f"CREATE TABLE prompts ({_HEAD}, queue TEXT NOT NULL, fingerprint TEXT NOT NULL)",
            """CREATE TABLE retractions (id INTEGER PRIMARY KEY AUTOINCREMENT, created TEXT NOT NULL,
                kind TEXT NOT NULL, row INTEGER NOT NULL, replaced_by INTEGER, UNIQUE (kind, row))""",
            *(_live(kind) for kind in ("comparisons", "rankings", "demonstrations", "prompts")),
            "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        ),
    ),
    (
        "0002-runs",
        (
            """CREATE TABLE runs (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
                stage TEXT NOT NULL, status TEXT NOT NULL, adapter TEXT NOT NULL, base TEXT NOT NULL,
                settings TEXT NOT NULL, parents TEXT NOT NULL, created TEXT NOT NULL, updated TEXT NOT NULL,
                finished TEXT NOT NULL DEFAULT '', step INTEGER NOT NULL DEFAULT 0,
                result TEXT NOT NULL DEFAULT '{}', error TEXT NOT NULL DEFAULT '')""",
            """CREATE TABLE metrics (run TEXT NOT NULL REFERENCES runs(id), step INTEGER NOT NULL,
                name TEXT NOT NULL, value REAL, PRIMARY KEY (run, step, name)) WITHOUT ROWID""",
            """CREATE TABLE samples (run TEXT NOT NULL REFERENCES runs(id), step INTEGER NOT NULL,
                position INTEGER NOT NULL, sample TEXT NOT NULL, PRIMARY KEY (run, step, position))""",
            """CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL REFERENCES runs(id),
                step INTEGER NOT NULL, created TEXT NOT NULL, text TEXT NOT NULL)""",
            "CREATE INDEX events_of_run ON events (run)",
        ),
    ),
    (
        "0003-scores",
        (
            """CREATE TABLE scores (judge TEXT NOT NULL, prompt TEXT NOT NULL, answer TEXT NOT NULL,
                score REAL NOT NULL, tokens INTEGER NOT NULL, PRIMARY KEY (judge, prompt, answer)) WITHOUT ROWID""",
        ),
    ),
    (
        "0004-duels",
        (
            """CREATE TABLE duels (id INTEGER PRIMARY KEY AUTOINCREMENT, created TEXT NOT NULL,
                contestants TEXT NOT NULL, base TEXT NOT NULL, sampling TEXT NOT NULL, teaches INTEGER NOT NULL)""",
            """CREATE TABLE duel_prompts (id INTEGER PRIMARY KEY AUTOINCREMENT,
                duel INTEGER NOT NULL REFERENCES duels(id), prompt TEXT NOT NULL REFERENCES conversations(key),
                UNIQUE (duel, prompt))""",
            """CREATE TABLE duel_votes (id INTEGER PRIMARY KEY AUTOINCREMENT, created TEXT NOT NULL,
                duel INTEGER NOT NULL REFERENCES duels(id), judge TEXT NOT NULL, judge_hash TEXT NOT NULL,
                prompt TEXT NOT NULL REFERENCES conversations(key), first TEXT NOT NULL, second TEXT NOT NULL,
                outcome TEXT NOT NULL CHECK (outcome IN ('a', 'b', 'tie', 'both_bad', 'skip')),
                a TEXT NOT NULL, b TEXT NOT NULL, comparison INTEGER UNIQUE REFERENCES comparisons(id))""",
            """CREATE VIEW live_duel_votes AS SELECT duel_votes.*, messages FROM duel_votes
                JOIN conversations ON conversations.key = duel_votes.prompt
                WHERE comparison IS NULL
                OR comparison NOT IN (SELECT row FROM retractions WHERE kind = 'comparisons')""",
        ),
    ),
    (
        "0005-bases",
        # The fingerprint of the base a row belongs to; empty for what belongs to every base.
        tuple(
            f"ALTER TABLE {kind} ADD COLUMN base TEXT NOT NULL DEFAULT ''"
            for kind in ("comparisons", "rankings", "demonstrations", "prompts")
        ),
    ),
)


def now() -> str:
    """Tell the time in UTC, ISO 8601 with microseconds and `Z`: sorts as text."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def applied(db: sqlite3.Connection, path: Path) -> dict[str, str]:
    """List the migrations a database has seen, each with the program version that applied it."""
    # One look at all tables: between two looks another process may create them.
    tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master").fetchall()]
    if tables and "migrations" not in tables:
        raise StoreError(f"{path} is a database of another program; choose another workspace")
    return dict(db.execute("SELECT name, program FROM migrations").fetchall()) if tables else {}


def check(db: sqlite3.Connection, path: Path) -> None:
    """Raise `StoreError` if the database is another program's or a newer version's; change nothing."""
    seen = applied(db, path)
    unknown = sorted(set(seen) - {name for name, _ in MIGRATIONS})
    if unknown:
        raise StoreError(
            f"{path} was written by a newer lorarlhf ({seen[unknown[-1]]}, schema {unknown[-1]}; this is "
            f"{__version__}); upgrade with: pip install -U lorarlhf"
        )


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring a database to the newest schema, in one transaction: all of it or none."""
    check(db, path)
    if len(applied(db, path)) == len(MIGRATIONS):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        seen = applied(db, path)  # again: another process may have been faster
        db.execute("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, applied TEXT, program TEXT)")
        for name, statements in MIGRATIONS:
            if name not in seen:
                for statement in statements:
                    db.execute(statement)
                db.execute("INSERT INTO migrations VALUES (?, ?, ?)", (name, now(), __version__))
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise
