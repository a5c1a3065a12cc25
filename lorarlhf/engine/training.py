"""Training runs: find the data and parents, record the run, drive the stage, keep the adapter.

Whatever can be wrong with a request is found before anything is recorded. Knows no algorithm.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorarlhf.checkpoints import checkpoint_folder, forget_all_else, forget_rotated
from lorarlhf.data.practice import Rows, practice_rows
from lorarlhf.engine.core import Engine
from lorarlhf.engine.journal import StoreJournal, Watch
from lorarlhf.engine.resuming import changed_settings, conditions, differences
from lorarlhf.engine.stages import build_stage
from lorarlhf.engine.tracking import Tracker, check_tracker
from lorarlhf.errors import AdapterError, LoraRlhfError, RunDiffers, RunPaused, StoreError, TrainingError
from lorarlhf.evaluate.rounds import newest_now
from lorarlhf.library import BARE, check_new_name, free_name, later_than_others, list_on, read_saved
from lorarlhf.settings import OptimSettings, PPOSettings, Settings
from lorarlhf.store import Store
from lorarlhf.store.runs import RunRow
from lorarlhf.train.checkpoint import Found, check_room, find_checkpoint, forget_older
from lorarlhf.train.loop import Loop, Metrics, Stage, checkpoint_bytes

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
}
"""Stage → kinds of rows it learns from; PPO's are those of `lorarlhf.data.practice`."""


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
        _check_room(engine, "new", request, built)
        run = ""
        if team.is_main:
            parents = {"adapters": request.parents, "data": request.data, "base": engine.base.identity}
            parents["load"] = engine.load_settings.model_dump(mode="json")
            parents |= conditions(engine, request.parents, request.data)
            base = str(engine.base.identity["name"])
            run = engine.store.start_run(
                stage, request.adapter, base, request.settings.model_dump(mode="json"), parents
            )
            on_run(run)
        return _drive(engine, team.broadcast(run), request, built, watch, paused)


def resume(
    engine: Engine,
    run: str,
    changes: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    paused: Paused = lambda: False,
    on_run: OnRun = lambda run: None,
    *,
    accept: bool = False,
) -> dict[str, Any]:
    """Go on with a run from its newest checkpoint, on the data it began with, with some settings changed.

    `on_run` is told its id once nothing stands in the way any more. Raises `RunDiffers` where anything that its
    numbers depend on is not as it began, unless that is accepted.
    """
    row = engine.store.run(run)
    if row.status == "done":
        raise TrainingError(f"run {run} is done; its adapter is {row.adapter}")
    made_on = row.parents["base"]
    if made_on["fingerprint"] != engine.base.identity["fingerprint"]:
        raise TrainingError(
            f"run {run} is on base {made_on['name']}; the one here is another one: load that, as it was at the start"
        )
    settings = changed_settings(row, changes or {})
    found = find_checkpoint(engine.workspace.runs_dir / run)
    differing = differences(engine, row, settings, found)
    if differing and not accept:
        asked = "".join(f" {_option(name, value)}" for name, value in (changes or {}).items())
        raise RunDiffers(
            f"run {run} would not go on as it began: {'; '.join(differing)}; accept that with "
            f"`lorarlhf resume {run}{asked} --yes`",
            differing,
        )
    request = Request(row.stage, settings, row.adapter, row.parents["adapters"], row.parents["data"])
    with engine.cleared():
        built = build_stage(engine, request.stage, request.settings, request.parents, request.data)
        _check_room(engine, run, request, built)
        if engine.studio.team.is_main:
            engine.store.claim(run, take_over=accept)
            _rewind(engine, row, request, found, differing)
            on_run(run)
        return _drive(engine, run, request, built, watch, paused, found)


