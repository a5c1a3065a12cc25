"""What a run's rows say to a person: how far it is, what its charts show, what came out. Knows no Gradio.

All of it is a function of rows, so that every page, and every reload of one, shows the same.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lorarlhf.figures import clock, number
from lorarlhf.reading import Point, outcome
from lorarlhf.store import RunRow, Store
from lorarlhf.ui.train.charts import Chart, Line
from lorarlhf.ui.train.comparing import NO_NUMBERS

Series = dict[str, list[Point]]
"""Metric → (step, value), in order of steps."""

STAGE_NAMES = {"sft": "SFT", "reward": "Reward model", "ppo": "PPO"}
STATUS_WORDS = {"running": "running", "interrupted": "broken off"}
"""In the words of the app; the others are words already."""
SET = ("lr/", "objective/kl_coef")
"""Metrics that are set, not measured."""
LOG_WORDS = {"eval/kl": "KL", "eval/scores": "reward", "eval/eos_share": "ended by itself"}
"""Measurements whose own names are not those of the charts."""
RESUMABLE = ("paused", "interrupted")
KEPT_RUNS = 8
PACE_STEPS = 20
"""Newest steps that the time left is guessed from."""


class RunNumbers:
    """The metrics of runs as lists; shared by all pages, and asks the store only for what is new."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, dict[str, dict[int, float]]]] = {}
        """Run → the status it had, and metric → step → value."""

    def of(self, run: RunRow) -> Series:
        """Give the series of a run as they stand."""
        with self._lock:
            status, found = self._known.pop(run.id, ("", {}))
            if status != run.status:
                found = {}  # a run that goes on does steps again that were not saved
            last = max((max(values) for values in found.values()), default=None)
            # The last step once more: measurements of it come after its first numbers.
            for step, name, value in self._store.metrics(run.id, None if last is None else last - 1):
                found.setdefault(name, {})[step] = value
            self._known[run.id] = (run.status, found)
            while len(self._known) > KEPT_RUNS:
                del self._known[next(iter(self._known))]
            return {name: list(values.items()) for name, values in found.items()}


# -- how far it is --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """How far a run is."""

    step: int
    total: int
    """0 where nobody knows."""
    seconds_left: float | None

    @property
    def share(self) -> float:
        """Of all steps, 0 to 1."""
        return min(1.0, self.step / self.total) if self.total else 0.0


def way(run: RunRow, series: Series) -> Way:
    """Find how far a run is and how long the rest takes at its latest pace."""
    known = series.get("run/steps")
    total = int(known[-1][1]) if known else run.settings.get("steps", 0)
    if run.status == "done":  # perhaps earlier than planned
        total = run.step
    pace = [seconds for _, seconds in series.get("time/step", [])[-PACE_STEPS:]]
    left = fmean(pace) * max(0, total - run.step) if pace and total and run.status == "running" else None
    return Way(run.step, total, left)


# -- charts ---------------------------------------------------------------------------------------------------


def charts(run: RunRow, series: Series) -> list[Chart]:
    """Choose the charts of a run's stage."""
    last = float(way(run, series).total or run.step)

    def line(name: str, label: str, style: str = "main") -> Line:
        return Line(label, series.get(name, []), style)

    def chart(title: str, *lines: Line, help: str, **looks: Any) -> Chart:
        return Chart(title, lines, last, help=help, **looks)

    if run.stage == "ppo":
        return _ppo_charts(run, series, line, chart)
    loss = chart(
        "Loss",
        line(f"loss/{run.stage}", "training"),
        line("eval/loss", "test", "heldout"),
        help="How surprised the adapter is by the data; lower is better. Test data is never trained on.",
    )
    if run.stage == "reward":
        accuracy = chart(
            "Accuracy",
            line("train/accuracy", "training"),
            line("eval/accuracy", "test", "heldout"),
            _level("guessing", 0.5, last),
            low=0.0,
            high=1.0,
            percent=True,
            help="Share of clear votes whose better answer scores higher.",
        )
        return [loss, accuracy]
    perplexity = chart(
        "Perplexity",
        line("eval/perplexity", "test", "heldout"),
        help="Between how many words the adapter hesitates, on average, on test data; lower is better.",
    )
    rate = chart(
        "Learning rate",
        Line("Adam", series.get("lr/sft", []), smooth=False),
        low=0.0,
        help="It grows, then falls, as the schedule says.",
    )
    return [loss, perplexity, rate]


def all_charts(run: RunRow, series: Series) -> list[Chart]:
    """Add a chart of every metric that those of the stage do not show."""
    chosen, last = charts(run, series), float(way(run, series).total or run.step)
    shown = {id(line.points) for chart in chosen for line in chart.lines}
    rest = [name for name in sorted(series) if id(series[name]) not in shown and name not in NO_NUMBERS]
    return chosen + [Chart(name, [_alone(name, series[name])], last) for name in rest]


