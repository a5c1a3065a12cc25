"""Which models there are to choose from, what one would take here, and what speaks against it. Knows no Gradio.

Everything is read from names and small files: nothing is loaded, and a running model goes on until *Load* is pressed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from lorarlhf import starter
from lorarlhf.base_look import look_over
from lorarlhf.errors import BaseModelError
from lorarlhf.library import list_saved
from lorarlhf.plan.memory import CONTEXT_BYTES, Load
from lorarlhf.plan.planning import make_plan
from lorarlhf.plan.shapes import Shape, known, shape_of
from lorarlhf.settings import PPOSettings
from lorarlhf.ui.desk import FINGERPRINTS, STARTER, Desk

RECOMMENDED = (
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "HuggingFaceTB/SmolLM2-360M-Instruct",
    "Qwen/Qwen2.5-0.5B-Instruct",
    "Qwen/Qwen3-0.6B",
    "Qwen/Qwen3-1.7B",
    "Qwen/Qwen3-4B",
    "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen3-14B",
)
"""Open models with chat templates, smallest first; their shapes are known."""
MOST_RECOMMENDED, PATIENT_SECONDS = 3, 60.0
"""How many are recommended: the largest that train here and write a pair of answers in so long."""
SMALL = 1e9
"""Models of fewer parameters lose visibly in 4 bits."""
ROOM = 0.8
"""Share of the free memory that a precision chosen by the program may take."""
TRAINED = PPOSettings(gradient_checkpointing=True, batch_size=16, rollout_rows=16)
"""What training is estimated with."""
ANSWER_TOKENS = 96
CPU_NANOSECONDS = {4: 1.85, 8: 1.85, 16: 0.74}
"""Nanoseconds a parameter and step on two cores, by bits: SmolLM2-135M writing two answers side by side."""
CARD_STEP, CARD_BYTES = 0.03, 4e11
"""Seconds a step takes on a card at least, and bytes it reads in a second."""
HUB_SECONDS = 4.0


@dataclass(frozen=True)
class Machine:
    """What a model would be loaded on."""

    device: str
    """`cpu`, or the kind of card."""
    item: int
    """Bytes of an unquantised number there."""
    free: int
    """Bytes there are once the model of now is gone."""
    cores: int = 2


@dataclass(frozen=True)
class Found:
    """A model one can choose."""

    base: str
    section: str
    shape: Shape | None = None
    licence: str = ""


@dataclass(frozen=True)
class Check:
    """What can be said about a name before it is loaded."""

    base: str
    problem: str = ""
    """Why it cannot be loaded; empty where nothing is known against it."""
    shape: Shape | None = None
    licence: str = ""
    note: str = ""


def machine_of(desk: Desk) -> Machine:
    """Describe the machine by what the engine said of it last."""
    memory = desk.memory
    device = str(memory.get("device", "cpu")).partition(":")[0]
    item = 2 if memory.get("compute") == "bf16" else 4
    taken = int(memory.get("base_bytes", 0)) + sum(memory.get("adapters", {}).values())
    if "free_bytes" in memory:
        return Machine(device, item, int(memory["free_bytes"]) + taken + CONTEXT_BYTES)
    try:
        engine = int(psutil.Process(desk.engine.pid).memory_info().rss) if desk.engine.pid else 0
    except psutil.Error:
        engine = 0
    return Machine(device, item, int(psutil.virtual_memory().available) + engine, os.cpu_count() or 2)


# -- which there are ------------------------------------------------------------------------------------------


def found(desk: Desk, machine: Machine) -> list[Found]:
    """List models by section: used here before, on this computer, and good for this machine."""
    here = cached()
    recent = [str(saved.card["base"]["name"]) for saved in reversed(list_saved(desk.workspace.adapters_dir))]
    used = dict.fromkeys([desk.load_settings.base, *desk.store.get_meta(FINGERPRINTS, {}), *recent, STARTER])
    rows = [Found(base, "Recent", check(base, here=here).shape, licence_of(base, here)) for base in used]
    rows += [Found(base, "On this computer", shape_in(folder), licence_in(folder)) for base, folder in here.items()]
    rows += [Found(base, "Good for this machine", shape) for base, shape in recommended(machine)]
    seen: set[str] = set()
    return [row for row in rows if not (row.base in seen or seen.add(row.base))]  # type: ignore[func-returns-value]


def recommended(machine: Machine) -> list[tuple[str, Shape]]:
    """Choose models that train on a machine and answer before one loses patience, the largest first."""
    fitting = []
    for base in RECOMMENDED:
        shape = known(base)
        if shape is None:
            continue
        bits, _ = choose_bits(base, shape, machine)
        if fits(shape, bits, machine) and pair_seconds(shape, bits, machine) <= PATIENT_SECONDS:
            fitting.append((base, shape))
    return fitting[::-1][:MOST_RECOMMENDED]


def cached() -> dict[str, Path]:
    """List the models in the Hub's cache that have weights, by name → folder."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = [repo for repo in scan_cache_dir().repos if repo.repo_type == "model"]
    except (CacheNotFound, OSError):
        return {}
    newest = {repo.repo_id: max(repo.revisions, key=lambda one: one.last_modified) for repo in repos if repo.revisions}
    folders = {name: Path(revision.snapshot_path) for name, revision in newest.items()}
    return {name: folder for name, folder in sorted(folders.items()) if _has_weights(folder)}


