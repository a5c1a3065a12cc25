"""Where exports go, and whether there is memory to make and check them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lorarlhf.errors import ExportError, StoreError
from lorarlhf.export.origin import Origin, skeleton_of
from lorarlhf.library import CARD, SavedAdapter

SPARE_ROOM = 1.2
"""Memory asked for, relative to the weights: activations and the largest matrix while it is read."""


def check_dest(saved: SavedAdapter, dest: Path, overwrite: bool) -> None:
    """Refuse to replace anything but an earlier export: whatever else is in a folder is not ours to remove."""
    if dest.suffix == ".zip" and not dest.is_dir():
        if dest.exists() and not overwrite:
            raise StoreError(f"{dest} exists already; choose another name, or overwrite it with --force")
        return
    if not dest.exists():
        return
    if not dest.is_dir():
        raise StoreError(f"{dest} is a file; name a folder")
    if not overwrite:
        raise StoreError(f"{dest} exists already; choose another folder, or overwrite an earlier export with --force")
    if dest.resolve() == saved.path.resolve():
        raise StoreError(f"{dest} is the adapter itself; choose another folder")
    if any(dest.iterdir()) and not is_export(dest):
        raise StoreError(f"{dest} is not an earlier export, so it is not overwritten; choose another folder")


def is_export(folder: Path) -> bool:
    """Tell whether a folder is an export of ours, from its card."""
    try:
        return "export" in json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


@contextmanager
def zip_file(dest: Path) -> Iterator[Path]:
    """Yield a folder that becomes the zip file `dest`, whole or not at all, when the block ends well."""
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".zip-", dir=dest.parent) as aside:
            folder = Path(aside) / dest.stem
            folder.mkdir()
            yield folder
            made = shutil.make_archive(str(Path(aside) / "archive"), "zip", root_dir=aside, base_dir=dest.stem)
            os.replace(made, dest)
    except OSError as error:
        raise StoreError(f"{dest} cannot be written: {error.strerror or error}; is the disk full?") from None


def bytes_to_read(origin: Origin, bits: int, dtype: str) -> int:
    """Count the bytes that reading the base takes; 0 where that cannot be told from its config."""
    import torch

    from lorarlhf.base_weights import bytes_needed, layers_kept_16bit

    skeleton = skeleton_of(origin)
    if skeleton is None:
        return 0
    return int(SPARE_ROOM * bytes_needed(skeleton, layers_kept_16bit(skeleton, bits), bits, getattr(torch, dtype)))


def first_with_room(needed: int, devices: Sequence[str]) -> str:
    """Choose the first device where another process has `needed` bytes; raise `ExportError` where none has them."""
    import torch

    from lorarlhf.hardware import free_bytes, make_room
    from lorarlhf.plan.memory import CONTEXT_BYTES

    free = {}
    for name in devices:
        device = torch.device(name)
        make_room(device)  # what torch holds in reserve here is no use to that process
        free[name] = free_bytes(device) - (CONTEXT_BYTES if device.type != "cpu" else 0)
    for name, room in free.items():
        if needed <= room:
            return name
    raise ExportError(
        f"the export needs {needed / 2**30:.1f} GiB for the base while it is made and checked, and "
        f"{max(free.values()) / 2**30:.1f} GiB are free; close other programs, or the app and export in a terminal"
    )
