"""Adapters on disk, as their cards describe them. Knows nothing of torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from lorarlhf.errors import AdapterError
from lorarlhf.types import next_name

WEIGHTS, HEAD, CARD = "adapter_model.safetensors", "head.safetensors", "card.json"
BARE = "base"
"""The name that stands for the bare base wherever an adapter is asked for."""
LONGEST_NAME = 64
"""Letters of an adapter's name."""


@dataclass(frozen=True)
class SavedAdapter:
    """What an adapter folder says about itself."""

    path: Path
    card: dict[str, Any]
    shelf: Path | None = None
    """Where the adapters it was made from stand, if not beside it: a checkpoint's is in the folder of its run."""

    @property
    def around(self) -> Path:
        """The folder of the adapters it was made from."""
        return self.shelf or self.path.parent

    @property
    def name(self) -> str:
        """The folder's name is the adapter's."""
        return self.path.name

    @property
    def stage(self) -> str:
        """The stage that made it: sft, reward or ppo."""
        return str(self.card.get("stage", ""))

    @property
    def has_head(self) -> bool:
        """Tell whether a scalar head belongs to the adapter."""
        return "head" in self.card["hashes"]

    def content(self, part: str) -> bytes:
        """Read the `adapter` or its `head`; raise `AdapterError` unless it is the file the card describes."""
        path = self.path / {"adapter": WEIGHTS, "head": HEAD}[part]
        try:
            content = path.read_bytes()
        except OSError:
            raise AdapterError(f"adapter {self.name}: {path} is missing; restore it from a copy") from None
        if hashlib.sha256(content).hexdigest() != self.card["hashes"][part]:
            raise AdapterError(f"adapter {self.name}: {path} is not the file its card describes; restore it")
        return content

    @property
    def hash(self) -> str:
        """Content hash of the weights."""
        return str(self.card["hashes"]["adapter"])


def read_saved(folder: Path) -> SavedAdapter:
    """Read an adapter's card; raise `AdapterError` when the folder is absent or not one of ours."""
    if not folder.is_dir():
        there = ", ".join(adapter.name for adapter in list_saved(folder.parent))
        raise AdapterError(f"no adapter {folder.name}; there are: {there or 'none yet, train one first'}")
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        card["hashes"]["adapter"], card["base"]["fingerprint"], card["base"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise AdapterError(f"adapter {folder.name}: {folder / CARD} is missing or damaged; restore it") from None
    return SavedAdapter(folder, card)


def list_saved(adapters_dir: Path) -> list[SavedAdapter]:
    """List the whole adapters of a workspace, oldest first; torn folders are left out."""
    found = []
    for card in adapters_dir.glob("[!.]*/" + CARD):
        try:
            found.append(read_saved(card.parent))
        except AdapterError:
            continue  # asking for it by name says what is wrong with it
    return sorted(found, key=lambda adapter: (str(adapter.card.get("created", "")), adapter.name))


def list_on(adapters_dir: Path, fingerprint: str) -> list[SavedAdapter]:
    """List the whole adapters that were made on a base, oldest first."""
    return [saved for saved in list_saved(adapters_dir) if saved.card["base"]["fingerprint"] == fingerprint]


def check_new_name(adapters_dir: Path, name: str, promised: Mapping[str, str]) -> None:
    """Refuse a name that cannot be a folder everywhere, is taken, means the bare base, or that PEFT cannot hold.

    PEFT keeps adapters in modules of torch, whose names have no dot. `promised` are the names of adapters that a run
    has yet to make, as a workspace's store gives them: a person who goes on with a run finds its adapter by that name.
    """
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{LONGEST_NAME - 1}}}", name) or name == BARE:
        raise AdapterError(
            f"adapter name {name!r}: use letters, digits, '_' and '-' ({LONGEST_NAME} at most, no sign first) and not "
            f"'{BARE}'; {nearest_name(adapters_dir, name, promised)} is free"
        )
    if (adapters_dir / name).exists():
        raise AdapterError(f"adapter {name} exists already; choose another name")
    if name in promised:
        raise AdapterError(
            f"adapter {name} is what {promised[name]}, will make; choose another name, or let that run finish first"
        )


