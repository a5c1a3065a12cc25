"""Whatever breaks a run off, and wherever: it goes on with the same numbers, or says in words why it cannot."""

from __future__ import annotations

import math
import random

import pytest
import torch

from benchmarks.out_of_memory import try_stage
from lorarlhf.data.cutting import Budget
from lorarlhf.errors import RunPaused, TrainingError
from lorarlhf.hardware import is_out_of_memory
from lorarlhf.train import checkpoint
from lorarlhf.train.checkpoint import find_checkpoint
from lorarlhf.train.health import PATIENCE, Health
from tests.faulty import MAKERS, Failing, finished, on_its_way, rloo, same, tensors_of
from tests.test_sft import tiny_base

STAGES = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
AND_RLOO = pytest.mark.parametrize("make", [*MAKERS.values(), rloo], ids=[*MAKERS, "rloo"])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("bases") / "llama")


class Killed(BaseException):
    """The process is gone: nothing catches this."""


# -- paused and killed ------------------------------------------------------------------------------------------------


def looks(base, make, folder) -> int:
    """Count how often a whole run looks whether to pause."""
    seen = 0

    def paused() -> bool:
        nonlocal seen
        seen += 1
        return False

    finished(base, make, folder, paused=paused)
    return seen


@AND_RLOO
def test_a_run_paused_again_and_again_gives_the_same_numbers(base, make, tmp_path):
    final, numbers, tensors, _ = finished(base, make, tmp_path / "whole", every=0)
    count = looks(base, make, tmp_path / "looks")
    assert count > 25
    chance = random.Random(1)
    for attempt in range(3):
        seen, ended, pauses = {}, None, 0
        while ended is None:
            left = chance.randrange(1, count)

            def paused():
                nonlocal left
                left -= 1
                return left == 0

            ended, found, after, _ = finished(base, make, tmp_path / str(attempt), every=0, paused=paused)
            seen |= found
            pauses += ended is None
        assert pauses
        assert (ended, seen) == (final, numbers)
        assert same(after, tensors)


@STAGES
def test_a_pause_takes_no_longer_than_a_pass(base, make, tmp_path):
    for look in (2, 9, 16):
        calls = 0

        def paused(look=look):
            nonlocal calls
            calls += 1
            return calls >= look

        with pytest.raises(RunPaused), on_its_way(base, make, tmp_path / str(look), paused=paused) as loop:
            loop.run()
        assert calls == look  # nothing was computed after the first yes
        assert find_checkpoint(tmp_path / str(look)).checkpoint is not None


@AND_RLOO
def test_a_run_killed_anywhere_gives_the_same_numbers(base, make, tmp_path):
    with Failing(0, Killed) as counting:
        final, numbers, tensors, _ = finished(base, make, tmp_path / "whole")
    chance = random.Random(2)
    kills = 0
    for attempt in range(4):
        seen = {}
        while True:
            at = chance.randrange(1, counting.seen)
            with on_its_way(base, make, tmp_path / str(attempt)) as loop:
                try:
                    with Failing(at, Killed):
                        ended = loop.run()
                except Killed:
                    seen |= loop.journal.numbers
                    kills += 1
                    continue
                seen |= loop.journal.numbers
                assert (ended, seen) == (final, numbers)
                assert same(tensors_of(loop.stage), tensors)
                break
    assert kills >= 2


