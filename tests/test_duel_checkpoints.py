"""Checkpoints of runs as those who take part in blind comparisons: named, drawn from, rotated, kept, and on cards."""

from __future__ import annotations

import json
import shutil

import pytest

from lorarlhf.checkpoints import find_adapter, forget_rotated, left_behind, list_checkpoints
from lorarlhf.engine.core import Engine
from lorarlhf.engine.drifting import judge_policy
from lorarlhf.engine.dueling import judge_duel
from lorarlhf.engine.training import resume, train
from lorarlhf.errors import AdapterError, DataError, RunPaused
from lorarlhf.evaluate.contest import field_of, keep, prompts_for
from lorarlhf.evaluate.duel_words import card_lines, write_cards
from lorarlhf.evaluate.duels import boards, names_of
from lorarlhf.evaluate.heldout import trained_on
from lorarlhf.evaluate.round_figures import on_every_base
from lorarlhf.evaluate.round_words import told
from lorarlhf.library import list_saved, read_saved, rename_saved
from lorarlhf.settings import PPOSettings, RewardSettings, SamplingSettings, SFTSettings
from lorarlhf.store import Contestant
from lorarlhf.train.checkpoint import find_checkpoint
from lorarlhf.types import Comparison, Origin, Outcome, is_heldout, user
from lorarlhf.workspace import Workspace
from tests.small_work import open_small, teach

