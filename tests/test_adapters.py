"""Every trap of several adapters on one quantised base, against separate plain models as the oracle."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft import set_peft_model_state_dict as set_state
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from lorarlhf.adapters import AdapterBank
from lorarlhf.base import base_hash, load_base
from lorarlhf.errors import AdapterError
from lorarlhf.library import check_new_name, read_saved
from lorarlhf.settings import LoadSettings, LoraSettings
from lorarlhf.train.common import Studio
from lorarlhf.train.team import Team
from tests import tiny

IDS = torch.tensor([[3, 8, 20, 90, 41, 7], [5, 5, 60, 2, 11, 9]])
LORA = LoraSettings(rank=4, alpha=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("bases") / "llama", arch="llama")


@pytest.fixture(params=[4, 16], ids=["4bit", "16bit"])
def bank(request, folder):
    return AdapterBank(load_base(LoadSettings(base=str(folder), bits=request.param, compute="fp32", device="cpu")))


def noisy(bank: AdapterBank, name: str, seed: int, **extra) -> None:
    """Create an adapter whose B is not zero, so that it changes something."""
    bank.create(name, LORA, seed=seed, **extra)
    generator = torch.Generator().manual_seed(seed)
    bank.load_state(name, {k: 0.3 * torch.randn(v.shape, generator=generator) for k, v in bank.state(name).items()})


def loss_of(model: nn.Module) -> torch.Tensor:
    return model(input_ids=IDS, labels=IDS, use_cache=False).loss


def plain_gradients(
    folder, bits: int, state: dict[str, torch.Tensor], *, checkpointing: bool
) -> dict[str, torch.Tensor]:
    """Train the same adapter alone on its own freshly loaded base, with PEFT's usual ways."""
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["lm_head"],
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=quantisation if bits == 4 else None
    )
    for module in model.modules():
        # Left on, bitsandbytes repacks the first layer, with rounded scales, on processors with AVX512-BF16.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    model.requires_grad_(False)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    set_state(model, state)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    loss_of(model).backward()
    grads = {id(p): p.grad for p in model.parameters() if p.requires_grad}
    named = get_peft_model_state_dict(model)
    live = {k.replace(".default", ""): p for k, p in model.named_parameters() if p.requires_grad}
    return {key: grads[id(live[key])] for key in named}


def gradients(bank: AdapterBank, name: str) -> dict[str, torch.Tensor]:
    live = {k.replace(f".{name}.", "."): p for k, p in bank._peft.named_parameters() if f".{name}." in k}
    return {key: live[key].grad.clone() for key in bank.state(name) if not key.startswith("head.")}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
def test_each_role_gets_the_gradients_a_separate_model_would_get(bank, folder, checkpointing):
    roles = {"policy": 1, "value": 2, "reward": 3}
    for name, seed in roles.items():
        noisy(bank, name, seed)
    bank.freeze("reward")
    studio = Studio(bank.base, bank, Team())
    for name in ("policy", "value"):
        with studio.training(checkpointing), bank.activate(name):
            loss_of(bank.base.model).backward()
    with bank.activate("reward"), torch.no_grad():
        loss_of(bank.base.model)
    assert all(p.grad is None and not p.requires_grad for p in bank.parameters("reward"))
    for name in ("policy", "value"):
        expected = plain_gradients(folder, bank.base.settings.bits, bank.state(name), checkpointing=checkpointing)
        found = gradients(bank, name)
        assert found.keys() == expected.keys()
        assert len(found) == 2 * 7 * 2  # A and B of seven matrices in two layers
        for key, gradient in expected.items():
            assert gradient.abs().max() > 0, key
            # Of the whole gradient: processors round its smallest numbers differently.
            assert (found[key] - gradient).norm() <= 1e-4 * gradient.norm(), key


