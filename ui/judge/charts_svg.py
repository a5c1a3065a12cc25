"""Small charts, drawn on the server: intervals as table rows, calibration, scatter and boxes as SVG. No Gradio.

Each has its numbers in words, for who does not see it; colours come from `assets/judge.css`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise

from lorarlhf.evaluate.health import Calibration, Drawn
from lorarlhf.evaluate.statistics import Share, quantile
from lorarlhf.figures import figure

WIDE, HIGH, LEFT, BOTTOM, EDGE = 340, 200, 40, 30, 14
MOST_DOTS = 400
TREND_POINTS, TREND_DOTS = 8, 10
"""Points of the line through a cloud at most, and dots that each of them is the mean of at least."""


def intervals_html(
    title: str, rows: Iterable[tuple[str, Share]], of: str = "votes", marks: Sequence[tuple[float, str]] = ()
) -> str:
    """Write shares as a table, each with its 95 % interval drawn; `marks` are levels to compare with, and their names.

    Without marks a line stands at one half.
    """
    levels = marks or ((0.5, "a half"),)
    lines = "".join(
        f"<i class='level' style='left:{100 * at:.1f}%' title='{escape(n, quote=True)}'></i>" for at, n in levels
    )
    body = "".join(_interval(name, share, lines) for name, share in rows if share)
    if not body:
        return ""
    return (
        f"<table class='intervals'><caption class='sr'>{escape(title)}</caption><thead><tr><td></td><td></td>"
        f"<th scope='col'>95 % interval</th><th scope='col'>{escape(of.capitalize())}</th></tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def _interval(name: str, share: Share, lines: str) -> str:
    left, width = 100 * share.low, 100 * (share.high - share.low)
    return (
        f"<tr><th scope='row'>{escape(name)}</th><td class='plot'><div class='track' aria-hidden='true'>{lines}"
        f"<i class='range' style='left:{left:.1f}%;width:{width:.1f}%'></i>"
        f"<i class='dot' style='left:{100 * share.value:.1f}%'></i></div></td>"
        f"<td class='n'>{share.value:.0%} <span>{share.low:.0%} – {share.high:.0%}</span></td>"
        f"<td class='n'><span>{share.trials:,.4g}</span></td></tr>"
    )


# -- SVG --------------------------------------------------------------------------------------------------------


class Axes:
    """Where numbers stand in a drawing."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self._x, self._y = x, y

    def x(self, value: float) -> float:
        """Place a number of the horizontal axis."""
        low, high = self._x
        return LEFT + (value - low) / ((high - low) or 1) * (WIDE - LEFT - EDGE)

    def y(self, value: float) -> float:
        """Place a number of the vertical axis."""
        low, high = self._y
        return HIGH - BOTTOM - (value - low) / ((high - low) or 1) * (HIGH - BOTTOM - EDGE)

    def frame(self, xs: Sequence[tuple[float, str]], ys: Sequence[tuple[float, str]], x_name: str, y_name: str) -> str:
        """Draw the grid with its labels."""
        down, up, right = HIGH - BOTTOM, EDGE, WIDE - EDGE
        lines = [f"<path class='grid' d='M{LEFT} {self.y(at):.1f}H{right}'/>" for at, _ in ys]
        words = [f"<text class='y' x='{LEFT - 5}' y='{self.y(at) + 3.5:.1f}'>{text}</text>" for at, text in ys]
        words += [f"<text class='x' x='{self.x(at):.1f}' y='{down + 13}'>{text}</text>" for at, text in xs]
        names = f"<text class='x' x='{(LEFT + right) / 2}' y='{HIGH - 3}'>{escape(x_name)}</text>"
        names += f"<text class='x' transform='translate(9 {(up + down) / 2}) rotate(-90)'>{escape(y_name)}</text>"
        return "".join(lines + words) + names


def svg(inside: str, told: str, high: int = HIGH) -> str:
    """Make a drawing of its parts, told in words."""
    return f"<svg viewBox='0 0 {WIDE} {high}' role='img' aria-label='{escape(told, quote=True)}'>{inside}</svg>"


def calibration_svg(found: Calibration) -> str:
    """Draw how often it is right against how sure it is; on the diagonal both are the same."""
    axes = Axes((0.5, 1.0), (0.0, 1.0))
    shares = [(at / 10, f"{10 * at}%") for at in range(5, 11)]
    frame = axes.frame(shares, [(at, f"{at:.0%}") for at in (0, 0.5, 1.0)], "how sure it is", "how often it is right")
    diagonal = f"<path class='level' d='M{axes.x(0.5)} {axes.y(0.5)}L{axes.x(1)} {axes.y(1)}'/>"
    points = [(axes.x(one.confidence), one) for one in found.bins]
    bars = "".join(
        f"<path class='range' d='M{x:.1f} {axes.y(b.right.low):.1f}V{axes.y(b.right.high):.1f}'/>" for x, b in points
    )
    line = "M" + "L".join(f"{x:.1f} {axes.y(one.right.value):.1f}" for x, one in points)
    dots = "".join(f"<circle class='dot' cx='{x:.1f}' cy='{axes.y(b.right.value):.1f}' r='4'/>" for x, b in points)
    told = "; ".join(
        f"{one.confidence:.0%} sure, right {one.right.value:.0%} of {one.right.trials:,.4g}" for one in found.bins
    )
    return svg(f"{frame}{diagonal}{bars}<path class='line' d='{line}'/>{dots}", f"Calibration: {told}")


