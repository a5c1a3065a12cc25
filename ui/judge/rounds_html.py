"""Rounds as HTML: what to do next, what went wrong, charts, and a table to go back by. Names are escaped; no Gradio."""

from __future__ import annotations

from html import escape

from lorarlhf.checkpoints import is_checkpoint
from lorarlhf.evaluate.duel_words import counted
from lorarlhf.evaluate.round_figures import Figures, Rounds
from lorarlhf.evaluate.round_words import HEADS, UNKNOWN, best, cells, drift_words, remarks, unscored, where
from lorarlhf.ui.judge.at_work import AtWork, progress_html
from lorarlhf.ui.judge.light import remarks_html
from lorarlhf.ui.judge.looked import LOOK
from lorarlhf.ui.judge.rounds_svg import accuracy_svg, drift_svg, wins_svg
from lorarlhf.ui.judge.rounds_view import DUEL, GO
from lorarlhf.ui.train.advice import ROLES, Step

STEP, MEASURE = "step", "measure"
"""Names of the buttons that go to no round."""
KEEP = "keep "
"""Before the name of a checkpoint that is kept."""
SPLIT = (
    "<p class='key'><span><i class='main' aria-hidden='true'></i>test votes</span>"
    "<span><i class='least' aria-hidden='true'></i>votes of the next round</span></p>"
)
ROUND = (
    "A round: an adapter answers, you vote on its answers, a reward model learns from the votes, and PPO makes the "
    "next adapter. Going back deletes nothing, and going forward again is the same button."
)


LOADING = "<p role='status'>The base is not in memory yet; rounds are those on it.</p>"


def rounds_html(found: Rounds, step: Step, now: AtWork, lineage: str = "") -> str:
    """Write the whole page; `lineage` is the map of all adapters."""
    against = remarks_html("What the rounds show", remarks(found))
    return (
        f"<div class='rounds'>{_step(step)}<h3>{escape(where(found))}.</h3><p>{escape(_starts(found))}.</p>"
        f"{against}{_best(found)}{_unscored(found, now)}<div class='figures'>{_figures(found)}</div>{_table(found)}"
        f"{lineage}"
        f"<p class='subdued'>{ROUND}</p></div>"
    )


def _step(step: Step) -> str:
    tab = "Train" if step.do in (*ROLES, "resume") else "Judge" if step.do == DUEL else step.do
    section = DUEL if step.do == DUEL else LOOK
    label = "Go to Train" if tab == "Train" else step.label
    button = (
        f"<button type='button' class='go' data-name='{STEP}' data-go='{escape(tab, quote=True)}' "
        f"data-section='{section}'>{escape(label)}</button>"
    )
    return (
        f"<div class='step'><div><p class='lead'>{escape(step.text)}</p><p class='subdued'>{escape(step.why)}</p></div>"
        f"{button if step.do else ''}</div>"
    )


def _starts(found: Rounds) -> str:
    words = {"sft": "SFT adapter", "reward": "reward model"}
    there = [(words[stage], saved.name) for stage in words if (saved := found.course.newest(stage))]
    if not there:
        return "New runs start from the base model"
    return f"New runs start from {', '.join(f'{word} {name}' for word, name in there)}"


def _best(found: Rounds) -> str:
    """Say which policy to keep, with a button where it is not the one that answers."""
    if not (words := best(found)):
        return ""
    keep = next((row for row in found.rows if found.best and row.name == found.best.adapter and not row.on), None)
    button = f" {_go(keep, f'Keep {keep.name}')}" if keep else ""
    if found.best and is_checkpoint(name := found.best.adapter):
        button = (
            f" <button type='button' data-name='{KEEP}{escape(name, quote=True)}'>Keep {escape(name)} as an adapter"
            "</button>"
        )
    return f"<p class='row'><span>{escape(words)}.</span>{button}</p>"


def _unscored(found: Rounds, now: AtWork) -> str:
    left = unscored(found)
    if not left:
        return ""
    name, pairs = left[0]
    at_work = progress_html(now, "reward", name)
    words = f"{counted(pairs, 'pair')} of the round after {name} not scored by it yet"
    button = f"<button type='button' data-name='{MEASURE}'>Score them with {escape(name)}</button>"
    return f"<p class='row'><span>{escape(words)}.</span>{'' if now.at_work else button}</p>{at_work}"


def _figures(found: Rounds) -> str:
    rows = [row for row in found.rows if row.led]
    charts = (
        ("Win rate", wins_svg(rows), "", "Of a round's policy against who answered in it, by blind votes; ties half."),
        ("Accuracy", accuracy_svg(rows), SPLIT, "Of a round's reward model on votes it never learned from."),
        ("Drift", drift_svg(rows), "", "KL of a round's policy from its reference, in nats an answer."),
    )
    return "".join(
        f"<figure><figcaption>{title}</figcaption>{key}{chart}<p class='subdued'>{about}</p></figure>"
        for title, chart, key, about in charts
        if chart
    )


def _table(found: Rounds) -> str:
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in HEADS)
    body = "".join(map(_row, found.rows))
    return (
        "<table class='course'><caption class='sr'>The rounds and their figures</caption>"
        f"<thead><tr>{head}<td></td></tr></thead><tbody>{body}</tbody></table>"
    )


def _row(row: Figures) -> str:
    texts = (*cells(row)[:-1], "; ".join(filter(None, (cells(row)[-1], drift_words(row.drift)))))
    heads = [escape(name, quote=True) for name in HEADS]
    first = f"<th scope='row' data-head='{heads[0]}'>{texts[0]}</th>"
    rest = "".join(
        f"<td data-head='{head}' class='{'none' if text == UNKNOWN else ''}'>{escape(text)}</td>"
        for head, text in zip(heads[1:], texts[1:], strict=True)
    )
    last = "<b>current</b>" if row.on else _go(row, "Go back to this round" if row.led else "Go to this round")
    looks = "on" if row.on else "" if row.led else "aside"
    return f"<tr class='{looks}'>{first}{rest}<td>{last}</td></tr>"


def _go(row: Figures, words: str) -> str:
    about = f"<span class='sr'> (round {row.number}, {escape(row.name)} answers)</span>"
    return f"<button type='button' data-name='{GO}{escape(row.key, quote=True)}'>{escape(words)}{about}</button>"
