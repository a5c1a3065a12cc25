"""The loop around a stage: the best adapter, checkpoints, pausing and going on with the same numbers."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorarlhf.adapters import AdapterBank
from lorarlhf.data.cutting import Budget, steps_of
from lorarlhf.errors import RunPaused, TrainingError
from lorarlhf.settings import OptimSettings, RewardSettings, SFTSettings
from lorarlhf.train.checkpoint import find_checkpoint
from lorarlhf.train.common import Studio
from lorarlhf.train.loop import Evaluation, Loop, StageDone
from lorarlhf.train.optim import Group, Optimizer, rate_factor
from lorarlhf.train.order import batch_at, permutation
from lorarlhf.train.reward import RewardStage
from lorarlhf.train.sft import SFTStage
from lorarlhf.train.team import Team
from lorarlhf.types import Demonstration, user
from tests.faulty import Notes
from tests.test_reward import planted, votes
from tests.test_sft import noisy, tiny_base


class Counting:
    """A stage whose one number grows by 1 a step; `qualities` is what measuring says, by that number."""

    trained = "counter"

    def __init__(self, total=6, eval_every=2, qualities=None, break_at=None, done_at=None):
        self.total, self.eval_every, self.qualities = total, eval_every, qualities
        self.break_at, self.done_at = break_at, done_at
        self.number, self.steps, self.prepared = torch.zeros(()), [], 0
        self.budget, self.device = Budget(8), torch.device("cpu")

    def prepare(self):
        self.prepared += 1
        return ["ready"] if self.says_ready else []

    says_ready = False
    scatter = 0.0
    """How far the examples of a measurement are from their mean."""

    def extend(self, step, losses):
        return ""

    def step(self, index):
        if index == self.done_at:
            raise StageDone("far enough", {"objective/kl": 99.0})
        self.number += 1
        self.steps.append(index)
        return {"loss/x": math.nan if index == self.break_at else 1.0 / (index + 1), "other": 1.0}

    def remarks(self):
        return []

    def evaluate(self):
        if self.qualities is None:
            return None
        quality = self.qualities[int(self.number)]
        each = [quality + self.scatter * (-1) ** (i // (1 + int(self.number))) for i in range(12)]
        return Evaluation({"eval/quality": quality}, quality, each)

    def finish(self):
        return {"final": float(self.number)}

    def adapter(self):
        return {"number": self.number}

    def load_adapter(self, tensors):
        self.number = tensors["number"].clone()

    tensors, load_tensors = adapter, load_adapter

    def state(self):
        return {"seen": int(self.number)}

    def load_state(self, state):
        assert state == {"seen": int(self.number)}


def loop_of(stage, folder, every=2, **extra) -> Loop:
    return Loop(stage, Notes(), Team(), folder, every, **extra)


def pause_at(look: int):
    """Ask for a pause, once, when the loop looks for the n-th time: before each step, measurement and pass."""
    left = iter([False] * (look - 1) + [True])
    return lambda: next(left, False)


# -- the best adapter -------------------------------------------------------------------------------------------------


def test_the_best_adapter_is_kept_and_measured_last(tmp_path):
    loop = loop_of(Counting(qualities={0: 0.1, 2: 0.9, 4: 0.3, 6: 0.5}), tmp_path)
    assert loop.run() == {"final": 2.0}
    assert loop.journal.events[-1] == "6: saved step 2, the best on test prompts"
    assert [loop.journal.numbers[s, "eval/quality"] for s in (0, 2, 4, 6)] == [0.1, 0.9, 0.3, 0.5]
    assert loop.journal.shown == [(s, 6) for s in range(1, 7)]


def test_the_last_is_kept_where_an_earlier_one_is_better_by_chance_alone(tmp_path):
    stage = Counting(qualities={0: 0.1, 2: 0.9, 4: 0.3, 6: 0.8})
    stage.scatter = 1.0
    loop = loop_of(stage, tmp_path)
    assert loop.run() == {"final": 6.0}
    assert loop.journal.events[-1] == (
        "6: saved step 6, the last: step 2 was not better by more than chance explains on 12 test examples"
    )


def test_what_comes_before_the_first_step_comes_once(tmp_path):
    stage = Counting(qualities=dict.fromkeys(range(7), 0.5))
    stage.says_ready = True
    loop = loop_of(stage, tmp_path, paused=pause_at(6))
    with pytest.raises(RunPaused):
        loop.run()
    assert loop.journal.events[0] == "0: ready"
    again = loop_of(Counting(qualities=dict.fromkeys(range(7), 0.5)), tmp_path)
    again.restore()
    again.run()
    assert (stage.prepared, again.stage.prepared) == (1, 0)


def test_a_parent_beyond_the_budget_is_better_than_what_went_further(tmp_path):
    worst = -math.inf
    loop = loop_of(Counting(qualities={0: worst, 2: worst, 4: worst, 6: worst}), tmp_path)
    assert loop.run() == {"final": 0.0}
    assert "saved step 0, before training" in loop.journal.events[-1]


def test_the_start_may_have_been_the_best_and_nan_never_is(tmp_path):
    loop = loop_of(Counting(qualities={0: 0.5, 2: math.nan, 4: 0.5, 6: -math.inf}), tmp_path)
    assert loop.run() == {"final": 0.0}


def test_the_last_step_is_measured_even_off_the_beat(tmp_path):
    loop = loop_of(Counting(total=5, eval_every=3, qualities={0: 0.0, 3: 1.0, 5: 2.0}), tmp_path)
    assert loop.run() == {"final": 5.0}


def test_without_heldout_prompts_the_last_adapter_stays(tmp_path):
    loop = loop_of(Counting(), tmp_path, every=0)
    assert loop.run() == {"final": 6.0}
    assert loop.journal.events == []


def test_a_stage_may_end_early_in_words(tmp_path):
    loop = loop_of(Counting(qualities=dict.fromkeys(range(7), 0.0) | {2: 1.0}, done_at=3), tmp_path)
    assert loop.run() == {"final": 2.0}
    assert loop.journal.events[-2] == "4: far enough"
    assert loop.journal.numbers[4, "objective/kl"] == 99.0


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_the_run_and_spoils_no_checkpoint(tmp_path):
    loop = loop_of(Counting(break_at=3), tmp_path, every=1)
    with pytest.raises(TrainingError, match=r"step 4: loss/x is nan; .* go on with a lower learning rate"):
        loop.run()
    step, tensors, _ = find_checkpoint(tmp_path).checkpoint
    assert (step, tensors["stage.number"].item()) == (2, 2.0)
    assert (4, "loss/x") not in loop.journal.numbers
    assert loop.stage.number == 2  # what the third step may have spoilt shows in the fourth


@pytest.mark.parametrize("every", [0, 2])
def test_pausing_saves_and_going_on_makes_the_remaining_steps(tmp_path, every):
    qualities = {0: 0.1, 2: 0.9, 4: 0.3, 6: 0.5}
    loop = loop_of(Counting(qualities=qualities), tmp_path, every=every, paused=pause_at(7))
    with pytest.raises(RunPaused, match="paused after step 3 of 6"):
        loop.run()
    again = loop_of(Counting(qualities=qualities), tmp_path, every=every)
    again.restore()
    assert (again.next_step, again.best.quality, again.best.step) == (3, 0.9, 2)
    assert again.run() == {"final": 2.0}
    assert again.stage.steps == [3, 4, 5]
    assert again.journal.shown == [(4, 6), (5, 6), (6, 6)]
    assert (0, "eval/quality") not in again.journal.numbers  # the start is not measured twice


def test_a_pause_before_the_last_measurement_leaves_that_alone_to_do(tmp_path):
    with pytest.raises(RunPaused, match="paused after step 6 of 6"):
        loop_of(Counting(eval_every=9), tmp_path, paused=pause_at(9)).run()
    again = loop_of(Counting(eval_every=9), tmp_path)
    again.restore()
    assert again.run() == {"final": 6.0}
    assert again.stage.steps == []


def test_no_checkpoints_are_written_when_none_are_wanted(tmp_path):
    loop_of(Counting(), tmp_path, every=0).run()
    assert list(tmp_path.iterdir()) == []
    again = loop_of(Counting(), tmp_path)
    again.restore()  # killed before anything was saved: from the start, with the same numbers
    assert (again.next_step, again.journal.events) == (0, [])


def test_only_the_last_two_checkpoints_are_kept(tmp_path):
    loop_of(Counting(total=9), tmp_path).run()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000006", "step-000008"]


def cut_short(path):
    content = (path / "tensors.safetensors").read_bytes()
    (path / "tensors.safetensors").write_bytes(content[: len(content) - 3])


def scribble(path):
    (path / "tensors.safetensors").write_bytes(b"\0" * 40)


def lose_tensors(path):
    (path / "tensors.safetensors").unlink()


def lose_state(path):
    (path / "state.json").write_text('{"stage"')


@pytest.mark.parametrize("damage", [cut_short, scribble, lose_tensors, lose_state])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage):
    loop_of(Counting(total=9), tmp_path).run()
    damage(tmp_path / "step-000008")
    again = loop_of(Counting(total=9), tmp_path)
    again.restore()
    assert (again.next_step, again.stage.number.item()) == (6, 6.0)
    assert again.journal.events == ["6: step-000008 of the checkpoints is damaged: going on from step 6"]
    assert again.run() == {"final": 9.0}
    assert find_checkpoint(tmp_path).checkpoint.step == 8  # written anew, in the damaged one's place
    damage(tmp_path / "step-000008")
    damage(tmp_path / "step-000006")
    again = loop_of(Counting(total=9), tmp_path)
    again.restore()
    assert again.journal.events == [
        "0: step-000008 and step-000006 of the checkpoints are damaged: going on from the start"
    ]
    assert again.run() == {"final": 9.0}


def test_a_checkpoint_torn_while_being_written_is_not_seen(tmp_path, monkeypatch):
    loop = loop_of(Counting(), tmp_path)
    loop.next_step = 2
    loop.save()

    def power_cut(*_, **__):
        raise KeyboardInterrupt

    loop.next_step = 4
    monkeypatch.setattr("lorarlhf.train.checkpoint.json.dumps", power_cut)
    with pytest.raises(KeyboardInterrupt):
        loop.save()
    assert find_checkpoint(tmp_path).checkpoint.step == 2


# -- the same numbers -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("bases") / "llama")


COMMON = {"batch_size": 4, "epochs": 0.8, "heldout_share": 0.3, "eval_every": 3, "learning_rate": 0.01, "seed": 7}


def sft_stage(studio):
    rows = [Demonstration(user(f"question {i}"), f"{i * i}") for i in range(40)]
    return SFTStage(studio, "adapter", SFTSettings(**COMMON), rows)


def reward_stage(studio):
    return RewardStage(studio, "adapter", RewardSettings(**COMMON), votes(planted(40)))


def driven(base, make, folder, paused=lambda: False, restore=False):
    """Run a stage on a fresh adapter; → final measurements, journal, tensors."""
    bank = AdapterBank(base)
    noisy(bank, "adapter", head=make is reward_stage)
    try:
        loop = loop_of(make(Studio(base, bank, Team())), folder, paused=paused)
        if restore:
            noisy(bank, "other", seed=9)  # whatever the new process did before must not matter
            torch.manual_seed(123)
            loop.restore()
        try:
            final = loop.run()
        except RunPaused:
            final = None
        return final, loop.journal.numbers, {k: v.clone() for k, v in bank.state("adapter").items()}
    finally:
        for name in bank.names:
            bank.delete(name)


@pytest.mark.parametrize("make", [sft_stage, reward_stage])
def test_interrupted_and_uninterrupted_runs_give_the_same_numbers(base, make, tmp_path):
    final, numbers, tensors = driven(base, make, tmp_path / "whole")
    assert len({s for s, _ in numbers}) == 7  # the start and six steps
    paused, first, _ = driven(base, make, tmp_path / "parts", paused=pause_at(6))
    assert paused is None
    paused, second, _ = driven(base, make, tmp_path / "parts", paused=pause_at(9), restore=True)
    assert paused is None
    resumed, third, after = driven(base, make, tmp_path / "parts", restore=True)
    assert resumed == final
    assert first | second | third == numbers
    assert first != second != third
    assert tensors.keys() == after.keys()
    assert all(torch.equal(tensors[k], after[k]) for k in tensors)


# -- the order of the examples ----------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**63 - 1), st.integers(1, 3))
def test_every_pass_shows_every_example_once(length, batch_size, seed, epochs):
    steps = steps_of(epochs, batch_size, length)
    batches = [batch_at(i, batch_size, length, seed) for i in range(steps)]
    assert all(len(batch) == min(batch_size, length) for batch in batches)
    walk = [i for batch in batches for i in batch]
    for epoch in range(epochs):
        assert sorted(walk[epoch * length : (epoch + 1) * length]) == list(range(length))
    assert len(walk) - epochs * length < min(batch_size, length)  # not a step more than needed
    assert set(Counter(walk).values()) <= {epochs, epochs + 1}


def test_the_order_is_mixed_anew_by_epoch_and_seed():
    orders = {tuple(permutation(50, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    assert permutation(50, 3, 1) == permutation(50, 3, 1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    batch_at(3, 4, 50, 0)
    assert torch.equal(torch.get_rng_state(), before)


# -- the optimizer ----------------------------------------------------------------------------------------------------


def test_the_learning_rate_by_hand():
    def walk(schedule, warmup, total=5):
        return [rate_factor(s, total, warmup, schedule) for s in range(total)]

    assert walk("constant", 0.4) == [0.5, 1.0, 1.0, 1.0, 1.0]
    assert walk("linear", 0) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert walk("linear", 0.2) == pytest.approx([1.0, 1.0, 0.75, 0.5, 0.25])
    assert walk("cosine", 0, 2) == pytest.approx([1.0, 0.5])
    assert walk("cosine", 1.0) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert walk("linear", 0.05, 1) == [1.0]


def test_the_optimizer_is_adam_with_a_clip_per_group():
    settings_ = OptimSettings(schedule="constant", warmup=0, max_grad_norm=1.0, weight_decay=0.1)
    ours = [torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2)]
    plain = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimizer = Optimizer([Group("big", ours[:1], 0.1), Group("small", ours[1:], 0.01)], settings_, Team())
    oracle = torch.optim.AdamW([{"params": plain[:1], "lr": 0.1}, {"params": plain[1:], "lr": 0.01}], weight_decay=0.1)
    for _ in range(3):
        ours[0].grad, ours[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4])
        found = optimizer.step(0, 5)
        plain[0].grad, plain[1].grad = torch.tensor([0.6, 0.8]), torch.tensor([0.3, 0.4])
        oracle.step()
    assert found == pytest.approx({"lr/big": 0.1, "grad_norm/big": 5.0, "lr/small": 0.01, "grad_norm/small": 0.5})
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)
        assert a.grad is None
    before = ours[0].detach().clone()
    ours[0].grad, ours[1].grad = torch.ones(2), torch.ones(2)
    optimizer.step(0, 5, only="small")
    assert torch.equal(ours[0], before)
    assert ours[0].grad is None
