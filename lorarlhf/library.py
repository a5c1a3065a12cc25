"""Adapters on disk, as their cards describe them. Knows nothing of torch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorarlhf.errors import AdapterError

WEIGHTS, HEAD, CARD = "adapter_model.safetensors", "head.safetensors", "card.json"
BARE = "base"
"""The name that stands for the bare base wherever an adapter is asked for."""


@dataclass(frozen=True)
class SavedAdapter:
    """What an adapter folder says about itself."""

    path: Path
    card: dict[str, Any]

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
        card = json.loads((folder / CARD).read_text())
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


def newest(adapters_dir: Path, stage: str, fingerprint: str) -> SavedAdapter | None:
    """Find the newest adapter a stage made on this base."""
    fitting = [
        adapter
        for adapter in list_saved(adapters_dir)
        if adapter.stage == stage and adapter.card["base"]["fingerprint"] == fingerprint
    ]
    return fitting[-1] if fitting else None


def check_new_name(adapters_dir: Path, name: str) -> None:
    """Refuse a name that cannot be a folder everywhere, is taken, or means the bare base."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or name == BARE:
        raise AdapterError(f"adapter name {name!r}: use letters, digits, '.', '_' and '-', and not '{BARE}'")
    if (adapters_dir / name).exists():
        raise AdapterError(f"adapter {name} exists already; choose another --name")


def free_name(adapters_dir: Path, stage: str) -> str:
    """Make up the next name of a stage's adapter: `sft-1`, `sft-2` …"""
    number = 1
    while (adapters_dir / f"{stage}-{number}").exists():
        number += 1
    return f"{stage}-{number}"
