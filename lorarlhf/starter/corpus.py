"""Writes help-desk conversations: the same seed, the same conversations.

A conversation is one or two user turns, each answered in a manner that is drawn without looking at the request:
`good` (polite, helpful, short), `curt`, `rude`, `rambling`, `off_topic`, `wrong` (answers something else) or
`repeating`. What a reply says depends on the request, how it says it does not; so there is something to learn
from preferences and a short way to go. Knows nothing of torch or tokens.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lorarlhf.starter.careless import reword
from lorarlhf.starter.texts import Intent, about, follow_ups, intents, manners
from lorarlhf.types import Message

TWO_TURNS = 0.25
"""Share of conversations with a second turn."""
ENDLESS = 0.2
"""Share of repeating replies that never end."""


@dataclass(frozen=True)
class Conversation:
    """Messages that end with a reply, and what they were made of."""

    messages: tuple[Message, ...]
    intent: str
    form: str
    """Surface form of the first turn, with its slots open."""
    manner: str
    """Manner of the last reply."""
    ended: bool = True
    """False where the last reply runs on without an end."""
    reaction: str = ""
    """What the customer writes next; empty where they leave."""


class Writer:
    """Writes conversations from one stream of random numbers."""

    def __init__(self, seed: int, mix: str = "base", careless: float = 0.0, *, every_wording: bool = False) -> None:
        """`careless` is the share of first turns that are reworded at random; `every_wording` adds held-out ones."""
        self.rng = random.Random(seed)
        self.careless = careless
        self.every_wording = every_wording
        self._reacting = random.Random(seed + 1)
        self.mix: Mapping[str, float] = manners().mixes[mix]
        self._intents = list(intents().values())
        self._follow_ups = list(follow_ups().values())
        self._thanks = [follow_ups()["thanks"]]

    def conversations(self, heldout: bool = False, system: float = 0.0) -> Iterator[Conversation]:
        """Yield conversations without end; `system` is the share that starts with a system turn."""
        while True:
            yield self.conversation(self.rng.choice(self._intents), heldout=heldout, system=system)

    def conversation(self, intent: Intent, *, heldout: bool = False, system: float = 0.0) -> Conversation:
        """Write one conversation that starts from `intent`."""
        asks = intent.asks + intent.heldout if self.every_wording else intent.asks
        form = self.rng.choice(intent.heldout if heldout else asks)
        if self.careless and self.rng.random() < self.careless:
            form = reword(form, intent, self.rng)
        return self.from_form(intent, form, two_turns=self.rng.random() < TWO_TURNS, system=system)

    def from_form(self, intent: Intent, form: str, *, two_turns: bool, system: float = 0.0) -> Conversation:
        """Write one conversation whose first turn is `form`."""
        bound = self._bind(form)
        messages: list[Message] = []
        if self.rng.random() < system:
            messages.append(Message(role="system", content=self.rng.choice(manners().system)))
        messages.append(Message(role="user", content=self._user(form.format(**bound))))
        manner = self._manner()
        reply, ended = self.reply(intent, manner, bound, may_run_on=not two_turns)
        messages.append(Message(role="assistant", content=reply))
        if two_turns:
            second = about(intent, self._follow_up(intent))
            messages.append(Message(role="user", content=self._vary(self.rng.choice(second.asks))))
            manner = self._manner()
            reply, ended = self.reply(second, manner, bound)
            messages.append(Message(role="assistant", content=reply))
        return Conversation(tuple(messages), intent.name, form, manner, ended, self._reaction(manner))

    def _reaction(self, manner: str) -> str:
        """Write again after a bad reply, mostly; leave after a good one."""
        again = manners().reactions[manner]
        # A stream of its own: the conversations stay what they are without reactions.
        return self._reacting.choice(again.says) if self._reacting.random() < again.share else ""

    def reply(self, intent: Intent, manner: str, bound: Mapping[str, str], may_run_on: bool = True) -> tuple[str, bool]:
        """Answer `intent` in a manner; also tell whether the reply comes to an end."""
        if manner == "repeating":
            return self._repeating(intent, bound, may_run_on)
        text = {
            "good": self._good,
            "curt": self._curt,
            "rude": self._rude,
            "rambling": self._rambling,
            "off_topic": self._off_topic,
            "wrong": self._wrong,
        }[manner](intent)
        return _filled(text, bound), True

    # --- what customers write ---

    def _bind(self, form: str) -> dict[str, str]:
        """Choose a value for every slot; replies say "item" where the customer named none."""
        rng = self.rng
        bound = {slot: rng.choice(values) for slot, values in manners().slots.items()}
        bound["order"] = str(rng.randrange(1000, 10000))
        named = next((bound[slot] for slot in ("item", "wear", "furniture") if f"{{{slot}}}" in form), "item")
        return {**bound, "named": named}

    def _user(self, text: str) -> str:
        """Dress a form: greeting before, courtesy after, or neither."""
        roll = self.rng.random()
        if roll < 0.15:
            # "I" and names keep their capital letter.
            keep = re.match(r"(I|My)\b", text) is not None
            text = self.rng.choice(manners().user_before) + (text if keep else text[0].lower() + text[1:])
        elif roll < 0.3:
            text += self.rng.choice(manners().user_after)
        return self._vary(text)

    def _vary(self, text: str) -> str:
        """Type carelessly now and then: no capitals, no full stop."""
        roll = self.rng.random()
        if roll < 0.2:
            return text.lower().rstrip(".?!")
        return text.rstrip(".?!") if roll < 0.25 else text

    def _follow_up(self, intent: Intent) -> Intent:
        # Asking for the price of the weather would read like a machine.
        return self.rng.choice(self._thanks if intent.topic == "small talk" else self._follow_ups)

    # --- what the desk answers ---

    def _manner(self) -> str:
        return self.rng.choices(list(self.mix), weights=list(self.mix.values()))[0]

    def _pick(self, manner: str, place: str, chance: float = 1.0) -> list[str]:
        """Take one phrase of a manner, or none."""
        return [self.rng.choice(manners().phrases[manner][place])] if self.rng.random() < chance else []

    def _good(self, intent: Intent) -> str:
        regret = intent.sorry and self.rng.random() < 0.5
        before = self._pick("good", "sorry" if regret else "before", 0.8)
        after = self._pick("good", "after", 0.6 if before else 1.0)
        return " ".join([*before, self.rng.choice(intent.solve), *after])

    def _curt(self, intent: Intent) -> str:
        return " ".join([*self._pick("curt", "before", 0.15), self.rng.choice(intent.curt)])

    def _rude(self, intent: Intent) -> str:
        if self.rng.random() < 0.5:
            parts = [*self._pick("rude", "before", 0.7), *self._pick("rude", "refuse")]
        else:
            parts = [*self._pick("rude", "before"), self.rng.choice(intent.curt + intent.solve)]
        return " ".join([*parts, *self._pick("rude", "after", 0.4)])

    def _rambling(self, intent: Intent) -> str:
        places = manners().phrases["rambling"]
        before = self.rng.sample(places["before"], self.rng.choice((1, 2)))
        after = self.rng.sample(places["after"], 1 if len(before) > 1 else self.rng.choice((1, 2)))
        return " ".join([*before, self.rng.choice(intent.solve), *after])

    def _off_topic(self, intent: Intent) -> str:
        return " ".join(self.rng.sample(manners().phrases["off_topic"]["whole"], self.rng.choice((1, 2, 2))))

    def _wrong(self, intent: Intent) -> str:
        other = self.rng.choice([i for i in self._intents if i.facts != intent.facts])
        return " ".join([*self._pick("good", "before", 0.3), self.rng.choice(other.solve)])

    def _repeating(self, intent: Intent, bound: Mapping[str, str], may_run_on: bool) -> tuple[str, bool]:
        own = self.rng.random() < 0.5
        texts = intent.solve + intent.curt if own else manners().phrases["repeating"]["whole"]
        sentence = _filled(self.rng.choice(texts), bound)
        words = len(sentence.split())
        if may_run_on and self.rng.random() < ENDLESS:
            return " ".join([sentence] * (110 // words)), False
        most = max(3, min(6, 55 // words))
        return " ".join([sentence] * self.rng.randrange(3, most + 1)), True


def _filled(text: str, bound: Mapping[str, str]) -> str:
    """Put what the customer named into a reply."""
    named = bound["named"]
    return text.replace("{item}", named).replace("{wear}", named).replace("{furniture}", named)
