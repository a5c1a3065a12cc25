"""A full disk, a read-only folder, a damaged database, damaged checkpoints, a clock set back: what is said and kept.

Each happens to a run of SFT on a miniature base, beside votes. It holds when the program says in one line what is
wrong and what to do, when everything else can still be read, and when the run, resumed after the harm is mended, ends
with the very bits of an undisturbed one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from lorarlhf.engine.core import Engine
from lorarlhf.engine.training import resume, train
from lorarlhf.errors import LoraRlhfError, RunDiffers, RunPaused
from lorarlhf.settings import LoadSettings, SFTSettings
from lorarlhf.types import Comparison, Demonstration, Outcome, user
from lorarlhf.workspace import Workspace
from tests import tiny

SETTINGS = SFTSettings(
    rank=2, alpha=4, heldout_share=0.2, batch_size=4, epochs=3, checkpoint_every=1, eval_every=4, micro_batch_tokens=128
)
VOTES = 40
DISK = 3_000_000
"""Bytes of the small disk; a workspace of this size takes a tenth."""


class Outcomes(NamedTuple):
    """What a disaster led to."""

    said: list[str]
    """Every line the person was told."""
    held: bool
    """Whether nothing was lost and all of it was said in words."""


class Scene:
    """A workspace with votes, demonstrations and a run."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.engine = Engine(Workspace(folder), LoadSettings(base=str(base), compute="fp32", device="cpu"))
        self.said: list[str] = []
        store = self.engine.store
        store.add_demonstrations(Demonstration(user(f"question {i}?"), f"answer {i}") for i in range(20))
        store.add_comparisons(Comparison(user(f"q{i}"), "x" * 200, "y", Outcome.A) for i in range(VOTES))

    @property
    def run_folder(self) -> Path:
        """Where the only run keeps its checkpoints."""
        return self.engine.workspace.runs_dir / "sft-1"

    def tell(self, action: Callable[[], Any]) -> type[LoraRlhfError] | None:
        """Do something that may fail, and note what is said → the kind of error; anything but words is raised."""
        try:
            action()
        except LoraRlhfError as error:
            self.said.append(str(error))
            return type(error)
        return None

    def begin(self, steps: int, then: Callable[[], None] = lambda: None, *, pause: bool = True) -> Callable[[], Any]:
        """Return a run that does something after some steps, and then asks for a pause if it may."""
        done = 0

        def watch(step: int, total: int, metrics: Any) -> None:
            nonlocal done
            done = step
            if step == steps:
                then()

        return lambda: train(self.engine, "sft", SETTINGS, "mine", watch, lambda: pause and done >= steps)

    def go_on(self, **how: Any) -> Callable[[], Any]:
        """Return the resuming of the run."""
        return lambda: resume(self.engine, "sft-1", **how)

    def votes(self) -> int:
        """Count the votes that can be read."""
        return len(self.engine.store.comparisons())

    def weights(self) -> bytes:
        """Read the adapter the run made."""
        return (self.engine.workspace.adapters_dir / "mine" / "adapter_model.safetensors").read_bytes()

    def reopen(self) -> None:
        """Open the workspace again, as a new process would."""
        self.engine.store.close()
        self.engine.__dict__.pop("store")

    def outcome(self, expected: bytes, *also: bool, words: tuple[str, ...]) -> Outcomes:
        """Judge: the same bits, all votes, every one of these words said, each message one line."""
        spoken = all(any(word in line for line in self.said) for word in words)
        whole = self.weights() == expected and self.votes() >= VOTES
        lines = all(line and "\n" not in line for line in self.said)
        self.engine.store.close()
        return Outcomes(self.said, whole and spoken and lines and all(also))


def undisturbed(folder: Path, base: Path) -> bytes:
    """Make the run no disaster comes to → its adapter."""
    scene = Scene(folder, base)
    train(scene.engine, "sft", SETTINGS, "mine")
    scene.engine.store.close()
    return scene.weights()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small disk of its own on a folder, where this machine lets us; tells whether it did."""
    folder.mkdir(parents=True)
    tool = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    mounted = bool(tool) and subprocess.run([str(tool), *options], capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_up(folder: Path, leave: int = 0) -> Path:
    """Take all room of a disk but a little; → the file that takes it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while (free := shutil.disk_usage(folder).free) > leave:
            file.write(b"x" * min(free - leave, 65536))
    return filler


def full_disk(folder: Path, base: Path, expected: bytes) -> Outcomes | None:
    """Fill the disk before a start, then in the middle of a run while a vote is cast."""
    with small_disk(folder) as mounted:
        if not mounted:
            return None
        scene = Scene(folder / "work", base)
        filler = fill_up(folder, leave=20_000)
        refused = scene.tell(scene.begin(99)) is not None and not scene.engine.store.runs()
        filler.unlink()
        stopped = scene.tell(scene.begin(4, lambda: fill_up(folder) and None, pause=False)) is not None
        scene.tell(lambda: scene.engine.store.add_comparison(Comparison(user("late" * 5000), "a", "b", Outcome.A)))
        readable = scene.votes() == VOTES
        filler.unlink()
        resumable = scene.engine.store.run("sft-1").status == "paused"
        scene.tell(scene.go_on())
        words = (
            "the disk of",
            "No space left on device",
            "go on with `lorarlhf resume sft-1`",
            "the disk is full; free some",
        )
        return scene.outcome(expected, refused, stopped, readable, resumable, words=words)


