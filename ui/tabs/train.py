"""Train: the one obvious next step, a form for each stage, and any run's progress, charts, samples and log.

Everything shown is read from the store's rows; a page only remembers which run it looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from lorarlhf.errors import LoraRlhfError
from lorarlhf.library import free_name
from lorarlhf.store import RunRow
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.train import run_html
from lorarlhf.ui.train.advice import ROLES, Standing, choices, missing, next_step, plan
from lorarlhf.ui.train.forms import Form, build_form, defaults
from lorarlhf.ui.train.progress import STAGE_NAMES, log
from lorarlhf.ui.train.training_view import TrainingView

ASSETS = Path(__file__).parent.parent / "assets"
PRESSED = (ASSETS / "train.js").read_text(encoding="utf-8")
"""Tells which button of the list of runs was pressed."""
LOOK_SECONDS, IDLE_SECONDS = 1.0, 4.0
"""How often a page looks while a run is at work, and while none is: another page or a terminal may start one."""
PLAN_FIELDS = ("epochs", "steps", "batch_size", "max_new_tokens")
"""Settings that decide how many steps a run takes, and how long one takes."""
START_LABELS = {"sft": "Train SFT", "reward": "Train a reward model", "ppo": "Train with PPO"}
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
GO_THERE = """() => {
  const name = document.querySelector('#next-step [data-go]')?.dataset.go;
  const tabs = name ? document.querySelectorAll('#tabs [role=tab]') : [];
  [...tabs].find(tab => tab.textContent.trim() === name)?.click();
}"""
"""Where the next step is on another tab, its button leads there."""

Updates = dict[Any, Any]
"""Component → what becomes of it; others stay as they are."""
Group = tuple[Any, Callable[[], Updates]]
"""What some components depend on, and how to make them new when that changed."""


@dataclass(frozen=True)
class StagePart:
    """A stage's form and what stands around it."""

    form: Form
    plan: gr.HTML
    start: gr.Button
    problem: gr.HTML


@dataclass(frozen=True)
class RunPart:
    """Where one run is shown."""

    head: gr.HTML
    stop: gr.Button
    charts: gr.HTML
    samples_fold: gr.Accordion
    samples: gr.HTML
    log_fold: gr.Accordion
    log: gr.HTML


def build(desk: Desk, tab: gr.Tab) -> None:
    """Build the tab."""
    Page(desk).wire(tab)


