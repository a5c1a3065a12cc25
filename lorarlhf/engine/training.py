"""Training runs: find the data and parents, record the run, drive the stage, keep the adapter.

Whatever can be wrong with a request is found before anything is recorded. Knows no algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from lorarlhf.engine.core import Engine
from lorarlhf.engine.journal import StoreJournal, Watch
from lorarlhf.engine.stages import build_stage
from lorarlhf.errors import LoraRlhfError, RunPaused, TrainingError
from lorarlhf.library import BARE, check_new_name, free_name, newest
from lorarlhf.settings import STAGES, OptimSettings, Settings
from lorarlhf.train.loop import Loop, Metrics, Stage

Paused = Callable[[], bool]
OnRun = Callable[[str], object]

PARENTS: dict[str, dict[str, str]] = {
    "sft": {"parent": ""},
    "reward": {"parent": "sft"},
    "ppo": {"sft": "sft", "reward": "reward", "parent": ""},
}
"""Stage → role → the stage whose newest adapter plays it when nobody is named; '' means the bare base."""

DATA = {
    "sft": ("demonstrations",),
    "reward": ("comparisons", "rankings", "demonstrations"),
    "ppo": ("prompts", "comparisons", "rankings", "demonstrations"),
}
"""Stage → kinds of rows it learns from."""


@dataclass(frozen=True)
class Request:
    """One stage with everything it stands on; becomes a run, and is read back from one."""

    stage: str
    settings: Settings
    adapter: str
    parents: dict[str, str]
    """Role → adapter name; 'base' is the bare base."""
    data: dict[str, list[int]]
    """Kind of row → ids, as they stood when the run began."""


def train(
    engine: Engine,
    stage: str,
    settings: Settings,
    name: str = "",
    watch: Watch | None = None,
    paused: Paused = lambda: False,
    on_run: OnRun = lambda run: None,
) -> dict[str, Any]:
    """Run one stage on what the workspace holds → {"run", "adapter", "metrics"}.

    `on_run` is told the run's id as soon as its row is there. Raises `RunPaused` (after saving) when `paused` says
    so, other `LoraRlhfError`s with the reason.
    """
    request = _request(engine, stage, settings, name)
    team = engine.studio.team
    with engine.cleared():
        built = build_stage(engine, request.stage, request.settings, request.parents, request.data)
        run = ""
        if team.is_main:
            parents = {"adapters": request.parents, "data": request.data, "base": engine.base.identity}
            parents["load"] = engine.load_settings.model_dump(mode="json")
            base = str(engine.base.identity["name"])
            run = engine.store.start_run(stage, request.adapter, base, settings.model_dump(mode="json"), parents)
            on_run(run)
        return _drive(engine, team.broadcast(run), request, built, watch, paused)


def resume(engine: Engine, run: str, watch: Watch | None = None, paused: Paused = lambda: False) -> dict[str, Any]:
    """Go on with a run from its newest checkpoint, on the data it began with."""
    row = engine.store.run(run)
    if row.status == "done":
        raise TrainingError(f"run {run} is done; its adapter is {row.adapter}")
    made_on = row.parents["base"]
    if made_on["fingerprint"] != engine.base.identity["fingerprint"]:
        raise TrainingError(f"run {run} is on base {made_on['name']}, another one; pass --base {made_on['name']}")
    settings = STAGES[row.stage].parse(row.settings, f"run {run}")
    request = Request(row.stage, settings, row.adapter, row.parents["adapters"], row.parents["data"])
    with engine.cleared():
        built = build_stage(engine, request.stage, request.settings, request.parents, request.data)
        if engine.studio.team.is_main:
            engine.store.claim(run)
        return _drive(engine, run, request, built, watch, paused, resuming=True)


def _request(engine: Engine, stage: str, settings: Settings, name: str) -> Request:
    """Resolve names and data; raise before anything is recorded."""
    folder = engine.workspace.adapters_dir
    adapter = name or free_name(folder, stage)
    check_new_name(folder, adapter)
    parents = {role: parent_of(engine, getattr(settings, role), default) for role, default in PARENTS[stage].items()}
    if parents.get("reward") == BARE:
        raise TrainingError("no reward model on this base yet; train one first with `lorarlhf train reward`")
    data = {kind: [row.id for row in getattr(engine.store, kind)()] for kind in DATA[stage]}
    return Request(stage, settings, adapter, parents, data)


def parent_of(engine: Engine, asked: str, default_stage: str) -> str:
    """Name the adapter that plays a role: the one asked for, else the newest of a stage, else the bare base."""
    if asked == BARE:
        return BARE
    if asked:
        return engine.saved(asked).name
    found = newest(engine.workspace.adapters_dir, default_stage, engine.base.identity["fingerprint"])
    return found.name if found else BARE


def _drive(
    engine: Engine,
    run: str,
    request: Request,
    stage: Stage,
    watch: Watch | None,
    paused: Paused,
    *,
    resuming: bool = False,
) -> dict[str, Any]:
    """Take the stage to its end and keep its adapter; whatever happens, the run's row says it."""
    settings, team = request.settings, engine.studio.team
    assert isinstance(settings, OptimSettings)
    journal = StoreJournal(engine.store, run, engine.studio, watch)
    if hasattr(stage, "on_samples"):
        stage.on_samples = journal.samples
    folder = engine.workspace.runs_dir / run
    loop = Loop(stage, journal, team, folder, settings.checkpoint_every, paused)
    try:
        if resuming:
            loop.restore()
            _mark(engine, run, "running")
        metrics = loop.run()
        if team.is_main:
            card = _card(engine, run, request, metrics)
            engine.bank.save(stage.trained, engine.workspace.adapters_dir / request.adapter, card)
            engine.store.finish_run(run, "done", metrics)
    except RunPaused as pause:
        _mark(engine, run, "paused")
        raise RunPaused(f"run {run} {pause}; go on with `lorarlhf resume {run}`") from None
    except LoraRlhfError as error:
        if team.is_main:
            engine.store.finish_run(run, "failed", {}, str(error))
        raise
    except BaseException as error:
        # A crash or a kill signal: the checkpoints stand, so the run can be resumed.
        if team.is_main:
            engine.store.finish_run(run, "interrupted", {}, f"{type(error).__name__}: {error}")
        raise
    finally:
        if team.is_main:
            engine.store.release(run)
    return {"run": run, "adapter": request.adapter, "metrics": metrics}


def _mark(engine: Engine, run: str, status: str) -> None:
    if engine.studio.team.is_main:
        engine.store.set_status(run, status)


def _card(engine: Engine, run: str, request: Request, metrics: Metrics) -> dict[str, Any]:
    return {
        "stage": request.stage,
        "run": run,
        "created": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "settings": request.settings.model_dump(mode="json"),
        "parents": {
            role: {"name": name, "hash": engine.saved(name).hash if name != BARE else ""}
            for role, name in request.parents.items()
        },
        "data": request.data,
        "metrics": metrics,
    }
