"""Rounds: an adapter answers, people vote on its answers, a reward model learns from that, and a policy from it.

They are read off what there is, and kept nowhere: every policy begins a round in which it answers; the first one begins
with no policy. Going back to a round deletes nothing. It is a line in the workspace, and going forward is another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, NamedTuple

from lorarlhf.errors import AdapterError, TrainingError
from lorarlhf.library import BARE, SavedAdapter
from lorarlhf.store import Row, Store

GONE_TO = "rounds gone to"
"""Name in the workspace of all goings to a round, oldest first: [time, key of the round]."""
START = datetime.min.replace(tzinfo=timezone.utc)


class Turn(NamedTuple):
    """When a round was gone to on somebody's word."""

    at: datetime
    key: str


@dataclass(frozen=True)
class Round:
    """One round: who answers in it, and what was made of the votes on that."""

    key: str
    """By content: the policy that answers; the base's fingerprint for the first round."""
    number: int
    """From 1 on. After going back there may be several of a number."""
    before: str
    """Key of the round its policy was made in; empty for the first one."""
    began: datetime
    answers: SavedAdapter | None
    """None for the bare base."""
    made: tuple[SavedAdapter, ...]
    """All that was made in it, oldest first."""

    @property
    def name(self) -> str:
        """Who answers."""
        return self.answers.name if self.answers else BARE

    @property
    def hash(self) -> str:
        """Who answers, by content."""
        return self.answers.hash if self.answers else self.key

    def policies(self) -> list[SavedAdapter]:
        """List the policies made in it, oldest first."""
        return [saved for saved in self.made if saved.stage == "ppo"]


@dataclass(frozen=True)
class Course:
    """All rounds on one base, and which one is on."""

    rounds: dict[str, Round]
    """By key, in the order they began."""
    turns: tuple[Turn, ...]
    """When which round came on, oldest first."""
    present: tuple[SavedAdapter, ...]
    """Oldest first, without those made in rounds that were gone back from: the newest of these is what is meant where
    nobody is named."""
    known: frozenset[str]
    """All adapters on this base, by content."""

    @property
    def now(self) -> Round:
        """The round that is on."""
        return self.rounds[self.turns[-1].key]

    def at(self, when: datetime) -> str:
        """Give the key of the round that was on at a time."""
        return next((turn.key for turn in reversed(self.turns) if turn.at <= when), self.turns[0].key)

    def path(self, key: str = "") -> list[Round]:
        """List the rounds that led to one, it included, the first one first; to the one that is on by default."""
        found = [self.rounds[key or self.now.key]]
        while found[0].before:
            found.insert(0, self.rounds[found[0].before])
        return found

    def newest(self, stage: str) -> SavedAdapter | None:
        """Give the adapter of a stage that is meant where nobody is named."""
        return next((saved for saved in reversed(self.present) if saved.stage == stage), None)

    def policy(self, one: Round) -> SavedAdapter | None:
        """Give the policy made in a round: the one that led to where we are, else the newest."""
        policies = one.policies()
        led = {other.key for other in self.path()}
        return next((saved for saved in policies if saved.hash in led), policies[-1] if policies else None)

    def reward(self, one: Round) -> SavedAdapter | None:
        """Give a round's reward model: the one its policy followed, else the newest made in it."""
        rewards = [saved for saved in one.made if saved.stage == "reward"]
        policy = self.policy(one)
        followed = _followed(policy) if policy else ""
        return next((saved for saved in rewards if saved.hash == followed), rewards[-1] if rewards else None)

    def of(self, hashes: Iterable[str], cast: datetime, foreign: frozenset[str] = frozenset()) -> str:
        """Give the key of the round that a vote belongs to, by whose answers it judges; empty for another base's.

        It is that of the newest policy among them. What nobody here wrote, as in votes of a file, belongs to the round
        that was on when it came.
        """
        wrote = [hash for hash in hashes if hash]
        policies = [self.rounds[hash] for hash in wrote if hash in self.rounds and self.rounds[hash].began <= cast]
        if policies:
            return max(policies, key=lambda one: one.began).key
        if self.known.intersection(wrote):
            return next(iter(self.rounds))
        return "" if foreign.intersection(wrote) else self.at(cast)


