"""What every test stands on: no network, one thread, a workspace that is nobody's; and the program at its edge."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from lorarlhf import cli
from lorarlhf.workspace import Workspace

if TYPE_CHECKING:
    from lorarlhf.engine.core import Engine

# Before torch and transformers are imported: they read these once.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
# The models are so small that threads only wait for each other, the more so with several workers.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

LONG = (
    *("ui_train_browser", "ui_loop", "ui_desk", "ui_tabs_browser", "ui_duel_browser", "ui_rate_browser"),
    *("engine_process", "ui_judge_drift_browser", "ui_judge_browser", "house", "ppo", "faults", "export"),
    *("benchmarks", "resume"),
)
"""The files that take longest, longest first: what is begun last ends last, and leaves the other worker idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; within a file, and among all others, the order stays."""
    place = {f"test_{name}": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


@pytest.fixture(autouse=True)
def own_workspace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Point the default workspace at a folder that does not exist yet."""
    monkeypatch.setenv("LORARLHF_HOME", str(tmp_path / "lorarlhf-home"))


class Result(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def lorarlhf(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the program in this process, as its entry point does, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["lorarlhf", *arguments])
        capfd.readouterr()
        try:
            cli.main()
            status: Any = 0
        except SystemExit as done:
            status = done.code or 0
        captured = capfd.readouterr()
        return Result(status, captured.out, captured.err)

    return run


@pytest.fixture
def lorarlhf_there(lorarlhf: Run, place: Workspace) -> Run:
    """Run the program on the workspace which the module calls `place`."""
    return lambda *arguments: lorarlhf(*arguments, "--workspace", str(place.path))


@pytest.fixture
def warm_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the engines of this test from a process that has imported all they import."""
    from tests.warm import PROCESSES

    monkeypatch.setattr("lorarlhf.engine.client.subprocess", PROCESSES)


@pytest.fixture
def engine(place: Workspace) -> Iterator[Engine]:
    """An engine on the workspace which the module calls `place`, with the base that it remembers."""
    from lorarlhf.engine.core import Engine
    from lorarlhf.settings import LoadSettings

    with place.store() as store:
        load = LoadSettings.parse(store.get_meta("load"))
    made = Engine(place, load)
    yield made
    made.store.close()
