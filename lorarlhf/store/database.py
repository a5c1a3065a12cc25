"""One SQLite connection: opening, transactions, and errors in words. Knows nothing of what the tables mean.

The database is in WAL mode: any number of processes read while one writes, and a second writer waits up to 30
seconds. A store may be shared by threads (a lock serialises them); every process opens its own, after a fork too.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from lorarlhf.errors import StoreError
from lorarlhf.store.codec import dump
from lorarlhf.store.migrations import check, migrate

BUSY_SECONDS = 30.0

D = TypeVar("D", bound="Database")


class Database:
    """An open database file; a context manager that closes it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        self._depth = 0
        self._db = _connect(self.path)

    @classmethod
    def open(cls: type[D], path: str | os.PathLike[str]) -> D:
        """Open or create the database file at `path`; raise `StoreError` if that cannot be."""
        return cls(path)

    def close(self) -> None:
        """Close the connection; every later call raises `StoreError`."""
        with self._lock:
            self._db.close()

    def __enter__(self: D) -> D:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Commit everything inside or nothing; nested ones join the outermost.

        A durable commit survives power loss. One that is not survives a crash of the program and saves a disk
        sync; the next durable commit makes it durable too.
        """
        with self._lock, worded(self.path):
            if self._depth:
                yield self._db
                return
            if not durable:
                self._db.execute("PRAGMA synchronous=NORMAL")
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._depth = 1
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0
                if not durable:
                    self._db.execute("PRAGMA synchronous=FULL")

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Read rows."""
        with self._lock, worded(self.path):
            return self._db.execute(sql, values).fetchall()

    def changes(self) -> tuple[int, int]:
        """Give what is another one whenever rows were written since, through this connection or any other."""
        return self.query("PRAGMA data_version")[0][0], self._db.total_changes

    def get_meta(self, key: str, default: Any = None) -> Any:
        """Read a value kept under a name, e.g. the workspace's base."""
        rows = self.query("SELECT value FROM meta WHERE key = ?", (key,))
        return json.loads(rows[0]["value"]) if rows else default

    def set_meta(self, key: str, value: Any) -> None:
        """Keep a JSON value under a name, in place of what was there."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, dump(value)))


def _connect(path: Path) -> sqlite3.Connection:
    if path.is_dir():
        raise StoreError(f"{path} is a folder, not a database file")
    if not path.parent.is_dir():
        raise StoreError(f"{path}: there is no folder {path.parent}")
    with worded(path):
        db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            db.row_factory = sqlite3.Row
            check(db, path)  # before anything that writes: a file that is not ours stays as it is
            _use_wal(db)
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA foreign_keys=ON")
            migrate(db, path)
        except BaseException:
            db.close()
            raise
    return db


def _use_wal(db: sqlite3.Connection) -> None:
    # Switching the journal needs the file alone for an instant and ignores the busy timeout, so wait here.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextmanager
def worded(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into a `StoreError` a person can act on."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {_advice(str(error))}") from error
    except UnicodeEncodeError as error:
        raise StoreError(f"{path}: a text holds half a character (a lone surrogate); not written") from error
    except OverflowError as error:
        raise StoreError(f"{path}: a number is too large; nothing was written") from error


def _advice(problem: str) -> str:
    known = {
        "file is not a database": "is damaged or no database; use a backup or choose another workspace",
        "malformed": "is damaged; put a backup in its place, or save what is left with: sqlite3 FILE .recover",
        "disk is full": "the disk is full; free some space and try again, nothing was written",
        "disk I/O error": "the disk failed while reading or writing; check the disk, then try again",
        "readonly": "you may not write to this file; change its permissions or choose another workspace",
        "unable to open": "cannot be opened; check the permissions of the file and its folder",
        "locked": "another program kept it locked for too long; close that program and try again",
        "closed database": "this store is closed",
    }
    return next((words for sign, words in known.items() if sign in problem), f"database error: {problem}")
