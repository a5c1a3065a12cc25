"""A run as HTML: its head, charts, samples, log, and the list of all runs. Pure functions of rows; no Gradio.

What people and models wrote is escaped here, all of it; answers are hostile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lorarlhf.figures import clock, duration, figure, number
from lorarlhf.reading import remarks
from lorarlhf.store import RunRow
from lorarlhf.ui.markdown import rendered
from lorarlhf.ui.train.comparing import settings_rows, summary
from lorarlhf.ui.train.progress import (
    STAGE_NAMES,
    STATUS_WORDS,
    Series,
    outcome,
    parents,
    way,
)
from lorarlhf.ui.train.queue import Line

NO_RUN = """<div class='run-head empty'><h3>No run yet</h3>
<p>Training goes in two stages, each on what the one before it made:</p>
<ol><li>The <b>reward model</b> learns from your votes which of two answers you like better.</li>
<li><b>PPO</b> trains the policy: the model answers, and the reward model judges in your place.</li></ol>
<p><b>SFT</b> may come before both. It imitates demonstrations: answers that are good as they are.</p>
<p>Charts appear here while training.</p></div>"""
SAMPLED_STEPS = 12
"""Newest steps whose samples are shown."""


def head(run: RunRow, series: Series, *, stopping: bool = False, why_not: str = "") -> str:
    """Write what a run is and how far it is; `why_not` says why a broken-off run cannot be gone on with."""
    state = "stopping" if stopping else run.status
    words = "stops after this step" if stopping else STATUS_WORDS.get(run.status, run.status)
    lines = [
        f"<h3>{_called(run)} <span class='pill {escape(state)}'>{escape(words)}</span></h3>",
        f"<p class='about'>{escape(_about(run))}</p>",
        _bar(run, series),
    ]
    said = " ".join(text for text in (outcome(run), why_not) if text)
    if said:
        lines.append(f"<p class='outcome {escape(run.status)}'>{escape(said)}</p>")
    lines += [
        f"<p class='remark'><b>{escape(found.seen)}</b>: {escape(found.means)}. <span>{escape(found.do)}.</span></p>"
        for found in remarks(run, series)
    ]
    return f"<div class='run-head'>{''.join(lines)}</div>"


def _called(run: RunRow) -> str:
    """Write what a run is called: as its adapter, with its own id beside it where that is another."""
    also = "" if run.adapter == run.id else f" <small>run {escape(run.id)}</small>"
    return f"{escape(run.adapter)}{also}"


def _about(run: RunRow) -> str:
    return " · ".join(filter(None, [STAGE_NAMES.get(run.stage, run.stage), parents(run)]))


def _bar(run: RunRow, series: Series) -> str:
    now = way(run, series)
    of = f" of {now.total:,}" if now.total else ""
    left = f"about {duration(now.seconds_left)} left" if now.seconds_left is not None else ""
    if run.status == "running" and not series.get("time/step"):
        left = "getting ready"
    value = f" value='{now.share:.4f}'" if now.total or run.status != "running" else ""
    label = f"aria-label='Progress of {escape(run.adapter, quote=True)}'"
    return (
        f"<div class='way'><progress max='1'{value} {label}></progress>"
        f"<span>step {now.step:,}{of}</span><span>{left}</span></div>"
    )


def samples_html(samples: Sequence[Mapping[str, Any]]) -> str:
    """Write the sample answers as a table: the newest step first, held-out prompts before those of training."""
    groups: dict[tuple[int, bool], list[str]] = {}
    for sample in samples:
        heldout = bool(sample.get("heldout"))
        # Those of training were drawn before their step's update, those to held-out prompts after it.
        groups.setdefault((int(sample["step"]) + (not heldout), heldout), []).append(_sample(sample))
    if not groups:
        return "<p class='nothing'>The first answers appear after the first step.</p>"
    columns = {"Prompt": "sample-prompt", "Answer": "sample-answer", "Reward": "n", "KL": "n"}
    titles = "".join(f"<th scope='col' class='{kind}'>{name}</th>" for name, kind in columns.items())
    body = "".join(
        f"<tr class='group'><th scope='colgroup' colspan='4'>Step {step} · "
        f"{'test prompts' if heldout else 'training'}</th></tr>{''.join(groups[step, heldout])}"
        for step, heldout in sorted(groups, reverse=True)[:SAMPLED_STEPS]
    )
    return f"<table class='samples'><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def _sample(sample: Mapping[str, Any]) -> str:
    cut = "" if sample.get("ended", True) else " <span class='cut'>cut off at the longest length</span>"
    cells = (
        f"<td class='sample-prompt' dir='auto'>{escape(str(sample['prompt']))}</td>",
        f"<td class='sample-answer' dir='auto'><div class='md'>{rendered(str(sample['response']))}</div>{cut}</td>",
        f"<td class='n' data-name='Reward'>{_fixed(sample['score'])}</td>",
        f"<td class='n' data-name='KL'>{_fixed(sample['kl'])}</td>",
    )
    return f"<tr>{''.join(cells)}</tr>"


def _fixed(value: float) -> str:
    return figure(value, ".2f")  # digits under digits


def numbers_html(runs: Sequence[RunRow], series: Sequence[Series]) -> str:
    """Write what the charts show as tables, one a run: the same for who does not see charts."""
    tables = []
    for run, one in zip(runs, series, strict=True):
        rows = "".join(
            f"<tr><th scope='row'>{escape(name)}</th>{''.join(f'<td>{number(value)}</td>' for value in values)}</tr>"
            for name, *values in summary(one)
        )
        titles = "".join(f"<th scope='col'>{name}</th>" for name in ("Metric", "First", "Newest", "Lowest", "Highest"))
        caption = f"<caption>{_called(run)}</caption>"
        tables.append(f"<table class='grid'>{caption}<thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>")
    return "".join(tables)


def settings_html(runs: Sequence[RunRow]) -> str:
    """Write in what several runs differ, or what a single one was set to besides the defaults."""
    found = settings_rows(runs)
    if not found:
        return "<p class='nothing'>These runs have the same settings, data and parents.</p>"
    caption = "In what they differ" if len(runs) > 1 else "All other settings are the defaults"
    titles = "".join(f"<th scope='col'>{_called(run)}</th>" for run in runs)
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th>{''.join(f'<td>{escape(value)}</td>' for value in values)}</tr>"
        for name, values in found
    )
    head = f"<thead><tr><th scope='col'>Setting</th>{titles}</tr></thead>"
    return f"<table class='grid'><caption>{caption}</caption>{head}<tbody>{rows}</tbody></table>"


def log_html(lines: Sequence[tuple[str, str]]) -> str:
    """Write a run's story, the newest line first: what one looks for needs no scrolling."""
    items = "".join(f"<li><span>{escape(when)}</span> {escape(text)}</li>" for when, text in reversed(lines))
    return f"<ol class='log'>{items}</ol>"


