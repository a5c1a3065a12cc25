"""Measure a policy against its reference, and try out best-of-n; what is found is a row, for `lorarlhf.evaluate`.

Answers are drawn as PPO draws them (the policy's temperature and length, no nucleus), so that KL is that of its training.
A job that is stopped leaves what was there before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lorarlhf.data.chat import encode_prompt, encode_response
from lorarlhf.data.cutting import Budget, practised_on
from lorarlhf.data.tokens import Row
from lorarlhf.engine.core import Engine
from lorarlhf.engine.heads import Heads, heads_of, pairs_for
from lorarlhf.engine.journal import readable
from lorarlhf.errors import AdapterError, DataError
from lorarlhf.evaluate.bestof import best_of_key
from lorarlhf.evaluate.drift import SIDES, drift_key
from lorarlhf.evaluate.health import judge_of
from lorarlhf.evaluate.questions import QUESTIONS, TEXT
from lorarlhf.evaluate.repetition import repeated_share
from lorarlhf.forward import context_of
from lorarlhf.library import BARE, SavedAdapter, list_saved
from lorarlhf.sampling import Completion, complete
from lorarlhf.settings import PPOSettings, SamplingSettings
from lorarlhf.train.rollout import token_stats
from lorarlhf.types import Prompt, is_heldout, prompt_key, user

PROMPTS, BEST_OF_PROMPTS, DRAWN = 32, 16, 16
TOKENS = 2048
"""Of a forward pass."""
NO_HELDOUT = "No prompts were kept apart: these were also practised on, so the figures may flatter"

OnDone = Callable[[int, int], object]


@dataclass
class Count:
    """How far a job is, told whenever it can be stopped."""

    total: int
    tell: OnDone
    done: int = 0

    def breathe(self) -> None:
        """Tell again, so that the job can be stopped here."""
        self.tell(self.done, self.total)

    def add(self, some: int) -> None:
        """Count what was done."""
        self.done += some
        self.breathe()

    @property
    def budget(self) -> Budget:
        """A budget whose passes can be stopped."""
        return Budget(TOKENS, breathe=self.breathe)


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
        return float(self.saved.card.get("settings", {}).get("missing_eos_score", PPOSettings().missing_eos_score))


def judge_policy(
    engine: Engine,
    adapter: str,
    prompts: int = PROMPTS,
    on_done: OnDone = lambda done, total: None,
    *,
    max_new_tokens: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a policy and its reference, unless that was done on the same prompts and votes → {"drawn"}."""
    subject = _subject(engine, adapter, prompts, max_new_tokens, seed)
    pairs = pairs_for(engine) if subject.reward else []
    made_with = _made_with(engine, subject, len(pairs))
    if engine.store.get_meta(drift_key(subject.saved), {}).get("with") == made_with:
        return {"drawn": 0}
    stops = _stops(engine, subject)
    drawn = 2 * len(subject.prompts)
    knowledge = 2 * (len(TEXT) + len(QUESTIONS))
    count = Count(2 * drawn + len(pairs) + len(stops) + knowledge, on_done)
    kept: dict[str, Any] = {"with": made_with, "caveats": subject.caveats, "options": [1 + len(q.wrong) for q in QUESTIONS]}
    kept |= {"reference": subject.names["before"], "reward": subject.reward.name if subject.reward else ""}
    heads = heads_of(engine, subject.reward, pairs, count.budget) if subject.reward else None
    count.add(len(pairs))
    for side, name in subject.names.items():
        kept[side] = _answers(engine, subject, name, heads, count)
    kept["course"] = _course(engine, subject, stops, heads, count)
    kept["text"], kept["right"] = {}, {}
    for side, name in subject.names.items():
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
    reward = _parent(engine, saved, "reward") if saved.stage == "ppo" else None
    return Subject(saved, reference, reward, asked, drawing(saved, room, seed), caveats)


def _parent(engine: Engine, saved: SavedAdapter, role: str) -> SavedAdapter | None:
    """Find an adapter this one was made from, whatever it is called by now; None where that is the bare base."""
    parent = saved.card.get("parents", {}).get(role, {"name": BARE, "hash": ""})
    if parent["name"] == BARE:
        return None
    for other in list_saved(engine.workspace.adapters_dir):
        if other.hash == parent["hash"]:
            return other
    raise AdapterError(
        f"adapter {saved.name} cannot be compared: {parent['name']}, from which it was made, is not in this workspace "
        "any more; restore it from a copy"
    )


