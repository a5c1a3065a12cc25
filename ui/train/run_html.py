"""A run as HTML: its head, charts, samples, log, and the list of all runs. Pure functions of rows; no Gradio.

What people and models wrote is escaped here, all of it; answers are hostile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from lorarlhf.store import RunRow
from lorarlhf.ui.train.charts import draw
from lorarlhf.ui.train.progress import (
    STAGE_NAMES,
    STATUS_WORDS,
    Series,
    charts,
    clock,
    duration,
    outcome,
    parents,
    way,
)
from lorarlhf.ui.train.remarks import remarks

NO_RUN = """<div class='run-head empty'><h3>No run yet</h3>
<p>Training goes in three stages, each on what the one before it made:</p>
<ol><li><b>SFT</b> imitates demonstrations: answers that are good as they are.</li>
<li>The <b>reward model</b> learns from your votes which of two answers you like better.</li>
<li><b>PPO</b> lets the model practise, and the reward model judges in your place.</li></ol>
<p>Once a stage is at work, its charts stand here.</p></div>"""
SAMPLED_STEPS = 12
"""Newest steps whose samples are shown."""


def head(run: RunRow, series: Series, *, stopping: bool = False, why_not: str = "") -> str:
    """Write what a run is and how far it is; `why_not` says why a broken-off run cannot be gone on with."""
    state = "stopping" if stopping else run.status
    words = "stops after this step" if stopping else STATUS_WORDS.get(run.status, run.status)
    lines = [
        f"<h3>{escape(run.id)} <span class='pill {escape(state)}'>{escape(words)}</span></h3>",
        f"<p class='about'>{escape(_about(run))}</p>",
        _bar(run, series),
    ]
    said = " ".join(text for text in (outcome(run), why_not) if text)
    if said:
        lines.append(f"<p class='outcome {escape(run.status)}'>{escape(said)}</p>")
    lines += [f"<p class='remark'><b>Look:</b> {escape(text)}</p>" for text in remarks(run, series)]
    return f"<div class='run-head'>{''.join(lines)}</div>"


def _about(run: RunRow) -> str:
    becomes = "made" if run.status == "done" else "makes"
    words = [f"{STAGE_NAMES.get(run.stage, run.stage)} · {becomes} {run.adapter}"]
    return " · ".join([*words, *([parents(run)] if parents(run) else [])])


def _bar(run: RunRow, series: Series) -> str:
    now = way(run, series)
    of = f" of {now.total:,}" if now.total else ""
    left = f"about {duration(now.seconds_left)} left" if now.seconds_left is not None else ""
    if run.status == "running" and not series.get("time/step"):
        left = "getting ready"
    value = f" value='{now.share:.4f}'" if now.total or run.status != "running" else ""
    return (
        f"<div class='way'><progress max='1'{value} aria-label='Progress of {escape(run.id)}'></progress>"
        f"<span>step {now.step:,}{of}</span><span>{left}</span></div>"
    )


def charts_html(run: RunRow, series: Series) -> str:
    """Draw a run's charts."""
    return f"<div class='charts'>{''.join(draw(chart) for chart in charts(run, series))}</div>"


def samples_html(samples: Sequence[Mapping[str, Any]]) -> str:
    """Write the sample answers as a table, the newest step first."""
    steps = [(step, list(rows)) for step, rows in groupby(samples, key=lambda sample: sample["step"])][::-1]
    body = "".join(_sample(sample) for _, rows in steps[:SAMPLED_STEPS] for sample in rows)
    if not body:
        return "<p class='nothing'>The first answers appear after the first step.</p>"
    columns = {"Step": "n", "Prompt": "sample-prompt", "Answer": "sample-answer", "Score": "n", "KL": "n"}
    titles = "".join(f"<th scope='col' class='{kind}'>{name}</th>" for name, kind in columns.items())
    return f"<table class='samples'><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def _sample(sample: Mapping[str, Any]) -> str:
    cut = "" if sample.get("ended", True) else " <span class='cut'>cut off at the longest length</span>"
    cells = (
        f"<td class='n' data-name='Step'>{int(sample['step']) + 1}</td>",
        f"<td class='sample-prompt' dir='auto'>{escape(str(sample['prompt']))}</td>",
        f"<td class='sample-answer' dir='auto'>{escape(str(sample['response']))}{cut}</td>",
        f"<td class='n' data-name='Score'>{_fixed(sample['score'])}</td>",
        f"<td class='n' data-name='KL'>{_fixed(sample['kl'])}</td>",
    )
    return f"<tr>{''.join(cells)}</tr>"


def _fixed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")  # digits under digits


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
    id, status = escape(run.id), escape(run.status)
    said = outcome(run) or f"{'makes' if run.status == 'running' else 'would make'} {run.adapter}"
    press = f"<button type='button' data-do='resume' data-run='{id}'>Resume<span class='sr'> {id}</span></button>"
    return (
        f"<li{' class=shown' if shown else ''}>"
        f"<button type='button' class='name' data-do='show' data-run='{id}' aria-pressed='{str(shown).lower()}'>"
        f"<span class='sr'>Show </span>{id}</button>"
        f"<span class='pill {status}'>{escape(STATUS_WORDS.get(run.status, run.status))}</span>"
        f"<span class='when'>{escape(clock(run.created, day=True))}</span>"
        f"<span class='said'>{escape(said)}</span>{press if resumable else ''}</li>"
    )


def step_html(text: str, why: str, go: str = "") -> str:
    """Write the next step; `go` is the tab its button leads to."""
    return f"<div data-go='{escape(go)}'><p class='lead'>{escape(text)}</p><p class='why'>{escape(why)}</p></div>"


def problem_html(text: str) -> str:
    """Write what kept something from starting; nothing where nothing did."""
    return f"<p class='problem' role='alert'>{escape(text)}</p>" if text else ""


def plan_html(text: str, *, possible: bool) -> str:
    """Write what a stage would do, or what it waits for."""
    return f"<p class='plan {'ready' if possible else 'waits'}'>{escape(text)}</p>"
