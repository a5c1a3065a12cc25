"""Every knob, declared once: type, default, bounds, one-line help, basic or advanced.

The command line, the presets, the forms of the app and the settings reference are generated from these
declarations. Settings are flat (a name means one thing), frozen, and validated on creation; a wrong value is a
`SettingsError` that names the setting. Knows nothing of torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from lorarlhf.errors import SettingsError

S = TypeVar("S", bound="Settings")
Passes = Annotated[float, Field(gt=0, le=1000)] | Literal["auto"]
Rate = Annotated[float, Field(gt=0, le=1)] | Literal["auto"]
PRACTICE_SOURCES = ("imported", "typed", "votes", "demonstrations")
"""Where prompts that a policy practises on can come from."""
Cap = Annotated[float, Field(ge=-1000, le=1000)] | Literal["auto"]


def knob(default: Any, help: str, *, basic: bool = False, several: tuple[str, ...] = (), **bounds: Any) -> Any:
    """Declare one setting. `bounds` are pydantic's `ge`, `gt`, `le`, `lt`; `several` is what its text may list."""
    extra: Any = {"basic": basic, "several": list(several)}
    return Field(default, description=help, json_schema_extra=extra, validate_default=True, **bounds)


def several_of(field: FieldInfo) -> list[str]:
    """List what a setting that names several things may name; empty for others."""
    extra = field.json_schema_extra
    return list(extra.get("several", [])) if isinstance(extra, dict) else []  # type: ignore[arg-type]


def may_be_auto(field: FieldInfo) -> bool:
    """Tell whether a number may also be left to the program, as `auto`."""
    return any("auto" in get_args(part) for part in get_args(field.annotation))


class Settings(BaseModel):
    """A frozen group of knobs that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls: type[S], values: dict[str, Any], where: str | Callable[[str], str] = "settings") -> S:
        """Validate `values`; raise `SettingsError` naming the first bad knob, with the nearest spelling.

        `where` is named in front of it; a function tells the place of a knob, and of '' where several disagree.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            name, problem = _first_problem(cls, error)
            raise SettingsError(f"{where if isinstance(where, str) else where(name)}: {problem}") from None

    @classmethod
    def is_basic(cls, name: str) -> bool:
        """Tell whether a knob belongs on the short form."""
        extra = cls.model_fields[name].json_schema_extra
        return bool(isinstance(extra, dict) and extra["basic"])


def _first_problem(cls: type[Settings], error: ValidationError) -> tuple[str, str]:
    """Return the name of the knob, '' where several disagree, and what is wrong with it."""
    first = error.errors()[0]
    if first["type"] == "value_error" and not first["loc"]:  # ours, about several knobs at once: it names them
        return "", str(first["ctx"]["error"])
    name = str(first["loc"][0]) if first["loc"] else cls.__name__
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, cls.model_fields, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(cls.model_fields)}"
        return name, f"unknown setting {name}{hint}"
    return name, f"{name} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


class LoadSettings(Settings):
    """Which frozen base to load, and how."""

    base: str = knob("starter", "Hub id or local folder of the base model; 'starter' is the one shipped", basic=True)
    bits: Literal[4, 8, 16] = knob(4, "Bits per frozen weight: 4 (NF4), 8 or 16", basic=True)
    revision: str = knob("", "Branch, tag or commit of a Hub base; empty means its main branch")
    device: Literal["auto", "cuda", "xpu", "mps", "cpu"] = knob("auto", "Where to compute")
    compute: Literal["auto", "bf16", "fp32"] = knob(
        "auto", "Number format of activations; auto is bf16 where the hardware has it"
    )
    trust_remote_code: bool = knob(False, "Run Python code that comes with this base; leave off unless you read it")

    @field_validator("bits", mode="before")
    @classmethod
    def _bits_from_text(cls, value: Any) -> Any:
        # Presets and the command line give text, which pydantic converts for every type but a literal.
        return int(value) if isinstance(value, str) and value.isdecimal() else value


class SamplingSettings(Settings):
    """How answers are drawn."""

    temperature: float = knob(1.0, "Randomness of answers; 0 always takes the likeliest token", basic=True, ge=0, le=5)
    top_p: float = knob(1.0, "Draw only from the likeliest tokens that together have this probability", gt=0, le=1)
    max_new_tokens: int = knob(96, "Longest answer, in tokens", basic=True, ge=1, le=32768)
    stop: tuple[str, ...] = knob((), "Texts that end an answer, besides the model's own end mark")
    seed: int = knob(0, "Same seed, same answers", ge=0, le=2**63 - 1)
    batch_rows: int = knob(64, "Answers drawn side by side; lower it if memory runs out", ge=1, le=4096)


