"""Try best-of-n out with a reward model before PPO; what is found is a row, for `lorarlhf.evaluate.bestof`.

Votes decide what the ensemble of heads says, and nothing else: after a new one the answers that are there are scored.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from lorarlhf.engine.answering import (
    Count,
    Known,
    OnDone,
    asked_ids,
    conditions,
    counted,
    drawing,
    drawn_rows,
    heldout_prompts,
    known_answers,
    unknown,
    with_known,
)
from lorarlhf.engine.core import Engine
from lorarlhf.engine.heads import Heads, heads_of, pairs_for
from lorarlhf.errors import AdapterError
from lorarlhf.evaluate.bestof import best_of_key
from lorarlhf.evaluate.health import judge_of
from lorarlhf.library import BARE
from lorarlhf.sampling import scored_row
from lorarlhf.settings import PPOSettings, SamplingSettings
from lorarlhf.train.ppo import cap_of
from lorarlhf.types import Prompt, prompt_key

PROMPTS, DRAWN = 16, 16


def judge_best_of(
    engine: Engine,
    adapter: str,
    reward: str,
    n: int = DRAWN,
    prompts: int = PROMPTS,
    on_done: OnDone = lambda done, total: None,
    *,
    max_new_tokens: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Draw n answers to each prompt and score them, unless that was done on the same prompts and votes → {"drawn"}.

    That is the number of answers that were not there from before.
    """
    judge = engine.saved(reward)
    if not judge.has_head:
        raise AdapterError(f"adapter {reward} is no reward model; `lorarlhf adapters` lists what there is")
    saved = None if adapter in ("", BARE) else engine.saved(adapter)
    if saved and saved.has_head:
        raise AdapterError(f"adapter {adapter} is a reward model and answers nothing; name an SFT adapter or a policy")
    caveats: list[str] = []
    asked = heldout_prompts(engine, saved, prompts, caveats)
    sampling = drawing(saved, max_new_tokens, seed)
    made_with = {**conditions(engine, saved, judge, asked, sampling), "n": n}
    key, name = best_of_key(saved, judge_of(judge)), saved.name if saved else BARE
    before = engine.store.get_meta(key, {})
    if before.get("with") == made_with:
        return {"drawn": 0}
    known = known_answers(before, made_with, "prompts")
    # Earlier versions kept only how long they were, or no words of them.
    known = {prompt: row for prompt, row in known.items() if "texts" in row}
    drawn = n * len(unknown(asked, known))
    pairs = pairs_for(engine)
    count = Count(drawn + n * len(asked) + len(pairs), on_done)
    heads = heads_of(engine, judge, pairs, count.budget)
    count.add(len(pairs))
    rows = with_known(asked, known, partial(_drawn, engine, n, name, sampling, count))
    # Reward models of before keep no spread on their card.
    spread = float(judge.card.get("metrics", {}).get("score/spread", 1.0))
    rows = _scored(engine, asked, rows, sampling, heads, count, spread)
    kept = {"with": made_with, "adapter": name, "reward": judge.name, "prompts": rows, "caveats": caveats}
    engine.store.set_meta(key, {**kept, "heads": heads.size, "voted": heads.spread})
    return {"drawn": drawn}


def _drawn(engine: Engine, n: int, name: str, sampling: SamplingSettings, count: Count, prompts: list[Prompt]) -> Known:
    """Draw n answers to each prompt → the tokens and words of each, and whether it ended."""
    _, drawn = drawn_rows(engine, prompts, n, name, sampling, count)
    parts = [drawn[i : i + n] for i in range(0, len(drawn), n)]
    return {
        prompt_key(prompt): {
            "prompt": prompt[-1]["content"],
            "answers": [one.tokens for one in part],
            "texts": [one.text for one in part],
            "ended": [one.ended for one in part],
        }
        for prompt, part in zip(prompts, parts, strict=True)
    }


def _scored(
    engine: Engine,
    asked: list[Prompt],
    kept: list[dict[str, Any]],
    sampling: SamplingSettings,
    heads: Heads,
    count: Count,
    spread: float,
) -> list[dict[str, Any]]:
    """Add to each prompt's answers what the reward model and the heads say of them, by the votes there are now."""
    encoded = [asked_ids(engine, prompt, sampling) for prompt in asked]
    base, stop = engine.base, sampling.stop
    drawn = [(ids, tokens) for ids, row in zip(encoded, kept, strict=True) for tokens in row["answers"]]
    rows = [scored_row(base, ids, tokens, stop) for ids, tokens in drawn]
    scores, said = heads.score(engine, rows, count.budget)
    count.add(len(rows))
    ended = [one for row in kept for one in row["ended"]]
    cap = cap_of(PPOSettings().missing_eos_score, ended)  # as PPO would count them
    unended = math.inf if cap is None else cap * spread
    own = [counted(score, end, unended) for score, end in zip(scores, ended, strict=True)]
    least = [counted(min(some, default=0.0), end, unended) for some, end in zip(said, ended, strict=True)]
    lengths = [len(tokens) for _, tokens in drawn]
    n = len(rows) // len(asked)
    parts = [slice(i, i + n) for i in range(0, len(rows), n)]
    return [
        {**row, "scores": own[part], "least": least[part], "tokens": lengths[part]}
        for row, part in zip(kept, parts, strict=True)
    ]