def scatter_svg(points: Sequence[tuple[int, float]]) -> str:
    """Draw the score of answers against their length, with the mean of neighbours as a line."""
    tokens, scores = [t for t, _ in points], [s for _, s in points]
    axes = Axes((0, max(*tokens, 1)), room_for(scores))
    frame = axes.frame(ticks(0, max(*tokens, 1)), ticks(*room_for(scores)), "tokens of the answer", "score")
    stride = math.ceil(len(points) / MOST_DOTS)
    dots = "".join(
        f"<circle class='faint' cx='{axes.x(t):.1f}' cy='{axes.y(s):.1f}' r='2'/>" for t, s in points[::stride]
    )
    trend = _trend(points)
    line = "M" + "L".join(f"{axes.x(t):.1f} {axes.y(s):.1f}" for t, s in trend)
    told = "; ".join(f"about {t:.0f} tokens, {figure(s, '+.2f')}" for t, s in trend)
    return svg(f"{frame}{dots}<path class='line' d='{line}'/>", f"Mean score by length of the answer: {told}")


def _trend(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """Average neighbours in length, about as many in each group."""
    ordered = sorted(points)
    groups = max(1, min(TREND_POINTS, len(ordered) // TREND_DOTS))
    edges = [round(i * len(ordered) / groups) for i in range(groups + 1)]
    found = []
    for start, end in pairwise(edges):
        some = ordered[start:end]
        found.append((sum(t for t, _ in some) / len(some), sum(s for _, s in some) / len(some)))
    return found


def boxes_svg(drawn: Sequence[Drawn], voted: Sequence[float]) -> str:
    """Draw where the scores of each one's answers lie: the middle half as a box, nearly all as a line."""
    rows = [(one.name, one.scores) for one in drawn]
    rows += [("voted on", tuple(voted))] if voted else []
    every = [score for _, scores in rows for score in scores]
    low, high = room_for(every)
    step, name_room = 30, 86
    tall = step * len(rows) + BOTTOM

    def x(value: float) -> float:
        return name_room + (value - low) / (high - low) * (WIDE - name_room - EDGE)

    inside, told = "", []
    for at, text in ticks(low, high):
        inside += f"<path class='grid' d='M{x(at):.1f} 0V{tall - BOTTOM}'/>"
        inside += f"<text class='x' x='{x(at):.1f}' y='{tall - 14}'>{text}</text>"
    for place, (name, scores) in enumerate(rows):
        y = step * place + step / 2
        least, lower, middle, upper, most = (quantile(scores, q) for q in (0.05, 0.25, 0.5, 0.75, 0.95))
        inside += (
            f"<text class='name' x='0' y='{y + 3.5}'>{escape(_short(name))}</text>"
            f"<path class='range' d='M{x(least):.1f} {y}H{x(most):.1f}'/>"
            f"<rect class='box' x='{x(lower):.1f}' y='{y - 7}' height='14' rx='2' "
            f"width='{max(1.0, x(upper) - x(lower)):.1f}'/>"
            f"<path class='middle' d='M{x(middle):.1f} {y - 9}V{y + 9}'/>"
        )
        half = [figure(value, "+.2f") for value in (lower, middle, upper)]
        told.append(f"{name}: median {half[1]}, half of them from {half[0]} to {half[2]}")
    inside += f"<text class='x' x='{(name_room + WIDE) / 2}' y='{tall - 2}'>score</text>"
    return svg(inside, f"Scores: {'; '.join(told)}", tall)


def _short(name: str) -> str:
    name = "base model" if name == "base" else name
    return name if len(name) <= 14 else f"{name[:13]}…"


def room_for(values: Sequence[float]) -> tuple[float, float]:
    """Give a little more than the values need."""
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Choose round numbers, four or so."""
    size = (high - low) / 4
    unit = 10 ** math.floor(math.log10(size))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= size)
    first = math.ceil(low / step)
    found = [first * step + i * step for i in range(int((high - first * step) / step + 1e-9) + 1)]
    digits = max(0, -math.floor(math.log10(step)))
    return [(at, figure(at, f".{digits}f")) for at in found]
