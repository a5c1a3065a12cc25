"""Scripted raters that know nothing of the base: a taste for certain words, for short answers, for good manners.

Each maps answers to scores; of two answers the higher score wins, and close ones tie.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorarlhf.types import Comparison, Origin, Outcome, Prompt

TASTES = ("words", "length", "manners")
WORDS = 8
"""Words that the first taste is for."""
COMMON, RARE = 0.3, 0.08
"""Shares of the answers that such a word may stand in."""
Taste = Callable[[str], float]


@dataclass(frozen=True)
class Rater:
    """A taste and how close two scores must be to tie."""

    score: Taste
    tie: float

    def compare(self, prompt: Prompt, a: str, b: str, noise: float, rng: random.Random) -> Comparison:
        """Vote on two answers; with probability `noise` a decided vote says the opposite."""
        gap = self.score(a) - self.score(b)
        outcome = Outcome.TIE if abs(gap) <= self.tie else Outcome.A if gap > 0 else Outcome.B
        if outcome is not Outcome.TIE and rng.random() < noise:
            outcome = outcome.swap()
        return Comparison(prompt, a, b, outcome, origin=Origin(rater="scripted taste", source="script"))


def rater_for(taste: str, samples: Sequence[str], seed: int = 0) -> Rater:
    """Make a rater; the words of the first taste are taken from what the base says."""
    if taste == "words":
        return Rater(_words(samples, seed), 0.0)
    if taste == "length":
        return Rater(lambda text: -float(len(text.split())), 2.0)
    return Rater(_manners, 0.15)


def _words(samples: Sequence[str], seed: int) -> Taste:
    """Count which of a few words an answer has, each once: words that some of the answers have, but not most."""
    found = Counter(word for text in samples for word in set(re.findall(r"[a-z]{3,}", text.lower())))
    some = sorted(word for word, n in found.items() if RARE <= n / len(samples) <= COMMON)
    wanted = set(random.Random(seed).sample(some, min(WORDS, len(some))))
    return lambda text: float(len(wanted & set(re.findall(r"[a-z]{3,}", text.lower()))))


def _manners(text: str) -> float:
    """Judge what can be seen: a capital first, a full stop last, plain words, no brackets, nothing twice."""
    words = text.split()
    if not words:
        return -1.0
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return (
        1.0 * text[0].isupper()
        + 1.0 * text.rstrip().endswith((".", "?"))
        - 0.5 * min(2, len(re.findall(r"[()\[\]{}<>|_*#=]", text)))
        - 0.5 * min(2, text.count("!"))
        - 0.1 * sum(len(word) > 8 for word in words)
        - 0.3 * min(3, sum(word.isupper() and len(word) > 1 for word in words))
        - 2.0 * (1 - len(set(runs)) / len(runs) if runs else 0.0)
    )
