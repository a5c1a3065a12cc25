"""What a blind comparison begins with: who may take part, and prompts that nobody among them learned from."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lorarlhf.checkpoints import KEEP, find_adapter, is_checkpoint, keep_checkpoint, list_answering
from lorarlhf.errors import AdapterError, DataError
from lorarlhf.evaluate.duel_words import write_cards
from lorarlhf.evaluate.heldout import new_prompts, trained_on
from lorarlhf.evaluate.votes import Learned
from lorarlhf.library import BARE, SavedAdapter
from lorarlhf.store import Contestant, Store
from lorarlhf.types import Prompt, prompt_key
from lorarlhf.workspace import Workspace

MOST = 6
"""Adapters in one duel: fifteen pairs are more than an evening settles."""
MOST_PROMPTS = 1000


@dataclass(frozen=True)
class Field:
    """Who takes part, and what they learned from."""

    contestants: tuple[Contestant, ...]
    learned: Learned

    def check(self, prompt: Prompt) -> None:
        """Raise `DataError` for a prompt one of them may have learned from."""
        if self.learned.about(prompt):
            raise DataError(
                "one of the adapters, or what it was made from, may have learned from this prompt; ask something else"
            )


def field_of(store: Store, place: Workspace, names: Sequence[str], fingerprint: str) -> Field:
    """Find the adapters and checkpoints named.

    Raises `AdapterError` unless they are two or more, differ, and answer on this base.
    """
    if not 2 <= len(names) <= MOST:
        raise AdapterError(f"a duel takes 2 to {MOST} adapters, not {len(names)}")
    saved = {name: find_adapter(store, place, name) for name in names if name != BARE}
    for adapter in saved.values():
        _check(adapter, fingerprint)
    found = [
        Contestant(saved[name].name, saved[name].hash) if name in saved else Contestant("", fingerprint)
        for name in dict.fromkeys(names)
    ]
    if len({one.hash for one in found}) < len(names):
        raise AdapterError(f"{' and '.join(names)}: some of these have the same weights, and answer alike")
    return Field(tuple(found), trained_on(store, saved.values()))


def present(place: Workspace) -> dict[str, str]:
    """Name everybody who can answer today, by content; a checkpoint that became an adapter is called as that is."""
    return {saved.hash: saved.name for saved in reversed(list_answering(place))}


def today(one: Contestant, there: Mapping[str, str]) -> str:
    """Name a contestant as it is called among those `present`; raise `AdapterError` where it is gone."""
    if not one.name:
        return BARE
    if one.hash in there:
        return there[one.hash]
    if is_checkpoint(one.name):
        raise AdapterError(
            f"checkpoint {one.name} is gone, as a run keeps its last {KEEP} alone, so that this duel cannot go on; its "
            "votes stay, and you can begin another one"
        )
    raise AdapterError(f"adapter {one.name} is gone, so that this duel cannot go on; begin another one")


def keep(store: Store, place: Workspace, name: str, new: str = "") -> SavedAdapter:
    """Make a checkpoint an adapter, with what its blind votes came to on its card."""
    saved = keep_checkpoint(store, place, name, new)
    write_cards(store, place, [saved.hash])
    return saved


def _check(adapter: SavedAdapter, fingerprint: str) -> None:
    if adapter.has_head:
        raise AdapterError(f"adapter {adapter.name} is a reward model, which gives no answers; name one that does")
    if adapter.card["base"]["fingerprint"] != fingerprint:
        raise AdapterError(
            f"adapter {adapter.name} was made on base {adapter.card['base']['name']}, which is not the one in memory; "
            "load that first"
        )


def prompts_for(store: Store, field: Field, base: str, wanted: Iterable[Prompt] | None = None) -> list[Prompt]:
    """List prompts none of them learned from, those asked least often first, else at random.

    `wanted` are prompts the person named; those somebody learned from are left out. Raises `DataError` where none is
    left.
    """
    fresh = (
        new_prompts(store, field.learned, base)
        if wanted is None
        else [prompt for prompt in {prompt_key(p): p for p in wanted}.values() if not field.learned.about(prompt)]
    )
    if not fresh:
        raise DataError(
            "there is no prompt here that none of the adapters, or what they were made from, learned from; import "
            "some others, or type your own"
        )
    before = Counter(prompt_key(vote.prompt) for vote in store.duel_votes() if not vote.judge)
    random.SystemRandom().shuffle(fresh)
    return sorted(fresh, key=lambda prompt: before[prompt_key(prompt)])[:MOST_PROMPTS]
