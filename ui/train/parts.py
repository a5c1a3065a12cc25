"""What the Train tab is made of: the form of a stage with its buttons, and the place where a run is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lorarlhf.ui.desk import Desk
from lorarlhf.ui.live import asset, plain
from lorarlhf.ui.train.advice import ROLES
from lorarlhf.ui.train.forms import Form, build_form
from lorarlhf.ui.train.progress import STAGE_NAMES

END_CARD = asset("lead.js") + asset("end_card.js")
CHARTS = asset("charts_draw.js") + asset("charts.js")
START_LABELS = {"sft": "Train SFT", "reward": "Train a reward model", "ppo": "Train with PPO"}


@dataclass(frozen=True)
class StagePart:
    """A stage's form and what stands around it."""

    form: Form
    plan: gr.HTML
    cost: gr.HTML
    changed: gr.HTML
    start: gr.Button
    queue: gr.Button
    problem: gr.HTML

    @property
    def shown(self) -> tuple[Any, ...]:
        """List what looking may change, besides the fields."""
        return self.plan, self.cost, self.changed, self.form.effort, self.start, self.queue


@dataclass(frozen=True)
class RunPart:
    """Where one run is shown."""

    head: gr.HTML
    after: gr.HTML
    stop: gr.Button
    charts: gr.HTML
    samples_fold: gr.Accordion
    samples: gr.HTML
    settings_fold: gr.Accordion
    settings: gr.HTML
    numbers_fold: gr.Accordion
    numbers: gr.HTML
    log_fold: gr.Accordion
    log: gr.HTML


def stage_part(desk: Desk, stage: str) -> StagePart:
    """Build the tab of a stage's form."""
    with gr.Tab(STAGE_NAMES[stage], id=stage):
        plan_line = gr.HTML(elem_classes="plan")
        buttons: list[Any] = []

        def put_buttons() -> None:
            """Put them where nothing that comes later can move them from under the mouse."""
            words = START_LABELS[stage]
            with gr.Row(elem_classes="start"):
                buttons.append(gr.Button(words, interactive=False, scale=2, min_width=160, elem_id=f"start-{stage}"))
                buttons.append(gr.Button("Add to queue", interactive=False, min_width=150, elem_id=f"queue-{stage}"))
            buttons.append(gr.HTML(elem_classes="problem-line"))

        form = build_form(desk, stage, ROLES[stage], put_buttons)
        changed = gr.HTML(elem_id=f"changed-{stage}", elem_classes="changed")
        cost = gr.HTML(elem_id=f"cost-{stage}")
    return StagePart(form, plan_line, cost, changed, *buttons)


def run_part(numbers: Callable[[Mapping[str, Any]], str]) -> RunPart:
    """Build where a run is shown; `numbers` writes those of some runs as CSV."""

    def numbers_csv(payload: dict[str, Any]) -> str:  # Gradio marks what scripts may call; a method it cannot
        return numbers(payload)

    head = gr.HTML(elem_id="run-head")
    with gr.Row(elem_id="run-buttons"):
        stop = gr.Button("Stop and save", variant="stop", size="sm", visible=False, scale=0, min_width=150)
    after = gr.HTML(elem_id="run-after", js_on_load=END_CARD, apply_default_css=False)
    charts = gr.HTML(
        html_template=asset("charts.html"),
        js_on_load=CHARTS,
        server_functions=[numbers_csv],
        elem_id="run-charts",
        apply_default_css=False,
    )
    with gr.Accordion("Sample answers", visible=False) as samples_fold:
        samples = gr.HTML(elem_id="run-samples", apply_default_css=False)
    with gr.Accordion("Settings", visible=False, open=False) as settings_fold:
        settings = plain("run-table")
    with gr.Accordion("Numbers", visible=False, open=False) as numbers_fold:
        table = plain("run-table")
    with gr.Accordion("Log", visible=False) as log_fold:
        lines = gr.HTML(elem_id="run-log", apply_default_css=False)
    folds = (samples_fold, samples, settings_fold, settings, numbers_fold, table, log_fold, lines)
    return RunPart(head, after, stop, charts, *folds)
