"""Read an export as anybody would, with plain transformers and peft, and write what it says about given tokens.

A program of its own that imports nothing of lorarlhf, run as `python replay.py JOB.json` in a fresh process. The file
has a list of `jobs`, done one after another, each with:

    mode      peft, merged or gguf
    lines     the README's own lines, which load the model then; empty to load it by what follows
    reward    whether to read scores
    base      folder of the base; of the merged model itself where mode is merged
    folder    the export
    bits      4, 8 or 16
    skip      layers that are not quantised
    dtype     of activations, and of weights that are not quantised
    device    where to compute
    trust     whether code that comes with the base may run
    rows      file of [[prompt ids, answer ids], …]
    said      file of what the rows say, as messages; null where a row was cut or a reader's tokenizer may differ
    end       token that ends an answer; null where nobody can tell
    out       file to write: per row log-probabilities [R, V], or a score [1]
"""

from __future__ import annotations

import gc
import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    GenerationMixin,
    LogitsProcessor,
)

ENDS_AFTER, MOST = 2, 6
"""Tokens after which the end mark is forced on an answer, and the most that is drawn in a check."""
CLOSE = 1e-3
"""How far apart the same score may be twice."""


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for job in json.loads(Path(sys.argv[1]).read_text())["jobs"]:
        save_file(numbers(job), job["out"])
        gc.collect()  # the model is full of cycles, and the next one wants its room


