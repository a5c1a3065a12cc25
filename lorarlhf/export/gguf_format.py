"""Write an adapter as a GGUF file for llama.cpp and Ollama, and read it back tensor by tensor.

The file holds, in fp32, `NAME.lora_a` [rank, in] and `NAME.lora_b` [out, rank] for each layer, under the names that
llama.cpp gives to the weights of its base, and alpha; llama.cpp scales by alpha / rank. Bases of the Llama family keep
the rows of queries and keys in another order there, in which the halves that rotate together alternate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

from lorarlhf.errors import ExportError
from lorarlhf.export.origin import Origin
from lorarlhf.export.peft_format import PREFIX, read_config
from lorarlhf.library import SavedAdapter

FILE, MODELFILE = "adapter.gguf", "Modelfile"

ARCHITECTURES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "MistralForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
    "GemmaForCausalLM": gguf.MODEL_ARCH.GEMMA,
    "Gemma2ForCausalLM": gguf.MODEL_ARCH.GEMMA2,
    "Gemma3ForCausalLM": gguf.MODEL_ARCH.GEMMA3,
    "Phi3ForCausalLM": gguf.MODEL_ARCH.PHI3,
    "GPT2LMHeadModel": gguf.MODEL_ARCH.GPT2,
}
"""Bases whose layers llama.cpp has one for one."""
INTERLEAVED = {gguf.MODEL_ARCH.LLAMA}
"""Those whose queries and keys it keeps in another order."""


class Pair(NamedTuple):
    """The two matrices of a layer, as PEFT holds them."""

    a: np.ndarray
    """[rank, in]"""
    b: np.ndarray
    """[out, rank]"""


def check_supported(saved: SavedAdapter, origin: Origin) -> None:
    """Raise `ExportError` where a GGUF adapter cannot say what this adapter says."""
    if saved.has_head:
        raise ExportError(f"adapter {saved.name}: a GGUF adapter has no place for a reward head; take peft or merged")
    if origin.architecture not in ARCHITECTURES:
        known = ", ".join(sorted(re.sub("ForCausalLM|LMHeadModel", "", name) for name in ARCHITECTURES))
        raise ExportError(
            f"adapter {saved.name}: GGUF adapters are written for {known}, not for {origin.architecture}; "
            "take peft, or merged and llama.cpp's own converter"
        )


def write_gguf(saved: SavedAdapter, origin: Origin, folder: Path) -> None:
    """Write the file to `folder` and make sure that it holds the adapter, tensor by tensor."""
    check_supported(saved, origin)
    arch, config = ARCHITECTURES[origin.architecture], _text_config(origin)
    alpha = float(read_config(saved)["lora_alpha"])
    writer = gguf.GGUFWriter(folder / FILE, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_name(saved.name)
    for name, pair in _converted(saved, arch, config):
        writer.add_tensor(f"{name}.lora_a", pair.a)
        writer.add_tensor(f"{name}.lora_b", pair.b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    check_file(folder / FILE, saved, origin)


def check_file(file: Path, saved: SavedAdapter, origin: Origin) -> None:
    """Read a GGUF adapter back; raise `ExportError` unless it is the adapter, each tensor bit for bit."""
    arch, config = ARCHITECTURES[origin.architecture], _text_config(origin)
    try:
        reader = gguf.GGUFReader(file)
        found = {tensor.name: np.asarray(tensor.data) for tensor in reader.tensors}
        fields = {key: field.contents() for key, field in reader.fields.items()}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ExportError(f"{file.name} cannot be read back ({error}); export it again") from None
    expected = {
        "general.type": "adapter",
        "general.architecture": gguf.MODEL_ARCH_NAMES[arch],
        "adapter.type": "lora",
        "adapter.lora.alpha": float(np.float32(read_config(saved)["lora_alpha"])),
    }
    wrong = [key for key, value in expected.items() if fields.get(key) != value]
    for name, pair in _converted(saved, arch, config):
        for part, wanted in (("lora_a", pair.a), ("lora_b", pair.b)):
            tensor = found.pop(f"{name}.{part}", None)
            if tensor is None or tensor.shape != wanted.shape or not np.array_equal(tensor, wanted):
                wrong.append(f"{name}.{part}")
    if wrong := wrong + sorted(found):
        raise ExportError(f"{file.name} is not the adapter it was made from: {wrong[0]} differs; export it again")


def _converted(saved: SavedAdapter, arch: gguf.MODEL_ARCH, config: dict[str, Any]) -> Iterator[tuple[str, Pair]]:
    """Yield the layers under llama.cpp's names, in its order of rows."""
    names = gguf.get_tensor_name_map(arch, int(config.get("num_hidden_layers", config.get("n_layer", 0))))
    for layer, pair in sorted(_pairs(saved).items()):
        name = names.get_name(layer)
        if name is None or (name == "output" and config.get("tie_word_embeddings", True)):
            raise ExportError(f"adapter {saved.name}: llama.cpp has no layer of its own for {layer}; take peft instead")
        if arch in INTERLEAVED and (kind := re.fullmatch(r"blk\.\d+\.attn_([qk])", name)):
            queries = int(config["num_attention_heads"])
            heads = queries if kind[1] == "q" else int(config.get("num_key_value_heads") or queries)
            pair = Pair(pair.a, interleaved(pair.b, heads))
        yield f"{name}.weight", pair


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Bring the rows of a rotary projection, halves of a head one after the other, into pairs."""
    pairs = rows.reshape(heads, 2, rows.shape[0] // heads // 2, rows.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows.shape))


def _pairs(saved: SavedAdapter) -> dict[str, Pair]:
    """Read the matrices of every layer, by the layer's name in the model."""
    from safetensors.numpy import load

    a, b = ".lora_A.weight", ".lora_B.weight"
    tensors = {key.removeprefix(PREFIX): value for key, value in load(saved.content("adapter")).items()}
    layers = {key.removesuffix(a) for key in tensors if key.endswith(a)}
    found = {
        layer: Pair(*(tensors.pop(layer + part).astype(np.float32, copy=False) for part in (a, b))) for layer in layers
    }
    if tensors:
        raise ExportError(f"adapter {saved.name}: a GGUF adapter has no place for {min(tensors)}; take peft instead")
    return found


def _text_config(origin: Origin) -> dict[str, Any]:
    """Read the config of a base; defaults that its file leaves out are those of its architecture."""
    from transformers import AutoConfig

    assert origin.folder is not None
    config: dict[str, Any] = AutoConfig.from_pretrained(origin.folder).get_text_config().to_dict()
    return config
