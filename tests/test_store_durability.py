"""The database file: old schemas open, strange files are refused, several processes get along, kills lose nothing."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lorarlhf.errors import StoreError
from lorarlhf.store import Store
from lorarlhf.store.migrations import MIGRATIONS
from lorarlhf.types import Comparison, Outcome, user

VOTE = Comparison(user("Why?"), "Because.", "No idea.", Outcome.A)

# The first schema, word for word. It stays as it is forever: databases that look like this exist.
OLDEST = """
CREATE TABLE migrations (name TEXT PRIMARY KEY, applied TEXT, program TEXT);
INSERT INTO migrations VALUES ('0001-votes', '2026-11-20T00:00:00.000000Z', '0.1.0');
CREATE TABLE conversations (key TEXT PRIMARY KEY, messages TEXT NOT NULL);
CREATE TABLE comparisons (
    id INTEGER PRIMARY KEY AUTOINCREMENT, created TEXT NOT NULL,
    prompt TEXT NOT NULL REFERENCES conversations(key),
    a TEXT NOT NULL, b TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('a', 'b', 'tie', 'both_bad', 'skip')),
    strength INTEGER NOT NULL, left_side TEXT NOT NULL CHECK (left_side IN ('a', 'b')),
    criteria TEXT NOT NULL, reasons TEXT NOT NULL, repeats INTEGER REFERENCES comparisons(id),
    rater TEXT NOT NULL, round INTEGER NOT NULL, source TEXT NOT NULL, seconds REAL,
    adapters TEXT NOT NULL, adapter_hashes TEXT NOT NULL, sampling TEXT NOT NULL, note TEXT NOT NULL,
    fingerprint TEXT NOT NULL);
CREATE TABLE rankings (
    id INTEGER PRIMARY KEY AUTOINCREMENT, created TEXT NOT NULL,
    prompt TEXT NOT NULL REFERENCES conversations(key), completions TEXT NOT NULL, ranks TEXT NOT NULL,
    rater TEXT NOT NULL, round INTEGER NOT NULL, source TEXT NOT NULL, seconds REAL,
    adapters TEXT NOT NULL, adapter_hashes TEXT NOT NULL, sampling TEXT NOT NULL, note TEXT NOT NULL,
    fingerprint TEXT NOT NULL);
CREATE TABLE demonstrations (
    id INTEGER PRIMARY KEY AUTOINCREMENT, created TEXT NOT NULL,
    prompt TEXT NOT NULL REFERENCES conversations(key), response TEXT NOT NULL,
    rater TEXT NOT NULL, round INTEGER NOT NULL, source TEXT NOT NULL, seconds REAL,
    adapters TEXT NOT NULL, adapter_hashes TEXT NOT NULL, sampling TEXT NOT NULL, note TEXT NOT NULL,
    fingerprint TEXT NOT NULL);
CREATE TABLE prompts (
    id INTEGER PRIMARY KEY AUTOINCREMENT, created TEXT NOT NULL,
    prompt TEXT NOT NULL REFERENCES conversations(key), queue TEXT NOT NULL, fingerprint TEXT NOT NULL);
CREATE TABLE retractions (id INTEGER PRIMARY KEY AUTOINCREMENT, created TEXT NOT NULL,
    kind TEXT NOT NULL, row INTEGER NOT NULL, replaced_by INTEGER, UNIQUE (kind, row));
CREATE VIEW live_comparisons AS SELECT comparisons.*, messages FROM comparisons
    JOIN conversations ON conversations.key = comparisons.prompt
    WHERE id NOT IN (SELECT row FROM retractions WHERE kind = 'comparisons');
CREATE VIEW live_rankings AS SELECT rankings.*, messages FROM rankings
    JOIN conversations ON conversations.key = rankings.prompt
    WHERE id NOT IN (SELECT row FROM retractions WHERE kind = 'rankings');
CREATE VIEW live_demonstrations AS SELECT demonstrations.*, messages FROM demonstrations
    JOIN conversations ON conversations.key = demonstrations.prompt
    WHERE id NOT IN (SELECT row FROM retractions WHERE kind = 'demonstrations');
CREATE VIEW live_prompts AS SELECT prompts.*, messages FROM prompts
    JOIN conversations ON conversations.key = prompts.prompt
    WHERE id NOT IN (SELECT row FROM retractions WHERE kind = 'prompts');
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO conversations VALUES ('c0ffee', '[{"role":"user","content":"Why?"}]');
INSERT INTO comparisons VALUES (4, '2026-11-20T00:00:00.000000Z', 'c0ffee', 'Because.', 'No idea.', 'a', 1, 'a',
    '{}', '[]', NULL, '', 0, 'import', NULL, '[]', '[]', '{}', '', 'f');