@torch.no_grad()
def numbers(job: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Do a job → its numbers, by row."""
    rows, found = json.loads(Path(job["rows"]).read_text()), {}
    if job.get("lines"):
        model, names = by_lines(job)
    else:
        model, names = read(job), {}
    for number, (prompt, answer) in enumerate(rows):
        ids = torch.tensor([prompt + answer], device=job["device"])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].float().cpu()
        if not job["reward"]:
            logits = logits[len(prompt) - 1 : -1].log_softmax(-1)
        found[str(number)] = logits.contiguous()
    if names:
        check_words(job, names, rows, found)
    return found


# -- by the README's own lines --------------------------------------------------------------------------------


def by_lines(job: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Run the lines a reader of the README would run → the model, and all names they define."""
    names: dict[str, Any] = {}
    with short_answers(job["end"]), redirect_stdout(io.StringIO()):
        exec(compile(job["lines"], "README.md", "exec"), names)
    return names["model"], names


def check_words(
    job: dict[str, Any], names: dict[str, Any], rows: list[list[list[int]]], found: dict[str, torch.Tensor]
) -> None:
    """Make sure that the README's functions read words as training did, and that answers end; exit in words if not."""
    said = json.loads(Path(job["said"]).read_text())
    for number, messages in enumerate(said):
        if messages is None:
            continue
        if job["reward"]:
            score, wanted = names["score"](messages), float(found[str(number)]) + names["SCORE_OFFSET"]
            if abs(score - wanted) > CLOSE * max(1.0, abs(wanted)):
                sys.exit(f"the README's lines score an answer {score:.4g} that the same model scores {wanted:.4g}")
            continue
        with short_answers(job["end"]) as drawn:
            names["answer"](messages[:-1])
        (asked, answer) = drawn[-1]
        if asked != rows[number][0]:
            sys.exit("the README's lines put a prompt into other tokens than training did")
        _check_ended(job, answer, "the README's lines")
    if not job["reward"] and job["mode"] == "merged":
        ids = torch.tensor([rows[0][0]], device=names["model"].device)
        with short_answers(job["end"]) as drawn:
            names["model"].generate(input_ids=ids, attention_mask=torch.ones_like(ids))
        _check_ended(job, drawn[-1][1], "a plain generate()")


def _check_ended(job: dict[str, Any], answer: list[int], who: str) -> None:
    if job["end"] is not None and len(answer) > ENDS_AFTER + 1:
        sys.exit(f"{who} would not stop where an answer ends: it does not know the end mark")


@contextmanager
def short_answers(end: int | None) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Let `generate` draw a few tokens, the end mark soon; yield a list that takes each prompt and answer."""
    plain, drawn = GenerationMixin.generate, []

    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked = kwargs["input_ids"].shape[1]
        kwargs |= {"max_new_tokens": MOST, "logits_processor": [Ending(end, asked + ENDS_AFTER)]}
        found = plain(self, *args, **kwargs)
        drawn.append((found[0, :asked].tolist(), found[0, asked:].tolist()))
        return found

    GenerationMixin.generate = generate  # type: ignore[method-assign, assignment]
    try:
        yield drawn
    finally:
        GenerationMixin.generate = plain  # type: ignore[method-assign]


class Ending(LogitsProcessor):  # type: ignore[misc, no-any-unimported]
    """Leaves only the end mark when a row has so many tokens."""

    def __init__(self, end: int | None, length: int) -> None:
        self.end, self.length = end, length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.nan_to_num()  # nothing can be drawn from NaN; the numbers are compared afterwards
        if input_ids.shape[1] == self.length and self.end is not None:
            scores = torch.full_like(scores, -torch.inf)
            scores[:, self.end] = 0.0
        return scores


# -- by what the job says -------------------------------------------------------------------------------------


def read(job: dict[str, Any]) -> Any:
    """Load the model the job names, with its adapter."""
    dtype = getattr(torch, job["dtype"])
    arguments: dict[str, Any] = {"dtype": dtype, "device_map": {"": job["device"]}, "use_safetensors": True}
    arguments["trust_remote_code"] = job["trust"]
    if job["reward"]:
        arguments["num_labels"] = 1
    if job["bits"] == 4:
        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=job["skip"],
        )
    elif job["bits"] == 8:
        arguments["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=job["skip"])
    kind = AutoModelForSequenceClassification if job["reward"] else AutoModelForCausalLM
    model = kind.from_pretrained(job["base"], **arguments).eval()
    for module in model.modules():
        # On processors with AVX512-BF16 bitsandbytes would else round the scales at the first forward pass.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if job["reward"]:
        # Rows go one by one, so the last token is the one to read.
        model.config.get_text_config().pad_token_id = None
    if job["mode"] == "peft":
        if job["reward"]:
            model.score.float().register_forward_pre_hook(lambda layer, inputs: (inputs[0].float(),))
        model = PeftModel.from_pretrained(model, job["folder"]).eval()
    elif job["mode"] == "gguf":
        model = with_gguf(model, next(Path(job["folder"]).glob("*.gguf"))).eval()
    return model


def with_gguf(model: Any, file: Path) -> Any:
    """Put the matrices of a GGUF adapter on the layers they are named after.

    peft computes with them, so that nothing but the file can make a difference.
    """
    import gguf

    reader = gguf.GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if (fields["general.type"], fields["adapter.type"]) != ("adapter", "lora"):
        raise ValueError(f"{file.name} is no LoRA adapter")
    arch = fields["general.architecture"]
    known = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[arch]
    config = model.config.get_text_config()
    names = gguf.get_tensor_name_map(known, config.num_hidden_layers)
    tensors = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    found, ranks = {}, set()
    for name, module in model.named_modules():
        place = f"{names.get_name(name)}.weight"
        if not hasattr(module, "weight") or f"{place}.lora_a" not in tensors:
            continue
        a, b = tensors.pop(f"{place}.lora_a"), tensors.pop(f"{place}.lora_b")
        if arch == "llama" and (kind := re.search(r"\.attn_([qk])\.", place)):
            heads = config.num_attention_heads if kind[1] == "q" else config.num_key_value_heads
            b = b[halves(b.shape[0], heads)]
        found[name] = (a, b)
        ranks.add(b.shape[1])
    if tensors or len(ranks) != 1:
        raise ValueError(f"{file.name} does not fit the base: {min(tensors, default='its ranks')}")
    alpha = fields["adapter.lora.alpha"]
    adapted = get_peft_model(model, LoraConfig(r=ranks.pop(), lora_alpha=alpha, target_modules=list(found)))
    state = {f"base_model.model.{name}.lora_A.weight": a for name, (a, _) in found.items()}
    state |= {f"base_model.model.{name}.lora_B.weight": b for name, (_, b) in found.items()}
    taken: Any = set_peft_model_state_dict(adapted, state)
    if unknown := taken.unexpected_keys:
        raise ValueError(f"peft has no place for {unknown[0]}")
    return adapted


def halves(rows: int, heads: int) -> list[int]:
    """Say where each row of a rotary projection stands in GGUF's order, in which the halves of a head alternate."""
    width = rows // heads
    return [head * width + 2 * pair + half for head in range(heads) for half in range(2) for pair in range(width // 2)]


if __name__ == "__main__":
    main()
