"""Which prompts adapters never learned from: neither they nor any adapter they were made from, in whatever role.

A policy has learned from its reward model, which has learned from votes: their prompts are as little new to it as those
it practised on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from lorarlhf import starter
from lorarlhf.data.everyday import everyday
from lorarlhf.errors import StoreError
from lorarlhf.evaluate.votes import Learned
from lorarlhf.library import BARE, SavedAdapter, list_saved
from lorarlhf.store import KINDS, Store, prompt_of
from lorarlhf.types import Prompt, is_heldout, prompt_key, split_key

FEWEST_NEW = 20
"""Fewer prompts that nobody learned from settle no blind test."""


class _Made(NamedTuple):
    """How an adapter came to be, from its card or, where that is gone, from its run."""

    name: str
    settings: dict[str, Any]
    data: dict[str, list[int]]
    here: bool
    """Whether its rows are those of this workspace."""


def trained_on(store: Store, adapters: Iterable[SavedAdapter]) -> Learned:
    """Find the prompts that any of these adapters, or any they were made from, may have learned from.

    What was made in another workspace names rows that are not here; then the stable hash decides, as it did there.
    """
    keys: set[str] = set()
    shares: list[float] = []
    caveats: list[str] = []
    for made in _forebears(store, list(adapters), caveats):
        share = float(made.settings.get("heldout_share", 0.0))
        if made.here:
            rows = (row for kind in KINDS for row in store.some(kind, made.data.get(kind, ())))
            prompts = (prompt_of(row.value) for row in rows)
            keys |= {split_key(prompt) for prompt in prompts if not is_heldout(prompt, share)}
        else:
            shares.append(share)
            caveats.append(
                f"What {made.name} learned from is not in this workspace: only the {share:.0%} of all prompts that it "
                "kept apart count as new to it"
            )
    return Learned(frozenset(keys), frozenset(), tuple(shares), tuple(caveats))


def _forebears(store: Store, adapters: Sequence[SavedAdapter], caveats: list[str]) -> Iterator[_Made]:
    """Give all of them and all they were made from, each once."""
    # Several may have the same weights: a run whose first step was its best has those of its parent, but other data.
    around: dict[str, dict[str, SavedAdapter]] = {}
    for other in (other for adapter in adapters for other in list_saved(adapter.around)):
        around.setdefault(other.hash, {})[other.name] = other
    runs = {run.id for run in store.runs()}
    waiting, gone, seen = list(adapters), list[str](), set[str]()
    while waiting:
        adapter = waiting.pop()
        if adapter.name in seen:
            continue
        seen.add(adapter.name)
        card = adapter.card
        if "imported" in card:  # of another program: there is nothing to go by, and nothing to refuse a prompt for
            caveats.append(f"{adapter.name} was made elsewhere; whether it learned from these prompts is not known")
            continue
        yield _Made(adapter.name, card.get("settings", {}), card.get("data", {}), card.get("run") in runs)
        for parent in card.get("parents", {}).values():
            if parent.get("hash") in around:
                waiting += around[parent["hash"]].values()
            elif parent["name"] != BARE:
                gone.append(parent["name"])
    yield from _gone(store, gone, caveats)


def _gone(store: Store, names: list[str], caveats: list[str]) -> Iterator[_Made]:
    """Give the same of parents that were deleted, from the records of their runs."""
    seen: set[str] = set()
    while names:
        name = names.pop()
        if name in seen or name == BARE:
            continue
        seen.add(name)
        try:
            run = store.find_run(name)
        except StoreError:
            caveats.append(f"{name}, which one of them was made from, is gone; what it learned from is not known")
            continue
        yield _Made(name, run.settings, run.parents.get("data", {}), True)
        names += run.parents.get("adapters", {}).values()


def new_prompts(store: Store, learned: Learned, base: str) -> list[Prompt]:
    """List the prompts that nobody learned from: imported ones, and those that the starter keeps apart.

    On any other base everyday questions join them where they are fewer than `FEWEST_NEW`.
    """
    there = [row.value for row in store.prompts()]
    if base == "starter":
        there += starter.prompts(heldout=True)
    fresh = _fresh(there, learned)
    return fresh if len(fresh) >= FEWEST_NEW or base == "starter" else _fresh([*fresh, *everyday()], learned)


def _fresh(prompts: Iterable[Prompt], learned: Learned) -> list[Prompt]:
    once = {prompt_key(prompt): prompt for prompt in prompts}
    return [prompt for prompt in once.values() if not learned.about(prompt)]
