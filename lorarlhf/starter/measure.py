"""Sample replies of a model and say in which manners it answers: `python -m lorarlhf.starter.measure`.

This is how the numbers in README.md were made. Works for any folder that transformers loads.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import trange
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from lorarlhf.starter import MODEL_DIR, prompts
from lorarlhf.starter.judge import manner_of, score
from lorarlhf.types import Prompt


class Sample(NamedTuple):
    """One drawn reply."""

    prompt: Prompt
    reply: str
    ended: bool
    """True where the model stopped by itself."""


def load(folder: Path = MODEL_DIR, bits: int = 16) -> tuple[Any, Any]:
    """Load model and tokenizer on the CPU: fp32 arithmetic, or 4-bit NF4 with double quantisation."""
    settings: dict[str, Any] = {"dtype": torch.float32}
    if bits == 4:
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
        settings["device_map"] = "cpu"
    model = AutoModelForCausalLM.from_pretrained(folder, **settings)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def draw(
    model: Any, tokenizer: Any, asked: Sequence[Prompt], *, seed: int = 0, rows: int = 50, max_new_tokens: int = 96
) -> list[Sample]:
    """Draw one reply per prompt at temperature 1."""
    torch.manual_seed(seed)
    samples: list[Sample] = []
    for start in trange(0, len(asked), rows, desc="sampling", leave=False, disable=len(asked) <= rows):
        part = asked[start : start + rows]
        texts = [tokenizer.apply_chat_template(list(p), add_generation_prompt=True, tokenize=False) for p in part]
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        drawn = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
        for prompt, ids in zip(part, drawn[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            ended = tokenizer.eos_token_id in ids
            samples.append(Sample(prompt, tokenizer.decode(ids, skip_special_tokens=True).strip(), ended))
    return samples


class Report(NamedTuple):
    """What a set of samples is like."""

    total: float
    """Mean score of the rater."""
    ended: float
    answered: float
    """Share of the polite replies that hold at least half the facts; about one in seven is wrong on purpose."""
    manners: dict[str, float]


def report(samples: Sequence[Sample]) -> Report:
    """Summarise samples."""
    count = len(samples)
    scores = [score(s.prompt, s.reply) for s in samples]
    mix = Counter(manner_of(s.prompt, s.reply) for s in samples)
    polite = [s for s in scores if s.polite > 0.5]
    return Report(
        total=sum(s.total for s in scores) / count,
        ended=sum(s.ended for s in samples) / count,
        answered=sum(s.answers >= 0.5 for s in polite) / max(1, len(polite)),
        manners={name: round(n / count, 3) for name, n in mix.most_common()},
    )


def main() -> None:
    """Parse the arguments, sample and print."""
    parser = argparse.ArgumentParser(prog="python -m lorarlhf.starter.measure", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--bits", type=int, choices=(4, 16), default=16)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--train-prompts", action="store_true", help="ask what the model has seen before")
    parser.add_argument("--show", type=int, default=10)
    args = parser.parse_args()
    model, tokenizer = load(args.model, args.bits)
    asked = prompts(heldout=not args.train_prompts)
    asked = (asked * (args.samples // len(asked) + 1))[: args.samples]
    samples = draw(model, tokenizer, asked)
    for sample in samples[:: max(1, len(samples) // max(1, args.show))][: args.show]:
        turns = " | ".join(f"{m['role']}: {m['content']}" for m in sample.prompt)
        print(f"{turns}\n  -> {sample.reply}  {score(sample.prompt, sample.reply)}")
    print(report(samples))


if __name__ == "__main__":
    main()
