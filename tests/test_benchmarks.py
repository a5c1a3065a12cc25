"""The benchmarks, on miniatures through their real code: both sides do the same work, and what is counted is right.

The sides that run trl need `pip install -e ".[bench]"`; without it their tests are skipped, and say so.
"""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import answer_length, decode, gpu, memory, random_base
from benchmarks.peers import decode_here, decode_transformers, ppo_here, texts_here
from benchmarks.peers.decoding import DecodeWork, tokens_per_second
from benchmarks.peers.texts import LONGEST, SHORTEST, TextWork, lengths, make_texts
from benchmarks.peers.turns import Runs, ratios, run_side
from benchmarks.peers.workloads import BATCH, Work, fixed_length, make_base
from benchmarks.stages import make_stage
from lorarlhf.adapters import AdapterBank
from lorarlhf.plan.memory import NF4_BYTES, NF4_TABLES, adapter_parameters
from lorarlhf.plan.shapes import known

SMALL = {"layers": 2, "hidden": 128, "inner": 256, "vocabulary": 2048}
CPU = torch.device("cpu")

needs_trl = pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason='trl is not installed: pip install -e ".[bench]"'
)


@pytest.fixture(scope="module", params=["sft", "reward"])
def texts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextWork:
    return make_texts(tmp_path_factory.mktemp("texts") / "base", request.param, rows=2 * BATCH, **SMALL)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Work:
    work = fixed_length(tmp_path_factory.mktemp("answers") / "base", **SMALL)
    return replace(work, prompts=[prompt[:8] for prompt in work.prompts], answer=6)


# -- trainers against trl -------------------------------------------------------------------------------------


