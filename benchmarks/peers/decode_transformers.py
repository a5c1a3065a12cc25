"""The other side: `generate` of transformers on plain peft. Run by `benchmarks.decode`.

As it comes, without what training needs: on processors with AVX512-BF16 bitsandbytes repacks the weights for decoding.
"""

from __future__ import annotations

import json
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig

from benchmarks.peers.decoding import DecodeWork, Draw, tokens_per_second
from lorarlhf.hardware import pick_dtype


def make_draw(work: DecodeWork, sample: bool = True, compute: str = "auto") -> Draw:
    """Load base and adapter → what draws answers."""
    device = torch.device(work.device)
    dtype = pick_dtype(compute, device)[0]
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head"],
    )
    plain = AutoModelForCausalLM.from_pretrained(
        work.base, quantization_config=quantised, dtype=dtype, device_map={"": work.device}
    )
    model = PeftModel.from_pretrained(plain, work.adapter).eval()
    asked = {"do_sample": sample, "temperature": 1.0, "top_p": 1.0, "top_k": 0} if sample else {"do_sample": False}
    # Without an end mark no row ends before the others.
    settings = GenerationConfig(**asked, max_new_tokens=work.tokens, pad_token_id=0, eos_token_id=None)
    model.base_model.model.generation_config = settings

    @torch.no_grad()
    def draw(prompts: list[list[int]]) -> list[list[int]]:
        ids_BQ = torch.tensor(prompts, device=device)
        found_BL = model.generate(input_ids=ids_BQ, attention_mask=torch.ones_like(ids_BQ), generation_config=settings)
        answers: list[list[int]] = found_BL[:, ids_BQ.shape[1] :].tolist()
        return answers

    return draw


if __name__ == "__main__":
    work = DecodeWork.read(sys.argv[1])
    print(json.dumps(tokens_per_second(work, 1000, make_draw(work))))