@pytest.mark.parametrize("where", ["save_file", "json.dumps", "shutil.rmtree", "whole_folder"])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_run_killed_while_it_saves_gives_the_same_numbers(base, tmp_path, monkeypatch, where, times):
    final, numbers, tensors, _ = finished(base, MAKERS["sft"], tmp_path / "whole")
    module, _, name = f"lorarlhf.train.checkpoint.{where}".rpartition(".")
    real = getattr(checkpoint if module.endswith("checkpoint") else getattr(checkpoint, module.split(".")[-1]), name)
    calls = 0

    def dying(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == times:
            raise Killed
        return real(*args, **kwargs)

    with monkeypatch.context() as patch, on_its_way(base, MAKERS["sft"], tmp_path / "run") as loop:
        patch.setattr(f"{module}.{name}", dying)
        with pytest.raises(Killed):
            loop.run()
        seen = loop.journal.numbers
    ended, found, after, _ = finished(base, MAKERS["sft"], tmp_path / "run")
    assert (ended, seen | found) == (final, numbers)
    assert same(after, tensors)
    assert len(list((tmp_path / "run").iterdir())) <= 3  # two, and one that was about to go


@STAGES
def test_other_micro_batches_give_the_same_numbers_within_rounding(base, make, tmp_path):
    final, numbers, _, _ = finished(base, make, tmp_path / "whole")
    half = iter([False] * 15 + [True])
    finished(base, make, tmp_path / "run", paused=lambda: next(half, False))
    changes = {"micro_batch_tokens": 30, **({"rollout_rows": 2} if make is MAKERS["ppo"] else {})}
    ended, found, _, _ = finished(base, make, tmp_path / "run", changes=changes)
    assert ended == pytest.approx(final, rel=1e-3, abs=1e-4)
    assert found == pytest.approx({key: numbers[key] for key in found}, rel=1e-3, abs=1e-4)


# -- out of memory ----------------------------------------------------------------------------------------------------


def exhausted() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def fail_everywhere(stage, stride: int) -> dict[str, int]:
    """Make each attempt at a step or measurement fail `stride` operations later than the last → attempts by kind."""
    attempts = {"step": 0, "evaluate": 0, "finish": 0}
    since = dict.fromkeys(attempts, 0)
    for kind in attempts:
        real = getattr(stage, kind)

        def failing(*args, kind=kind, real=real):
            attempts[kind] += 1
            since[kind] += 1
            with Failing(1 + stride * (since[kind] - 1), exhausted):
                found = real(*args)
            since[kind] = 0
            return found

        setattr(stage, kind, failing)
    return attempts


@STAGES
def test_memory_running_out_at_any_operation_changes_no_number(base, make, tmp_path, monkeypatch):
    final, numbers, tensors, _ = finished(base, make, tmp_path / "whole")
    monkeypatch.setattr(Budget, "halve", lambda budget: "so much → less")  # as large as before: the same to the bit
    monkeypatch.setattr("lorarlhf.train.loop.make_room", lambda device: None)
    with on_its_way(base, make, tmp_path / "run") as loop:
        attempts = fail_everywhere(loop.stage, 223 if make is MAKERS["ppo"] else 61)
        assert loop.run() == final
        assert loop.journal.numbers == numbers
        assert same(tensors_of(loop.stage), tensors)
        assert attempts["step"] > 5 * loop.stage.total
        assert min(attempts.values()) > 2


def test_memory_running_out_at_every_place_of_the_code_changes_no_number(base, monkeypatch):
    # `python -m benchmarks.out_of_memory` does it for the other stages, whose places are four times as many.
    monkeypatch.setattr(Budget, "halve", lambda budget: "so much → less")
    monkeypatch.setattr("lorarlhf.train.loop.make_room", lambda device: None)
    tried = try_stage(base, "sft", ("step", "evaluate", "finish"))
    assert (tried["equal"], tried["problem"]) == (True, "")
    assert min(tried["places"].values()) > 100


@AND_RLOO
def test_memory_running_out_halves_the_budget_and_repeats(base, make, tmp_path):
    final, numbers, _, _ = finished(base, make, tmp_path / "whole")
    with on_its_way(base, make, tmp_path / "run") as loop:
        before = loop.stage.budget.tokens
        step = loop.stage.step

        def failing(index):
            fails = index == 1 and loop.stage.budget.tokens == before
            with Failing(400 if fails else 0, exhausted):
                return step(index)

        loop.stage.step = failing
        assert loop.run() == pytest.approx(final, rel=3e-3, abs=1e-4)
        assert loop.journal.numbers == pytest.approx(numbers, rel=3e-3, abs=1e-4)
        (said,) = [event for event in loop.journal.events if "memory" in event]
        assert said.startswith(f"1: out of memory in step 2: micro_batch_tokens {before} → ")
        assert said.endswith("; it is repeated")
        assert ("rollout_rows 3 → 1" in said) == (make in (MAKERS["ppo"], rloo))
        assert loop.stage.budget.tokens <= before // 2
        now = loop.stage.budget.tokens
    with on_its_way(base, make, tmp_path / "run") as again:
        assert again.stage.budget.tokens == now  # it would only run out again
    with on_its_way(base, make, tmp_path / "run", changes={"micro_batch_tokens": 64}) as again:
        assert again.stage.budget.tokens == 64  # asked for since


@STAGES
def test_below_one_row_the_run_stops_with_advice_and_stands_saved(base, make, tmp_path):
    with on_its_way(base, make, tmp_path, every=0) as loop:
        before = {}
        step = loop.stage.step

        def failing(index):
            before.update({key: value.clone() for key, value in loop.stage.tensors().items()} if not before else {})
            step(index)  # all of it, its changes included
            raise exhausted()

        loop.stage.step = failing
        advice = "out of memory in step 1 with a single row at a time; .*--max-length.* lower rank or a smaller base"
        with pytest.raises(TrainingError, match=advice):
            loop.run()
        assert same(dict(loop.stage.tensors()), before)
        assert loop.stage.budget.most_rows == 1
    saved = find_checkpoint(tmp_path).checkpoint
    assert saved is not None
    assert saved.step == 0


def test_what_counts_as_out_of_memory():
    words = (
        "MPS backend out of memory (MPS allocated: 9 GB)",
        "[enforce fail] DefaultCPUAllocator: can't allocate memory",
    )
    for error in (MemoryError(), exhausted(), *map(RuntimeError, words)):
        assert is_out_of_memory(error)
    for error in (RuntimeError("mat1 and mat2 shapes"), TrainingError("out of memory"), ValueError("out of memory")):
        assert not is_out_of_memory(error)


def test_the_error_of_this_machine_s_own_allocator_counts():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)


