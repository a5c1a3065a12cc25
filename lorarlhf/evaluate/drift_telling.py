"""A policy's drift in words, for the terminal and for the head of the page."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lorarlhf.evaluate.drift import Change, Drift
from lorarlhf.evaluate.drift_alarms import FEWEST, alarms
from lorarlhf.evaluate.paired import Estimate
from lorarlhf.evaluate.statistics import Share
from lorarlhf.figures import figure, number
from lorarlhf.reading import distance

FINE = "No sign of cheating or drift"
SMALL = "The questions are few and easy: they tell what was forgotten, not how good the base is"


def verdict(drift: Drift) -> str:
    """Say how far the policy went and what it gained, in a sentence."""
    far = distance(drift.kl.value, drift.reference)
    if drift.reward_gain is None:
        return f"{drift.adapter} is {far}; there is no reward model to say what that gained"
    gain = drift.reward_gain.change
    words = "gained" if gain.value >= 0 else "lost"
    return f"{drift.adapter} {words} {number(abs(gain.value))} reward by {drift.reward} and is {far}"


def ensemble(drift: Drift) -> str:
    """Say what the ensemble makes of it, in a sentence."""
    if not drift.least_gain or not drift.disagreement:
        return "Too few votes for second opinions, which could tell a real gain from a fooled reward model"
    least = drift.least_gain.change
    sees = "sees a gain" if least.above(0) else "sees a loss" if least.below(0) else "sees no sure gain"
    strictest = f"strictest of {drift.heads} second opinions"
    the = "Even the" if least.above(0) else "The"
    return f"{the} {strictest} {sees} ({figure(least.value, '+.2f')}; {interval(least)})"


def few(drift: Drift) -> str:
    """Say that there are too few prompts."""
    return f"{drift.prompts} prompts are too few to judge by; {FEWEST} are the least"


def outcome(drift: Drift) -> str:
    """Say that all is well, or that nobody can tell."""
    return FINE if drift.prompts >= FEWEST else few(drift)


def rows(drift: Drift) -> Iterator[tuple[str, str, str, str]]:
    """Give every figure as name, before, after and change."""
    named_changes: list[tuple[str, Change | None, str]] = [
        ("reward", drift.reward_gain, ""),
        ("least of the ensemble", drift.least_gain, ""),
        ("disagreement of the ensemble", drift.disagreement, ""),
        ("tokens an answer", drift.length, ""),
        ("entropy, nats a token", drift.entropy, ""),
        ("repeated 4-grams", drift.repeated, "%"),
        ("perplexity of a plain text", drift.perplexity, ""),
    ]
    for name, one, unit in named_changes:
        if one:
            yield name, written(one.before, unit), written(one.after, unit), changed(one, unit)
    before, after = drift.ended
    yield "answers that end by themselves", share(before), share(after), ""
    first, second = drift.distinct
    yield "distinct 2-grams, at equal length", written(first, "%"), written(second, "%"), ""
    known = drift.known
    lost = f"{known.lost} lost, {known.won} won; guessing gets {known.guessing:.0f}"
    yield f"easy questions known, of {known.questions}", str(known.before), str(known.after), lost


def told(drift: Drift) -> str:
    """Write the whole report for a terminal."""
    lines = [verdict(drift), ensemble(drift), *drift.caveats]
    lines += [f"! {remark}" for remark in alarms(drift)] or [outcome(drift)]
    table = [("", "before", "after", "change (95 % interval)"), *rows(drift)]
    widths = [max(len(row[place]) for row in table) for place in range(4)]
    lines += [
        "",
        *("  ".join(text.ljust(wide) for text, wide in zip(row, widths, strict=True)).rstrip() for row in table),
    ]
    lines.append(SMALL)
    if drift.course:
        lines += ["", "over its run: √KL, reward, least of the ensemble, tokens"]
        lines += [
            f"  step {stop.step:>4}  {math.sqrt(max(0.0, stop.kl)):5.2f}  {figure(stop.score, '+6.2f')}  "
            f"{'     –' if math.isnan(stop.least) else figure(stop.least, '+6.2f')}  {stop.length:5.0f}"
            for stop in drift.course
        ]
    for old, new in drift.to_read:
        lines += ["", f"> {new.prompt[:100]}", f"  before: {old.text[:200]}", f"  after:  {new.text[:200]}"]
    return "\n".join(lines)


def named(adapter: str) -> str:
    """Name an adapter in a sentence."""
    return "the base model" if adapter == "base" else adapter


def interval(one: Estimate, unit: str = "") -> str:
    """Write a 95 % interval."""
    if not math.isfinite(one.low) or not math.isfinite(one.high):
        return "nobody knows how surely"
    return f"{written(one.low, unit)} to {written(one.high, unit)}"


def changed(one: Change, unit: str = "") -> str:
    """Write a change with its interval; factors as percent."""
    if not math.isfinite(one.change.value):
        return ""
    if one.by_ratio:
        relative = Estimate(*(100 * (x - 1) for x in (one.change.value, one.change.low, one.change.high)))
        if not math.isfinite(relative.low):
            return f"{_signed(relative.value, '%')}"
        return f"{_signed(relative.value, '%')} ({_signed(relative.low, '%')} to {_signed(relative.high, '%')})"
    scale = 100 if unit == "%" else 1
    signed = [_signed(scale * x, unit) for x in (one.change.value, one.change.low, one.change.high)]
    return signed[0] if not math.isfinite(one.change.low) else f"{signed[0]} ({signed[1]} to {signed[2]})"


def written(value: float, unit: str = "") -> str:
    """Write a figure; a share in percent."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.0%}" if unit == "%" else number(value)


def share(one: Share) -> str:
    """Write a share."""
    return f"{one.value:.0%}"


def _signed(value: float, unit: str) -> str:
    return f"{figure(value, '+.0f')}%" if unit == "%" else figure(value, "+.2f")
