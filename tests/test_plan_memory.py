"""The formulas of the planner: against numbers counted by hand, and against miniature bases that are really there."""

from __future__ import annotations

import pytest
import torch

from lorarlhf.adapters import UNPACKED_MOST, AdapterBank
from lorarlhf.algo.logprobs import CHUNK_ELEMENTS, LEAST_ROWS
from lorarlhf.attention import SHORT
from lorarlhf.base import Base, load_base
from lorarlhf.cache import ROOM
from lorarlhf.data.tokens import Row, collate
from lorarlhf.errors import BaseModelError, SettingsError
from lorarlhf.forward import response_logprobs, response_values
from lorarlhf.hardware import KERNELS
from lorarlhf.plan import memory
from lorarlhf.plan.memory import (
    Demand,
    Drawing,
    Load,
    Pass,
    adapter_parameters,
    cache_bytes,
    draw_bytes,
    learn_bytes,
    phases,
    resident_bytes,
    score_bytes,
)
from lorarlhf.plan.peak import allocated
from lorarlhf.plan.planning import make_plan
from lorarlhf.plan.probe import load_of
from lorarlhf.plan.shapes import SHAPES, Shape, known, shape_of
from lorarlhf.plan.work import Cutting, Data, Length, Roles, sample_of, work_of
from lorarlhf.sampling import complete
from lorarlhf.settings import LoadSettings, LoraSettings, PPOSettings, RewardSettings, SamplingSettings, SFTSettings
from lorarlhf.train.common import Studio
from lorarlhf.train.optim import Group, Optimizer
from lorarlhf.train.order import walk_at
from lorarlhf.train.team import Team
from tests import tiny

BY_NAME = {shape.name: shape for shape in SHAPES}
# hidden 64, inner 128, 4 heads of 16, 2 of them for keys, 100 words, 3 layers
HAND = Shape("hand", 3, 64, 128, 64, 32, 100, True, heads=4)
CPU = torch.device("cpu")


def base_of(tmp_path_factory: pytest.TempPathFactory, arch: str, bits: int = 4, compute: str = "fp32") -> Base:
    folder = tiny.save(tmp_path_factory.mktemp("base"), arch, layers=3, hidden=128, inner=320)
    return load_base(LoadSettings(base=str(folder), bits=bits, compute=compute, device="cpu"))


def test_sizes_by_hand() -> None:
    # A layer has 64·64·2 + 64·32·2 + 64·128·3 = 36,864 weights and 2·64 of norms; the table 6,400, the last norm 64.
    assert resident_bytes(HAND, bits=16) == (3 * (36_864 + 128) + 6_400 + 64) * 2
    # 4 bits: half a byte, a byte per 64, four bytes per 64·256 → 0.515869140625 a weight; tables of 272 fp32 a matrix.
    assert resident_bytes(HAND, bits=4) == round(3 * (36_864 * 0.515869140625 + 7 * 272 * 4 + 256) + 2 * 6_464)
    # rank 16: 16·(128 + 128 + 96 + 96 + 192·3) = 16,384 numbers a layer; of q and v alone 16·(128 + 96).
    assert adapter_parameters(HAND) == 3 * 16_384
    assert adapter_parameters(HAND, 16, "q_proj, v_proj") == 3 * 16 * (128 + 96)
    # keys and values: 2 · 3 layers · 32 wide · 2 rows · 10 tokens · 2 bytes
    assert cache_bytes(HAND, rows=2, tokens=10) == 7_680


@pytest.mark.parametrize(
    ("name", "numbers"),
    # What other trainers print for rank 16 on all linear layers of these bases.
    [
        ("Llama-3.1-8B", 41_943_040),
        ("Qwen2.5-7B", 40_370_176),
        ("Qwen2.5-0.5B", 8_798_208),
        ("Qwen2.5-14B", 68_812_800),
    ],
)
def test_adapters_of_known_bases_have_as_many_numbers_as_elsewhere(name: str, numbers: int) -> None:
    assert adapter_parameters(BY_NAME[name]) == numbers


