"""Every fast path against its plain twin: one-step LoRA layers, merged weights, short attention, a cached critic."""

from __future__ import annotations

import types
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lorarlhf import attention, lora
from lorarlhf.adapters import AdapterBank
from lorarlhf.base import load_base
from lorarlhf.data.cutting import Budget
from lorarlhf.data.tokens import Row, collate
from lorarlhf.errors import TrainingError
from lorarlhf.forward import hidden_states, map_sequences, response_logprobs, response_values, sequence_scores
from lorarlhf.sampling import complete, scored_row
from lorarlhf.settings import LoadSettings, LoraSettings, PPOSettings, SamplingSettings
from lorarlhf.train.common import Studio
from lorarlhf.train.critic import AdapterCritic, HeadCritic
from lorarlhf.train.ppo import PPOStage
from lorarlhf.train.rollout import RewardScorer, Roles
from lorarlhf.train.team import Team
from tests import tiny

ROWS = [Row([256, 10, 20, 30 + i], [40 + i] * (i + 1)) for i in range(4)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(arch):
        if arch not in made:
            made[arch] = tiny.save(tmp_path_factory.mktemp("bases") / arch, arch=arch)
        return str(made[arch])

    return folder


def adapted(folder: str, bits: int = 4, compute: str = "fp32") -> AdapterBank:
    bank = AdapterBank(load_base(LoadSettings(base=folder, bits=bits, compute=compute, device="cpu")))
    bank.create("one", LoraSettings(rank=4, alpha=12), head=True, seed=1)
    noise = torch.Generator().manual_seed(2)
    bank.load_state("one", {k: 0.2 * torch.randn(v.shape, generator=noise) for k, v in bank.state("one").items()})
    return bank


def plain(bank: AdapterBank) -> None:
    """Give PEFT's layers their own forward back."""
    for layer in bank._layers:
        layer.__dict__.pop("forward", None)


def learn(bank: AdapterBank, *, fail: bool = False) -> None:
    response_logprobs(bank.base, collate(ROWS, bank.base.pad_id)).logprobs_T.sum().backward()
    if fail:
        raise ZeroDivisionError


def gradients(bank: AdapterBank) -> list[torch.Tensor]:
    with bank.activate("one"):
        learn(bank)
    found = [p.grad.clone() for p in bank.parameters("one") if p.grad is not None]
    for p in bank.parameters("one"):
        p.grad = None
    return found


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma3", "phi3", "gpt2"])
def test_fused_layers_compute_what_pefts_compute(folders, arch, bits):
    bank = adapted(folders(arch), bits)
    fused = [layer for layer in bank._layers if "forward" in layer.__dict__]
    assert bool(fused) == (bits != 8)
    batch = collate(ROWS, bank.base.pad_id)
    with bank.activate("one"), torch.no_grad():
        ours = hidden_states(bank.base, batch)
    ours_by = gradients(bank)
    plain(bank)
    with bank.activate("one"), torch.no_grad():
        torch.testing.assert_close(ours, hidden_states(bank.base, batch), rtol=1e-4, atol=1e-4)
    pefts_by = gradients(bank)
    assert len(ours_by) == len(pefts_by) > 8
    assert all(by.abs().max() > 0 for by in pefts_by)
    for a, b in zip(ours_by, pefts_by, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-6)


def test_in_bf16_fused_gradients_are_as_near_the_exact_ones_as_pefts(folders):
    exact = gradients(adapted(folders("llama")))
    bank = adapted(folders("llama"), compute="bf16")
    ours = gradients(bank)
    plain(bank)
    pefts = gradients(bank)

    def distance(found):
        return sum(float((a - b).norm()) for a, b in zip(found, exact, strict=True))

    size = sum(float(b.norm()) for b in exact)
    assert distance(pefts) > 0
    assert distance(ours) < max(1.2 * distance(pefts), 0.01 * size)


def test_the_backward_pass_keeps_an_input_once_for_all_layers_that_read_it(folders):
    bank, kept = adapted(folders("llama")), []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    layers = dict.fromkeys(bank._layers[:3])  # q, k and v
    x = torch.randn(2, 5, bank.base.hidden_size, requires_grad=True)
    with bank.activate("one"), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for layer in layers:
            layer(x)
    inputs = [t for t in kept if t.shape[-1] == x.shape[-1] and t.shape[0] == 10]
    assert len(inputs) == 3
    assert len({t.data_ptr() for t in inputs}) == 1


@pytest.mark.parametrize("adapter", ["one", None])
def test_merged_weights_draw_what_separate_ones_draw(folders, monkeypatch, adapter):
    bank = adapted(folders("qwen3"))
    prompts, settings = [[256, 11, 12], [256, 13]], SamplingSettings(max_new_tokens=12, seed=5)
    seen = []
    real = lora._merged
    monkeypatch.setattr(lora, "_merged", lambda layer, name: seen.append(name) or real(layer, name))
    with bank.drawing(adapter):
        merged = complete(bank.base, prompts, settings)
    assert seen == [adapter] * 14
    assert not any(getattr(layer, "merged_OI", None) is not None for layer in bank._layers)
    with bank.activate(adapter):
        assert merged == complete(bank.base, prompts, settings)


def test_merged_weights_are_never_used_where_a_gradient_is_wanted_and_go_when_a_draw_fails(folders):
    bank = adapted(folders("llama"))
    expected = gradients(bank)
    with pytest.raises(ZeroDivisionError), bank.drawing("one"):
        learn(bank, fail=True)
    found = [p.grad for p in bank.parameters("one") if p.grad is not None]
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    assert not any(getattr(layer, "merged_OI", None) is not None for layer in bank._layers)


def test_large_bases_and_cards_keep_their_weights_packed(folders, monkeypatch):
    bank = adapted(folders("llama"))
    monkeypatch.setattr("lorarlhf.adapters.UNPACKED_MOST", 1000)
    with bank.drawing("one"):
        assert not any(getattr(layer, "merged_OI", None) is not None for layer in bank._layers)


# -- attention --------------------------------------------------------------------------------------------------------


def heads(length: int, asking: int, groups: int, dtype: torch.dtype) -> list[torch.Tensor]:
    noise = torch.Generator().manual_seed(3)
    shapes = ((2, asking, 4, 16), (2, length, groups, 16), (2, length, groups, 16))
    return [torch.randn(s, generator=noise).to(dtype).transpose(1, 2).requires_grad_() for s in shapes]


def module(groups: int) -> types.SimpleNamespace:
    return types.SimpleNamespace(is_causal=True, num_key_value_groups=4 // groups)


def window(length: int) -> torch.Tensor:
    """Look at the last four; the second row begins with two of padding."""
    i = torch.arange(length)
    mask = ((i[:, None] - i < 4) & (i[:, None] >= i))[None, None].repeat(2, 1, 1, 1)
    mask[1, :, 2:, :2] = False
    return mask


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_short_attention_is_torchs(groups, masked):
    length, mask = 9, window(9) if masked else None
    ours, exact = heads(length, length, groups, torch.bfloat16), heads(length, length, groups, torch.float32)
    for tensor, rounded in zip(exact, ours, strict=True):
        tensor.data.copy_(rounded.data.float())
    found = attention.attention(module(groups), *ours, mask, scaling=0.3)[0]
    wanted = sdpa_attention_forward(module(groups), *exact, mask, scaling=0.3)[0]
    torch.testing.assert_close(found.float(), wanted, rtol=0.03, atol=0.03)
    by = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(4)).bfloat16()
    for a, b in zip(torch.autograd.grad(found, ours, by), torch.autograd.grad(wanted, exact, by.float()), strict=True):
        torch.testing.assert_close(a.float(), b, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("asking", "groups"), [(7, 1), (7, 2), (1, 2)])
def test_attention_with_a_key_for_every_head_is_that_of_groups(asking, groups):
    """What cards get in fp32."""
    tensors = heads(7, asking, groups, torch.float32)
    found = attention._ungrouped(*tensors, 0.0, 0.3, asking > 1)
    wanted = sdpa_attention_forward(module(groups), *tensors, None, scaling=0.3)[0]
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_single_new_token_attends_as_torchs(groups, dtype):
    tensors = heads(7, 1, groups, dtype)
    mask = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    mask[0, ..., :3] = False
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    with torch.no_grad():
        found = attention.attention(module(groups), *tensors, mask)[0]
        wanted = sdpa_attention_forward(module(groups), *tensors, mask)[0]
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def test_what_short_attention_does_not_know_is_left_to_torch(monkeypatch):
    asked = []

    def torchs(*args, **kwargs):
        asked.append(kwargs)
        return None, None

    monkeypatch.setattr(attention, "sdpa_attention_forward", torchs)
    tensors = heads(9, 9, 4, torch.bfloat16)
    attention.attention(module(4), *tensors, None, dropout=0.1)
    attention.attention(module(4), *tensors, None, softcap=50.0)
    attention.attention(module(4), *tensors, None, is_causal=False)
    attention.attention(module(4), *heads(attention.SHORT + 1, attention.SHORT + 1, 4, torch.bfloat16), None)
    attention.attention(module(4), *heads(9, 9, 4, torch.float32), None)
    attention.attention(module(4), *heads(9, 3, 4, torch.bfloat16), None)  # a prompt goes on after a cache
    assert len(asked) == 6
    attention.attention(module(4), *tensors, None, softcap=None)
    assert len(asked) == 6


# -- the critic -------------------------------------------------------------------------------------------------------


@pytest.fixture
def bank(folders):
    return adapted(folders("qwen3"))


def test_a_head_critic_reads_the_states_that_an_adapter_critic_computes(bank):
    critic = HeadCritic(Studio(bank.base, bank, Team()), "one")
    assert all((values == 0).all() for values in critic.look(ROWS, Budget(20)).values)  # it knows nothing yet
    critic.network["head"].load_state_dict(bank.heads["one"].state_dict())
    seen = critic.look(ROWS, Budget(20))
    with bank.activate("one"), torch.no_grad():
        for row, values, states in zip(ROWS, seen.values, seen.states, strict=True):
            batch = collate([row], bank.base.pad_id)
            torch.testing.assert_close(
                values, response_values(bank.base, bank.heads["one"], batch), rtol=1e-4, atol=1e-4
            )
            assert states.shape == (len(row.response) + 1, bank.base.hidden_size)
    wanted = AdapterCritic(Studio(bank.base, bank, Team()), "one").look(ROWS, Budget(1000))
    assert wanted.states == []
    for a, b in zip(seen.values, wanted.values, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_scores_read_off_the_critics_states_are_those_of_a_pass_of_their_own(bank):
    studio = Studio(bank.base, bank, Team())
    settings = PPOSettings(
        critic="head",
        batch_size=4,
        max_new_tokens=6,
        steps=2,
        value_warmup_steps=0,
        missing_eos_score=-2.0,
        micro_batch_tokens=40,
    )
    bank.create("policy", LoraSettings(rank=4))
    stage = PPOStage(studio, Roles(reference=None, value="one"), settings, RewardScorer(studio, "one"), [[256, 9, 8]])
    rollout = stage.roll_out(0)
    head = bank.heads["one"]
    with bank.activate("one"):
        rows = [scored_row(bank.base, row.prompt, row.response) for row in rollout.rows]
        alone_B = map_sequences(bank.base, rows, Budget(30), lambda b: sequence_scores(bank.base, head, b))
    ended_B = torch.tensor([c.ended for c in rollout.completions])
    wanted_B = torch.where(ended_B, alone_B, alone_B.clamp_max(stage.cap * stage.spread))
    torch.testing.assert_close(rollout.scores_B, wanted_B, rtol=1e-4, atol=1e-4)
    assert [len(states) for states in rollout.states] == [len(row.response) for row in rollout.rows]
    taken = rollout.take([2, 0])
    assert torch.equal(taken.states[0], rollout.states[2])


def test_a_head_critic_learns_what_it_is_shown_and_comes_back_from_a_checkpoint(bank):
    studio = Studio(bank.base, bank, Team())
    critic = HeadCritic(studio, "one")
    states = torch.cat([found[:-1] for found in critic.look(ROWS, Budget(100)).states])
    targets = torch.linspace(-2, 2, len(states))
    optimizer = torch.optim.Adam(critic.parameters(), 0.01)
    batch = collate(ROWS, bank.base.pad_id)
    for _ in range(200):
        optimizer.zero_grad()
        ((critic.values(batch, states) - targets) ** 2).mean().backward()
        optimizer.step()
    assert ((critic.values(batch, states) - targets) ** 2).mean() < 0.05
    again = HeadCritic(studio, "one", seed=9)
    again.load_state({key: tensor.clone() for key, tensor in critic.state().items()})
    assert torch.equal(again.values(batch, states), critic.values(batch, states))


def test_a_checkpoint_of_another_kind_of_critic_is_refused_in_words(bank):
    studio = Studio(bank.base, bank, Team())
    with pytest.raises(TrainingError, match="another kind of critic; start again"):
        HeadCritic(studio, "one").load_state(AdapterCritic(studio, "one").state())


@pytest.mark.parametrize("bits", [4, 16])
def test_an_adapter_that_is_not_plain_lora_is_left_to_peft(folders, bits):
    bank = adapted(folders("llama"), bits)
    batch = collate(ROWS, bank.base.pad_id)
    with bank.activate("one"), torch.no_grad():
        without = hidden_states(bank.base, batch)
    bank.delete("one")
    config = LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        bank._add("one", config)
    with torch.no_grad():
        for p in bank.parameters("one"):
            p.add_(0.2)
    with bank.drawing("one"), torch.no_grad():
        ours = hidden_states(bank.base, batch)
    assert not torch.allclose(ours, without, rtol=1e-3, atol=1e-3)
    plain(bank)
    with bank.activate("one"), torch.no_grad():
        assert torch.equal(ours, hidden_states(bank.base, batch))


# -- rows without padding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 16])
@pytest.mark.parametrize("arch", tiny.ARCHS)
def test_rows_in_one_pack_compute_what_padded_rows_compute(folders, arch, bits):
    bank = adapted(folders(arch), bits)
    assert bank.base.packs
    batch = collate(ROWS, bank.base.pad_id)
    real = batch.attention_mask_BL

    def both(base):
        by = []
        with bank.activate("one"):
            hidden = hidden_states(base, batch)[real]
            (hidden * torch.linspace(-1, 1, hidden.shape[-1])).sum().backward()
        for p in bank.parameters("one"):
            by.append(p.grad)
            p.grad = None
        return hidden.detach(), [g for g in by if g is not None]

    (ours, ours_by), (plain, plain_by) = both(bank.base), both(replace(bank.base, packs=False))
    torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)
    for a, b in zip(ours_by, plain_by, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()) + 1e-6)