def test_the_budget_halves_what_was_used_until_a_row_is_left():
    budget = Budget(1000, 64)
    words = []
    while True:
        budget.begin()
        budget.side_by_side(10)
        groups = list(budget.cut([30, 20, 30, 10], padded=True))
        if not (said := budget.halve()):
            break
        words.append(said)
    assert words == [
        "micro_batch_tokens 1000 → 60, rollout_rows 64 → 5",
        "micro_batch_tokens 60 → 30, rollout_rows 5 → 2",
        "micro_batch_tokens 30 → 15, rollout_rows 2 → 1",
    ]
    assert groups == [[0], [2], [1], [3]]


# -- numbers that are none, answers that decay ------------------------------------------------------------------------


@STAGES
def test_a_number_that_is_none_undoes_the_step_and_the_run_goes_on_with_another_learning_rate(base, make, tmp_path):
    with on_its_way(base, make, tmp_path, every=0) as loop:
        step, state = loop.stage.step, loop.stage.state()

        def poisoned(index):
            metrics = step(index)
            if index == 1:
                for tensor in loop.stage.adapter().values():
                    tensor.fill_(math.nan)
                metrics[next(iter(metrics))] = math.inf
            return metrics

        loop.stage.step = poisoned
        with pytest.raises(TrainingError, match=r"step 2: .* is inf; what was good before is saved: go on"):
            loop.run()
        assert all(tensor.isfinite().all() for tensor in loop.stage.tensors().values())
        assert state.keys() == loop.stage.state().keys()
    with on_its_way(base, make, tmp_path, changes={"learning_rate": 1e-4}) as again:
        assert again.next_step == 0
        assert all(math.isfinite(value) for value in again.run().values())


def health_after(steps: int, texts=("fine",), **numbers: float) -> str:
    """Look at a first healthy step and then at some that are not → why to stop, if so."""
    healthy = {"objective/scores": 1.0, "objective/scores_std": 0.5, "response/eos_share": 0.8}
    health = Health()
    assert health.look(healthy, ["fine", ""]) == ""
    said = ""
    for _ in range(steps):
        assert not said
        said = Health.of(health.state()).look(healthy | numbers, texts)
        health.look(healthy | numbers, texts)
    return said


@pytest.mark.parametrize(
    ("texts", "numbers", "said"),
    [
        ((" ", ""), {}, "was empty; raise kl_coef"),
        (("x",), {"response/eos_share": 0.0}, "ended by itself, as earlier ones did"),
        (("x",), {"objective/scores_std": 0.0}, "got the same score, 1, so there is nothing to learn from"),
        (("x",), {"objective/scores": 0.4}, "the mean score fell to 0.40 from 1.00 at the start"),
    ],
)
def test_answers_that_decay_end_the_run_in_words_but_not_at_once(texts, numbers, said):
    assert health_after(PATIENCE - 1, texts, **numbers) == ""
    assert said in health_after(PATIENCE, texts, **numbers)


def test_healthy_answers_and_a_start_without_ends_go_on():
    assert health_after(3 * PATIENCE, objective_scores=0.6) == ""
    health, numbers = Health(), {"objective/scores": 0.0, "objective/scores_std": 1.0, "response/eos_share": 0.0}
    assert [health.look(numbers, ["x"]) for _ in range(2 * PATIENCE)] == [""] * 2 * PATIENCE
    (remark,) = health.remarks(16)
    assert "no answer ended by itself within 16 tokens" in remark
    assert health.remarks(16) == []


def test_a_policy_that_falls_silent_ends_early_with_the_best_adapter_kept(base, tmp_path):
    changes = {"steps": 30, "value_warmup_steps": 0, "learning_rate": 1e-5, "heldout_share": 0.0}
    with on_its_way(base, MAKERS["ppo"], tmp_path, changes=changes) as loop:
        draw = loop.stage.roll_out

        def silent(index):
            rollout = draw(index)
            return rollout._replace(completions=[c._replace(text="") for c in rollout.completions])

        loop.stage.roll_out = silent
        assert "eval/scores" in loop.run()
        assert (loop.next_step, loop.ended) == (PATIENCE, True)
        assert any(
            event.startswith(f"{PATIENCE}: stopped at step {PATIENCE}: every answer") for event in loop.journal.events
        )
        assert any("saved step" in event for event in loop.journal.events)


def test_weights_spoilt_by_the_last_step_are_no_adapter(base, tmp_path):
    changes = {"heldout_share": 0.0}
    with on_its_way(base, MAKERS["sft"], tmp_path, every=0, changes=changes) as loop:
        step, total = loop.stage.step, loop.stage.total

        def spoiling(index):
            metrics = step(index)
            if index == total - 1:
                next(iter(loop.stage.adapter().values()))[0, 0] = math.nan
            return metrics

        loop.stage.step = spoiling
        with pytest.raises(TrainingError, match="the last measurement: largest weight is nan; what was good before"):
            loop.run()
    assert find_checkpoint(tmp_path).checkpoint.step == total - 1
