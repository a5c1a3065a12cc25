"""The engine scores votes and draws answers once; the commands report, and PPO goes on whatever is said."""

from __future__ import annotations

import json
import random

import pytest

from lorarlhf.engine import judging
from lorarlhf.engine.judging import judge, unscored
from lorarlhf.engine.training import train
from lorarlhf.errors import AdapterError
from lorarlhf.evaluate.health import health_of, judge_of
from lorarlhf.evaluate.warnings import warnings
from lorarlhf.settings import RewardSettings, SamplingSettings, SFTSettings
from lorarlhf.store.scores import answer_key
from lorarlhf.types import Comparison, Demonstration, Outcome, is_heldout, prompt_key, user
from lorarlhf.workspace import Workspace
from tests.small_work import open_small

SMALL = {"rank": 4, "alpha": 8, "micro_batch_tokens": 512, "heldout_share": 0.4, "batch_size": 8}
SHORT = SamplingSettings(max_new_tokens=4)
LONG = "and so on and on and on"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workspace:
    """A workspace whose person always prefers the longer answer, and a reward model that has learnt that."""
    engine = open_small(tmp_path_factory.mktemp("judging"))
    rng = random.Random(0)
    prompts = [user(f"question number {i}?") for i in range(90)]
    votes = []
    for i, prompt in enumerate(prompts):
        short, long = f"{rng.choice(['yes', 'no'])} {i}", f"{rng.choice(['yes', 'no'])} {i} {LONG}"
        votes.append(
            Comparison(prompt, short, long, Outcome.B) if i % 2 else Comparison(prompt, long, short, Outcome.A)
        )
    engine.store.add_comparisons(votes)
    engine.store.add_demonstrations(Demonstration(p, "yes") for p in prompts[:12])
    train(engine, "sft", SFTSettings(**SMALL, epochs=0.2))
    train(engine, "reward", RewardSettings(**SMALL, epochs=6, learning_rate=0.02))
    engine.store.close()
    return engine.workspace


def test_everything_is_scored_once_and_the_report_stands_without_a_model(engine, place, monkeypatch):
    reward = engine.saved("reward-1")
    before = len(unscored(engine, reward))
    assert before == 180
    seen: list[tuple[int, int]] = []
    found = judge(engine, "reward-1", SHORT, 8, lambda done, total: seen.append((done, total)))
    assert found == {"scored": 180, "drawn": 16}
    assert seen[0] == (0, 196)
    assert seen[-1] == (196, 196)
    assert judge(engine, "reward-1", SHORT, 8) == {"scored": 0, "drawn": 0}
    health = health_of(place.store(), reward)
    kept = [row for row in engine.store.comparisons() if is_heldout(row.value.prompt, 0.4)]
    assert health.accuracy.trials == len(kept)
    assert [(one.name, len(one.scores)) for one in health.drawn] == [("base", 8), ("sft-1", 8)]
    # The same numbers as `lorarlhf score`, and as the run said of the votes it kept apart.
    row = kept[0].value
    scores = engine.store.scores(judge_of(reward))
    direct = engine.score("reward-1", [(row.prompt, row.a), (row.prompt, row.b)])
    kept_scores = [scores[prompt_key(row.prompt), answer_key(answer)].score for answer in (row.a, row.b)]
    assert kept_scores == pytest.approx(direct, rel=1e-4)
    assert health.accuracy.value == pytest.approx(reward.card["metrics"]["eval/accuracy"])
    assert scores[prompt_key(row.prompt), answer_key(row.a)].tokens == len(row.a.encode()) + 1  # bytes and the end
    # It was taught length and nothing else, and the report says so in words.
    assert any("the better answer is the longer one" in remark.seen for remark in warnings(health))


def test_a_job_that_is_stopped_keeps_what_it_has(engine, monkeypatch):
    judge(engine, "reward-1", SHORT, 0)
    engine.store.add_comparisons(Comparison(user(f"late {i}?"), f"x{i}", f"y{i}", Outcome.A) for i in range(10))
    monkeypatch.setattr(judging, "CHUNK", 5)

    def stop(done: int, total: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(engine, "reward-1", SHORT, 0, stop)
    assert judge(engine, "reward-1", SHORT, 0)["scored"] == 10


def test_only_a_reward_model_can_judge(engine):
    with pytest.raises(AdapterError, match="sft-1 is no reward model"):
        judge(engine, "sft-1", SHORT)


# -- the commands -----------------------------------------------------------------------------------------------


def test_the_command_tells_in_words_and_as_json(lorarlhf_there):
    status, out, _ = lorarlhf_there("judge", "reward", "--prompts", "4", "--max-new-tokens", "4")
    assert status == 0
    assert out.startswith("reward-1 agrees with ")
    assert "! In " in out
    status, out, _ = lorarlhf_there("judge", "reward", "reward-1", "--json", "--prompts", "0")
    told = json.loads(out)
    assert status == 0
    assert told["accuracy"]["value"] > 0.8
    assert told["warnings"][0].keys() == {"seen", "means", "do"}
    for name, said in (("sft-1", "sft-1 is no reward model"), ("ghost", "no adapter ghost")):
        status, out, err = lorarlhf_there("judge", "reward", name)
        assert (status, out) == (1, "")
        assert said in err
        assert len(err.strip().splitlines()) == 1


def test_ppo_in_the_terminal_says_what_speaks_against_it_and_goes_on(lorarlhf_there):
    small = ["--steps", "1", "--batch-size", "4", "--max-new-tokens", "4", "--eval-prompts", "2", "--rank", "4"]
    status, out, err = lorarlhf_there("train", "ppo", *small, "--value-warmup-steps", "0", "--json")
    assert status == 0
    assert json.loads(out)["adapter"] == "ppo-1"
    assert "! reward-1: In 100%" in err
    assert "PPO goes on" in err
