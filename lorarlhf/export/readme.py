"""The model card of an export: what it is, where it comes from, and the lines that load it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from lorarlhf.export.origin import Origin

STAGES = {
    "sft": "a LoRA adapter, made by supervised fine-tuning on demonstrations",
    "reward": "a reward model: a LoRA adapter with a scalar head that predicts which answer a person prefers",
    "ppo": "a policy: a LoRA adapter, made by PPO against a reward model",
}

_HEADER = """\
import torch
from peft import PeftModel
from transformers import {model_class}, AutoTokenizer{quantisation_class}
{starter_import}
{base_line}
ADAPTER = {folder}  # this folder

bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
dtype = torch.bfloat16 if bf16 else torch.float32
model = {model_class}.from_pretrained(
    BASE,
    dtype=dtype,
    device_map="auto",
{load_arguments})
"""

_FOUR_BIT = """\
    quantization_config=BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules={skip},
    ),
"""

_EIGHT_BIT = """\
    quantization_config=BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules={skip}),
"""

_UNPACKED = """\
for module in model.modules():
    # On a CPU with AVX512-BF16, bitsandbytes would else round the base's scales at the first forward pass.
    if hasattr(module, "support_avx512bf16_for_cpu"):
        module.support_avx512bf16_for_cpu = False
"""

_POLICY = """\
model = PeftModel.from_pretrained(model, ADAPTER).eval()
tokenizer = AutoTokenizer.from_pretrained({tokenizer})


def answer(messages):
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids.to(model.device)
    drawn = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens={max_new_tokens},
        do_sample=True,  # as it was trained: the base's own top_k and the like stay out
        temperature={temperature},
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        eos_token_id={end},
        pad_token_id={end},
    )
    return tokenizer.decode(drawn[0, ids.shape[1] :], skip_special_tokens=True).strip()


print(answer([{{"role": "user", "content": "Hello!"}}]))
"""

_REWARD = """\
# transformers calls score.weight newly initialised: the adapter brings it, in fp32 whatever the base computes in.
model.score.float().register_forward_pre_hook(lambda layer, inputs: (inputs[0].float(),))
model = PeftModel.from_pretrained(model, ADAPTER).eval()
model.config.get_text_config().pad_token_id = None  # read the score at the last token, one row at a time
tokenizer = AutoTokenizer.from_pretrained({tokenizer})
END = {end}
SCORE_OFFSET = {offset!r}  # the head's bias; transformers' heads have none


@torch.no_grad()
def score(messages):
    \"\"\"Score the last message, the assistant's.\"\"\"
    text = tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if END in ids:  # the template may write more behind the end of the answer
        ids = ids[: len(ids) - ids[::-1].index(END)]
    logits = model(input_ids=torch.tensor([ids], device=model.device)).logits
    return logits.item() + SCORE_OFFSET


print(score([{{"role": "user", "content": "Hello!"}}, {{"role": "assistant", "content": "How can I help?"}}]))
"""

_BATCHES = """\
transformers reads the score at the last token that is not `config.pad_token_id`. The lines above leave that unset, so
the last token counts and rows go one by one. For batches, pad on the right with a token other than the one that ends
an answer{end}, set `model.config.pad_token_id` to it and pass the attention mask. Adding `score_offset`
({offset:.6g}) moves all scores alike: which of two answers scores higher does not depend on it.
"""


@dataclass(frozen=True)
class Export:
    """Everything the text is made of."""

    card: dict[str, Any]
    name: str
    folder: str
    """Name of the exported folder."""
    origin: Origin
    kept_16bit: tuple[str, ...]
    offset: float | None
    """The bias of a reward model's head; None for adapters without a head."""


def write_readme(export: Export) -> str:
    """Write the whole card, front matter first."""
    card, origin = export.card, export.origin
    stage = str(card.get("stage", ""))
    parts = [
        _front_matter(export, stage),
        f"# {export.name}\n",
        f"This is {STAGES.get(stage, 'a LoRA adapter')}. It was made with lorarlhf and works only on the base below.\n",
        "## Base\n",
        _table(_base_rows(export)),
        f"{_licence(origin)}\n",
        "## Load it\n",
        f"With `pip install torch transformers peft accelerate bitsandbytes`{_where(origin)}:\n",
        f"```python\n{snippet(export)}```\n",
    ]
    if export.offset is not None:
        end = f" (`{origin.end[1]}`)" if origin.end else ""
        parts.append(_BATCHES.format(end=end, offset=export.offset))
    parts += ["## How it was made\n", _made(card), _section("Metrics", _numbers(card.get("metrics", {})))]
    parts.append(_section("Settings", card.get("settings", {}).items()))
    parts.append("`card.json` says the same for programs, and names every row of data by its id.\n")
    return "\n".join(part for part in parts if part)


