"""Failures first: which prompts come when, by numbers by hand, and how the Rate tab offers them."""

from __future__ import annotations

import pytest

from lorarlhf.evaluate.drift import drift_key
from lorarlhf.evaluate.failures import dislike, failures, stamp
from lorarlhf.evaluate.health import drawn_key, judge_of
from lorarlhf.library import list_on
from lorarlhf.store import Scored
from lorarlhf.types import Outcome, prompt_key, user
from lorarlhf.ui.rate.preferences import Preferences, load_preferences, save_preferences
from lorarlhf.ui.rate.rating import RatingDesk
from lorarlhf.workspace import Workspace
from tests.rating_desk import FakeDesk, wait_for
from tests.test_evaluate_rounds import PPO, day, vote
from tests.test_ui_judge import put

ASKED = [user(f"question {i}?") for i in range(8)]


@pytest.fixture
def place(tmp_path):
    """ppo-1 answered eight prompts, and reward-1 scored them; votes that it contradicts by 3 and by 1."""
    place = Workspace(tmp_path / "work").open()
    put(place, "reward-1", created=day(3), base={"fingerprint": "base-1", "name": "starter"})
    put(place, "ppo-1", "ppo", created=day(4), base={"fingerprint": "base-1", "name": "starter"})
    reward, policy = (one for one in list_on(place.adapters_dir, "base-1"))
    with place.store() as store:
        store.add_prompts(ASKED)
        keys = [prompt_key(prompt) for prompt in ASKED]
        scores = [5.0, -2.0, 4.0, 3.0, -1.0, 6.0, 7.0, 8.0]
        made_with = {"hashes": ["", PPO], "prompts": keys}
        answers = [{"scores": [0.0] * 8}, {"scores": scores}]
        store.set_meta(drawn_key(reward), {"with": made_with, "answers": answers})
        for i, gap in enumerate((-1.0, -3.0, 2.0)):
            store.insert(vote(f"voted {i}?", yes=f"yes {i}"), created=day(2))
            scored = [(user(f"voted {i}?"), f"yes {i}", Scored(gap, 3)), (user(f"voted {i}?"), "no", Scored(0.0, 3))]
            store.add_scores(judge_of(reward), scored)
        dislike(store, user("older?"), "bad", "ppo-1")
        dislike(store, user("newer?"), "worse", "ppo-1")
        yield place, store, policy, reward


def found(store, policy, reward) -> list[tuple[str, str, float]]:
    return [(one.prompt[0]["content"], one.why, one.value) for one in failures(store, policy, reward)]


def test_lowest_reward_largest_disagreement_and_newest_thumbs_down_take_turns(place):
    _, store, policy, reward = place
    assert found(store, policy, reward) == [
        ("question 1?", "low", -2.0),
        ("voted 1?", "disagreement", 3.0),
        ("newer?", "disliked", 0.0),
        ("question 4?", "low", -1.0),  # two of eight are the worst quarter
        ("voted 0?", "disagreement", 1.0),
        ("older?", "disliked", 0.0),
    ]
    assert [why for _, why, _ in found(store, None, None)] == ["disliked", "disliked"]


def test_a_prompt_is_done_once_it_was_rated_since(place):
    _, store, policy, reward = place
    for asked in ("question 1?", "voted 1?", "newer?"):
        store.add_comparison(vote(asked, PPO, PPO, outcome=Outcome.TIE))
    assert [name for name, _, _ in found(store, policy, reward)] == ["question 4?", "voted 0?", "older?"]
    dislike(store, user("newer?"), "bad again", "ppo-1")  # and it goes wrong again
    assert [name for name, _, _ in found(store, policy, reward)] == ["question 4?", "voted 0?", "newer?", "older?"]


