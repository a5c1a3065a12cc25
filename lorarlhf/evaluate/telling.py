"""A reward model's health in words, for the terminal and for the head of the page."""

from __future__ import annotations

from lorarlhf.evaluate.health import Drawn, Group, Health
from lorarlhf.evaluate.statistics import Share, quantile
from lorarlhf.evaluate.warnings import percent, warnings
from lorarlhf.figures import figure
from lorarlhf.reading import FEW_VOTES

GROUP_NAMES = {
    "criterion": "criterion",
    "reason": "reason given",
    "rater": "rater",
    "round": "round",
    "strength": "how clear the vote was",
    "time": "when the vote was cast",
}
FINE = "Nothing here speaks against PPO with it"


def votes(share: Share) -> str:
    """Write how many votes a share is of; parts of rankings make no whole numbers, and a person counts whole ones."""
    return f"{share.trials:,.0f}"


def verdict(health: Health) -> str:
    """Say how often it is right, in a sentence."""
    share = health.accuracy
    if not share:
        return f"Nobody knows yet how good {health.adapter} is"
    if share.trials < FEW_VOTES:
        hits = f"{share.hits:.1f}".removesuffix(".0")
        return f"{health.adapter} agrees with {hits} of {votes(share)} test votes. Too few to say"
    return (
        f"{health.adapter} agrees with you in {share.value:.0%} of {votes(share)} test votes "
        f"(95 % interval {share.low:.0%} to {share.high:.0%})"
    )


def ceiling(health: Health) -> str:
    """Say how steady the person is, and how good a model can become on such votes."""
    share = health.consistency
    if not share:
        return "Your own consistency is not known yet: about one pair in twenty is asked again while you rate"
    low, high = health.ceiling
    could = f"{high:.0%}" if f"{low:.0%}" == f"{high:.0%}" else f"{low:.0%} to {high:.0%}"
    return (
        f"You repeat yourself in {share.hits:.0f} of {share.trials:.0f} re-asked pairs; a perfect model would then "
        f"agree with you in {could}"
    )


def told(health: Health) -> str:
    """Write the whole report for a terminal."""
    lines = [verdict(health), ceiling(health), *health.caveats]
    lines += [f"! {remark}" for remark in warnings(health)] or [FINE]
    if health.unscored:
        lines.append(f"{health.unscored:,} votes are not scored yet")
    lines += ["", *_calibration(health), *_length(health), *_person(health)]
    for name, groups in health.groups.items():
        lines += ["", f"by {GROUP_NAMES[name]}", *(_group(group) for group in groups)]
    if health.drawn:
        lines += ["", "scores of fresh answers to prompts kept apart", *map(_drawn, health.drawn)]
    if health.disagreements:
        lines += ["", "votes it contradicts most"]
        lines += [
            f"  {figure(one.gap, '+.2f')}  {one.pair.prompt[-1]['content'][:60]!r}: "
            f"you preferred {one.pair.chosen[:50]!r}"
            for one in health.disagreements[:5]
        ]
    return "\n".join(lines)


def _calibration(health: Health) -> list[str]:
    found = health.calibration
    if not found:
        return []
    rows = [f"  {one.confidence:>4.0%} sure: right {_share(one.right)}" for one in found.bins]
    title = f"calibration: off by {found.error:.1%} on average (chance alone: up to {found.by_chance:.1%})"
    return [title, *rows]


def _length(health: Health) -> list[str]:
    found = health.length
    if not found:
        return []
    title = (
        f"length: rank correlation with the score {figure(found.correlation, '+.2f')}; the longer answer is "
        f"preferred by it in {percent(found.model)}, by you in {percent(found.person)}"
    )
    return [
        title,
        *(f"  right where the better one is {name}: {_share(share)}" for name, share in found.buckets if share),
    ]


def _person(health: Health) -> list[str]:
    found, lines = health.position, []
    if found.left:
        lines.append(f"you preferred the left answer in {_share(found.left)}")
    if found.first:
        lines.append(
            f"in rankings the first answer was best in {_share(found.first)}, {found.first_expected:.0%} expected"
        )
    return lines


def _group(group: Group) -> str:
    learned = f"; learned from: {_share(group.learned)}" if group.learned else ""
    return f"  {group.name}: {_share(group.heldout) if group.heldout else 'no new votes'}{learned}"


def _share(share: Share) -> str:
    return f"{percent(share)} of {votes(share)}"


def _drawn(one: Drawn) -> str:
    low, middle, high = (figure(quantile(one.scores, q), "+.2f") for q in (0.1, 0.5, 0.9))
    return f"  {one.name or 'the bare base'}: median {middle}, most from {low} to {high}"