def test_a_pack_keeps_to_a_sliding_window(tmp_path):
    config = tiny.config("mistral")
    config.sliding_window = 3
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    base = load_base(LoadSettings(base=str(tmp_path), compute="fp32", device="cpu"))
    assert base.packs
    batch = collate(ROWS, base.pad_id)
    real = batch.attention_mask_BL
    with torch.no_grad():
        ours, plain = hidden_states(base, batch)[real], hidden_states(replace(base, packs=False), batch)[real]
        base.model.config.sliding_window = None
        for layer in base.model.model.layers:
            layer.self_attn.sliding_window = None
        far = hidden_states(base, batch)[real]
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, far, rtol=1e-3, atol=1e-3)


def test_a_model_whose_layers_do_not_tell_their_window_is_padded(tmp_path, monkeypatch):
    config = tiny.config("mistral")
    config.sliding_window = 4096  # wider than any row of a trial: the numbers would show nothing
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    base = load_base(LoadSettings(base=str(tmp_path), compute="fp32", device="cpu"))
    assert base.packs
    told = ALL_ATTENTION_FUNCTIONS[attention.NAME]

    def silent(*args, sliding_window=None, **kwargs):
        return told(*args, **kwargs)

    ALL_ATTENTION_FUNCTIONS.register(attention.NAME, silent)
    try:
        assert not attention.packs(base.model, base.backbone)
    finally:
        ALL_ATTENTION_FUNCTIONS.register(attention.NAME, told)
    base.model.config.layer_types = ["chunked_attention"] * 2
    assert not attention.packs(base.model, base.backbone)


