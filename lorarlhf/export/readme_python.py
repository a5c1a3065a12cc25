"""The lines of Python that load an export, for its model card."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lorarlhf.data.chat import TODAY
from lorarlhf.export.origin import Origin

if TYPE_CHECKING:
    from lorarlhf.export.readme import Export

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
model = {model_class}.from_pretrained(ADAPTER, dtype="auto", device_map="auto"{trust}).eval()
"""

_HUNG = """\
model = PeftModel.from_pretrained(model, ADAPTER).eval()
"""

_POLICY = """\
tokenizer = AutoTokenizer.from_pretrained({tokenizer})


def answer(messages):
{parts}    text = tokenizer.apply_chat_template(
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
{dated}END = {end}
SCORE_OFFSET = {offset!r}  # the head's bias; transformers' heads have none


@torch.no_grad()
def score(messages):
    \"\"\"Score the last message, the assistant's, as one that follows the others.\"\"\"
    def render(turns, answer):
{parts}        return tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=answer, enable_thinking=False
        )

    asked, before = render(messages[:-1], True), render([{{"role": "user", "content": "?"}}], True)
    # The answer as the template writes it; some templates write a conversation otherwise once it is answered.
    whole = render([{{"role": "user", "content": "?"}}, messages[-1]], False)
    text = whole[len(before) :] if whole.startswith(before) else messages[-1]["content"]
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if END in ids:  # the template may write more behind the end of the answer
        ids = ids[: len(ids) - 1 - ids[::-1].index(END)]
    ids = tokenizer(asked, add_special_tokens=False).input_ids + ids + [END]
    logits = model(input_ids=torch.tensor([ids], device=model.device)).logits
    return logits.item() + SCORE_OFFSET


print(score([{{"role": "user", "content": "Hello!"}}, {{"role": "assistant", "content": "How can I help?"}}]))
"""


_DATED = r"""# The template writes a date: the one that was written in training, so that a score is the same every day.
DAY = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")
tokenizer.chat_template = DAY.sub(lambda call: repr(date({day}).strftime(call[2])), tokenizer.chat_template)
"""

_PARTS = """\
{indent}# The template takes contents as lists of parts.
{indent}{name} = [{{**turn, "content": [{{"type": "text", "text": turn["content"]}}]}} for turn in {name}]
"""


def loading(export: Export) -> str:
    """Write the lines that load the export with plain transformers, and peft where it is an adapter."""
    origin, reward = export.origin, export.offset is not None
    settings = export.card.get("settings", {})
    kind = "AutoModelForSequenceClassification" if reward else "AutoModelForCausalLM"
    if export.form == "merged":
        trust = ", trust_remote_code=True" if _own_code(origin) else ""
        header = _MERGED.format(model_class=kind, folder=json.dumps(export.folder), trust=trust)
    else:
        header = _adapter_header(export, kind) + (_HUNG_SCORE if reward else _HUNG)
    dated = reward and origin.dated
    if dated:
        header = "import re\nfrom datetime import date\n\n" + header
    parts = _PARTS.format(indent="        " if reward else "    ", name="turns" if reward else "messages")
    return header + (_REWARD if reward else _POLICY).format(
        tokenizer="ADAPTER" if origin.tokenizer else _base_tokenizer(origin),
        end=f"{origin.end[0]}" if origin.end else "tokenizer.eos_token_id",
        offset=export.offset,
        max_new_tokens=settings.get("max_new_tokens", 256),
        temperature=settings.get("temperature", 1.0),
        dated=_DATED.format(day=f"{TODAY.year}, {TODAY.month}, {TODAY.day}") if dated else "",
        parts=parts if origin.parts else "",
    )


def _adapter_header(export: Export, kind: str) -> str:
    """Write the lines that load the base as it was when the adapter was trained."""
    origin, reward = export.origin, export.offset is not None
    skip = [*export.kept_16bit, *(["score"] if reward else [])]
    arguments = f'    revision="{origin.revision}",\n' if origin.on_hub else ""
    arguments += "    trust_remote_code=True,\n" if _own_code(origin) else ""
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


def _own_code(origin: Origin) -> bool:
    """Tell whether the base brings code of its own, which a reader must allow too."""
    return "auto_map" in origin.config


def _base_line(origin: Origin) -> str:
    if origin.name == "starter":
        return "BASE = str(MODEL_DIR)  # the base that comes with lorarlhf; a plain folder of weights and tokenizer"
    if origin.on_hub:
        return f"BASE = {json.dumps(origin.name)}"
    return f"BASE = {json.dumps(origin.name)}  # the folder of the base model"


def _base_tokenizer(origin: Origin) -> str:
    return f'BASE, revision="{origin.revision}"' if origin.on_hub else "BASE"


def _quoted(names: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"
