"""Measure a policy against its reference; what is found is a row, for `lorarlhf.evaluate.drift`.

Votes decide what the ensemble of heads says, and nothing else: answers, their KL and what a policy knows are taken from
the measurement before where adapters and sampling are the same. A job that is stopped leaves what was there before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from statistics import pstdev
from typing import Any

from lorarlhf.base import Base
from lorarlhf.data.chat import encode_prompt, encode_response
from lorarlhf.data.tokens import Row
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
    known_prompts,
    unknown,
    with_known,
)
from lorarlhf.engine.core import Engine
from lorarlhf.engine.heads import Heads, heads_of, pairs_for
from lorarlhf.engine.journal import readable
from lorarlhf.errors import AdapterError
from lorarlhf.evaluate.drift import SIDES, drift_key
from lorarlhf.evaluate.questions import QUESTIONS, TEXT
from lorarlhf.evaluate.repetition import repeated_share
from lorarlhf.forward import context_of
from lorarlhf.library import BARE, SavedAdapter, list_saved
from lorarlhf.sampling import scored_row
from lorarlhf.settings import SamplingSettings
from lorarlhf.train.rollout import token_stats
from lorarlhf.types import Prompt, prompt_key, user

PROMPTS = 32


# -- the policy -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A policy with what it is measured against."""

    saved: SavedAdapter
    reference: SavedAdapter | None
    """None is the bare base."""
    reward: SavedAdapter | None
    prompts: list[Prompt]
    sampling: SamplingSettings
    caveats: list[str] = field(default_factory=list)

    @property
    def names(self) -> dict[str, str]:
        """Adapter by side."""
        return dict(zip(SIDES, (self.reference.name if self.reference else BARE, self.saved.name), strict=True))

    @property
    def unended(self) -> float:
        """What an answer that never ended scores at most."""
        metrics = self.saved.card.get("metrics", {})
        asked = self.saved.card.get("settings", {}).get("missing_eos_score", "auto")
        in_spreads = metrics.get("reward/cap", math.inf if asked == "auto" else asked)
        # Policies made before the score was counted in spreads have none on their card.
        return float(in_spreads) * float(metrics.get("reward/spread", 1.0))