def test_a_model_that_does_not_hand_the_pack_on_is_padded(folders, monkeypatch):
    base = load_base(LoadSettings(base=folders("llama"), compute="fp32", device="cpu"))
    assert attention.packs(base.model, base.backbone)
    hands_on = base.backbone.forward
    monkeypatch.setattr(base.backbone, "forward", lambda packed_rows=None, **kwargs: hands_on(**kwargs))
    assert not attention.packs(base.model, base.backbone)


def test_a_model_that_loses_what_rows_share_is_padded(folders, monkeypatch):
    base = load_base(LoadSettings(base=folders("llama"), compute="fp32", device="cpu"))
    of = attention.PackedRows.of

    def loses(*arguments):
        places = of(*arguments)
        places.alike.token_S[places.alike.again_A] = 0
        return places

    monkeypatch.setattr(attention.PackedRows, "of", loses)
    assert not attention.packs(base.model, base.backbone)


def test_places_in_a_pack_by_hand():
    packed = attention.PackedRows.of([3, 1, 2], torch.device("cpu"))
    assert packed.position_T.tolist() == [0, 1, 2, 0, 0, 1]
    assert (packed.rows.token_S.tolist(), packed.rows.spot_T.tolist()) == (
        [0, 1, 2, 3, 0, 0, 4, 5, 0],
        [0, 1, 2, 3, 6, 7],
    )
    pack = torch.arange(6.0).requires_grad_()
    (apart,) = packed.rows.lay_out(pack)
    assert packed.rows.pick_up([apart]).tolist() == pack.tolist()
    (apart * torch.tensor([[1.0, 2, 3], [4, 100, 100], [5, 6, 100]])).sum().backward()
    assert pack.grad.tolist() == [1, 2, 3, 4, 5, 6]  # what stands behind a row's end gives no gradient
    # For attention rows stand with those of like length, the longest first.
    assert packed.alike.shapes == [(1, 3), (1, 2), (1, 1)]
    groups = packed.alike.lay_out(pack.detach())
    assert [group.tolist() for group in groups] == [[[0, 1, 2]], [[4, 5]], [[3]]]
    assert packed.alike.pick_up(groups).tolist() == pack.tolist()


