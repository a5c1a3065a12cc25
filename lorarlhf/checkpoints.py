"""Checkpoints of runs as adapters that answer: the weights of a run as they were after a step.

Each is a whole adapter folder in its run's folder, called RUN@STEP as everywhere. The last two of a run are there, also
once it is done; whoever wants to keep one makes it an adapter of its own. Its weights are those of the adapter it
becomes, bit by bit, so that votes cast on the one are votes on the other. Knows nothing of torch.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lorarlhf.errors import AdapterError, StoreError
from lorarlhf.files import whole_folder
from lorarlhf.library import (
    CARD,
    WEIGHTS,
    SavedAdapter,
    check_new_name,
    free_name,
    later_than_others,
    list_saved,
    read_saved,
)
from lorarlhf.store import Store
from lorarlhf.workspace import Workspace

KEEP = 2
"""Checkpoints of a run that are there at a time."""
AT = "@"
"""Between run and step; no adapter's name has it."""


def is_checkpoint(name: str) -> bool:
    """Tell whether a name is that of a checkpoint, not of an adapter."""
    return AT in name


def run_of(name: str) -> str:
    """Name the run of a checkpoint."""
    return name.partition(AT)[0]


def checkpoint_folder(run_folder: Path, step: int) -> Path:
    """Say where the weights of a run after a step lie."""
    return run_folder / f"{run_folder.name}{AT}{step}"


def _in(run_folder: Path) -> list[Path]:
    """List the checkpoints in a run's folder, the newest first."""
    found = [path for path in run_folder.glob(f"[!.]*{AT}*") if path.name.rpartition(AT)[2].isdigit()]
    return sorted(found, key=lambda path: -int(path.name.rpartition(AT)[2]))


def forget_rotated(run_folder: Path) -> None:
    """Remove all of a run's checkpoints but the newest, and what a killed process left half-written."""
    for old in [*_in(run_folder)[KEEP:], *run_folder.glob(f".*{AT}*")]:
        shutil.rmtree(old, ignore_errors=True)


def forget_later(run_folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps than this one, whose weights are no good."""
    for path in _in(run_folder):
        if int(path.name.rpartition(AT)[2]) > step:
            shutil.rmtree(path, ignore_errors=True)


def forget_all_else(run_folder: Path) -> None:
    """Remove from a run's folder what only resuming needs, which is most of it; the folder too if nothing is left."""
    kept = _in(run_folder)
    for path in [path for path in run_folder.glob("*") if path not in kept]:
        shutil.rmtree(path, ignore_errors=True)
    if not kept:
        shutil.rmtree(run_folder, ignore_errors=True)


def checkpoints_stamp(place: Workspace) -> str:
    """Give a text that is another one as soon as a checkpoint came, went, or has other weights; reads none of them."""
    seen = []
    for path in place.runs_dir.glob(f"*/[!.]*{AT}*/{WEIGHTS}"):
        with suppress(OSError):  # it goes this moment
            seen.append(f"{path.parent.name} {path.stat().st_mtime_ns}")
    return " ".join(sorted(seen))


def list_checkpoints(place: Workspace) -> list[SavedAdapter]:
    """List the checkpoints of all runs, oldest first; torn ones are left out."""
    found = []
    for card in place.runs_dir.glob(f"*/[!.]*{AT}*/{CARD}"):
        with suppress(AdapterError):  # asking for it by name says what is wrong with it
            found.append(replace(read_saved(card.parent), shelf=place.adapters_dir))
    return sorted(found, key=lambda saved: (str(saved.card.get("created", "")), int(saved.card.get("step", 0))))


def list_answering(place: Workspace) -> list[SavedAdapter]:
    """List all adapters, oldest first, then the checkpoints: where both have the same weights, the adapter is first."""
    return [*list_saved(place.adapters_dir), *list_checkpoints(place)]


def find_adapter(store: Store, place: Workspace, name: str) -> SavedAdapter:
    """Read an adapter, or a checkpoint by RUN@STEP or ADAPTER@STEP; raise `AdapterError` where there is none."""
    if not is_checkpoint(name):
        return read_saved(place.adapters_dir / name)
    asked, _, step = name.partition(AT)
    folder = place.runs_dir / _run_named(store, place, asked, name)
    path = checkpoint_folder(folder, int(step)) if step.isdecimal() else folder / name
    if not path.is_dir():
        there = ", ".join(path.name for path in reversed(_in(folder)))
        has = f"there are: {there}" if there else "none of its checkpoints is there"
        raise AdapterError(f"no checkpoint {name}; a run keeps its last {KEEP}, and of {folder.name} {has}")
    return replace(read_saved(path), shelf=place.adapters_dir)


def _run_named(store: Store, place: Workspace, asked: str, name: str) -> str:
    """Find a run by its id, by the adapter it made as that is called today, or by what it was to make."""
    if Path(name).name != name:
        raise AdapterError(f"{name!r} is no checkpoint's name")
    if not (place.runs_dir / asked).is_dir():
        with suppress(AdapterError):
            if made_by := read_saved(place.adapters_dir / asked).card.get("run"):
                return str(made_by)
    try:
        return asked if (place.runs_dir / asked / name).is_dir() else store.find_run(asked).id
    except StoreError as error:
        raise AdapterError(f"no checkpoint {name}: {error}") from None


def keep_checkpoint(store: Store, place: Workspace, name: str, new: str = "") -> SavedAdapter:
    """Make a checkpoint an adapter of its own, the newest of its stage, called `new` or by the next free name.

    Raises `AdapterError` where it is gone, or where an adapter has its weights already, and changes nothing then.
    """
    saved = find_adapter(store, place, name)
    if not is_checkpoint(saved.name):
        raise AdapterError(f"{name} is an adapter already; name a checkpoint as RUN{AT}STEP")
    if same := [other.name for other in list_saved(place.adapters_dir) if other.hash == saved.hash]:
        raise AdapterError(f"{saved.name} has the weights of adapter {same[0]}, so that one is what you want to keep")
    new = new or free_name(place.adapters_dir, saved.stage, store.run_names())
    check_new_name(place.adapters_dir, new, store.promised())
    saved.content("adapter")  # raises where it is not what its card describes
    try:
        files = {path.name: path.read_bytes() for path in saved.path.iterdir() if path.is_file()}
    except OSError:
        raise AdapterError(f"checkpoint {saved.name} is gone: its run has written newer ones") from None
    card = {**saved.card, "name": new, "created": later_than_others(place.adapters_dir)}
    files[CARD] = (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode()
    with whole_folder(place.adapters_dir / new) as aside:
        for file, content in files.items():
            (aside / file).write_bytes(content)
    return read_saved(place.adapters_dir / new)


def left_behind(store: Store, place: Workspace, adapter: str) -> list[SavedAdapter]:
    """List the checkpoints that nothing here leads to once an adapter is deleted: those of the run that made it.

    A run that can go on keeps its own, and so does one that another adapter comes from.
    """
    saved = {other.name: other.card.get("run") for other in list_saved(place.adapters_dir)}
    run = saved.pop(adapter, None)
    over = {row.id for row in store.runs() if row.status == "done"}
    if run is None or run not in over or run in saved.values():
        return []
    return [found for found in list_checkpoints(place) if run_of(found.name) == run]
