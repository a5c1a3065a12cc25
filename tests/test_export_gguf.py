"""GGUF adapters hold the adapter tensor by tensor, where llama.cpp looks for it; what they cannot hold is refused."""

from __future__ import annotations

import json
import re

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from lorarlhf.adapters import AdapterBank
from lorarlhf.base import load_base
from lorarlhf.data.chat import rendered
from lorarlhf.errors import ExportError
from lorarlhf.export import gguf_format
from lorarlhf.export.gguf_format import check_file, write_gguf
from lorarlhf.export.origin import origin_of
from lorarlhf.export.readme_gguf import go_template, pieces_of, write_modelfile
from lorarlhf.settings import LoadSettings
from tests import tiny
from tests.test_chat import TEMPLATES
from tests.test_export import make

NAMES = {
    "llama": {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"},
    "phi3": {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down"},
    "gpt2": {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"},
}
NAMES["llama"] |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
NAMES["llama"] |= {"mlp.down_proj": "ffn_down"}
NAMES["phi3"] |= {"self_attn.o_proj": "attn_output"}
"""A layer in the model → what llama.cpp calls it; the others are named as Llama's."""
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen3": "qwen3", "gemma3": "gemma3"}
ARCHITECTURES |= {"phi3": "phi3", "gpt2": "gpt2"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Write a GGUF adapter for each architecture → name → (file, adapter, origin)."""
    place, found = tmp_path_factory.mktemp("gguf"), {}
    for arch in ARCHITECTURES:
        folder = tiny.save(place / arch, arch)
        bank = AdapterBank(load_base(LoadSettings(base=str(folder), bits=16, compute="fp32", device="cpu")))
        saved = make(bank, place / "mine" / f"{arch}-ppo", "ppo")
        (place / f"{arch}-out").mkdir()
        origin = origin_of(saved, folder)
        write_gguf(saved, origin, place / f"{arch}-out")
        found[arch] = (place / f"{arch}-out" / "adapter.gguf", saved, origin)
    return found


def rows_undone(b: np.ndarray, heads: int) -> np.ndarray:
    """Put the rows of a rotary projection back, one at a time: llama.cpp has x0 y0 x1 y1 … where the model has x… y…"""
    undone, width = np.empty_like(b), b.shape[0] // heads
    for head in range(heads):
        for row in range(width // 2):
            undone[head * width + row] = b[head * width + 2 * row]
            undone[head * width + width // 2 + row] = b[head * width + 2 * row + 1]
    return undone


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_file_is_the_adapter_tensor_by_tensor(written, arch):
    file, saved, _ = written[arch]
    reader = gguf.GGUFReader(file)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    mine = load_file(saved.path / "adapter_model.safetensors")
    assert len(tensors) == len(mine)
    names = NAMES.get(arch, NAMES["llama"])
    for key, value in mine.items():
        layer, part = key.removesuffix(".weight").rsplit(".", 1)
        number, short = layer.split(".h." if arch == "gpt2" else ".layers.")[1].split(".", 1)
        found = tensors[f"blk.{number}.{names[short]}.weight.{part.lower()}"]
        assert found.tensor_type == gguf.GGMLQuantizationType.F32
        data = np.asarray(found.data)
        if part == "lora_B" and arch in ("llama", "mistral") and short.endswith(("q_proj", "k_proj")):
            assert not np.array_equal(data, value)
            data = rows_undone(data, 4 if short.endswith("q_proj") else 2)
        np.testing.assert_array_equal(data, value)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_shapes_are_those_llama_cpp_asks_for(written, arch):
    """It compares with its own weight, of `ne` (in, out): lora_a has (in, rank), lora_b (rank, out)."""
    file, _, origin = written[arch]
    weights = load_file(origin.folder / "model.safetensors")
    shapes = {tensor.name: tuple(int(n) for n in tensor.shape) for tensor in gguf.GGUFReader(file).tensors}
    key = {"gpt2": "transformer.h.0.mlp.c_fc.weight", "phi3": "model.layers.0.mlp.gate_up_proj.weight"}
    out, wide = weights[key.get(arch, "model.layers.0.mlp.up_proj.weight")].shape[:: -1 if arch == "gpt2" else 1]
    assert shapes["blk.0.ffn_up.weight.lora_a"] == (wide, 4)
    assert shapes["blk.0.ffn_up.weight.lora_b"] == (4, out)


@pytest.mark.parametrize(("arch", "named"), ARCHITECTURES.items())
def test_the_header_says_what_llama_cpp_checks(written, arch, named):
    fields = {name: field.contents() for name, field in gguf.GGUFReader(written[arch][0]).fields.items()}
    assert fields["general.architecture"] == named
    assert fields["general.type"] == "adapter"
    assert fields["adapter.type"] == "lora"
    assert fields["adapter.lora.alpha"] == 8.0


def test_a_changed_file_is_refused(written, tmp_path, monkeypatch):
    file, saved, origin = written["llama"]
    content = bytearray(file.read_bytes())
    check_file(file, saved, origin)
    content[-100] ^= 1
    (tmp_path / "adapter.gguf").write_bytes(content)
    with pytest.raises(ExportError, match=r"not the adapter it was made from: blk\.\d\..* differs"):
        check_file(tmp_path / "adapter.gguf", saved, origin)
    (tmp_path / "adapter.gguf").write_bytes(content[:50])
    with pytest.raises(ExportError, match="cannot be read back"):
        check_file(tmp_path / "adapter.gguf", saved, origin)
    with monkeypatch.context() as patch:  # rows in the model's order, as they must not be
        patch.setattr(gguf_format, "interleaved", lambda rows, heads: rows)
        with pytest.raises(ExportError, match=r"attn_k\.weight\.lora_b differs"):
            check_file(file, saved, origin)


def test_the_modelfile_names_base_adapter_and_end(written):
    file, saved, origin = written["qwen3"]
    write_modelfile(saved, origin, file.parent)
    lines = (file.parent / "Modelfile").read_text().splitlines()
    assert lines[0].startswith("# The base, qwen3,")
    assert lines[1:3] == ["FROM ./qwen3.gguf", "ADAPTER ./adapter.gguf"]
    assert 'PARAMETER stop "<|im_end|>"' in lines
    assert "<|im_start|>assistant" in (file.parent / "Modelfile").read_text().split('TEMPLATE """')[1]


def spoken(template: str, turns: list[dict[str, str]]) -> str:
    """Run the little of Go's template language that a Modelfile of ours uses."""
    inside, last = template.removeprefix("{{ range .Messages }}").rsplit("{{ end }}", 1)
    parts = dict(re.findall(r'\{\{ if eq \.Role "(\w+)" \}\}(.*?)(?=\{\{ else \}\}|(?:\{\{ end \}\})+$)', inside, re.S))
    return "".join(parts[turn["role"]].replace("{{ .Content }}", turn["content"]) for turn in turns) + last


@pytest.mark.parametrize("chat", [True, False, *TEMPLATES.values()], ids=["chatml", "plain", *TEMPLATES])
def test_the_modelfile_writes_what_the_adapter_was_trained_on(chat):
    tokenizer = tiny.tokenizer(chat=chat)
    found = pieces_of(tokenizer)
    talks = [
        [{"role": "user", "content": "Hi"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        [{"role": r, "content": f"{r} {i}"} for i, r in enumerate(("user", "assistant", "user", "assistant", "user"))],
    ]
    if found is None:  # it writes a turn otherwise where another follows, or has no system turn
        assert chat in (TEMPLATES["gemma"], TEMPLATES["llama2"], TEMPLATES["thinking"])
        return
    for turns in talks:
        expected = rendered(tokenizer, turns, True).removeprefix("<s>")
        assert spoken(go_template(found), turns) == expected


def test_what_a_gguf_adapter_cannot_hold_is_refused(written, tmp_path):
    _, saved, origin = written["llama"]
    odd = type(origin)(**{**vars(origin), "architecture": "FalconForCausalLM"})
    with pytest.raises(ExportError, match=r"written for GPT2, Gemma, .* not for FalconForCausalLM; take"):
        write_gguf(saved, odd, tmp_path)
    head = type(saved)(saved.path, {**saved.card, "hashes": {**saved.card["hashes"], "head": "h"}})
    with pytest.raises(ExportError, match="no place for a reward head"):
        write_gguf(head, origin, tmp_path)
    assert not list(tmp_path.iterdir())
    assert json.loads((saved.path / "adapter_config.json").read_text())["lora_alpha"] == 8