def nearest_name(adapters_dir: Path, name: str, promised: Iterable[str]) -> str:
    """Make an allowed name that is still free out of one that is not allowed."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    near = re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-_")[: LONGEST_NAME - 4].rstrip("-_") or "adapter"
    if near not in {BARE, *promised} and not (adapters_dir / near).exists():
        return near
    return next_name(near, {*promised, *(path.name for path in adapters_dir.glob(f"{near}-*"))})


def rename_saved(adapters_dir: Path, name: str, new: str, promised: Mapping[str, str] | None = None) -> SavedAdapter:
    """Give an adapter another name; raise `AdapterError` where that cannot be, and change nothing.

    Cards of other adapters go on naming their parents as they were called then; the hash beside it still finds them.
    """
    saved = _own(adapters_dir, name)
    check_new_name(adapters_dir, new, promised or {})
    try:
        # The folder's name counts. Should power fail in between, only the card's copy of it is ahead.
        card = _replace_card(saved, {**saved.card, "name": new})
        saved.path.rename(adapters_dir / new)
    except OSError as error:
        raise AdapterError(f"adapter {name} cannot be renamed: {error.strerror or error}") from None
    return SavedAdapter(adapters_dir / new, card)


def revise_card(saved: SavedAdapter, changes: dict[str, Any]) -> SavedAdapter:
    """Add to an adapter's card what was found out about it later; its weights and their hashes stay as they are.

    The card is the old one or the new one at any moment. Raises `AdapterError` where it cannot be written.
    """
    now = read_saved(saved.path)  # somebody else may have added to it since
    if changes.keys() & {"hashes", "base", "name"}:
        raise AdapterError(f"adapter {saved.name}: what it is cannot be changed on its card")
    if all(now.card.get(key) == value for key, value in changes.items()):
        return now
    try:
        return SavedAdapter(saved.path, _replace_card(now, {**now.card, **changes}))
    except OSError as error:
        raise AdapterError(f"adapter {saved.name}: its card cannot be written: {error.strerror or error}") from None


def _replace_card(saved: SavedAdapter, card: dict[str, Any]) -> dict[str, Any]:
    """Write a card in the place of the old one, at once."""
    aside = saved.path / f".{CARD}.{os.getpid()}.new"
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(json.dumps(card, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, saved.path / CARD)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    return card


def delete_saved(adapters_dir: Path, name: str) -> None:
    """Delete an adapter for good, whole or not at all; raise `AdapterError` where there is none of that name."""
    saved = _own(adapters_dir, name)
    try:
        # Renamed aside first: a deletion cut short leaves no torn adapter, only a hidden folder nobody lists.
        aside = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=adapters_dir))
        saved.path.rename(aside / name)
    except OSError as error:
        raise AdapterError(f"adapter {name} cannot be deleted: {error.strerror or error}") from None
    shutil.rmtree(aside, ignore_errors=True)


def _own(adapters_dir: Path, name: str) -> SavedAdapter:
    """Read an adapter that is to be changed: one of this very folder, never what a path leads to."""
    if not name or Path(name).name != name:
        raise AdapterError(f"{name!r} is no adapter's name")
    return read_saved(adapters_dir / name)


def later_than_others(adapters_dir: Path) -> str:
    """Tell the time, but never one before the newest adapter's: a clock set back must not make this one look older."""
    now = datetime.now(timezone.utc)
    others = [str(adapter.card.get("created", "")) for adapter in list_saved(adapters_dir)]
    with suppress(ValueError, TypeError):  # a card somebody wrote by hand
        now = max(now, datetime.fromisoformat(max(others, default="")) + timedelta(milliseconds=1))
    return now.isoformat(timespec="milliseconds")


def free_name(adapters_dir: Path, stage: str, runs: Iterable[str]) -> str:
    """Make up the next name of a stage's adapter, `sft-1`, `sft-2` …, that no run has either: both get the same."""
    return next_name(stage, {*runs, *(path.name for path in adapters_dir.glob(f"{stage}-*"))})