"""


def schema(path: Path) -> list[str]:
    db = sqlite3.connect(path)
    rows = db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()
    db.close()
    squeezed = (re.sub(r"\s+", "", sql) for (sql,) in rows)
    return sorted(sql.replace("IFNOTEXISTS", "") for sql in squeezed)


def write_sql(path: Path, script: str) -> None:
    db = sqlite3.connect(path)
    db.executescript(script)
    db.close()


def test_the_oldest_schema_opens_and_becomes_the_newest(tmp_path: Path) -> None:
    write_sql(tmp_path / "old.db", OLDEST)
    with Store(tmp_path / "old.db") as store:
        assert [(row.id, row.value) for row in store.comparisons()] == [(4, VOTE)]
        assert store.add_comparison(VOTE) == 5
        assert store.start_run("sft", "a", "b", {}, {}) == "sft-1"
    Store(tmp_path / "new.db").close()
    assert schema(tmp_path / "old.db") == schema(tmp_path / "new.db")


def test_migrations_are_ordered_and_recorded(tmp_path: Path) -> None:
    names = [name for name, _ in MIGRATIONS]
    assert names == sorted(names)
    assert len(set(names)) == len(names) == 5
    for _ in range(2):
        with Store(tmp_path / "x.db") as store:
            assert [row["name"] for row in store.query("SELECT name FROM migrations ORDER BY name")] == names


def test_a_failing_migration_leaves_the_old_schema(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "old.db"
    write_sql(path, OLDEST)
    before = schema(path)
    broken = (*MIGRATIONS, ("9999-broken", ("CREATE TABLE fine (x)", "CREATE TABLE nonsense (")))
    monkeypatch.setattr("lorarlhf.store.migrations.MIGRATIONS", broken)
    with pytest.raises(StoreError, match="database error"):
        Store(path)
    assert schema(path) == before


def test_a_newer_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    Store(path).close()
    write_sql(path, "INSERT INTO migrations VALUES ('0099-future', 'x', '7.0.0')")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer lorarlhf \(7\.0\.0, schema 0099-future.*pip install -U"):
        Store(path)
    assert path.read_bytes() == before


def test_a_foreign_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    write_sql(path, "CREATE TABLE photos (x)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        Store(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"hello, this is a letter" * 99, b"\0" * 5000, b"SQLite format 3\0" + b"x" * 4000])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=str(path)) as caught:
        Store(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_damage_in_the_middle_is_said_in_words(tmp_path: Path) -> None:
    path = tmp_path / "bad.db"
    with Store(path) as store:
        store.add_comparisons([Comparison(user(f"q{n}"), "x" * 500, "y" * 500, Outcome.A) for n in range(200)])
    data = bytearray(path.read_bytes())
    data[len(data) // 3 :] = b"\xa5" * (len(data) - len(data) // 3)
    path.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"), Store(path) as store:
        store.comparisons()


def test_places_where_no_database_can_be(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder"):
        Store(tmp_path)
    with pytest.raises(StoreError, match="there is no folder"):
        Store(tmp_path / "nowhere" / "x.db")
    store = Store.open(tmp_path / "x.db")
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.comparisons()


def test_commits_are_synced_and_the_journal_is_wal(tmp_path: Path) -> None:
    with Store(tmp_path / "x.db") as store:
        assert store.query("PRAGMA journal_mode")[0][0] == "wal"
        assert store.query("PRAGMA synchronous")[0][0] == 2
        assert store.query("PRAGMA foreign_keys")[0][0] == 1
        assert store.query("PRAGMA busy_timeout")[0][0] == 30_000


def test_kill_right_after_a_vote_keeps_it(tmp_path: Path) -> None:
    code = f"""
import os, signal
from lorarlhf.store import Store
from lorarlhf.types import Comparison, Outcome, user
store = Store({str(tmp_path / "x.db")!r})
for n in range(3):
    store.add_comparison(Comparison(user("q"), str(n), "no", Outcome.A))
open_one = store.transaction()
open_one.__enter__()
store.add_comparison(Comparison(user("q"), "never committed", "no", Outcome.A))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert done.returncode == -signal.SIGKILL
    with Store(tmp_path / "x.db") as store:
        assert [row.value.a for row in store.comparisons()] == ["0", "1", "2"]


def _vote(path: str, name: str, barrier) -> None:
    barrier.wait()
    with Store(path) as store:
        for n in range(20):
            store.add_comparison(Comparison(user(f"{name} {n}"), "x", "y", Outcome.A))


def test_processes_open_and_write_at_once_while_another_reads(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    path = tmp_path / "x.db"
    workers = [context.Process(target=_vote, args=(str(path), f"w{n}", barrier)) for n in range(3)]
    for worker in workers:
        worker.start()
    barrier.wait()
    seen = [0]
    with Store(path) as reader:
        while any(worker.is_alive() for worker in workers):
            seen.append(len(reader.comparisons()))
        for worker in workers:
            worker.join()
        seen.append(len(reader.comparisons()))
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert seen == sorted(seen)
    assert seen[-1] == 60


def test_a_new_file_opened_by_many_at_once(tmp_path: Path) -> None:
    problems: list[StoreError] = []

    def open_one(path: Path, barrier: threading.Barrier) -> None:
        barrier.wait()
        try:
            Store(path).close()
        except StoreError as error:
            problems.append(error)

    for n in range(25):
        barrier = threading.Barrier(4)
        threads = [threading.Thread(target=open_one, args=(tmp_path / f"{n}.db", barrier)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert problems == []


def test_threads_may_share_a_store(tmp_path: Path) -> None:
    with Store(tmp_path / "x.db") as store:

        def vote(name: int) -> None:
            for n in range(20):
                store.add_comparison(Comparison(user(f"{name} {n}"), "x", "y", Outcome.A))
                store.comparisons()

        threads = [threading.Thread(target=vote, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(row.id for row in store.comparisons()) == list(range(1, 81))


def test_the_store_imports_no_model_code() -> None:
    code = "import sys, lorarlhf.store, lorarlhf.workspace, lorarlhf.data.importing, lorarlhf.data.exporting; " + (
        "print(sorted({'torch', 'transformers', 'datasets', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ}, check=True
    )
    assert done.stdout.strip() == "[]"
