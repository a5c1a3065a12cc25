"""Count the memory a base takes, from the shapes of its layers. Knows nothing of torch or of this machine."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK = 64
"""Weights that share one scale in NF4 (QLoRA, arXiv 2305.14314)."""
NF4_BYTES = 0.5 + 1 / BLOCK + 4 / (BLOCK * 256)
"""Bytes per weight: 4 bits, an 8-bit scale per block, an fp32 scale per 256 of those."""
CONTEXT_BYTES = 600 * 2**20
"""What CUDA and its libraries take before the first tensor, rounded up."""
LOGITS_CHUNK = 2**24
"""Numbers in the chunk of logits that is held at a time (see `lorarlhf.algo.logprobs`)."""
ROLES, TRAINED = 4, 2
"""Adapters in memory during PPO (policy, reference, reward, value), and those of them with gradients and Adam."""


@dataclass(frozen=True)
class Shape:
    """The layers of a Llama-like transformer."""

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

    @property
    def linears(self) -> list[tuple[int, int]]:
        """Inputs and outputs of every matrix of one layer."""
        hidden, attention = self.hidden, [(self.hidden, self.queries), (self.queries, self.hidden)]
        attention += 2 * [(hidden, self.keys)]
        return [*attention, (hidden, self.inner), (hidden, self.inner), (self.inner, hidden)]


SHAPES = (
    Shape("Qwen3-0.6B", 28, 1024, 3072, 2048, 1024, 151_936, True),
    Shape("Qwen3-1.7B", 28, 2048, 6144, 2048, 1024, 151_936, True),
    Shape("Qwen3-4B", 36, 2560, 9728, 4096, 1024, 151_936, True),
    Shape("Llama-3.1-8B", 32, 4096, 14_336, 4096, 1024, 128_256, False),
    Shape("Qwen3-14B", 40, 5120, 17_408, 5120, 1024, 151_936, False),
    Shape("Qwen3-32B", 64, 5120, 25_600, 8192, 1024, 151_936, False),
    Shape("Llama-3.3-70B", 80, 8192, 28_672, 8192, 1024, 128_256, False),
)
"""Well-known bases to measure a machine against; numbers from their config.json."""


def resident_bytes(shape: Shape, bits: int = 4, item: int = 2) -> int:
    """Count the frozen weights; `item` is the bytes of an unquantised number (bf16 2, fp32 4)."""
    weights = shape.layers * sum(inputs * outputs for inputs, outputs in shape.linears)
    tables = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    return int(weights * {4: NF4_BYTES, 8: 1.0, 16: item}[bits] + tables * item)


def adapter_parameters(shape: Shape, rank: int = 16) -> int:
    """Count the numbers of one adapter on all linear layers."""
    return shape.layers * rank * sum(inputs + outputs for inputs, outputs in shape.linears)


def cache_bytes(shape: Shape, rows: int, tokens: int, item: int = 2) -> int:
    """Count keys and values of `rows` answers drawn side by side, each with `tokens` prompt and answer tokens."""
    return 2 * shape.layers * shape.keys * rows * tokens * item


def generate_bytes(shape: Shape, rows: int = 16, tokens: int = 512, bits: int = 4, item: int = 2) -> int:
    """Estimate the memory rating takes: base, one fp32 adapter, cache, the logits of one step."""
    adapter = 4 * adapter_parameters(shape)
    return resident_bytes(shape, bits, item) + adapter + cache_bytes(shape, rows, tokens, item) + CONTEXT_BYTES


def train_bytes(
    shape: Shape,
    micro_batch: int = 2048,
    rows: int = 16,
    tokens: int = 512,
    rank: int = 16,
    bits: int = 4,
    item: int = 2,
) -> int:
    """Estimate the memory PPO takes with gradient checkpointing and `micro_batch` tokens per pass.

    Base; four fp32 adapters, two of them with gradient and both Adam moments; then the larger of drawing answers and
    learning from them: the input of every layer, the activations of the one layer that is recomputed, its largest
    matrix dequantised, and a chunk of fp32 logits with its gradient.
    """
    adapters = adapter_parameters(shape, rank) * 4 * (ROLES + 3 * TRAINED)
    inputs = shape.layers * shape.hidden * micro_batch * item
    recomputed = micro_batch * item * (8 * shape.hidden + 4 * shape.queries + 5 * shape.inner)
    largest = max(inputs_ * outputs for inputs_, outputs in shape.linears) * item
    learning = inputs + recomputed + largest + 3 * 4 * LOGITS_CHUNK
    drawing = cache_bytes(shape, rows, tokens, item)
    return resident_bytes(shape, bits, item) + adapters + max(learning, drawing) + CONTEXT_BYTES
