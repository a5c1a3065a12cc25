"""What is in memory, as a bar with a legend. Knows nothing of Gradio."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import psutil

from lorarlhf.files import size
from lorarlhf.ui.desk import Desk


@dataclass(frozen=True)
class Part:
    """A piece of the bar."""

    kind: str
    """`base`, `adapter`, `rest` or `free`: its colour."""
    name: str
    size: int
    """Bytes."""


def parts_of(memory: dict[str, Any], process: int, free: int) -> list[Part]:
    """Divide memory into base, adapters, whatever else is taken, and what is free.

    `memory` is what `EngineClient.describe` says; on a card of its own it knows what is free there. Elsewhere
    `process` bytes of the engine's process and `free` bytes of the machine are all there is to know.
    """
    if not memory:
        return []
    base, adapters = int(memory["base_bytes"]), memory["adapters"]
    named = base + sum(adapters.values())
    if "total_bytes" in memory:
        free = memory["free_bytes"]
        rest = Part("rest", "cache, libraries and other programs", max(0, memory["total_bytes"] - free - named))
    else:
        rest = Part("rest", "program", max(0, process - named))
    loaded = [Part("adapter", name, size) for name, size in adapters.items()]
    return [Part("base", str(memory["base"]["name"]), base), *loaded, rest, Part("free", "free", free)]


def memory_html(desk: Desk) -> str:
    """Draw the bar of the engine as it is now."""
    process, free = _process_bytes(desk.engine.pid), psutil.virtual_memory().available
    parts = parts_of(desk.memory, process, free)
    if not parts and desk.loading:
        parts = [Part("rest", "the engine, while it loads", process), Part("free", "free", free)]
        return draw(parts, "In this computer's memory")
    if not parts:
        return "<p class='subdued'>Nothing yet: no base is loaded.</p>"
    device = str(desk.memory.get("device", "cpu"))
    where = "this computer's memory" if device == "cpu" else f"the memory of {device}"
    return draw(parts, f"In {where}")


def draw(parts: list[Part], title: str) -> str:
    """Draw parts as a bar under a title."""
    return f"<h3>{html.escape(title)}</h3>{bar_html(parts, title, titled=True)}"


def bar_html(parts: list[Part], title: str, *, titled: bool = False) -> str:
    """Draw parts as a bar, wide in proportion, each with its size in a legend below; `titled` where a title stands."""
    whole = sum(part.size for part in parts) or 1
    told = ", ".join(f"{part.name} {size(part.size)}" for part in parts)
    bar = "".join(f"<i class='{part.kind}' style='flex-grow:{part.size / whole:.5f}'></i>" for part in parts)
    legend = "".join(
        f"<li><i class='{part.kind}' aria-hidden='true'></i>{html.escape(part.name)} <b>{size(part.size)}</b></li>"
        for part in parts
    )
    label = html.escape(f"{title}: {told}", quote=True)
    above = "" if titled else f"<p>{html.escape(title)}</p>"
    return f"{above}<div class='bar' role='img' aria-label='{label}'>{bar}</div><ul class='key'>{legend}</ul>"


def _process_bytes(pid: int | None) -> int:
    """Measure the engine's process; 0 where it is just gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss) if pid else 0
    except psutil.Error:
        return 0
