"""Rounds in words and as a table, for terminal and page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lorarlhf.checkpoints import is_checkpoint
from lorarlhf.evaluate.duel_words import counted
from lorarlhf.evaluate.duels import Result
from lorarlhf.evaluate.round_figures import Drifted, Figures, Rounds
from lorarlhf.evaluate.statistics import Share
from lorarlhf.evaluate.warnings import percent
from lorarlhf.figures import figure
from lorarlhf.reading import FAR_NATS, FEW_VOTES, Remark

HEADS = ("Round", "Who answered", "Votes", "Reward model", "Test votes", "On the next votes", "Policy", "Wins", "KL")
UNKNOWN = "–"


def cells(row: Figures) -> tuple[str, ...]:
    """Write a round as a row of the table, in the order of `HEADS`."""
    return (
        str(row.number),
        ", ".join(row.wrote) or row.name,
        _votes(row),
        row.reward or UNKNOWN,
        _share(row.heldout),
        _tested(row),
        row.policy or UNKNOWN,
        _wins(row.wins),
        _kl(row.drift),
    )


def _votes(row: Figures) -> str:
    files = f" ({row.imported:,} from files)" if row.imported else ""
    return f"{row.votes:,} of people{files}, {row.scripted:,} scripted" if row.scripted else f"{row.votes:,}{files}"


def _share(share: Share) -> str:
    return f"{percent(share)} of {share.trials:,.0f}" if share else UNKNOWN


def _tested(row: Figures) -> str:
    left = f"{row.unscored:,} not scored yet" if row.unscored else ""
    if not row.next:
        return left or UNKNOWN
    return _share(row.next) + (f"; {left}" if left else "")


def _wins(wins: Result | None) -> str:
    if wins is None or not wins.votes:
        return UNKNOWN
    low, high = wins.always
    return f"{wins.share.value:.0%} ({low:.0%} to {high:.0%}) of {wins.votes:,}"


def _kl(drift: Drifted | None) -> str:
    if drift is None:
        return UNKNOWN
    kl, low, high = (figure(value, ".1f") for value in (drift.kl, drift.low, drift.high))
    return f"{kl} ({low} to {high})" if math.isfinite(drift.low) else kl


def drift_words(drift: Drifted | None) -> str:
    """Say what else is known of a policy's answers; empty where nothing is."""
    if drift is None:
        return ""
    parts = [f"mean reward {figure(drift.reward, '+.2f')}"] if math.isfinite(drift.reward) else []
    parts += [f"{drift.length:.0f} tokens an answer"] if math.isfinite(drift.length) else []
    return ", ".join([*parts, "measured" if drift.measured else "as its run says"])


# -- what it comes to -------------------------------------------------------------------------------------------


class Unscored(NamedTuple):
    """Votes of the next round that a reward model has not scored."""

    reward: str
    pairs: int


def unscored(found: Rounds) -> list[Unscored]:
    """List the reward models whose test on the next round's votes wants scores; the engine gives them."""
    return [Unscored(row.reward, row.unscored) for row in found.rows if row.unscored]


def where(found: Rounds) -> str:
    """Say in a sentence which round is on."""
    now = found.now
    votes = counted(now.votes, "vote") + (f" of people and {now.scripted:,} scripted" if now.scripted else "")
    text = f"Round {now.number}: {now.name} answers, with {votes} so far"
    aside = ", ".join(row.name for row in found.rows if not row.led)
    return f"{text}. Not on the way here, but still there with all votes: {aside}" if aside else text


def best(found: Rounds) -> str:
    """Say which policy to keep by blind votes; empty where nobody was compared."""
    if not found.against:
        return ""
    if found.best is None:
        return f"By blind votes no policy is surely better than {found.against} yet"
    one = found.best
    return (
        f"By blind votes {one.adapter} is the one to keep: it wins {percent(one.wins)} of "
        f"{counted(int(one.wins.trials), 'vote')} against {found.against}"
    )


def keeping(found: Rounds) -> str:
    """Say how to keep the best where it is a checkpoint, which goes when its run writes newer ones; else empty."""
    if found.best is None or not is_checkpoint(found.best.adapter):
        return ""
    name = found.best.adapter
    return f"{name} is a checkpoint, and no adapter yet: `lorarlhf adapters --keep {name}` makes it one"


def remarks(found: Rounds) -> list[Remark]:
    """Say what went wrong in the rounds that led here, the latest first."""
    led = [row for row in found.rows if row.led]
    said = [rule(row, after) for row, after in zip(led, [*led[1:], None], strict=True) for rule in RULES]
    return [remark for remark in reversed(said) if remark]


Rule = Callable[[Figures, "Figures | None"], "Remark | None"]
"""Asked of a round and of the one after it."""


def _fails_on_next(row: Figures, after: Figures | None) -> Remark | None:
    """Tell where a reward model does not know the answers it led to."""
    share, before = row.next, row.heldout
    guesses, worse = share.low <= 0.5, bool(before) and share.high < before.value
    if share.trials < FEW_VOTES or not (guesses or worse):
        return None
    then = f", where it was right about {percent(before)} of those kept apart in round {row.number}" if before else ""
    why = "on what PPO made of it, it may be guessing" if guesses else "what PPO made of it, it knows less well"
    if after and after.reward:
        do = f"{after.reward} has learned from them since: let PPO go on with that one, and rate what comes of it"
    else:
        do = f"Train a new reward model on the votes of round {row.number + 1} before PPO goes on"
    return Remark(
        f"{row.reward} is right about {percent(share)} of {share.trials:,.0f} votes of round {row.number + 1}, "
        f"on answers of {row.policy}{then}",
        why,
        do,
    )


def _lost(row: Figures, after: Figures | None) -> Remark | None:
    """Tell where the policy is worse than who answered before."""
    if row.wins is None or row.wins.settled != "second":
        return None
    return Remark(
        f"{row.policy} wins only {_wins(row.wins)} blind votes against {row.name}",
        f"people like its answers less than those it was to improve on in round {row.number}",
        f"Go back to round {row.number}, rate more answers there, and train again",
    )


def _far(row: Figures, after: Figures | None) -> Remark | None:
    if row.drift is None or row.drift.kl < FAR_NATS:
        return None
    return Remark(
        f"{row.policy} is {row.drift.kl:.0f} nats an answer away from its reference",
        "so far away a reward model has seen few such answers",
        f"Look how it drifted, or go back to round {row.number} and train it with a larger KL coefficient",
    )


RULES: tuple[Rule, ...] = (_far, _lost, _fails_on_next)


# -- for the terminal -------------------------------------------------------------------------------------------


def told(found: Rounds) -> str:
    """Write all rounds for a terminal."""
    lines = [where(found), *filter(None, [best(found), keeping(found)]), *(f"! {remark}" for remark in remarks(found))]
    for name, pairs in unscored(found):
        lines.append(f"{counted(pairs, 'pair')} of the next round not scored by {name}: `lorarlhf judge reward {name}`")
    marked = [(">" if row.on else " " if row.led else "-", *cells(row)) for row in found.rows]
    return "\n".join([*lines, "", *_table([("", *HEADS), *marked]), "", "> is on; - is not on the way there"])


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip() for row in rows]
