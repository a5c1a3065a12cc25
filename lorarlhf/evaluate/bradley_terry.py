"""Ratings from comparisons, as arenas publish them (R. A. Bradley and M. E. Terry, Biometrika 39, 1952).

Each player has a strength θ, and i is preferred to j with probability 1 / (1 + exp(θ_j − θ_i)). A tie is half a win
each way. Strengths are shown in Elo's points, 400 / ln 10 of them to a unit: 100 points more mean that one is preferred
in 64 of 100 cases, 200 points in 76. One player is the anchor, at 0 points and without an interval of its own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lorarlhf.evaluate.statistics import preference

POINTS = 400 / math.log(10)
GHOST = 1.0
"""Weight of a tie that is added to every pair that met: without it somebody who never lost is infinitely strong."""
Z = 1.959964

Matrix = list[list[float]]


class Game(NamedTuple):
    """One comparison."""

    first: str
    second: str
    value: float
    """1 where the first was preferred, 0 where the second, one half for a tie."""
    cluster: Hashable
    """Games of one cluster (votes on one prompt) are not independent of each other."""


@dataclass(frozen=True)
class Rating:
    """How strong a player is, in points above the anchor, with a 95 % interval."""

    points: float
    low: float
    high: float
    games: int


def ratings(games: Sequence[Game], anchor: str) -> dict[str, Rating]:
    """Rate everybody whom a chain of games links to the anchor; the others cannot be placed, and are left out."""
    linked = _linked(games, anchor)
    games = [game for game in games if game.first in linked]
    if not games:
        return {}
    free = sorted(linked - {anchor})
    place = {player: i for i, player in enumerate(free)}
    met = {frozenset((game.first, game.second)) for game in games}
    ghosts = [(min(pair), max(pair), 0.5, GHOST) for pair in sorted(met, key=sorted)]
    weighted = [(game.first, game.second, game.value, 1.0) for game in games] + ghosts
    theta, inverse = _maximum(weighted, place)
    spread = _spread(games, theta, inverse, place)
    counts: defaultdict[str, int] = defaultdict(int)
    for game in games:
        counts[game.first] += 1
        counts[game.second] += 1
    found = {anchor: Rating(0.0, 0.0, 0.0, counts[anchor])}
    for player, i in place.items():
        points, around = POINTS * theta[i], POINTS * Z * math.sqrt(spread[i])
        found[player] = Rating(points, points - around, points + around, counts[player])
    return found


def _linked(games: Sequence[Game], anchor: str) -> set[str]:
    known, before = {anchor}, 0
    while len(known) > before:
        before = len(known)
        for game in games:
            if game.first in known or game.second in known:
                known |= {game.first, game.second}
    return known


def _maximum(
    games: Sequence[tuple[str, str, float, float]], place: dict[str, int], rounds: int = 100
) -> tuple[list[float], Matrix]:
    """Maximise the likelihood by Newton's method → strengths, and the inverse of the information there."""
    size = len(place)
    theta = [0.0] * size
    for _ in range(rounds):
        slope, bend = [0.0] * size, [[0.0] * size for _ in range(size)]
        for first, second, value, weight in games:
            ends = _ends(first, second, place)
            chance = preference(sum(sign * theta[i] for i, sign in ends))
            for i, sign in ends:
                slope[i] += weight * (value - chance) * sign
                for j, other in ends:
                    bend[i][j] += weight * chance * (1 - chance) * sign * other
        inverse = _inverse(bend)
        step = [math.fsum(row[i] * slope[i] for i in range(size)) for row in inverse]
        longest = max(map(abs, step))
        # A whole step from far away may overshoot; strengths differ by little, so that this is soon over.
        part = min(1.0, 2.0 / longest) if longest else 1.0
        theta = [value + part * change for value, change in zip(theta, step, strict=True)]
        if longest < 1e-10:
            break
    return theta, inverse


def _spread(games: Sequence[Game], theta: Sequence[float], inverse: Matrix, place: dict[str, int]) -> list[float]:
    """Return each strength's variance: by the model or by the clusters' scores (the sandwich), whichever is larger.

    The sandwich (P. J. Huber, Proc. Fifth Berkeley Symposium 1, 1967) with its scores added up by cluster tells what
    votes on few prompts hide; of very few clusters it knows too little, and the model's variance holds it up.
    """
    size = len(place)
    scores: defaultdict[Hashable, list[float]] = defaultdict(lambda: [0.0] * size)
    for game in games:
        ends = _ends(game.first, game.second, place)
        chance = preference(sum(sign * theta[i] for i, sign in ends))
        for i, sign in ends:
            scores[game.cluster][i] += (game.value - chance) * sign
    count = len(scores)
    found = []
    for i in range(size):
        pushed = (math.fsum(inverse[i][j] * score[j] for j in range(size)) for score in scores.values())
        sandwich = math.fsum(push * push for push in pushed) * (count / (count - 1) if count > 1 else 0.0)
        found.append(max(inverse[i][i], sandwich))
    return found


def _ends(first: str, second: str, place: dict[str, int]) -> list[tuple[int, float]]:
    """Give the places of both players with their signs; the anchor has none."""
    return [(place[player], sign) for player, sign in ((first, 1.0), (second, -1.0)) if player in place]


def _inverse(matrix: Matrix) -> Matrix:
    """Invert a symmetric positive matrix by elimination with pivots."""
    size = len(matrix)
    rows = [[*row, *(float(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda i: abs(rows[i][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        scale = rows[column][column]
        rows[column] = [value / scale for value in rows[column]]
        for i in range(size):
            if i != column and rows[i][column]:
                factor = rows[i][column]
                rows[i] = [value - factor * top for value, top in zip(rows[i], rows[column], strict=True)]
    return [row[size:] for row in rows]