class LoraSettings(Settings):
    """Shape of a new adapter."""

    rank: int = knob(16, "Rank of the LoRA matrices: more learns more and takes more memory", basic=True, ge=1, le=512)
    alpha: int = knob(32, "LoRA scale; the adapter's output is multiplied by alpha / rank", ge=1, le=4096)
    targets: str = knob("all-linear", "Layers that get an adapter: 'all-linear' or names separated by commas")


class OptimSettings(Settings):
    """How an adapter is optimised."""

    learning_rate: Rate = knob(
        "auto", "How big each step is; auto begins with what fits the base and tries a few around it", basic=True
    )
    batch_size: int = knob(16, "Examples per optimizer step", basic=True, ge=1, le=65536)
    micro_batch_tokens: int = knob(
        2048, "Tokens per forward and backward pass; less takes less memory, same numbers", ge=16, le=10**7
    )
    max_length: int = knob(1024, "Longest prompt plus answer, in tokens; longer prompts lose their start", ge=8)
    warmup: float = knob(0.05, "Share of the steps in which the learning rate grows from 0", ge=0, le=1)
    schedule: Literal["constant", "linear", "cosine"] = knob("cosine", "How the learning rate falls after warm-up")
    weight_decay: float = knob(0.0, "Decoupled weight decay of AdamW", ge=0, le=10)
    max_grad_norm: float = knob(1.0, "Gradients longer than this are shortened to it", gt=0)
    gradient_checkpointing: bool = knob(False, "Recompute activations in backward: slower, much less memory")
    heldout_share: float = knob(0.1, "Share of the prompts kept apart to measure on", ge=0, le=0.9)
    seed: int = knob(0, "Fixes order, initial weights and sampling", ge=0, le=2**63 - 1)
    checkpoint_every: int = knob(20, "Steps between checkpoints; 0 keeps none", ge=0)
    track: Literal["none", "tensorboard", "trackio", "wandb"] = knob(
        "none", "Send the numbers to a tracker as well; its package must be installed"
    )


class SFTSettings(LoraSettings, OptimSettings):
    """Supervised fine-tuning: imitate the demonstrations."""

    epochs: Passes = knob(
        "auto", "Passes over the demonstrations; auto goes on while the held-out loss falls", basic=True
    )
    eval_every: int = knob(0, "Steps between measurements of the held-out loss; 0 makes eight in a run", ge=0)
    parent: str = knob("", "Adapter to go on from; empty starts from the bare base")


class RewardSettings(LoraSettings, OptimSettings):
    """Reward model: learn to predict which answer a person prefers."""

    epochs: Passes = knob("auto", "Passes over the votes; auto goes on while the held-out loss falls", basic=True)
    eval_every: int = knob(0, "Steps between measurements of the held-out accuracy; 0 makes eight in a run", ge=0)
    parent: str = knob("", "Adapter to start from; empty takes the newest SFT adapter, 'base' the bare base")
    margin: float = knob(0.5, "Extra score difference asked per step of strength above 'better'", ge=0, le=10)
    tie_weight: float = knob(0.5, "Weight of a tie in the loss, relative to a clear vote", ge=0, le=10)
    both_bad_weight: float = knob(
        0.2, "Weight of pushing both answers of a 'both bad' vote below 0; 0 uses it as a tie only", ge=0, le=10
    )
    center: bool = knob(True, "Shift the scores so that demonstrations average 0")