def _alone(name: str, points: list[Point]) -> Line:
    style = "heldout" if name.startswith("eval/") else "main"
    return Line(name.split("/")[-1], points, style, smooth=not name.startswith(SET))


def _ppo_charts(run: RunRow, series: Series, line: Any, chart: Any) -> list[Chart]:
    budget = run.settings.get("kl_budget", math.inf)
    highest = max((y for _, y in series.get("objective/kl", [])), default=0.0)
    near = [_level("budget", budget, float(way(run, series).total or run.step))] if highest > budget / 2 else []
    value = chart(
        "Value fit",
        line("val/explained_variance", "training"),
        high=1.0,
        percent=True,
        help="Explained variance: the share of the rewards that the critic foresees; below 0 a mean does better.",
    )
    return [
        chart(
            "Reward",
            line("objective/scores", "training"),
            line("eval/scores", "test", "heldout"),
            help="Mean score of the answers by the reward model; higher is better, as far as it is right.",
        ),
        chart(
            "KL",
            line("objective/kl", "training"),
            line("eval/kl", "test", "heldout"),
            *near,
            low=0.0,
            help="How far the answers have moved from the SFT model's, in nats an answer.",
        ),
        chart("Entropy", line("objective/entropy", "training"), low=0.0, help="How varied the answers are."),
        chart(
            "Length",
            line("response/length", "training"),
            line("eval/length", "test", "heldout"),
            low=0.0,
            help="Mean length of the answers, in tokens.",
        ),
        chart(
            "Clipped updates",
            line("policy/clipfrac", "training"),
            low=0.0,
            high=0.1,
            percent=True,
            help="Share of the tokens on which the update was held back because it went too far.",
        ),
        chart(
            "Ended by itself",
            line("response/eos_share", "training"),
            line("eval/eos_share", "test", "heldout"),
            low=0.0,
            high=1.0,
            percent=True,
            help="Share of the answers that came to an end by themselves, before the longest length.",
        ),
        chart(
            "Worst answer",
            line("objective/scores_min", "training"),
            help="Score of the worst answer of each batch; it falls where the reward model is being fooled.",
        ),
        *([] if run.settings.get("critic") == "none" else [value]),
    ]


def _level(label: str, value: float, last: float) -> Line:
    return Line(label, [(0.0, value), (last, value)], "limit")


# -- words ----------------------------------------------------------------------------------------------------


def why_not_resumed(run: RunRow, fingerprint: str) -> str:
    """Say why a run cannot be gone on with and what to do instead; empty where it can."""
    if run.status not in RESUMABLE:
        return f"{run.called} is {STATUS_WORDS.get(run.status, run.status)}"
    made_on = run.parents.get("base", {})
    if made_on.get("fingerprint") != fingerprint:
        return f"It is on another base: load {made_on.get('name', run.base)} first."
    return ""


def parents(run: RunRow) -> str:
    """Say which adapters a run stands on."""
    names = {"parent": "starts from", "sft": "reference", "reward": "reward model"}
    adapters = dict(run.parents.get("adapters", {}))
    if run.stage == "ppo" and adapters.get("parent") == "base":
        del adapters["parent"]  # none named: the policy starts as the reference
    return ", ".join(
        f"{names.get(role, role)} {'the base model' if name == 'base' else name}" for role, name in adapters.items()
    )


def log(run: RunRow, events: Sequence[Any], series: Series) -> list[tuple[str, str]]:
    """Tell a run's story, oldest first: (when, what)."""
    data = [f"{len(ids):,} {kind}" for kind, ids in run.parents.get("data", {}).items() if ids]
    made = "; ".join(filter(None, [f"started on {run.base} with {', '.join(data) or 'no data'}", parents(run)]))
    story = [(-1, clock(run.created, day=True), made)]
    measured: dict[int, list[str]] = {}
    for name, points in series.items():
        if name.startswith("eval/") and name.count("/") == 1 and not name.endswith(("_low", "_high", "/votes")):
            for step, value in points:
                measured.setdefault(int(step), []).append(f"{LOG_WORDS.get(name, name[5:])} {number(value)}")
    story += [(step, f"step {step}", f"test: {', '.join(words)}") for step, words in measured.items()]
    story += [(event.step, clock(event.created), event.text) for event in events]
    story.sort(key=lambda line: line[0])
    if run.status != "running":
        words = STATUS_WORDS.get(run.status, run.status)
        story.append((run.step, clock(run.finished or run.updated), f"{words}. {outcome(run)}".strip(" .")))
    return [(when, text) for _, when, text in story]
