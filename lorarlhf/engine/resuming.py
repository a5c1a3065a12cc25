"""What differs between how a run began and how it would go on. Knows no algorithm."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lorarlhf.engine.core import Engine
from lorarlhf.errors import AdapterError, SettingsError
from lorarlhf.library import BARE
from lorarlhf.settings import CHANGEABLE, STAGES, Settings
from lorarlhf.store.runs import RunRow
from lorarlhf.train.checkpoint import Found

PACKAGES = ("lorarlhf", "torch", "transformers", "peft", "bitsandbytes")
"""Those whose version may change the numbers of a run."""


def conditions(engine: Engine, parents: Mapping[str, str], data: Mapping[str, list[int]]) -> dict[str, Any]:
    """Record what a run's numbers depend on besides its settings: versions, machine, parents' weights, rows."""
    return {
        "versions": {name: _version(name) for name in PACKAGES},
        "computed": {
            "device": engine.base.device.type,
            "compute": str(engine.base.compute_dtype).removeprefix("torch."),
        },
        "hashes": {role: _hash(engine, name) for role, name in parents.items() if name != BARE},
        "rows": {kind: _digest(engine, kind, ids) for kind, ids in data.items()},
    }


def changed_settings(row: RunRow, changes: Mapping[str, Any]) -> Settings:
    """Return a run's settings with some changed; raise `SettingsError` for one that must stay."""
    fixed = [name for name in changes if name not in CHANGEABLE and changes[name] != row.settings.get(name)]
    known = STAGES[row.stage].model_fields
    if fixed:
        name = fixed[0]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SettingsError(f"run {row.id}: unknown setting {name}{hint}")
        may = ", ".join(other for other in known if other in CHANGEABLE)
        raise SettingsError(f"run {row.id}: {name} cannot change any more; these can: {may}")
    return STAGES[row.stage].parse({**row.settings, **changes}, f"run {row.id}")


def differences(engine: Engine, row: RunRow, settings: Settings, found: Found) -> list[str]:
    """Say what differs from how the run began, a line each; nothing where it goes on as if never stopped."""
    before, now = row.settings, settings.model_dump(mode="json")
    lines = [f"{name} {before.get(name, 'unset')} → {now[name]}" for name in now if now[name] != before.get(name)]
    began, here = row.parents, conditions(engine, row.parents["adapters"], row.parents["data"])
    for group in ("versions", "computed"):
        for name, old in began.get(group, {}).items():
            if old != here[group].get(name):
                lines.append(f"{name} {old} → {here[group].get(name)}")
    for role, old in began.get("hashes", {}).items():
        if old != here["hashes"].get(role):
            lines.append(f"adapter {began['adapters'][role]} ({role}) has other weights than then")
    for kind, old in began.get("rows", {}).items():
        if old != here["rows"][kind]:
            lines.append(f"some of its {kind} are other ones than then")
    if found.checkpoint is None and found.damaged:
        lines.append(f"all its checkpoints are damaged ({', '.join(found.damaged)}): it begins again at step 0")
    if machine := engine.store.owner_elsewhere(row.id):
        lines.append(f"it was at work on {machine} less than half an hour ago, and may still be")
    return lines


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _hash(engine: Engine, adapter: str) -> str:
    try:
        return engine.saved(adapter).hash
    except AdapterError:
        return "missing"  # building the stage says so in full


def _digest(engine: Engine, kind: str, ids: list[int]) -> str:
    prints = {row["id"]: row["fingerprint"] for row in engine.store.query(f"SELECT id, fingerprint FROM {kind}")}
    return hashlib.sha256("\n".join(str(prints.get(i)) for i in ids).encode()).hexdigest()[:16]
