"""A prompt with the answers to judge, and what is said about them as rows. Knows neither engine, store nor Gradio.

Two ways to name an answer, never mixed:

    number    as drawn: number 0 is the first adapter's, number 1 the second's, and so on by turns
    place     as it stands on the page: place 0 is leftmost, and the page calls it A

What the rows keep:

- A comparison's `a` is number 0 and its `b` number 1, whatever the page called them; `left` says which stood at A.
- A ranking lists the answers by place: A, B, C …
- A better answer, written by the person, is a demonstration and a ranking of three: the written one, then A, then B,
  with ranks that put the written one first. One row says it all, may hold a tie, and weighs as much as one vote.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from lorarlhf.errors import DataError
from lorarlhf.settings import SamplingSettings
from lorarlhf.types import Comparison, Demonstration, Origin, Outcome, Prompt, Ranking

PERSON = "(person)"
"""Stands where an adapter's name would, for an answer the person wrote; no adapter can have it."""
WRITTEN = "written while rating"

VERDICTS: dict[str, tuple[Outcome, int, str]] = {
    "a2": (Outcome.A, 2, "A much better"),
    "a1": (Outcome.A, 1, "A better"),
    "tie": (Outcome.TIE, 1, "Tie"),
    "b1": (Outcome.B, 1, "B better"),
    "b2": (Outcome.B, 2, "B much better"),
    "both_bad": (Outcome.BOTH_BAD, 1, "Both bad"),
    "skip": (Outcome.SKIP, 1, "Skipped"),
}
"""What can be said about the answers at places A and B: outcome, strength, words."""
PREFERRED = {"a2": 0, "a1": 0, "tie": 0, "b1": 1, "b2": 1}
"""The place of the answer a conversation goes on with; none after "both bad" and "skip"."""


@dataclass(frozen=True)
class Recipe:
    """All that decides how answers are drawn, but for prompt and seed."""

    base: str
    """Fingerprint of the base."""
    adapters: tuple[tuple[str, str], ...]
    """Name and hash per number; the bare base has no name, and the base's fingerprint for a hash."""
    sampling: SamplingSettings
    round: int = 0
    """Policies trained so far."""

    def groups(self) -> list[tuple[str, list[int]]]:
        """List each adapter with the numbers of its answers."""
        names = dict.fromkeys(name for name, _ in self.adapters)
        return [(name, [i for i, (own, _) in enumerate(self.adapters) if own == name]) for name in names]

    def origin(self, seed: int) -> Origin:
        """Say where answers drawn with `seed` come from; a second adapter draws with the next seed."""
        seeds = {number: seed + i for i, (_, numbers) in enumerate(self.groups()) for number in numbers}
        return Origin(
            round=self.round,
            source="app",
            adapters=tuple(name for name, _ in self.adapters),
            adapter_hashes=tuple(hash for _, hash in self.adapters),
            sampling={
                **self.sampling.model_dump(mode="json", exclude={"batch_rows"}),
                "seed": seed,
                "seeds": [seeds[i] for i in sorted(seeds)],
            },
        )


READABLE_LETTERS, WORTH_SECONDS = 60, 5.0
"""Answers of which so much is there can be judged before they are whole, where the rest would take so long."""


@dataclass
class Pace:
    """How fast answers are written, and how long they may take yet."""

    tokens: int = 0
    """Of the longest answer that is being written."""
    limit: int = 0
    """Tokens at most."""
    behind: int = 0
    """Groups of answers that come after those that are being written."""
    began: float = 0.0
    """When the first token was there."""
    now: float = 0.0
    first: int = 0
    """Tokens there were then."""

    def look(self, tokens: int, limit: int, now: float) -> None:
        """Take in how far the answers are."""
        if tokens < self.tokens or not self.began:
            self.began, self.first = now, tokens
        self.tokens, self.limit, self.now = tokens, limit, now

    @property
    def rate(self) -> float | None:
        """Give the tokens a second of each answer; None before there are two looks."""
        seconds = self.now - self.began
        return (self.tokens - self.first) / seconds if seconds > 0.3 and self.tokens > self.first else None

    @property
    def left(self) -> float | None:
        """Give the seconds that the answers may take yet, if all of them are as long as they may be."""
        rate = self.rate
        return (self.limit - self.tokens + self.behind * self.limit) / rate if rate else None

    def told(self) -> dict[str, Any]:
        """Tell a page."""
        rate, left = self.rate, self.left
        if rate is None or left is None:
            return {"tokens": self.tokens, "limit": self.limit}
        return {"tokens": self.tokens, "limit": self.limit, "rate": round(rate, 1), "left": round(left)}


