"""Plans of the stages: with a base in memory and a probe of it, or from a configuration alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from lorarlhf.errors import BaseModelError
from lorarlhf.library import BARE
from lorarlhf.plan.lengths import Count, by_letters, counter, data_of
from lorarlhf.plan.memory import CONTEXT_BYTES, Load
from lorarlhf.plan.planning import Plan, Probed, make_plan
from lorarlhf.plan.shapes import SHAPES, Shape, known, shape_of
from lorarlhf.plan.work import Example, Roles, heads_of, sample_of
from lorarlhf.settings import LoadSettings, LoraSettings, PPOSettings, Settings
from lorarlhf.workspace import Workspace

if TYPE_CHECKING:
    from lorarlhf.engine.core import Engine


def plan(
    engine: Engine,
    stage: str,
    settings: Settings,
    *,
    probing: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> Plan:
    """Plan a stage on the engine's base and the workspace's data, refined by a probe; changes nothing.

    Seconds are those of `clock`.

    Raises `LoraRlhfError` where the stage's parents are missing.
    """
    from lorarlhf.forward import context_of
    from lorarlhf.hardware import free_bytes
    from lorarlhf.plan.probe import load_of
    from lorarlhf.train.order import walk_at

    base = engine.base
    load = load_of(base)
    data = data_of(engine.store, stage, settings, counter(base.tokenizer, base.eos_id, context_of(base)))
    roles, notes = _roles(engine, stage, settings)
    adapters = sum(engine.bank.bytes_of(name) for name in engine.bank.names)
    mine = base.report.bytes_on_device + adapters
    probed: Probed | None = None
    if probing:
        probed = _probed(engine, stage, _as_probed(settings, roles), sample_of(settings, data), clock)
    runtime = None
    if base.device.type == "cpu":
        runtime = max(0.0, psutil.Process().memory_info().rss - mine)
    # What the program itself takes, on a card its libraries', is part of the plan, and taken already.
    own = CONTEXT_BYTES if runtime is None else round(runtime)
    available = free_bytes(base.device) + mine + own
    # Where all rows were measured, the stage's own batches can be cut.
    batch_of = walk_at if data.share == 1 else None
    return make_plan(
        stage,
        settings,
        load,
        available=available,
        data=data,
        roles=roles,
        probed=probed,
        runtime=runtime,
        batch_of=batch_of,
        notes=notes,
    )


UNPROBED = frozenset(
    (
        *("learning_rate", "epochs", "steps", "warmup", "schedule", "weight_decay", "seed", "parent"),
        *("sft", "reward", "heldout_share", "eval_every", "eval_prompts", "sample_every", "checkpoint_every", "track"),
        *("practise_on", "kl_coef", "kl_control", "kl_target", "kl_horizon", "kl_budget", "clip", "entropy_coef"),
    )
)
"""Settings that say how often a thing is done or with what numbers, not how long it takes once."""


def _probed(
    engine: Engine, stage: str, settings: Settings, sample: Sequence[Example], clock: Callable[[], float]
) -> Probed:
    """Probe, or give what the same probe found before: a person turns many settings that change nothing about it."""
    from lorarlhf.plan.probe import probe

    key = str((stage, settings.model_dump(exclude=set(UNPROBED)), sample))
    if key not in engine.probes:
        engine.probes[key] = probe(engine.studio, settings, sample, clock=clock)
    return engine.probes[key]


def _as_probed(settings: Settings, roles: Roles) -> Settings:
    """Probe with an adapter of the size that is trained."""
    return type(settings).parse({**settings.model_dump(), "rank": max(roles.trained)})


def _roles(engine: Engine, stage: str, settings: Settings) -> tuple[Roles, tuple[str, ...]]:
    """Find the ranks of the adapters the stage would have in memory."""
    from lorarlhf.engine.training import PARENTS, parent_of

    assert isinstance(settings, LoraSettings)
    named = {role: parent_of(engine, getattr(settings, role), default) for role, default in PARENTS[stage].items()}
    ranks = {role: _rank(engine, name) for role, name in named.items() if name != BARE}
    if stage != "ppo":
        return Roles((ranks.get("parent", settings.rank),), heads=int(stage == "reward")), ()
    policy = ranks.get("parent", ranks.get("sft", settings.rank))
    notes = () if "reward" in ranks else ("no reward model yet: one of the same rank was assumed",)
    judge = ranks.get("reward", settings.rank)
    frozen = ((ranks["sft"],) if "sft" in ranks else ()) + (judge,)
    assert isinstance(settings, PPOSettings)
    learning = (policy, judge) if settings.critic == "adapter" else (policy,)
    return Roles(learning, frozen, heads=heads_of(settings.critic)), notes


def _rank(engine: Engine, name: str) -> int:
    path = engine.saved(name).path / "adapter_config.json"
    try:
        return int(json.loads(path.read_text())["r"])
    except (OSError, ValueError, KeyError):
        raise BaseModelError(f"adapter {name}: {path} is missing or damaged; restore it from a copy") from None


def plan_for(
    workspace: Workspace,
    load: LoadSettings,
    stage: str,
    settings: Settings,
    *,
    memory: int | None = None,
    probing: bool = True,
    progress: Callable[[str, float], None] | None = None,
) -> Plan:
    """Plan for this machine with a probe, or on paper: without one, or for a device of so many bytes."""
    if memory is not None or not probing:
        return plan_on_paper(workspace, load, stage, settings, memory=memory)
    from lorarlhf.engine.core import Engine

    engine = Engine(workspace, load, progress)
    found = plan(engine, stage, settings)
    engine.store.close()
    return found


# -- without a base in memory ---------------------------------------------------------------------------------


def plan_on_paper(
    workspace: Workspace, load: LoadSettings, stage: str, settings: Settings, *, memory: int | None = None
) -> Plan:
    """Plan from the base's configuration alone: for a card one does not have, or weights that are not here.

    `memory` is what that card has, in bytes; without it this machine's device is meant.
    """
    shape, folder, notes = find_shape(load)
    device, item, available = _machine(load, memory)
    if memory is not None:
        kind = "bf16" if item == 2 else "fp32"
        notes += (f"for a device of the kind '{device}' that computes in {kind}; --device and --compute say otherwise",)
    loaded = Load(shape, load.bits, item, device)
    count, counted = _counter(folder, shape, load)
    with workspace.store() as store:
        data = data_of(store, stage, settings, count)
    notes += (*counted, "from formulas alone: no base was loaded and nothing was measured")
    return make_plan(stage, settings, loaded, available=available, data=data, notes=notes)


def find_shape(load: LoadSettings) -> tuple[Shape, Path | None, tuple[str, ...]]:
    """Read the shape of a base from its folder, the Hub's cache or the Hub → shape, folder, what to say."""
    name, folder = load.base, Path(load.base).expanduser()
    if name == "starter":
        from lorarlhf.starter import MODEL_DIR

        folder = Path(MODEL_DIR)
    elif not folder.is_dir():
        if shape := known(name):
            return shape, None, (f"{name} is not loaded: the numbers of {shape.name}'s config.json were used",)
        folder = _config_of_hub(load)
    if not (folder / "config.json").is_file():
        raise BaseModelError(f"{name} has no config.json in {folder}; pass the folder of a saved transformers model")
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(f"{name}: its config.json can't be read ({' '.join(str(error).split())[:120]})") from None
    return shape_of(config, name if name == "starter" else folder.name), folder, ()