def test_what_a_backward_pass_keeps_by_hand() -> None:
    # fp32, one layer, per token: norms 2·64, adapters' inputs once: 64 (q, k, v) + 64 (o) + 64 (gate, up) + 128 (down),
    # ranks 7·2, queries 64, repeated keys and values 2·64, 4 sums of attention, 10 of the mask, three of the inner
    # part 3·128.
    kept = 4 * (128 + 64 + 64 + 64 + 128 + 14 + 64 + 128 + 4 + 10 + 384)
    # Three layers less the first norm; then six times the stream at the last norm, over 2·128 + 64 of the inner part
    # with the largest matrix unpacked.
    p = Pass(2, 10, 0)
    wanted = 20 * (3 * kept - 4 * 64) + max(20 * 6 * 4 * 64, 20 * 4 * (64 + 256) + 4 * 64 * 128)
    found = learn_bytes(Load(HAND, 4, 4, "cpu"), p, rank=2)
    assert found == {"activations": wanted, "logits": 0.0}
    # One behind the other there is no mask; side by side two rows of 10 and 6 take 20 places, where 16 tokens are, and
    # attention's result is moved once more.
    packed = 4 * (128 + 64 + 64 + 64 + 128 + 14 + 384) + 20 / 16 * 4 * (64 + 128 + 64 + 4)
    wanted = 16 * (3 * packed - 4 * 64) + max(16 * 6 * 4 * 64, 16 * 4 * (64 + 256) + 4 * 64 * 128)
    found = learn_bytes(Load(HAND, 4, 4, "cpu"), Pass(2, 10, 0, 16), rank=2)
    assert found["activations"] == pytest.approx(wanted)


def test_logits_by_hand() -> None:
    wide = Shape("wide", 1, 64, 128, 64, 64, 200_000, True, heads=4)
    # On a processor 64 rows at least; on a card 2^24 numbers hold 83 rows of 200,000. Logits and two fp32 copies.
    found = learn_bytes(Load(wide, 4, 4, "cpu"), Pass(4, 64, 200), rank=2)
    assert found["logits"] == 64 * 200_000 * 12
    # In bf16 their gradient is one more tensor.
    assert learn_bytes(Load(wide, 4, 2, "cuda"), Pass(4, 64, 200), rank=2)["logits"] == 83 * 200_000 * 12
    assert (memory.LOGITS_CHUNK, memory.LOGITS_ROWS) == (CHUNK_ELEMENTS, LEAST_ROWS)
    assert (memory.SHORT, memory.UNPACKED_MOST) == (SHORT, UNPACKED_MOST)
    assert (memory.ROOM, memory.KERNELS) == (ROOM, KERNELS)


@pytest.mark.parametrize(("name", "gigabytes"), [("Llama-3.1-8B", 5.7), ("Qwen3-4B", 2.65), ("Qwen3-1.7B", 1.35)])
def test_sizes_of_known_bases(name: str, gigabytes: float) -> None:
    assert resident_bytes(BY_NAME[name]) / 1e9 == pytest.approx(gigabytes, rel=0.01)
    assert known(f"somebody/{name.lower()}") is BY_NAME[name]


