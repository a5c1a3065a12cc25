"""What a page draws: charts of lines, of one run or of several over each other, as data for `assets/charts.js`.

Knows nothing of rows or Gradio. The page draws in fixed boxes, so nothing on it moves while a run is at work.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorarlhf.reading import Point

MOST_POINTS = 2000
"""Of a line; more would not be seen, however far one looks into it, and be sent with every update."""
DIGITS = 6
"""Of a number that is sent: more than anybody can see."""


@dataclass(frozen=True)
class Line:
    """A series and how to draw it."""

    label: str
    points: Sequence[Point]
    style: str = "main"
    """`main`, `heldout`, or `limit`: a level that means something."""
    run: int = 0
    """Place among the runs that are drawn together; decides the colour."""
    smooth: bool = True
    """Whether the numbers are noisy; those that are set, as a learning rate is, are drawn as they are."""


@dataclass(frozen=True)
class Chart:
    """Lines over the same steps."""

    title: str
    lines: Sequence[Line]
    last: float
    """Where the axis ends: the run's last step, so that the lines grow into the box."""
    low: float | None = None
    high: float | None = None
    """The vertical axis reaches at least so far."""
    percent: bool = False
    help: str = ""
    """What the numbers mean, for who does not know."""


def overlaid(charts: Mapping[str, Sequence[Chart]]) -> list[Chart]:
    """Lay the charts of several runs, by their names, over each other: those of one title become one."""
    found: dict[str, Chart] = {}
    for place, (name, some) in enumerate(charts.items()):
        for chart in some:
            lines = [
                replace(line, run=place, label=line.label if len(charts) == 1 else f"{name} {line.label}")
                for line in chart.lines
                if not (line.style == "limit" and place and chart.title in found)  # the first run's says it
            ]
            one = found.get(chart.title, replace(chart, lines=()))
            found[chart.title] = replace(one, lines=[*one.lines, *lines], last=max(one.last, chart.last))
    return list(found.values())


def as_json(charts: Sequence[Chart], **more: Any) -> str:
    """Write charts, and whatever else the page wants to know, for the browser."""
    drawn = [{**vars(chart), "lines": [_line(line) for line in chart.lines]} for chart in charts]
    return json.dumps({"charts": drawn, **more}, ensure_ascii=False, separators=(",", ":"))


def _line(line: Line) -> dict[str, Any]:
    points = [(x, float(f"{y:.{DIGITS}g}")) for x, y in thinned(finite(line.points))]
    return {**vars(line), "points": points}


def finite(points: Sequence[Point]) -> list[Point]:
    """Leave out what cannot be drawn."""
    return [(x, y) for x, y in points if math.isfinite(y)]


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> Sequence[Point]:
    """Take evenly spaced points, the last always, where there are too many."""
    stride = math.ceil(len(points) / most)
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]
