"""The votes a reward model is measured with: which of them it never learned from, and what it says about their answers.

A pair that was asked twice counts once, as it was said first; a ranking weighs as one vote.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lorarlhf.data.pairs import Pair, pair_of, pairs_of_ranking
from lorarlhf.errors import StoreError
from lorarlhf.evaluate.statistics import preference
from lorarlhf.library import BARE, SavedAdapter, list_saved
from lorarlhf.store import Row, Scored, Store
from lorarlhf.store.scores import answer_key
from lorarlhf.types import Comparison, Outcome, Prompt, Ranking, is_heldout, prompt_key, split_key

KINDS = ("comparisons", "rankings")
SECOND_LOOK = "judge"
"""Source of a vote that was asked for because the model disagrees: not taken at random, so it measures nobody."""


# -- what it learned from ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Learned:
    """The prompts a reward model, and those it was made from, learned votes on."""

    keys: frozenset[str] = frozenset()
    rows: frozenset[tuple[str, int]] = frozenset()
    """Kind and id of every vote there was when it was trained, also those kept apart."""
    shares: tuple[float, ...] = ()
    """Held-out shares of those of them whose votes are not in this workspace: there only the hash tells."""
    caveats: tuple[str, ...] = ()

    def about(self, prompt: Prompt) -> bool:
        """Tell whether votes on a prompt may have been learned from; such a vote measures nothing."""
        return split_key(prompt) in self.keys or not all(is_heldout(prompt, share) for share in self.shares)


def learned_of(store: Store, saved: SavedAdapter) -> Learned:
    """Find what a reward model learned from, also as the ones that it went on from."""
    keys: set[str] = set()
    shares: list[float] = []
    rows: set[tuple[str, int]] = set()
    caveats: list[str] = []
    for name, made in _line(store, saved, caveats):
        share = float(made.get("settings", {}).get("heldout_share", 0.0))
        if made["here"]:
            rows |= {(kind, id) for kind in KINDS for id in made.get("data", {}).get(kind, ())}
            keys |= {
                split_key(row.value.prompt)
                for kind in KINDS
                for row in store.some(kind, made.get("data", {}).get(kind, ()))
                if not is_heldout(row.value.prompt, share)
            }
        else:
            shares.append(share)
            caveats.append(
                f"The votes {name} learned from are not in this workspace: only votes on the {share:.0%} of all "
                "prompts that it kept apart are counted as new to it"
            )
    return Learned(frozenset(keys), frozenset(rows), tuple(shares), tuple(caveats))


def _line(store: Store, saved: SavedAdapter, caveats: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give name, settings and data of a reward model, and of each one before it that it started from."""
    around = [other for other in list_saved(saved.path.parent) if other.name != saved.name]
    runs = {run.id: run for run in store.runs()}
    current: SavedAdapter | None = saved
    while current is not None:
        card = current.card
        yield current.name, {**card, "here": card.get("run") in runs}
        parent = card.get("parents", {}).get("parent", {"name": BARE, "hash": ""})
        # A reward model whose training changed nothing has the weights of what it started from: each is looked at once.
        fitting = [other for other in around if other.hash == parent["hash"]]
        current = next((o for o in fitting if o.name == parent["name"]), fitting[0] if fitting else None)
        around = [other for other in around if other is not current]
        if current is not None and current.stage != "reward":
            return
        if current is None and parent["name"] != BARE:
            yield from _gone(store, parent["name"], caveats)
            return


