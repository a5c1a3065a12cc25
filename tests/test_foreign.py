"""Adapters that plain peft made are taken in exactly, and what cannot be held is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from lorarlhf.adapters import AdapterBank
from lorarlhf.base import load_base
from lorarlhf.data.tokens import Row, collate
from lorarlhf.errors import AdapterError
from lorarlhf.export.origin import origin_of
from lorarlhf.export.peft_format import write_peft
from lorarlhf.foreign import take_in
from lorarlhf.forward import response_logprobs, sequence_scores
from lorarlhf.library import read_saved
from lorarlhf.settings import LoadSettings
from tests import tiny

ROW = Row([256, 70, 71, 72], [80, 81, 82, 257])
IDS = torch.tensor([ROW.prompt + ROW.response])


def load_settings(base: Path) -> LoadSettings:
    return LoadSettings(base=str(base), bits=16, compute="fp32", device="cpu")


def stranger(base: Path, folder: Path, *, reward: bool = False, **options):
    """Make an adapter as anybody would with peft, and save it → the model that carries it."""
    kind = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    model = kind.from_pretrained(base, dtype=torch.float32, **({"num_labels": 1} if reward else {}))
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **options}
    if reward:
        options = {"task_type": TaskType.SEQ_CLS, **options}
    model = get_peft_model(model, LoraConfig(**options))
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=noise))
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    place = tmp_path_factory.mktemp("bases")
    return {arch: tiny.save(place / arch, arch) for arch in ("llama", "qwen3", "gpt2")}


@pytest.fixture
def adapters(tmp_path):
    (tmp_path / "adapters").mkdir()
    return tmp_path / "adapters"


@torch.no_grad()
def ours(base: Path, saved: Path) -> torch.Tensor:
    """Compute what the adapter says once it is here."""
    bank = AdapterBank(load_base(load_settings(base)))
    bank.load("it", saved, frozen=True)
    batch = collate([ROW], bank.base.pad_id)
    with bank.activate("it"):
        if "it" in bank.heads:
            return sequence_scores(bank.base, bank.heads["it"], batch)
        return response_logprobs(bank.base, batch).logprobs_T


@torch.no_grad()
def theirs(model) -> torch.Tensor:
    """Compute what plain transformers and peft say."""
    logits = model(input_ids=IDS).logits[0]
    if logits.ndim == 1:
        return logits
    logits = logits[len(ROW.prompt) - 1 : -1].log_softmax(-1)
    return logits.gather(-1, torch.tensor(ROW.response)[:, None])[:, 0]


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"target_modules": ["q_proj", "v_proj"], "r": 8}])
@pytest.mark.parametrize("role", ["sft", "policy"])
def test_a_policy_says_here_what_it_said_there(bases, adapters, tmp_path, role, options):
    model = stranger(bases["qwen3"], tmp_path / "made", **options)
    result = take_in(adapters, str(tmp_path / "made"), role, load_settings(bases["qwen3"]), "mine")
    assert result["remarks"] == []
    torch.testing.assert_close(ours(bases["qwen3"], adapters / "mine"), theirs(model), rtol=0, atol=1e-4)
    saved = read_saved(adapters / "mine")
    assert saved.stage == {"sft": "sft", "policy": "ppo"}[role]
    assert saved.card["imported"] == {"from": "made", "base": "qwen3"}
    assert str(tmp_path) not in (adapters / "mine" / "card.json").read_text()
    assert str(tmp_path) not in (adapters / "mine" / "adapter_config.json").read_text()


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_a_reward_model_comes_with_its_head(bases, adapters, tmp_path, arch):
    model = stranger(bases[arch], tmp_path / "made", reward=True)
    model.config.pad_token_id = None
    result = take_in(adapters, str(tmp_path / "made"), "reward", load_settings(bases[arch]))
    assert (result["name"], result["stage"]) == ("reward-1", "reward")
    assert result["remarks"] == ["its head has no bias, so scores are not centred at 0"]
    torch.testing.assert_close(
        ours(bases[arch], adapters / "reward-1"), theirs(model)[:1].reshape(1), rtol=0, atol=1e-4
    )


def test_layers_of_some_depths_only_stay_there(bases, adapters, tmp_path):
    model = stranger(bases["llama"], tmp_path / "made", target_modules=["q_proj"], layers_to_transform=[1])
    take_in(adapters, str(tmp_path / "made"), "policy", load_settings(bases["llama"]), "deep")
    config = json.loads((adapters / "deep" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.1.self_attn.q_proj"]
    torch.testing.assert_close(ours(bases["llama"], adapters / "deep"), theirs(model), rtol=0, atol=1e-4)


def test_an_export_of_ours_comes_back_whole_bias_included(bases, adapters, tmp_path):
    stranger(bases["llama"], tmp_path / "made", reward=True)
    take_in(adapters, str(tmp_path / "made"), "reward", load_settings(bases["llama"]), "first")
    bank = AdapterBank(load_base(load_settings(bases["llama"])))
    bank.load("first", adapters / "first")
    with torch.no_grad():
        bank.heads["first"].bias.fill_(0.75)
    bank.save("first", adapters / "second", {"stage": "reward"})
    saved = read_saved(adapters / "second")
    (tmp_path / "out").mkdir()
    offset = write_peft(saved, origin_of(saved, bases["llama"]), tmp_path / "out")
    (tmp_path / "out" / "card.json").write_text(json.dumps({"export": {"score_offset": offset}}))
    result = take_in(adapters, str(tmp_path / "out"), "reward", load_settings(bases["llama"]), "third")
    assert result["remarks"] == []
    assert torch.equal(ours(bases["llama"], adapters / "second"), ours(bases["llama"], adapters / "third"))


# -- refusals -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(bases, tmp_path_factory):
    """Make a policy and a reward model to spoil copies of."""
    place = tmp_path_factory.mktemp("plain")
    stranger(bases["llama"], place / "policy")
    stranger(bases["llama"], place / "reward", reward=True)
    return place


def copy(source: Path, target: Path, **config) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    file = target / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return target


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "IA3"}, "is a IA3 adapter; only LoRA"),
        ({"use_dora": True}, "uses DoRA"),
        ({"bias": "all"}, "trains biases"),
        ({"lora_bias": True}, "trains biases"),
        ({"modules_to_save": ["lm_head"]}, "brings whole layers"),
        ({"modules_to_save": ["score"]}, "import it --as reward"),
        ({"init_lora_weights": "pissa"}, "began as pissa, which alters its base"),
        ({"rank_pattern": {"q_proj": 2}}, "uses rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "uses alpha_pattern"),
        ({"trainable_token_indices": [1]}, "uses trainable_token_indices"),
        ({"alora_invocation_tokens": [1]}, "uses alora_invocation_tokens"),
        ({"an_option_of_tomorrow": True}, "uses an_option_of_tomorrow"),
        ({"r": 8}, "has rank 4, not 8"),
        ({"r": None}, "gives no r"),
    ],
)
def test_what_cannot_be_held_exactly_is_refused(bases, plain, adapters, tmp_path, config, said):
    spoilt = copy(plain / "policy", tmp_path / "it", **config)
    with pytest.raises(AdapterError, match=said) as raised:
        take_in(adapters, str(spoilt), "policy", load_settings(bases["llama"]))
    assert "\n" not in str(raised.value)
    assert not list(adapters.iterdir())


@pytest.mark.parametrize(
    ("which", "role", "said"),
    [
        ("policy", "reward", "has no score head, so it is no reward model"),
        ("reward", "policy", "import it --as reward"),
        ("policy", "judge", "taken in as sft, policy, reward, not as 'judge'"),
    ],
)
def test_a_role_it_cannot_play_is_refused(bases, plain, adapters, which, role, said):
    with pytest.raises(AdapterError, match=said):
        take_in(adapters, str(plain / which), role, load_settings(bases["llama"]))


def test_another_base_is_told_by_its_shapes_and_by_its_name(bases, plain, adapters, tmp_path):
    wide = tiny.save(tmp_path / "wide", hidden=128)
    wider = "was made for llama: its .*64×128, that of wide 128×128"
    for base, said in [(wide, wider), (bases["gpt2"], "gpt2 has no layer")]:
        with pytest.raises(AdapterError, match=said):
            take_in(adapters, str(plain / "policy"), "policy", load_settings(base))
    tuned = tiny.save(tmp_path / "llama-tuned", seed=5)
    (remark,) = take_in(adapters, str(plain / "policy"), "policy", load_settings(tuned))["remarks"]
    assert remark.startswith("it was made on llama, and here is llama-tuned")
    nameless = copy(plain / "policy", tmp_path / "nameless", base_model_name_or_path=None)
    (remark,) = take_in(adapters, str(nameless), "policy", load_settings(bases["llama"]))["remarks"]
    assert "does not say which base" in remark


def test_heads_and_tensors_that_do_not_fit_are_refused(bases, plain, adapters, tmp_path):
    two = copy(plain / "reward", tmp_path / "two")
    tensors = load_file(two / "adapter_model.safetensors")
    save_file({**tensors, "base_model.model.score.weight": torch.zeros(2, 64)}, two / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="head is 2×64; a reward model of llama has one of 1×64"):
        take_in(adapters, str(two), "reward", load_settings(bases["llama"]))
    half = copy(plain / "policy", tmp_path / "half")
    tensors = load_file(half / "adapter_model.safetensors")
    del tensors[min(tensors)]
    save_file(tensors, half / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="half an adapter"):
        take_in(adapters, str(half), "policy", load_settings(bases["llama"]))
    more = copy(plain / "policy", tmp_path / "more")
    tensors = load_file(more / "adapter_model.safetensors")
    save_file({**tensors, "base_model.model.lm_head.weight": torch.zeros(1)}, more / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"holds base_model.model.lm_head.weight, which is no LoRA matrix"):
        take_in(adapters, str(more), "policy", load_settings(bases["llama"]))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(bases, plain, adapters, tmp_path, number):
    folder = copy(plain / "policy", tmp_path / "broken")
    weights = load_file(folder / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = number
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="holds NaN or infinite numbers; its training broke"):
        take_in(adapters, str(folder), "policy", load_settings(bases["llama"]))
    assert not list(adapters.iterdir())


def test_places_that_hold_no_adapter_are_told(bases, plain, adapters, tmp_path):
    load = load_settings(bases["llama"])
    (tmp_path / "empty").mkdir()
    pickled = copy(plain / "policy", tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    torn = copy(plain / "policy", tmp_path / "torn")
    (torn / "adapter_model.safetensors").write_bytes(b"torn")
    for source, said in [
        (tmp_path / "empty", "no readable adapter_config.json"),
        (tmp_path / "gone", "does not exist"),
        (pickled, "only pickled weights"),
        (torn, "is damaged"),
        (pickled / "adapter_config.json", "is a file"),
        ("some/body", "cannot be fetched from the Hub"),
    ]:
        with pytest.raises(AdapterError, match=said):
            take_in(adapters, str(source), "policy", load)
    for name in ("../out", "out.2"):
        with pytest.raises(AdapterError, match="use letters"):
            take_in(adapters, str(plain / "policy"), "policy", load, name)
    assert not list(adapters.iterdir())
