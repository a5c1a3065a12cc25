"""What commands have in common: options that many take, the workspace they work on, the engine they start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from lorarlhf.options import chosen, settings_options
from lorarlhf.preset import load_preset
from lorarlhf.settings import LoadSettings
from lorarlhf.starting import compiling_later
from lorarlhf.terminal import loading_line

if TYPE_CHECKING:
    from lorarlhf.engine.core import Engine
    from lorarlhf.workspace import Workspace


def common(command: Callable) -> Callable:
    """Add the options every command has."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON value on stdout, nothing else.")(
        command
    )
    return click.option(
        "--workspace",
        metavar="DIR",
        help="Folder of votes, runs and adapters. [default: $LORARLHF_HOME or ~/.lorarlhf]",
    )(command)


def with_model(*groups: Any) -> Callable[[Callable], Callable]:
    """Add the options of a command that needs a base, and those of the groups it uses."""

    def decorate(command: Callable) -> Callable:
        @wraps(command)
        def prepared(workspace: str | None, preset: str | None, **options: Any) -> Any:
            from lorarlhf.doctor import preset_name

            settings = load_preset(preset_name(preset)) if preset else {}
            return command(workspace=workspace, preset=settings, **options)

        found = settings_options(*groups, LoadSettings)(prepared)
        found = click.option(
            "--preset", metavar="NAME", help="Settings for a kind of machine: a name, a YAML file, or auto."
        )(found)
        return common(found)

    return decorate


def open_workspace(path: str | None) -> Workspace:
    """Find the workspace named on the command line."""
    from lorarlhf.workspace import Workspace

    return Workspace(path).open()


def load_for(place: Workspace, options: dict[str, Any], preset: dict[str, Any]) -> LoadSettings:
    """Choose the base: the one asked for, else the workspace's, else the starter."""
    with place.store() as store:
        remembered = store.get_meta("load", {})
    return chosen(LoadSettings, options, {"load": {**remembered, **preset.get("load", {})}}, "load")


@contextmanager
def engine_for(workspace: str | None, options: dict[str, Any], preset: dict[str, Any]) -> Iterator[Engine]:
    """Start the engine in this process, on the base asked for, else the workspace's, else the starter."""
    place = open_workspace(workspace)
    load = load_for(place, options, preset)
    with compiling_later():
        from lorarlhf.engine.core import Engine

    with loading_line() as progress:
        engine = Engine(place, load, progress)
        _ = engine.base
    if options.get("base"):
        engine.store.set_meta("load", load.model_dump(exclude_defaults=True) | {"base": load.base})
    yield engine
    engine.store.close()
