"""Try best-of-n out with a reward model before PPO; what is found is a row, for `lorarlhf.evaluate.bestof`."""

from __future__ import annotations

from typing import Any

from lorarlhf.engine.answering import Count, OnDone, conditions, counted, drawing, drawn_rows, heldout_prompts
from lorarlhf.engine.core import Engine
from lorarlhf.engine.heads import Heads, heads_of, pairs_for
from lorarlhf.errors import AdapterError
from lorarlhf.evaluate.bestof import best_of_key
from lorarlhf.evaluate.health import judge_of
from lorarlhf.library import BARE
from lorarlhf.settings import PPOSettings, SamplingSettings
from lorarlhf.types import Prompt

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
    """Draw n answers to each prompt and score them, unless that was done before → {"drawn"}."""
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
    if engine.store.get_meta(key, {}).get("with") == made_with:
        return {"drawn": 0}
    pairs = pairs_for(engine)
    count = Count(2 * n * len(asked) + len(pairs), on_done)
    heads = heads_of(engine, judge, pairs, count.budget)
    count.add(len(pairs))
    rows = _rows(engine, asked, n, name, sampling, heads, count)
    kept = {"with": made_with, "adapter": name, "reward": judge.name, "prompts": rows, "caveats": caveats}
    engine.store.set_meta(key, {**kept, "heads": heads.size, "voted": heads.spread})
    return {"drawn": n * len(asked)}


def _rows(
    engine: Engine,
    asked: list[Prompt],
    n: int,
    name: str,
    sampling: SamplingSettings,
    heads: Heads,
    count: Count,
) -> list[dict[str, Any]]:
    """Draw and score → per prompt, what there is to say about its n answers."""
    rows, drawn = drawn_rows(engine, asked, n, name, sampling, count)
    scores, said = heads.score(engine, rows, count.budget)
    count.add(len(rows))
    unended = PPOSettings().missing_eos_score  # as PPO would count them
    own = [counted(score, answer.ended, unended) for score, answer in zip(scores, drawn, strict=True)]
    least = [counted(min(s, default=0.0), answer.ended, unended) for s, answer in zip(said, drawn, strict=True)]
    lengths = [len(answer.tokens) for answer in drawn]
    parts = [slice(i, i + n) for i in range(0, len(rows), n)]
    return [{"scores": own[part], "least": least[part], "tokens": lengths[part]} for part in parts]
