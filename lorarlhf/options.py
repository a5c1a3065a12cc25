"""Command line options made from the declarations of settings. Knows nothing of what they are for."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from lorarlhf.errors import SettingsError
from lorarlhf.preset import Preset
from lorarlhf.settings import STAGES, S, Settings, may_be_auto


def settings_options(*groups: type[Settings]) -> Callable[[Callable], Callable]:
    """Decorate a command with one option per setting, basic ones first; options not given are None, not defaults."""

    def decorate(command: Callable) -> Callable:
        knobs = [(group, name, field) for group in groups for name, field in group.model_fields.items()]
        knobs.sort(key=lambda knob: not knob[0].is_basic(knob[1]))  # stable: basic ones first, else as declared
        for _, name, field in reversed(knobs):
            command = _option(name, field)(command)
        return command

    return decorate


def changing_options(groups: Iterable[type[Settings]], names: Collection[str]) -> Callable[[Callable], Callable]:
    """Decorate a command with one option per setting of these names, each once; what is not given stays as it was."""

    def decorate(command: Callable) -> Callable:
        knobs = {name: field for group in groups for name, field in group.model_fields.items() if name in names}
        for name, field in reversed(knobs.items()):
            command = _option(name, field, "as it was")(command)
        return command

    return decorate


class StageCommand(click.Command):
    """A command whose options are, besides its own, the settings of the stage that `--stage` names."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """List its own options, then those of the stage."""
        own = super().get_params(ctx)
        stage = STAGES.get(ctx.meta.get("stage", ""))
        if stage is None:
            return own
        made = click.command()(settings_options(stage)(lambda **_: None))
        return [*own[:-1], *made.params, own[-1]]  # --help stays last

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look which stage is meant before the others can be read."""
        words = [word for arg in args for word in arg.split("=", 1)]
        at = words.index("--stage") + 1 if "--stage" in words else len(words)
        ctx.meta["stage"] = words[at] if at < len(words) else ""
        return super().parse_args(ctx, args)


def _option(name: str, field: FieldInfo, default: str = "") -> Callable[[Callable], Callable]:
    flag = f"--{name.replace('_', '-')}"
    help = f"{field.description} [{_bounds(field)}default: {default or _shown(field.default)}]"
    kind = field.annotation
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=help)
    if get_origin(kind) is tuple:
        return click.option(flag, name, multiple=True, help=help + " May be repeated.")
    if get_origin(kind) is Literal:
        choices = [str(choice) for choice in get_args(kind)]
        return click.option(flag, name, type=click.Choice(choices), help=help)
    if may_be_auto(field):
        return click.option(flag, name, metavar="NUMBER|auto", help=help)
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    return click.option(flag, name, type=kind, metavar=getattr(kind, "__name__", "text").upper(), help=help)


def _bounds(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [f"{sign} {getattr(m, key):g}" for m in field.metadata for key, sign in signs.items() if hasattr(m, key)]
    return ", ".join(found) + "; " if found else ""


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value in ("", ()) else str(value)


def chosen(group: type[S], given: dict[str, Any], preset: Preset, section: str) -> S:
    """Make settings of defaults, overlaid by a preset's section, overlaid by what the command line says."""
    asked = {name: value for name, value in given.items() if name in group.model_fields and value not in (None, ())}
    try:
        return group.parse({**preset.get(section, {}), **asked}, section)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