def _has_weights(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


# -- what one would take ----------------------------------------------------------------------------------------


def parameters(shape: Shape) -> int:
    """Count the parameters of a shape, norms and biases left out."""
    table = shape.vocabulary * shape.hidden
    return table * (1 if shape.tied else 2) + shape.layers * sum(m.inputs * m.outputs for m in shape.matrices)


@lru_cache(maxsize=256)
def training_bytes(shape: Shape, bits: int, device: str, item: int) -> int:
    """Estimate the peak of training on a shape."""
    return int(make_plan("ppo", TRAINED, Load(shape, bits, item, device)).peak.total)


def fits(shape: Shape, bits: int, machine: Machine) -> bool:
    """Tell whether one can train on a shape here."""
    return training_bytes(shape, bits, machine.device, machine.item) <= machine.free


def pair_seconds(shape: Shape, bits: int, machine: Machine) -> float:
    """Estimate how long two answers side by side take to be written; once it is loaded, the Rate tab measures it."""
    count = parameters(shape)
    if machine.device == "cpu":
        return ANSWER_TOKENS * count * CPU_NANOSECONDS[bits] * 1e-9 * 2 / min(max(machine.cores, 1), 8)
    return ANSWER_TOKENS * max(CARD_STEP, count * bits / 8 / CARD_BYTES)


def choose_bits(base: str, shape: Shape | None, machine: Machine) -> tuple[int, str]:
    """Choose the precision of a model → bits, and why in words."""
    if base == STARTER:
        return 4, "4 bits: the starter is the example of it"
    if shape is None:
        return 4, "4 bits: nothing is known yet of its size"
    room = training_bytes(shape, 16, machine.device, machine.item) <= ROOM * machine.free
    if room and machine.device == "cpu":
        return 16, "16 bits: fits, and is faster on a processor"
    if room and parameters(shape) < SMALL:
        return 16, "16 bits: fits, and so small a model loses quality in 4"
    return 4, "4 bits: a quarter of the memory"


# -- what speaks against one ------------------------------------------------------------------------------------


def check(base: str, *, here: dict[str, Path] | None = None, ask_hub: bool = False) -> Check:
    """Look at a name, without loading anything; `ask_hub` asks the Hub about what is not on this computer."""
    base = base.strip()
    if not base:
        return Check(base, "Name a model: starter, a Hugging Face id such as Qwen/Qwen3-0.6B, or a folder")
    if base == STARTER:
        return Check(base, shape=shape_in(Path(starter.MODEL_DIR)), licence="Apache-2.0", note="comes with lorarlhf")
    folder = Path(base).expanduser()
    if folder.is_dir():
        return _check_folder(base, folder)
    if base.count("/") != 1 or base[0] in "./~":
        return Check(base, f"There is no folder {base}")
    here = cached() if here is None else here
    if base in here:
        return _check_folder(base, here[base])
    return _check_hub(base) if ask_hub else Check(base, shape=known(base), note="on the Hub, not looked up")


def _check_folder(base: str, folder: Path) -> Check:
    try:
        config = look_over(base, folder).config
    except BaseModelError as error:
        return Check(base, str(error))
    return Check(base, shape=_shape(config, folder.name), licence=licence_in(folder), note="on this computer")


def _check_hub(base: str) -> Check:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        info = HfApi().model_info(base, timeout=HUB_SECONDS)
    except GatedRepoError:
        return Check(base, f"{base} is gated: accept its licence on its page, then run `hf auth login`")
    except RepositoryNotFoundError:
        return Check(base, f"There is no {base} on the Hub; check the spelling")
    except Exception:  # the network's ways to fail are many, and none of them says anything about the model
        return Check(base, shape=known(base), note="not on this computer, and the Hub is out of reach")
    card: Any = info.card_data
    licence = str(card.get("license") or "") if card else ""
    gated = " · asks you to accept its licence first" if getattr(info, "gated", False) else ""
    return Check(base, shape=known(base), licence=licence, note=f"on the Hub, will be fetched{gated}")


def shape_in(folder: Path) -> Shape | None:
    """Read the shape of the model in a folder; None where it does not say."""
    try:
        return _shape(json.loads((folder / "config.json").read_text(encoding="utf-8")), folder.name)
    except (OSError, ValueError):
        return None


def _shape(config: dict[str, Any], name: str) -> Shape | None:
    try:
        return shape_of(SimpleNamespace(**config), name)
    except BaseModelError:
        return None


def licence_in(folder: Path) -> str:
    """Read the licence off a model's card; empty where it names none."""
    try:
        head = (folder / "README.md").read_text(encoding="utf-8", errors="replace")[:4000]
    except OSError:
        return ""
    named = re.search(r"^license:\s*([\w.-]+)", head, re.MULTILINE)
    return named[1] if named else ""


def licence_of(base: str, here: dict[str, Path]) -> str:
    """Find the licence of a model that is on this computer."""
    folder = here.get(base, Path(base).expanduser())
    return licence_in(folder) if folder.is_dir() else ""


def sections(rows: Iterable[Found]) -> dict[str, list[Found]]:
    """Sort models by section, in the order they come."""
    sorted_rows: dict[str, list[Found]] = {}
    for row in rows:
        sorted_rows.setdefault(row.section, []).append(row)
    return sorted_rows
