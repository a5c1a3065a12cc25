"""Rebuild the starter: `python -m lorarlhf.starter.build [--out DIR]`.

Writes the jsonl files, the tokenizer and the weights. The same seeds give the same files; for the weights that
holds for the same torch build and the same kind of processor (see train.py). About half an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorarlhf.starter import MODEL_DIR
from lorarlhf.starter.corpus import Conversation, Writer
from lorarlhf.starter.texts import intents

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

TOKENIZER_SEED, TRANSCRIPTS_SEED, PROMPTS_SEED, HELDOUT_SEED = 10, 11, 12, 13
TOKENIZER_CONVERSATIONS = 20_000
TRANSCRIPTS = 800
PROMPT_ROUNDS = 8
"""Prompts per kind of request in the file for training; two of them go on to a second turn."""
HELDOUT_TWO_TURNS = 50


def transcript_rows() -> Iterator[dict[str, Any]]:
    """Yield past conversations of mixed tone to imitate: they teach the job, not the manners."""
    stream = (c for c in Writer(TRANSCRIPTS_SEED, mix="transcripts").conversations() if c.ended)
    yield from ({"messages": list(c.messages)} for c in islice(stream, TRANSCRIPTS))


def prompt_rows(heldout: bool) -> Iterator[dict[str, Any]]:
    """Yield requests to answer, none twice; held-out ones are worded as no training text is."""
    writer = Writer(HELDOUT_SEED if heldout else PROMPTS_SEED, mix="transcripts")
    seen: set[str] = set()
    for conversation in _prompt_conversations(writer, heldout):
        row = {"prompt": list(conversation.messages[:-1])}
        key = json.dumps(row)
        if key not in seen:
            seen.add(key)
            yield row


def _prompt_conversations(writer: Writer, heldout: bool) -> Iterator[Conversation]:
    for place, intent in enumerate(intents().values()):
        if heldout:
            for form in intent.heldout:
                yield writer.from_form(intent, form, two_turns=False)
            if place * HELDOUT_TWO_TURNS // 75 != (place - 1) * HELDOUT_TWO_TURNS // 75:
                yield writer.from_form(intent, intent.heldout[place % 2], two_turns=True)
            continue
        for form in writer.rng.sample(intent.asks, PROMPT_ROUNDS - 2):
            yield writer.from_form(intent, form, two_turns=False)
        for form in writer.rng.sample(intent.asks, 2):
            yield writer.from_form(intent, form, two_turns=True)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Learn the vocabulary from conversations of the recipe."""
    from lorarlhf.starter.tokenizer import train_tokenizer

    stream = islice(Writer(TOKENIZER_SEED).conversations(system=0.1), TOKENIZER_CONVERSATIONS)
    return train_tokenizer(message["content"] for c in stream for message in c.messages)


def write_data(out: Path) -> None:
    """Write transcripts and prompts."""
    out.mkdir(parents=True, exist_ok=True)
    _write_jsonl(out / "transcripts.jsonl", transcript_rows())
    _write_jsonl(out / "prompts.jsonl", prompt_rows(heldout=False))
    _write_jsonl(out / "prompts_heldout.jsonl", prompt_rows(heldout=True))


def write_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save weights in bf16 with tokenizer and generation defaults, as any loader of transformers expects."""
    import torch
    from transformers import GenerationConfig

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.generation_config = GenerationConfig(
        do_sample=True,
        max_new_tokens=96,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.to(torch.bfloat16)  # type: ignore[arg-type]  # the decorated method's stub is wrong
    model.save_pretrained(folder)


def _write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the arguments and build."""
    parser = argparse.ArgumentParser(prog="python -m lorarlhf.starter.build", description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL_DIR.parent, help="folder to write to")
    parser.add_argument("--steps", type=int, default=None, help="steps per phase, for a quick look at a worse model")
    parser.add_argument("--start", type=Path, default=None, help="model folder to train only the last phase from")
    parser.add_argument("--data-only", action="store_true", help="write the jsonl files only")
    args = parser.parse_args()
    write_data(args.out)
    if args.data_only:
        return
    from transformers import LlamaForCausalLM

    from lorarlhf.starter.train import PHASES, heldout_loss, train_model

    tokenizer = build_tokenizer()
    phases = [phase._replace(steps=args.steps or phase.steps) for phase in PHASES]
    start = LlamaForCausalLM.from_pretrained(args.start, dtype="float32") if args.start else None
    model = train_model(tokenizer, phases, start)
    print(f"{model.num_parameters():,} parameters, held-out loss {heldout_loss(model, tokenizer):.4f}")
    write_model(model, tokenizer, args.out / MODEL_DIR.name)


if __name__ == "__main__":
    main()