def test_texts_are_of_all_lengths_and_survive_being_written(texts: TextWork, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(texts.base)
    counts = [count for row in texts.rows for count in lengths(tokenizer, row)]
    assert min(counts) >= SHORTEST
    assert max(counts) <= LONGEST
    assert max(counts) > 2 * min(counts)
    assert TextWork.read(str(texts.save(tmp_path / "work.json"))) == texts


@needs_trl
def test_both_sides_train_on_the_same_tokens_from_the_same_loss(texts: TextWork, tmp_path: Path) -> None:
    from benchmarks.peers import texts_trl
    from benchmarks.peers.trl_models import Steps
    from benchmarks.peers.workloads import Meter

    stage = texts_here.make_stage(texts, 2, 1024)
    trainer = texts_trl.make_trainer(texts, 2, 8, "nll", str(tmp_path), Steps(Meter()))
    ours = texts_here.token_rows(stage)
    order = [index for batch in texts.batches(2) for index in batch]
    assert sorted(order) == list(range(2 * BATCH))
    mine = [tuple(row.prompt + row.response for row in ours[index]) for index in order]
    assert mine == texts_trl.token_ids(texts, trainer)
    if texts.stage == "sft":
        counted = [[token for token in row["labels"] if token != -100] for row in trainer.train_dataset]
        assert counted == [ours[index][0].response for index in order]
    here, there = texts_here.measure(texts, 2, 1024), texts_trl.measure(texts, 2, 8)
    assert here["tokens"] == there["tokens"] == sum(len(ids) for row in mine[BATCH:] for ids in row)
    # trl rounds adapters and head to bf16.
    assert here["first_loss"] == pytest.approx(there["first_loss"], rel=0.01)
    expected = math.log(2048) if texts.stage == "sft" else math.log(2)
    assert here["first_loss"] == pytest.approx(expected, rel=0.25)
    trained = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    heads = 0 if texts.stage == "sft" else 1
    assert len(trained) - heads == len(stage.studio.bank.parameters("trained")) - 2 * heads == 2 * 7 * 2


@needs_trl
def test_models_that_trl_samples_from_learn_in_every_layer(answers: Work, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from benchmarks.peers import ppo_trl
    from benchmarks.peers.trl_models import Steps
    from benchmarks.peers.workloads import Meter

    tokenizer = AutoTokenizer.from_pretrained(answers.base, padding_side="left")
    trainer = ppo_trl.make_trainer(answers, 2, 8, tokenizer, str(tmp_path), Steps(Meter()))
    trainer.train()
    weights = {name: weight for name, weight in trainer.model.named_parameters() if "lora_B" in name}
    assert len(weights) == 2 * 2 * 7  # policy and value, 2 layers of 7 matrices
    assert [name for name, weight in weights.items() if not weight.any()] == []


@needs_trl
def test_ppo_draws_as_many_tokens_on_both_sides(answers: Work) -> None:
    from benchmarks.peers import ppo_trl

    here, there = ppo_here.measure(answers, 2, 256), ppo_trl.measure(answers, 2, 8)
    assert here["tokens_per_answer"] == there["tokens_per_answer"] == 6
    for found in (here, there):
        assert 0 < found["phases"]["sampling"] + found["phases"]["training"] < found["seconds_per_step"]


def test_the_side_here_runs_without_trl(texts: TextWork) -> None:
    found = texts_here.measure(texts, 2, 1024)
    assert found["seconds_per_step"] > 0
    assert found["tokens"] > BATCH * SHORTEST


def test_ratios_are_taken_pair_by_pair() -> None:
    here, there = Runs((1,), [{"s": 1.0}, {"s": 2.0}, {"s": 4.0}]), Runs((8,), [{"s": 3.0}, {"s": 4.0}, {"s": 4.0}])
    assert ratios(here, there, "s") == {"median": 2.0, "least": 1.0, "most": 3.0}


def test_a_side_that_fails_ends_the_benchmark_with_its_words() -> None:
    with pytest.raises(SystemExit, match="no-such-file"):
        run_side("benchmarks.peers.decode_here", "/no-such-file.json")


# -- decoding -------------------------------------------------------------------------------------------------


def test_both_sides_decode_the_same_tokens(tmp_path: Path) -> None:
    base = str(make_base(tmp_path / "base", **SMALL))
    work, loaded, adapter = decode.prepare(base, tmp_path, rows=[1, 3], tokens=12, prompt=8)
    prompts = work.prompts(3, 1000)
    here = decode_here.make_draw(work, temperature=0, compute="fp32")(prompts)
    there = decode_transformers.make_draw(work, sample=False, compute="fp32")(prompts)
    assert here == there
    assert adapter == 4 * adapter_parameters(decode.shape_of(loaded.model.config, ""))
    assert decode.weight_bytes(loaded, adapter) == loaded.report.bytes_on_device + adapter  # one table of embeddings


def test_the_bound_is_bytes_over_bandwidth(tmp_path: Path) -> None:
    work, loaded, _ = decode.prepare(str(make_base(tmp_path / "base", **SMALL)), tmp_path, [2], tokens=8, prompt=4)
    item = loaded.compute_dtype.itemsize
    # 2 layers hold keys and values of 128 numbers for 4 + 8/2 tokens of 2 rows.
    bytes_per_step = 1000 + 2 * 2 * 128 * 8 * 2 * item
    assert decode.bound(loaded, 1000, work, 2, 1e6) == pytest.approx(2 * 1e6 / bytes_per_step)
    speeds = decode.bandwidth(CPU, size=2**20, repeats=1)
    assert all(speed > 0 for speed in speeds.values())


def test_an_answer_of_another_length_is_refused() -> None:
    work = DecodeWork("", "", "cpu", prompt=2, tokens=3, rows=[1])
    with pytest.raises(SystemExit, match="answers of 3 tokens"):
        tokens_per_second(work, 100, lambda prompts: [[1, 2]])


# -- length of answers ----------------------------------------------------------------------------------------


def test_the_work_of_a_step_grows_with_tokens_and_their_pairs() -> None:
    shape = known("Qwen/Qwen3-4B")
    assert shape
    one, two = (answer_length.Work.of(shape, 10, answer) for answer in (30, 60))
    matrices = shape.layers * sum(m.inputs * m.outputs for m in shape.matrices)
    assert two.products - one.products == 30 * (matrices + shape.vocabulary * shape.hidden)
    assert (one.attention, two.attention) == tuple(shape.layers * shape.queries * n * (n + 1) for n in (40, 70))
    # Twice as long an answer may take twice as long, and what attention takes beyond twice.
    most = 2 + (two.attention - 2 * one.attention) / sum(one)
    for long, holds in ((most, True), (1.01 * most, False)):
        phases = {"sampling": [1.0] * 3, "reading": [1.0] * 3}
        found = answer_length.compare(
            shape, 10, {30: {"step": [1.0, 9, 1], **phases}, 60: {"step": [long] * 3, **phases}}
        )
        assert [row["most"] for row in found["rows"]] == pytest.approx([1, most])
        assert [row["holds"] for row in found["rows"]] == [True, holds]
        assert found["rows"][1]["work"] == pytest.approx(sum(two) / sum(one))


def test_steps_of_every_length_are_timed_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = partial(fixed_length, **SMALL)
    monkeypatch.setattr(answer_length, "fixed_length", small)
    found = answer_length.measure(tmp_path, (2, 4), rounds=1, critic="none")
    assert {answer: {phase: len(s) for phase, s in of.items()} for answer, of in found.items()} == {
        answer: {"step": 1, "sampling": 1, "reading": 1} for answer in (2, 4)
    }
    for of in found.values():
        assert of["step"][0] == pytest.approx(of["sampling"][0] + of["reading"][0])


# -- memory ---------------------------------------------------------------------------------------------------


def test_memory_is_told_role_by_role(answers: Work) -> None:
    found = memory.measure({"stage": "ppo", "by": "role", "extra": 0, "critic": "head"}, answers.base, "cpu")
    seen = [(row["phase"], row["role"]) for row in found["roles"]]
    assert ("sampling", "policy") in seen
    assert {role for phase, role in seen if phase == "scoring"} == {"policy", "reference", "reward"}
    # The critic reads what the reward's pass left; no role is active when it learns.
    assert [role for phase, role in seen if phase == "update"] == ["policy", "bare base"]
    update = next(row for row in found["roles"] if (row["phase"], row["role"]) == ("update", "policy"))
    # What stays when a role has been updated is its gradients, as large as the adapter, and a few metrics.
    assert update["kept"] == pytest.approx(found["adapter_bytes"]["policy"], rel=0.05)
    none = memory.measure({"stage": "ppo", "by": "role", "extra": 0, "critic": "none"}, answers.base, "cpu")
    assert [row["role"] for row in none["roles"] if row["phase"] == "update"] == ["policy"]


def test_another_adapter_costs_its_weights(answers: Work) -> None:
    def peak(extra: int) -> int:
        case = {"stage": "sft", "by": "allocator", "extra": extra, "critic": "head"}
        return int(memory.measure(case, answers.base, "cpu")["peak_bytes"])

    shape = decode.shape_of(texts_config(answers.base), "")
    assert peak(2) - peak(0) == 2 * 4 * adapter_parameters(shape)


def texts_config(base: str) -> object:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(base)


# -- cards ----------------------------------------------------------------------------------------------------


def test_the_benchmark_of_cards_runs_on_a_processor() -> None:
    rows = gpu.measure(gpu.TINY, CPU, [8], gpu.SMALL)
    seen = [(row["cap_gb"], row["work"], row.get("rows")) for row in rows]
    stages = [("sft", None), ("reward", None), ("ppo", None)]
    whole = [(None, "base", None), *((None, *one) for one in stages), (None, "decode", 1), (None, "decode", 2)]
    assert seen == [*whole, *((8, *one) for one in stages)]
    assert all(row["fits"] for row in rows)
    assert all(row["tokens_per_second"] > 0 for row in rows[1:])


def test_a_random_base_is_in_four_bits_and_computes() -> None:
    base = random_base.make_base(gpu.TINY, CPU)
    shape, item = gpu.TINY, base.compute_dtype.itemsize
    # By hand: 7 matrices a layer; embeddings once; norms of 64 twice a layer and once at the end, of a head's 16 twice.
    matrices = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 192)
    rest = item * (2048 * 64 + 2 * (2 * 64 + 2 * 16) + 64)
    expected = matrices * NF4_BYTES + 14 * NF4_TABLES + rest
    assert base.report.bytes_on_device == pytest.approx(expected, rel=0.02)
    assert base.report.quantised_layers == 14
    assert base.report.parameters == matrices + 2048 * 64
    assert base.packs  # as bases do that are loaded
    stage = make_stage("sft", AdapterBank(base), 8, 8, 64, batch=4)
    assert stage.step(0)["loss/sft"] == pytest.approx(math.log(shape.vocabulary), rel=0.1)


def test_want_of_memory_halves_the_work_and_then_is_a_row() -> None:
    stage = make_stage("sft", AdapterBank(random_base.make_base(gpu.TINY, CPU)), 8, 8, 64, batch=4)
    whole, step = stage.budget.tokens, stage.step

    def greedy(index: int) -> object:
        done = step(index)
        if stage.budget.most_tokens > 32:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return done

    stage.step = greedy
    assert gpu._step(stage, 0) > 0
    assert (whole, stage.budget.tokens) == (64, 32)

    def never(index: int) -> None:
        step(index)
        raise torch.OutOfMemoryError("CUDA out of memory")

    stage.step = never
    row = gpu._row({"work": "sft"}, CPU, lambda: {"seconds_per_step": gpu._step(stage, 1)})
    assert row == {"work": "sft", "fits": False, "why": "CUDA out of memory"}
    assert stage.budget.tokens == 16  # a row of 16 tokens goes no smaller


def test_every_base_of_the_benchmark_of_cards_is_known() -> None:
    assert all(known(name) for name in gpu.SHAPES)
    with pytest.raises(SystemExit, match="no shape Qwen9"):
        gpu.shape_named("Qwen9")
    assert json.loads(json.dumps(asdict(gpu.TINY)))["name"] == "tiny"


def test_every_mutant_breaks_a_line_that_is_there_once():
    from benchmarks.mutants import MUTANTS, ROOT

    assert len(MUTANTS) >= 56
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        text = (ROOT / mutant.file).read_text(encoding="utf-8")
        assert text.count(mutant.right) == 1, mutant.name
        assert all((ROOT / test).is_file() for test in mutant.tests), mutant.name
