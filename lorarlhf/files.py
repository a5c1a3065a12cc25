"""Folders that are whole or absent."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lorarlhf.errors import StoreError


@contextmanager
def whole_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `target` and rename it there when the block ends well.

    Killed at any moment, `target` is the old folder, the new one, or absent; never a mixture. Raises `StoreError`
    when `target` exists (unless `overwrite`) or the place cannot be written.
    """
    if target.exists() and not overwrite:
        raise StoreError(f"{target} exists already; choose another name or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        aside.chmod(0o755)
    except OSError as error:
        raise StoreError(f"{target.parent} cannot be written: {error.strerror}") from None
    try:
        yield aside
        for path in aside.rglob("*"):
            _sync(path)
        _sync(aside)
        if target.exists():
            old = aside.with_name(aside.name + ".old")
            target.rename(old)
            aside.rename(target)
            shutil.rmtree(old)
        else:
            aside.rename(target)
        _sync(target.parent)
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error.strerror or error}; is the disk full?") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    # A rename is only as durable as the contents it names. Windows cannot open folders to sync them.
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def folder_bytes(folder: Path) -> int:
    """Return how much the files of a folder take, 0 where there is none."""
    total = 0
    for path in folder.rglob("*"):
        # A checkpoint may be replaced while we look.
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def size(count: float) -> str:
    """Write bytes as a person reads them, in powers of 1024, to about three digits: `3.4 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GB"
