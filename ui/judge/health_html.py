"""A reward model's health as HTML: words first, then charts. What people and models wrote is escaped; no Gradio."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lorarlhf.evaluate.health import Health
from lorarlhf.evaluate.telling import FINE, GROUP_NAMES, ceiling, verdict
from lorarlhf.evaluate.votes import ScoredPair
from lorarlhf.evaluate.warnings import percent, warnings
from lorarlhf.figures import figure
from lorarlhf.types import Prompt
from lorarlhf.ui.judge.charts_svg import boxes_svg, calibration_svg, intervals_html, scatter_svg
from lorarlhf.ui.markdown import rendered

NO_REWARD = """<div class='health empty'><h3>No reward model on this base yet</h3>
<p>Once one is trained, this page tells how good it is: how often it is right about votes it never learned from, whether
it goes by length, who of the raters it contradicts, and whether PPO on it is wise.</p></div>"""
SHOWN = 5
"""Contradicted votes that are shown at once; the others wait behind them."""


def unmeasured_html(name: str, votes: int) -> str:
    """Say what measuring would do, where nothing was measured yet."""
    if not votes:
        return (
            f"<div class='health empty'><h3>{escape(name)} cannot be measured: there are no votes here</h3>"
            "<p>Rate some answers, or import comparisons under Data.</p></div>"
        )
    return (
        f"<div class='health empty'><h3>{escape(name)} was not measured yet</h3><p>It will score the answers of "
        f"{votes:,} pairs you voted on, and fresh answers of base, SFT adapter and policy. "
        "Each is scored once, and kept.</p></div>"
    )


def health_html(health: Health, *, whole: bool = True) -> str:
    """Write the whole page; while it is still being measured it does not count as looked at."""
    adapter = escape(health.adapter, quote=True) if whole else ""
    return (
        f"<div class='health' data-adapter='{adapter}'>{head_html(health)}"
        f"<div class='figures'>{''.join(_figures(health))}</div></div>"
    )


def head_html(health: Health) -> str:
    """Write what it comes to: the verdict, and what speaks against PPO."""
    found = warnings(health)
    said = "".join(
        f"<li><b>{escape(remark.seen)}</b>: {escape(remark.means)}. <span>{escape(remark.do)}.</span></li>"
        for remark in found
    )
    against = f"<h4>Before you run PPO on it</h4><ul class='against'>{said}</ul>"
    caveats = "".join(f"<p class='subdued'>{escape(text)}.</p>" for text in health.caveats)
    left = f"<p class='subdued'>{health.unscored:,} pairs are not scored yet.</p>" if health.unscored else ""
    return f"<h3>{escape(verdict(health))}</h3><p>{escape(ceiling(health))}.</p>{caveats}{left}" + (
        against if found else f"<p class='fine'>{FINE}.</p>"
    )


def _figures(health: Health) -> list[str]:
    low, high = health.ceiling
    marks = [(0.5, "guessing")]
    marks += [(low, "a perfect model, at least"), (high, "a perfect model, at most")] if health.consistency else []
    rows = [("it, new votes", health.accuracy), ("it, learned votes", health.learned)]
    rows += [("you, asked again", health.consistency)]
    about = "The lines stand at guessing" + (" and at what a perfect model would reach." if len(marks) > 1 else ".")
    found = [_figure("How often it is right", intervals_html("Agreement with your votes", rows, marks=marks), about)]
    if one := health.calibration:
        by_chance = "no more than chance makes of so few votes" if one.error <= one.by_chance else "more than chance"
        text = f"Off by {one.error:.0%} on average, {by_chance} (up to {one.by_chance:.0%})."
        found.append(_figure("How sure it is, and how right", calibration_svg(one), text))
    if health.length:
        found += _length(health)
    if health.drawn:
        text = "Fresh answers to prompts kept apart; the box holds the middle half. PPO moves answers to the right."
        found.append(_figure("Scores of answers", boxes_svg(health.drawn, health.voted), text))
    found += _groups(health)
    return found + _person(health)


def _length(health: Health) -> list[str]:
    one = health.length
    assert one is not None
    text = f"Rank correlation {_signed(one.correlation)}. The longer answer is preferred by it in {percent(one.model)} "
    text += f"of the pairs, by you in {percent(one.person)}."
    return [
        _figure("Reward against length", scatter_svg(one.points), text),
        _figure(
            "How often it is right if the better one is …",
            intervals_html("By the length of the better answer, seen from the other", one.buckets),
            "A model that counts words is right below and wrong above.",
        ),
    ]


def _groups(health: Health) -> list[str]:
    found = []
    for name, groups in health.groups.items():
        rows = []
        for group in groups:
            rows.append((group.name, group.heldout))
            if name == "rater":
                rows.append((f"{group.name}, learned votes", group.learned))
        table = intervals_html(f"How often it is right, by {GROUP_NAMES[name]}", rows)
        found += [_figure(f"By {GROUP_NAMES[name]}", table)] if table else []
    return found


def _person(health: Health) -> list[str]:
    one = health.position
    rows = [("left answer preferred", one.left), ("left both times, when sides were swapped", one.kept_side)]
    tables = intervals_html("About you: does the place of an answer decide?", rows)
    if one.first:
        name = f"chance: {one.first_expected:.0%}"
        tables += intervals_html(
            "Rankings", [("shown first is best", one.first)], "rankings", [(one.first_expected, name)]
        )
    return (
        [_figure("You: left or right", tables, "Sides are dealt at random, so a half is what it should be.")]
        if tables
        else []
    )


def _figure(title: str, inside: str, about: str = "") -> str:
    text = f"<p class='subdued'>{escape(about)}</p>" if about else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{inside}{text}</figure>" if inside else ""


# -- votes it contradicts ---------------------------------------------------------------------------------------


def disagreements_html(found: Sequence[ScoredPair]) -> str:
    """List the votes the model contradicts most, with a button to vote again on each."""
    title = "<h3>Where it disagrees with you</h3>"
    if not found:
        return f"{title}<p class='subdued'>None that you have not looked at again.</p>"
    about = "Some are slips of yours, some show what it has not learnt. A second vote counts beside the first."
    parts = found[:SHOWN], found[SHOWN:]
    first, rest = (f"<ol class='wrong'>{''.join(map(_disagreement, some))}</ol>" for some in parts)
    more = f"<details><summary>{len(found) - SHOWN} more</summary>{rest}</details>" if found[SHOWN:] else ""
    return f"{title}<p class='subdued'>{about}</p>{first}{more}"


def _disagreement(one: ScoredPair) -> str:
    asked = escape(one.pair.prompt[-1]["content"])
    name = escape(one.pair.prompt[-1]["content"][:60])
    part = "it learned from this vote" if one.learned else "new to it"
    rater = f" · {escape(one.rater)}" if one.rater else ""
    return (
        f"<li><p class='asked' dir='auto'>{asked}</p><div class='two'>"
        f"{_answer('You preferred', one.pair.chosen, one.chosen.score)}"
        f"{_answer('It prefers', one.pair.rejected, one.rejected.score)}</div>"
        f"<p class='row'><span class='subdued'>apart by {figure(-one.gap, '.2f')} · {part}{rater}</span>"
        f"<button type='button' data-name='{one.row}'>Vote again<span class='sr'> on {name}</span></button></p></li>"
    )


def _answer(who: str, text: str, score: float) -> str:
    shown = f"<div class='md'>{rendered(text)}</div>" if text else "<p class='subdued'>(an empty answer)</p>"
    return f"<div><b>{who} <span class='score'>{_signed(score)}</span></b>{shown}</div>"


def _signed(number: float) -> str:
    return figure(number, "+.2f")


def again_html(prompt: Prompt, answers: Sequence[str]) -> str:
    """Lay a pair out for a second vote: nothing says what was said before."""
    turns = "".join(f"<p class='asked' dir='auto'>{escape(turn['content'])}</p>" for turn in prompt)
    both = "".join(
        f"<div><b>{letter}</b><div class='md'>{rendered(text) or '(an empty answer)'}</div></div>"
        for letter, text in zip("AB", answers, strict=True)
    )
    return f"<div class='again'><h3>Which answer is better?</h3>{turns}<div class='two'>{both}</div></div>"


def told_html(words: str) -> str:
    """Write what came of a second vote, or of a score."""
    return f"<p role='status'>{escape(words)}</p>" if words else ""
