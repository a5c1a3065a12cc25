"""All that makes the next step, on disk: tensors as safetensors, the rest as JSON; whole or absent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorarlhf.errors import TrainingError
from lorarlhf.files import whole_folder

KEEP = 2
TENSORS, STATE = "tensors.safetensors", "state.json"


class Checkpoint(NamedTuple):
    """A moment of a run, between two steps."""

    step: int
    """The next step to make."""
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `step-NNNNNN` beside the earlier ones, then remove all but the last two."""
    target = folder / f"step-{checkpoint.step:06d}"
    with whole_folder(target, overwrite=True) as aside:
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in checkpoint.tensors.items()}
        save_file(tensors, aside / TENSORS, metadata={"format": "pt"})
        (aside / STATE).write_text(json.dumps({"step": checkpoint.step, **checkpoint.state}))
    for old in _newest_first(folder)[KEEP:]:
        shutil.rmtree(old)
    return target


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read the newest whole checkpoint; raise `TrainingError` when there is none."""
    for path in _newest_first(folder):
        try:
            state = json.loads((path / STATE).read_text())
            return Checkpoint(state.pop("step"), load_file(path / TENSORS), state)
        except (OSError, ValueError, KeyError, SafetensorError):
            continue  # damaged: the one before it is as good, a few steps earlier
    raise TrainingError(f"run {folder.name}: no usable checkpoint in {folder}; start the stage again")


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-??????"), reverse=True)