def test_what_a_measurement_of_the_policy_kept_counts_too_where_the_same_reward_model_scored_it(place):
    _, store, policy, reward = place
    keys = [prompt_key(prompt) for prompt in ASKED[:4]]
    rows = [
        {"score": score, "heads": heads}
        for score, heads in ((-9.0, [0.0, 0.0]), (9.0, [1.0, 1.5]), (9.0, [0.0, 8.0]), (9.0, [2.0, 2.0]))
    ]
    before = stamp(store, policy, reward)
    store.set_meta(drift_key(policy), {"with": {"reward": judge_of(reward), "prompts": keys}, "after": rows})
    assert stamp(store, policy, reward) != before
    said = found(store, policy, reward)
    assert [one for one in said if one[1] == "low"] == [("question 0?", "low", -9.0), ("question 1?", "low", -2.0)]
    # After the votes it contradicts, what the heads are least sure of: half the distance of 0 and 8.
    assert [one for one in said if one[1] == "disagreement"][-1] == ("question 2?", "disagreement", 4.0)
    store.set_meta(drift_key(policy), {"with": {"reward": "another", "prompts": keys}, "after": rows})
    assert ("question 0?", "low", -9.0) not in found(store, policy, reward)


def test_the_rate_tab_offers_them_with_fresh_answers_and_then_goes_on_as_usual(place, tmp_path):
    where, _, policy, reward = place
    desk = FakeDesk(where.path)
    desk.saved = [reward, policy]
    rating = RatingDesk(desk)
    told = rating.ask({"do": "prefer", "values": {"source": "failures"}})
    assert told["said"].startswith("6 prompts on which it failed first: in turn the lowest scores, the largest")
    asked = []
    for _ in range(8):
        sheet = wait_for(lambda: (v := rating.ask({"do": "look"})).get("sheet") and v["sheet"]["whole"] and v["sheet"])
        asked.append(sheet["prompt"][0]["content"])
        assert "ppo-1" not in str(rating.view())
        rating.ask({"do": "vote", "sheet": sheet["id"], "verdict": "a1"})
        wait_for(lambda old=sheet: (rating.ask({"do": "look"}).get("sheet") or {}).get("id", "") != old["id"])
    assert asked[:6] == ["question 1?", "voted 1?", "newer?", "question 4?", "voted 0?", "older?"]
    assert len({*asked}) == 8
    assert {one["adapter"] for one in desk.engine.asked} == {"ppo-1"}
    votes = [row.value.origin for row in desk.store.comparisons() if row.value.origin.source == "app"][-8:]
    assert all(one.adapters == ("ppo-1", "ppo-1") and one.sampling["seed"] is not None for one in votes)
    desk.store.close()


def test_a_choice_made_elsewhere_takes_effect_at_the_next_look(place):
    where, store, policy, reward = place
    desk = FakeDesk(where.path)
    desk.saved = [reward, policy]
    rating = RatingDesk(desk)
    shelf = rating.ask({"do": "open"})["shelf"]
    save_preferences(store, Preferences(source="failures"))
    told = rating.ask({"do": "look", "shelf": shelf})
    assert told["chosen"]["source"] == "failures"
    assert load_preferences(store).source == rating.source == "failures"
    desk.store.close()


def test_a_vote_counts_that_was_cast_before_the_page_knew_of_a_choice_made_elsewhere(place):
    where, store, policy, reward = place
    desk = FakeDesk(where.path)
    desk.saved = [reward, policy]
    rating = RatingDesk(desk)
    sheet = wait_for(lambda: (v := rating.ask({"do": "look"})).get("sheet") and v["sheet"]["whole"] and v["sheet"])
    before = len(store.comparisons())
    save_preferences(store, Preferences(source="failures", first="base"))
    told = rating.ask({"do": "vote", "sheet": sheet["id"], "verdict": "a1"})
    assert "wrong" not in told
    assert [row.value.prompt[0]["content"] for row in store.comparisons()[before:]] == [sheet["prompt"][0]["content"]]
    rating.ask({"do": "look"})
    assert rating.chosen == Preferences(source="failures", first="base")
    desk.store.close()