def _gone(store: Store, name: str, caveats: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the same of a parent that was deleted, from the record of its run."""
    while name != BARE:
        try:
            run = store.find_run(name)
        except StoreError:
            caveats.append(f"{name}, which it started from, is gone; what that one learned from is not known")
            return
        if run.stage != "reward":
            return
        yield name, {"settings": run.settings, "data": run.parents.get("data", {}), "here": True}
        name = run.parents.get("adapters", {}).get("parent", BARE)


# -- what there is to measure with ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoredPair:
    """A pair somebody judged, with what the reward model says about both answers."""

    kind: str
    row: int
    pair: Pair
    chosen: Scored
    rejected: Scored
    learned: bool
    """Whether the reward model may have learned from votes on this prompt."""
    since: bool = True
    """Whether the vote was cast after the reward model was trained."""
    reasons: tuple[str, ...] = ()
    rater: str = ""
    round: int = 0
    second_look: Outcome | None = None
    """What the person said when they looked again: A where the chosen answer was better after all."""

    @property
    def key(self) -> str:
        """Votes with the same key are not independent of each other."""
        return split_key(self.pair.prompt)

    @property
    def gap(self) -> float:
        """By how much the chosen answer scores higher."""
        return self.chosen.score - self.rejected.score

    @property
    def right(self) -> float:
        """1 where the model agrees, 0 where not, one half where it sees no difference."""
        return 0.5 if self.gap == 0 else float(self.gap > 0)

    @property
    def confidence(self) -> float:
        """How sure the model is, from 0.5 to 1."""
        return preference(abs(self.gap))


def answers_of(store: Store) -> list[tuple[Prompt, str]]:
    """List every answer that was voted on, each once per prompt."""
    found = {}
    for _, pair in rows_and_pairs(store):
        for answer in (pair.chosen, pair.rejected):
            found[prompt_key(pair.prompt), answer_key(answer)] = (pair.prompt, answer)
    return list(found.values())


def scored_pairs(store: Store, judge: str, learned: Learned) -> tuple[list[ScoredPair], int]:
    """Join the votes with the scores of a judge → the pairs whose answers are both scored, and how many are not."""
    scores, looks = store.scores(judge), second_looks(store)
    found, missing = [], 0
    for row, pair in rows_and_pairs(store):
        key = prompt_key(pair.prompt)
        chosen, rejected = (scores.get((key, answer_key(answer))) for answer in (pair.chosen, pair.rejected))
        if chosen is None or rejected is None:
            missing += 1
            continue
        origin = row.value.origin
        found.append(
            ScoredPair(
                *(row.kind, row.id, pair, chosen, rejected, learned.about(pair.prompt)),
                since=(row.kind, row.id) not in learned.rows,
                reasons=getattr(row.value, "reasons", ()),
                rater=origin.rater,
                round=origin.round,
                second_look=looks.get(row.id) if row.kind == "comparisons" else None,
            )
        )
    return found, missing


def voted_pairs(store: Store) -> list[Pair]:
    """List the pairs that count, oldest votes first; each asked once."""
    return [pair for _, pair in rows_and_pairs(store)]


def rows_and_pairs(store: Store) -> Iterator[tuple[Row[Any], Pair]]:
    """Give the pairs that count, with the row each comes from; not those that were asked again."""
    second = {again.id for _, again in _repeats(store)}
    for row in store.comparisons():
        if row.id not in second and (pair := pair_of(row.value)):
            yield row, pair
    for ranking in store.rankings():
        for pair in pairs_of_ranking(ranking.value):
            yield ranking, pair


# -- what was asked twice ---------------------------------------------------------------------------------------


def asked_twice(store: Store, rater: str | None = None) -> list[tuple[Comparison, Comparison]]:
    """List the pairs somebody was asked about again at random: what was said first and then, of the same a and b.

    Skips say nothing, and are left out.
    """
    found = []
    for first, again in _repeats(store):
        if again.value.origin.source == SECOND_LOOK or rater not in (None, again.value.origin.rater):
            continue
        second = _aligned(first.value, again.value)
        if Outcome.SKIP not in (first.value.outcome, second.outcome):
            found.append((first.value, second))
    return found


def clear_twice(twice: Iterable[tuple[Comparison, Comparison]]) -> list[tuple[Comparison, Comparison]]:
    """List those of the pairs asked twice on which an answer was preferred both times: consistency is about them."""
    clear = (Outcome.A, Outcome.B)
    return [(one, two) for one, two in twice if one.outcome in clear and two.outcome in clear]


def second_looks(store: Store) -> dict[int, Outcome]:
    """Tell what was said where somebody looked again, by the row of the first vote: A for the answer chosen then."""
    found = {}
    for first, again in _repeats(store):
        if again.value.origin.source == SECOND_LOOK:
            said = _aligned(first.value, again.value).outcome
            found[first.id] = said.swap() if first.value.outcome is Outcome.B else said
    return found


def _repeats(store: Store) -> list[tuple[Row[Comparison], Row[Comparison]]]:
    """Pair every repeat with what counts by now of the vote it repeats; those of votes taken back stand alone."""
    again = [(row, row.value.repeats) for row in store.comparisons() if row.value.repeats is not None]
    known: dict[int, Row[Comparison]] = {row.id: row for row in store.some("comparisons", {id for _, id in again})}
    found = []
    for row, first in again:
        earlier = known[first]
        while earlier.replaced_by is not None:
            earlier = store.some("comparisons", [earlier.replaced_by])[0]
        if not earlier.undone:
            found.append((earlier, row))
    return found


def _aligned(first: Comparison, second: Comparison) -> Comparison:
    return second if second.a == first.a else second.swap()


def places(votes: Iterable[Row[Comparison]]) -> Iterator[tuple[Row[Comparison], bool]]:
    """Give the votes of the app that prefer a side, with whether it was the left one; imports know no sides."""
    for row in votes:
        if row.value.origin.source == "app" and row.value.outcome in (Outcome.A, Outcome.B):
            yield row, row.value.outcome.value == row.value.left


def firsts(rankings: Iterable[Row[Ranking]], written: str) -> Iterator[tuple[float, int]]:
    """Give, for rankings of the app, the share of the first place that the answer shown first got, and their number.

    Those with an answer of the person's own (`written` stands for its adapter) are left out: it always comes first.
    """
    for row in rankings:
        said = row.value
        if said.origin.source == "app" and said.origin.adapters[:1] != (written,):
            best = [rank == min(said.ranks) for rank in said.ranks]
            yield best[0] / sum(best), len(best)
