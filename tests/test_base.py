"""The base: every architecture loads, computes what its quantised weights say, and stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lorarlhf.base import Base, base_hash, load_base
from lorarlhf.base_weights import bytes_needed, layers_kept_16bit
from lorarlhf.settings import LoadSettings
from tests import tiny


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load(folder: Path, bits: int = 4, compute: str = "fp32", **more: Any) -> Base:
    return load_base(LoadSettings(base=str(folder), bits=bits, compute=compute, device="cpu", **more))


def some_ids(rows: int = 2, length: int = 12) -> torch.Tensor:
    return torch.randint(0, 250, (rows, length), generator=torch.Generator().manual_seed(1))


def dequantised_twin(base: Base, folder: Path) -> PreTrainedModel:
    """Load the same files as a plain model and put the dequantised NF4 weights in place of its own."""
    twin = AutoModelForCausalLM.from_pretrained(folder, dtype=base.compute_dtype).eval()
    for name, layer in base.model.named_modules():
        if isinstance(layer, Linear4bit):
            target = twin.get_submodule(name)
            weight = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            with torch.no_grad():
                target.weight.copy_(weight.T if isinstance(target, Conv1D) else weight)
    return twin


@pytest.mark.parametrize("arch", tiny.ARCHS)
@pytest.mark.parametrize("tied", [False, True])
def test_four_bits_compute_what_the_dequantised_weights_say(arch: str, tied: bool, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / arch, arch, tied=tied)
    base = load(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    twin = dequantised_twin(base, folder)
    ids_BL = some_ids()
    with torch.no_grad():
        ours, oracle, full = base.model(ids_BL).logits, twin(ids_BL).logits, plain(ids_BL).logits
    torch.testing.assert_close(ours, oracle, rtol=1e-5, atol=1e-5)
    # The weights really are coarser: neither the plain model's numbers nor far from them.
    assert 0.01 < float((ours - full).abs().mean() / full.std()) < 0.6
    assert base.report.quantised_layers == (8 if arch in ("gpt2", "phi3") else 14)
    generated = base.model.generate(ids_BL, attention_mask=torch.ones_like(ids_BL), max_new_tokens=3, min_new_tokens=3)
    assert generated.shape == (2, 15)


@pytest.mark.parametrize("arch", tiny.ARCHS)
def test_sixteen_bits_are_the_plain_model(arch: str, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / arch, arch)
    base = load(folder, bits=16)
    with torch.no_grad():
        wanted = AutoModelForCausalLM.from_pretrained(folder).eval()(some_ids()).logits
        torch.testing.assert_close(base.model(some_ids()).logits, wanted, rtol=1e-5, atol=1e-5)
    assert base.report.quantised_layers == 0
    assert base.report.kept_16bit == {}


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_eight_bits_come_close(arch: str, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / arch, arch)
    base = load(folder, bits=8)
    before = base_hash(base.model)
    with torch.no_grad():
        wanted = AutoModelForCausalLM.from_pretrained(folder).eval()(some_ids()).logits
        got = base.model(some_ids()).logits
    assert float((got - wanted).abs().mean() / wanted.std()) < 0.05
    assert base_hash(base.model) == before


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_lora_gradients_on_four_bits_match_a_plain_model(arch: str, tmp_path: Path) -> None:
    """GPT-2 stores its matrices transposed: a wrong orientation anywhere shows in these gradients."""
    folder = tiny.save(tmp_path / arch, arch)
    base = load(folder)
    twin = dequantised_twin(base, folder)
    before = base_hash(base.model)
    with torch.no_grad():
        base.model(some_ids())  # bitsandbytes repacks weights here unless it is kept from it
    gradients = []
    for model in (base.model, twin):
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        generator = torch.Generator().manual_seed(3)
        trainable = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for _, parameter in sorted(trainable.items()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        adapted(some_ids()).logits.log_softmax(-1)[..., 7].sum().backward()
        gradients.append({n: p.grad for n, p in trainable.items()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert float(gradient.norm()) > 0, name
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-5)
    assert base_hash(base.model) == before


def test_backward_after_a_forward_without_gradient(tmp_path: Path) -> None:
    """On processors with AVX512-BF16 a repacked layer passes no gradient on, and nothing says so."""
    folder = tiny.save(tmp_path / "m")
    base, fresh = load(folder), load(folder)
    with torch.no_grad():
        base.model(some_ids())
    found = []
    for model in (base.model, fresh.model):
        embedded = model.get_input_embeddings()(some_ids()).requires_grad_()
        model(inputs_embeds=embedded).logits[..., 5].sum().backward()
        found.append(embedded.grad)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_the_base_is_frozen_and_hides_no_randomness(tmp_path: Path) -> None:
    base = load(tiny.save(tmp_path / "gpt2", "gpt2"), bits=16)  # GPT-2 drops 10 % by default
    assert not any(p.requires_grad for p in base.model.parameters())
    assert not base.model.training
    base.model.train()
    with torch.no_grad():
        assert torch.equal(base.model(some_ids()).logits, base.model(some_ids()).logits)
    assert base.model.generation_config.top_k is None
    assert base.model.generation_config.temperature is None


def test_layers_that_cannot_be_quantised_are_kept_and_named(tmp_path: Path) -> None:
    base = load(tiny.save(tmp_path / "m", inner=100))
    assert sorted(base.report.kept_16bit) == [
        "lm_head",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
    ]
    assert "100" in base.report.kept_16bit["model.layers.0.mlp.down_proj"]
    assert base.report.quantised_layers == 12
    assert type(base.model.get_submodule("model.layers.1.mlp.down_proj")) is nn.Linear
    with torch.no_grad():
        assert base.model(some_ids()).logits.isfinite().all()


@pytest.mark.parametrize("arch", tiny.ARCHS)
@pytest.mark.parametrize("bits", [4, 16])
def test_memory_is_known_before_loading(arch: str, bits: int, tmp_path: Path) -> None:
    base = load(tiny.save(tmp_path / arch, arch, tied=True), bits=bits)
    skeleton = tiny.model(arch, tied=True)
    expected = bytes_needed(skeleton, layers_kept_16bit(skeleton, bits), bits, torch.float32)
    # Miniatures carry the fixed tables of each quantised layer (about 1.3 kB), which vanish in real sizes.
    slack = 1500 * base.report.quantised_layers + 1500
    assert expected <= base.report.bytes_on_device <= expected + slack
    assert base.report.parameters == sum(p.numel() for p in skeleton.parameters())


def test_bf16_is_taken_when_asked_for(tmp_path: Path) -> None:
    base = load(tiny.save(tmp_path / "m"), compute="bf16")
    assert base.compute_dtype is torch.bfloat16
    assert base.model.lm_head.weight.dtype is torch.bfloat16
    assert "--compute bf16" in base.report.compute_why
    twin = dequantised_twin(base, tmp_path / "m")
    with torch.no_grad():
        torch.testing.assert_close(base.model(some_ids()).logits, twin(some_ids()).logits, rtol=4e-2, atol=4e-2)


def test_end_tokens_are_collected_from_everywhere(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "m")
    (folder / "generation_config.json").write_text('{"eos_token_id": [257, 262], "top_k": 3, "temperature": 0.1}')
    base = load(folder)
    im_end = base.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert base.eos_id == im_end
    assert base.eos_ids == {257, 262, im_end}
    assert base.model.generation_config.top_k is None


@pytest.mark.parametrize(("pad", "expected"), [(True, "<pad>"), (False, "<s>")])
def test_padding_is_never_the_end_token_if_that_can_be_helped(pad: bool, expected: str, tmp_path: Path) -> None:
    base = load(tiny.save(tmp_path / "m", pad=pad))
    assert base.tokenizer.pad_token == expected
    assert base.pad_id != base.tokenizer.eos_token_id
    assert base.tokenizer.padding_side == "left"
    assert base.model.get_input_embeddings().num_embeddings == tiny.VOCAB


def test_padding_falls_back_to_the_end_token(tmp_path: Path) -> None:
    base = load(tiny.save(tmp_path / "m", pad=False, bos=False))
    assert base.pad_id == base.tokenizer.eos_token_id
    assert "masks" in base.report.pad_why


def test_identity_tells_bases_apart_however_they_are_sharded(tmp_path: Path) -> None:
    one = load(tiny.save(tmp_path / "one"), bits=16)
    other = load(tiny.save(tmp_path / "other", seed=1), bits=16)
    model, tokenizer = tiny.model(), tiny.tokenizer()
    model.save_pretrained(tmp_path / "shards", max_shard_size="100kB")
    tokenizer.save_pretrained(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    shards = load(tmp_path / "shards", bits=16)
    assert one.identity["fingerprint"] == shards.identity["fingerprint"] != other.identity["fingerprint"]
    assert base_hash(one.model) == base_hash(shards.model) != base_hash(other.model)
    assert one.identity["architecture"] == "LlamaForCausalLM"
    assert one.identity["bits"] == 16


def test_base_hash_sees_a_single_bit(tmp_path: Path) -> None:
    base = load(tiny.save(tmp_path / "m"))
    before = base_hash(base.model)
    weight = base.model.model.layers[0].mlp.up_proj.weight
    weight.quant_state.state2.absmax[0] += 1e-6
    assert base_hash(base.model) != before
    weight.quant_state.state2.absmax[0] -= 1e-6
    weight.data.view(-1)[3] ^= 1
    assert base_hash(base.model) != before


def test_a_base_quantised_earlier_loads_as_it_is(tmp_path: Path) -> None:
    first = load(tiny.save(tmp_path / "m"))
    first.model.save_pretrained(tmp_path / "q")
    first.tokenizer.save_pretrained(tmp_path / "q")
    again = load(tmp_path / "q")
    assert base_hash(first.model) == base_hash(again.model)
    assert again.report.quantised_layers == 14
    assert list(again.report.kept_16bit) == ["lm_head"]
    with torch.no_grad():
        torch.testing.assert_close(again.model(some_ids()).logits, first.model(some_ids()).logits)


def test_progress_runs_from_start_to_end(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    load_base(LoadSettings(base=str(tiny.save(tmp_path / "m"))), lambda text, share: seen.append((text, share)))
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)


def test_loading_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tiny.save(tmp_path / "m")
    capfd.readouterr()
    load(folder)
    assert capfd.readouterr() == ("", "")


def test_logits_of_the_backbone_are_the_models(tmp_path: Path) -> None:
    base = load(tiny.save(tmp_path / "m", "gemma3"))
    with torch.no_grad():
        hidden_BLH = base.backbone(input_ids=some_ids(), use_cache=False).last_hidden_state
        torch.testing.assert_close(base.logits_of(hidden_BLH), base.model(some_ids()).logits)
    assert base.vocabulary == tiny.VOCAB
    assert base.hidden_size == 64
    assert "q_proj" in base.linear_names()
    assert "lm_head" not in base.linear_names()