def read_only(folder: Path, base: Path, expected: bytes) -> Outcomes | None:
    """Make the whole workspace read-only in the middle of a run."""
    with small_disk(folder) as mounted:
        if not mounted:
            return None

        def remount(how: str) -> None:
            subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)

        scene = Scene(folder / "work", base)

        def lock() -> None:
            # SQLite holds its files open for writing, and the system forbids the change while anybody does.
            scene.reopen()
            remount("ro")

        scene.tell(scene.begin(4))
        lock()
        opened = scene.tell(lambda: Workspace(folder / "work").open())
        remount("rw")
        scene.tell(scene.go_on())
        return scene.outcome(expected, opened is not None, words=("cannot write there (Read-only file system)",))


def locked_checkpoints(folder: Path, base: Path, expected: bytes) -> Outcomes:
    """Put a file where the run's checkpoints should go: a folder that cannot be written, for root too."""
    scene = Scene(folder, base)
    aside = folder / "runs-aside"

    def lock() -> None:
        scene.run_folder.rename(aside)
        scene.run_folder.write_text("")

    stopped = scene.tell(scene.begin(4, lock, pause=False))
    paused = scene.engine.store.run("sft-1").status == "paused"
    scene.run_folder.unlink()
    aside.rename(scene.run_folder)
    scene.tell(scene.go_on())
    return scene.outcome(expected, stopped is not None, paused, words=("runs/sft-1 cannot be written: File exists",))


def damaged_database(folder: Path, base: Path, expected: bytes) -> Outcomes:
    """Write nonsense over the page of the database that holds a run's numbers; put a backup back afterwards."""
    scene = Scene(folder, base)
    scene.tell(scene.begin(4))
    path = scene.engine.workspace.db
    scene.reopen()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,) = db.execute("PRAGMA page_size").fetchone()
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'metrics'").fetchone()
    backup = shutil.copy(path, folder / "backup.db")
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(os.urandom(size))
    read = scene.tell(lambda: scene.engine.store.metrics("sft-1")) is not None
    refused = scene.tell(scene.go_on()) is not None
    others = scene.votes() == VOTES and scene.engine.store.run("sft-1").adapter == "mine"
    scene.reopen()
    for rest in folder.glob("workspace.db-*"):
        rest.unlink()
    shutil.copy(backup, path)
    scene.tell(scene.go_on())
    return scene.outcome(expected, read, refused, others, words=("is damaged; put a backup in its place",))


def damaged_checkpoints(folder: Path, base: Path, expected: bytes) -> Outcomes:
    """Damage the newest checkpoint, then all of them."""
    scene = Scene(folder, base)
    scene.tell(scene.begin(4))

    def damage(path: Path) -> None:
        content = bytearray((path / "tensors.safetensors").read_bytes())
        (path / "tensors.safetensors").write_bytes(content[: len(content) // 2])

    newest = max(scene.run_folder.glob("step-*"))
    damage(newest)
    scene.tell(scene.go_on(paused=_after(3)))
    events = [event.text for event in scene.engine.store.events("sft-1")]
    scene.said += [text for text in events if "damaged" in text]
    for path in scene.run_folder.glob("step-*"):
        damage(path)
    asked = scene.tell(scene.go_on()) is RunDiffers
    scene.tell(scene.go_on(accept=True))
    words = (f"{newest.name} of the checkpoints is damaged: going on from step 3", "it begins again at step 0")
    return scene.outcome(expected, asked, words=words)


def _after(looks: int) -> Callable[[], bool]:
    left = iter([False] * looks)
    return lambda: next(left, True)


def clock_set_back(folder: Path, base: Path, expected: bytes) -> Outcomes:
    """Set the clock back by a day while a run is paused and between two votes."""
    scene = Scene(folder, base)
    paused = scene.tell(scene.begin(4)) is RunPaused

    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) - timedelta(days=1)

    with (
        mock.patch("lorarlhf.store.migrations.datetime", Yesterday),
        mock.patch("lorarlhf.library.datetime", Yesterday),
        mock.patch("time.time", side_effect=lambda: datetime.now().timestamp() - 86400),
    ):
        late = scene.engine.store.add_comparison(Comparison(user("late"), "a", "b", Outcome.B))
        scene.engine.store.mark_interrupted()
        scene.tell(scene.go_on())
        done = scene.engine.store.run("sft-1").status == "done"
        last = scene.engine.store.comparisons()[-1].id == late
        scene.tell(lambda: train(scene.engine, "sft", SETTINGS, "newer"))
        from lorarlhf.library import list_saved

        order = [adapter.name for adapter in list_saved(scene.engine.workspace.adapters_dir)] == ["mine", "newer"]
    return scene.outcome(expected, paused, done, last, order, words=("everything is saved",))


DISASTERS = {
    "full disk": full_disk,
    "read-only folder": read_only,
    "checkpoints that cannot be written": locked_checkpoints,
    "corrupt database page": damaged_database,
    "corrupt checkpoint file": damaged_checkpoints,
    "clock going backwards": clock_set_back,
}
"""What happens → who makes it happen; None where this machine does not let us."""


def disasters(folder: Path) -> dict[str, dict[str, Any]]:
    """Let each happen once → what was said, and whether it held."""
    base = tiny.save(folder / "base", "qwen3", layers=1)
    expected = undisturbed(folder / "undisturbed", base)
    found = {}
    for number, (name, happen) in enumerate(DISASTERS.items()):
        place = folder / f"place-{number}"
        outcome = happen(place, base, expected)
        if outcome is None:
            found[name] = {"said": ["not tried: mounting a small disk needs root"], "held": True, "tried": False}
            continue
        words = [line.replace(f"{folder}/", "") for line in outcome.said]
        found[name] = {"said": words, "held": outcome.held, "tried": True}
    return found
