"""Count the bytes of every part of a stage, in each of its phases, from shapes and settings. Knows nothing of torch.

What a backward pass keeps was read off the tensors that were alive at the peak (`benchmarks/plan_check.py` compares
the sums): per layer and token the inputs of the normalisations in fp32, and in the format of the computation those of
the adapters (once for all that read the same), what attention and the activation function keep, and `rank` numbers per
matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from lorarlhf.plan.shapes import Shape

BLOCK = 64
"""Weights that share one scale in NF4 (QLoRA, arXiv 2305.14314)."""
NF4_BYTES = 0.5 + 1 / BLOCK + 4 / (BLOCK * 256)
"""Bytes per weight: 4 bits, an 8-bit scale per block, an fp32 scale per 256 of those."""
NF4_TABLES = 4 * (16 + 256)
"""Bytes per matrix: the fp32 values that 4 bits and the 8 bits of a scale stand for."""
CONTEXT_BYTES = 600 * 2**20
"""What CUDA and its libraries take before the first tensor, rounded up."""
PROCESS_BYTES = 480 * 2**20
"""Resident memory of a process that has imported torch, transformers and peft, on a CPU."""
HEAP_BYTES = 96 * 2**20
"""What glibc keeps back between the tensors of a pass, where no probe measured it: 44 to 105 MB were seen."""
KERNELS, KERNEL_BYTES = 128, 540_000
"""Shapes of products whose code is kept on a CPU in bf16 (a test compares the number), and bytes of each."""
LEARN_KERNELS, SCORE_KERNELS, ROW_KERNELS = 26, 14, 8
"""Shapes that a pass of a new size brings with it, with a gradient and without, and every answer that ends."""
ROOM = 64
"""Tokens by which the cache of answers grows (a test compares it)."""
LOGITS_CHUNK, LOGITS_ROWS = {"cpu": 2**22, "other": 2**24}, 64
"""Numbers in the chunk of logits that is held at a time, and rows at least (a test compares both with the code)."""
SHORT = 200
"""Tokens up to which attention is computed as plain products on a processor in bf16 (a test compares it too)."""
UNPACKED_MOST = 2**30
"""Bytes of a base unpacked while a processor draws answers, at most (a test compares it too)."""
PLACES = 48
"""Bytes per packed token that say where it stands: its id, position, and spots in rows and in groups of them."""
FP32 = 4
CHOOSE_LOGIT, NUCLEUS_LOGIT = 20, 32
"""Bytes per logit while a token is drawn, without and with top_p: probabilities, and their fp64 cumulative sum."""

PARTS = ("base", "adapters", "gradients", "optimizer", "cache", "activations", "logits", "copies", "heap", "runtime")
"""What memory goes to; `copies` are the best adapter so far, the moments of the run that it can go back to and, while a
checkpoint is written, all it holds; `heap` is what the C library keeps back on a CPU of what tensors no longer use, and
the code oneDNN makes where no probe has made it make it."""

Parts = dict[str, float]


@dataclass(frozen=True)
class Load:
    """A base as it is loaded."""

    shape: Shape
    bits: int = 4
    item: int = 2
    """Bytes of an unquantised number: bf16 2, fp32 4."""
    device: str = "cuda"
    """`cpu`, or the kind of card."""
    packs: bool = True
    """Whether rows go through it one behind the other, without padding."""


class Pass(NamedTuple):
    """One micro-batch."""

    rows: int
    width: int
    """Tokens of the longest row."""
    answers: int
    """Answer tokens of all rows: the ones that need logits; 0 where only a head is read."""
    packed: int = 0
    """Tokens of all rows where they stand one behind the other; 0 where they are padded to the longest."""
    alike: tuple[tuple[int, int], ...] = ()
    """Of packed ones, rows and tokens of each group that attention lays side by side; () where all are as long."""

    @property
    def tokens(self) -> int:
        """Count the tokens that are computed."""
        return self.packed or self.rows * self.width

    @property
    def masked(self) -> bool:
        """Tell whether attention needs a mask of its own."""
        return self.rows > 1 and not self.packed

    @property
    def areas(self) -> tuple[tuple[int, int], ...]:
        """Rows and width of what attention computes at a time."""
        return self.alike or ((self.rows, self.width),)

    @property
    def area(self) -> float:
        """Tokens that attention computes for each real one."""
        return sum(rows * width for rows, width in self.areas) / self.tokens


class Drawing(NamedTuple):
    """Answers drawn side by side."""

    rows: int
    prompt: int
    """Longest prompt."""
    answer: int
    """Longest answer."""
    top_p: float = 1.0
    each: int = 1
    """Answers to every prompt, which is read once."""


@dataclass(frozen=True)
class Correction:
    """What a probe measured, as a multiple of the formula: activations and logits of the three kinds of passes."""

    learn: float = 1.0
    score: float = 1.0
    draw: float = 1.0


@dataclass(frozen=True)
class Demand:
    """What a stage asks of memory, whatever its algorithm."""

    trained: tuple[int, ...]
    """Rank of each adapter that is trained."""
    frozen: tuple[int, ...] = ()
    """Rank of each adapter that is only read."""
    heads: int = 0
    """Scalar heads, trained or not."""
    targets: str = "all-linear"
    learn: tuple[tuple[Pass, int], ...] = ()
    """Candidates for the largest pass with gradient, each with the number of the adapter it trains."""
    score: tuple[Pass, ...] = ()
    draw: tuple[Drawing, ...] = ()
    several: bool = True
    """Whether a step has more than one pass, so that gradients are there while activations are at their peak."""
    checkpointing: bool = False
    states: int = 0
    """Hidden states that a critic keeps of a batch."""
    steps: int = 3
    """Steps in which it is trained."""
    keeps_best: bool = True
    writes: bool = True
    """Whether checkpoints are written on the way."""


@dataclass(frozen=True)
class Phase:
    """One phase of a stage at its peak."""

    name: str
    """`draw`, `score`, `learn` or `write`."""
    parts: Parts = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Sum the parts, in bytes."""
        return round(sum(self.parts.values()))


