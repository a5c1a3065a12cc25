"""Charts of drift and of best-of-n: reward along √KL, as SVG with its numbers in words. No Gradio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lorarlhf.evaluate.bestof import BestOf
from lorarlhf.evaluate.drift import Drift
from lorarlhf.evaluate.paired import Estimate
from lorarlhf.figures import figure
from lorarlhf.ui.judge.charts_svg import Axes, room_for, svg, ticks


class Line(NamedTuple):
    """A series along √KL, with an interval where it is known."""

    name: str
    looks: str
    """Class of the style sheet: `main` or `least`."""
    points: Sequence[tuple[float, float]]
    ends: Sequence[tuple[float, Estimate]] = ()
    """Points that were measured with an interval."""


def drift_svg(drift: Drift) -> str:
    """Draw what the policy gained along √KL: over its run, and as measured now."""
    return _along_kl("Reward gained", drift_lines(drift))


def drift_lines(drift: Drift) -> list[Line]:
    """Give reward and least of the ensemble, as gains over the start; the measured policy stands at the end."""
    lines = []
    for name, looks, course, change in (
        ("reward", "main", [(stop.kl, stop.score) for stop in drift.course], drift.reward_gain),
        ("least of the ensemble", "least", [(stop.kl, stop.least) for stop in drift.course], drift.least_gain),
    ):
        if change is None:
            continue
        some = [(math.sqrt(max(0.0, kl)), value) for kl, value in course if math.isfinite(value)]
        start = some[0][1] if some else 0.0
        points = [(x, value - start) for x, value in some] or [(0.0, 0.0)]
        lines.append(Line(name, looks, points, [(drift.root_kl, change.change)]))
    return lines


def best_of_svg(found: BestOf) -> str:
    """Draw what the best of n gains along √KL, n from 1 to all that were drawn."""
    shown = [(math.sqrt(point.kl), point) for point in found.points]
    lines = [Line("reward", "main", [(x, p.gain.value) for x, p in shown], [(shown[-1][0], found.whole.gain)])]
    if found.heads:
        points = [(x, p.least.value) for x, p in shown]
        lines.append(Line("least of the ensemble", "least", points, [(shown[-1][0], found.whole.least)]))
    marks = [(x, str(p.n)) for x, p in shown if p.n & (p.n - 1) == 0]
    return _along_kl("Reward gained by the best of n", lines, marks, "n, placed by √KL")


def _along_kl(
    title: str, lines: Sequence[Line], marks: Sequence[tuple[float, str]] = (), below: str = "√KL (square root of nats)"
) -> str:
    if not lines:
        return ""
    xs = [x for line in lines for x, _ in [*line.points, *line.ends]]
    ys = [y for line in lines for _, y in line.points] + [0.0]
    ys += [y for line in lines for _, e in line.ends for y in (e.low, e.high, e.value) if math.isfinite(y)]
    wide, tall = (0.0, max(*xs, 0.1) * 1.05), room_for(ys)
    axes = Axes(wide, tall)
    inside = axes.frame(marks or ticks(*wide), ticks(*tall), below, "gained")
    inside += f"<path class='zero' d='M{axes.x(0):.1f} {axes.y(0):.1f}H{axes.x(wide[1]):.1f}'/>"
    for line in lines:
        places = [f"{axes.x(x):.1f} {axes.y(y):.1f}" for x, y in line.points]
        inside += f"<path class='line {line.looks}' d='M{'L'.join(places)}'/>"
        inside += "".join(
            f"<circle class='dot {line.looks}' cx='{axes.x(x):.1f}' cy='{axes.y(y):.1f}' r='2.5'/>"
            for x, y in line.points
        )
        for x, end in line.ends:
            inside += _end(axes, x, end, line.looks)
    return svg(inside, f"{title}: {'; '.join(map(_told, lines))}")


def _end(axes: Axes, x: float, end: Estimate, looks: str) -> str:
    bar = ""
    if math.isfinite(end.low):
        bar = f"<path class='range {looks}' d='M{axes.x(x):.1f} {axes.y(end.low):.1f}V{axes.y(end.high):.1f}'/>"
    return f"{bar}<circle class='dot {looks}' cx='{axes.x(x):.1f}' cy='{axes.y(end.value):.1f}' r='4.5'/>"


def _told(line: Line) -> str:
    points = ", ".join(f"{figure(y, '+.2f')} at {x:.1f}" for x, y in line.points)
    ends = ", ".join(
        f"now {figure(e.value, '+.2f')} ({figure(e.low, '+.2f')} to {figure(e.high, '+.2f')}) at {x:.1f}"
        for x, e in line.ends
    )
    return f"{line.name}: {points}; {ends}" if len(line.points) > 1 else f"{line.name}: {ends}"
