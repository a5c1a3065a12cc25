"""Which adapter plays which role, which rows go where, and how the rows end that a reward model scores."""

from __future__ import annotations

import pytest
import torch

from lorarlhf.data.chat import encode_prompt
from lorarlhf.data.pairs import Pair, Vote
from lorarlhf.engine.stages import build_stage
from lorarlhf.engine.training import _request, train
from lorarlhf.errors import TrainingError
from lorarlhf.forward import map_sequences, sequence_scores
from lorarlhf.sampling import scored_row
from lorarlhf.settings import STAGES, PPOSettings, RewardSettings, SFTSettings
from lorarlhf.store import OTHERS
from lorarlhf.train.reward import RewardStage
from lorarlhf.train.rollout import RewardScorer
from lorarlhf.train.sft import SFTStage
from lorarlhf.types import Comparison, Demonstration, Outcome, is_heldout, user
from tests.small_work import open_small, teach
from tests.test_chat import GEMMA
from tests.test_reward import make, studio  # noqa: F401 - a fixture
from tests.test_sft import tiny_base

SMALL = {"rank": 2, "batch_size": 4, "learning_rate": 5e-3, "checkpoint_every": 0}
PPO = {**SMALL, "steps": 2, "batch_size": 8, "max_new_tokens": 6, "eval_prompts": 2, "heldout_share": 0.5}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("bases") / "llama")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    made = open_small(tmp_path_factory.mktemp("wiring"))
    teach(made.store)
    train(made, "sft", SFTSettings(**SMALL, epochs=2))
    train(made, "reward", RewardSettings(**SMALL, epochs=1))
    train(made, "ppo", PPOSettings(**PPO))
    yield made
    made.store.close()


def built(engine, stage, settings):
    request = _request(engine, stage, settings, "")
    return build_stage(engine, stage, request.settings, request.parents, request.data), request


def weights(engine, name):
    return {key: tensor for key, tensor in engine.bank.state(name).items() if not key.startswith("head.")}


