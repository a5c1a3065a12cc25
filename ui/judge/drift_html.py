"""A policy's drift and a try-out of best-of-n as HTML: words first, then charts and figures. No Gradio.

What people and models wrote is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from lorarlhf.evaluate import bestof
from lorarlhf.evaluate.bestof import BestOf
from lorarlhf.evaluate.drift import Answer, Drift
from lorarlhf.evaluate.drift_alarms import FEWEST, alarms
from lorarlhf.evaluate.drift_telling import SMALL, ensemble, outcome, rows, verdict
from lorarlhf.figures import figure
from lorarlhf.reading import FAR_NATS
from lorarlhf.ui.judge.drift_svg import best_of_svg, drift_svg
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
from lorarlhf.ui.judge.rounds_view import DUEL
from lorarlhf.ui.markdown import rendered

NO_POLICY = """<div class='health empty'><h3>No policy on this base yet</h3>
<p>Once PPO has trained one, this tells how far it went from where it began, whether what it gained is real or only
fools the reward model, whether its answers grew longer, alike or repetitive, and what it forgot.</p></div>"""
KEY = (
    "<p class='key'><span><i class='main' aria-hidden='true'></i>reward</span>"
    "<span><i class='least' aria-hidden='true'></i>least of the ensemble</span></p>"
)


def unmeasured_html(name: str) -> str:
    """Say what measuring would do."""
    return (
        f"<div class='health empty'><h3>{escape(name)} was not measured yet</h3><p>It and its reference will answer "
        "the same test prompts, and what they say is compared: reward and an ensemble of heads against KL, "
        "length, entropy, repetition, a plain text and forty questions.</p></div>"
    )


def drift_html(drift: Drift) -> str:
    """Write all there is to say about a policy."""
    found = alarms(drift)
    caveats = "".join(f"<p class='subdued'>{escape(text)}.</p>" for text in drift.caveats)
    said = remarks_html("What speaks against it", found) or f"<p class='fine'>{escape(outcome(drift))}.</p>"
    lead = Lead("Blind test: is it better?", "Judge", DUEL)
    return (
        f"<div class='health'>{light_html(drift_color(drift), f'{verdict(drift)}.', lead)}{tiles_html(_tiles(drift))}"
        f"<p>{escape(ensemble(drift))}.</p>{caveats}{said}{all_figures_html(_figures(drift), _to_read(drift.to_read))}"
        "</div>"
    )


def drift_color(drift: Drift) -> str:
    """Choose the light: red where the reward fell, was fooled, or is far outside of what it knows."""
    fell = drift.reward_gain is not None and drift.reward_gain.change.below(0)
    fooled = drift.least_gain is not None and drift.least_gain.change.below(0)
    if drift.prompts >= FEWEST and (fell or fooled or drift.kl.above(FAR_NATS)):
        return BAD
    return DOUBT if alarms(drift) or drift.prompts < FEWEST else GOOD


def _tiles(drift: Drift) -> list[Tile]:
    found = []
    if one := drift.reward_gain:
        found.append(Tile("Reward", f"{figure(one.before, '+.2f')} → {figure(one.after, '+.2f')}"))
    kl = drift.kl
    found.append(
        Tile("KL from the start", figure(kl.value, ".1f"), f"{figure(kl.low, '.1f')} to {figure(kl.high, '.1f')}")
    )
    length = drift.length
    found.append(Tile("Length of answers", f"{length.before:.0f} → {length.after:.0f}", "tokens"))
    return found


def _figures(drift: Drift) -> Iterable[str]:
    if chart := drift_svg(drift):
        about = "Gains over its start; large dots were measured now, with 95 % intervals."
        if drift.course:
            about += " Small ones come from its run, those of the ensemble from the few answers that were kept."
        about += " Where the two part, the reward model may be being fooled."
        yield figure_html("Reward against √KL", KEY + chart, about)
    yield figure_html("Before and after", _table(drift), f"{SMALL}.")


def _table(drift: Drift) -> str:
    body = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td class='n'>{escape(old)}</td><td class='n'>{escape(new)}</td>"
        f"<td class='change'>{_changed(change)}</td></tr>"
        for name, old, new, change in rows(drift)
    )
    return (
        "<table class='changes'><caption class='sr'>Figures of the reference and of the policy</caption><thead><tr>"
        "<td></td><th scope='col'>Before</th><th scope='col'>After</th><th scope='col'>Change</th></tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def _changed(text: str) -> str:
    """Put the interval, or whatever explains a change, on a line of its own."""
    value, there, rest = text.partition(" (")
    return (
        f"{escape(value)}<span class='range'>{escape(there.strip() + rest)}</span>"
        if there
        else f"<span>{escape(text)}</span>"
    )


def _to_read(pairs: Sequence[tuple[Answer, Answer]]) -> str:
    if not pairs:
        return ""
    body = "".join(_pair(old, new) for old, new in pairs)
    return (
        "<details class='to-read'><summary>Answers to read first</summary>"
        f"<p class='subdued'>Those the ensemble is least sure of.</p><ol class='wrong'>{body}</ol></details>"
    )


def _pair(old: Answer, new: Answer) -> str:
    sides = "".join(
        f"<div><b>{name}{_score(answer)}</b><div class='md'>{rendered(answer.text) or '(an empty answer)'}</div></div>"
        for name, answer in (("Before", old), ("After", new))
    )
    return f"<li><p class='asked' dir='auto'>{escape(new.prompt)}</p><div class='two'>{sides}</div></li>"


def _score(answer: Answer) -> str:
    if answer.score is None:
        return ""
    spread = f", least {figure(answer.least, '+.2f')}" if math.isfinite(answer.least) else ""
    return f" <span class='score'>{figure(answer.score, '+.2f')}{spread}</span>"


# -- best of n --------------------------------------------------------------------------------------------------


def untried_html(adapter: str, reward: str) -> str:
    """Say what trying would do."""
    if not reward:
        return "<div class='health empty'><p>Train a reward model first: it chooses the best answer.</p></div>"
    return (
        f"<div class='health empty'><p>{escape(adapter)} will answer 16 prompts 16 times each, and {escape(reward)} "
        "picks the best: what PPO could gain with it, before you spend the time on PPO.</p></div>"
    )


def best_of_html(found: BestOf) -> str:
    """Write what a try-out came to."""
    speaks = bestof.remarks(found)
    few = found.prompts < bestof.FEWEST
    fine = bestof.few(found) if few else bestof.FINE
    said = remarks_html("Before you run PPO with it", speaks) or f"<p class='fine'>{escape(fine)}.</p>"
    caveats = "".join(f"<p class='subdued'>{escape(text)}.</p>" for text in found.caveats)
    paid = f"{found.whole.kl:.2f} nats"
    about = f"Choosing costs {paid} of KL and n answers each time; PPO pays more KL for the same gain, once."
    chart = figure_html("Reward gained by the best of n", (KEY if found.heads else "") + best_of_svg(found), about)
    lead = Lead("Rate more answers", "Rate") if speaks else Lead("Train with PPO", "Train")
    light = light_html(DOUBT if speaks or few else GOOD, f"{bestof.verdict(found)}.", lead)
    return f"<div class='health'>{light}{caveats}{said}{_chosen(found)}{all_figures_html([chart])}</div>"


def _chosen(found: BestOf) -> str:
    """Show what choosing comes to: the best answer beside the middle one, for the first prompts."""
    if not found.examples:
        return ""
    rows = []
    for one in found.examples:
        both = _side(f"Best of {found.drawn}", one.best, one.best_score) + _side(
            "Middle one", one.middle, one.middle_score
        )
        rows.append(f"<li><p class='asked' dir='auto'>{escape(one.prompt)}</p><div class='two'>{both}</div></li>")
    return f"<ol class='wrong'>{''.join(rows)}</ol>"


def _side(name: str, text: str, score: float) -> str:
    shown = rendered(text) or "(an empty answer)"
    return f"<div><b>{name} <span class='score'>{figure(score, '+.2f')}</span></b><div class='md'>{shown}</div></div>"