class Page:
    """The components of the tab and what happens between them."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.view = desk, TrainingView(desk)
        self.built_for = desk.load_settings.base
        self.fast, self.slow = gr.Timer(LOOK_SECONDS, active=False), gr.Timer(IDLE_SECONDS)
        self.seen, self.chosen, self.offer = gr.State({}), gr.State(""), gr.State(("", ""))
        with gr.Row(elem_id="next-step", equal_height=True):
            self.step = gr.HTML(elem_id="next-text", scale=1, min_width=240)
            self.do = gr.Button("Next", variant="primary", visible=False, min_width=190, scale=0, elem_id="next-do")
        self.step_problem = gr.HTML(elem_classes="problem-line")
        with gr.Row(elem_id="train-columns"):
            with gr.Column(scale=3, min_width=320, elem_id="run-column"):
                self.run = _run_part()
            with gr.Column(scale=2, min_width=320, elem_id="form-column"):
                with gr.Tabs(elem_id="stages") as self.tabs:
                    self.stages = {stage: _stage_part(desk, stage) for stage in STAGE_NAMES}
                gr.HTML("<h3>All runs</h3>", elem_classes="title")
                self.runs_problem = gr.HTML(elem_classes="problem-line")
                self.runs = gr.HTML(elem_id="runs", apply_default_css=False, js_on_load=PRESSED)
        forms = [part.form for part in self.stages.values()]
        self.fields = {field for form in forms for field in (form.name, *form.fields.values())}
        self.problems = [self.step_problem, self.runs_problem, *(part.problem for part in self.stages.values())]
        self.planning = [form.fields[name] for form in forms for name in PLAN_FIELDS if name in form.fields]

    # -- events -----------------------------------------------------------------------------------------------

    def wire(self, tab: gr.Tab) -> None:
        """Connect events to what they do."""
        look: dict[str, Any] = {"inputs": {self.seen, self.chosen, *self.planning}, "outputs": self._outputs(), **QUIET}
        gr.on([self.fast.tick, self.slow.tick], self.look, **look)
        gr.on([tab.select, *(field.change for field in self.planning)], self.look, trigger_mode="always_last", **look)
        act: dict[str, Any] = {"outputs": {*self.problems, self.chosen}, "show_progress": "hidden"}
        act["api_visibility"] = "private"
        for stage, part in self.stages.items():
            filled = {part.form.name, *part.form.fields.values(), self.chosen}
            part.start.click(self._starter(stage, part.problem), filled, **act).then(self.look, **look)
        self.do.click(None, js=GO_THERE, **QUIET)
        offered = {*self.fields, self.offer, self.chosen}
        self.do.click(self._do_next, offered, **act).then(self.look, **look)
        self.run.stop.click(lambda: self.desk.stop_run(), **QUIET).then(self.look, **look)
        self.runs.click(self._press, **act).then(self.look, **look)

    def _starter(self, stage: str, problem: gr.HTML) -> Callable[[Mapping[Any, Any]], Updates]:
        return lambda filled: self._attempt(lambda: self._start(stage, filled), problem)

    def _do_next(self, filled: Mapping[Any, Any]) -> Updates:
        """Do what the page offered, even if by now another page did something that makes it a bad idea."""
        do, run = filled[self.offer]
        if do == "resume":
            return self._attempt(lambda: self.view.resume(run), self.step_problem)
        if do in self.stages:
            return self._attempt(lambda: self._start(do, filled), self.step_problem)
        return {self.step_problem: ""}

    def _press(self, event: gr.EventData) -> Updates:
        """Show a run of the list, or go on with it."""
        run = str(event.run)
        action = (lambda: self.view.resume(run)) if event.do == "resume" else (lambda: None)
        return self._attempt(action, self.runs_problem) | {self.chosen: run}

    def _start(self, stage: str, filled: Mapping[Any, Any]) -> None:
        form = self.stages[stage].form
        self.view.train(stage, form.settings(self.desk, filled), filled[form.name] or "")

    def _attempt(self, action: Callable[[], None], problem: gr.HTML) -> Updates:
        """Do something, and look at the run at work then; or say in one line why it cannot be."""
        try:
            action()
        except LoraRlhfError as error:
            return dict.fromkeys(self.problems, "") | {problem: run_html.problem_html(str(error))}
        return dict.fromkeys(self.problems, "") | {self.chosen: ""}

    # -- looking ----------------------------------------------------------------------------------------------

    def look(self, filled: Mapping[Any, Any]) -> Updates:
        """Bring the page up to date: only what changed since it last looked is sent."""
        runs = self.view.runs()
        now, run = self.view.standing(runs), _shown(runs, filled[self.chosen])
        groups = self._groups(now, runs, run, filled)
        seen = {"base": self.built_for, **filled[self.seen]}
        stale = [name for name, (stamp, _) in groups.items() if name not in seen or seen[name] != stamp]
        if not stale:
            return {self.seen: gr.skip()}
        updates: Updates = {self.seen: {name: stamp for name, (stamp, _) in groups.items()}}
        for name in stale:
            updates |= groups[name][1]()
        if "next" not in filled[self.seen] and (do := next_step(now).do) in self.stages:
            updates[self.tabs] = gr.Tabs(selected=do)
        return updates

    def _groups(
        self, now: Standing, runs: list[RunRow], run: RunRow | None, filled: Mapping[Any, Any]
    ) -> dict[str, Group]:
        standing = str((now.stamp(), [(r.id, r.status) for r in runs]))
        groups: dict[str, Group] = {
            "base": (self.desk.load_settings.base, self._defaults),
            "next": (standing, lambda: self._next(now)),
            "adapters": ([a.name for a in now.adapters], lambda: self._adapters(now)),
            "plans": ((standing, [filled[field] for field in self.planning]), lambda: self._plans(now, runs, filled)),
            "runs": ((standing, run and run.id), lambda: self._list(runs, run)),
            "run": ("", self._no_run),
        }
        if run:
            state = (run.id, run.status, run.updated, self.desk.stopping, self.view.why_not_resumed(run))
            groups["run"] = (state, lambda: self._run(run))
            sampled = (run.step - 1) // run.settings.get("sample_every", 1)
            groups["samples"] = ((run.id, run.status, sampled), lambda: self._samples(run))
        return groups

    def _outputs(self) -> set[Any]:
        parts = [part for stage in self.stages.values() for part in (stage.plan, stage.start)]
        own = {self.seen, self.offer, self.fast, self.step, self.do, self.tabs, self.runs}
        return own | {*parts, *self.fields, *vars(self.run).values()}

    def _defaults(self) -> Updates:
        """Fill the forms with what suits another base."""
        found: Updates = {}
        for stage, part in self.stages.items():
            values = defaults(self.desk, stage)
            found |= {field: values[name] for name, field in part.form.fields.items()}
        return found

    def _next(self, now: Standing) -> Updates:
        step = next_step(now)
        go = "" if step.do in (*self.stages, "resume") else step.do
        return {
            self.step: run_html.step_html(step.text, step.why, go),
            self.do: gr.update(value=step.label, visible=bool(step.label)),
            self.offer: (step.do, step.run),
            self.fast: gr.Timer(active=bool(now.at_work)),
        }

    def _adapters(self, now: Standing) -> Updates:
        """Offer the adapters there are, in forms and as names that are still free."""
        folder, runs, found = self.desk.workspace.adapters_dir, self.desk.store.run_names(), {}
        for stage, part in self.stages.items():
            found[part.form.name] = gr.update(placeholder=free_name(folder, stage, runs))
            for name in part.form.adapters:
                found[part.form.fields[name]] = gr.update(choices=choices(stage, name, now))
        return found

    def _plans(self, now: Standing, runs: list[RunRow], filled: Mapping[Any, Any]) -> Updates:
        found: Updates = {}
        for stage, part in self.stages.items():
            problem = missing(stage, now)
            values = {name: filled[f] for name, f in part.form.fields.items() if name in PLAN_FIELDS}
            text = problem or plan(stage, now, values, self.view.pace(stage, runs))
            found[part.plan] = run_html.plan_html(text, possible=not problem)
            found[part.start] = gr.update(interactive=not problem)
        return found

    def _list(self, runs: list[RunRow], shown: RunRow | None) -> Updates:
        resumable = [run.id for run in runs if not self.view.why_not_resumed(run)]
        return {self.runs: run_html.runs_html(runs, shown.id if shown else "", resumable)}

    def _no_run(self) -> Updates:
        hidden = gr.update(visible=False)
        folds: Updates = {self.run.samples_fold: hidden, self.run.log_fold: hidden}
        return {self.run.head: run_html.NO_RUN, self.run.stop: hidden, **folds}

    def _run(self, run: RunRow) -> Updates:
        series, stopping = self.view.numbers.of(run), self.desk.stopping
        mine = bool(self.desk.run_job and not self.desk.run_job.done and self.desk.run_job.progress.run == run.id)
        why_not = self.view.why_not_resumed(run)
        broken = run.status in ("paused", "interrupted")
        return {
            self.run.head: run_html.head(run, series, stopping=mine and stopping, why_not=why_not if broken else ""),
            self.run.stop: gr.update(visible=mine, interactive=not stopping),
            self.run.charts: run_html.charts_html(run, series),
            self.run.samples_fold: gr.update(visible=run.stage == "ppo"),
            self.run.log_fold: gr.update(visible=True),
            self.run.log: run_html.log_html(log(run, self.desk.store.events(run.id), series)),
        }

    def _samples(self, run: RunRow) -> Updates:
        if run.stage != "ppo":
            return {self.run.samples: ""}
        since = run.step - run_html.SAMPLED_STEPS * run.settings.get("sample_every", 1)
        return {self.run.samples: run_html.samples_html(self.desk.store.samples(run.id, since - 1))}


def _shown(runs: list[RunRow], chosen: str) -> RunRow | None:
    """Find the run to show: the chosen one, else the one at work, else the newest."""
    at_work = [run for run in runs if run.status == "running"]
    return next((run for run in runs if run.id == chosen), (at_work or runs or [None])[-1])


def _stage_part(desk: Desk, stage: str) -> StagePart:
    with gr.Tab(STAGE_NAMES[stage], id=stage):
        plan_line = gr.HTML(elem_classes="plan")
        form = build_form(desk, stage, ROLES[stage])
        problem = gr.HTML(elem_classes="problem-line")
        start = gr.Button(START_LABELS[stage], interactive=False, elem_id=f"start-{stage}")
    return StagePart(form, plan_line, start, problem)


def _run_part() -> RunPart:
    head = gr.HTML(elem_id="run-head")
    with gr.Row(elem_id="run-buttons"):
        stop = gr.Button("Stop and save", variant="stop", size="sm", visible=False, scale=0, min_width=150)
    charts = gr.HTML(elem_id="run-charts")
    with gr.Accordion("Sample answers", visible=False) as samples_fold:
        samples = gr.HTML(elem_id="run-samples", apply_default_css=False)
    with gr.Accordion("Log", visible=False) as log_fold:
        lines = gr.HTML(elem_id="run-log", apply_default_css=False)
    return RunPart(head, stop, charts, samples_fold, samples, log_fold, lines)
