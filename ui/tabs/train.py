"""Train: the one obvious next step, a form for each stage, and any run's progress, charts, samples and log.

Everything shown is read from the store's rows; a page only remembers which run it looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import gradio as gr

from lorarlhf.errors import LoraRlhfError
from lorarlhf.library import free_name
from lorarlhf.store import RunRow
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.judge.looked import UnseenReward
from lorarlhf.ui.live import QUIET, UNSEEN, asset, beating, leads
from lorarlhf.ui.readiness import FIRST_VOTES
from lorarlhf.ui.train import run_html
from lorarlhf.ui.train.advice import PRACTICE, Standing, choices, missing, next_step, plan
from lorarlhf.ui.train.align import Report, report_html
from lorarlhf.ui.train.charts import as_json, overlaid
from lorarlhf.ui.train.comparing import numbers_csv as as_csv
from lorarlhf.ui.train.efforts import LENGTH, defaults
from lorarlhf.ui.train.end_card import card_html
from lorarlhf.ui.train.look_first import LookFirst
from lorarlhf.ui.train.parts import run_part, stage_part
from lorarlhf.ui.train.progress import STAGE_NAMES, all_charts, charts, log
from lorarlhf.ui.train.training_view import TrainingView
from lorarlhf.ui.words import words_html

PRESSED = asset("train.js")
"""Tells which button of a list was pressed."""
MOST_COMPARED = 5
"""Runs beside the one that is shown: there are no more colours anybody can tell apart."""
MOST_OFFERED = 12
LEADING = asset("lead.js") + asset("leading.js")
ALIGN = "Align for me"
ALIGN_ABOUT = (
    "<p>Overnight: reward model, check, PPO, check, and a blind test that lies ready in the morning. It stops where a "
    "check fails.</p>"
)
PLAN_FIELDS = ("epochs", "steps", "batch_size", "max_new_tokens", "practise_on")
"""Settings that decide what a run works on, how many steps it takes, and how long one takes."""
COST_FIELDS = (*PLAN_FIELDS, "rank", "micro_batch_tokens", "max_length", "gradient_checkpointing", "rollout_rows")
"""Settings that decide what memory and time a run takes."""
GO_THERE = leads("document.querySelector('#next-step [data-go]').dataset")
"""Where the next step is on another tab, its button leads there."""

Updates = dict[Any, Any]
"""Component → what becomes of it; others stay as they are."""
Group = tuple[Any, Callable[[], Updates]]
"""What some components depend on, and how to make them new when that changed."""
Groups = dict[str, Group]


def build(desk: Desk, tab: gr.Tab) -> None:
    """Build the tab."""
    Page(desk).wire(tab)


class Page:
    """The components of the tab and what happens between them."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.view = desk, TrainingView(desk)
        self.built_for = desk.load_settings.base
        self.seen, self.chosen, self.offer = gr.State({}), gr.State(""), gr.State(("", ""))
        self.compared = gr.State(((), False))
        """Runs laid over the one that is shown, and whether all metrics are wanted."""
        with gr.Row(elem_id="next-step", equal_height=True):
            self.step = gr.HTML(elem_id="next-text", scale=1, min_width=240)
            self.do = gr.Button("Next", variant="primary", visible=False, min_width=190, scale=0, elem_id="next-do")
        self.look_first = LookFirst()
        self.step_problem = gr.HTML(elem_classes="problem-line")
        with gr.Row(elem_id="align-row", equal_height=True):
            self.align_go = gr.Button(ALIGN, visible=False, scale=0, min_width=190, elem_id="align-go")
            self.align_about = gr.HTML(ALIGN_ABOUT, visible=False, elem_id="align-about", scale=1, min_width=240)
        self.align = gr.HTML(elem_id="align", apply_default_css=False, js_on_load=PRESSED + LEADING)
        with gr.Row(elem_id="train-columns"):
            with gr.Column(min_width=300, elem_id="form-column"):
                with gr.Tabs(elem_id="stages") as self.tabs:
                    self.stages = {stage: stage_part(desk, stage) for stage in STAGE_NAMES}
                self.queue = gr.HTML(elem_id="queue", apply_default_css=False, js_on_load=PRESSED)
            with gr.Column(min_width=300, elem_id="run-column"):
                self.run = run_part(self.numbers_csv)
            with gr.Column(min_width=300, elem_id="runs-column"):
                with gr.Row(elem_classes="title"):
                    self.beat = beating("", stamp=self.view.news, value="<h3>All runs</h3>", min_width=100)
                    _bell(self.view)
                self.runs_problem = gr.HTML(elem_classes="problem-line")
                self.runs = gr.HTML(elem_id="runs", apply_default_css=False, js_on_load=PRESSED)
                gr.HTML(words_html(), elem_classes="glossary", apply_default_css=False)
        forms = [part.form for part in self.stages.values()]
        self.fields = {field for form in forms for field in (form.name, form.effort, *form.fields.values())}
        self.problems = [self.step_problem, self.runs_problem, *(part.problem for part in self.stages.values())]
        self.planning = [field for form in forms for field in (form.effort, *form.fields.values())]

    # -- events -----------------------------------------------------------------------------------------------

    def wire(self, tab: gr.Tab) -> None:
        """Connect events to what they do."""
        asked = {self.seen, self.chosen, self.compared, *self.planning}
        look: dict[str, Any] = {"inputs": asked, "outputs": self._outputs(), **QUIET}
        changed = [field.change for field in self.planning]
        gr.on([self.beat.tick, tab.select, *changed], self.look, trigger_mode="always_last", **look)
        act: dict[str, Any] = {"outputs": {*self.problems, self.chosen, *self.look_first.outputs}, **UNSEEN}
        for stage, part in self.stages.items():
            filled = {part.form.name, part.form.effort, *part.form.fields.values(), self.chosen}
            part.start.click(self._starter(stage, part.problem), filled, **act).then(self.look, **look)
            part.queue.click(self._enqueuer(stage, part.problem), filled, **act).then(self.look, **look)
        self.do.click(None, js=GO_THERE, **QUIET)
        offered = {*self.fields, self.offer, self.chosen}
        self.do.click(self._do_next, offered, **act).then(self.look, **look)
        self.look_first.wire(self._skip_look, {*self.fields, self.chosen}, **act).then(self.look, **look)
        self.run.stop.click(lambda: self.desk.stop_run(), **QUIET).then(self.look, **look)
        self.align_go.click(self._align, {*self.fields, self.chosen}, **act).then(self.look, **look)
        for listing in (self.runs, self.queue, self.align):
            listing.click(self._press, self.chosen, **act).then(self.look, **look)
        self.run.charts.click(self._compare, None, self.compared, **QUIET).then(self.look, **look)

    def _starter(self, stage: str, problem: gr.HTML) -> Callable[[Mapping[Any, Any]], Updates]:
        return lambda filled: self._attempt(lambda: self._start(stage, filled), problem)

    def _do_next(self, filled: Mapping[Any, Any]) -> Updates:
        """Do what the page offered, even if by now another page did something that makes it a bad idea."""
        do, run = filled[self.offer]
        if do == "resume":
            return self._attempt(lambda: self.view.resume(run), self.step_problem)
        if do in self.stages:
            return self._attempt(lambda: self._start(do, filled), self.step_problem)
        return {self.step_problem: ""} | self.look_first.settle()

    def _enqueuer(
        self, stage: str, problem: gr.HTML, *, unseen: bool = False
    ) -> Callable[[Mapping[Any, Any]], Updates]:
        form = self.stages[stage].form

        def enqueue(filled: Mapping[Any, Any]) -> Updates:
            settings, name = (lambda: form.settings(self.desk, filled)), filled[form.name] or ""
            action = lambda: self.view.queue.add(stage, settings(), name, unseen=unseen)  # noqa: E731
            return self._attempt(action, problem, "queue")

        return enqueue

    def _skip_look(self, filled: Mapping[Any, Any]) -> Updates:
        """Do with a reward model nobody looked at what the person asked for before."""
        problem = self.stages["ppo"].problem
        if filled[self.look_first.asked] == "queue":
            return self._enqueuer("ppo", problem, unseen=True)(filled)
        return self._attempt(lambda: self._start("ppo", filled, unseen=True), problem)

    def _ask_cost(self, stage: str, now: Standing, filled: Mapping[Any, Any], *, probing: bool) -> None:
        """Have the engine plan a stage, unless what it learns from is missing or a run is at work."""
        if missing(stage, now):
            return
        given = self.stages[stage].form.given(self.desk, filled, COST_FIELDS)
        key = (self.desk.fingerprint, now.about(), given)
        self.view.costs.ask(stage, key, self.desk.stage_settings(stage, given), probing=probing)

    def _press(self, chosen: str, event: gr.EventData) -> Updates:
        """Show a run of the list, or go on with it; or change what waits in the queue."""
        run, queue = str(event.run), self.view.queue
        if event.do in ("stop", "forget"):
            settle = self.view.align.stop if event.do == "stop" else self.view.align.forget
            return self._attempt(settle, self.runs_problem) | {self.chosen: chosen}
        if event.do in ("unqueue", "go-on"):
            action = queue.go_on if event.do == "go-on" else (lambda: queue.remove(int(run)))
            return self._attempt(action, self.runs_problem) | {self.chosen: chosen}
        resume = (lambda: self.view.resume(run)) if event.do == "resume" else (lambda: None)
        return self._attempt(resume, self.runs_problem) | {self.chosen: run}

    def _align(self, filled: Mapping[Any, Any]) -> Updates:
        """Begin to do the whole way by itself, with what both forms say."""

        def begin() -> None:
            reward, ppo = (self.stages[stage].form.settings(self.desk, filled) for stage in ("reward", "ppo"))
            self.view.align.begin(reward, ppo)

        return self._attempt(begin, self.step_problem)

    def _compare(self, event: gr.EventData) -> Any:
        """Take which runs the person wants in the charts, and whether all metrics."""
        return tuple(str(run) for run in event.runs)[:MOST_COMPARED], bool(event.all)

    def numbers_csv(self, payload: Mapping[str, Any]) -> str:
        """Write the numbers of runs as CSV, for the browser to save."""
        wanted = [str(run) for run in payload["runs"]]
        return as_csv({run.id: self.view.numbers.of(run) for run in self.view.runs() if run.id in wanted})

    def _start(self, stage: str, filled: Mapping[Any, Any], *, unseen: bool = False) -> None:
        form = self.stages[stage].form
        self.view.train(stage, form.settings(self.desk, filled), filled[form.name] or "", unseen=unseen)

    def _attempt(self, action: Callable[[], None], problem: gr.HTML, do: str = "start") -> Updates:
        """Do something, and look at the run at work then; or say in one line why it cannot be, or ask to look first."""
        settled = dict.fromkeys(self.problems, "") | self.look_first.settle()
        try:
            action()
        except UnseenReward as why:
            return settled | self.look_first.ask(str(why), do)
        except LoraRlhfError as error:
            return settled | {problem: run_html.problem_html(str(error))}
        return settled | {self.chosen: ""}

    # -- looking ----------------------------------------------------------------------------------------------

    def look(self, filled: Mapping[Any, Any]) -> Updates:
        """Bring the page up to date: only what changed since it last looked is sent."""
        runs = self.view.runs()
        now, run = self.view.standing(runs), _shown(runs, filled[self.chosen])
        others, everything = filled[self.compared]
        beside = [other for other in runs if run and other.id in others and other.id != run.id]
        groups = self._groups(now, runs, run, filled) | self._charts(runs, run, beside, everything)
        seen = {"base": self.built_for, **filled[self.seen]}
        stale = [name for name, (stamp, _) in groups.items() if name not in seen or seen[name] != stamp]
        if not stale:
            return {self.seen: gr.skip()}
        updates: Updates = {self.seen: {name: stamp for name, (stamp, _) in groups.items()}}
        for name in stale:
            updates |= groups[name][1]()
        if "next" not in filled[self.seen]:
            do, other = next_step(now).do, "ppo" if now.newest("reward") else "reward"
            updates[self.tabs] = gr.Tabs(selected=do if do in self.stages else other)
        return updates

    def _groups(self, now: Standing, runs: list[RunRow], run: RunRow | None, filled: Mapping[Any, Any]) -> Groups:
        standing = str((now.stamp(), [(r.id, r.status) for r in runs]))
        groups: Groups = {
            "base": (self.desk.load_settings.base, self._defaults),
            "next": (standing, lambda: self._next(now)),
            "adapters": ((now.names(), tuple(now.practice.values())), lambda: self._adapters(now)),
            "costs": ((costs := self._costs_stamp(now, runs, filled)), lambda: self._costs(now, runs, filled)),
            "plans": (
                (standing, costs, [filled[field] for field in self.planning]),
                lambda: self._plans(now, runs, filled),
            ),
            "runs": ((standing, run and run.id), lambda: self._list(runs, run)),
            "run": ("", self._no_run),
        }
        if run:
            state = (run.id, run.status, run.updated, self.desk.stopping, self.view.why_not_resumed(run))
            groups["run"] = (state, lambda: self._run(run))
            sampled = [run.step // every for every in _sampling(run)] + [(run.step - 1) // _sampling(run)[0]]
            groups["samples"] = ((run.id, run.status, sampled), lambda: self._samples(run))
        line = self.view.queue.line()
        report = self.view.align.report()
        can = now.base and not now.at_work and not missing("reward", now) and now.votes >= FIRST_VOTES
        offered = can and not report.at
        groups["align"] = (str((report, offered)), lambda: self._report(report, offered))
        groups["queue"] = (str(line), lambda: {self.queue: run_html.queue_html(line)})
        return groups

    def _report(self, report: Report, offered: bool) -> Updates:
        shown = gr.update(visible=offered)
        return {self.align: report_html(report), self.align_go: shown, self.align_about: shown}

    def _charts(self, runs: list[RunRow], run: RunRow | None, beside: list[RunRow], everything: bool) -> Groups:
        """Tell what the charts, and the tables of the same runs, depend on, and how they are made."""
        shown = [run, *beside] if run else []
        stamp = ([(one.id, one.status, one.updated) for one in shown], everything, [one.id for one in runs])
        return {
            "charts": (str(stamp), lambda: self._draw(runs, shown, everything)),
            "settings": (str([(one.id, one.status) for one in shown]), lambda: self._settings(shown)),
        }

    def _draw(self, runs: list[RunRow], shown: list[RunRow], everything: bool) -> Updates:
        if not shown:
            return {self.run.charts: "", self.run.numbers_fold: gr.update(visible=False)}
        series = [self.view.numbers.of(run) for run in shown]
        choose = all_charts if everything else charts
        named = [one["name"] for one in _named(shown)]
        drawn = {name: choose(run, one) for name, run, one in zip(named, shown, series, strict=True)}
        rest = [run for run in reversed(runs) if run not in shown]
        rest.sort(key=lambda run: run.stage != shown[0].stage)  # those of the same stage say most
        rest = rest[:MOST_OFFERED] if len(shown) <= MOST_COMPARED else []
        names = {"runs": _named(shown), "others": _named(rest), "all": everything}
        return {
            self.run.charts: as_json(overlaid(drawn), **names),
            self.run.numbers_fold: gr.update(visible=True),
            self.run.numbers: run_html.numbers_html(shown, series),
        }

    def _settings(self, shown: list[RunRow]) -> Updates:
        title = "Settings that differ" if len(shown) > 1 else "Settings"
        return {
            self.run.settings_fold: gr.update(visible=bool(shown), label=title),
            self.run.settings: run_html.settings_html(shown) if shown else "",
        }

    def _outputs(self) -> set[Any]:
        parts = [part for stage in self.stages.values() for part in stage.shown]
        own = {self.align, self.align_go, self.align_about, self.seen, self.offer, self.step, self.do, self.tabs}
        own |= {self.runs, self.queue}
        return own | {*parts, *self.fields, *vars(self.run).values()}

    def _defaults(self) -> Updates:
        """Fill the forms with what suits another base."""
        found: Updates = {}
        for stage, part in self.stages.items():
            values = defaults(self.desk, stage)
            values |= {LENGTH[stage]: None}
            found |= {field: values[name] for name, field in part.form.fields.items()}
        return found

    def _next(self, now: Standing) -> Updates:
        step = next_step(now)
        go = "" if step.do in (*self.stages, "resume") else step.do
        return {
            self.step: run_html.step_html(step.text, step.why, go, step.section),
            self.do: gr.update(value=step.label, visible=bool(step.label)),
            self.offer: (step.do, step.run),
        }

    def _adapters(self, now: Standing) -> Updates:
        """Offer the adapters there are, in forms and as names that are still free."""
        folder, runs, found = self.desk.workspace.adapters_dir, self.desk.store.run_names(), {}
        for stage, part in self.stages.items():
            found[part.form.name] = gr.update(placeholder=free_name(folder, stage, runs))
            for name in part.form.adapters:
                found[part.form.fields[name]] = gr.update(choices=choices(stage, name, now))
            if sources := part.form.fields.get("practise_on"):
                there = [(f"{words}: {now.practice.get(name, 0):,}", name) for name, words in PRACTICE.items()]
                found[sources] = gr.update(choices=there)
        return found

    def _plans(self, now: Standing, runs: list[RunRow], filled: Mapping[Any, Any]) -> Updates:
        found: Updates = {}
        for stage, part in self.stages.items():
            problem = missing(stage, now)
            values = part.form.given(self.desk, filled, PLAN_FIELDS)
            counted = self.view.costs.plan(stage).get("steps")
            text = problem or plan(stage, now, values, self.view.pace(stage, runs), counted)
            found[part.plan] = run_html.plan_html(text, possible=not problem)
            found[part.changed] = run_html.changed_html(part.form.changed(self.desk, filled))
            found[part.start] = gr.update(interactive=not problem)
            # Waiting helps against what others make or hold; a stage without data of its own would wait for nothing.
            found[part.queue] = gr.update(interactive=now.base and not missing(stage, now.in_time()))
        return found

    def _costs_stamp(self, now: Standing, runs: list[RunRow], filled: Mapping[Any, Any]) -> str:
        """Have planned what is not yet, and tell what the plans depend on."""
        for stage in self.stages:
            with suppress(LoraRlhfError):  # a value that makes no sense is told when the run is started
                # How long it takes is measured until a run has shown it.
                self._ask_cost(stage, now, filled, probing=self.view.pace(stage, runs) is None)
        return str([(self.view.costs.stamp(stage), missing(stage, now)) for stage in self.stages])

    def _costs(self, now: Standing, runs: list[RunRow], filled: Mapping[Any, Any]) -> Updates:
        found: Updates = {}
        for stage, part in self.stages.items():
            found[part.cost] = self.view.costs.html(stage)
            given = part.form.given(self.desk, filled, PLAN_FIELDS)
            found[part.form.effort] = gr.update(choices=self.view.efforts(stage, now, given, runs))
        return found

    def _list(self, runs: list[RunRow], shown: RunRow | None) -> Updates:
        resumable = [run.id for run in runs if not self.view.why_not_resumed(run)]
        return {self.runs: run_html.runs_html(runs, shown.id if shown else "", resumable)}

    def _no_run(self) -> Updates:
        hidden = gr.update(visible=False)
        folds: Updates = {self.run.after: "", self.run.samples_fold: hidden, self.run.log_fold: hidden}
        return {self.run.head: run_html.NO_RUN, self.run.stop: hidden, **folds}

    def _run(self, run: RunRow) -> Updates:
        series, stopping = self.view.numbers.of(run), self.desk.stopping
        mine = bool(self.desk.run_job and not self.desk.run_job.done and self.desk.run_job.progress.run == run.id)
        why_not = self.view.why_not_resumed(run)
        broken = run.status in ("paused", "interrupted")
        return {
            self.run.head: run_html.head(run, series, stopping=mine and stopping, why_not=why_not if broken else ""),
            self.run.stop: gr.update(visible=mine, interactive=not stopping),
            self.run.samples_fold: gr.update(visible=run.stage == "ppo"),
            self.run.log_fold: gr.update(visible=True),
            self.run.log: run_html.log_html(log(run, self.desk.store.events(run.id), series)),
        }

    def _samples(self, run: RunRow) -> Updates:
        if run.stage != "ppo":
            return {self.run.samples: "", self.run.after: ""}
        samples, since = self.desk.store.samples(run.id), run.step - run_html.SAMPLED_STEPS * max(_sampling(run))
        return {
            self.run.samples: run_html.samples_html([one for one in samples if one["step"] >= since]),
            self.run.after: card_html(run, self.view.numbers.of(run), samples),
        }


def _bell(view: TrainingView) -> None:
    def ended(_: dict[str, Any]) -> str:
        return run_html.bell_html(view.runs())

    gr.HTML(
        lambda: run_html.bell_html(view.runs()),
        elem_id="bell",
        js_on_load=asset("bell.js"),
        server_functions=[ended],
        apply_default_css=False,
        min_width=190,
    )


def _shown(runs: list[RunRow], chosen: str) -> RunRow | None:
    """Find the run to show: the chosen one, else the one at work, else the newest."""
    at_work = [run for run in runs if run.status == "running"]
    newest = (at_work or runs)[-1] if runs else None
    return next((run for run in runs if run.id == chosen), newest)


def _sampling(run: RunRow) -> tuple[int, int]:
    """Give the steps between samples of training, and between those of held-out prompts."""
    return run.settings.get("sample_every", 1), run.settings.get("eval_every") or 1


def _named(runs: list[RunRow]) -> list[dict[str, str]]:
    """Name runs as shortly as tells them apart."""
    adapters = [run.adapter for run in runs]
    return [{"id": run.id, "name": run.adapter if adapters.count(run.adapter) == 1 else run.called} for run in runs]
