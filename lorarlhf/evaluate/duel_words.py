"""Blind comparisons in words and as JSON, for the terminal, the page, and the adapters' cards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lorarlhf.checkpoints import is_checkpoint, list_answering, run_of
from lorarlhf.evaluate.duels import PEOPLE, Result, boards, judge_name, names_of
from lorarlhf.figures import figure
from lorarlhf.library import SavedAdapter, revise_card
from lorarlhf.store import Store
from lorarlhf.workspace import Workspace

NOBODY = "nobody was compared blind yet; begin in the tab Judge, or with `lorarlhf judge duel A B`"


def percent(bounds: tuple[float, float]) -> str:
    """Write an interval."""
    return f"{bounds[0]:.0%} to {bounds[1]:.0%}"


def verdict(result: Result, names: dict[str, str], *, always: bool = True) -> str:
    """Say how it stands, in one sentence, by the interval for whoever looks after every vote or only once."""
    if not result.votes:
        return f"No votes yet on {names[result.first]} against {names[result.second]}"
    if result.settled == "second" or (result.settled != "first" and result.share.value < 0.5):
        result = result.swapped()
    one, other = names[result.first], names[result.second]
    bounds = result.always if always else (result.share.low, result.share.high)
    figures = f"{result.share.value:.0%} of {counted(result.votes, 'vote')} ({percent(bounds)}; ties half)"
    if not always:
        return f"{one} wins {figures} against {other}"
    if result.settled == "equal":
        return f"{one} and {other} are as good as equal: {one} wins {figures}"
    if result.settled:
        return f"{one} is preferred to {other}: it wins {figures}"
    return f"Not settled yet: {one} wins {figures} against {other}"


def winner(result: Result) -> str:
    """Give the hash of who is preferred; empty where that is not decided, or both are as good as equal."""
    return {"first": result.first, "second": result.second}.get(result.settled, "")


def stop_rule(result: Result, names: dict[str, str], left: int | None = None) -> str:
    """Say whether to stop or how far it is, in one sentence; `left` is the number of prompts not asked about yet."""
    if result.settled:
        who = f"{names[best]} is better" if (best := winner(result)) else "there is no difference worth more votes"
        return f"Decided: {who}. You can stop"
    if not result.votes:
        return "The first votes will tell how many it takes"
    if result.more is None:
        return "No end in sight: if there is a difference it is small. Stop, or let a judge that never tires go on"
    text = f"About {counted(result.more, 'more vote')} would settle it, if they fall as they did so far"
    if left is not None and left < result.more:
        there = f"only {counted(left, 'prompt')} nobody voted on are left" if left else "every prompt was voted on"
        return f"{text}; {there}, and more votes on the same ones settle nothing: type or import others"
    return text


def counted(number: int, noun: str) -> str:
    """Write a number with its noun."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def told(store: Store, adapters: Sequence[SavedAdapter]) -> str:
    """Write all ratings and results for a terminal."""
    names, lines = names_of(store, adapters), []
    for board in boards(store, adapters):
        lines += [f"by {judge_name(board.judge)}; points above {names[board.anchor]}, with a 95 % interval"]
        for hash, rating in board.placed:
            about = "" if hash == board.anchor else f"  ({figure(rating.low, '+.0f')} to {figure(rating.high, '+.0f')})"
            lines.append(f"  {figure(rating.points, '+5.0f')}{about}  {names[hash]}, {counted(rating.games, 'vote')}")
        lines += [f"     ?  {names[hash]}: no vote links it to {names[board.anchor]}" for hash in board.unplaced]
        people = board.judge[0] == PEOPLE
        for result in board.results:
            lines.append(f"  {verdict(result, names, always=people)}")
            lines += [f"    {stop_rule(result, names)}"] if people else []
        lines.append("")
    return "\n".join(lines).rstrip() or NOBODY


def as_json(store: Store, adapters: Sequence[SavedAdapter]) -> list[dict[str, Any]]:
    """Give all ratings and results as JSON, one object for each kind of judge."""
    names = names_of(store, adapters)
    return [
        {
            "judge": judge_name(board.judge),
            "anchor": names[board.anchor],
            "ratings": [
                {"name": names[hash], "hash": hash, **{k: round(v, 3) for k, v in vars(rating).items()}}
                for hash, rating in board.placed
            ],
            "not_linked": [names[hash] for hash in board.unplaced],
            "results": [result.as_json(names) for result in board.results],
        }
        for board in boards(store, adapters)
    ]


# -- on the cards -----------------------------------------------------------------------------------------------


def card_entries(store: Store, adapters: Sequence[SavedAdapter], hash: str, run: str = "") -> list[dict[str, Any]]:
    """Write what an adapter's card says about its blind comparisons, then about those of other checkpoints of its run.

    `adapters` are all that can answer. Of what a checkpoint and the adapter said of each other it tells once.
    """
    names, found = names_of(store, adapters), []
    steps = {other: name for other, name in _checkpoints(store).items() if run_of(name) == run and other != hash}
    all_boards = boards(store, adapters)
    for one in (hash, *steps):
        about = {"checkpoint": steps[one]} if one in steps else {}
        for board in all_boards:
            for result in board.results:
                if one not in (result.first, result.second) or not result.votes:
                    continue
                own = result if result.first == one else result.swapped()
                against = {"name": names[own.second], "hash": own.second}
                if not (about and own.second == hash):
                    found.append({**about, "against": against, "by": judge_name(board.judge), **own.figures()})
    return found


def _checkpoints(store: Store) -> dict[str, str]:
    """Name the checkpoints that ever took part, by content."""
    took_part = (one for duel in store.duels() for one in duel.contestants)
    return {one.hash: one.name for one in took_part if is_checkpoint(one.name)}


def write_cards(store: Store, place: Workspace, hashes: Iterable[str]) -> None:
    """Bring the cards of these adapters up to date; the votes they are made from are in the workspace already.

    What a checkpoint came to stands on the cards of the adapters that its run made, too.
    """
    wanted, known = set(hashes), _checkpoints(store)
    runs = {run_of(known[hash]) for hash in wanted if hash in known}
    everybody = list_answering(place)
    for adapter in everybody:
        run = str(adapter.card.get("run", ""))
        if adapter.hash in wanted or run in runs:
            revise_card(adapter, {"duels": card_entries(store, everybody, adapter.hash, run)})


def card_lines(card: dict[str, Any]) -> dict[str, str]:
    """Put into words what a card says about blind comparisons: against whom and by whom, and how it did."""
    found = {}
    for one in card.get("duels", []):
        low, high = one["interval_at_any_time" if one["by"] == "people" else "interval"]
        figures = f"wins {one['win_rate']:.0%} of {counted(one['votes'], 'vote')}"
        about = f"(95 % interval {percent((low, high))}; ties half)"
        who = f"{one['checkpoint']} against" if "checkpoint" in one else "against"
        found[f"{who} {one['against']['name']}, by {one['by']}"] = f"{figures} {about}"
    return found