def test_a_switch_never_changes_what_is_trainable(bank):
    noisy(bank, "policy", 1)
    noisy(bank, "reference", 2)
    bank.freeze("reference")
    for name in ("reference", None, "policy", "reference"):
        with bank.activate(name):
            assert all(p.requires_grad for p in bank.parameters("policy"))
            assert not any(p.requires_grad for p in bank.parameters("reference"))
    noisy(bank, "late", 3)  # PEFT's add_adapter makes others trainable or not; ours must not
    assert not any(p.requires_grad for p in bank.parameters("reference"))
    assert all(p.requires_grad for p in bank.parameters("policy"))


def test_backward_after_the_block_under_checkpointing_raises_instead_of_being_wrong(bank):
    noisy(bank, "policy", 1)
    studio = Studio(bank.base, bank, Team())
    with studio.training(True):
        with bank.activate("policy"):
            loss = loss_of(bank.base.model)
        with pytest.raises(torch.utils.checkpoint.CheckpointError):
            loss.backward()


def test_blocks_do_not_nest_and_exceptions_leave_the_bare_base(bank):
    noisy(bank, "policy", 1)
    with torch.no_grad():
        bare = loss_of(bank.base.model)
    with pytest.raises(AdapterError, match="policy is active"), bank.activate("policy"), bank.activate(None):
        pass
    with pytest.raises(ZeroDivisionError), bank.activate("policy"):
        raise ZeroDivisionError
    with torch.no_grad():
        assert loss_of(bank.base.model) == bare
        with bank.activate("policy"):
            assert loss_of(bank.base.model) != bare


def test_the_base_is_bit_identical_and_exists_once_with_five_adapters(bank):
    before = base_hash(bank.base.model)
    pointers = {p.data_ptr() for p in bank.base.model.parameters()}
    size = sum(p.nbytes for p in bank.base.model.parameters())
    for i in range(5):
        noisy(bank, f"a{i}", i)
        with bank.activate(f"a{i}"):
            loss_of(bank.base.model).backward()
        torch.optim.AdamW(bank.parameters(f"a{i}"), lr=0.1).step()
    assert base_hash(bank.base.model) == before
    frozen = [p for n, p in bank.base.model.named_parameters() if "lora_" not in n]
    assert {p.data_ptr() for p in frozen} == pointers
    assert sum(p.nbytes for p in frozen) == size


def test_a_copy_is_exact_and_independent(bank):
    noisy(bank, "reward", 1, head=True)
    bank.freeze("reward")
    bank.copy("reward", "value")
    first, second = bank.state("reward"), bank.state("value")
    assert first.keys() == second.keys()
    assert {"head.weight", "head.bias"} <= first.keys()
    for key in first:
        assert torch.equal(first[key], second[key])
        assert first[key].data_ptr() != second[key].data_ptr()
    assert all(p.requires_grad for p in bank.parameters("value"))


def test_save_and_load_give_the_same_numbers_and_plain_peft_agrees(bank, folder, tmp_path):
    noisy(bank, "reward", 1, head=True)
    with bank.activate("reward"), torch.no_grad():
        expected = loss_of(bank.base.model)
    bank.save("reward", tmp_path / "reward-1", {"stage": "reward"})
    saved = bank.load("again", tmp_path / "reward-1", frozen=True)
    assert saved.has_head
    assert saved.card["stage"] == "reward"
    assert torch.equal(bank.heads["again"].weight, bank.heads["reward"].weight)
    with bank.activate("again"), torch.no_grad():
        assert loss_of(bank.base.model) == expected
    if bank.base.settings.bits == 16:
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "reward-1")
        with torch.no_grad():
            torch.testing.assert_close(loss_of(plain), expected)


def test_tensors_have_the_names_and_values_that_peft_gives_them(bank):
    noisy(bank, "other", 1, head=True)
    noisy(bank, "one", 2)
    theirs = get_peft_model_state_dict(bank._peft, adapter_name="one", save_embedding_layers=False)
    mine = bank.state("one")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_deleting_adapters_down_to_none_leaves_the_base_as_it_was(bank):
    with torch.no_grad():
        bare = loss_of(bank.base.model)
    noisy(bank, "one", 1)
    noisy(bank, "two", 2, head=True)
    bank.delete("one")
    bank.delete("two")
    assert bank.names == []
    assert bank.heads == {}
    with torch.no_grad():
        assert loss_of(bank.base.model) == bare
    noisy(bank, "three", 3)
    with bank.activate("three"), torch.no_grad():
        assert loss_of(bank.base.model) != bare


