"""Trackers: the same numbers as in the rows, in files of their own; what goes wrong with one never ends a run."""

from __future__ import annotations

import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from lorarlhf.engine.core import Engine
from lorarlhf.engine.tracking import AVAILABLE, Tracker
from lorarlhf.engine.training import train
from lorarlhf.errors import SettingsError, TrainingError
from lorarlhf.settings import LoadSettings, SFTSettings
from lorarlhf.types import Demonstration, user
from lorarlhf.workspace import Workspace
from tests import tiny

SFT = SFTSettings(rank=4, micro_batch_tokens=256, epochs=1, batch_size=4, eval_every=2, heldout_share=0.25)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracked")
    base = str(tiny.save(folder / "base", arch="qwen3"))
    made = Engine(Workspace(folder / "work"), LoadSettings(base=base, compute="fp32", device="cpu"))
    made.store.add_demonstrations(Demonstration(user(f"question number {i}?"), f"answer {i}") for i in range(16))
    yield made
    made.store.close()


def scalars(folder) -> dict[tuple[int, str], float]:
    """Read TensorBoard's event files: records of length, its checksum, an Event, its checksum."""
    found = {}
    for path in folder.glob("events.out.tfevents.*"):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + length])
            found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
            place += 12 + length + 4
    return found


def test_a_tracker_is_told_the_numbers_of_the_rows(engine):
    run = train(engine, "sft", SFT.model_copy(update={"track": "tensorboard"}))["run"]
    rows = {(step, name): value for step, name, value in engine.store.metrics(run)}
    assert len(rows) > 10
    assert scalars(engine.workspace.path / "tracking" / run) == pytest.approx(rows, rel=1e-6)


def test_no_tracker_writes_nothing(engine):
    before = list(engine.workspace.path.glob("tracking/*"))
    train(engine, "sft", SFT)
    assert list(engine.workspace.path.glob("tracking/*")) == before


def test_a_missing_package_is_one_line_before_anything_is_recorded(engine, monkeypatch):
    monkeypatch.setitem(AVAILABLE, "wandb", lambda: False)
    before = len(engine.store.runs())
    with pytest.raises(SettingsError, match=r"^track = wandb: that package is not installed; pip install wandb, or"):
        train(engine, "sft", SFT.model_copy(update={"track": "wandb"}))
    assert len(engine.store.runs()) == before


def test_a_tracker_that_breaks_is_left_behind_and_said_once(engine, monkeypatch):
    from accelerate.tracking import TensorBoardTracker

    log, told = TensorBoardTracker.log, []

    def breaking(self, values, step=None, **more):
        told.append(step)
        if len(told) > 2:
            raise OSError("no space left\nat all")
        log(self, values, step, **more)

    monkeypatch.setattr(TensorBoardTracker, "log", breaking)
    run = train(engine, "sft", SFT.model_copy(update={"track": "tensorboard"}))["run"]
    assert engine.store.run(run).status == "done"
    said = [event.text for event in engine.store.events(run) if "tensorboard" in event.text]
    assert said == ["tensorboard does not take numbers any more, the run goes on without it: no space left"]
    assert len(told) == 3


def test_a_tracker_that_does_not_start_is_one_line(tmp_path):
    (tmp_path / "tracking").write_text("a file where a folder should be")
    with pytest.raises(TrainingError, match=r"^track = tensorboard: .*; leave track at none to train without it$"):
        Tracker("tensorboard", "sft-1", {}, tmp_path)
