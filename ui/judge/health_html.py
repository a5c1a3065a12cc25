"""A reward model's health as HTML: words first, then charts. What people and models wrote is escaped; no Gradio."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lorarlhf.evaluate.health import Health
from lorarlhf.evaluate.statistics import Share
from lorarlhf.evaluate.telling import FINE, GROUP_NAMES, ceiling, verdict, votes
from lorarlhf.evaluate.votes import ScoredPair
from lorarlhf.evaluate.warnings import percent, warnings
from lorarlhf.figures import figure
from lorarlhf.reading import FEW_VOTES
from lorarlhf.types import Prompt
from lorarlhf.ui.judge.charts_svg import boxes_svg, calibration_svg, intervals_html, scatter_svg
from lorarlhf.ui.judge.light import (
    BAD,
    DOUBT,
    GOOD,
    Lead,
    Tile,
    all_figures_html,
    figure_html,
    light_html,
    remarks_html,
    tiles_html,
)
from lorarlhf.ui.markdown import rendered

NO_REWARD = """<div class='health empty'><h3>No reward model on this base yet</h3>
<p>Once one is trained, this page tells how good it is: how often it is right about votes it never learned from, whether
it goes by length, which raters it disagrees with, and whether PPO on it is wise.</p></div>"""
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
    return f"<div class='health' data-adapter='{adapter}'>{head_html(health)}{all_figures_html(_figures(health))}</div>"


def head_html(health: Health) -> str:
    """Write what it comes to: the verdict, three figures, and what speaks against PPO."""
    found = warnings(health)
    caveats = "".join(f"<p class='subdued'>{escape(text)}.</p>" for text in health.caveats)
    left = f"<p class='subdued'>{health.unscored:,} pairs are not scored yet.</p>" if health.unscored else ""
    against = remarks_html("Before you run PPO on it", found) or f"<p class='fine'>{FINE}.</p>"
    lead = Lead("Rate more answers", "Rate") if found else Lead("Train with PPO", "Train")
    return (
        f"{light_html(health_color(health), f'{verdict(health)}.', lead)}{tiles_html(_tiles(health))}"
        f"<p class='subdued'>{escape(ceiling(health))}.</p>{caveats}{left}{against}"
    )


def health_color(health: Health) -> str:
    """Choose the light: red where it may be guessing, green where nothing speaks against it."""
    share = health.accuracy
    if share and share.trials >= FEW_VOTES and share.low <= 0.5:
        return BAD
    return DOUBT if warnings(health) else GOOD


def _tiles(health: Health) -> list[Tile]:
    found = [
        Tile("Agrees with your test votes", _share(health.accuracy), _of(health.accuracy)),
        Tile("You agree with yourself", _share(health.consistency), _of(health.consistency)),
    ]
    if one := health.length:
        own = f"you prefer it in {one.person.value:.0%}" if one.person else ""
        found.append(Tile("Prefers the longer answer", _share(one.model), own))
    return found


def _share(share: Share) -> str:
    return f"{share.value:.0%}" if share else "not known yet"


def _of(share: Share) -> str:
    return f"{share.low:.0%} to {share.high:.0%}, of {votes(share)}" if share else ""


def _figures(health: Health) -> list[str]:
    low, high = health.ceiling
    marks = [(0.5, "guessing")]
    marks += [(low, "best possible, at least"), (high, "best possible, at most")] if health.consistency else []
    rows = [("model, test votes", health.accuracy), ("model, training votes", health.learned)]
    rows += [("you, re-asked", health.consistency)]
    about = "Dashed: guessing" + (", best possible." if len(marks) > 1 else ".")
    found = [
        figure_html("How often it is right", intervals_html("Agreement with your votes", rows, marks=marks), about)
    ]
    many = health.accuracy.trials >= FEW_VOTES
    if (one := health.calibration) and many:
        text = f"Off by {one.error:.0%} on average, more than chance (up to {one.by_chance:.0%})."
        if one.error <= one.by_chance:
            text = f"Off by {one.error:.0%} on average, which so few votes can show by chance."
        found.append(figure_html("How sure it is, and how right", calibration_svg(one), text))
    if health.length and many:
        found += _length(health)
    if health.drawn:
        text = "Fresh answers to test prompts; the box holds the middle half. PPO moves answers to the right."
        found.append(figure_html("Scores of answers", boxes_svg(health.drawn, health.voted), text))
    found += _groups(health)
    return found + _person(health)


def _length(health: Health) -> list[str]:
    one = health.length
    assert one is not None
    text = f"Rank correlation {_signed(one.correlation)}. The longer answer is preferred by it in {percent(one.model)} "
    text += f"of the pairs, by you in {percent(one.person)}."
    return [
        figure_html("Reward against length", scatter_svg(one.points), text),
        figure_html(
            "How often it is right if the better one is …",
            intervals_html("By the length of the better answer, seen from the other", one.buckets),
            "If it only counted words, it would be right in the lower rows.",
        ),
    ]


def _groups(health: Health) -> list[str]:
    found = []
    for name, groups in health.groups.items():
        rows = []
        for group in groups:
            if group.heldout.trials >= FEW_VOTES:
                rows.append((group.name, group.heldout))
            if name == "rater" and group.learned.trials >= FEW_VOTES:
                rows.append((f"{group.name}, training votes", group.learned))
        table = intervals_html(f"How often it is right, by {GROUP_NAMES[name]}", rows)
        found += [figure_html(f"By {GROUP_NAMES[name]}", table)] if table else []
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
        [figure_html("You: left or right", tables, "Sides are dealt at random, so a half is what it should be.")]
        if tables
        else []
    )


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
    part = "training vote" if one.learned else "test vote"
    rater = f" · {escape(one.rater)}" if one.rater else ""
    return (
        f"<li><p class='asked' dir='auto'>{asked}</p><div class='two'>"
        f"{_answer('You preferred', one.pair.chosen, one.chosen.score)}"
        f"{_answer('It prefers', one.pair.rejected, one.rejected.score)}</div>"
        f"<p class='row'><span class='subdued'>gap {figure(-one.gap, '.2f')} · {part}{rater}</span>"
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