def spoil_head(path):
    (path / "head.safetensors").unlink()


def spoil_hash(path):
    content = bytearray((path / "adapter_model.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "adapter_model.safetensors").write_bytes(content)


def spoil_card(path):
    (path / "card.json").write_text("{")


def spoil_base(path):
    card = json.loads((path / "card.json").read_text())
    card["base"] |= {"fingerprint": "other", "name": "other/base"}
    (path / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_head, "head.safetensors is missing"),
        (spoil_hash, "not the file its card describes"),
        (spoil_card, "missing or damaged"),
        (spoil_base, "was made on base other/base"),
    ],
)
def test_a_torn_or_foreign_adapter_is_refused_and_nothing_stays_behind(bank, tmp_path, spoil, said):
    noisy(bank, "reward", 1, head=True)
    bank.save("reward", tmp_path / "r", {})
    spoil(tmp_path / "r")
    with pytest.raises(AdapterError, match=said):
        bank.load("again", tmp_path / "r")
    assert bank.names == ["reward"]


def test_missing_adapters_are_named_with_what_there_is(bank, tmp_path):
    noisy(bank, "reward", 1)
    bank.save("reward", tmp_path / "mine", {})
    with pytest.raises(AdapterError, match="no adapter yours; there are: mine"):
        read_saved(tmp_path / "yours")
    with pytest.raises(AdapterError, match="no adapter ghost in memory; there are: reward"), bank.activate("ghost"):
        pass
    with pytest.raises(AdapterError, match=r"no such layers.*q_proj"):
        bank.create("bad", LoraSettings(targets="nonsense"))
    assert bank.names == ["reward"]


# -- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("my.adapter", "my-adapter"),
        ("v1.2", "v1-2"),
        (".hidden", "hidden"),
        ("taken.", "taken-3"),  # taken and taken-2 are there
        ("base", "base-1"),
        ("ppo-1@40", "ppo-1-40"),
        ("très poli", "tres-poli"),
        ("../up", "up"),
        ("…", "adapter"),
        ("x" * 70, "x" * 60),
        ("", "adapter"),
    ],
)
def test_a_name_that_cannot_be_is_refused_in_one_line_with_the_nearest_that_can(tmp_path, name, near):
    for there in ("taken", "taken-2"):
        (tmp_path / there).mkdir()
    with pytest.raises(AdapterError) as error:
        check_new_name(tmp_path, name, {})
    assert str(error.value).startswith(f"adapter name {name!r}: use letters, digits, '_' and '-' (")
    assert str(error.value).endswith(f"; {near} is free")
    check_new_name(tmp_path, near, {})


def test_a_name_that_a_run_is_yet_to_make_is_refused_and_not_proposed(tmp_path):
    promised = {"my-best": "run sft-4, which was stopped after step 7"}
    with pytest.raises(AdapterError) as error:
        check_new_name(tmp_path, "my-best", promised)
    assert str(error.value) == (
        "adapter my-best is what run sft-4, which was stopped after step 7, will make; choose another name, or let "
        "that run finish first"
    )
    with pytest.raises(AdapterError, match=r"; my-best-1 is free$"):
        check_new_name(tmp_path, "my best", promised)


def test_peft_holds_whatever_name_is_allowed_and_a_dot_is_told_in_words(bank, tmp_path):
    allowed = "Az09_-" + "x" * 58
    check_new_name(tmp_path, allowed, {})
    bank.create(allowed, LORA)
    with pytest.raises(AdapterError, match=r"adapter old\.name: PEFT can hold no name with a dot; rename the adapter"):
        bank.create("old.name", LORA)
    assert bank.names == [allowed]