def drawing(saved: SavedAdapter | None, room: int | None, seed: int) -> SamplingSettings:
    """Say how answers are drawn: as the adapter was trained to, up to `room` tokens where that is given."""
    own = saved.card.get("settings", {}) if saved else {}
    known = {name: own[name] for name in ("temperature", "max_new_tokens") if name in own}
    return SamplingSettings.parse({**known, **({"max_new_tokens": room} if room else {}), "seed": seed}, "sampling")


def heldout_prompts(engine: Engine, saved: SavedAdapter | None, most: int, caveats: list[str]) -> list[Prompt]:
    """Choose prompts that were kept apart, always the same ones: imported ones, else those something was said about."""
    store = engine.store
    share = float((saved.card if saved else {}).get("settings", {}).get("heldout_share", PPOSettings().heldout_share))
    said = [row.value.prompt for kind in ("comparisons", "rankings", "demonstrations") for row in getattr(store, kind)()]
    there = {prompt_key(p): p for p in practised_on([row.value for row in store.prompts()], said)}
    prompts = [prompt for _, prompt in sorted(there.items())]
    if not prompts:
        raise DataError("no prompts to answer; import some with `lorarlhf import FILE --as prompts`")
    kept = [prompt for prompt in prompts if is_heldout(prompt, share)]
    if not kept:
        caveats.append(NO_HELDOUT)
    return (kept or prompts)[:most]


def _made_with(engine: Engine, subject: Subject, votes: int) -> dict[str, Any]:
    """Describe all that decides what comes out."""
    newest = [max((row.id for row in getattr(engine.store, kind)()), default=0) for kind in ("comparisons", "rankings")]
    return {
        "reference": subject.reference.hash if subject.reference else "",
        "reward": judge_of(subject.reward) if subject.reward else "",
        "votes": [votes, *newest] if subject.reward else [],
        "prompts": [prompt_key(prompt) for prompt in subject.prompts],
        "sampling": subject.sampling.model_dump(mode="json", exclude={"batch_rows"}),
    }


# -- answers ----------------------------------------------------------------------------------------------------


def _drawn(
    engine: Engine, prompts: Sequence[Prompt], n: int, name: str, sampling: SamplingSettings, count: Count
) -> tuple[list[Row], list[Completion]]:
    """Have an adapter answer prompts n times each → rows of tokens, and the answers."""
    room = max(1, context_of(engine.base) - sampling.max_new_tokens)
    encoded = [ids for p in prompts for ids in [encode_prompt(engine.base.tokenizer, p, room)] * n]
    with engine.borrowed(name) as adapter, engine.bank.drawing(adapter):
        drawn = complete(engine.base, encoded, sampling, on_step=lambda tokens: count.breathe())
    count.add(len(drawn))
    return [Row(ids, c.tokens) for ids, c in zip(encoded, drawn, strict=True)], drawn


def _answers(engine: Engine, subject: Subject, name: str, heads: Heads | None, count: Count) -> list[dict[str, Any]]:
    """Have one side answer, and write down everything there is to say about each answer."""
    rows, drawn = _drawn(engine, subject.prompts, 1, name, subject.sampling, count)

    def stats(adapter: str) -> tuple[list[Any], list[Any]]:
        with engine.borrowed(adapter) as active, engine.bank.activate(active):
            return token_stats(engine.studio, rows, count.budget, subject.sampling.temperature)

    own, entropies = stats(name)
    reference = own if name == subject.names["before"] else stats(subject.names["before"])[0]
    scores, said = heads.score(engine, rows, count.budget) if heads else ([None] * len(rows), [[] for _ in rows])
    found = []
    for i, (prompt, answer) in enumerate(zip(subject.prompts, drawn, strict=True)):
        capped = [_counted(s, answer.ended, subject.unended) for s in ([scores[i]] if heads else [])]
        found.append(
            {
                "prompt": prompt[-1]["content"],
                "text": answer.text,
                "tokens": answer.tokens,
                "ended": answer.ended,
                "entropy": float(entropies[i].mean()),
                "kl": float((own[i] - reference[i]).sum()),
                "repeated": repeated_share(answer.tokens),
                "score": capped[0] if capped else None,
                "heads": [_counted(s, answer.ended, subject.unended) for s in said[i]],
            }
        )
    count.add(len(rows))
    return found