def _option(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    return f"--{flag} {value}" if not isinstance(value, bool) else f"--{flag}" if value else f"--no-{flag}"


def _rewind(engine: Engine, row: RunRow, request: Request, found: Found, differing: list[str]) -> None:
    """Take the records back to the checkpoint, and note under which conditions the run goes on."""
    step = found.checkpoint.step if found.checkpoint else 0
    engine.store.rewind(row.id, step)
    parents = {**row.parents, **conditions(engine, request.parents, request.data)}
    parents["load"] = engine.load_settings.model_dump(mode="json")  # on another machine the base lies elsewhere
    engine.store.revise_run(row.id, request.settings.model_dump(mode="json"), parents)
    if differing:
        engine.store.log_event(row.id, step, f"went on after step {step} with: {'; '.join(differing)}")


def _check_room(engine: Engine, run: str, request: Request, stage: Stage) -> None:
    assert isinstance(request.settings, OptimSettings)
    adapter = sum(tensor.nbytes for tensor in stage.adapter().values())
    kept = bool(request.settings.checkpoint_every)
    check_room(engine.workspace.runs_dir / run, checkpoint_bytes(stage), adapter, kept=kept)


def _request(engine: Engine, stage: str, settings: Settings, name: str) -> Request:
    """Resolve names and data; raise before anything is recorded."""
    folder = engine.workspace.adapters_dir
    check_tracker(getattr(settings, "track", "none"))
    adapter = name or free_name(folder, stage, engine.store.run_names())
    # In a team the first process may have recorded this very run by now.
    check_new_name(folder, adapter, engine.store.promised(to_start=True) if engine.studio.team.is_main else {})
    parents = {role: parent_of(engine, getattr(settings, role), default) for role, default in PARENTS[stage].items()}
    if parents.get("reward") == BARE:
        raise TrainingError("no reward model on this base yet; train one first with `lorarlhf train reward`")
    settings = _shape_of_parent(engine, stage, settings, parents)
    if isinstance(settings, PPOSettings):
        rows = practice_rows(engine.store, settings.sources)
    else:
        rows = {kind: getattr(engine.store, kind)() for kind in DATA[stage]}
    if stage == "reward":
        rows["comparisons"] = engine.store.lessons(stage)
    # Demonstrations alone make no reward model: there they only tell where 0 is.
    taught = {kind: found for kind, found in rows.items() if (stage, kind) != ("reward", "demonstrations")}
    _check_data(engine.store, taught)
    data = {kind: [row.id for row in found] for kind, found in rows.items()}
    return Request(stage, settings, adapter, parents, data)


def _check_data(store: Store, rows: Rows) -> None:
    """Refuse to begin with nothing where other bases have what is missing here."""
    if any(rows.values()):
        return
    others = store.elsewhere()
    there = [f"{others[kind]:,} {kind}" for kind in rows if others.get(kind)]
    if there:
        raise TrainingError(
            f"nothing to learn from belongs to this base; other bases have {', '.join(there)}: let them count too with "
            "`lorarlhf votes --other-bases on`, or under Data in the app"
        )


def _shape_of_parent(engine: Engine, stage: str, settings: Settings, parents: dict[str, str]) -> Settings:
    """Take rank, alpha and targets of the adapter that a new one is copied from; refuse others that were asked for."""
    start = parents.get("parent", BARE)
    if stage == "ppo" and start == BARE:
        start = parents["sft"]
    if start == BARE:
        return settings
    config = json.loads((engine.saved(start).path / "adapter_config.json").read_text(encoding="utf-8"))
    shape = {"rank": config["r"], "alpha": config["lora_alpha"]}
    usual = type(settings)()
    for name, has in shape.items():
        asked = getattr(settings, name)
        if asked not in (has, getattr(usual, name)):
            raise TrainingError(
                f"{name} {asked} cannot be had: the new adapter is copied from {start}, which has {name} {has}; leave "
                f"--{name} out, or begin on the bare base with --parent base"
            )
    targets = getattr(settings, "targets")  # noqa: B009 - a setting like the two above
    if targets != getattr(usual, "targets"):  # noqa: B009
        wanted = {target.strip() for target in targets.split(",")}
        if wanted != set(config["target_modules"]):
            raise TrainingError(
                f"targets {targets} cannot be had: {start} has {', '.join(sorted(config['target_modules']))}"
            )
    return settings.model_copy(update=shape)


def parent_of(engine: Engine, asked: str, default_stage: str) -> str:
    """Name the adapter that plays a role: the one asked for, else the newest of a stage, else the bare base.

    After going back to a round, the newest of those that led to it or were made since.
    """
    if asked == BARE:
        return BARE
    if asked:
        return read_saved(engine.workspace.adapters_dir / asked).name
    base = engine.base.identity["fingerprint"]
    found = newest_now(engine.store, list_on(engine.workspace.adapters_dir, base), base, default_stage)
    return found.name if found else BARE


def _drive(
    engine: Engine,
    run: str,
    request: Request,
    stage: Stage,
    watch: Watch | None,
    paused: Paused,
    found: Found | None = None,
) -> dict[str, Any]:
    """Take the stage to its end and keep its adapter; whatever happens, the run's row says it."""
    settings, team = request.settings, engine.studio.team
    assert isinstance(settings, OptimSettings)
    journal = StoreJournal(engine.store, run, engine.studio, watch)
    if hasattr(stage, "on_samples"):
        stage.on_samples = journal.samples
    folder = engine.workspace.runs_dir / run
    loop = Loop(stage, journal, team, folder, settings.checkpoint_every, paused)
    if request.stage != "reward":  # nobody can have that one answer
        loop.on_saved = lambda step: _keep_checkpoint(engine, run, request, stage, step)
    try:
        if team.is_main:
            journal.track(Tracker(settings.track, run, settings.model_dump(mode="json"), engine.workspace.path))
        if found:
            loop.restore(found)
            if team.is_main:
                engine.store.set_status(run, "running")
        metrics = loop.run()
        if loop.best.adapter:
            metrics["run/best_step"] = float(loop.kept_step)
        adapter = request.adapter
        if team.is_main:
            adapter = _keep_adapter(engine, run, request, stage, loop.next_step, metrics)
            engine.store.finish_run(run, "done", metrics)
            forget_all_else(folder)  # nobody goes on with it any more, and moments are large
    except RunPaused as pause:
        _end(engine, run, "paused")
        raise RunPaused(f"run {run} {pause}; go on with `lorarlhf resume {run}`") from None
    except StoreError as error:
        # Mostly a full disk. What was saved stands, and there is nothing wrong with the run.
        _end(engine, run, "paused", str(error))
        raise StoreError(
            f"run {run} stopped after step {loop.next_step}; once this is mended go on with `lorarlhf resume {run}`: "
            f"{error}"
        ) from None
    except LoraRlhfError as error:
        _end(engine, run, "failed", str(error))
        raise
    except BaseException as error:
        # A crash or a kill signal: the checkpoints stand, so the run can be resumed.
        _end(engine, run, "interrupted", f"{type(error).__name__}: {error}")
        raise
    finally:
        journal.close()
        if team.is_main:
            with suppress(StoreError):  # whoever comes next sees that this process is gone
                engine.store.release(run)
    return {"run": run, "adapter": adapter, "metrics": metrics, "said": engine.store.said(run)}


def _end(engine: Engine, run: str, status: str, why: str = "") -> None:
    """Record how a run ended; where not even that can be written, its row is set right at the next start."""
    if not engine.studio.team.is_main:
        return
    try:
        engine.store.finish_run(run, status, {}, why)
    except StoreError:
        # On a full disk the older of two checkpoints makes room for a row.
        forget_older(engine.workspace.runs_dir / run)
        with suppress(StoreError):
            engine.store.finish_run(run, status, {}, why)


def _keep_adapter(engine: Engine, run: str, request: Request, stage: Stage, step: int, metrics: Metrics) -> str:
    """Write the adapter and return its name: another one where somebody took it while the run was paused."""
    folder, name, number = engine.workspace.adapters_dir, request.adapter, 1
    while (folder / name).exists() and not _made_by(folder / name, run):
        number += 1
        name = f"{request.adapter}-{number}"
    if name != request.adapter:
        row = engine.store.run(run)
        engine.store.revise_run(run, row.settings, row.parents, name)
        engine.store.log_event(run, step, f"adapter {request.adapter} exists by now; this one is {name}")
    for torn in folder.glob(f".{name}.*"):  # a process was killed while it wrote this one
        shutil.rmtree(torn, ignore_errors=True)
    # It is there already when the run was killed after writing it, before it could say so.
    engine.bank.save(stage.trained, folder / name, _card(engine, run, request, metrics), overwrite=True)
    return name


def _keep_checkpoint(engine: Engine, run: str, request: Request, stage: Stage, step: int) -> None:
    """Write the weights of this moment beside the checkpoint, so that they can answer; the older ones go."""
    folder = engine.workspace.runs_dir / run
    measured = engine.store.metrics(run, step - 1)
    metrics = {name: value for at, name, value in measured if at == step and name.startswith("eval/")}
    card = _card(engine, run, request, metrics) | {"step": step}
    engine.bank.save(stage.trained, checkpoint_folder(folder, step), card, overwrite=True)
    forget_rotated(folder)


def _made_by(folder: Path, run: str) -> bool:
    try:
        return read_saved(folder).card.get("run") == run
    except AdapterError:
        return False


def _card(engine: Engine, run: str, request: Request, metrics: Metrics) -> dict[str, Any]:
    return {
        "stage": request.stage,
        "run": run,
        "created": later_than_others(engine.workspace.adapters_dir),
        "settings": request.settings.model_dump(mode="json"),
        "parents": {
            role: {"name": name, "hash": engine.saved(name).hash if name != BARE else ""}
            for role, name in request.parents.items()
        },
        "data": request.data,
        "metrics": metrics,
    }