def _config_of_hub(load: LoadSettings) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(load.base, "config.json", revision=load.revision or None)).parent
    except (OSError, ValueError, RuntimeError):
        names = ", ".join(shape.name for shape in SHAPES)
        raise BaseModelError(
            f"{load.base} is no folder, and its config.json can't be fetched from the Hub; pass a folder that holds "
            f"one, or plan with one of {names}"
        ) from None


def _machine(load: LoadSettings, memory: int | None) -> tuple[str, int, int]:
    """Say what is planned for → kind of device, bytes of an unquantised number, bytes there are."""
    if memory is not None:
        device = "cuda" if load.device == "auto" else load.device
        item = 4 if load.compute == "fp32" else 2
        return device, item, memory
    from lorarlhf.hardware import free_bytes, pick_device, pick_dtype

    found = pick_device(load.device)
    # What this process takes is part of the plan, and taken already.
    own = psutil.Process().memory_info().rss if found.type == "cpu" else CONTEXT_BYTES
    return found.type, pick_dtype(load.compute, found)[0].itemsize, free_bytes(found) + own


def _counter(folder: Path | None, shape: Shape, load: LoadSettings) -> tuple[Count, tuple[str, ...]]:
    guess = (by_letters, ("no tokenizer: four letters were taken for a token",))
    if folder is None or not any(folder.glob("tokenizer*")):
        return guess
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError, AttributeError):
        return guess
    return counter(tokenizer, tokenizer.eos_token_id or 0, shape.context), ()
