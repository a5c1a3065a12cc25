"""Write the reference of commands and settings from their declarations: `python -m lorarlhf.reference`.

`presets/SETTINGS.md` is its output; a test keeps the two equal.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from lorarlhf.cli import cli
from lorarlhf.options import settings_options
from lorarlhf.preset import SECTIONS
from lorarlhf.settings import Settings

INTRODUCTION = """\
# Commands and settings

Made by `python -m lorarlhf.reference > presets/SETTINGS.md` from the declarations in the code; do not edit.

A preset is a YAML file with the sections below, each with some of its settings. On the command line `learning_rate` is
`--learning-rate`; what is given there goes before the preset, and the preset before the defaults. The settings in the
upper part of a table, in bold, are the ones most people need.
"""


def commands(group: click.Group = cli, before: str = "lorarlhf") -> Iterator[tuple[str, click.Command]]:
    """Walk all commands with their full names, in alphabetical order."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, f"{before} {name}")
        else:
            yield f"{before} {name}", command


def reference() -> str:
    """Write the whole page."""
    parts = [INTRODUCTION, "## Commands\n"]
    parts += [_command(name, command) for name, command in commands()]
    parts += [_section(name, group) for name, group in SECTIONS.items()]
    return "\n".join(parts)


def _command(name: str, command: click.Command) -> str:
    title = " ".join([name, *(p.human_readable_name for p in command.params if isinstance(p, click.Argument))])
    options = {p.name: p for p in command.params if isinstance(p, click.Option)}
    sections = {section: _options(group) for section, group in SECTIONS.items()}
    # A section belongs to the command when the command has all its options, word for word.
    helps = {(option.name, option.help) for option in options.values()}
    sections = {s: made for s, made in sections.items() if {(option.name, option.help) for option in made} <= helps}
    knobs = {option.name for made in sections.values() for option in made}
    lines = [f"### `{title}`\n", _paragraphs(command.help or ""), ""]
    lines += [f"- {_usage(option)}" for option in options.values() if option.name not in knobs]
    if sections:
        lines.append(f"- every setting of {', '.join(f'[{section}](#{section})' for section in sections)}")
    return "\n".join(lines) + "\n"


def _section(name: str, group: type[Settings]) -> str:
    lines = [f"## {name}\n", f"{group.__doc__}\n", "| setting | values | what it does |", "|---|---|---|"]
    for option in _options(group):
        shown = f"**{option.name}**" if group.is_basic(str(option.name)) else option.name
        lines.append(f"| {shown} | {_values(option)} | {(option.help or '').replace('|', '&#124;')} |")
    return "\n".join(lines) + "\n"


def _options(group: type[Settings]) -> list[click.Option]:
    """Make a section's command line options, which know bounds and defaults."""
    made = click.command()(settings_options(group)(lambda **_: None))
    return [option for option in made.params if isinstance(option, click.Option)]


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _usage(option: click.Option) -> str:
    flags = ", ".join([*option.opts, *option.secondary_opts])
    takes = "" if option.is_flag else f" {option.metavar or _values(option)}"
    default = f" [default: {option.default}]" if option.show_default else ""
    return f"`{flags}{takes}`: {option.help}{default}"


def _values(option: click.Option) -> str:
    kind = option.type
    if option.metavar and "|" in option.metavar:
        return option.metavar.lower().replace("|", ", ")
    if option.is_flag:
        return "true, false"
    if isinstance(kind, click.Choice):
        return ", ".join(str(choice) for choice in kind.choices)
    if option.multiple:
        return "list of texts"
    return {"integer": "whole number", "float": "number"}.get(kind.name.removesuffix(" range"), kind.name)


if __name__ == "__main__":
    print(reference(), end="")
