"""What a stage would take, as the Train tab shows it before the start: asked once, never stale, and told in words."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lorarlhf.engine.client import EngineClient, Job
from lorarlhf.errors import TrainingError
from lorarlhf.settings import RewardSettings, Settings, SFTSettings
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.train.costs import Costs, plan_html

PLAN: dict[str, Any] = {
    "peak_bytes": 2**30, "available_bytes": 2**31, "peak_phase": "learn", "parts": {"base": 2**30}, "steps": 9,
    "seconds": None, "seconds_by_phase": {}, "fits": True, "tight": False, "advice": [],
}  # fmt: skip


class Engine:
    """Plans nothing; keeps the jobs it was asked for, which a test ends."""

    def __init__(self) -> None:
        self.asked: list[tuple[Job, bool]] = []
        self.stopped: list[int] = []

    def plan(self, stage: str, settings: Settings, *, probing: bool) -> Job:
        client = cast(EngineClient, SimpleNamespace(_ask_to_stop=self.stopped.append))
        job = Job(client, len(self.asked), "plan")
        self.asked.append((job, probing))
        return job


@pytest.fixture
def costs():
    return Costs(cast(Desk, SimpleNamespace(engine=Engine())))


def jobs(costs: Costs) -> list[Job]:
    return [job for job, _ in costs._desk.engine.asked]


def test_a_plan_is_asked_for_once_and_anew_when_what_it_depends_on_changes(costs):
    assert (costs.html("sft"), costs.stamp("sft"), costs.waiting) == ("", None, False)
    for _ in range(3):
        costs.ask("sft", ("f", 1), SFTSettings())
    assert len(jobs(costs)) == 1
    assert costs.waiting
    assert "role='status'>Counting …" in costs.html("sft")
    costs.ask("reward", ("f", 1), RewardSettings())  # another stage is another plan
    costs.ask("sft", ("f", 2), SFTSettings(rank=4))
    assert len(jobs(costs)) == 3
    # The one that nobody waits for any more is stopped, and what it says still is shown nowhere.
    assert costs._desk.engine.stopped == [0]
    jobs(costs)[0]._end([{**PLAN, "peak_bytes": 2**40}])
    assert "Counting …" in costs.html("sft")
    assert costs.waiting


def test_a_measured_plan_is_not_replaced_by_a_counted_one_of_the_same(costs):
    costs.ask("sft", "same", SFTSettings())
    costs.ask("sft", "same", SFTSettings(), probing=True)
    assert [probing for _, probing in costs._desk.engine.asked] == [False, True]
    assert "Estimating the time …" in costs.html("sft")
    for probing in (False, True):
        costs.ask("sft", "same", SFTSettings(), probing=probing)
    assert len(jobs(costs)) == 2
    costs.ask("sft", "other", SFTSettings())
    assert [probing for _, probing in costs._desk.engine.asked] == [False, True, False]


def test_the_stamp_changes_whenever_the_words_do(costs):
    seen = []
    for act in (
        lambda: costs.ask("sft", 1, SFTSettings()),
        lambda: jobs(costs)[0]._end(PLAN),
        lambda: costs.ask("sft", 1, SFTSettings(), probing=True),
        lambda: jobs(costs)[1]._end({**PLAN, "steps": 9, "seconds": 100.0, "seconds_by_phase": {"learn": 100.0}}),
    ):
        act()
        seen.append((costs.stamp("sft"), costs.html("sft")))
    stamps, words = zip(*seen, strict=True)
    assert len({str(stamp) for stamp in stamps}) == len(set(words)) == 4
    assert not costs.waiting
    assert "Time: about" not in words[1]
    assert "Time: about 2 min for 9 steps (learning 2 min)" in words[3]


def test_a_plan_that_fails_is_told_in_words_and_stops_nothing(costs):
    costs.ask("sft", 1, SFTSettings())
    jobs(costs)[0]._end(TrainingError("no <b>demonstrations</b>"))
    told = "What it would take is not known: no &lt;b&gt;demonstrations&lt;/b&gt;"
    assert costs.html("sft") == f"<p class='cost'>{told}</p>"
    assert not costs.waiting


def test_the_bar_fills_what_there_is_and_no_more():
    parts = {"base": 3, "adapters": 1, "gradients": 1, "logits": 2, "heap": 1}
    some = {
        **PLAN,
        "peak_bytes": 8 * 2**30,
        "available_bytes": 10 * 2**30,
        "parts": {k: v * 2**30 for k, v in parts.items()},
    }
    shares = [float(share) for share in re.findall(r"flex-grow:([\d.]+)", plan_html(some))]
    assert shares == [0.3, 0.2, 0.2, 0.1, 0.2]  # base, training, texts, libraries, free
    assert "more than there is" not in plan_html(some)
    assert "may be off by a tenth" in plan_html({**some, "tight": True})
    # Nothing is free where it does not fit; nothing is said of room that is not known.
    full = plan_html({**some, "available_bytes": 6 * 2**30, "fits": False})
    assert "free <b>0 B<" in full
    assert "class='bad' role='alert'>That is more than there is." in full
    unknown = plan_html({**some, "available_bytes": None, "fits": None})
    assert "Needs 8.0 GB, most of it while learning" in unknown
    assert "free" not in unknown
    assert "more than there is" not in unknown
