"""What cannot be loaded is refused in one line that says why and what to do, before anything large is read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lorarlhf import base as base_module
from lorarlhf import base_files, hardware
from lorarlhf.base import load_base
from lorarlhf.errors import BaseModelError
from lorarlhf.settings import LoadSettings
from tests import tiny


def refusal(base: str | Path, **settings: Any) -> str:
    """Load what cannot be loaded; return the message after checking its shape."""
    settings = {"bits": 16, "device": "cpu", "compute": "fp32"} | settings
    with pytest.raises(BaseModelError) as caught:
        load_base(LoadSettings(base=str(base), **settings))
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    assert len(message) < 420
    assert caught.value.__cause__ is None
    return message


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.save(tmp_path / "model")


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_missing_folder(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nothing")
    assert "does not exist" in refusal("./nothing")


def test_a_file_instead_of_a_folder(model: Path) -> None:
    assert "is a file" in refusal(model / "config.json")


def test_folder_without_config(tmp_path: Path) -> None:
    assert "no config.json" in refusal(tmp_path)


def test_gguf_folder(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    assert "GGUF" in refusal(tmp_path)


def test_adapter_folder_names_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/parent"}')
    assert "choose its base instead: org/parent" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["{broken", "[1, 2]", ""])
def test_corrupt_config(model: Path, text: str) -> None:
    (model / "config.json").write_text(text)
    assert "config.json" in refusal(model)


def test_config_with_impossible_values(model: Path) -> None:
    edit_config(model, hidden_size="wide")
    assert "can't be loaded" in refusal(model)


def test_unknown_architecture(model: Path) -> None:
    edit_config(model, model_type="nextbigthing")
    assert "pip install -U transformers" in refusal(model)


def test_config_without_a_type(model: Path) -> None:
    edit_config(model, model_type=None)
    assert "model_type" in refusal(model)


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        ("bert", "BertForMaskedLM"),
        ("t5", "T5ForConditionalGeneration"),
        ("vit", "ViTModel"),
        ("llama", "LlamaForSequenceClassification"),
    ],
)
def test_not_a_causal_language_model(model: Path, kind: str, architecture: str) -> None:
    edit_config(model, model_type=kind, architectures=[architecture], is_encoder_decoder=kind == "t5")
    assert "not a causal language model" in refusal(model)


def test_remote_code_is_refused_with_the_setting_that_allows_it(model: Path) -> None:
    (model / "evil.py").write_text("raise SystemExit('remote code ran')")
    auto_map = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    edit_config(model, model_type="homemade", auto_map=auto_map)
    assert "--trust-remote-code" in refusal(model)


def test_remote_code_that_fails_is_one_line(model: Path) -> None:
    (model / "evil.py").write_text("raise ValueError('two\\nlines')")
    edit_config(model, model_type="homemade", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    assert "two lines" in refusal(model, trust_remote_code=True)


@pytest.mark.parametrize("cut", [4, 100, -1000, -1])
def test_truncated_weights(model: Path, cut: int) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:cut])
    message = refusal(model)
    assert "model.safetensors" in message
    assert "damaged or incomplete" in message


def test_weights_that_are_something_else(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n")
    assert "damaged or incomplete" in refusal(model)


def test_missing_shard(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    tiny.model().save_pretrained(folder, max_shard_size="100kB")
    tiny.tokenizer().save_pretrained(folder)
    shards = sorted(folder.glob("*.safetensors"))
    shards[1].unlink()
    assert f"lacks 1 of {len(shards)} weight files ({shards[1].name})" in refusal(folder)


def test_shards_outside_the_folder_are_not_read(model: Path) -> None:
    index = {"weight_map": {"x": "../other.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "outside its folder" in refusal(model)


def test_pickled_weights(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    message = refusal(model)
    assert "pickled" in message
    assert "save_pretrained" in message


def test_no_weights_at_all(model: Path) -> None:
    (model / "model.safetensors").unlink()
    assert "no model.safetensors" in refusal(model)


def test_weights_of_another_shape(model: Path) -> None:
    edit_config(model, intermediate_size=256)
    assert "other shapes than its config.json" in refusal(model)


def test_weights_that_lack_a_layer_are_not_filled_with_random_numbers(model: Path) -> None:
    edit_config(model, num_hidden_layers=3)
    message = refusal(model)
    assert "lack 9 weights" in message
    assert "model.layers.2" in message


@pytest.mark.parametrize("bits", [4, 16])
def test_already_quantised_by_others(model: Path, bits: int) -> None:
    edit_config(model, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "already quantised (gptq)" in refusal(model, bits=bits)


def test_already_quantised_with_other_bits(model: Path) -> None:
    edit_config(model, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert "in 4 bits" in refusal(model, bits=16)


def test_no_tokenizer(model: Path) -> None:
    for file in model.glob("tokenizer*"):
        file.unlink()
    assert "no tokenizer" in refusal(model)


def test_broken_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text("{")
    assert "can't be loaded" in refusal(model)


def test_tokenizer_without_an_end_token(model: Path) -> None:
    path = model / "tokenizer_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in values.items() if k != "eos_token"}))
    (model / "chat_template.jinja").unlink()
    (model / "generation_config.json").unlink()
    edit_config(model, eos_token_id=None)
    assert "end-of-text" in refusal(model)


def test_broken_chat_template(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ nothing.at.all }}")
    assert "chat template" in refusal(model)


def test_too_large_for_the_memory(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_module, "free_bytes", lambda device: 300_000)
    monkeypatch.setattr(base_module.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("read"))
    message = refusal(model, bits=16)
    assert "GiB are free" in message
    assert "in 4 bits" in message
    monkeypatch.setattr(base_module, "free_bytes", lambda device: 100_000)
    assert "smaller base" in refusal(model, bits=4)


def test_memory_running_out_while_loading(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr(base_module.AutoModelForCausalLM, "from_pretrained", explode)
    assert "does not fit into memory" in refusal(model)


def test_missing_device(model: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("has CUDA")
    assert "lorarlhf doctor" in refusal(model, device="cuda")


def test_bitsandbytes_missing_or_broken(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    message = refusal(model, bits=4)
    assert "pip install -U 'bitsandbytes>=0.50'" in message
    assert "in 16 bits" in message
    assert hardware.why_no_quantisation(torch.device("cpu"))


def test_bitsandbytes_that_works_gives_no_reason() -> None:
    assert hardware.why_no_quantisation(torch.device("cpu")) == ""


# -- the Hub, without a network ----------------------------------------------------------------------------------


def hub_error(kind: str) -> Exception:
    import httpx
    from huggingface_hub import errors

    response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co/org/name"))
    made = getattr(errors, kind)
    return made("long\nstory") if kind == "LocalEntryNotFoundError" else made("long\nstory", response=response)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("GatedRepoError", "hf auth login"),
        ("RepositoryNotFoundError", "neither a folder nor a model on the Hub"),
        ("RevisionNotFoundError", "no revision"),
        ("LocalEntryNotFoundError", "out of reach"),
    ],
)
def test_hub_failures(kind: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise hub_error(kind)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    assert words in refusal("org/name", revision="v9")


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "take the starter" in refusal("org/name-that-is-not-cached")


@pytest.mark.parametrize("name", ["a b c", "org/na me", "..", "org/"])
def test_names_that_cannot_be(name: str) -> None:
    refusal(name)


def test_a_hub_base_is_fetched_in_two_steps_and_remembers_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    source, snapshot = tiny.save(tmp_path / "source"), tmp_path / commit
    snapshot.mkdir()
    asked: list[list[str]] = []

    def fetch(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        for file in source.iterdir():
            if any(file.match(pattern) for pattern in allow_patterns):
                (snapshot / file.name).write_bytes(file.read_bytes())
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    found = base_files.find_files(LoadSettings(base="org/name"))
    assert (found.name, found.revision) == ("org/name", commit)
    assert (found.folder / "model.safetensors").is_file()
    assert not any("safetensors" in pattern and "*" in pattern for patterns in asked for pattern in patterns)
    assert not any("py" in pattern for patterns in asked for pattern in patterns)