def test_places_of_a_shared_prompt_by_hand():
    # The third row begins with both tokens of the first one's prompt: 0 1 2 | 3 | (0 1) 4 5 6
    packed = attention.PackedRows.of([3, 1, 5], torch.device("cpu"), [(0, 0), (1, 0), (0, 2)])
    assert packed.position_T.tolist() == [0, 1, 2, 0, 2, 3, 4]
    pack = torch.arange(7.0).requires_grad_()
    groups = packed.alike.lay_out(pack)
    assert [group.tolist() for group in groups] == [[[0, 1, 4, 5, 6]], [[0, 1, 2]], [[3]]]
    assert packed.alike.pick_up(groups).tolist() == pack.tolist()
    sum((group * factor).sum() for group, factor in zip(groups, [1, 10, 100], strict=True)).backward()
    assert pack.grad.tolist() == [11, 11, 10, 100, 1, 1, 1]  # both rows' gradients meet in what they share


PAIRS = [Row([256, 10, 20], [40, 41]), Row([256, 11], [9]), Row([256, 10, 20], [50] * 5), Row([256, 11], [8, 7])]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma3", "phi3", "gpt2"])
def test_rows_with_one_prompt_share_its_tokens_and_compute_what_each_computes_alone(folders, arch, checkpointing):
    bank = adapted(folders(arch))
    studio = Studio(bank.base, bank, Team(torch.device("cpu")))
    seen = []
    bank.base.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )

    def learn(base):
        with studio.training(checkpointing), bank.activate("one"):
            scores_T = response_logprobs(base, collate(PAIRS, base.pad_id)).logprobs_T
            (scores_T * torch.arange(1, len(scores_T) + 1)).sum().backward()
        by = [p.grad.clone() for p in bank.parameters("one") if p.grad is not None]
        for p in bank.parameters("one"):
            p.grad = None
        return scores_T.detach(), by

    together, by_together = learn(bank.base)
    assert seen == [5 + 3 + 5 + 2]
    apart, by_apart = learn(replace(bank.base, packs=False))
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)
    assert len(by_together) > 8
    for a, b in zip(by_together, by_apart, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-6)
