"""A full disk, a read-only folder, damaged files, a clock set back: said in words, and nothing else lost."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from benchmarks.disasters import DISASTERS, undisturbed
from lorarlhf.errors import StoreError, TrainingError
from lorarlhf.train.checkpoint import Checkpoint, check_room, find_checkpoint, save_checkpoint
from tests import tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disasters")
    base = tiny.save(folder / "base", "qwen3", layers=1)
    return base, undisturbed(folder / "undisturbed", base)


@pytest.mark.parametrize("name", DISASTERS)
def test_a_disaster_is_told_and_takes_nothing_else(made, tmp_path: Path, name: str) -> None:
    outcome = DISASTERS[name](tmp_path / "place", *made)
    if outcome is None:
        pytest.skip("this machine lets nobody mount a small disk")
    assert outcome.held, outcome.said


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(tmp_path: Path) -> None:
    small, large = (Checkpoint(step, {"x": torch.ones(10**step)}, {}) for step in (2, 5))
    save_checkpoint(tmp_path, small)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"step-000005 cannot be written: File too large"):
            save_checkpoint(tmp_path, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = find_checkpoint(tmp_path)
    assert found.checkpoint is not None
    assert (found.checkpoint.step, found.damaged) == (2, [])
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]


def test_a_run_that_the_disk_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 3_250_000})
    monkeypatch.setattr("lorarlhf.train.checkpoint.shutil.disk_usage", lambda folder: usage)
    check_room(tmp_path / "new", 1_000_000, 200_000)  # two, one aside, and the adapter
    with pytest.raises(
        TrainingError, match=r"has 3\.1 MB free, but the checkpoints of this run need 3\.2 MB; free some"
    ):
        check_room(tmp_path / "new", 1_000_000, 350_000)
    check_room(tmp_path / "new", 3_000_000, 200_000, kept=False)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "old").write_bytes(bytes(100_000))
    check_room(tmp_path / "new", 1_000_000, 300_000)
