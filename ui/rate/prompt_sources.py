"""Where prompts come from: a line of them, what the person types, or the conversation so far.

What a person typed is kept in the workspace until it was rated, so that nothing is lost when the app ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Protocol

from lorarlhf import starter
from lorarlhf.data.everyday import everyday
from lorarlhf.data.practice import TYPED
from lorarlhf.errors import DataError
from lorarlhf.store import Store
from lorarlhf.types import Message, Prompt, prompt_key, user

PLAIN_FIRST = 10
"""Prompts that whoever is new here is asked about first are single questions, where there are any."""
TYPED_META, CHAT_META = "rating typed", "rating chat"


class Source(Protocol):
    """Gives prompts to answer."""

    def take(self, busy: Collection[str]) -> Prompt | None:
        """Give the next prompt whose key is not among the busy ones; None where there is none now."""

    def done(self, prompt: Prompt, answer: str) -> None:
        """Hear that a prompt was judged, and the answer to go on with; empty where none was good."""

    def drop(self, prompt: Prompt) -> None:
        """Hear that the person wants another prompt instead."""


class Line:
    """Many prompts in a fixed random order, those asked least often first.

    The order is that of the keys: whoever rates an evening's worth sees prompts of every kind, not a file's first.
    """

    def __init__(self, store: Store, prompts: Callable[[], list[Prompt]], stamp: Callable[[], Any] = lambda: 0) -> None:
        self._store, self._read, self._stamp = store, prompts, stamp
        self._seen: Any = None
        self._prompts: list[tuple[str, Prompt]] = []
        self._asked: Counter[str] = Counter()

    def take(self, busy: Collection[str]) -> Prompt | None:
        """Give the next prompt."""
        if (stamp := (self._stamp(),)) != self._seen:
            self._seen = stamp
            self._prompts = sorted({prompt_key(prompt): prompt for prompt in self._read()}.items())
            self._asked = asked(self._store)
        free = [item for item in self._prompts if item[0] not in busy]
        if not free:
            return None
        new = self._asked.total() < PLAIN_FIRST
        key, prompt = min(free, key=lambda item: (self._asked[item[0]], new and len(item[1]) > 1))
        self._asked[key] += 1
        return prompt

    def done(self, prompt: Prompt, answer: str) -> None:
        """Note nothing: it was counted when it was taken."""

    def drop(self, prompt: Prompt) -> None:
        """Note nothing: its turn comes again when the others were asked as often."""


class FailuresFirst:
    """The prompts on which the policy does worst; when they are done, the usual ones."""

    def __init__(self, find: Callable[[], list[Prompt]], stamp: Callable[[], str], then: Callable[[], Source]) -> None:
        self._find, self._stamp, self._then = find, stamp, then
        self._seen = ""
        self._prompts: dict[str, Prompt] = {}
        self._offered: set[str] = set()

    @property
    def left(self) -> int:
        """Count those that are not done."""
        self._look()
        return len(self._prompts)

    def take(self, busy: Collection[str]) -> Prompt | None:
        """Give the worst one that is left, else a usual one."""
        self._look()
        for key, prompt in self._prompts.items():
            if key not in busy:
                self._offered.add(key)
                return prompt
        # The usual ones do not know what was asked about a moment ago.
        return self._then().take({*busy, *self._offered}) or self._then().take(busy)

    def done(self, prompt: Prompt, answer: str) -> None:
        """Take a prompt off the list; it comes back if it goes wrong again."""
        self._prompts.pop(prompt_key(prompt), None)
        self._then().done(prompt, answer)

    def drop(self, prompt: Prompt) -> None:
        """Take a prompt off the list until there is news."""
        self._prompts.pop(prompt_key(prompt), None)
        self._then().drop(prompt)

    def _look(self) -> None:
        """List them anew when something new was measured; not after every vote, which could take its time."""
        if (stamp := self._stamp()) != self._seen:
            self._seen, self._prompts = stamp, {prompt_key(prompt): prompt for prompt in self._find()}


class Typed:
    """What the person types, in that order, each once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.waiting: list[Prompt] = [tuple(prompt) for prompt in store.get_meta(TYPED_META, [])]
        """What was typed and not judged yet."""

    def say(self, text: str) -> None:
        """Add a prompt to the line, and to the workspace's prompts, where PPO finds it too."""
        prompt = user(checked(text))
        with self._store.transaction():
            self._store.add_prompts([prompt], TYPED)
            self._keep([*self.waiting, prompt])

    def take(self, busy: Collection[str]) -> Prompt | None:
        """Give the next prompt; it stays in line until it is judged."""
        return next((prompt for prompt in self.waiting if prompt_key(prompt) not in busy), None)

    def done(self, prompt: Prompt, answer: str) -> None:
        """Take a prompt out of the line."""
        self.drop(prompt)

    def drop(self, prompt: Prompt) -> None:
        """Take a prompt out of the line."""
        if prompt in self.waiting:
            at = self.waiting.index(prompt)
            self._keep(self.waiting[:at] + self.waiting[at + 1 :])

    def _keep(self, waiting: list[Prompt]) -> None:
        self._store.set_meta(TYPED_META, waiting)
        self.waiting = waiting


