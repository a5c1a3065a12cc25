"""The model card of an export: what it is, where it comes from, and the lines that load it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from lorarlhf.evaluate.duel_words import card_lines
from lorarlhf.export.origin import Origin
from lorarlhf.export.readme_gguf import loading as gguf_loading
from lorarlhf.export.readme_python import loading as python_loading

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
    return ["## Load it\n", f"With `pip install {packages}`{where}:\n", f"```python\n{python_loading(export)}```\n"]


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


def _where(origin: Origin) -> str:
    if origin.name == "starter":
        return " and lorarlhf itself, which brings the base, from the folder that holds this one"
    return ", from the folder that holds this one" + ("" if origin.on_hub else " and the base")


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
