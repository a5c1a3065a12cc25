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
from lorarlhf.evaluate.drift_alarms import alarms
from lorarlhf.evaluate.drift_telling import SMALL, ensemble, outcome, rows, verdict
from lorarlhf.figures import figure
from lorarlhf.reading import Remark
from lorarlhf.ui.judge.drift_svg import best_of_svg, drift_svg
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
        "the same prompts kept apart, and what they say is compared: reward and an ensemble of heads against KL, "
        "length, entropy, repetition, a plain text and forty questions.</p></div>"
    )


def drift_html(drift: Drift) -> str:
    """Write all there is to say about a policy."""
    found = alarms(drift)
    caveats = "".join(f"<p class='subdued'>{escape(text)}.</p>" for text in drift.caveats)
    said = _remarks("What speaks against it", found) if found else f"<p class='fine'>{escape(outcome(drift))}.</p>"
    return (
        f"<div class='health'><h3>{escape(verdict(drift))}</h3><p>{escape(ensemble(drift))}.</p>{caveats}{said}"
        f"<div class='figures'>{''.join(_figures(drift))}</div>{_to_read(drift.to_read)}</div>"
    )


def _remarks(title: str, found: Iterable[Remark]) -> str:
    said = "".join(
        f"<li><b>{escape(remark.seen)}</b>: {escape(remark.means)}. <span>{escape(remark.do)}.</span></li>"
        for remark in found
    )
    return f"<h4>{escape(title)}</h4><ul class='against'>{said}</ul>"


def _figures(drift: Drift) -> Iterable[str]:
    if chart := drift_svg(drift):
        about = "Gains over its start; large dots were measured now, with 95 % intervals."
        if drift.course:
            about += " Small ones come from its run, those of the ensemble from the few answers that were kept."
        about += " Where the two part, the reward model may be being fooled."
        yield _figure("Reward against √KL", KEY + chart, about)
    yield _figure("Before and after", _table(drift), f"{SMALL}.")


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


def _figure(title: str, inside: str, about: str = "") -> str:
    text = f"<p class='subdued'>{escape(about)}</p>" if about else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{inside}{text}</figure>"


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
    fine = bestof.FINE if found.prompts >= bestof.FEWEST else bestof.few(found)
    said = _remarks("Before you run PPO with it", speaks) if speaks else f"<p class='fine'>{escape(fine)}.</p>"
    caveats = "".join(f"<p class='subdued'>{escape(text)}.</p>" for text in found.caveats)
    about = "PPO pays more KL for the same gain, but changes the adapter; choosing costs n answers each time."
    chart = _figure("Reward gained by the best of n", (KEY if found.heads else "") + best_of_svg(found), about)
    return (
        f"<div class='health'><h3>{escape(bestof.verdict(found))}</h3>{caveats}{said}"
        f"<div class='figures'>{chart}</div></div>"
    )