def course_of(adapters: Sequence[SavedAdapter], base: str, turns: Iterable[Turn] = ()) -> Course:
    """Read the rounds off the adapters on one base, oldest first, and off the goings to a round."""
    events: list[tuple[datetime, int, Any]] = [(when(saved.card.get("created")), 0, saved) for saved in adapters]
    events += [(turn.at, 1, turn.key) for turn in turns]
    came, before, began = [Turn(START, base)], {base: ""}, {base: START}
    policies: dict[str, SavedAdapter] = {}
    made: dict[str, list[SavedAdapter]] = {base: []}
    homes: dict[str, str] = {}
    present: list[SavedAdapter] = []
    for at, _, what in sorted(events, key=lambda event: event[:2]):
        if isinstance(what, str):
            if what in made:
                came.append(Turn(at, what))
                present = _led_to(what, before, began, made)
            continue
        # A policy was made in the round of the reward model it followed: trying PPO again is no new round.
        home = homes.get(_followed(what), came[-1].key) if what.stage == "ppo" else came[-1].key
        made[home].append(what)
        present.append(what)
        homes[what.hash] = home
        if what.stage == "ppo" and what.hash not in made:
            policies[what.hash], before[what.hash], began[what.hash], made[what.hash] = what, home, at, []
        if what.stage == "ppo":
            came.append(Turn(at, what.hash))
    rounds: dict[str, Round] = {}
    for key in made:
        number = rounds[before[key]].number + 1 if before[key] else 1
        answers = policies[key] if key in policies else _first(made[key])
        rounds[key] = Round(key, number, before[key], began[key], answers, tuple(made[key]))
    return Course(rounds, tuple(came), tuple(present), frozenset({base, *(saved.hash for saved in adapters)}))


def _led_to(
    key: str, before: dict[str, str], began: dict[str, datetime], made: dict[str, list[SavedAdapter]]
) -> list[SavedAdapter]:
    """List what was made in a round and, until its policy was, in those that led to it."""
    found, policy = [saved for saved in made[key] if saved.stage != "ppo"], key
    while home := before[policy]:
        until = began[policy]
        earlier = [saved for saved in made[home] if when(saved.card.get("created")) <= until]
        found += [saved for saved in earlier if saved.stage != "ppo" or saved.hash == policy]
        policy = home
    return sorted(found, key=lambda saved: when(saved.card.get("created")))


def _first(made: Sequence[SavedAdapter]) -> SavedAdapter | None:
    """Say who answers before there is a policy: the newest SFT adapter made until then."""
    first = next((i for i, saved in enumerate(made) if saved.stage == "ppo"), len(made))
    found = [saved for saved in made[:first] if saved.stage == "sft"]
    return found[-1] if found else None


def _followed(policy: SavedAdapter) -> str:
    """Name the reward model a policy followed, by content; empty where that is not known."""
    return str(policy.card.get("parents", {}).get("reward", {}).get("hash", ""))


# -- in a workspace ---------------------------------------------------------------------------------------------


def course_now(store: Store, adapters: Sequence[SavedAdapter], base: str) -> Course:
    """Read the rounds of a workspace on one base; `adapters` are those on it, oldest first."""
    return course_of(adapters, base, [Turn(when(at), key) for at, key in store.get_meta(GONE_TO, [])])


def newest_now(store: Store, adapters: Sequence[SavedAdapter], base: str, stage: str) -> SavedAdapter | None:
    """Find the adapter of a stage that is meant where nobody is named, among all those on a base, oldest first."""
    return course_now(store, adapters, base).newest(stage)


def go_to(store: Store, adapters: Sequence[SavedAdapter], base: str, key: str) -> Round:
    """Make a round the one that is on, back or forward; nothing is deleted.

    From then on its adapter answers, and stages start from what led to it. Raises `AdapterError` where there is none,
    and `TrainingError` while a run is at work.
    """
    if running := store.at_work():
        raise TrainingError(
            f"{running[0].called} is at work, and what it makes would belong to another round; wait for its end, or "
            "stop it"
        )
    with store.transaction():
        course = course_now(store, adapters, base)
        if key not in course.rounds:
            raise AdapterError("the adapter of that round is not here any more, so that nobody can go back to it")
        if key != course.now.key:
            # A clock that was set back must not make this older than what it is about.
            at = max(datetime.now(timezone.utc), course.turns[-1].at, *(when(a.card.get("created")) for a in adapters))
            store.set_meta(GONE_TO, [*store.get_meta(GONE_TO, []), [at.isoformat(), key]])
    return course.rounds[key]


def by_round(
    rows: Iterable[Row[Any]], course: Course, foreign: frozenset[str] = frozenset()
) -> dict[tuple[str, int], str]:
    """Give the round of every vote, by its kind and row; those on answers of another base's adapters are left out.

    `foreign` are such adapters. Votes that a backup brought carry the time they were cast; they came no earlier than
    the rows before them.
    """
    found: dict[tuple[str, int], str] = {}
    latest: dict[str, datetime] = {}
    for row in rows:
        latest[row.kind] = max(latest.get(row.kind, START), when(row.created))
        if key := course.of(row.value.origin.adapter_hashes, latest[row.kind], foreign):
            found[row.kind, row.id] = key
    return found


def when(stamp: Any) -> datetime:
    """Read a time of a card or a row; one that is none counts as before everything."""
    try:
        found = datetime.fromisoformat(str(stamp).replace("Z", "+00:00"))  # Python 3.10 does not read the Z
    except ValueError:
        return START
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)
