"""Charts of how figures moved over the rounds, as SVG with their numbers in words. No Gradio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lorarlhf.evaluate.round_figures import Figures
from lorarlhf.evaluate.statistics import Share
from lorarlhf.figures import figure
from lorarlhf.ui.judge.charts_svg import Axes, svg, ticks

NO_SHARE = (math.nan, math.nan, math.nan)
Dot = tuple[float, float, float]
"""Value and 95 % interval; NaN where it is not known."""


class Course(NamedTuple):
    """A figure over the rounds."""

    name: str
    looks: str
    """Class of the style sheet: `main` or `least`."""
    dots: Sequence[Dot]
    """One for each round."""


def wins_svg(rows: Sequence[Figures]) -> str:
    """Draw how often each round's policy won blind votes against who answered in it."""
    dots = [(row.wins.share.value, *row.wins.always) if row.wins and row.wins.votes else NO_SHARE for row in rows]
    return _drawn("Win rate of its policy", rows, [Course("win rate", "main", dots)], percent=True)


def accuracy_svg(rows: Sequence[Figures]) -> str:
    """Draw how often each round's reward model was right, in its own round and in the next."""
    own, later = ([_dot(getattr(row, name)) for row in rows] for name in ("heldout", "next"))
    lines = [Course("test votes", "main", own), Course("votes of the next round", "least", later)]
    return _drawn("Accuracy of its reward model", rows, lines, percent=True)


def drift_svg(rows: Sequence[Figures]) -> str:
    """Draw how far each round's policy is from its reference."""
    dots = [(row.drift.kl, row.drift.low, row.drift.high) if row.drift else NO_SHARE for row in rows]
    return _drawn("KL of its policy, nats an answer", rows, [Course("KL", "main", dots)], percent=False)


def _dot(share: Share) -> Dot:
    return (share.value, share.low, share.high) if share else NO_SHARE


def _drawn(title: str, rows: Sequence[Figures], lines: Sequence[Course], *, percent: bool) -> str:
    known = [value for line in lines for dot in line.dots for value in dot if math.isfinite(value)]
    if not known:
        return ""
    room = (0.0, 1.0) if percent else (min(0.0, *known), 1.1 * max(*known, 0.1))
    ys = [(at, f"{at:.0%}") for at in (0.0, 0.5, 1.0)] if percent else ticks(*room)
    axes = Axes((-0.5, len(rows) - 0.5), room)
    inside = axes.frame([(i, str(row.number)) for i, row in enumerate(rows)], ys, "round", "")
    if percent:
        inside += f"<path class='level' d='M{axes.x(-0.5):.1f} {axes.y(0.5):.1f}H{axes.x(len(rows) - 0.5):.1f}'/>"
    for place, line in enumerate(lines):
        inside += _line(axes, line, (place - (len(lines) - 1) / 2) * 0.08)
    told = "; ".join(
        f"round {row.number}, {line.name} {_told(dot, percent=percent)}"
        for line in lines
        for row, dot in zip(rows, line.dots, strict=True)
        if math.isfinite(dot[0])
    )
    return svg(inside, f"{title}: {told}")


def _line(axes: Axes, line: Course, aside: float) -> str:
    """Draw dots with their intervals, a little beside each other, and a line through them."""
    shown = [(axes.x(i + aside), dot) for i, dot in enumerate(line.dots) if math.isfinite(dot[0])]
    path = "L".join(f"{x:.1f} {axes.y(value):.1f}" for x, (value, _, _) in shown)
    inside = f"<path class='line {line.looks}' d='M{path}'/>" if shown else ""
    for x, (value, low, high) in shown:
        if math.isfinite(low):
            inside += f"<path class='range {line.looks}' d='M{x:.1f} {axes.y(low):.1f}V{axes.y(high):.1f}'/>"
        inside += f"<circle class='dot {line.looks}' cx='{x:.1f}' cy='{axes.y(value):.1f}' r='4'/>"
    return inside


def _told(dot: Dot, *, percent: bool) -> str:
    value, low, high = (figure(number, ".0%" if percent else ".1f") for number in dot)
    return f"{value} ({low} to {high})" if math.isfinite(dot[1]) else value