@dataclass(eq=False)
class Sheet:
    """One prompt and its answers, on their way to the person or in front of them."""

    prompt: Prompt
    texts: list[str]
    """By number; they grow while they are drawn."""
    order: tuple[int, ...]
    """The number that stands at each place."""
    recipe: Recipe | None = None
    """None where the answers come from a row."""
    origin: Origin = field(default_factory=Origin)
    whole: bool = False
    cut_off: list[bool] = field(default_factory=list)
    """By number: whether the limit of tokens ended an answer."""
    equal: bool = False
    """Every answer is the same, also after drawing again."""
    problem: str = ""
    """Why there are no answers."""
    tries: int = 0
    """How often its answers were drawn; again where they were all the same."""
    repeats: int | None = None
    """The earlier comparison this one asks again."""
    id: str = field(default_factory=lambda: uuid4().hex)
    """Tells two showings of the same pair apart."""
    shown: float = 0.0
    """When a page first had it whole."""
    pace: Pace = field(default_factory=lambda: Pace())
    """How far its answers are."""

    @classmethod
    def blank(cls, prompt: Prompt, recipe: Recipe) -> Sheet:
        """Take a new sheet for a prompt; chance decides who stands where."""
        numbers = list(range(len(recipe.adapters)))
        secrets.SystemRandom().shuffle(numbers)
        return cls(prompt, [""] * len(numbers), tuple(numbers), recipe)

    @classmethod
    def of_comparison(cls, said: Comparison, *, swapped: bool = False) -> Sheet:
        """Lay the answers of a comparison out again, as they stood or with sides swapped."""
        order = (0, 1) if (said.left == "a") != swapped else (1, 0)
        return cls(said.prompt, [said.a, said.b], order, origin=_unsaid(said.origin), whole=True)

    @classmethod
    def of_ranking(cls, said: Ranking) -> Sheet:
        """Lay the answers of a ranking out again, without the one the person wrote."""
        skip = int(is_written(said))
        origin = replace(
            _unsaid(said.origin),
            adapters=said.origin.adapters[skip:],
            adapter_hashes=said.origin.adapter_hashes[skip:],
        )
        texts = list(said.completions[skip:])
        return cls(said.prompt, texts, tuple(range(len(texts))), origin=origin, whole=True)

    @property
    def done(self) -> bool:
        """Tell whether nothing more is to be drawn."""
        return self.whole or bool(self.problem)

    @property
    def placed(self) -> list[str]:
        """List the answers by place."""
        return [self.texts[number] for number in self.order]

    @property
    def cut(self) -> list[bool]:
        """Tell by place which answers the limit of tokens ended."""
        return [self.cut_off[number] for number in self.order] if self.cut_off else [False] * len(self.order)

    @property
    def sources(self) -> list[str]:
        """Name the adapters by place; the bare base is called `base`."""
        if len(self.origin.adapters) != len(self.order):
            return ["unknown"] * len(self.order)
        return [self.origin.adapters[number] or "base" for number in self.order]

    def begin(self, seed: int) -> None:
        """Empty the sheet, to be filled with answers drawn with `seed`."""
        assert self.recipe is not None
        self.texts, self.origin, self.problem = [""] * len(self.order), self.recipe.origin(seed), ""
        self.cut_off, self.pace = [False] * len(self.order), Pace()

    @property
    def readable(self) -> bool:
        """Tell whether it can be judged already, though more is on its way, and whether that saves time."""
        enough = all(len(text.strip()) >= READABLE_LETTERS for text in self.texts)
        return not self.done and len(self.texts) == 2 and enough and (self.pace.left or 0.0) >= WORTH_SECONDS

    def stop(self) -> None:
        """Take the answers as they are: the person has seen enough of them."""
        self.origin = replace(self.origin, sampling={**self.origin.sampling, "stopped": True})
        self.cut_off = [True] * len(self.order)
        self.finish()

    def finish(self) -> None:
        """Note that the answers are whole."""
        self.whole, self.equal = True, len(set(self.texts)) == 1

    def show(self) -> None:
        """Note that a page has it: the time to decide begins."""
        self.shown = self.shown or time.monotonic()

    # -- what is said about it --------------------------------------------------------------------------------

    def comparison(self, verdict: str, about: About) -> Comparison:
        """Say which of two answers is better; `verdict` is one of `VERDICTS`."""
        if verdict not in VERDICTS or len(self.texts) != 2:
            raise DataError(f"{verdict!r} cannot be said about {len(self.texts)} answers")
        outcome, strength, _ = VERDICTS[verdict]
        a_is_left = self.order[0] == 0
        return Comparison(
            prompt=self.prompt,
            a=self.texts[0],
            b=self.texts[1],
            outcome=outcome if a_is_left else outcome.swap(),
            strength=strength,
            left="a" if a_is_left else "b",
            criteria={name: said if a_is_left else said.swap() for name, said in about.criteria.items()},
            reasons=about.reasons,
            repeats=self.repeats,
            origin=self._said(self.origin, about),
        )

    def ranking(self, ranks: Sequence[int], about: About) -> Ranking:
        """Say in which order the answers stand; `ranks` goes by place, 1 is best, equal numbers are ties."""
        if len(ranks) != len(self.texts):
            raise DataError(f"{len(ranks)} ranks for {len(self.texts)} answers; give each answer one")
        return Ranking(self.prompt, tuple(self.placed), dense(ranks), self._said(self._placed_origin(), about))

    def written(self, text: str, place: int, better: str, about: About) -> tuple[Demonstration, Ranking]:
        """Put the person's own answer before both; `better` of those is `a`, `b` or, by place, `tie`."""
        text = text.strip()
        if len(self.texts) != 2 or place not in (0, 1) or better not in ("a", "b", "tie"):
            raise DataError("only one of two answers can be rewritten")
        if not text:
            raise DataError("an empty answer is no better one; write something, or press Esc")
        if text in (answer.strip() for answer in self.placed):
            raise DataError("this is one of the answers as it was; change something, or press Esc")
        ranks = {"a": (1, 2, 3), "b": (1, 3, 2), "tie": (1, 2, 2)}[better]
        origin = self._said(self._placed_origin(), about)
        origin = replace(origin, adapters=(PERSON, *origin.adapters), adapter_hashes=("", *origin.adapter_hashes))
        from_adapter = f"{WRITTEN}, from an answer of {self.sources[place]}"
        alone = replace(origin, adapters=(PERSON,), adapter_hashes=("",), sampling={}, note=about.note or from_adapter)
        return Demonstration(self.prompt, text, alone), Ranking(self.prompt, (text, *self.placed), ranks, origin)

    def best_of(self, ranks: Sequence[int]) -> str:
        """Give the answer that ranks first; of equals the leftmost."""
        return self.placed[min(range(len(ranks)), key=lambda place: ranks[place])]

    def _said(self, origin: Origin, about: About) -> Origin:
        seconds = round(time.monotonic() - self.shown, 3) if self.shown else None
        return replace(origin, source="app", rater=about.rater, note=about.note, seconds=seconds)

    def _placed_origin(self) -> Origin:
        """Give the origin with what it says per answer sorted by place."""

        def by_place(items: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(items[number] for number in self.order) if len(items) == len(self.order) else tuple(items)

        sampling = dict(self.origin.sampling)
        if "seeds" in sampling:
            sampling["seeds"] = list(by_place(sampling["seeds"]))
        return replace(
            self.origin,
            adapters=by_place(self.origin.adapters),
            adapter_hashes=by_place(self.origin.adapter_hashes),
            sampling=sampling,
        )


@dataclass(frozen=True)
class About:
    """What a person may add to a verdict."""

    rater: str = ""
    note: str = ""
    reasons: tuple[str, ...] = ()
    criteria: Mapping[str, Outcome] = field(default_factory=dict)
    """Outcome per criterion, by place: A is better, B is better, or tie."""


def verdict_of(said: Comparison) -> str:
    """Name what was said in the words of the page it was said on."""
    outcome = said.outcome if said.left == "a" else said.outcome.swap()
    if outcome in (Outcome.A, Outcome.B):
        return f"{outcome.value}{2 if said.strength > 1 else 1}"
    return outcome.value


def is_written(said: Ranking) -> bool:
    """Tell whether a ranking is about an answer the person wrote."""
    return said.origin.adapters[:1] == (PERSON,)


def dense(ranks: Sequence[int]) -> tuple[int, ...]:
    """Number ranks 1, 2, 3 … without gaps, ties kept."""
    levels = sorted(set(ranks))
    return tuple(levels.index(rank) + 1 for rank in ranks)


def _unsaid(origin: Origin) -> Origin:
    """Take off an origin what belongs to the verdict."""
    return replace(origin, rater="", note="", seconds=None)
