"""What the terminal shows: one JSON value or plain words on stdout, progress bars on stderr. Knows no models."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from tqdm import tqdm

Metrics = dict[str, float]

FIGURES = {
    "sft": {"loss/sft": "loss", "eval/loss": "held-out", "lr/sft": "rate"},
    "reward": {"loss/reward": "loss", "train/accuracy": "accuracy", "eval/accuracy": "held-out"},
    "ppo": {"objective/scores": "score", "objective/kl": "KL", "response/length": "length"},
}
"""Stage → the figures that matter, and what to call them."""


def show_json(value: Any) -> None:
    """Print exactly one JSON value on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def say(text: str) -> None:
    """Print a remark on stderr, away from results."""
    click.echo(text, err=True)


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Lay rows out in aligned columns under headings."""
    cells = [[str(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    lines = [columns, *cells]
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip() for line in lines)


@contextmanager
def training_bar(stage: str, text: str = "") -> Iterator[Callable[[int, int, Metrics], None]]:
    """Show a bar with the three figures that matter; yields what is to be told after each step."""
    names, latest = FIGURES[stage], {}
    with tqdm(desc=text or stage, unit="step", file=sys.stderr, dynamic_ncols=True, disable=None) as bar:

        def told(step: int, total: int, metrics: Metrics) -> None:
            latest.update({label: f"{metrics[name]:.3g}" for name, label in names.items() if name in metrics})
            bar.total = total
            bar.set_postfix(latest, refresh=False)
            bar.n = step
            bar.refresh()

        yield told


@contextmanager
def counting_bar(text: str, unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar for things that are counted; yields what is to be told (done, total)."""
    with tqdm(desc=text, unit=unit, file=sys.stderr, dynamic_ncols=True, leave=False, disable=None) as bar:

        def told(done: int, total: int | None = None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield told


@contextmanager
def loading_line() -> Iterator[Callable[[str, float], None]]:
    """Show what loading a base is at."""
    with tqdm(total=100, bar_format="{desc} {percentage:3.0f}%", file=sys.stderr, leave=False, disable=None) as bar:

        def told(text: str, share: float) -> None:
            bar.set_description_str(text, refresh=False)
            bar.n = round(100 * share)
            bar.refresh()

        yield told


@contextmanager
def pause_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a wish to pause; a second one ends the program at once."""
    asked = threading.Event()

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        say("\npausing; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
