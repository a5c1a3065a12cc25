"""What the sections on drift and best of n know and show, without a browser."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lorarlhf.errors import LoraRlhfError
from lorarlhf.evaluate.bestof import best_of, best_of_key
from lorarlhf.evaluate.drift import drift_key, figures
from lorarlhf.evaluate.health import judge_of
from lorarlhf.settings import LoadSettings
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.judge.at_work import AtWork, progress_html
from lorarlhf.ui.judge.drift_html import best_of_html, drift_html
from lorarlhf.ui.judge.drift_svg import drift_lines
from lorarlhf.ui.judge.drift_view import DriftView
from lorarlhf.workspace import Workspace
from tests.test_evaluate_drift import healthy, kept, tried
from tests.test_ui_judge import EVIL, put

COURSE = [
    {"step": 0, "kl": 0.0, "score": 1.0, "length": 20.0, "ended": 1.0, "entropy": None, "least": 0.5},
    {"step": 10, "kl": 4.0, "score": 2.0, "length": 22.0, "ended": 1.0, "entropy": 0.9, "least": 0.7},
    {"step": 20, "kl": 9.0, "score": 2.5, "length": 25.0, "ended": 0.9, "entropy": 0.8},
]


@pytest.fixture
def desk(tmp_path):
    place = Workspace(tmp_path / "work").open()
    for name, stage in (("sft-1", "sft"), ("reward-1", "reward"), ("ppo-1", "ppo")):
        put(place, name, stage)
    desk = Desk(place, LoadSettings())
    desk.memory = {"base": {"fingerprint": "f"}}
    yield desk
    desk.store.close()


def test_figures_are_there_at_once_and_computed_anew_only_when_their_row_changed(desk):
    view = DriftView(desk)
    assert (view.policies(), view.answering(), view.rewards()) == (["ppo-1"], ["sft-1", "ppo-1", "base"], ["reward-1"])
    assert view.drift("ppo-1") is None
    assert view.drift("gone") is None
    saved = {one.name: one for one in desk.adapters()}
    desk.store.set_meta(drift_key(saved["ppo-1"]), kept())
    found = view.drift("ppo-1")
    assert found.prompts == 32
    assert view.drift("ppo-1") is found
    desk.store.set_meta(drift_key(saved["ppo-1"]), kept(number=12))
    assert view.drift("ppo-1").prompts == 12
    assert view.best_of("sft-1", "reward-1") is None
    desk.store.set_meta(best_of_key(saved["sft-1"], judge_of(saved["reward-1"])), tried())
    assert view.best_of("sft-1", "reward-1").drawn == 16
    assert view.best_of("base", "reward-1") is None
    desk.store.set_meta(best_of_key(None, judge_of(saved["reward-1"])), tried(prompts=12))
    assert view.best_of("base", "reward-1").prompts == 12


def test_one_measurement_at_a_time(desk):
    view = DriftView(desk)
    job = SimpleNamespace(done=False, progress=SimpleNamespace(step=3, total=9), stop=lambda: stopped.append(1))
    stopped = []
    desk.engine = SimpleNamespace(drift=lambda name: job, best_of=lambda adapter, reward: job)
    with pytest.raises(LoraRlhfError, match="no such policy"):
        view.measure("sft-1")
    with pytest.raises(LoraRlhfError, match="no reward model"):
        view.try_out("sft-1", "ppo-1")
    view.measure("ppo-1")
    assert view.measurement.now() == AtWork(("drift", "ppo-1"), 3, 9, True)
    with pytest.raises(LoraRlhfError, match="ppo-1 is being measured already"):
        view.try_out("sft-1", "reward-1")
    view.measurement.stop()
    assert stopped == [1]
    assert "3 of 9" in progress_html(view.measurement.now(), "drift", "ppo-1")
    assert progress_html(view.measurement.now(), "best_of", "ppo-1") == ""
    failed = AtWork(("drift", "ppo-1"), problem=EVIL)
    assert "role='alert'" in progress_html(failed, "drift", "ppo-1")
    assert "<img" not in progress_html(failed, "drift", "ppo-1")


def test_the_page_escapes_what_people_wrote_and_tells_every_chart_in_words():
    def evil(row, rng):
        return healthy(row, rng) | {"text": EVIL, "prompt": EVIL}

    drift = figures(EVIL, kept(evil, course=COURSE, reference=EVIL, reward=EVIL, caveats=[EVIL]))
    page = drift_html(drift) + best_of_html(best_of(tried() | {"adapter": EVIL, "caveats": [EVIL]}))
    assert "<img" not in page
    assert page.count("<svg") == page.count("role='img' aria-label='") == 2
    assert page.count("<table") == page.count("<caption")
    assert "aria-label='Reward gained: reward: +0.00 at 0.0, +1.00 at 2.0, +1.50 at 3.0; now " in page
    # Nothing at all is a page as well: no reward model, no course.
    bare = kept(reward="")
    for side in ("before", "after"):
        bare[side] = [row | {"score": None, "heads": []} for row in bare[side]]
    assert "<svg" not in drift_html(figures("p", bare))


def test_the_lines_are_gains_over_the_start():
    proxy, least = drift_lines(figures("p", kept(course=COURSE)))
    assert proxy.points == [(0.0, 0.0), (2.0, 1.0), (3.0, 1.5)]
    assert [(x, round(y, 6)) for x, y in least.points] == [(0.0, 0.0), (2.0, 0.2)]
    assert proxy.ends[0][0] == pytest.approx(3**0.5, rel=0.2)