SMALL = {"rank": 4, "alpha": 8, "micro_batch_tokens": 512, "heldout_share": 0.5, "batch_size": 4}
PPO = {
    **SMALL,
    "steps": 5,
    "batch_size": 2,
    "answers_per_prompt": 2,
    "max_new_tokens": 4,
    "value_warmup_steps": 0,
    "learning_rate": 0.05,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Workspace:
    """A workspace whose policy was trained for five steps, with a checkpoint after each but the last."""
    engine = open_small(tmp_path_factory.mktemp("checkpoints"))
    teach(engine.store)
    train(engine, "sft", SFTSettings(**SMALL, epochs=0.5, learning_rate=0.05, checkpoint_every=0))
    train(engine, "reward", RewardSettings(**SMALL, epochs=0.5, checkpoint_every=1))
    # Nothing but the first step is measured before the last, and the KL budget lets everything pass.
    train(engine, "ppo", PPOSettings(**PPO, checkpoint_every=1, eval_every=5, eval_prompts=2, kl_budget=1e6))
    engine.store.close()
    return engine.workspace


@pytest.fixture
def place(made, tmp_path) -> Workspace:
    """A copy of it that a test may change."""
    shutil.copytree(made.path, tmp_path / "work")
    return Workspace(tmp_path / "work")


def steps(place: Workspace) -> list[str]:
    return [saved.name for saved in list_checkpoints(place)]


def begin(engine: Engine, *names: str) -> int:
    base = engine.base.identity
    field = field_of(engine.store, engine.workspace, names, base["fingerprint"])
    prompts = prompts_for(engine.store, field, base["name"], [user(f"new {i}?") for i in range(6)])
    sampling = SamplingSettings(max_new_tokens=4, seed=3).model_dump(mode="json")
    return engine.store.start_duel(field.contestants, base["fingerprint"], prompts, sampling)


def vote(engine: Engine, duel: int, better: str, count: int = 20, lost: int = 2) -> None:
    """Have a person prefer one of two in all but a few of their votes."""
    both = engine.store.duel(duel).contestants
    for i in range(count):
        first, second = both if i % 2 else both[::-1]
        wins = first.name == better or (better == "base" and not first.name)
        outcome = Outcome.A if wins else Outcome.B
        origin = Origin(source="duel", adapters=(first.name, second.name), adapter_hashes=(first.hash, second.hash))
        said = Comparison(user(f"new {i}?"), "one", "other", outcome if i >= lost else outcome.swap(), origin=origin)
        engine.store.add_duel_vote(duel, said)
    write_cards(engine.store, engine.workspace, (one.hash for one in both))


# -- which there are --------------------------------------------------------------------------------------------


def test_a_run_that_is_done_keeps_the_weights_of_its_last_checkpoints_and_nothing_else(place):
    adapter = read_saved(place.adapters_dir / "ppo-1")
    best = int(adapter.card["metrics"]["run/best_step"])
    assert best in (0, 5)
    assert steps(place) == (["ppo-1@3", "ppo-1@4"] if best == 5 else ["ppo-1@4", "ppo-1@5"])
    # A reward model answers nobody, and the SFT run was to keep nothing.
    assert [path.name for path in place.runs_dir.iterdir()] == ["ppo-1"]
    assert not list(place.runs_dir.rglob("tensors.safetensors"))
    for saved in list_checkpoints(place):
        assert saved.card["data"] == adapter.card["data"]
        assert saved.card["parents"] == adapter.card["parents"]
        assert (saved.card["run"], f"ppo-1@{saved.card['step']}", saved.stage) == ("ppo-1", saved.name, "ppo")


def test_a_checkpoint_holds_the_weights_its_run_had_then_and_rotates_with_it(engine, place):
    """Oracle: what resuming would start from, read from the other file of that moment."""
    settings = PPOSettings(**PPO, checkpoint_every=1, eval_every=5, eval_prompts=2, kl_budget=1e6)
    looks = iter([False] * 40)
    with pytest.raises(RunPaused):
        train(engine, "ppo", settings, "mine", paused=lambda: next(looks, True))
    run = engine.store.runs()[-1].id
    saved = [one for one in list_checkpoints(place) if one.card["run"] == run]
    moment = find_checkpoint(place.runs_dir / run).checkpoint
    assert saved[-1].name == f"{run}@{moment.step}"
    assert len(saved) == 2
    engine.bank.load("then", saved[-1].path)
    for key, tensor in engine.bank.state("then").items():
        assert tensor.equal(moment.tensors[f"stage.policy.{key}"]), key
    engine.bank.delete("then")
    # The run goes on with the same numbers, and its checkpoints give way to newer ones.
    resume(engine, run)
    assert engine.saved("mine").content("adapter") == engine.saved("ppo-1").content("adapter")
    now = [one.name for one in list_checkpoints(place) if one.card["run"] == run]
    assert len(now) == 2
    assert f"{run}@{moment.step}" not in now or moment.step >= 3
    assert not any(path.name.startswith(".") for path in (place.runs_dir / run).iterdir())


def test_it_is_found_by_run_and_by_the_name_of_the_adapter_and_else_one_line_says_which_there_are(engine, place):
    rename_saved(place.adapters_dir, "ppo-1", "helpful")
    for name in ("ppo-1@4", "helpful@4"):
        assert find_adapter(engine.store, place, name).name == "ppo-1@4"
    there = ", ".join(steps(place))
    for name, words in (
        ("ppo-1@1", f"no checkpoint ppo-1@1; a run keeps its last 2, and of ppo-1 there are: {there}"),
        ("ppo-1@last", f"there are: {there}"),
        ("sft-1@2", "of sft-1 none of its checkpoints is there"),
        ("pop-1@4", "no checkpoint pop-1@4: there is no run 'pop-1'; did you mean ppo-1"),
    ):
        with pytest.raises(AdapterError, match=words.replace("?", r"\?")) as error:
            find_adapter(engine.store, place, name)
        assert "\n" not in str(error.value)
    with pytest.raises(AdapterError, match="no adapter ppo-1@4"):
        train(engine, "sft", SFTSettings(**SMALL, parent="ppo-1@4"))


# -- taking part ------------------------------------------------------------------------------------------------


def test_what_its_run_learned_from_is_new_to_no_checkpoint_of_it(engine, place):
    # Its parents are found by content among the adapters, whatever they were called when it was written.
    file = place.runs_dir / "ppo-1" / "ppo-1@4" / "card.json"
    file.write_text(file.read_text().replace('"name": "sft-1"', '"name": "called otherwise then"'))
    adapter, checkpoint = engine.saved("ppo-1"), engine.saved("ppo-1@4")
    own, its = (trained_on(engine.store, [saved]) for saved in (checkpoint, adapter))
    assert (own.keys, own.caveats) == (its.keys, ())
    # Of the votes' prompts only the reward model learned, of the demonstrations' only the SFT adapter.
    for kind in ("shown", "voted", "asked"):
        for i in range(12):
            prompt = user(f"{kind} {i}?")
            assert own.about(prompt) != is_heldout(prompt, 0.5)
    field = field_of(engine.store, place, ["base", "ppo-1@4"], engine.base.identity["fingerprint"])
    with pytest.raises(DataError, match="may have learned from this prompt"):
        field.check(next(user(f"asked {i}?") for i in range(12) if not is_heldout(user(f"asked {i}?"), 0.5)))


def test_a_judge_votes_on_checkpoints_and_their_ratings_stand_with_the_others(engine, place, monkeypatch):
    drawn = []
    monkeypatch.setattr(engine, "generate", lambda *a, real=engine.generate: drawn.append(a[3]) or real(*a))
    duel = begin(engine, "base", "ppo-1@4", "sft-1")
    result = judge_duel(engine, duel, "reward-1")
    assert set(drawn) == {"base", "ppo-1@4", "sft-1"}
    names = [(one["first"]["name"], one["second"]["name"], one["votes"]) for one in result["results"]]
    assert names == [("base", "ppo-1@4", 6), ("base", "sft-1", 6), ("ppo-1@4", "sft-1", 6)]
    [board] = boards(engine.store, list_saved(place.adapters_dir))
    assert engine.saved("ppo-1@4").hash in board.ratings
    judge_policy(engine, "ppo-1@4", 2, max_new_tokens=4)  # and its drift can be measured
    with pytest.raises(AdapterError, match="the same weights"):
        begin(engine, "ppo-1@4", "ppo-1@4")


def test_a_checkpoint_that_is_gone_is_told_in_a_line_and_its_votes_stay(engine, place):
    duel = begin(engine, "base", "ppo-1@4")
    vote(engine, duel, "ppo-1@4")
    folder = place.runs_dir / "ppo-1"
    for step in (6, 7):
        shutil.copytree(folder / "ppo-1@4", folder / f"ppo-1@{step}")
        (folder / f"ppo-1@{step}" / "card.json").write_text("{}")  # other weights
    forget_rotated(folder)
    with pytest.raises(
        AdapterError, match=r"^checkpoint ppo-1@4 is gone, as a run keeps its last 2 alone, .* votes stay, .*$"
    ):
        judge_duel(engine, duel, "reward-1")
    [board] = boards(engine.store, list_saved(place.adapters_dir))
    assert board.results[0].votes == 20
    assert names_of(engine.store, list_saved(place.adapters_dir))[board.results[0].first] == "ppo-1@4 (deleted)"
    # The card of what its run made still tells of them.
    write_cards(engine.store, place, [one.hash for one in engine.store.duel(duel).contestants])
    lines = card_lines(read_saved(place.adapters_dir / "ppo-1").card)
    assert lines["ppo-1@4 against base, by people"].startswith("wins 90% of 20 votes")


# -- keeping the winner -----------------------------------------------------------------------------------------


def test_the_winner_by_blind_votes_is_named_and_kept_with_all_its_votes(engine, place, lorarlhf_there):
    before = engine.saved("ppo-1@4").content("adapter")
    vote(engine, begin(engine, "base", "ppo-1@4"), "ppo-1@4")
    vote(engine, begin(engine, "base", "sft-1"), "base")
    [rounds] = on_every_base(engine.store, place).values()
    assert (rounds.best.adapter, rounds.best.wins.hits, rounds.best.wins.trials) == ("ppo-1@4", 18, 20)
    assert rounds.against == "base"
    assert rounds.rows[0].imported == 12  # the demonstrations' pairs came from no adapter; these votes did
    assert "`lorarlhf adapters --keep ppo-1@4` makes it one" in told(rounds)
    [kept] = [json.loads(lorarlhf_there("adapters", "--keep", "ppo-1@4", "--json")[1])]
    assert kept == {"name": "ppo-2", "stage": "ppo", "run": "ppo-1", "step": 4}
    saved = read_saved(place.adapters_dir / "ppo-2")
    assert saved.content("adapter") == before
    assert card_lines(saved.card)["against base, by people"].startswith("wins 90% of 20 votes")
    assert saved.card["metrics"] == {}  # nothing was measured after that step
    [rounds] = on_every_base(engine.store, place).values()
    # It is the newest policy, so it answers from now on, and votes on the checkpoint are votes on it.
    assert (rounds.now.name, rounds.best.adapter) == ("ppo-2", "ppo-2")
    assert "adapters --keep" not in told(rounds)
    assert engine.generate([user("loads?")], 1, SamplingSettings(max_new_tokens=2), "ppo-2")
    status, _, err = lorarlhf_there("adapters", "--keep", "ppo-1@4")
    assert (status, err.strip()) == (
        1,
        "lorarlhf: ppo-1@4 has the weights of adapter ppo-2, so that one is what you want to keep",
    )


def test_what_cannot_be_kept_leaves_nothing_behind(engine, place):
    there = sorted(path.name for path in place.adapters_dir.iterdir())
    weights = engine.saved("ppo-1@4").path / "adapter_model.safetensors"
    for name, new, words in (
        ("ppo-1", "", "is an adapter already"),
        ("ppo-1@4", "sft-1", "sft-1 exists already"),
        ("ppo-1@4", "the.best", "the-best is free"),
        ("ppo-1@9", "", "no checkpoint ppo-1@9"),
    ):
        with pytest.raises(AdapterError, match=words):
            keep(engine.store, place, name, new)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(AdapterError, match="is not the file its card describes"):
        keep(engine.store, place, "ppo-1@4")
    assert sorted(path.name for path in place.adapters_dir.iterdir()) == there


def test_checkpoints_go_with_the_last_adapter_of_their_run(engine, place):
    assert [one.name for one in left_behind(engine.store, place, "ppo-1")] == steps(place)
    assert left_behind(engine.store, place, "sft-1") == []
    keep(engine.store, place, "ppo-1@4")
    assert left_behind(engine.store, place, "ppo-1") == []  # ppo-2 comes from that run, too
    engine.store.finish_run("ppo-1", "paused", {})
    shutil.rmtree(place.adapters_dir / "ppo-2")
    assert left_behind(engine.store, place, "ppo-1") == []


def test_a_contestant_is_what_it_is_by_content(engine, place):
    duel = begin(engine, "base", "ppo-1@4")
    assert engine.store.duel(duel).contestants == (
        Contestant("", engine.base.identity["fingerprint"]),
        Contestant("ppo-1@4", engine.saved("ppo-1@4").hash),
    )