def phases(
    load: Load,
    demand: Demand,
    correction: Correction | None = None,
    runtime: float | None = None,
    heap: float | None = None,
) -> list[Phase]:
    """Count the parts of every phase the stage goes through, in their order.

    `runtime` are the bytes of the program without a base, `heap` those that the C library keeps back, as a probe
    measured them. A probe also leaves the code of its passes in the program, where `runtime` counts it.
    """
    fix = correction or Correction()
    shape, host = load.shape, load.device == "cpu"
    trained = [FP32 * adapter_parameters(shape, rank, demand.targets) for rank in demand.trained]
    frozen = [FP32 * adapter_parameters(shape, rank, demand.targets) for rank in demand.frozen]
    state = sum(trained)
    if runtime is None:
        runtime = PROCESS_BYTES if host else CONTEXT_BYTES
    # The best adapter is kept where the program lives, not on a card; so is what a run can go back to: weights and
    # both of Adam's moments before this step and before the last one, which are not there yet at its beginning. What
    # comes after the last step can be undone too.
    best = trained[0] if host and demand.keeps_best else 0
    learning, ending = (state * host * copies for copies in (_moments(demand.steps), _moments(demand.steps + 1)))
    # A critic's head is 256 units wide, with two moments and a gradient; the states it reads are on the CPU.
    critic = (4 * FP32 * 256 * shape.hidden + load.item * demand.states * shape.hidden * host) * (demand.states > 0)
    always: Parts = dict.fromkeys(PARTS, 0.0) | {
        "base": resident_bytes(shape, load.bits, load.item),
        "adapters": state + sum(frozen) + FP32 * demand.heads * (shape.hidden + 1) + critic,
        "optimizer": 2 * state,
        "copies": best + ending,
        "heap": (HEAP_BYTES + _kernels(load, demand) if heap is None else heap) * host,
        "runtime": runtime,
    }
    found = []
    if demand.draw:
        largest = max((draw_bytes(load, d) for d in demand.draw), key=lambda parts: sum(parts.values()))
        scaled = {key: value * (fix.draw if key != "cache" else 1) for key, value in largest.items()}
        found.append(Phase("draw", always | scaled))
    if demand.score:
        parts = max((score_bytes(load, p, demand.targets) for p in demand.score), key=lambda parts: sum(parts.values()))
        found.append(Phase("score", always | {key: value * fix.score for key, value in parts.items()}))
    if demand.learn:
        found.append(_learn(load, demand, fix, always | {"copies": best + learning}, trained))
    if demand.writes and host:
        # Beside what the run can go back to a checkpoint is copied as a whole before it is written: adapters, both
        # moments, the best adapter.
        found.append(Phase("write", always | {"copies": best + 3 * state + 3 * state + best}))
    return found


