"""A map of everything trained on this base: who came from whom, who beat whom, and the way back. No Gradio.

Adapters stand in columns by how many steps lie behind them; lines lead from parents to children. Names are escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from lorarlhf.evaluate.duels import PEOPLE, result_of
from lorarlhf.library import BARE, SavedAdapter
from lorarlhf.store import DuelVote

WIDE, HIGH, NODE, TALL = 210, 92, 170, 72
"""Pixels between columns and rows, and the size of a node."""
ROLE_NAMES = {"sft": "SFT", "reward": "reward model", "ppo": "policy"}


@dataclass(frozen=True)
class Node:
    """An adapter, or the base, and where it stands."""

    name: str
    stage: str
    column: int
    row: int
    about: str = ""


@dataclass(frozen=True)
class Edge:
    """A way from a parent to a child."""

    start: str
    end: str
    teaches: bool = False
    """Whether the parent only judged."""
    wins: str = ""
    """How often the child was preferred to the parent, by people's blind votes."""


def lineage(adapters: Sequence[SavedAdapter], votes: Sequence[DuelVote], base: str) -> tuple[list[Node], list[Edge]]:
    """Lay out adapters, oldest first, and the ways between them; `base` is the fingerprint of the base."""
    names = {adapter.hash: adapter.name for adapter in reversed(adapters)}
    hashes = {adapter.name: adapter.hash for adapter in adapters} | {BARE: base}
    parents = {adapter.name: _parents(adapter, names) for adapter in adapters}
    columns = {BARE: 0}
    for adapter in adapters:  # a parent is older than its child
        known = [columns[name] for name, _ in parents[adapter.name] if name in columns]
        columns[adapter.name] = 1 + max(known, default=0)
    everybody = [(BARE, "", ""), *((a.name, a.stage, _figure(a)) for a in adapters)]
    nodes: list[Node] = []
    for judges in (False, True):  # below those that answer, so that no line of theirs runs through one that judges
        rows: Counter[int] = Counter()
        above = 1 + max((node.row for node in nodes), default=-1)
        for name, stage, about in everybody:
            if (stage == "reward") is judges:
                nodes.append(Node(name, stage, columns[name], above + rows[columns[name]], about))
                rows[columns[name]] += 1
    own = [vote for vote in votes if vote.judge == PEOPLE]
    edges = []
    for child, some in parents.items():
        for name, teaches in some:
            result = result_of(own, hashes[child], hashes[name]) if name in hashes else None
            wins = f"{result.share.value:.0%} of {result.votes}" if result and result.votes else ""
            edges.append(Edge(name, child, teaches, wins))
    return nodes, edges


def _parents(adapter: SavedAdapter, names: Mapping[str, str]) -> list[tuple[str, bool]]:
    """Name the parents that are here still, and whether they only judged; the base where there is none."""
    found: dict[str, bool] = {}
    for role, parent in adapter.card.get("parents", {}).items():
        name = BARE if parent["name"] == BARE else names.get(parent.get("hash", ""), "")
        if name and name != adapter.name:
            found[name] = found.get(name, True) and role == "reward"
    if not any(not teaches for teaches in found.values()):
        found[BARE] = False
    return list(found.items())


def _figure(adapter: SavedAdapter) -> str:
    metrics = adapter.card.get("metrics", {})
    if adapter.stage == "reward" and isinstance(value := metrics.get("eval/accuracy"), int | float):
        return f"{value:.0%} of test votes"
    if adapter.stage == "ppo" and isinstance(value := metrics.get("eval/kl"), int | float):
        return f"KL {value:.1f}"
    return ""


def lineage_html(nodes: Sequence[Node], edges: Iterable[Edge], keys: Mapping[str, str], on: str, go: str) -> str:
    """Draw the map; `keys` are the rounds that an adapter answers in, `on` the one of now, `go` what precedes a key."""
    if len(nodes) < 2:
        return ""
    places = {node.name: node for node in nodes}
    wide = (max(node.column for node in nodes)) * WIDE + NODE
    high = (max(node.row for node in nodes)) * HIGH + TALL
    edges = list(edges)
    lines = "".join(_line(places[edge.start], places[edge.end], edge) for edge in edges if edge.start in places)
    boxes = "".join(_box(node, keys.get(node.name, ""), on, go) for node in nodes)
    told = "; ".join(f"{edge.end} from {edge.start}{f', wins {edge.wins}' if edge.wins else ''}" for edge in edges)
    return (
        f"<figure class='lineage'><figcaption>Everything trained on this base</figcaption><div class='map'>"
        f"<div style='width:{wide}px;height:{high}px'><svg width='{wide}' height='{high}' role='img' "
        f"aria-label='{escape(told, quote=True)}'>{lines}</svg>{boxes}</div></div>"
        "<p class='subdued'>Dashed: judged by. Shares on a line: how often it was preferred to where it came from, by "
        "your blind votes.</p></figure>"
    )


def _line(start: Node, end: Node, edge: Edge) -> str:
    x1, y1 = start.column * WIDE + NODE, start.row * HIGH + TALL / 2
    x2, y2 = end.column * WIDE, end.row * HIGH + TALL / 2
    bend = (x2 - x1) / 2 if x2 > x1 else 20
    way = f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
    path = f"<path class='{'judged' if edge.teaches else 'line'}' d='{way}'/>"
    middle = f"x='{(x1 + x2) / 2}' y='{(y1 + y2) / 2 - 4}'"
    return path + (f"<text {middle} class='x'>{escape(edge.wins)}</text>" if edge.wins else "")


def _box(node: Node, key: str, on: str, go: str) -> str:
    kind = ROLE_NAMES.get(node.stage, node.stage or "base model")
    about = f" · {escape(node.about)}" if node.about else ""
    back = ""
    if key and key == on:
        back = "<span class='tag'>answers now</span>"
    elif key:
        sr = f"<span class='sr'> {escape(node.name)}</span>"
        back = f"<button type='button' data-name='{escape(go + key, quote=True)}'>Go back to{sr} this round</button>"
    place = f"style='left:{node.column * WIDE}px;top:{node.row * HIGH}px'"
    name = f"<b title='{escape(node.name, quote=True)}'>{escape(node.name)}</b>"
    looks = f"node {escape(node.stage, quote=True)}"
    return f"<div class='{looks}' {place}>{name}<span>{escape(kind)}{about}</span>{back}</div>"