class PPOSettings(LoraSettings, OptimSettings):
    """PPO with a KL penalty against the SFT adapter (details of arXiv 2403.17031)."""

    learning_rate: Rate = knob(
        "auto",
        "How big each step of the policy is; auto is steered so that KL grows to kl_target by the end",
        basic=True,
    )
    steps: int = knob(40, "PPO steps: each draws answers, scores them and updates", basic=True, ge=1)
    batch_size: int = knob(64, "Answers per PPO step", basic=True, ge=2, le=65536)
    answers_per_prompt: int = knob(4, "Answers to each prompt of a step; without a critic 2 or more", ge=1, le=1024)
    schedule: Literal["constant", "linear", "cosine"] = knob("linear", "How the learning rate falls after warm-up")
    sft: str = knob("", "Policy's start and KL reference; empty takes the newest SFT adapter, 'base' the bare base")
    reward: str = knob("", "Reward adapter; empty takes the newest")
    parent: str = knob("", "Policy to go on from; empty starts as a copy of the reference")
    practise_on: str = knob(
        "imported, typed, votes",
        "Prompts to train on: any of imported, typed, votes (those you voted on), demonstrations",
        basic=True,
        several=PRACTICE_SOURCES,
    )
    temperature: float = knob(1.0, "Sampling temperature; divides every log-probability too", gt=0, le=5)
    top_p: float = knob(1.0, "Nucleus of the sampling; below 1 biases PPO and is only for experiments", gt=0, le=1)
    max_new_tokens: int = knob(96, "Longest answer, in tokens", basic=True, ge=1, le=32768)
    rollout_rows: int = knob(32, "Answers drawn side by side", ge=1, le=4096)
    ppo_epochs: int = knob(2, "Passes over each batch of answers", ge=1, le=100)
    mini_batches: int = knob(2, "Optimizer steps per pass", ge=1, le=1024)
    kl_coef: float = knob(
        0.05,
        "How strongly to stay close to the start: what a nat of KL costs, in spreads of the reward at the start",
        basic=True,
        ge=0,
        le=100,
    )
    kl_control: Literal["fixed", "adaptive"] = knob("fixed", "Keep the KL price, or steer KL towards kl_target")
    kl_target: float = knob(8.0, "Nats per answer that learning_rate auto and kl_control adaptive aim at", gt=0)
    kl_horizon: float = knob(500.0, "Answers over which the adaptive control reacts", gt=0)
    kl_budget: float = knob(20.0, "Stop and keep the best when the mean KL per answer passes this", gt=0)
    gamma: float = knob(1.0, "Discount of later rewards; without a critic there is none", ge=0, le=1)
    lam: float = knob(0.95, "Lambda of generalised advantage estimation, which takes a critic", ge=0, le=1)
    clip: float = knob(0.2, "Clip range of the probability ratio", gt=0, lt=1)
    critic: Literal["head", "adapter", "none"] = knob(
        "none",
        "What learns the value: a head on the reward model's states, or an adapter (slower, more memory); with none, "
        "answers are compared with the others to their prompt (RLOO)",
    )
    value_clip: float = knob(0.2, "Clip range of the value update", gt=0)
    value_learning_rate: float = knob(5e-4, "How big each step of the critic is", gt=0, le=1)
    value_warmup_steps: int = knob(5, "First steps that train the value only (arXiv 2503.01491); none without it", ge=0)
    entropy_coef: float = knob(0.0, "Weight of an entropy bonus", ge=0, le=10)
    whiten_advantages: bool = knob(True, "Centre and scale the advantages of a batch; without a critic scale only")
    whiten_rewards: bool = knob(False, "Scale the rewards of a batch")
    missing_eos_score: Cap = knob(
        "auto",
        "Most an answer that never ended scores, in spreads of the reward at the start; auto is -2, and no limit where "
        "half of the first answers are cut",
    )
    adam_eps: float = knob(1e-5, "Epsilon of Adam", gt=0, le=1)
    eval_every: int = knob(10, "Steps between measurements on held-out prompts; the best policy is kept", ge=1)
    eval_prompts: int = knob(32, "Held-out prompts per measurement", ge=1)
    sample_every: int = knob(5, "Steps between stored samples", ge=1)

    @property
    def sources(self) -> list[str]:
        """Where the prompts to practise on come from."""
        return [name.strip() for name in self.practise_on.split(",") if name.strip()]

    @model_validator(mode="after")
    def _knows_its_sources(self) -> PPOSettings:
        known = several_of(type(self).model_fields["practise_on"])
        for name in self.sources or [""]:
            if name not in known:
                raise ValueError(f"practise_on names {name or 'nothing'}; name some of {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> PPOSettings:
        if self.batch_size % self.mini_batches:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of mini_batches {self.mini_batches}")
        if self.critic == "none" and self.answers_per_prompt < 2:
            raise ValueError("critic = none compares answers to one prompt: set answers_per_prompt to 2 or more, say 4")
        if self.batch_size % self.answers_per_prompt:
            each = self.answers_per_prompt
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of answers_per_prompt {each}")
        if self.steps <= self.value_only_steps:
            warmup = self.value_only_steps
            raise ValueError(f"steps = {self.steps}: the first {warmup} (value_warmup_steps) train no policy")
        if self.max_new_tokens >= self.max_length:
            raise ValueError(f"max_new_tokens {self.max_new_tokens} must be below max_length {self.max_length}")
        return self

    @property
    def value_only_steps(self) -> int:
        """Count the first steps in which the policy rests; without a critic there is nothing to wait for."""
        return 0 if self.critic == "none" else self.value_warmup_steps


CHANGEABLE = frozenset(
    (
        *("learning_rate", "value_learning_rate", "warmup", "schedule", "weight_decay", "max_grad_norm"),
        *("epochs", "steps", "checkpoint_every", "eval_every", "eval_prompts", "sample_every"),
        *("micro_batch_tokens", "rollout_rows", "gradient_checkpointing", "max_length", "max_new_tokens"),
        *("kl_coef", "kl_target", "kl_horizon", "kl_budget", "clip", "value_clip", "entropy_coef", "missing_eos_score"),
        *("margin", "tie_weight", "both_bad_weight", "center"),
    )
)
"""Knobs that may change while a run is paused: none that its adapters, its data or their order hang on."""

STAGES: dict[str, type[Settings]] = {"sft": SFTSettings, "reward": RewardSettings, "ppo": PPOSettings}
