"""The way of a person through the app, in five stops: what is done, what comes next, and where. Knows no Gradio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lorarlhf.evaluate.duels import PEOPLE, result_of
from lorarlhf.library import SavedAdapter
from lorarlhf.store import DuelVote
from lorarlhf.ui.readiness import FIRST_VOTES

DONE, NOW, LATER = "done", "now", "later"
TITLES = {DONE: "done", NOW: "next", LATER: "later"}


@dataclass(frozen=True)
class Stop:
    """One stop on the way."""

    words: str
    state: str
    """`done`, `now` or `later`."""
    go: str
    """The tab it happens on."""
    section: str = ""


def journey(
    votes: int,
    reward: SavedAdapter | None,
    policy: SavedAdapter | None,
    duels: Sequence[DuelVote],
    exports: Sequence[str],
) -> list[Stop]:
    """List the stops; the first that is not done is the one to go to.

    `votes` are those that count on this base, `reward` and `policy` the newest adapters of the round that is on,
    `exports` the names of files that were exported.
    """
    made = reward is not None and policy is not None and _after(policy, reward)
    tested = bool(made and policy and decided(policy, duels))
    exported = bool(policy and any(name.partition(".")[0] in _exports(policy) for name in exports))
    rated = f"Rate {votes:,}" if votes >= FIRST_VOTES else f"Rate {votes}/{FIRST_VOTES}"
    stops = [
        (rated, votes >= FIRST_VOTES or reward is not None, "Rate", ""),
        ("Reward model", reward is not None, "Train", ""),
        ("Train", made, "Train", ""),
        ("Blind test", tested, "Judge", "Blind comparison"),
        ("Export", exported, "Models", ""),
    ]
    first = next((i for i, (_, done, _, _) in enumerate(stops) if not done), None)
    return [
        Stop(words, DONE if done else NOW if i == first else LATER, go, section)
        for i, (words, done, go, section) in enumerate(stops)
    ]


def _exports(policy: SavedAdapter) -> tuple[str, ...]:
    return policy.name, f"{policy.name}-merged", f"{policy.name}-gguf"


def _after(policy: SavedAdapter, reward: SavedAdapter) -> bool:
    return str(policy.card.get("created", "")) >= str(reward.card.get("created", ""))


def decided(policy: SavedAdapter, duels: Sequence[DuelVote]) -> bool:
    """Tell whether it is decided between a policy and anybody else."""
    own = [vote for vote in duels if vote.judge == PEOPLE and policy.hash in (vote.first, vote.second)]
    others = {vote.second if vote.first == policy.hash else vote.first for vote in own}
    return any(result_of(own, policy.hash, other).settled for other in others)


def journey_html(stops: Sequence[Stop]) -> str:
    """Write the stops as a row of buttons."""
    items = "".join(
        f"<li class='{stop.state}'><button type='button' data-name='way' data-go='{escape(stop.go, quote=True)}' "
        f"data-section='{escape(stop.section, quote=True)}'{' aria-current=step' if stop.state == NOW else ''}>"
        f"<i aria-hidden='true'></i>{escape(stop.words)}<span class='sr'> ({TITLES[stop.state]})</span></button></li>"
        for stop in stops
    )
    return f"<nav aria-label='Your way'><ol>{items}</ol></nav>"