def alike(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("parent", ["", "ppo-1"])
def test_the_policy_starts_from_its_parent_and_is_held_to_the_sft_adapter(engine, parent):
    with engine.cleared():
        stage, request = built(engine, "ppo", PPOSettings(**PPO, parent=parent))
        for role, name in (("policy", parent or "sft-1"), ("reference", "sft-1"), ("reward", "reward-1")):
            engine.bank.load("saved", engine.saved(name).path)
            assert alike(weights(engine, role), weights(engine, "saved")), role
            engine.bank.delete("saved")
        assert stage.trained == "policy"
        assert {role for role in engine.bank.names if any(p.requires_grad for p in engine.bank.parameters(role))} == {
            "policy"
        }
        # What was imported, and what was voted on.
        asked = [row.value for row in engine.store.prompts()] + [row.value.prompt for row in engine.store.comparisons()]
        apart = [[p for p in asked if is_heldout(p, 0.5) is held] for held in (False, True)]
        encoded = [[encode_prompt(engine.base.tokenizer, p) for p in part] for part in apart]
        assert encoded[1]
        assert (stage.prompts, stage.heldout) == (encoded[0], encoded[1][:2])
        assert request.parents["sft"] == "sft-1"


def test_a_reward_model_that_goes_on_keeps_its_head(engine):
    for parent, kept in (("reward-1", True), ("sft-1", False)):
        with engine.cleared():
            stage, _ = built(engine, "reward", RewardSettings(**SMALL, parent=parent))
            before = stage.head.weight.detach().clone()
            stage.prepare()
            assert torch.equal(stage.head.weight, before) is kept
            # Centred before the first step, whatever the seed.
            anchors = torch.cat([stage.scores(stage.anchors)])
            assert float(anchors.mean()) == pytest.approx(0, abs=1e-5)


def test_a_copied_adapter_has_its_parents_shape_or_is_refused(engine):
    for stage, settings in (("reward", RewardSettings()), ("ppo", PPOSettings(**{**PPO, "rank": 16}))):
        assert _request(engine, stage, settings, "").settings.rank == 2  # what the card will say
    for stage, settings in (("reward", RewardSettings(rank=4)), ("ppo", PPOSettings(**{**PPO, "rank": 4}))):
        with pytest.raises(TrainingError, match=r"rank 4 cannot be had: .* copied from sft-1, which has rank 2"):
            _request(engine, stage, settings, "")
    with pytest.raises(TrainingError, match="targets q_proj cannot be had"):
        _request(engine, "reward", RewardSettings(targets="q_proj"), "")
    assert _request(engine, "reward", RewardSettings(rank=4, parent="base"), "").settings.rank == 4


def test_stages_learn_from_what_belongs_to_their_base(tmp_path):
    made = open_small(tmp_path)
    made.store.belong("another base")
    teach(made.store)
    asked = {stage: STAGES[stage].parse({**SMALL, **(PPO if stage == "ppo" else {})}) for stage in STAGES}
    made.store.belong(made.base.identity["fingerprint"])
    for stage, there in (("sft", "12 demonstrations"), ("reward", "12 comparisons")):
        with pytest.raises(TrainingError, match=f"other bases have {there}.*--other-bases on"):
            _request(made, stage, asked[stage], "")
    made.store.set_meta(OTHERS, True)
    assert len(_request(made, "reward", asked["reward"], "").data["comparisons"]) == 12
    made.store.close()
    # An engine counts for its base as soon as that is there.
    again = open_small(tmp_path)
    again.store.set_meta(OTHERS, False)
    assert len(again.store.demonstrations()) == 12
    _ = again.base
    assert again.store.demonstrations() == []
    again.store.close()


def test_a_policy_practises_on_what_its_setting_names(engine):
    for sources, kinds in (("typed", {"demonstrations"}), ("votes", {"comparisons"}), ("imported", {"prompts"})):
        data = _request(engine, "ppo", PPOSettings(**{**PPO, "practise_on": sources}), "").data
        assert {kind for kind, ids in data.items() if ids} == kinds, sources


def test_a_conversation_the_template_refuses_is_left_out_and_named(engine, monkeypatch):
    monkeypatch.setattr(engine.base.tokenizer, "chat_template", GEMMA)
    odd = ({"role": "assistant", "content": "I begin."}, *user("And you?"))
    votes = [Vote((Pair(prompt, "so", "no"),)) for prompt in (user("Who?"), odd, user("When?"))]
    begins = (
        "the conversation that begins “I begin.”: the base's chat template refuses a conversation of assistant, user"
    )
    with engine.cleared():
        engine.bank.create("sft", SFTSettings(**SMALL), head=True)
        shown = [Demonstration(vote.prompt, "fine") for vote in votes]
        sft = SFTStage(engine.studio, "sft", SFTSettings(**SMALL, heldout_share=0), shown)
        reward = RewardStage(engine.studio, "sft", RewardSettings(**SMALL, heldout_share=0), votes)
        assert (len(sft.rows), len(reward.votes)) == (2, 2)
        assert sft.left_out[0].startswith(f"left out 1 of 3 demonstrations: {begins}")
        assert reward.left_out[0].startswith(f"left out 1 of 3 votes: {begins}")
        assert sft.prepare() == sft.left_out
        with pytest.raises(TrainingError, match="no demonstrations to learn from; left out 1 of 1"):
            SFTStage(engine.studio, "sft", SFTSettings(**SMALL, heldout_share=0), shown[1:2])


# -- rows -------------------------------------------------------------------------------------------------------------


def test_both_answers_of_a_pair_stand_behind_the_same_prompt(studio):  # noqa: F811
    votes = [
        Comparison(user("long " * 50), "x", "y " * 60, Outcome.A),
        Comparison(user("long " * 50), "x " * 90, "y", Outcome.A),
    ]
    for vote in votes:
        one, other = studio.rows(vote.prompt, [vote.a, vote.b], 120)
        assert one.prompt == other.prompt
        assert len(one.prompt) >= 59
        assert max(one.length, other.length) <= 120
        assert studio.rows(vote.prompt, [vote.b, vote.a], 120) == [other, one]


def test_pairs_that_are_the_same_when_cut_are_told_and_left_out(studio):  # noqa: F811
    same = [Pair(user(f"q {i}"), "the same start " * 9 + "a", "the same start " * 9 + "b") for i in range(3)]
    stage = make(studio, [*same, Pair(user("q"), "this", "that")], max_length=60)
    assert len(stage.votes) == 1
    assert stage.left_out[0] == "left out 3 of 4 votes: both answers are the same within max_length 60"
    with pytest.raises(TrainingError, match="left out 3 of 3 votes: both answers are the same within max_length 60"):
        make(studio, same, max_length=60)


@pytest.mark.parametrize("chat", [True, False])
def test_answers_are_scored_with_the_ending_that_was_trained(tmp_path, chat):
    from lorarlhf.adapters import AdapterBank
    from lorarlhf.base import load_base
    from lorarlhf.data.cutting import Budget
    from lorarlhf.settings import LoadSettings
    from lorarlhf.train.common import Studio
    from lorarlhf.train.team import Team
    from tests import tiny
    from tests.test_sft import noisy

    folder = tiny.save(tmp_path / "b", layers=1, chat=chat)
    base = load_base(LoadSettings(base=str(folder), bits=16, compute="fp32", device="cpu"))
    place = Studio(base, AdapterBank(base), Team())
    noisy(place.bank, "reward", head=True)
    trained = place.row(user("Hi"), "So it is.", 1024)
    ids = trained.response[:-1]
    stop = base.tokenizer("\nUser:", add_special_tokens=False)["input_ids"]
    other = next(i for i in sorted(base.eos_ids | {259}) if i != base.eos_id)
    endings = [trained.response, [*ids, other], ids, *([[*ids, *stop]] if not chat else [])]
    for response in endings:
        assert scored_row(base, trained.prompt, response) == trained
    rows = [trained._replace(response=response) for response in endings]
    scores_B = RewardScorer(place, "reward")(rows, Budget(4096))
    head = place.bank.heads["reward"]
    with place.bank.activate("reward"):
        expected_B = map_sequences(base, [trained], Budget(4096), lambda batch: sequence_scores(base, head, batch))
    torch.testing.assert_close(scores_B, expected_B.expand(len(rows)), rtol=1e-4, atol=1e-5)
    # Full rows leave no room for one more token.
    long = scored_row(base, trained.prompt, [70] * (256 - len(trained.prompt)))
    assert long.length == 256
    assert long.response[-1] == base.eos_id