def runs_html(runs: Sequence[RunRow], shown: str, resumable: Sequence[str]) -> str:
    """List all runs, the newest first, with buttons to look at one and to go on with one."""
    if not runs:
        return "<p class='nothing'>No runs yet. Each one you start will be kept here.</p>"
    return f"<ul class='runs'>{''.join(_run(run, run.id == shown, run.id in resumable) for run in reversed(runs))}</ul>"


def _run(run: RunRow, shown: bool, resumable: bool) -> str:
    id, name, status = escape(run.id), escape(run.adapter), escape(run.status)
    said = outcome(run) or STAGE_NAMES.get(run.stage, run.stage)
    press = f"<button type='button' data-do='resume' data-run='{id}'>Resume<span class='sr'> {name}</span></button>"
    return (
        f"<li{' class=shown' if shown else ''}>"
        f"<button type='button' class='name' data-do='show' data-run='{id}' aria-pressed='{str(shown).lower()}'>"
        f"<span class='sr'>Show </span>{_called(run)}</button>"
        f"<span class='pill {status}'>{escape(STATUS_WORDS.get(run.status, run.status))}</span>"
        f"<span class='when'>{escape(clock(run.created, day=True))}</span>"
        f"<span class='said'>{escape(said)}</span>{press if resumable else ''}</li>"
    )


def queue_html(line: Line) -> str:
    """Write what waits for its turn, and why nothing of it starts any more where that is so."""
    if not line.waiting:
        return ""
    items = "".join(
        f"<li><span>{escape(one.called)}</span><button type='button' data-do='unqueue' data-run='{i}'>"
        f"Remove<span class='sr'> {escape(one.called)} from the queue</span></button></li>"
        for i, one in enumerate(line.waiting)
    )
    state = "<p class='why'>Each starts by itself when the one before it is done, also after a restart of the app.</p>"
    if line.stopped:
        go_on = "<button type='button' data-do='go-on' data-run=''>Go on</button>"
        state = f"<p class='problem' role='alert'>The queue stopped. {escape(line.stopped)}. {go_on}</p>"
    return f"<div class='queue'><h3>Queue</h3>{state}<ol>{items}</ol></div>"


def bell_html(runs: Sequence[RunRow]) -> str:
    """Write the button that asks for a notification, and which run ended last, for the script that gives it."""
    ended = max((run for run in runs if run.finished), key=lambda run: run.finished, default=None)
    mark = f"{ended.id} {ended.finished}" if ended else ""
    words = f"{ended.adapter} {STATUS_WORDS.get(ended.status, ended.status)}" if ended else ""
    about = escape(outcome(ended) if ended else "", quote=True)
    return (
        f"<div class='bell' data-ended='{escape(mark, quote=True)}' data-words='{escape(words, quote=True)}' "
        f"data-about='{about}'><button type='button' hidden>Notify me when a run ends</button>"
        "<span role='status'></span></div>"
    )


def step_html(text: str, why: str, go: str = "", section: str = "") -> str:
    """Write the next step; `go` is the tab its button leads to, and `section` the part of it."""
    leads = f"data-go='{escape(go)}' data-section='{escape(section)}'"
    return f"<div {leads}><p class='lead'>{escape(text)}</p><p class='why'>{escape(why)}</p></div>"


def problem_html(text: str) -> str:
    """Write what kept something from starting; nothing where nothing did."""
    return f"<p class='problem' role='alert'>{escape(text)}</p>" if text else ""


def changed_html(changed: Mapping[str, str]) -> str:
    """Name the settings that are not as usual; nothing where all are."""
    if not changed:
        return ""
    listed = escape(", ".join(f"{name} {value}" for name, value in changed.items()))
    return f"<p>{len(changed)} setting{'s' * (len(changed) != 1)} changed: {listed}</p>"


def plan_html(text: str, *, possible: bool) -> str:
    """Write what a stage would do, or what it waits for."""
    return f"<p class='plan {'ready' if possible else 'waits'}'>{escape(text)}</p>"
