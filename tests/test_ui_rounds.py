"""Rounds as the app knows them, without a browser: the next step, going back, and what Rate and Train make of it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from lorarlhf.engine.training import parent_of
from lorarlhf.errors import LoraRlhfError
from lorarlhf.evaluate.failures import dislike
from lorarlhf.library import read_saved
from lorarlhf.settings import STAGES, LoadSettings
from lorarlhf.types import user
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.judge.at_work import AtWork
from lorarlhf.ui.judge.lineage_html import lineage, lineage_html
from lorarlhf.ui.judge.looked import remember, reward_for
from lorarlhf.ui.judge.rounds_html import KEEP, rounds_html
from lorarlhf.ui.judge.rounds_view import DUEL, GO, RoundsView
from lorarlhf.ui.rate.preferences import Preferences, load_preferences, save_preferences
from lorarlhf.ui.rate.recipes import offered, recipe_of
from lorarlhf.ui.train.advice import Step, choices
from lorarlhf.workspace import Workspace
from tests.rating_desk import put_checkpoint
from tests.test_evaluate_rounds import PPO, SFT, day, duel, second_round, vote
from tests.test_evaluate_rounds import place as place
from tests.test_ui_judge import EVIL, put


@pytest.fixture
def desk(place: Workspace):
    desk = Desk(place, LoadSettings())
    desk.memory = {"base": {"fingerprint": "f", "name": "starter"}}
    for reward in desk.adapters("reward"):
        remember(desk.store, reward, "seen")
    yield desk
    desk.store.close()


def test_going_back_decides_who_answers_and_what_stages_start_from_until_one_goes_forward(desk):
    view, ppo = RoundsView(desk), STAGES["ppo"].parse({})
    save_preferences(desk.store, Preferences(first="ppo-2", rater="bob"))

    def stands() -> list[str]:
        engine = SimpleNamespace(
            store=desk.store, workspace=desk.workspace, base=SimpleNamespace(identity={"fingerprint": "f"})
        )
        now, chosen = view.runs.standing([]), load_preferences(desk.store)
        return [
            recipe_of(desk, chosen).adapters[0][0],  # who answers in Rate
            offered(desk)["adapters"][0][1],
            choices("ppo", "reward", now)[0][0],  # the form of PPO
            reward_for(desk, "ppo", ppo).name,  # which one is to be looked at first
            parent_of(engine, "", "reward"),  # what the engine takes
            parent_of(engine, "", "sft"),
        ]

    newest = ["ppo-2", "current model (ppo-2)", "the newest: reward-2", "reward-2", "reward-2", "sft-1"]
    assert stands() == newest
    votes = desk.store.comparisons()
    view.go_to("f")
    assert stands() == ["sft-1", "current model (sft-1)", "of this round: reward-1", "reward-1", "reward-1", "sft-1"]
    assert load_preferences(desk.store) == Preferences(rater="bob")
    view.go_to(PPO)
    assert stands()[:3] == ["ppo-1", "current model (ppo-1)", "the newest: reward-2"]
    view.go_to("hash of ppo-2")
    assert stands() == newest
    assert desk.store.comparisons() == votes


def test_nobody_goes_back_while_a_run_makes_something(desk):
    run = desk.store.start_run("reward", "reward-9", "starter", {}, {})
    with pytest.raises(LoraRlhfError, match="reward-9 is at work, and what it makes would belong to another round"):
        RoundsView(desk).go_to("f")
    desk.store.finish_run(run, "done", {})
    RoundsView(desk).go_to("f")


def test_a_new_policy_is_compared_blind_then_its_failures_are_rated(desk, place):
    view = RoundsView(desk)
    view.go_to(PPO)
    put(place, "reward-9", created=day(8), data={"comparisons": [row.id for row in desk.store.comparisons()]})
    followed = {"reward": {"name": "reward-9", "hash": "hash of reward-9"}}
    put(place, "ppo-9", "ppo", created="2099-01-01", parents=followed)
    desk._shelf = (None, [])
    remember(desk.store, desk.newest("reward"), "seen")
    step = view.step()
    assert (step.text, step.do) == ("ppo-9 is new: compare it blind with ppo-2", DUEL)
    duel(place, "hash of ppo-2", 12, 8, of="hash of ppo-9")
    step = view.step()
    assert (step.do, step.label) == ("Rate", "Rate answers")
    view.take_step()
    assert load_preferences(desk.store).source == ""
    dislike(desk.store, user("Where is it?"), "no idea", "ppo-9")
    assert view.step().label == "Rate weak spots first"
    view.take_step()
    assert load_preferences(desk.store).source == "failures"


def test_figures_are_computed_anew_only_when_a_row_came_and_scores_are_asked_for(desk, place):
    view = RoundsView(desk)
    first = view.rounds()
    assert view.rounds() is first
    second_round(place, right=15, of=40)
    assert view.rounds().rows[1].votes == 43
    asked = []
    desk.engine.judge = lambda name, sampling: asked.append(name) or SimpleNamespace(done=False)
    view.measure()
    assert asked == ["reward-1"]
    with pytest.raises(LoraRlhfError, match="reward-1 is being measured already"):
        view.measure()


def test_the_page_escapes_names_tells_charts_in_words_and_offers_every_other_round(desk, place):
    second_round(place, right=15, of=40)
    duel(place, SFT, 40, 10)
    view = RoundsView(desk)
    page = rounds_html(view.rounds(), Step(EVIL, EVIL, EVIL, "Rate"), AtWork())
    assert "<img" not in page
    assert page.count("<svg") == page.count("role='img' aria-label='") == 3
    assert "aria-label='Accuracy of its reward model: round 1, test votes 90% (74% to 97%); round 1, votes of" in page
    assert "Win rate of its policy: round 1, win rate 80% (" in page
    assert [page.count(f"data-name='{GO}{key}'") for key in ("f", PPO, "hash of ppo-2")] == [1, 2, 0]  # and to keep it
    assert "Keep ppo-1" in page
    assert "Score them with reward-1" in page
    view.go_to("f")
    page = rounds_html(view.rounds(), view.step(), AtWork())
    assert "Go to this round" in page
    assert page.count("class='aside'") == 2


def test_the_map_shows_who_came_from_whom_and_who_beat_whom_and_the_way_back(desk, place):
    second_round(place, right=15, of=40)
    duel(place, SFT, 40, 10)
    view = RoundsView(desk)
    nodes, edges = lineage(desk.adapters(), desk.store.duel_votes(), "f")
    at = {node.name: (node.column, node.row) for node in nodes}
    assert at["base"] == (0, 0)
    assert at["sft-1"][0] == 1
    assert len(set(at.values())) == len(at)  # none stands on another
    ways = {(edge.start, edge.end): edge for edge in edges}
    assert all(at[start][0] < at[end][0] for start, end in ways)
    assert ways["sft-1", "ppo-1"].wins == "80% of 50"
    assert [edge.teaches for (start, _), edge in ways.items() if start.startswith("reward")].count(True) >= 1
    assert not any(edge.teaches for (start, _), edge in ways.items() if not start.startswith("reward"))
    page = view.lineage()
    assert "<span class='tag'>answers now</span>" in page
    assert f"data-name='{GO}{PPO}'" in page or f"data-name='{GO}f'" in page
    assert "ppo-1 from sft-1, wins 80% of 50" in page
    evil = [replace(nodes[0], name=EVIL, stage=EVIL, about=EVIL), replace(nodes[1], name=EVIL)]
    assert "<img" not in lineage_html(evil, [], {EVIL: EVIL}, "", GO)
    assert lineage_html(nodes[:1], [], {}, "", GO) == ""


def test_a_workspace_without_adapters_has_a_page_too(tmp_path):
    desk = Desk(Workspace(tmp_path / "bare").open(), LoadSettings())
    desk.memory = {"base": {"fingerprint": "f"}}
    desk.store.add_comparison(vote("one?"))
    page = rounds_html(RoundsView(desk).rounds(), RoundsView(desk).step(), AtWork())
    assert "Round 1: base answers, with 1 vote so far" in page
    assert "<figure" not in page
    desk.store.close()


def test_a_checkpoint_that_wins_by_blind_votes_is_kept_by_a_button_and_answers_from_then_on(desk):
    folder = put_checkpoint(desk.workspace, 40, "f")
    duel(desk.workspace, SFT, 18, 2, of=read_saved(folder).hash)
    view = RoundsView(desk)
    page = rounds_html(view.rounds(), view.step(), AtWork())
    assert "By blind votes ppo-2@40 is the one to keep: it wins 90%" in page
    assert f"data-name='{KEEP}ppo-2@40'>Keep ppo-2@40 as an adapter</button>" in page
    assert view.keep("ppo-2@40") == "ppo-3"
    page = rounds_html(view.rounds(), view.step(), AtWork())
    assert "By blind votes ppo-3 is the one to keep" in page
    assert f"data-name='{KEEP}" not in page
    assert desk.newest("ppo").name == "ppo-3"
    assert desk.checkpoints() == []
