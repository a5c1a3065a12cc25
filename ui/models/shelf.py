"""The adapters of a workspace: what stands in their table, and what may be done to them. Knows nothing of Gradio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorarlhf.checkpoints import left_behind
from lorarlhf.engine.client import Job
from lorarlhf.errors import AdapterError
from lorarlhf.figures import figure
from lorarlhf.library import BARE, SavedAdapter, delete_saved, list_saved, rename_saved
from lorarlhf.store import UNFINISHED
from lorarlhf.ui.desk import Desk

ROLES = {"sft": "SFT", "reward": "reward model", "ppo": "PPO policy"}
"""What the stages make, in words."""

Row = dict[str, Any]


def rows_of(desk: Desk) -> list[Row]:
    """Describe every adapter in the words of the table, newest first."""
    saved = list_saved(desk.workspace.adapters_dir)
    names: dict[str, list[str]] = {}
    for adapter in saved:
        names.setdefault(adapter.hash, []).append(adapter.name)
    return [_row(adapter, names, desk.fingerprint) for adapter in reversed(saved)]


def _row(adapter: SavedAdapter, names: dict[str, list[str]], fingerprint: str) -> Row:
    card = adapter.card
    return {
        "name": adapter.name,
        "stage": adapter.stage,
        "role": ROLES.get(adapter.stage, adapter.stage or "adapter"),
        "base": base_name(str(card["base"]["name"])),
        "bits": card["base"].get("bits", ""),
        "fits": not fingerprint or card["base"]["fingerprint"] == fingerprint,
        "parents": [text for role, p in card.get("parents", {}).items() if (text := _parent(role, p, names))],
        "data": [f"{len(ids)} {kind}" for kind, ids in card.get("data", {}).items() if ids],
        "result": key_metric(adapter.stage, measured(adapter)),
        "created": str(card.get("created", ""))[:16].replace("T", " "),
    }


def base_name(name: str) -> str:
    """Shorten a folder's path to its last part; Hub ids stay as they are."""
    return name if name.count("/") == 1 and not name.startswith(("/", ".", "~")) else (Path(name).name or name)


def _parent(role: str, parent: dict[str, str], names: dict[str, list[str]]) -> str:
    """Name a parent as it is called today; empty for the bare base.

    Several adapters may have the same weights: one that was trained and resumed again, one whose step 0 was best.
    """
    if parent["name"] == BARE:
        return ""
    same = names.get(parent.get("hash", ""), [])
    if not same:
        return f"{parent['name']} (deleted)"
    return parent["name"] if parent["name"] in same else same[0]


def measured(adapter: SavedAdapter) -> dict[str, float]:
    """List what a card measured; a card may come from anywhere, so that only numbers are taken."""
    metrics = adapter.card.get("metrics", {})
    return {name: value for name, value in metrics.items() if isinstance(value, (int, float))}


def key_metric(stage: str, metrics: dict[str, float]) -> str:
    """Say in words what a stage measured at its end."""
    if stage == "reward" and "eval/accuracy" in metrics:
        votes = metrics.get("eval/votes")
        held = f" of {votes:.0f} test votes" if votes else ""
        return f"{metrics['eval/accuracy']:.0%}{held} right"
    if stage == "ppo" and "eval/scores" in metrics:
        kl = f", KL {figure(metrics['eval/kl'], '.1f')}" if "eval/kl" in metrics else ""
        return f"score {figure(metrics['eval/scores'], '+.2f')}{kl}"
    if "eval/loss" in metrics:
        return f"test loss {metrics['eval/loss']:.3f}"
    return ""


def details_of(desk: Desk, name: str) -> SavedAdapter | None:
    """Find an adapter by name; None where it is gone."""
    return next((a for a in list_saved(desk.workspace.adapters_dir) if a.name == name), None)


# -- what may be done -----------------------------------------------------------------------------------------