def _moments(step: int) -> int:
    """Count the copies of the weights, moments of Adam's included, that are held in a step, from 1."""
    return {1: 1, 2: 1 + 3}.get(step, 3 + 3)


def _kernels(load: Load, demand: Demand) -> int:
    """Count the bytes of the code that oneDNN writes for the sizes of the passes."""
    shapes = LEARN_KERNELS * len({p.tokens for p, _ in demand.learn}) + SCORE_KERNELS * len(
        {p.tokens for p in demand.score}
    )
    shapes += ROW_KERNELS * max((d.rows for d in demand.draw), default=0)
    return KERNEL_BYTES * min(KERNELS, shapes) if load.item < FP32 else 0


def _learn(load: Load, demand: Demand, fix: Correction, always: Parts, trained: list[int]) -> Phase:
    found = []
    for p, adapter in demand.learn:
        rank = demand.trained[adapter]
        parts = {
            key: value * fix.learn
            for key, value in learn_bytes(load, p, rank, demand.targets, demand.checkpointing).items()
        }
        # In the only pass of a step the gradients come as the activations that make them go.
        own = trained[adapter] if demand.several else max(0.0, trained[adapter] - sum(parts.values()))
        found.append(Phase("learn", always | parts | {"gradients": sum(trained[:adapter]) + own}))
    return max(found, key=lambda phase: phase.total)


# -- what stays -----------------------------------------------------------------------------------------------


