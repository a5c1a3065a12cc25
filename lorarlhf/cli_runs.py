"""The commands about runs: plan, train, resume, and look at them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from lorarlhf.cli_judge import warn_before_ppo
from lorarlhf.cli_shared import common, engine_for, load_for, open_workspace, with_model
from lorarlhf.errors import LoraRlhfError, RunDiffers
from lorarlhf.options import StageCommand, changing_options, chosen
from lorarlhf.settings import CHANGEABLE, STAGES, Settings
from lorarlhf.terminal import loading_line, pause_on_interrupt, say, show_json, table, training_bar

if TYPE_CHECKING:
    from lorarlhf.engine.core import Engine


@click.group()
def train() -> None:
    """Train one stage on what the workspace holds."""


def _train_command(stage: str) -> None:
    settings = STAGES[stage]

    @train.command(stage, help=settings.__doc__)
    @click.option(
        "--name", default="", metavar="NAME", help=f"Name of the new adapter. [default: {stage}-1, {stage}-2 …]"
    )
    @with_model(settings)
    def command(name: str, workspace: str | None, preset: Any, as_json: bool, **options: Any) -> None:
        asked: Settings = chosen(settings, options, preset, stage)
        with engine_for(workspace, options, preset) as engine, pause_on_interrupt() as paused:
            from lorarlhf.engine.training import train as run

            if stage == "ppo":
                warn_before_ppo(engine, str(getattr(asked, "reward", "")))
            with training_bar(stage) as watch:
                result = run(engine, stage, asked, name, watch, paused)
            _say_remarks(engine, result["run"])
        _show_result(result, as_json)


for _stage in STAGES:
    _train_command(_stage)


@click.command(cls=StageCommand)
@click.option("--stage", required=True, type=click.Choice(list(STAGES)), help="The stage to plan.")
@click.option("--memory", metavar="SIZE", help="Plan for a card with this much, such as 8GB; nothing is measured.")
@click.option("--no-probe", is_flag=True, help="Only count: load no base, measure nothing, know no seconds.")
@with_model()
def plan(
    stage: str,
    memory: str | None,
    no_probe: bool,
    workspace: str | None,
    preset: Any,
    as_json: bool,
    **options: Any,
) -> None:
    """Say what memory and time a stage will take, before it starts.

    Takes every setting of the stage, as `train STAGE` does; `plan --stage ppo --help` lists them.
    """
    from lorarlhf.engine.planning import plan_for
    from lorarlhf.plan.show import parse_size, show_plan

    try:
        room = parse_size(memory) if memory is not None else None
    except LoraRlhfError as error:
        raise click.UsageError(f"--memory: {error}") from None
    asked: Settings = chosen(STAGES[stage], options, preset, stage)
    place = open_workspace(workspace)
    load = load_for(place, options, preset)
    with loading_line() as progress:
        found = plan_for(place, load, stage, asked, memory=room, probing=not no_probe, progress=progress).as_json()
    show_json(found) if as_json else click.echo(show_plan(found))


@click.command()
@click.argument("run")
@click.option("--yes", is_flag=True, help="Go on though versions, settings or parents differ from how it began.")
@click.option("--base", metavar="PATH", help="Where its base lies on this machine. [default: where it was]")
@changing_options(STAGES.values(), CHANGEABLE)
@common
def resume(run: str, yes: bool, base: str | None, workspace: str | None, as_json: bool, **options: Any) -> None:
    """Go on with a paused, interrupted or failed RUN exactly where it stopped, or with some settings changed.

    Says what differs from how it began and asks: other settings, other versions of lorarlhf and its libraries.
    """
    changes = {name: value for name, value in options.items() if value is not None}
    with open_workspace(workspace).store() as store:
        row = store.find_run(run)
    load = {**row.parents["load"], **({"base": base} if base else {})}
    with engine_for(workspace, load, {}) as engine, pause_on_interrupt() as paused:
        from lorarlhf.engine.training import resume as go_on

        try:
            with training_bar(row.stage) as watch:
                result = go_on(engine, row.id, changes, watch, paused, accept=yes)
        except RunDiffers as differs:
            if not sys.stdin.isatty():
                raise
            say(f"run {row.id} would not go on as it began:\n  " + "\n  ".join(differs.differences))
            click.confirm("Go on like this?", abort=True, err=True)
            with training_bar(row.stage) as watch:
                result = go_on(engine, row.id, changes, watch, paused, accept=True)
        _say_remarks(engine, row.id)
    _show_result(result, as_json)


def _say_remarks(engine: Engine, run: str) -> None:
    from lorarlhf.watching import spoken

    for line in spoken(engine.store.run(run), engine.store):
        say(line)


def _show_result(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(result)
        return
    click.echo(f"run {result['run']} made adapter {result['adapter']}")
    shown = {k: v for k, v in result["metrics"].items() if k.startswith("eval/")}
    click.echo("\n".join(f"  {name.removeprefix('eval/')}: {value:.4g}" for name, value in shown.items()))


# -- what there is --------------------------------------------------------------------------------------------


@click.command()
@click.argument("run", required=False)
@click.option("--watch", is_flag=True, help="Follow what is at work, in any process; Ctrl-C leaves it alone.")
@common
def runs(run: str | None, watch: bool, workspace: str | None, as_json: bool) -> None:
    """List the training runs of the workspace, or tell RUN in words."""
    from lorarlhf.files import folder_bytes, size
    from lorarlhf.watching import describe
    from lorarlhf.watching import watch as follow

    place = open_workspace(workspace)
    with place.store() as store:
        store.mark_interrupted()
        if watch:
            follow(store)
            if not as_json:
                return
        listed = [store.find_run(run)] if run else store.runs()
        found = [{**vars(row), "disk_bytes": folder_bytes(place.runs_dir / row.id)} for row in listed]
        text = describe(store, found[0]["id"]) if run else ""
    if as_json or run:
        show_json(found[0] if run else found) if as_json else click.echo(text)
        return
    columns = ["id", "status", "step", "adapter", "base", "created", "disk", "error"]
    shown = [{**row, "created": row["created"][:19], "disk": size(row["disk_bytes"])} for row in found]
    click.echo(table(shown, columns) if found else "no runs yet")