def _counted(score: float, ended: bool, unended: float) -> float:
    """Apply PPO's rule: an answer that never ended scores at most so much."""
    return score if ended else min(score, unended)


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
    ids = {readable(tokenizer, found): found for found in _every_prompt(engine, tokenizer)}
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
            counted = [_counted(s, sample["ended"], subject.unended) for s in scores]
            mean = sum(counted) / len(counted)
            about["least"] = min(counted)
            about["disagreement"] = (sum((s - mean) ** 2 for s in counted) / len(counted)) ** 0.5
        by_step.setdefault(sample["step"], []).append(about)
    count.add(len(samples))
    return {
        step: {name: sum(one[name] for one in some) / len(some) for name in some[0]} for step, some in by_step.items()
    }


def _every_prompt(engine: Engine, tokenizer: Any) -> list[list[int]]:
    store = engine.store
    said = [row.value.prompt for kind in ("comparisons", "rankings", "demonstrations") for row in getattr(store, kind)()]
    return [encode_prompt(tokenizer, p) for p in practised_on([row.value for row in store.prompts()], said)]


# -- what it knows ----------------------------------------------------------------------------------------------


def _knowledge(engine: Engine, name: str, count: Count) -> tuple[list[dict[str, float]], list[bool]]:
    """Read the fixed text and answer the fixed questions with an adapter → surprise by sentence, right or wrong."""
    base, most = engine.base, context_of(engine.base)
    start = base.tokenizer.bos_token_id
    sentences = [base.tokenizer(text, add_special_tokens=False)["input_ids"][: most - 1] for text in TEXT]
    rows = [Row([base.eos_id if start is None else start], ids) for ids in sentences]
    options = [(question, option) for question in QUESTIONS for option in (question.right, *question.wrong)]
    rows += [
        Row(encode_prompt(base.tokenizer, user(q.text), most // 2), encode_response(base.tokenizer, o, base.eos_id, False))
        for q, o in options
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


# -- best of n --------------------------------------------------------------------------------------------------


def judge_best_of(
    engine: Engine,
    adapter: str,
    reward: str,
    n: int = DRAWN,
    prompts: int = BEST_OF_PROMPTS,
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
    subject = Subject(judge, saved, judge, asked, drawing(saved, max_new_tokens, seed), caveats)
    pairs = pairs_for(engine)
    made_with = {**_made_with(engine, subject, len(pairs)), "n": n}
    key = best_of_key(saved, judge_of(judge))
    if engine.store.get_meta(key, {}).get("with") == made_with:
        return {"drawn": 0}
    count = Count(2 * n * len(asked) + len(pairs), on_done)
    heads = heads_of(engine, judge, pairs, count.budget)
    count.add(len(pairs))
    found = _best_of_rows(engine, subject, saved.name if saved else BARE, n, heads, count)
    kept = {"with": made_with, "adapter": saved.name if saved else BARE, "reward": judge.name, "prompts": found}
    engine.store.set_meta(key, {**kept, "heads": heads.size, "voted": heads.spread, "caveats": caveats})
    return {"drawn": n * len(asked)}


def _best_of_rows(
    engine: Engine, subject: Subject, name: str, n: int, heads: Heads, count: Count
) -> list[dict[str, Any]]:
    rows, drawn = _drawn(engine, subject.prompts, n, name, subject.sampling, count)
    scores, said = heads.score(engine, rows, count.budget)
    count.add(len(rows))
    counted = [_counted(s, c.ended, subject.unended) for s, c in zip(scores, drawn, strict=True)]
    least = [
        _counted(min(some, default=0.0), c.ended, subject.unended) for some, c in zip(said, drawn, strict=True)
    ]
    found = []
    for i in range(0, len(rows), n):
        part = slice(i, i + n)
        found.append({"scores": counted[part], "least": least[part], "tokens": [len(c.tokens) for c in drawn[part]]})
    return found
