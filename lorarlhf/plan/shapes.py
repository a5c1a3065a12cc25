"""The shape of a base, as far as memory depends on it. Knows nothing of torch or of this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from lorarlhf.errors import BaseModelError


class Matrix(NamedTuple):
    """One linear layer; `reads` names its input, which q, k and v have in common."""

    name: str
    inputs: int
    outputs: int
    reads: str


@dataclass(frozen=True)
class Shape:
    """The layers of a decoder: Llama and its kin, unless the last fields say otherwise."""

    name: str
    layers: int
    hidden: int
    inner: int
    """Width of the feed-forward part."""
    queries: int
    """Query heads times head size."""
    keys: int
    """Key heads times head size."""
    vocabulary: int
    tied: bool
    """Whether the output layer shares the embedding's weights."""
    heads: int = 32
    context: int = 2**20
    """Longest sequence, in tokens."""
    positions: int = 0
    """Rows of a table of learned positions."""
    gated: bool = True
    """Whether the feed-forward part multiplies two projections."""
    pieces: int = 3
    """Tensors as wide as `inner` that the activation function keeps for the backward pass, its result apart."""
    norms: int = 2
    """Normalisations of the stream per layer."""
    layer_norm: bool = False
    """LayerNorm keeps its input as it is, the RMS norms of transformers keep an fp32 copy."""
    head_norms: bool = False
    """Whether queries and keys are normalised."""
    fused_attention: bool = False
    """Whether q, k and v are one matrix."""
    fused_gate: bool = False
    biases: bool = False
    windowed: int = 0
    """Layers that attend to the last `window` tokens only."""
    window: int = 0
    like: str = ""
    """What the layers were taken for, where the architecture is not known."""

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """List the linear layers of one block by the names that transformers gives them."""
        hidden, inner, queries, keys = self.hidden, self.inner, self.queries, self.keys
        if self.layer_norm:  # GPT-2
            return (
                Matrix("c_attn", hidden, queries + 2 * keys, "stream"),
                Matrix("c_proj", queries, hidden, "attended"),
                Matrix("c_fc", hidden, inner, "middle"),
                Matrix("c_proj", inner, hidden, "activated"),
            )
        split = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)]
        attention = [("qkv_proj", queries + 2 * keys)] if self.fused_attention else split
        gate = [("gate_up_proj", 2 * inner)] if self.fused_gate else [("gate_proj", inner), ("up_proj", inner)]
        gate = gate if self.gated else [("up_proj", inner)]
        return (
            *(Matrix(name, hidden, outputs, "stream") for name, outputs in attention),
            Matrix("o_proj", queries, hidden, "attended"),
            *(Matrix(name, hidden, outputs, "middle") for name, outputs in gate),
            Matrix("down_proj", inner, hidden, "activated"),
        )

    def adapted(self, targets: str = "all-linear") -> tuple[Matrix, ...]:
        """List the linear layers of one block that get an adapter."""
        names = {name.strip() for name in targets.split(",")}
        return tuple(m for m in self.matrices if targets == "all-linear" or m.name in names)


SHAPES = (
    Shape("SmolLM2-135M", 30, 576, 1536, 576, 192, 49_152, True, 9, 8192),
    Shape("SmolLM2-360M", 32, 960, 2560, 960, 320, 49_152, True, 15, 8192),
    Shape("Qwen2.5-0.5B", 24, 896, 4864, 896, 128, 151_936, True, 14, 32_768),
    Shape("Qwen3-0.6B", 28, 1024, 3072, 2048, 1024, 151_936, True, 16, 40_960, head_norms=True),
    Shape("Qwen3-1.7B", 28, 2048, 6144, 2048, 1024, 151_936, True, 16, 40_960, head_norms=True),
    Shape("Qwen3-4B", 36, 2560, 9728, 4096, 1024, 151_936, True, 32, 40_960, head_norms=True),
    Shape("Qwen2.5-7B", 28, 3584, 18_944, 3584, 512, 152_064, False, 28, 32_768),
    Shape("Llama-3.1-8B", 32, 4096, 14_336, 4096, 1024, 128_256, False, 32, 131_072),
    Shape("Qwen3-14B", 40, 5120, 17_408, 5120, 1024, 151_936, False, 40, 40_960, head_norms=True),
    Shape("Qwen2.5-14B", 48, 5120, 13_824, 5120, 1024, 152_064, False, 40, 32_768),
    Shape("Qwen2.5-32B", 64, 5120, 27_648, 5120, 1024, 152_064, False, 40, 32_768),
    Shape("Qwen3-32B", 64, 5120, 25_600, 8192, 1024, 151_936, False, 64, 40_960, head_norms=True),
    Shape("Llama-3.3-70B", 80, 8192, 28_672, 8192, 1024, 128_256, False, 64, 131_072),
)
"""Well-known bases, smallest first, to measure a machine against; numbers from their config.json."""

PLAIN = {"llama", "mistral", "qwen2"}
FAMILIES: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in PLAIN},
    "qwen3": {"head_norms": True},
    "gemma": {},
    "gemma2": {"norms": 4},
    "gemma3_text": {"norms": 4, "head_norms": True},
    "phi3": {"fused_attention": True, "fused_gate": True},
    "gpt2": {"layer_norm": True, "gated": False, "pieces": 4},
}
"""Architecture → how its layers differ from Llama's. GPT-2's tanh GELU is written out and keeps four pieces."""
MIXTURES = ("num_local_experts", "num_experts", "n_routed_experts")


def known(name: str) -> Shape | None:
    """Find one of the well-known bases by its name, with or without its owner."""
    plain = re.sub(r"-(base|instruct)(-\d+)?$", "", name.rstrip("/").rpartition("/")[2].lower())
    return next((shape for shape in SHAPES if shape.name.lower() == plain), None)


def shape_of(config: Any, name: str) -> Shape:
    """Read the shape from a configuration of transformers; raise `BaseModelError` where it does not say.

    Architectures not in `FAMILIES` are taken for Llama's kin, and `like` says so.
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    kind = str(getattr(config, "model_type", ""))
    if any(getattr(config, field, None) for field in MIXTURES):
        raise BaseModelError(f"{name} is a mixture of experts, whose memory this planner does not know; just try it")
    try:
        hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
        layers, vocabulary = int(config.num_hidden_layers), int(config.vocab_size)
    except (AttributeError, TypeError):
        raise BaseModelError(
            f"{name}: its config.json does not say how many layers, heads and words it has; "
            "pass the folder of a transformers model"
        ) from None
    head = int(getattr(config, "head_dim", None) or hidden // heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    inner = int(getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden)
    kinds = getattr(config, "layer_types", None) or []
    shape = Shape(
        name=name,
        layers=layers,
        hidden=hidden,
        inner=inner,
        queries=heads * head,
        keys=groups * head,
        vocabulary=vocabulary,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
        heads=heads,
        context=int(getattr(config, "max_position_embeddings", None) or 2**20),
        positions=int(config.max_position_embeddings) if kind == "gpt2" else 0,
        biases=kind == "gpt2",
        windowed=sum(layer == "sliding_attention" for layer in kinds),
        window=int(getattr(config, "sliding_window", None) or 0),
    )
    return replace(shape, **FAMILIES[kind]) if kind in FAMILIES else replace(shape, like="llama")
