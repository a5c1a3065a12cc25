"""A scripted rater that judges replies of the help desk by a formula a person can read.

    answers = share of the request's facts that the reply mentions, less 0.2 for every other request it
              answers in full as well; for a request it does not know, at most 0.7, by the words it shares with
              the request, and 0 for a mere echo
    polite  = 0.5 with no mark of tone, 0.85 with one polite phrase, 1 with two or three, less for gushing;
              each rude phrase takes 0.5 away
    concise = 1 up to 32 words, falling to 0 at 72; less 0.4 where it stops in mid-sentence; times (1 - repeated)
    total   = (0.45 answers + 0.35 polite x (0.5 + 0.5 answers) + 0.2 concise)
              x (1 - 0.7 repeated) x (0.75 if rude) x readable

where `repeated` is the share of three-word runs that occurred before, and `readable` falls from 1 when fewer than
60 % of the words are known to the desk or used by the customer. Politeness counts half where nothing is answered,
so that charm alone does not win. Everything lies in 0..1, a reply without a word gets 0, and any string is
judged. Pure Python: knows nothing of torch or of the model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from lorarlhf.starter.texts import Intent, about, follow_ups, intents, manners
from lorarlhf.types import Comparison, Message, Origin, Outcome, Prompt

TIE = 0.06
"""Totals closer than this are a tie: two good replies differ by less, two manners by more."""
MUCH = 0.35
"""From this difference on one reply is much better."""
BAD = 0.4
"""A tie in which both stay below this is "both bad"."""
CRITERION_TIE = 0.16
KNOWN = 0.5
"""Least likeness of a request to a known one; below it the request counts as unknown."""
LONGEST_GOOD, LONGEST = 32, 72

_STOP = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by can could do does for from have how i if in is it me my of on or our please so "
        "that the there this to us was we what when where which who will with would you your hi hello hey thanks "
        "thank help tell",
    )
)


class Scores(NamedTuple):
    """What the rater thinks of one reply, each in 0..1."""

    answers: float
    polite: float
    concise: float
    total: float


def score(prompt: Iterable[Message], reply: str) -> Scores:
    """Judge one reply to a prompt."""
    text = _plain(reply)
    words = text.split()
    if not words:
        return Scores(0.0, 0.0, 0.0, 0.0)
    turns = tuple(prompt)
    repeated = _repeated(words)
    answers = _answers(turns, text)
    polite, rude = _tone(text)
    length = 1 - max(0, len(words) - LONGEST_GOOD) / (LONGEST - LONGEST_GOOD)
    unended = 0.0 if reply.rstrip().endswith((".", "!", "?")) else 0.4
    concise = max(0.0, length - unended) * (1 - repeated)
    total = 0.45 * answers + 0.35 * polite * (0.5 + 0.5 * answers) + 0.2 * concise
    total *= (1 - 0.7 * repeated) * (0.75 if rude else 1) * _readable(turns, words)
    return Scores(*(round(value, 4) for value in (answers, polite, concise, total)))


def compare(prompt: Prompt, a: str, b: str, *, noise: float = 0.0, rng: random.Random | None = None) -> Comparison:
    """Say which of two replies is better; with probability `noise` say the opposite.

    Ties are never flipped: noise is about taking the wrong side, not about seeing a side where none is.
    """
    first, second = score(prompt, a), score(prompt, b)
    gap = first.total - second.total
    outcome = _side(gap, TIE)
    if outcome is Outcome.TIE and max(first.total, second.total) < BAD:
        outcome = Outcome.BOTH_BAD
    criteria = {
        name: _side(getattr(first, name) - getattr(second, name), CRITERION_TIE)
        for name in ("answers", "polite", "concise")
    }
    if noise > 0 and (rng or random.Random()).random() < noise:
        outcome = outcome.swap()
        criteria = {name: value.swap() for name, value in criteria.items()}
    decided = outcome in (Outcome.A, Outcome.B)
    return Comparison(
        prompt=tuple(prompt),
        a=a,
        b=b,
        outcome=outcome,
        strength=2 if decided and abs(gap) >= MUCH else 1,
        criteria=criteria,
        origin=Origin(rater="scripted rater", source="script"),
    )


def manner_of(prompt: Iterable[Message], reply: str) -> str:
    """Name the manner a reply was given in, as far as its words tell."""
    text = _plain(reply)
    words = text.split()
    if not words:
        return "empty"
    if _repeated(words) > 0.3:
        return "repeating"
    polite, rude = _tone(text)
    if rude:
        return "rude"
    if len(words) > 40:
        return "rambling"
    if _answers(tuple(prompt), text) < 0.5:
        return "off_topic" if _is_chatter(text) else "wrong"
    return "good" if polite > 0.5 else "curt"


def request_of(prompt: Iterable[Message]) -> Intent | None:
    """Find what the last user turn asks for, or None where nothing known is like it."""
    turns = [message["content"] for message in prompt if message["role"] == "user"]
    if not turns:
        return None
    follow_up = _nearest(turns[-1], "follow_ups", least=0.75) if len(turns) > 1 else None
    if follow_up is None:
        name = _nearest(turns[-1], "intents", least=KNOWN)
        return intents()[name] if name else None
    first = next((n for turn in turns[-2::-1] if (n := _nearest(turn, "intents", least=KNOWN))), None)
    return about(intents()[first], follow_ups()[follow_up]) if first else None


# --- criteria ---


def _answers(prompt: Prompt, text: str) -> float:
    request = request_of(prompt)
    if request is None:
        return _overlap(prompt, text)
    hit = sum(_mentions(text, fact) for fact in request.facts) / len(request.facts)
    others = sum(
        1
        for other in intents().values()
        if all(_mentions(text, fact) for fact in other.facts) and not _shares_facts(request, other)
    )
    return max(0.0, hit - 0.2 * others)


def _tone(text: str) -> tuple[float, bool]:
    """Return politeness in 0..1 and whether anything rude was said."""
    polite, rude = _marks()
    kind = len(polite.findall(text))
    harsh = len(rude.findall(text))
    value = {0: 0.5, 1: 0.85}.get(kind, 1.0) - 0.25 * max(0, kind - 3) - 0.5 * harsh
    return min(1.0, max(0.0, value)), harsh > 0


def _repeated(words: list[str]) -> float:
    """Return the share of three-word runs (words, in a short text) that occurred before."""
    size = 3 if len(words) > 5 else 1
    runs = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return 1 - len(set(runs)) / len(runs)


def _overlap(prompt: Prompt, text: str) -> float:
    """Judge a reply to an unknown request: does it at least speak of the same things?"""
    turns = [message["content"] for message in prompt if message["role"] == "user"]
    asked = _content(_plain(turns[-1])) if turns else frozenset()
    said = _content(text)
    if not said - asked:
        return 0.0
    return 0.3 + 0.4 * min(1.0, 2 * len(asked & said) / len(asked)) if asked else 0.5


def _readable(prompt: Prompt, words: list[str]) -> float:
    """Return 1 for a reply of words, less for letters thrown together."""
    asked = frozenset(word for message in prompt for word in _plain(message["content"]).split())
    known = sum(word.rstrip("!") in _vocabulary() or word in asked for word in words)
    return min(1.0, known / (0.6 * len(words)))


def _is_chatter(text: str) -> bool:
    said = _content(text)
    known = _content(_plain(" ".join(manners().phrases["off_topic"]["whole"])))
    return len(said & known) > 0.6 * len(said)


def _side(gap: float, tie: float) -> Outcome:
    if abs(gap) < tie:
        return Outcome.TIE
    return Outcome.A if gap > 0 else Outcome.B


# --- words ---


def _plain(text: str) -> str:
    """Lower-case words with one blank between them; "!" stays, for it sets "of course!" apart."""
    return " ".join(re.findall(r"[\w']+!?", text.lower()))


def _content(text: str) -> frozenset[str]:
    return frozenset(word.rstrip("!") for word in text.split()) - _STOP


@lru_cache(maxsize=4096)
def _fact(fact: str) -> re.Pattern[str]:
    # A fact may start inside a longer word's beginning ("pack" finds "packed") but not in its middle.
    return re.compile(r"\b(?:" + "|".join(re.escape(_plain(way)) for way in fact.split("|")) + ")")


def _mentions(text: str, fact: str) -> bool:
    return _fact(fact).search(text) is not None


@lru_cache(maxsize=1)
def _marks() -> tuple[re.Pattern[str], re.Pattern[str]]:
    words = manners()
    polite, rude = (re.compile(r"\b(?:" + "|".join(m) + ")") for m in (words.polite_marks, words.rude_marks))
    return polite, rude


def _shares_facts(request: Intent, other: Intent) -> bool:
    """Tell whether a right answer to `request` answers `other` in full too, which is then no fault."""
    texts = [_plain(text) for text in request.solve + request.curt]
    return other.facts == request.facts or any(all(_mentions(text, fact) for fact in other.facts) for text in texts)


@lru_cache(maxsize=1)
def _vocabulary() -> frozenset[str]:
    """Return every word the desk or its customers use."""
    words = manners()
    phrases = [p for places in words.phrases.values() for texts in places.values() for p in texts]
    for request in (*intents().values(), *follow_ups().values()):
        phrases += [*request.solve, *request.curt, *request.asks, *request.heldout, request.time, request.cost]
    phrases += [value for values in words.slots.values() for value in values]
    return frozenset(word.rstrip("!") for phrase in phrases for word in _plain(phrase).split())


@lru_cache(maxsize=1)
def _frame() -> frozenset[str]:
    """Return the words of greetings and courtesies, which say little about a request."""
    words = manners()
    plain = _plain(" ".join(words.user_before + words.user_after)).replace("!", "")
    return frozenset(plain.split()) | {"can", "could"}


@lru_cache(maxsize=1)
def _slot_words() -> re.Pattern[str]:
    values = [value.lower() for values in manners().slots.values() for value in values]
    return re.compile(r"\b(?:\d+|" + "|".join(sorted(values, key=len, reverse=True)) + r")s?\b")


def _shape(text: str) -> frozenset[str]:
    """Reduce a request to its set of words, with what fills the slots made alike."""
    plain = re.sub(r"\{\w+\}s?", "7", text.lower())
    plain = _slot_words().sub("7", plain)
    return frozenset(re.findall(r"[\w']+", plain))


@lru_cache(maxsize=2)
def _forms(which: str) -> dict[frozenset[str], str]:
    """Return the name of the request by the shape of each of its surface forms."""
    known = intents() if which == "intents" else follow_ups()
    return {_shape(form): name for name, i in known.items() for form in i.asks + i.heldout}


def _weight(words: frozenset[str]) -> float:
    return len(words) - 0.8 * len(words & _frame())


@lru_cache(maxsize=8192)
def _nearest(text: str, which: str, least: float) -> str | None:
    """Name the request whose surface form is most like `text`; greetings around it hardly count."""
    said, forms = _shape(text), _forms(which)
    if said in forms:
        return forms[said]
    likeness = {form: _weight(said & form) / (_weight(said | form) or 1) for form in forms if said & form}
    best = max(likeness, key=likeness.__getitem__, default=None)
    return forms[best] if best is not None and likeness[best] >= least else None