def judge_policy(
    engine: Engine,
    adapter: str,
    prompts: int = PROMPTS,
    on_done: OnDone = lambda done, total: None,
    *,
    max_new_tokens: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a policy and its reference, unless that was done on the same prompts and votes → {"drawn"}.

    That is the number of answers that were not there from before.
    """
    subject = _subject(engine, adapter, prompts, max_new_tokens, seed)
    pairs = pairs_for(engine) if subject.reward else []
    made_with = conditions(engine, subject.reference, subject.reward, subject.prompts, subject.sampling)
    before = engine.store.get_meta(drift_key(subject.saved), {})
    if before.get("with") == made_with:
        return {"drawn": 0}
    stops, known = _stops(engine, subject), {side: known_answers(before, made_with, side) for side in SIDES}
    drawn = sum(len(unknown(subject.prompts, known[side])) for side in SIDES)
    knowledge = 2 * (len(TEXT) + len(QUESTIONS))
    total = drawn + 2 * len(subject.prompts) + len(pairs) + len(stops) + knowledge
    count = Count(total, on_done)
    kept: dict[str, Any] = {
        "with": made_with,
        "caveats": subject.caveats,
        "options": [1 + len(q.wrong) for q in QUESTIONS],
    }
    kept |= {"reference": subject.names["before"], "reward": subject.reward.name if subject.reward else ""}
    kept["unended"] = subject.unended
    heads = heads_of(engine, subject.reward, pairs, count.budget) if subject.reward else None
    count.add(len(pairs))
    for side, name in subject.names.items():
        draw = partial(_drawn, engine, subject, name, count)
        kept[side] = _scored(engine, subject, with_known(subject.prompts, known[side], draw), heads, count)
    kept["course"] = _course(engine, subject, stops, heads, count)
    kept["text"], kept["right"] = {}, {}
    for side, name in subject.names.items():
        if any(known.values()) and _asked_alike(before, kept):
            kept["text"][side], kept["right"][side] = before["text"][side], before["right"][side]
            count.add(knowledge // 2)
        else:
            kept["text"][side], kept["right"][side] = _knowledge(engine, name, count)
    engine.store.set_meta(drift_key(subject.saved), kept)
    return {"drawn": drawn}


def _subject(engine: Engine, adapter: str, prompts: int, room: int | None, seed: int) -> Subject:
    saved = engine.saved(adapter)
    if saved.has_head:
        raise AdapterError(f"adapter {adapter} is a reward model; `lorarlhf judge reward {adapter}` measures those")
    caveats: list[str] = []
    role = "sft" if saved.stage == "ppo" else "parent"
    asked = heldout_prompts(engine, saved, prompts, caveats)
    reference = _parent(engine, saved, role)
    reward = None
    try:
        reward = _parent(engine, saved, "reward")
    except AdapterError:
        caveats.append(
            f"{saved.card['parents']['reward']['name']}, which it was trained on, is gone: nothing is scored"
        )
    return Subject(saved, reference, reward, asked, drawing(saved, room, seed), caveats)


def _parent(engine: Engine, saved: SavedAdapter, role: str) -> SavedAdapter | None:
    """Find an adapter this one was made from, whatever it is called by now; None where that is the bare base."""
    parent = saved.card.get("parents", {}).get(role, {"name": BARE, "hash": ""})
    if parent["name"] == BARE:
        return None
    # An adapter whose training changed nothing has the weights of its parent: head and name tell them apart.
    found = [o for o in list_saved(engine.workspace.adapters_dir) if o.hash == parent["hash"]]
    fitting = [other for other in found if other.has_head == (role == "reward")]
    if fitting:
        return next((other for other in fitting if other.name == parent["name"]), fitting[0])
    raise AdapterError(
        f"adapter {saved.name} cannot be compared: {parent['name']}, from which it was made, is not in this workspace "
        "any more; restore it from a copy"
    )


# -- answers ----------------------------------------------------------------------------------------------------


def _asked_alike(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Tell whether the fixed questions and texts were those of this version, as far as can be seen."""
    lengths = [len(before.get("text", {}).get(side, ())) for side in SIDES]
    return before.get("options") == now["options"] and lengths == [len(TEXT)] * len(SIDES)


def _drawn(engine: Engine, subject: Subject, name: str, count: Count, prompts: list[Prompt]) -> Known:
    """Draw answers, and write down everything there is to say about each but its scores."""
    rows, drawn = drawn_rows(engine, prompts, 1, name, subject.sampling, count)

    def stats(adapter: str) -> tuple[list[Any], list[Any]]:
        with engine.borrowed(adapter) as active, engine.bank.activate(active):
            return token_stats(engine.studio, rows, count.budget, subject.sampling.temperature)

    own, entropies = stats(name)
    reference = own if name == subject.names["before"] else stats(subject.names["before"])[0]
    return {
        prompt_key(prompt): {
            "prompt": prompt[-1]["content"],
            "text": answer.text,
            "tokens": answer.tokens,
            "ended": answer.ended,
            "entropy": float(entropies[i].mean()),
            "kl": float((own[i] - reference[i]).sum()),
            "repeated": repeated_share(answer.tokens),
        }
        for i, (prompt, answer) in enumerate(zip(prompts, drawn, strict=True))
    }


def _scored(
    engine: Engine, subject: Subject, answers: list[dict[str, Any]], heads: Heads | None, count: Count
) -> list[dict[str, Any]]:
    """Add to each answer what the reward model and the heads say of it, by the votes there are now."""
    asked = zip(subject.prompts, answers, strict=True)
    rows = [
        scored_row(engine.base, asked_ids(engine, prompt, subject.sampling), answer["tokens"], subject.sampling.stop)
        for prompt, answer in asked
    ]
    scores, said = heads.score(engine, rows, count.budget) if heads else ([], [[] for _ in rows])
    count.add(len(rows))
    return [
        {
            **answer,
            "score": counted(scores[i], answer["ended"], subject.unended) if heads else None,
            "heads": said[i],
        }
        for i, answer in enumerate(answers)
    ]


# -- the course of its run --------------------------------------------------------------------------------------


def _stops(engine: Engine, subject: Subject) -> list[dict[str, Any]]:
    """List the answers to held-out prompts that its run kept."""
    run = subject.saved.card.get("run")
    if subject.saved.stage != "ppo" or run not in {row.id for row in engine.store.runs()}:
        return []
    return [sample for sample in engine.store.samples(run) if sample.get("heldout")]


def _course(
    engine: Engine, subject: Subject, samples: list[dict[str, Any]], heads: Heads | None, count: Count
) -> list[dict[str, Any]]:
    """Put together what the run measured at each evaluation, and what the heads say of the answers it kept."""
    run = subject.saved.card.get("run")
    if subject.saved.stage != "ppo" or run not in {row.id for row in engine.store.runs()}:
        return []
    metrics: dict[int, dict[str, float]] = {}
    for step, name, value in engine.store.metrics(str(run)):
        metrics.setdefault(step, {})[name] = value
    said = _said_of_samples(engine, subject, samples, heads, count)
    found = []
    for step, now in sorted(metrics.items()):
        if "eval/scores" not in now:
            continue
        found.append(
            {
                "step": step,
                "kl": now["eval/kl"],
                "score": now["eval/scores"],
                "length": now["eval/length"],
                "ended": now["eval/eos_share"],
                "entropy": now.get("objective/entropy"),
                **said.get(step, {}),
            }
        )
    return found


def _said_of_samples(
    engine: Engine, subject: Subject, samples: list[dict[str, Any]], heads: Heads | None, count: Count
) -> dict[int, dict[str, float]]:
    """Average over the sample answers of each evaluation: the lowest score of a head, disagreement, repetition."""
    tokenizer = engine.base.tokenizer
    encoded = [encode_prompt(tokenizer, prompt) for prompt in known_prompts(engine)]
    ids = {readable(tokenizer, prompt): prompt for prompt in encoded}
    by_step: dict[int, list[dict[str, float]]] = {}
    known = [sample for sample in samples if sample["prompt"] in ids]
    rows = [
        Row(ids[s["prompt"]], encode_response(tokenizer, s["response"], engine.base.eos_id, s["ended"])) for s in known
    ]
    known, rows = [s for s, row in zip(known, rows, strict=True) if row.response], [r for r in rows if r.response]
    said = heads.score(engine, rows, count.budget)[1] if heads and rows else [[] for _ in rows]
    for sample, row, scores in zip(known, rows, said, strict=True):
        about = {"repeated": repeated_share(row.response)}
        if scores:
            about["least"] = counted(min(scores), sample["ended"], subject.unended)
            about["disagreement"] = pstdev(scores)
        by_step.setdefault(sample["step"], []).append(about)
    count.add(len(samples))
    return {
        step: {name: sum(one[name] for one in some) / len(some) for name in some[0]} for step, some in by_step.items()
    }


# -- what it knows ----------------------------------------------------------------------------------------------


def _said(base: Base, option: str) -> list[int]:
    return encode_response(base.tokenizer, option, base.eos_id, end=False)


def _knowledge(engine: Engine, name: str, count: Count) -> tuple[list[dict[str, float]], list[bool]]:
    """Read the fixed text and answer the fixed questions with an adapter → surprise by sentence, right or wrong."""
    base, most = engine.base, context_of(engine.base)
    start = base.tokenizer.bos_token_id
    sentences = [base.tokenizer(text, add_special_tokens=False)["input_ids"][: most - 1] for text in TEXT]
    rows = [Row([base.eos_id if start is None else start], ids) for ids in sentences]
    options = [(question, option) for question in QUESTIONS for option in (question.right, *question.wrong)]
    rows += [
        Row(encode_prompt(base.tokenizer, user(question.text), most // 2), _said(base, option))
        for question, option in options
    ]
    with engine.borrowed(name) as active, engine.bank.activate(active):
        logprobs, _ = token_stats(engine.studio, rows, count.budget, 1.0)
    text = [{"surprise": -float(lp.sum()), "tokens": len(lp)} for lp in logprobs[: len(TEXT)]]
    # By character: else the shortest option would win.
    sums = zip(options, logprobs[len(TEXT) :], strict=True)
    by_question: dict[str, list[float]] = {}
    for (question, option), lp in sums:
        by_question.setdefault(question.text, []).append(float(lp.sum()) / len(option))
    count.add(len(TEXT) + len(QUESTIONS))
    return text, [found[0] > max(found[1:]) for found in by_question.values()]