def snippet(export: Export) -> str:
    """Write the lines that load the adapter with plain peft and transformers."""
    origin, reward = export.origin, export.offset is not None
    skip = [*export.kept_16bit, *(["score"] if reward else [])]
    arguments = f'    revision="{origin.revision}",\n' if origin.on_hub else ""
    arguments += "    num_labels=1,\n" if reward else ""
    own = origin.bits < 16 and not origin.quantised_already
    if own:
        arguments += (_FOUR_BIT if origin.bits == 4 else _EIGHT_BIT).format(skip=_quoted(skip))
    header = _HEADER.format(
        model_class="AutoModelForSequenceClassification" if reward else "AutoModelForCausalLM",
        quantisation_class=", BitsAndBytesConfig" if own else "",
        starter_import="from lorarlhf.starter import MODEL_DIR\n" if origin.name == "starter" else "",
        base_line=_base_line(origin),
        folder=json.dumps(export.folder),
        load_arguments=arguments,
    )
    settings = export.card.get("settings", {})
    tail = (_REWARD if reward else _POLICY).format(
        tokenizer="ADAPTER" if origin.tokenizer else _base_tokenizer(origin),
        end=f"{origin.end[0]}" if origin.end else "tokenizer.eos_token_id",
        offset=export.offset,
        max_new_tokens=settings.get("max_new_tokens", 256),
        temperature=settings.get("temperature", 1.0),
    )
    return header + (_UNPACKED if origin.bits == 4 else "") + tail


def _base_line(origin: Origin) -> str:
    if origin.name == "starter":
        return "BASE = str(MODEL_DIR)  # the base that comes with lorarlhf; a plain folder of weights and tokenizer"
    if origin.on_hub:
        return f"BASE = {json.dumps(origin.name)}"
    return f"BASE = {json.dumps(origin.name)}  # the folder of the base model"


def _base_tokenizer(origin: Origin) -> str:
    return f'BASE, revision="{origin.revision}"' if origin.on_hub else "BASE"


def _where(origin: Origin) -> str:
    if origin.name == "starter":
        return " and lorarlhf itself, which brings the base, from the folder that holds this one"
    return ", from the folder that holds this one" + ("" if origin.on_hub else " and the base")


def _quoted(names: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


def _front_matter(export: Export, stage: str) -> str:
    origin = export.origin
    kind = {"reward": "reward-model", "sft": "sft", "ppo": "ppo"}.get(stage)
    fields: dict[str, Any] = {
        "base_model": origin.name,
        "library_name": "peft",
        "pipeline_tag": "text-generation" if export.offset is None else "text-classification",
        "tags": ["lora", "rlhf", "lorarlhf", *([kind] if kind else []), f"base_model:adapter:{origin.name}"],
    }
    if origin.name == "starter":
        fields["license"] = "apache-2.0"
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---\n"


def _base_rows(export: Export) -> Iterable[tuple[str, Any]]:
    origin = export.origin
    quantisation = {4: "4-bit NF4, double quantisation", 8: "8-bit", 16: "none (16 or 32 bits)"}[origin.bits]
    yield "base", origin.name
    yield "revision", origin.revision or "a local folder"
    yield "fingerprint", export.card["base"]["fingerprint"]
    yield "architecture", origin.architecture
    yield "quantisation", quantisation
    if export.kept_16bit:
        yield "not quantised", ", ".join(export.kept_16bit)


def _licence(origin: Origin) -> str:
    if origin.name == "starter":
        return "The starter base is under the licence of lorarlhf, Apache-2.0."
    place = f"https://huggingface.co/{origin.name}" if origin.on_hub else "the base's own folder"
    return f"The base's licence goes for what is built on it, this adapter included: see {place} before you share it."


def _made(card: dict[str, Any]) -> str:
    rows: list[tuple[str, Any]] = [("stage", card.get("stage", "")), ("run", card.get("run", ""))]
    rows.append(("created", card.get("created", "")))
    rows += [(f"data: {kind}", f"{len(ids)} rows") for kind, ids in card.get("data", {}).items()]
    for role, parent in card.get("parents", {}).items():
        short = f" ({parent['hash'][:12]})" if parent.get("hash") else ""
        rows.append((f"parent: {role}", f"{parent['name']}{short}"))
    return _table((name, value) for name, value in rows if value != "")


def _numbers(metrics: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    return [(name, f"{value:.4g}" if isinstance(value, float) else value) for name, value in metrics.items()]


def _section(title: str, rows: Iterable[tuple[str, Any]]) -> str:
    text = _table(rows)
    return f"## {title}\n\n{text}" if text else ""


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n" if lines else ""


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ") if value not in ("", ()) else "–"
