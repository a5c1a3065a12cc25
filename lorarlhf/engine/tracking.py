"""Send a run's numbers to a tracker as well, through accelerate's classes for them. None unless asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker
from accelerate.utils import is_tensorboard_available, is_trackio_available, is_wandb_available

from lorarlhf.errors import SettingsError, TrainingError

PROJECT = "lorarlhf"
FOLDER = "tracking"
"""In the workspace; of trackers that write files."""

AVAILABLE: dict[str, Callable[[], bool]] = {
    "tensorboard": is_tensorboard_available,
    "trackio": is_trackio_available,
    "wandb": is_wandb_available,
}


def check_tracker(kind: str) -> None:
    """Raise `SettingsError` where the package of a tracker is not installed."""
    if kind != "none" and not AVAILABLE[kind]():
        raise SettingsError(
            f"track = {kind}: that package is not installed; pip install {kind}, or leave track at none"
        )


class Tracker:
    """One run in a tracker. What goes wrong with it is said once, and never ends the run."""

    def __init__(self, kind: str, run: str, settings: dict[str, Any], workspace: Path) -> None:
        """Begin to track; raise `TrainingError` where the tracker does not want to."""
        self.kind = kind
        self._tracker: GeneralTracker | None = None
        if kind != "none":
            try:
                with redirect_stdout(sys.stderr):  # stdout is for results
                    self._tracker = _make(kind, run, workspace / FOLDER)
                    self._tracker.start()
                    self._tracker.store_init_configuration(settings)
            except Exception as error:
                raise TrainingError(
                    f"track = {kind}: {_line(error)}; leave track at none to train without it"
                ) from None

    def log(self, step: int, metrics: dict[str, float]) -> str:
        """Send the numbers of a step; return what went wrong the first time it did, after which nothing is sent."""
        try:
            if self._tracker:
                with redirect_stdout(sys.stderr):
                    self._tracker.log(metrics, step=step)
        except Exception as error:
            self._tracker = None
            return f"{self.kind} does not take numbers any more, the run goes on without it: {_line(error)}"
        return ""

    def finish(self) -> None:
        """Let the tracker write what it still holds."""
        tracker, self._tracker = self._tracker, None
        if tracker:
            try:
                with redirect_stdout(sys.stderr):
                    tracker.finish()
            except Exception as error:
                print(f"{self.kind} did not end well: {_line(error)}", file=sys.stderr)


def _make(kind: str, run: str, folder: Path) -> GeneralTracker:
    if kind == "tensorboard":
        folder.mkdir(exist_ok=True)
        return TensorBoardTracker(run, folder)
    return {"trackio": TrackioTracker, "wandb": WandBTracker}[kind](PROJECT, name=run)


def _line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
