"""What the Judge tab knows, without a browser: votes again, figures as HTML, and the question before PPO."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from lorarlhf.errors import DataError, TrainingError
from lorarlhf.evaluate.health import figures, judge_of
from lorarlhf.evaluate.votes import asked_twice, second_looks
from lorarlhf.library import CARD
from lorarlhf.settings import STAGES, LoadSettings
from lorarlhf.store import Scored
from lorarlhf.types import Comparison, Outcome, user
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.judge.health_html import disagreements_html, health_html
from lorarlhf.ui.judge.looked import LOOKED, UnseenReward
from lorarlhf.ui.judge.reward_view import RewardView
from lorarlhf.ui.train.advice import next_step
from lorarlhf.ui.train.training_view import TrainingView
from lorarlhf.workspace import Workspace
from tests.test_evaluate_health import drawn, pairs, twice

EVIL = "<img src=x onerror=alert(1)>'\""


def put(place: Workspace, name: str, stage: str = "reward", **card: object) -> None:
    folder = place.adapters_dir / name
    folder.mkdir()
    hashes = {"adapter": f"hash of {name}", **({"head": "h"} if stage == "reward" else {})}
    # From elsewhere, and all prompts were kept apart: every vote is new to it.
    card = {"settings": {"heldout_share": 1.0}, **card}
    whole = {"hashes": hashes, "base": {"fingerprint": "f", "name": "starter"}, "stage": stage, "created": name, **card}
    (folder / CARD).write_text(json.dumps(whole))


@pytest.fixture
def desk(tmp_path: Path):
    place = Workspace(tmp_path / "work").open()
    put(place, "reward-1")
    desk = Desk(place, LoadSettings())
    desk.memory = {"base": {"fingerprint": "f"}}
    asked = [Comparison(user(f"{EVIL} {i}?"), f"yes {i}", f"no {i}", Outcome.A) for i in range(6)]
    desk.store.add_comparisons(asked)
    yield desk
    desk.store.close()


def score(desk: Desk, value: float) -> None:
    """Let reward-1 score what begins with yes by `value`, and the others 0."""
    answers = [(row.value.prompt, text) for row in desk.store.comparisons() for text in (row.value.a, row.value.b)]
    judge = judge_of(desk.adapters("reward")[0])
    desk.store.add_scores(judge, [(p, a, Scored(value * a.startswith("yes"), len(a))) for p, a in answers])


def test_figures_are_computed_anew_only_when_a_row_came(desk):
    view = RewardView(desk)
    assert view.health("reward-1").unscored == 6
    assert not view.measured(view.health("reward-1"))
    score(desk, 1.0)
    found = view.health("reward-1")
    assert (found.accuracy.hits, found.unscored, view.health("reward-1") is found) == (6, 0, True)
    desk.store.undo("comparisons", 1)
    assert view.health("reward-1").accuracy.trials == 5
    assert view.health("gone") is None


def test_a_second_vote_stands_beside_the_first_with_sides_swapped(desk):
    score(desk, -1.0)
    view = RewardView(desk)
    first = view.health("reward-1").disagreements[0]
    row, sheet = view.pair(first.row)
    assert (row.value.left, sheet.placed) == ("a", [row.value.b, row.value.a])
    said = view.vote(first.row, "a2", "reward-1")
    assert said == "Saved: otherwise than the first time. reward-1 prefers A, as you do now."
    added = desk.store.comparisons()[-1].value
    assert (added.outcome, added.strength, added.left, added.repeats) == (Outcome.B, 2, "b", first.row)
    assert second_looks(desk.store) == {first.row: Outcome.B}
    assert asked_twice(desk.store) == []
    left = view.health("reward-1")
    assert first.row not in [one.row for one in left.disagreements]
    assert (left.accuracy.hits, left.accuracy.trials) == (0, 6)  # a measurement is not mended by looking again
    desk.store.undo("comparisons", 2)
    with pytest.raises(DataError, match="taken back meanwhile"):
        view.vote(2, "b1", "reward-1")
    with pytest.raises(DataError, match="write a prompt"):
        view.score("reward-1", "hello", " ")


def test_the_page_escapes_what_people_wrote_and_tells_every_chart_in_words(desk):
    some = [replace(one, rater=EVIL) if one.rater == "bob" else one for one in pairs(60)]
    fresh = [replace(one, name=EVIL) for one in drawn(random.Random(0))]
    health = figures(EVIL, some, twice=twice(8, 2), sides=[True] * 3, first=[(1.0, 3)], drawn=fresh)
    evil = some[0].pair._replace(chosen=EVIL, rejected=EVIL, prompt=user(EVIL))
    page = health_html(health) + disagreements_html([replace(some[0], rater=EVIL, pair=evil)])
    assert "<img" not in page
    assert page.count("<svg") == page.count("role='img' aria-label='") == 3
    assert "sure, right" in page
    assert page.count("<table") == page.count("<caption")
    assert health_html(figures("r", []))  # nothing at all is a page as well


# -- before PPO -------------------------------------------------------------------------------------------------

PPO = STAGES["ppo"].parse({})


@pytest.fixture
def train(desk):
    view = TrainingView(desk)
    view.begun = []

    def begin(stage, settings, name):
        view.begun.append(stage)
        raise TrainingError("begun")

    desk.train = begin
    return view


def start(view: TrainingView, settings=PPO, **more) -> str:
    with pytest.raises(TrainingError) as refused:
        view.train("ppo", settings, "", **more)
    return "" if str(refused.value) == "begun" else str(refused.value)


def test_ppo_starts_only_once_its_reward_model_was_looked_at_and_the_workspace_remembers(desk, train):
    assert "not looked yet how good reward-1 is" in start(train)
    assert train.begun == []
    step = next_step(train.standing([]))
    assert (step.label, step.do) == ("Check it", "Judge")
    RewardView(desk).see("reward-1")
    assert start(train) == ""
    assert next_step(train.standing([])).do == "ppo"
    put(desk.workspace, "reward-2")
    desk._shelf = (None, [])
    assert "how good reward-2 is" in start(train)  # another one is another question
    assert start(train, STAGES["ppo"].parse({"reward": "reward-1"})) == ""
    assert start(train, unseen=True) == ""
    assert start(train) == ""  # asked once, not again
    assert sorted(desk.store.get_meta(LOOKED).values()) == ["seen", "skipped"]


def test_a_queue_asks_when_ppo_is_put_into_it(desk, train):
    with pytest.raises(UnseenReward, match="how good reward-1 is"):
        train.queue.add("ppo", PPO)
    assert train.queue.line().waiting == ()
    train.queue.add("reward", STAGES["reward"].parse({}))
    with pytest.raises(UnseenReward, match="yet to be trained"):
        train.queue.add("ppo", PPO)
    train.queue.add("ppo", PPO, unseen=True)
    assert [one.unseen for one in train.queue.line().waiting] == [False, True]
    assert LOOKED not in [row[0] for row in desk.store.query("SELECT key FROM meta")]


def test_a_queued_ppo_whose_reward_model_changed_meanwhile_stops_in_words(desk, train):
    RewardView(desk).see("reward-1")
    train.queue.add("ppo", PPO)
    put(desk.workspace, "reward-2")
    desk._shelf = (None, [])
    train.queue.advance()
    assert "how good reward-2 is" in train.queue.line().stopped
    assert train.begun == []