@pytest.mark.parametrize("arch", tiny.ARCHS)
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_base_and_adapters_are_counted_exactly(arch: str, bits: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = base_of(tmp_path_factory, arch, bits)
    shape, bank = shape_of(base.model.config, arch), AdapterBank(base)
    # Labels of a few bytes stand beside every quantised matrix.
    assert resident_bytes(shape, bits, 4) == pytest.approx(base.report.bytes_on_device, rel=0.02)
    bank.create("one", LoraSettings(rank=5))
    assert bank.bytes_of("one") == 4 * adapter_parameters(shape, 5)
    if arch == "llama":
        bank.create("two", LoraSettings(rank=3, targets="q_proj,down_proj"))
        assert bank.bytes_of("two") == 4 * adapter_parameters(shape, 3, "q_proj,down_proj")


def test_the_optimizer_keeps_two_moments(tmp_path_factory: pytest.TempPathFactory) -> None:
    base = base_of(tmp_path_factory, "llama")
    bank = AdapterBank(base)
    bank.create("one", LoraSettings(rank=8), head=True)
    optimizer = Optimizer([Group("one", bank.parameters("one"), 1e-3)], SFTSettings(), Team())
    for parameter in bank.parameters("one"):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(0, 1)
    moments = sum(value.nbytes for key, value in optimizer.state().items() if "exp_avg" in key)
    found = phases(load_of(base), Demand(trained=(8,), learn=((Pass(1, 8, 8), 0),)))[0].parts
    assert moments - 2 * 4 * (base.hidden_size + 1) == found["optimizer"] == 2 * found["gradients"]


@pytest.mark.parametrize("arch", ["llama", "gemma3", "gpt2"])
def test_the_cache_is_counted_exactly(arch: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = base_of(tmp_path_factory, arch)
    ids = torch.randint(0, 200, (3, 20))
    cache = base.backbone(input_ids=ids, use_cache=True).past_key_values
    really = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert cache_bytes(shape_of(base.model.config, arch), 3, 20, 4) == really


CASES = [
    (arch, compute, checkpointing)
    for arch in ("llama", "qwen3", "gemma3", "gpt2")
    for compute in ("fp32", "bf16")
    for checkpointing in (False, True)
]


@pytest.mark.parametrize(("arch", "compute", "checkpointing"), CASES)
def test_activations_are_within_an_eighth(
    arch: str, compute: str, checkpointing: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = base_of(tmp_path_factory, arch, compute=compute)
    load, bank = load_of(base), AdapterBank(base)
    studio = Studio(base, bank, Team())
    bank.create("one", LoraSettings(rank=8), head=True)
    rows = [Row([50 + i, *range(4, 35 - (i == 1))], [5] * 32) for i in range(8)]
    batch, seen = collate(rows, base.pad_id), Pass(8, 64, 0, 8 * 64 - 1)
    for _ in range(2):  # the first time, tables and gradients are made
        with allocated(CPU) as learned, studio.training(checkpointing), bank.activate("one"):
            response_values(base, bank.heads["one"], batch).sum().backward()
    with allocated(CPU) as scored, torch.no_grad(), bank.activate("one"):
        response_values(base, bank.heads["one"], batch)
    wanted = sum(learn_bytes(load, seen, 8, checkpointing=checkpointing).values())
    assert wanted == pytest.approx(learned.bytes, rel=0.125)
    # A pass without gradient is never the peak of a stage.
    assert sum(score_bytes(load, seen).values()) == pytest.approx(scored.bytes, rel=0.15)


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_pairs_that_share_their_prompt_are_within_an_eighth(
    compute: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = base_of(tmp_path_factory, "llama", compute=compute)
    bank = AdapterBank(base)
    bank.create("one", LoraSettings(rank=8), head=True)
    rows = [Row([50 + i % 4, *range(4, 43)], [5] * 24) for i in range(8)]
    (seen,) = Cutting(4096).vote_passes([(Length(40, 24), Length(40, 24))] * 4)
    assert seen == Pass(8, 64, 0, 4 * (40 + 24 + 24), ((8, 64),))
    for _ in range(2):
        with allocated(CPU) as learned, bank.activate("one"):
            response_values(base, bank.heads["one"], collate(rows, base.pad_id)).sum().backward()
    wanted = sum(learn_bytes(load_of(base), seen, 8).values())
    assert wanted == pytest.approx(learned.bytes, rel=0.125)


def test_logits_and_drawing_are_within_a_tenth(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = tiny.config("llama", layers=2, hidden=64, inner=128)
    config.vocab_size = 20_000
    folder = tmp_path_factory.mktemp("wide")
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    base = load_base(LoadSettings(base=str(folder), compute="fp32", device="cpu"))
    load, bank = load_of(base), AdapterBank(base)
    bank.create("one", LoraSettings(rank=4))
    rows = [Row([50 + i, *range(4, 35)], [5] * 32) for i in range(4)]
    with allocated(CPU) as learned, bank.activate("one"):
        response_logprobs(base, collate(rows, base.pad_id)).logprobs_T.sum().backward()
    found = learn_bytes(load, Pass(4, 64, 128, 4 * 64), 4)
    assert found["logits"] > found["activations"]
    assert sum(found.values()) == pytest.approx(learned.bytes, rel=0.1)
    prompts = [list(range(3 + i, 19 + i - (i == 1))) for i in range(16)]
    for top_p in (1.0, 0.9):
        with allocated(CPU) as drawn, bank.drawing("one"):
            complete(base, prompts, SamplingSettings(max_new_tokens=4, top_p=top_p))
        assert sum(draw_bytes(load, Drawing(16, 16, 4, top_p)).values()) == pytest.approx(drawn.bytes, rel=0.1)


def test_the_allocator_counts_what_is_there() -> None:
    with allocated(CPU) as peak:
        first = torch.ones(1000, dtype=torch.float32)
        del first
        kept = torch.ones(500, dtype=torch.float32)
    assert (peak.bytes, peak.left) == (4000, 2000)
    assert len(kept) == 500
    with allocated(CPU) as later:  # what came before it goes now, and counts for nothing
        del kept
        another = torch.ones(250, dtype=torch.float32)
    assert (later.bytes, later.left) == (1000, 1000)
    assert len(another) == 250


# -- shapes, work, plans --------------------------------------------------------------------------------------


def test_shapes_that_cannot_be_planned_say_so() -> None:
    class Odd:
        model_type = "odd"
        hidden_size = 8

    with pytest.raises(BaseModelError, match=r"odd one: its config.json does not say .*; pass the folder"):
        shape_of(Odd(), "odd one")
    mixture = tiny.config("llama")
    mixture.num_local_experts = 8
    with pytest.raises(BaseModelError, match="mixture of experts"):
        shape_of(mixture, "experts")


def test_an_unknown_architecture_is_taken_for_a_llama_and_says_so() -> None:
    config = tiny.config("llama")
    config.model_type = "brand-new"
    plan = make_plan("sft", SFTSettings(), Load(shape_of(config, "new")))
    assert any("like Llama's" in note for note in plan.notes)


def test_work_is_cut_as_the_stage_cuts_it() -> None:
    lengths = [Length(10 + i % 7, 5 + i % 3) for i in range(20)]
    settings = SFTSettings(
        learning_rate=1e-3, batch_size=8, epochs=2, micro_batch_tokens=64, heldout_share=0.0, checkpoint_every=2
    )
    work = work_of(settings, Data(tuple((row,) for row in lengths)), Roles((4,)), walk_at)
    # 2 · 20 / 8 = 5 steps; checkpoints after the second and the fourth.
    assert work.steps == 5
    assert work.efforts["write"].writes == 2
    assert work.efforts["learn"].updates == 5
    # Where the rate is left to the program, four of them make two steps each first: 0.7 of a pass of three.
    auto = SFTSettings.parse({**settings.model_dump(), "learning_rate": "auto", "epochs": "auto"})
    tried = work_of(auto, Data(tuple((row,) for row in lengths)), Roles((4,)), walk_at)
    assert tried.steps == 5
    assert tried.efforts["learn"].updates == 5 + 4 * 2
    last = SFTSettings.parse({**settings.model_dump(), "checkpoint_every": 5})
    assert work_of(last, Data(tuple((row,) for row in lengths)), Roles((4,))).efforts["write"].writes == 0
    cut = Cutting(64)
    wanted = [p for s in range(5) for p in cut.passes([(lengths[i],) for i in walk_at(s, 8, 20, 0)], logits=True)]
    assert work.efforts["learn"][:3] == (len(wanted), sum(p.tokens for p in wanted), sum(p.answers for p in wanted))
    assert {p for p, _ in work.demand.learn} == set(wanted)


def test_answers_to_one_prompt_are_planned_together_and_long_runs_by_their_usual_step() -> None:
    settings = PPOSettings(
        steps=100,
        batch_size=8,
        critic="none",
        answers_per_prompt=4,
        max_new_tokens=8,
        micro_batch_tokens=10_000,
        ppo_epochs=1,
        mini_batches=1,
        eval_every=100,
        checkpoint_every=0,
    )
    # Prompts of other lengths, of which two make a step: 9 + 4 · 5 and 10 + 4 · 5 tokens, and so on; 29.5 on average.
    data = Data(tuple((Length(9 + i % 2, 0),) for i in range(100)), ((Length(12, 0),),), drawn=(5,))
    learn = work_of(settings, data, Roles((4,), (4, 4), 1), walk_at).efforts["learn"]
    assert learn[:3] == (100, pytest.approx(100 * 2 * 29.5, rel=0.01), 100 * 8 * 5)
    # Two prompts stand four times in a batch of eight: they too go through the base once.
    twice = PPOSettings.parse({**settings.model_dump(), "critic": "head", "answers_per_prompt": 1, "steps": 10})
    few = Data(data.train[:2], data.heldout, drawn=(5,))
    learn = work_of(twice, few, Roles((4,), (4, 4), 2), walk_at).efforts["learn"]
    assert learn.learn_tokens == (10 - twice.value_only_steps) * (9 + 10 + 8 * 5)


def test_the_work_of_ppo_by_hand() -> None:
    settings = PPOSettings(
        steps=3,
        batch_size=4,
        rollout_rows=4,
        max_new_tokens=8,
        micro_batch_tokens=10_000,
        critic="head",
        answers_per_prompt=1,
        ppo_epochs=1,
        mini_batches=1,
        value_warmup_steps=1,
        eval_every=2,
        eval_prompts=2,
        checkpoint_every=0,
    )
    data = Data(tuple((Length(12, 0),) for _ in range(6)), ((Length(12, 0),),), drawn=(5,))
    efforts = work_of(settings, data, Roles((4,), (4, 4), 2)).efforts
    # Each step: 4 rows read 12 tokens, and 4 more tokens follow the first one, one after the other.
    assert efforts["draw"] == (0, 0, 0, 3, 3 * 48, 0, 3, 3 * 4, 3 * 16, 0, 0)
    # Policy, reference and reward go over 4 rows of 17 tokens; two of them over the logits of 4 · 5 answer tokens.
    assert efforts["score"][3:6] == (3 * 3, 3 * 3 * 68, 3 * 2 * 20)
    # The policy learns in the two steps after the warm-up; what the head of the critic takes is not counted.
    assert efforts["learn"][:3] == (2, 2 * 68, 2 * 20)
    assert efforts["learn"].updates == 2
    # Measured before, after steps 2 and 3, and once more in the end: one prompt each.
    assert efforts["measure"].steps == 4 * 4
    # A critic that is an adapter has a pass of its own in every step, and one with gradient, the warm-up's too.
    own = PPOSettings.parse({**settings.model_dump(), "critic": "adapter"})
    efforts = work_of(own, data, Roles((4, 4), (4, 4), 2)).efforts
    assert efforts["score"][3:6] == (3 * 4, 3 * 4 * 68, 3 * 2 * 20)
    assert efforts["learn"][:3] == (5, 5 * 68, 2 * 20)
    assert efforts["learn"].updates == 5
    # Without a critic there is no warm-up, and nothing else differs: two prompts, each read once for its two answers,
    # when they are drawn and in every pass after that.
    none = PPOSettings.parse({**settings.model_dump(), "critic": "none", "answers_per_prompt": 2})
    efforts = work_of(none, data, Roles((4,), (4, 4), 1)).efforts
    assert efforts["draw"] == (0, 0, 0, 3, 3 * 24, 0, 3, 3 * 4, 3 * 16, 0, 0)
    assert efforts["score"][3:6] == (3 * 3, 3 * 3 * (68 - 24), 3 * 2 * 20)
    assert efforts["learn"][:3] == (3, 3 * (68 - 24), 3 * 20)
    assert efforts["learn"].updates == 3


def test_without_a_critic_less_memory_is_planned() -> None:
    shape = BY_NAME["Qwen2.5-0.5B"]
    for device in ("cpu", "cuda"):
        none, head, adapter = (
            make_plan("ppo", PPOSettings(critic=critic, batch_size=32), Load(shape, device=device)).peak
            for critic in ("none", "head", "adapter")
        )
        # What goes: a head, 256 units wide and one of them with gradient and two moments, and on a processor the
        # states of 32 answers of 96 tokens; with the adapter its weights and moments, and two copies of all three.
        kept = 32 * 96 * 2 * shape.hidden if device == "cpu" else 0
        assert head.total - none.total == 4 * (shape.hidden + 1) + 4 * 4 * 256 * shape.hidden + kept
        if device == "cpu":
            assert adapter.total - none.total == 4 * (shape.hidden + 1) + 9 * 4 * adapter_parameters(shape, 16)
        assert adapter.total - none.total > 3 * 4 * adapter_parameters(shape, 16)


def test_each_prompt_of_a_step_is_read_once_for_every_answer_to_it() -> None:
    prompts = Data(tuple((Length(10 * n, 0),) for n in range(1, 5)))
    settings = PPOSettings(batch_size=4, answers_per_prompt=4, critic="none", max_new_tokens=8, steps=3)
    work = work_of(settings, prompts, Roles((4,), (4, 4), 1), lambda step, size, *_: list(range(step, step + size)))
    assert work.efforts["draw"].score_tokens == 10 + 20 + 30


def test_a_probe_gets_the_examples_of_a_first_step() -> None:
    demonstrations = Data(tuple((Length(10 + n, 5),) for n in range(6)))
    first = sample_of(SFTSettings(batch_size=4), demonstrations, lambda step, size, *_: list(range(step, step + size)))
    assert first == [(Length(10, 5),), (Length(11, 5),), (Length(12, 5),), (Length(13, 5),)]
    prompts = Data(tuple((Length(10 + n, 0),) for n in range(6)), drawn=(3, 9))
    settings = PPOSettings(batch_size=8, answers_per_prompt=4, critic="none", max_new_tokens=6)
    two = sample_of(settings, prompts)
    assert [len(example) for example in two] == [4, 4]
    for example in two:
        assert len({row.prompt for row in example}) == 1
        assert {row.answer for row in example} <= {3, 6}
    # Four answers to a prompt of p tokens are read as p tokens and four answers.
    seen = Cutting(1000).one_pass(two, logits=True)
    answers = sum(row.answer for example in two for row in example)
    assert (seen.rows, seen.answers, seen.tokens) == (8, answers, sum(e[0].prompt for e in two) + answers)
    assert Cutting(1000, padded=True).one_pass(two, logits=True).tokens == 8 * max(r.total for e in two for r in e)


def test_advice_is_planned_again_and_fits() -> None:
    settings = PPOSettings()
    plan = make_plan("ppo", settings, Load(BY_NAME["Qwen3-4B"]), available=8 * 2**30)
    assert plan.fits is False
    assert plan.peak.name == "learn"
    fitting = [advice for advice in plan.advice if advice.fits]
    assert fitting
    for advice in plan.advice:
        changed = PPOSettings.parse({**settings.model_dump(), **advice.settings})
        again = make_plan("ppo", changed, plan.load, available=8 * 2**30)
        assert again.peak.total == advice.peak_bytes
        assert again.fits == advice.fits
    # The next larger budget would not have been enough.
    tokens = next(a.settings["micro_batch_tokens"] for a in fitting if "micro_batch_tokens" in a.settings)
    wider = PPOSettings.parse({**settings.model_dump(), "micro_batch_tokens": 2 * tokens})
    assert not make_plan("ppo", wider, plan.load, available=8 * 2**30).fits


def test_where_no_setting_helps_another_base_is_named() -> None:
    plan = make_plan("sft", SFTSettings(), Load(BY_NAME["Llama-3.3-70B"]), available=8 * 2**30)
    (smaller,) = [advice for advice in plan.advice if advice.fits]
    assert smaller.load["base"] in BY_NAME
    assert plan.peak.parts["base"] > 8 * 2**30


def test_more_of_anything_takes_more() -> None:
    def peak(**changes: object) -> int:
        return make_plan("reward", RewardSettings.parse(changes), Load(BY_NAME["Qwen3-1.7B"])).peak.total

    assert peak() < peak(rank=64) < peak(rank=64, micro_batch_tokens=8192)
    assert peak(gradient_checkpointing=True) < peak()
    names = ("Qwen2.5-0.5B", "Qwen3-1.7B", "Qwen3-4B", "Llama-3.1-8B", "Qwen3-14B", "Qwen3-32B")
    peaks = [make_plan("ppo", PPOSettings(), Load(BY_NAME[name])).peak.total for name in names]
    assert peaks == sorted(peaks)
    with_adapter = [make_plan("ppo", PPOSettings(critic="adapter"), Load(BY_NAME[name])).peak.total for name in names]
    assert all(a < b for a, b in zip(peaks, with_adapter, strict=True))


def test_settings_of_another_stage_are_refused() -> None:
    with pytest.raises(SettingsError, match="no settings of ppo; pass PPOSettings"):
        make_plan("ppo", SFTSettings(), Load(HAND))
