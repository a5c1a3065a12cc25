"""Draw series of numbers as SVG. Knows nothing of runs, rows or Gradio.

Each chart is one fixed box that only its lines change in: nothing on the page moves while a run is at work.
Colours are classes of `assets/train.css`, so both themes follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 340, 170
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 8, 22
MOST_POINTS = 240
"""More would not be seen in a box this wide, and be sent with every update."""
NOISY = 20
"""From so many points on, a line that asks for it is drawn smooth over its faint self."""
INERTIA = 0.65
"""What the smoothed line keeps of itself at each point."""


@dataclass(frozen=True)
class Line:
    """A series and how to draw it."""

    label: str
    points: Sequence[Point]
    style: str = "main"
    """`main`, `heldout`, or `limit`: a level that means something."""
    smooth: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines over the same steps."""

    title: str
    lines: Sequence[Line]
    last_x: float
    """Where the axis ends: the run's last step, so that the lines grow into the box."""
    low: float | None = None
    high: float | None = None
    """The vertical axis reaches at least so far."""
    percent: bool = False
    help: str = ""
    """What the numbers mean, for who does not know."""


def draw(chart: Chart) -> str:
    """Write a chart as an HTML figure with its legend and newest values in words."""
    lines = [Line(line.label, finite(line.points), line.style, line.smooth) for line in chart.lines]
    lines = [line for line in lines if line.points]
    newest = ", ".join(f"{line.label} {number(line.points[-1][1], chart.percent)}" for line in lines)
    words = f"{chart.title}: {newest or 'nothing measured yet'}. {chart.help}".strip()
    legend = "".join(_legend(line, chart.percent) for line in lines)
    about = f" title='{escape(chart.help, quote=True)}'" if chart.help else ""
    return (
        f"<figure class='chart'{about}><figcaption><b>{escape(chart.title)}</b>{legend}</figcaption>"
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img'>"
        f"<title>{escape(words)}</title>"
        f"{_body(chart, lines)}</svg></figure>"
    )


def _body(chart: Chart, lines: Sequence[Line]) -> str:
    if not lines:
        return f"<text class='empty' x='{WIDTH / 2}' y='{HEIGHT / 2}'>nothing measured yet</text>"
    marks = ticks(*_range(chart, lines))
    low, high = marks[0], marks[-1]
    last_x = max(chart.last_x, *(line.points[-1][0] for line in lines), 1)

    def place(point: Point) -> str:
        x = LEFT + point[0] / last_x * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point[1] - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    parts = []
    for mark in marks:
        x, y = place((0, mark)).split(",")
        parts.append(f"<path class='grid' d='M{x},{y}H{WIDTH - RIGHT}'/>")
        parts.append(f"<text class='y' x='{LEFT - 5}' y='{float(y) + 3.5:.1f}'>{number(mark, chart.percent)}</text>")
    parts.append(f"<text class='x first' x='{LEFT}' y='{HEIGHT - 6}'>0</text>")
    parts.append(f"<text class='x' x='{WIDTH - RIGHT}' y='{HEIGHT - 6}'>step {last_x:g}</text>")
    for line in lines:
        parts += _strokes(line, place)
    return "".join(parts)


def _strokes(line: Line, place: Callable[[Point], str]) -> list[str]:
    points = thinned(line.points)
    path = "M" + "L".join(map(place, points))
    if line.style == "heldout":  # measured now and then: the measurements are what counts
        dots = [f"<circle r='3' cx='{x}' cy='{y}'/>" for x, y in (place(p).split(",") for p in points)]
        return [f"<g class='heldout'><path d='{path}'/>{''.join(dots)}</g>"]
    if line.smooth and len(line.points) > NOISY:
        smooth = "M" + "L".join(map(place, thinned(smoothed(line.points))))
        return [f"<path class='{line.style} faint' d='{path}'/>", f"<path class='{line.style}' d='{smooth}'/>"]
    if len(points) == 1:
        x, y = place(points[0]).split(",")
        return [f"<circle class='{line.style}' r='2.5' cx='{x}' cy='{y}'/>"]
    return [f"<path class='{line.style}' d='{path}'/>"]


def _legend(line: Line, percent: bool) -> str:
    newest = number(line.points[-1][1], percent)
    return f"<span class='{line.style}'><i aria-hidden='true'></i>{escape(line.label)} <b>{newest}</b></span>"


def _range(chart: Chart, lines: Sequence[Line]) -> tuple[float, float]:
    values = [y for line in lines for _, y in line.points]
    values += [bound for bound in (chart.low, chart.high) if bound is not None]
    low, high = min(values), max(values)
    # All on the floor of the chart: show that it is the floor.
    return (low, low + 1) if low == high == chart.low else (low, high)


# -- numbers --------------------------------------------------------------------------------------------------


def finite(points: Sequence[Point]) -> list[Point]:
    """Leave out what cannot be drawn."""
    return [(x, y) for x, y in points if math.isfinite(y)]


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> Sequence[Point]:
    """Take evenly spaced points, the last always, where there are too many."""
    stride = math.ceil(len(points) / most)
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]


def smoothed(points: Sequence[Point], inertia: float = INERTIA) -> list[Point]:
    """Average each point with those before it, older ones counting ever less."""
    total = weight = 0.0
    found = []
    for x, y in points:
        total, weight = inertia * total + y, inertia * weight + 1
        found.append((x, total / weight))
    return found


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """List at most about `most` round numbers from at or below `low` to at or above `high`; two at least."""
    if high - low < 1e-9 * max(1.0, abs(low)):
        spread = abs(low) * 0.1 or 1.0
        low, high = low - spread, high + spread
    rough = (high - low) / (most - 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: float, percent: bool = False) -> str:
    """Write a number as shortly as a reader needs it."""
    if percent:
        return f"{100 * value:.{0 if abs(value) >= 0.1 else 1}f} %".replace(".0 %", " %")
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
        text = f"{value:.{min(digits, 5)}f}"
        return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")
    return f"{value:.1e}".replace("-", "−")
