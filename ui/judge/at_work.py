"""A measurement that the engine makes for the Judge tab: one at a time for each section, begun, watched and stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from lorarlhf.engine.client import Job
from lorarlhf.errors import LoraRlhfError


@dataclass(frozen=True)
class AtWork:
    """A measurement at work, or the last one."""

    about: tuple[str, ...] = ()
    """What is measured, and the adapters it is about."""
    done: int = 0
    total: int = 0
    at_work: bool = False
    problem: str = ""

    def on(self, *about: str) -> bool:
        """Tell whether just this is being measured now."""
        return self.at_work and self.about == about


class Measurement:
    """The one measurement that all pages of a section share; `doing` says of what is named second what happens."""

    def __init__(self, doing: str = "is being measured") -> None:
        self._doing, self._lock = doing, threading.Lock()
        self._job: Job | None = None
        self._about: tuple[str, ...] = ()

    def begin(self, about: tuple[str, ...], ask: Callable[[], Job]) -> None:
        """Ask the engine; raise `LoraRlhfError` while another measurement is on its way."""
        with self._lock:
            if self._job and not self._job.done:
                raise LoraRlhfError(f"{self._about[1]} {self._doing} already; wait for its end, or stop it")
            self._about, self._job = about, ask()

    def stop(self) -> None:
        """Stop it; what was kept before stays."""
        if self._job:
            self._job.stop()

    def now(self) -> AtWork:
        """Say how far it is, or why the last one failed."""
        job = self._job
        if job is None:
            return AtWork()
        progress = job.progress
        error = job.future.exception() if job.done else None
        return AtWork(self._about, progress.step, progress.total, not job.done, str(error or ""))


def pressed(now: AtWork, words: str, *about: str) -> str:
    """Give the words of the button that was pressed: how far it is while it works."""
    if not now.on(*about):
        return words
    return f"{now.done:,} of {now.total:,} …" if now.total else "Waiting …"


def progress_html(now: AtWork, *about: str) -> str:
    """Write how far the measurement of something is, or why it failed; nothing where another one is meant."""
    if now.about != about:
        return ""
    if now.problem:
        return f"<p class='bad' role='alert'>{escape(now.problem)}</p>"
    if not now.at_work:
        return ""
    if not now.total:
        return "<p role='status'>waits for the engine …</p>"
    bar = f"<progress max='{now.total}' value='{now.done}' aria-label='Measured so far'></progress>"
    return f"<p role='status'>{bar} {now.done:,} of {now.total:,}</p>"
