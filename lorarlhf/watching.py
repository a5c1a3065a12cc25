"""Runs in the terminal: one in words, or all that are at work, live, whichever process works on them. No torch.

Watching only reads: whoever leaves it, or is killed in it, has touched nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from lorarlhf.reading import outcome, remarks, series_of
from lorarlhf.store import RunRow, Store
from lorarlhf.terminal import FIGURES, Metrics, say, training_bar

LOOK_SECONDS = 1.0
BETWEEN_SECONDS = 5.0
"""How long to wait for another run once none is at work any more: the next one of a queue takes a moment."""

Told = Callable[[int, int, Metrics], None]


def describe(store: Store, run_id: str) -> str:
    """Tell a run in words: what it is, how far, its newest figures, what came out and what the numbers say."""
    run, series = store.run(run_id), series_of(store, run_id)
    steps = series.get("run/steps")
    of = f" of {steps[-1][1]:g}" if steps else ""
    lines = [f"{run.called}: {run.stage} on {run.base}, {run.status}, step {run.step}{of}"]
    newest = [(label, series[name][-1]) for name, label in FIGURES[run.stage].items() if series.get(name)]
    lines += [f"  {label} {value:.4g} at step {step:g}" for label, (step, value) in newest]
    lines += [f"  {outcome(run)}"] if outcome(run) else []
    return "\n".join(lines + spoken(run, store))


def spoken(run: RunRow, store: Store) -> list[str]:
    """Write what happened in a run and what its numbers say, a line each."""
    happened = [f"  {text}" for text in store.said(run.id)]
    return happened + [f"  ! {remark}" for remark in remarks(run, series_of(store, run.id))]


def watch(store: Store) -> None:
    """Follow every run at work until none is, or until Ctrl-C, which leaves them alone."""
    bars: dict[str, Bar] = {}
    quiet_since = time.monotonic()
    if not store.at_work():
        say("no run is at work")
        return
    say("Ctrl-C leaves; the runs go on")
    try:
        while bars or time.monotonic() < quiet_since + BETWEEN_SECONDS:
            working = {run.id: run for run in store.at_work()}
            for id, run in working.items():
                bars.setdefault(id, Bar(run)).look(store)
            for id in bars.keys() - working.keys():
                bars.pop(id).end(store)
                quiet_since = time.monotonic()
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        say("\nleft; what is at work goes on")
    finally:
        for bar in bars.values():
            bar.close()


class Bar:
    """A run's progress bar; where nobody sees bars, a line for each measurement on held-out data."""

    def __init__(self, run: RunRow) -> None:
        self.run = run
        self._stack = ExitStack()
        self._told: Told = self._stack.enter_context(training_bar(run.stage, run.called))
        self._seen: int | None = None
        self._total = 0
        self._said = -1

    def look(self, store: Store) -> None:
        """Show what is new."""
        # The last step once more: measurements of it come after its first numbers.
        rows = store.metrics(self.run.id, None if self._seen is None else self._seen - 1)
        if not rows:
            return
        metrics = {name: value for _, name, value in rows}
        self._total = int(metrics.get("run/steps", self._total))
        self._seen = rows[-1][0]
        self._told(self._seen, self._total, metrics)
        if not sys.stderr.isatty() and self._seen > self._said and any(name.startswith("eval/") for name in metrics):
            self._said = self._seen
            figures = [f"{label} {metrics[n]:.4g}" for n, label in FIGURES[self.run.stage].items() if n in metrics]
            say(f"{self.run.called}: step {self._seen} of {self._total}, {', '.join(figures)}")

    def end(self, store: Store) -> None:
        """Show how the run ended."""
        self.look(store)
        self.close()
        run = store.run(self.run.id)
        status = run.status if run.status != "running" else "its engine is gone"
        say(". ".join(filter(None, [f"{run.called}: {status}", outcome(run)])))
        for line in spoken(run, store):
            say(line)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._stack.close()