def resident_bytes(shape: Shape, bits: int = 4, item: int = 2) -> int:
    """Count the frozen weights; `item` is the bytes of an unquantised number (bf16 2, fp32 4)."""
    layer = 0.0
    for matrix in shape.matrices:
        size = matrix.inputs * matrix.outputs
        if bits == 4 and matrix.inputs % BLOCK == 0:
            layer += size * NF4_BYTES + NF4_TABLES
        elif bits == 8:
            layer += size + FP32 * matrix.outputs
        else:
            layer += size * item
        layer += item * matrix.outputs * shape.biases
    norm = shape.hidden * (2 if shape.layer_norm else 1)
    layer += item * (shape.norms * norm + (2 * shape.queries // shape.heads if shape.head_norms else 0))
    tables = shape.vocabulary * shape.hidden * (1 if shape.tied else 2) + shape.positions * shape.hidden
    return round(shape.layers * layer + item * (tables + norm))


def adapter_parameters(shape: Shape, rank: int = 16, targets: str = "all-linear") -> int:
    """Count the numbers of one adapter."""
    return shape.layers * rank * sum(matrix.inputs + matrix.outputs for matrix in shape.adapted(targets))


def cache_bytes(shape: Shape, rows: int, tokens: int, item: int = 2) -> int:
    """Count keys and values of `rows` answers drawn side by side, each with `tokens` prompt and answer tokens."""
    near = shape.windowed * min(tokens, shape.window)
    return 2 * shape.keys * rows * (near + (shape.layers - shape.windowed) * tokens) * item


# -- what comes and goes --------------------------------------------------------------------------------------


def learn_bytes(load: Load, p: Pass, rank: int, targets: str = "all-linear", checkpointing: bool = False) -> Parts:
    """Count what one forward and backward pass holds at its peak, gradients apart."""
    shape, item = load.shape, load.item
    stream = shape.hidden * item
    layer = _kept(load, p, rank, targets)
    # Backward holds six times the stream at the last norm, later two gradients as wide as the feed-forward part, or
    # the probabilities of attention.
    widest = max(shape.inner, *(m.outputs for m in shape.matrices if m.reads != "attended"))
    norm = 6 * FP32 * shape.hidden * p.tokens
    wide = (FP32 * shape.hidden + (FP32 if load.bits == 8 else item) * widest + item * widest) * p.tokens
    # When attention's turn comes, what the feed-forward part of its layer kept has gone.
    gone = item * (shape.pieces + 1) * shape.inner * p.tokens
    wide = round(max(wide + _dequantised(load), _attention_moment(load, p, learn=True) - gone))
    if checkpointing:
        # The input of the first norm is the layer's, which is kept anyway, unless the norm has an fp32 copy of it.
        held, waiting = float(shape.layers * stream * p.tokens), layer * p.tokens + wide
        waiting -= stream * p.tokens if item == FP32 or shape.layer_norm else 0
    else:
        held, waiting = (shape.layers * layer - FP32 * shape.hidden) * p.tokens, max(norm, wide)
    # The slopes of the logits are taken on the way forward: logits, two copies in fp32, their gradient in bf16.
    chunk = (2 * FP32 + (2 * item if item < FP32 else item)) * _logits(load, p)
    reached = 2 * stream * p.answers + chunk
    if reached > waiting:
        return {"activations": held + 2 * stream * p.answers, "logits": chunk}
    return {"activations": held + waiting, "logits": 0.0}


def _kept(load: Load, p: Pass, rank: int, targets: str) -> float:
    """Count the bytes per token that one layer keeps for its backward pass."""
    shape, item = load.shape, load.item
    adapted = shape.adapted(targets)
    inputs = {m.reads: m.inputs for m in adapted}
    kept = float(item * (sum(inputs.values()) + rank * len(adapted)))
    if load.bits == 8 and item < FP32:
        # PEFT's own layers: every adapter makes an fp32 copy of its input.
        kept = float(FP32 * (sum(m.inputs for m in adapted) + rank * len(adapted)))
        kept += item * sum({m.reads: m.inputs for m in shape.matrices}.values())
    kept += shape.norms * shape.hidden * (item if shape.layer_norm else FP32)
    kept += FP32 * (shape.queries + shape.keys) * shape.head_norms
    # Side by side, rows are as long as the longest of their group.
    area = p.area
    if _short(load, p):
        kept += item * area * (shape.queries + 2 * shape.keys) + p.width * p.masked
    else:
        # Fewer key heads than query heads are repeated; its result is what the next layer reads, unless moved again.
        repeated = 2 * (shape.queries if shape.keys < shape.queries else shape.keys)
        attended = shape.queries if "attended" not in inputs or area > 1 else 0
        kept += area * (item * (shape.queries + repeated + attended) + FP32 * shape.heads)
        kept += item * p.width * p.masked
    return kept + item * shape.pieces * shape.inner


def _short(load: Load, p: Pass) -> bool:
    """Tell whether attention is computed as plain products."""
    return load.device == "cpu" and load.item < FP32 and p.width <= SHORT


def _attention_moment(load: Load, p: Pass, *, learn: bool) -> float:
    """Count the probabilities of one layer while plain products are made of them: fp32 twice, and twice in bf16."""
    if not _short(load, p):
        return 0.0
    shape = load.shape
    per_pair = 2 * FP32 + (2 * load.item if learn else 0)
    beside = 2 * load.item * (shape.queries + 2 * shape.keys)
    return max(float(rows * width * (shape.heads * width * per_pair + beside)) for rows, width in p.areas)


def score_bytes(load: Load, p: Pass, targets: str = "all-linear") -> Parts:
    """Count what one forward pass without gradient holds at its peak."""
    stream = load.shape.hidden * load.item
    chunk = (2 * FP32 + load.item) * _logits(load, p)
    through = _through(load, p)
    reached = stream * (p.tokens + p.answers) + chunk
    if reached > through:
        return {"activations": float(stream * (p.tokens + p.answers)), "logits": chunk}
    return {"activations": through, "logits": 0.0}


def draw_bytes(load: Load, d: Drawing) -> Parts:
    """Count what drawing holds at its peak: while it reads the prompts, or at its last step, when the cache is full."""
    shape, item = load.shape, load.item
    tokens = -(-(d.prompt + d.answer) // ROOM) * ROOM
    full = float(cache_bytes(shape, d.rows, tokens, item))
    # A layer's cache grows by copying it, first its keys, then its values.
    one = shape.keys * d.rows * tokens * item
    per_logit = item + (CHOOSE_LOGIT if d.top_p == 1 else NUCLEUS_LOGIT)
    logits = float(per_logit * d.rows * shape.vocabulary)
    unpacked = _unpacked(load)
    last = {"cache": full, "activations": unpacked + max(float(one), _dequantised(load)), "logits": 0.0}
    chosen = {"cache": full, "activations": unpacked, "logits": logits}
    read = Pass(-(-d.rows // d.each), d.prompt, 0)
    reading = {
        "cache": float(cache_bytes(shape, d.rows, d.prompt, item)),
        # Left-padded rows have positions, and so rotations, of their own.
        "activations": unpacked + _through(load, read) + 2 * shape.queries / shape.heads * item * read.tokens,
        "logits": 0.0,
    }
    return max((last, chosen, reading), key=lambda parts: sum(parts.values()))


def _through(load: Load, p: Pass) -> float:
    """Count the bytes of a forward pass that keeps nothing: the stream, and its widest moment."""
    shape, item = load.shape, load.item
    one_matrix = shape.fused_attention or shape.layer_norm
    moments = [
        _projected(load, p, shape.queries + 2 * shape.keys if one_matrix else shape.queries, waiting=0),
        # One projection waits, with its activation, for the other.
        _projected(load, p, shape.inner, waiting=1)
        if shape.gated and not shape.fused_gate
        else _projected(load, p, shape.inner * (2 if shape.fused_gate else 1), waiting=0),
        float(shape.inner * item * (shape.pieces + one_matrix) * p.tokens),
        _attention_moment(load, p, learn=False),
    ]
    per_token = shape.hidden * 4 * item + p.width * p.masked * (1 + item) + PLACES * (p.packed > 0)
    if load.bits == 8:  # products of 8-bit numbers are 32 bits wide
        per_token += FP32 * shape.inner + 2 * shape.hidden
    return per_token * p.tokens + max(moments)


def _projected(load: Load, p: Pass, width: int, waiting: int) -> float:
    """Count what a matrix of so many outputs holds: its result, while the matrix stands unpacked for its product.

    In 8 bits PEFT's layers also hold the adapter's part before and after its scale.
    """
    result = width * load.item * (1 + waiting) * p.tokens
    return result + max(2.0 * FP32 * width * p.tokens * (load.bits == 8), _dequantised(load))


def _dequantised(load: Load) -> float:
    """Count the bytes of the largest matrix while it stands unpacked."""
    if load.bits == 16:
        return 0.0
    return float(load.item * max(m.inputs * m.outputs for m in load.shape.matrices))


def _unpacked(load: Load) -> float:
    """Count the bytes of a small base that a processor unpacks to draw answers."""
    shape = load.shape
    dense = shape.layers * load.item * sum(m.inputs * m.outputs for m in shape.matrices)
    return float(dense) if load.device == "cpu" and load.bits == 4 and dense <= UNPACKED_MOST else 0.0


def _logits(load: Load, p: Pass) -> float:
    """Count the numbers of the largest chunk of logits."""
    size = load.shape.vocabulary
    rows = max(LOGITS_ROWS, LOGITS_CHUNK["cpu" if load.device == "cpu" else "other"] // size)
    return float(min(p.answers, rows) * size)