def consequences(desk: Desk, name: str) -> list[str]:
    """Say what else would miss an adapter: adapters made from it, and runs that could still go on."""
    adapter = details_of(desk, name)
    if adapter is None:
        return []
    found = []
    children = [
        other.name
        for other in list_saved(desk.workspace.adapters_dir)
        if other.name != name
        and any(p.get("hash") == adapter.hash and p["name"] != BARE for p in other.card.get("parents", {}).values())
    ]
    if children:
        found.append(f"{', '.join(children)} came from it; they keep working, but their origin is lost")
    if checkpoints := left_behind(desk.store, desk.workspace, name):
        found.append(f"the checkpoints of its run go with it: {', '.join(one.name for one in checkpoints)}")
    if runs := _runs_on(desk, name):
        found.append(f"{', '.join(runs)} stopped half-way and could not go on without it")
    return found


def rename(desk: Desk, name: str, new: str) -> str:
    """Rename an adapter; return its new name. Refused while in use or while an unfinished run needs it."""
    _refuse_in_use(desk, name)
    if runs := _runs_on(desk, name):
        raise AdapterError(f"{', '.join(runs)} stopped half-way and looks for {name} under this name; finish it first")
    return rename_saved(desk.workspace.adapters_dir, name, new.strip(), desk.store.promised()).name


def delete(desk: Desk, name: str) -> None:
    """Delete an adapter for good, with the checkpoints of its run that nothing else leads to. Refused while in use."""
    _refuse_in_use(desk, name)
    checkpoints = left_behind(desk.store, desk.workspace, name)
    delete_saved(desk.workspace.adapters_dir, name)
    for one in checkpoints:
        delete_saved(one.path.parent, one.name)


def _refuse_in_use(desk: Desk, name: str) -> None:
    if name in desk.in_use():
        raise AdapterError(f"{name} is in use; wait for the engine to finish, or stop it, and try again")


def _runs_on(desk: Desk, name: str) -> list[str]:
    """List the unfinished runs that stand on an adapter."""
    return [
        run.id
        for run in desk.store.runs()
        if run.status in UNFINISHED and name in dict(run.parents.get("adapters", {})).values()
    ]


@dataclass(frozen=True)
class Exported:
    """What an export left behind."""

    path: Path
    """A zip to download; of a merged model the folder, which is too large for one."""
    check: str
    """How it was found to say the same as the adapter, in words."""
    lines: tuple[str, ...] = ()
    """What to type to use it."""


def begin_export(desk: Desk, name: str, form: str = "peft") -> Job:
    """Ask the engine to write an adapter into the workspace's exports; an earlier one of that name is replaced.

    It is written as soon as the jobs before it are done, and kept only if it says what the adapter says.
    """
    target = name if form == "peft" else f"{name}-{form}"
    dest = desk.workspace.exports_dir / (target if form == "merged" else f"{target}.zip")
    return desk.engine.export(name, dest, form=form, force=True)


def finished_export(job: Job) -> Exported:
    """Wait for an export; raise the `LoraRlhfError` that kept it from being made."""
    result = job.result()
    path = Path(result.get("file") or result["folder"])
    return Exported(path, result["check"], lines_for(path))


def lines_for(path: Path) -> tuple[str, ...]:
    """Write the lines that put an export to use."""
    name = path.name.removesuffix(".zip")
    if name.endswith("-gguf"):
        own = name.removesuffix("-gguf").lower()
        return f"unzip {path.name} && cd {name}", f"ollama create {own} -f Modelfile", f"ollama run {own}"
    if path.is_dir():
        return "from transformers import pipeline", f"pipeline('text-generation', '{path}')('Hello')"
    return f"unzip {path.name}", f"less {name}/README.md  # its lines of Python load it in plain transformers and peft"


def take_in(desk: Desk, folder: str, role: str, name: str) -> dict[str, Any]:
    """Take in an adapter that another program wrote to a folder → its name and remarks."""
    if not folder.strip():
        raise AdapterError("name the folder that holds the adapter, or its Hub id")
    result: dict[str, Any] = desk.engine.take_in(folder.strip(), role, name.strip()).result()
    return result
