"""What a measurement comes to, at a glance: a light, one sentence, one button; then few figures; the rest in a fold.

Pure functions; no Gradio. What is passed as words is escaped here, what is passed as HTML is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from lorarlhf.reading import Remark

GOOD, DOUBT, BAD = "good", "doubt", "bad"
NAMES = {GOOD: "Good", DOUBT: "Careful", BAD: "Stop"}


class Lead(NamedTuple):
    """A button that leads on."""

    words: str
    go: str
    """A tab."""
    section: str = ""
    """Of the tab."""


class Tile(NamedTuple):
    """One figure that stands at once."""

    name: str
    value: str
    about: str = ""


def light_html(color: str, sentence: str, lead: Lead | None) -> str:
    """Write the light, with the colour in words beside it for who does not see it."""
    button = ""
    if lead:
        where = f"data-go='{escape(lead.go, quote=True)}' data-section='{escape(lead.section, quote=True)}'"
        button = f"<button type='button' class='lead' {where}>{escape(lead.words)}</button>"
    return (
        f"<div class='light {color}'><i aria-hidden='true'></i><h3><span class='sr'>{NAMES[color]}: </span>"
        f"{escape(sentence)}</h3>{button}</div>"
    )


def tiles_html(tiles: Iterable[Tile]) -> str:
    """Write a few figures side by side."""
    found = "".join(
        f"<div><dt>{escape(tile.name)}</dt><dd><b>{escape(tile.value)}</b> <span>{escape(tile.about)}</span></dd></div>"
        for tile in tiles
    )
    return f"<dl class='tiles'>{found}</dl>" if found else ""


def remarks_html(title: str, found: Sequence[Remark]) -> str:
    """List what was noticed, and what to do about it; nothing where nothing was."""
    if not found:
        return ""
    said = "".join(
        f"<li><b>{escape(remark.seen)}</b>: {escape(remark.means)}. <span>{escape(remark.do)}.</span></li>"
        for remark in found
    )
    return f"<h4>{escape(title)}</h4><ul class='against'>{said}</ul>"


def all_figures_html(figures: Iterable[str], after: str = "") -> str:
    """Put charts into a fold; nothing where there are none."""
    inside = "".join(figures)
    if not inside and not after:
        return ""
    body = f"<div class='figures'>{inside}</div>" if inside else ""
    return f"<details class='all'><summary>All figures</summary>{body}{after}</details>"


def figure_html(title: str, inside: str, about: str = "") -> str:
    """Write a chart with its title and what it says; nothing without a chart."""
    text = f"<p class='subdued'>{escape(about)}</p>" if about else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{inside}{text}</figure>" if inside else ""
