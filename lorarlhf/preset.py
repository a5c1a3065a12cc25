"""Read presets: YAML files with one section per group of settings, validated against the declarations."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import yaml

from lorarlhf.errors import SettingsError
from lorarlhf.settings import STAGES, LoadSettings, SamplingSettings, Settings

SECTIONS: dict[str, type[Settings]] = {"load": LoadSettings, "sampling": SamplingSettings, **STAGES}

Preset = dict[str, dict[str, Any]]

SOLD_AS = 0.9
"""A card of 8 GB may report this share of it."""


def preset_files() -> dict[str, Path]:
    """Find the presets we ship, by name."""
    import lorarlhf.presets

    folder = Path(next(iter(lorarlhf.presets.__path__)))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def preset_for(device: str, memory: int) -> str:
    """Name the preset for a kind of device (`cuda`, `cpu` …) with so many bytes of memory.

    A card's is the largest that is no larger than it; cards report some percent less than they are sold as.
    """
    if device == "cpu":
        return "cpu"
    sizes = {int(name[:-2]): name for name in preset_files() if re.fullmatch(r"\d+gb", name)}
    fitting = [size for size in sizes if size * 2**30 * SOLD_AS <= memory]
    if not fitting:
        raise SettingsError(
            f"no preset for a device of {memory / 2**30:.1f} GiB; the smallest is for {min(sizes)} GB: name it, or "
            "write a YAML file of your own"
        )
    return sizes[max(fitting)]


def load_preset(name: str) -> Preset:
    """Read a preset by name or by path; raise `SettingsError` naming file, line and key of what is wrong."""
    shipped = preset_files()
    path = shipped.get(name) or Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, shipped, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(shipped)}"
        raise SettingsError(f"no preset {name}; {hint}")
    text = path.read_text(encoding="utf-8")
    try:
        # BaseLoader leaves every scalar a string: YAML would read 1e-5 as text anyway, the settings know the types.
        raw = yaml.load(text, Loader=yaml.BaseLoader)
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        raise SettingsError(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(raw, dict) or not all(isinstance(values, dict) for values in raw.values()):
        raise SettingsError(f"{path}: a preset has sections ({', '.join(SECTIONS)}), each with settings")
    return {section: _section(path, node, section, values) for section, values in raw.items()}


def _section(path: Path, node: yaml.Node | None, section: str, values: dict[str, Any]) -> dict[str, Any]:
    if section not in SECTIONS:
        near = difflib.get_close_matches(section, SECTIONS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(SECTIONS)}"
        raise SettingsError(f"{path}:{_line(node, section)}: unknown section {section}; {hint}")

    def place(knob: str) -> str:
        return f"{path}:{_line(node, section, *([knob] if knob else []))}"

    return SECTIONS[section].parse(values, place).model_dump(include=set(values))


def _line(node: Any, *keys: str) -> int:
    """Find the line, from 1, on which a key stands."""
    line = 1
    for key in keys:
        for name, value in node.value:
            if name.value == key:
                node, line = value, name.start_mark.line + 1
                break
    return line