class Chat:
    """One conversation that the preferred answers continue."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.turns: Prompt = tuple(store.get_meta(CHAT_META, []))

    def say(self, text: str) -> None:
        """Add the person's turn; raise `DataError` while an answer is to be chosen."""
        if self.open:
            raise DataError("choose an answer first; then the conversation goes on")
        self.go_back_to((*self.turns, *user(checked(text))))

    def take(self, busy: Collection[str]) -> Prompt | None:
        """Give the conversation, where it waits for an answer and has none coming."""
        return self.turns if self.open and prompt_key(self.turns) not in busy else None

    def done(self, prompt: Prompt, answer: str) -> None:
        """Go on with the preferred answer; without one the same turn is answered again."""
        if answer:
            self.go_back_to((*prompt, Message(role="assistant", content=answer)))

    def drop(self, prompt: Prompt) -> None:
        """Begin another conversation."""
        self.go_back_to(())

    def go_back_to(self, turns: Prompt) -> None:
        """Make these the conversation."""
        self._store.set_meta(CHAT_META, turns)
        self.turns = turns

    @property
    def open(self) -> bool:
        """Tell whether the last turn waits for an answer."""
        return bool(self.turns) and self.turns[-1]["role"] == "user"


def starter_line(store: Store) -> Line:
    """Line up the prompts that come with the starter base."""
    return Line(store, starter.prompts)


def everyday_line(store: Store) -> Line:
    """Line up the everyday questions that come with the program."""
    return Line(store, lambda: list(everyday()))


def imported_line(store: Store) -> Line:
    """Line up the prompts the person imported."""

    def stamp() -> tuple[Any, ...]:
        sql = "SELECT (SELECT count(*) FROM prompts), (SELECT count(*) FROM retractions WHERE kind = 'prompts')"
        return tuple(store.query(sql)[0])

    return Line(store, lambda: [row.value for row in store.prompts() if row.queue != TYPED], stamp)


def has_imported(store: Store) -> bool:
    """Tell whether the person imported prompts."""
    return bool(store.query("SELECT 1 FROM live_prompts WHERE queue != ? LIMIT 1", (TYPED,)))


def asked(store: Store) -> Counter[str]:
    """Count how often each prompt was judged, by its key."""
    sql = "SELECT prompt FROM live_comparisons UNION ALL SELECT prompt FROM live_rankings"
    return Counter(row["prompt"] for row in store.query(sql))


def checked(text: str) -> str:
    """Return what was typed without the blanks around it; raise `DataError` where nothing is left."""
    if not (text := text.strip()):
        raise DataError("nothing was typed")
    return text
