"""Judge a reward model: score the answers that were voted on, and fresh ones of base, SFT and policy. Once each.

What is scored is a row, so that the report (`lorarlhf.evaluate`) is there at once from then on; a stopped job keeps
what it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from lorarlhf.data.chat import encode_response
from lorarlhf.engine.core import Engine
from lorarlhf.errors import AdapterError
from lorarlhf.evaluate.health import drawn_key, judge_of
from lorarlhf.evaluate.rounds import course_now
from lorarlhf.evaluate.votes import answers_of, learned_of
from lorarlhf.library import BARE, SavedAdapter, list_on
from lorarlhf.settings import SamplingSettings
from lorarlhf.store import Scored
from lorarlhf.store.scores import answer_key
from lorarlhf.types import Prompt, is_heldout, prompt_key

PROMPTS = 32
"""Held-out prompts that fresh answers are drawn to."""
CHUNK = 64
"""Answers scored between two moments at which a job can be stopped; those before it are kept."""

OnJudged = Callable[[int, int], object]


def judge(
    engine: Engine,
    adapter: str,
    sampling: SamplingSettings,
    prompts: int = PROMPTS,
    on_judged: OnJudged = lambda done, total: None,
    *,
    heldout_only: bool = False,
) -> dict[str, Any]:
    """Score what a reward model has not scored yet, and draw answers to `prompts` prompts → {"scored", "drawn"}.

    With `heldout_only` answers to prompts it learned from are left for later.
    """
    saved = engine.saved(adapter)
    if not saved.has_head:
        raise AdapterError(f"adapter {adapter} is no reward model; name one, or train one first")
    missing = unscored(engine, saved)
    if heldout_only:
        learned = learned_of(engine.store, saved)
        missing = [(prompt, answer) for prompt, answer in missing if not learned.about(prompt)]
    asked, names = (drawing_prompts(engine, saved, prompts), answerers(engine)) if prompts else ([], [])
    fresh = drawn_with(engine, names, asked, sampling) if asked else {}
    if fresh == _drawn_before(engine, saved):
        names = []
    total = len(missing) + len(asked) * len(names)
    on_judged(0, total)
    for start in range(0, len(missing), CHUNK):
        some = missing[start : start + CHUNK]
        found = scored(engine, adapter, some)
        engine.store.add_scores(judge_of(saved), [(p, a, s) for (p, a), s in zip(some, found, strict=True)])
        on_judged(start + len(some), total)
    if names:
        _draw(engine, saved, names, asked, sampling, fresh, lambda done: on_judged(len(missing) + done, total))
    return {"scored": len(missing), "drawn": len(asked) * len(names)}


def unscored(engine: Engine, saved: SavedAdapter) -> list[tuple[Prompt, str]]:
    """List the answers that were voted on and that a reward model has not scored."""
    known = engine.store.scores(judge_of(saved))
    return [
        (prompt, answer)
        for prompt, answer in answers_of(engine.store)
        if (prompt_key(prompt), answer_key(answer)) not in known
    ]


def scored(engine: Engine, adapter: str, answers: Sequence[tuple[Prompt, str]]) -> list[Scored]:
    """Score answers, each with its length."""
    scores = engine.score(adapter, answers)
    if not all(map(math.isfinite, scores)):
        raise AdapterError(f"adapter {adapter} gives scores that are no numbers; train it again at a lower rate")
    base = engine.base
    lengths = [len(encode_response(base.tokenizer, answer, base.eos_id)) for _, answer in answers]
    return [Scored(score, tokens) for score, tokens in zip(scores, lengths, strict=True)]


# -- fresh answers ----------------------------------------------------------------------------------------------


def drawing_prompts(engine: Engine, saved: SavedAdapter, most: int) -> list[Prompt]:
    """Choose prompts that were kept apart, always the same ones: imported ones, else those of votes."""
    store, learned = engine.store, learned_of(engine.store, saved)
    share = float(saved.card.get("settings", {}).get("heldout_share", 0.1))
    votes = [row.value.prompt for row in store.comparisons()] + [row.value.prompt for row in store.rankings()]
    there = {prompt_key(p): p for p in [row.value for row in store.prompts()] or votes}
    kept = [p for _, p in sorted(there.items()) if is_heldout(p, share) and not learned.about(p)]
    return kept[:most]


def answerers(engine: Engine) -> list[SavedAdapter | None]:
    """Say whose answers are drawn: the bare base's, and those of the newest SFT adapter and policy on it."""
    base = engine.base.identity["fingerprint"]
    course = course_now(engine.store, list_on(engine.workspace.adapters_dir, base), base)
    return [None, *(saved for stage in ("sft", "ppo") if (saved := course.newest(stage)))]


def drawn_with(
    engine: Engine, names: Sequence[SavedAdapter | None], asked: Sequence[Prompt], sampling: SamplingSettings
) -> dict[str, Any]:
    """Describe all that decides how fresh answers come out."""
    return {
        "hashes": [saved.hash if saved else "" for saved in names],
        "prompts": [prompt_key(prompt) for prompt in asked],
        "sampling": sampling.model_dump(mode="json", exclude={"batch_rows"}),
    }


def _drawn_before(engine: Engine, saved: SavedAdapter) -> dict[str, Any]:
    found: dict[str, Any] = engine.store.get_meta(drawn_key(saved), {}).get("with", {})
    return found


def _draw(
    engine: Engine,
    saved: SavedAdapter,
    names: Sequence[SavedAdapter | None],
    asked: Sequence[Prompt],
    sampling: SamplingSettings,
    drawn: dict[str, Any],
    on_drawn: Callable[[int], object],
) -> None:
    """Have each of them answer the same prompts, score that, and keep it."""
    answers: list[dict[str, Any]] = []
    for place, other in enumerate(names):
        name, stage = (other.name, other.stage) if other else (BARE, "")

        def on_step(tokens: dict[int, int], place: int = place) -> None:
            on_drawn(place * len(asked))  # a job can be stopped at each token

        texts = [found[0].text for found in engine.generate(asked, 1, sampling, name, on_step)]
        found = scored(engine, saved.name, list(zip(asked, texts, strict=True)))
        answers.append(
            {"name": name, "stage": stage, "scores": [s.score for s in found], "tokens": [s.tokens for s in found]}
        )
        on_drawn((place + 1) * len(asked))
    engine.store.set_meta(drawn_key(saved), {"with": drawn, "answers": answers})
