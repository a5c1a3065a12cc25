"""All that makes the next step, on disk: tensors as safetensors, the rest as JSON; whole or absent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorarlhf.checkpoints import KEEP, forget_later
from lorarlhf.errors import StoreError, TrainingError
from lorarlhf.files import folder_bytes, size, whole_folder

TENSORS, STATE = "tensors.safetensors", "state.json"


class Checkpoint(NamedTuple):
    """A moment of a run, between two steps."""

    step: int
    """The next step to make."""
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Found(NamedTuple):
    """What there is to go on from."""

    checkpoint: Checkpoint | None
    """The newest that is whole, None where there is none."""
    damaged: list[str]
    """Newer ones that are not."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `step-NNNNNN` beside the earlier ones, then remove all but the last two.

    Raises `StoreError` where it cannot be written, and leaves the earlier ones as they are.
    """
    target = folder / f"step-{checkpoint.step:06d}"
    for torn in folder.glob(".step-*"):  # a process was killed while it wrote this one
        shutil.rmtree(torn, ignore_errors=True)
    with whole_folder(target, overwrite=True) as aside:
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in checkpoint.tensors.items()}
        try:
            save_file(tensors, aside / TENSORS, metadata={"format": "pt"})
        except SafetensorError as error:
            raise StoreError(f"{target} cannot be written: {str(error).rpartition('I/O error: ')[2]}") from None
        (aside / STATE).write_text(json.dumps({"step": checkpoint.step, **checkpoint.state}))
    for old in _newest_first(folder)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def find_checkpoint(folder: Path) -> Found:
    """Read the newest whole checkpoint; a damaged one gives way to the one before, a few steps earlier."""
    damaged: list[str] = []
    for path in _newest_first(folder):
        try:
            state = json.loads((path / STATE).read_text())
            return Found(Checkpoint(state.pop("step"), load_file(path / TENSORS), state), damaged)
        except (OSError, ValueError, KeyError, SafetensorError):
            damaged.append(path.name)
    return Found(None, damaged)


def has_checkpoint(folder: Path) -> bool:
    """Tell whether anything was saved of a run."""
    return bool(_newest_first(folder))


def forget_checkpoints(folder: Path, after: int) -> None:
    """Remove the checkpoints of later steps than `after`, whose weights are no good; never the only one."""
    for path in _newest_first(folder)[: KEEP - 1]:
        if path.name > f"step-{after:06d}":
            shutil.rmtree(path, ignore_errors=True)
    forget_later(folder, after)


def forget_older(folder: Path) -> None:
    """Remove all checkpoints but the newest."""
    for path in _newest_first(folder)[1:]:
        shutil.rmtree(path, ignore_errors=True)


def check_room(folder: Path, checkpoint: int, adapter: int, *, kept: bool = True) -> None:
    """Refuse to start where the disk cannot hold a run's checkpoints (of so many bytes each) and its adapter.

    Two are kept, and a third stands aside while it is written; only a pause writes one where none is `kept`. Those
    that are there already need no more room.
    """
    needed = max(0, (KEEP + 1 if kept else 1) * checkpoint + adapter - folder_bytes(folder))
    free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
    if free < needed:
        raise TrainingError(
            f"the disk of {folder.parent} has {size(free)} free, but the checkpoints of this run need {size(needed)}; "
            "free some space, choose a lower rank, or another --workspace"
        )


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-??????"), reverse=True)
