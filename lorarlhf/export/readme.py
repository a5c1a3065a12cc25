"""The model card of an export: what it is, where it comes from, and the lines that load it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from lorarlhf.evaluate.duel_words import card_lines
from lorarlhf.export.origin import Origin
from lorarlhf.export.readme_gguf import loading as gguf_loading

if TYPE_CHECKING:
    from lorarlhf.export.exporting import Check

STAGES = {
    "sft": "a LoRA adapter, made by supervised fine-tuning on demonstrations",
    "reward": "a reward model: a LoRA adapter with a scalar head that predicts which answer a person prefers",
    "ppo": "a policy: a LoRA adapter, made by PPO against a reward model",
}

USES = {
    "reward": "Intended use: telling which of two answers to a prompt its rater would prefer, for prompts like those "
    "it learned from. Scores say nothing about truth or safety, and answers that were optimised against it for long "
    "score higher than they deserve.",
    "": "Intended use: answering in the way its rater prefers, prompts like those it learned from. It knows what its "
    "base knows and no more, it was not examined for safety, and it may be wrong with confidence.",
}
"""Stage → what an adapter is for; the empty stage is any other."""

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

_MERGED = """\
import torch
from transformers import {model_class}, AutoTokenizer

ADAPTER = {folder}  # this folder, adapter and base in one
model = {model_class}.from_pretrained(ADAPTER, dtype="auto", device_map="auto").eval()
"""

_HUNG = """\
model = PeftModel.from_pretrained(model, ADAPTER).eval()
"""

_POLICY = """\
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

_HUNG_SCORE = """\
# transformers calls score.weight newly initialised: the adapter brings it, in fp32 whatever the base computes in.
model.score.float().register_forward_pre_hook(lambda layer, inputs: (inputs[0].float(),))
model = PeftModel.from_pretrained(model, ADAPTER).eval()
"""

_REWARD = """\
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
    form: str = "peft"
    checks: tuple[Check, ...] = ()
    """How the exported files were checked."""


def write_readme(export: Export) -> str:
    """Write the whole card, front matter first."""
    card, origin = export.card, export.origin
    stage = str(card.get("stage", ""))
    what = STAGES.get(stage, "a LoRA adapter")
    whole = "The base is merged into these files" if export.form == "merged" else "It works only on the base below"
    parts = [
        _front_matter(export, stage),
        f"# {export.name}\n",
        f"This is {what}. It was made with lorarlhf. {whole}.\n",
        f"{USES.get(stage, USES[''])}\n",
        "## Base\n",
        _table(_base_rows(export)),
        f"{_licence(origin)}\n",
        *_loading(export),
    ]
    if export.offset is not None:
        end = f" (`{origin.end[1]}`)" if origin.end else ""
        parts.append(_BATCHES.format(end=end, offset=export.offset))
    parts += [_checks(export), "## How it was made\n", _made(card)]
    parts.append(_section("Metrics", _numbers(card.get("metrics", {}))))
    parts.append(_section("Blind comparisons, on prompts it never learned from", card_lines(card).items()))
    parts.append(_section("Settings", card.get("settings", {}).items()))
    parts.append("`card.json` says the same for programs, and names every row of data by its id.\n")
    return "\n".join(part for part in parts if part)


def _loading(export: Export) -> list[str]:
    """Write how the files are put to use."""
    if export.form == "gguf":
        return ["## Load it\n", gguf_loading(export.origin, export.name)]
    packages = "torch transformers accelerate" + (" peft bitsandbytes" if export.form == "peft" else "")
    where = _where(export.origin) if export.form == "peft" else ", from the folder that holds this one"
    return ["## Load it\n", f"With `pip install {packages}`{where}:\n", f"```python\n{snippet(export)}```\n"]


def _checks(export: Export) -> str:
    """Write what was found when the files were read back."""
    if not export.checks:
        return ""
    lines = [
        "## Checked\n",
        "Before this export was called done, a fresh process read it back with plain transformers"
        f"{'' if export.form == 'merged' else ' and peft' if export.form == 'peft' else ' and the gguf package'}:\n",
    ]
    lines += [f"- {check.first} against {check.second}: {check.words}{_told(check)}" for check in export.checks]
    return "\n".join(lines) + "\n"


def _told(check: Check) -> str:
    found = check.agreement
    if found.kl is None or found.top1 is None:
        return f"; they order {found.order:.0%} of the answers alike"
    return f"; KL {found.kl:.2g} nats a token, the same likeliest token {found.top1:.1%} of the time"


def snippet(export: Export) -> str:
    """Write the lines that load the export with plain transformers, and peft where it is an adapter."""
    origin, reward = export.origin, export.offset is not None
    settings = export.card.get("settings", {})
    kind = "AutoModelForSequenceClassification" if reward else "AutoModelForCausalLM"
    if export.form == "merged":
        header = _MERGED.format(model_class=kind, folder=json.dumps(export.folder))
    else:
        header = _adapter_header(export, kind) + (_HUNG_SCORE if reward else _HUNG)
    return header + (_REWARD if reward else _POLICY).format(
        tokenizer="ADAPTER" if origin.tokenizer else _base_tokenizer(origin),
        end=f"{origin.end[0]}" if origin.end else "tokenizer.eos_token_id",
        offset=export.offset,
        max_new_tokens=settings.get("max_new_tokens", 256),
        temperature=settings.get("temperature", 1.0),
    )


def _adapter_header(export: Export, kind: str) -> str:
    """Write the lines that load the base as it was when the adapter was trained."""
    origin, reward = export.origin, export.offset is not None
    skip = [*export.kept_16bit, *(["score"] if reward else [])]
    arguments = f'    revision="{origin.revision}",\n' if origin.on_hub else ""
    arguments += "    num_labels=1,\n" if reward else ""
    own = origin.bits < 16 and not origin.quantised_already
    if own:
        arguments += (_FOUR_BIT if origin.bits == 4 else _EIGHT_BIT).format(skip=_quoted(skip))
    header = _HEADER.format(
        model_class=kind,
        quantisation_class=", BitsAndBytesConfig" if own else "",
        starter_import="from lorarlhf.starter import MODEL_DIR\n" if origin.name == "starter" else "",
        base_line=_base_line(origin),
        folder=json.dumps(export.folder),
        load_arguments=arguments,
    )
    return header + (_UNPACKED if origin.bits == 4 else "")


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
        "library_name": {"peft": "peft", "merged": "transformers", "gguf": "gguf"}[export.form],
        "pipeline_tag": "text-generation" if export.offset is None else "text-classification",
        "base_model_relation": "finetune" if export.form == "merged" else "adapter",
        "tags": ["lora", "rlhf", "lorarlhf", *([kind] if kind else [])],
    }
    if export.form != "merged":
        fields["tags"].append(f"base_model:adapter:{origin.name}")
    if origin.licence:
        fields["license"] = origin.licence
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
    if origin.licence:
        return f"The base says it is under `{origin.licence}`, which goes for what is built on it too: see {place}."
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
