"""Rewords requests at random, so that a small model learns which words matter instead of whole sentences.

Works on surface forms with open slots: crosses two wordings of the same request, exchanges common phrases, drops
and swaps words, adds detail that does not matter. A wording that is held out is never produced.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache

from lorarlhf.starter.texts import Intent, intents

PHRASES = (
    ("how do i", "how can i", "how could i", "what must i do to", "tell me how i", "how does one"),
    ("can i", "could i", "may i", "is it possible to", "would it be possible to", "am i able to"),
    ("i want to", "i would like to", "i need to", "i have to", "i wish to", "i'd like to"),
    ("i want a", "i would like a", "i need a", "can i get a", "give me a"),
    ("can you", "could you", "would you", "please", "will you"),
    ("where do i", "where can i", "how do i", "where could i"),
    ("where is", "where can i find", "i cannot find", "where do i find"),
    ("do you have", "do you offer", "is there", "have you got", "do you sell"),
    ("my", "the", "our", "a"),
    ("what is", "what's", "tell me", "i want to know", "which is"),
    ("i ordered", "i bought", "i got", "i have", "i paid for"),
    ("when do", "when will", "when does", "how soon"),
    ("shop", "store", "company"),
    ("item", "article", "product", "thing"),
    ("parcel", "box", "package"),
    ("courier", "driver", "delivery man"),
    ("today", "now", "at the moment", "right now", "again"),
)
FORMER = (
    "I have a problem.",
    "It is about order {order}.",
    "I ordered on {day}.",
    "I live in {place}.",
    "One more thing.",
)
DETAILS = (
    "for order {order}",
    "from {day}",
    "of order {order}",
    "on {day}",
    "in order {order}",
    "in your shop",
    "today",
)
THINGS = (
    "for the {item}",
    "of my {item}",
    "for my {item}",
    "with the {item}",
    "for the {item} I ordered",
    "from a {item}",
)
SMALL = frozenset(
    re.findall(
        r"\w+",
        "a an the is are do does did i my me you your it to of for on in and that this was be can there",
    )
)


def reword(form: str, intent: Intent, rng: random.Random) -> str:
    """Return another wording of `form`; its words may be out of order, as people's are."""
    text = form.rstrip(".?!")
    if rng.random() < 0.3:
        text = _cross(text, rng.choice(intent.asks).rstrip(".?!"), rng)
    if rng.random() < 0.6:
        text = _exchange(text, rng)
    if rng.random() < 0.4:
        text = _loosen(text, rng)
    if rng.random() < 0.35:
        free = not any(slot in text for slot in ("{item}", "{wear}", "{furniture}"))
        text += " " + rng.choice(THINGS + DETAILS if free else DETAILS)
    if not text.strip() or plain(text) in _heldout():
        return form
    text = text[0].upper() + text[1:] + rng.choice((".", "?", ""))
    return f"{rng.choice(FORMER)} {text}" if rng.random() < 0.1 else text


def plain(form: str) -> str:
    """Drop what does not make another wording: capitals, points, blanks."""
    return " ".join(re.findall(r"[\w{}']+", form.lower()))


@lru_cache(maxsize=1)
def _heldout() -> frozenset[str]:
    return frozenset(plain(form) for intent in intents().values() for form in intent.heldout)


def _cross(one: str, other: str, rng: random.Random) -> str:
    """Take the first words of one wording and the last of another, or both whole."""
    left, right = one.split(), other.split()
    if rng.random() < 0.3:
        return f"{one}, {other[0].lower()}{other[1:]}"
    return " ".join(left[: rng.randint(1, len(left))] + right[rng.randrange(len(right)) :])


def _exchange(text: str, rng: random.Random) -> str:
    """Put other common phrases in place of those that occur."""
    for ways in PHRASES:
        # The names of slots, in braces, are not words.
        present = [w for w in ways if re.search(rf"(?<!{{)\b{w}\b", text, re.IGNORECASE)]
        if present and rng.random() < 0.7:
            pattern = rf"(?<!{{)\b{present[0]}\b"
            text = re.sub(pattern, rng.choice(ways), text, count=1, flags=re.IGNORECASE)
    return text


def _loosen(text: str, rng: random.Random) -> str:
    """Leave out words, small ones mostly, and let neighbours change places."""
    words = [w for w in text.split() if rng.random() > (0.35 if w.lower() in SMALL else 0.12)]
    for place in range(len(words) - 1):
        if rng.random() < 0.08:
            words[place], words[place + 1] = words[place + 1], words[place]
    return " ".join(words)
