"""Have a judge that is no person vote in a blind comparison: the starter's scripted rater, or a reward model.

Every adapter answers every prompt once, and the judge compares them two by two. What it said is kept as it goes, so
that a stopped job goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

from lorarlhf.engine.core import Engine
from lorarlhf.engine.judging import scored
from lorarlhf.errors import AdapterError
from lorarlhf.evaluate.contest import present, today
from lorarlhf.evaluate.duel_words import write_cards
from lorarlhf.evaluate.duels import SCRIPT, result_of
from lorarlhf.evaluate.health import judge_of
from lorarlhf.library import SavedAdapter
from lorarlhf.settings import SamplingSettings
from lorarlhf.starter import judge as script
from lorarlhf.store import Duel
from lorarlhf.types import Comparison, Origin, Outcome, Prompt, prompt_key

CHUNK = 32
"""Prompts between two moments at which what was said is kept."""

OnJudged = Callable[[int, int], object]


def judge_duel(
    engine: Engine, number: int, by: str, on_judged: OnJudged = lambda done, total: None, most: int | None = None
) -> dict[str, Any]:
    """Have `script` or a reward model vote on the prompts of a duel it has not voted on → the results by pair.

    `most` takes only the first so many prompts. Raises `AdapterError` where an adapter is gone or cannot judge.
    """
    duel = engine.store.duel(number)
    reward = judge_of_duel(engine, by)
    name, hash = (reward.name, judge_of(reward)) if reward else (SCRIPT, "")
    if duel.base != engine.base.identity["fingerprint"]:
        raise AdapterError("the adapters of this duel stand on another base; load that first")
    there = present(engine.workspace)
    names = [today(one, there) for one in duel.contestants]
    asked = engine.store.duel_prompts(number)[:most]
    known = {
        prompt_key(vote.prompt)
        for vote in engine.store.duel_votes()
        if vote.duel == number and (vote.judge, vote.judge_hash) == (name, hash)
    }
    left = [prompt for prompt in asked if prompt_key(prompt) not in known]
    total = len(left) * len(names)
    on_judged(0, total)
    try:
        for start in range(0, len(left), CHUNK):
            some = left[start : start + CHUNK]
            answers = _answers(engine, duel, names, some, start, lambda done: on_judged(done, total))
            said = _said(engine, duel, names, some, answers, reward)
            engine.store.add_judged(number, name, hash, said)
    finally:
        write_cards(engine.store, engine.workspace, (one.hash for one in duel.contestants))
    votes = [v for v in engine.store.duel_votes() if (v.judge, v.judge_hash, v.duel) == (name, hash, number)]
    called = {one.hash: names[place] for place, one in enumerate(duel.contestants)}
    hashes = [one.hash for one in duel.contestants]
    results = [result_of(votes, one, other).as_json(called) for one, other in combinations(hashes, 2)]
    return {"duel": number, "judge": name, "prompts": len(asked), "results": results}


def judge_of_duel(engine: Engine, by: str) -> SavedAdapter | None:
    """Find the reward model that judges; None for the scripted judge. Raises `AdapterError` where that cannot be."""
    if by == SCRIPT:
        if engine.base.identity["name"] != "starter":
            raise AdapterError("the scripted judge knows the starter's help desk alone; let a reward model judge")
        return None
    saved = engine.saved(by)
    if not saved.has_head:
        raise AdapterError(
            f"adapter {by} is no reward model, so it cannot judge; `lorarlhf adapters` lists what there is"
        )
    return saved


def _answers(
    engine: Engine,
    duel: Duel,
    names: Sequence[str],
    prompts: Sequence[Prompt],
    start: int,
    on_drawn: Callable[[int], object],
) -> list[list[str]]:
    """Have everybody answer, each with a seed of its own → by contestant, then by prompt."""
    seed, found = int(duel.sampling.get("seed", 0)), []
    for place, name in enumerate(names):
        settings = SamplingSettings.parse({**duel.sampling, "seed": seed + start * len(names) + place})
        done = start * len(names) + place * len(prompts)

        def on_step(tokens: dict[int, int], done: int = done) -> None:
            on_drawn(done)  # a job can be stopped at each token

        drawn = engine.generate(prompts, 1, settings, name, on_step)
        found.append([completions[0].text for completions in drawn])
        on_drawn(done + len(prompts))
    return found


def _said(
    engine: Engine,
    duel: Duel,
    names: Sequence[str],
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[str]],
    reward: SavedAdapter | None,
) -> list[Comparison]:
    """Compare everybody's answers two by two."""
    scores = [
        [one.score for one in scored(engine, reward.name, list(zip(prompts, texts, strict=True)))] if reward else []
        for texts in answers
    ]
    found = []
    for i, j in combinations(range(len(names)), 2):
        origin = Origin(
            adapters=(duel.contestants[i].name, duel.contestants[j].name),
            adapter_hashes=(duel.contestants[i].hash, duel.contestants[j].hash),
        )
        for k, prompt in enumerate(prompts):
            a, b = answers[i][k], answers[j][k]
            if reward:
                gap = scores[i][k] - scores[j][k]
                outcome = Outcome.TIE if not gap else Outcome.A if gap > 0 else Outcome.B
            else:
                outcome = script.compare(prompt, a, b).outcome
            found.append(Comparison(prompt, a, b, outcome, origin=origin))
    return found
