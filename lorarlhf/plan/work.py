"""What a stage will do: its passes, drawn answers and updates, cut from the lengths of its data as the stage cuts them.

Knows nothing of torch, of bytes or of seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lorarlhf.data.cutting import (
    TRIAL_RATES,
    like_lengths,
    measured_every,
    micro_batches,
    passes_of,
    steps_of,
    trial_steps,
    vote_tokens,
)
from lorarlhf.plan.memory import Demand, Drawing, Pass
from lorarlhf.settings import OptimSettings, PPOSettings, RewardSettings, Settings, SFTSettings

SIMULATED = 64
"""Steps that are cut exactly; the rest of a longer run is taken for more of them."""
ASSUMED_PROMPT, ASSUMED_ANSWER, ASSUMED_ROWS = 256, 256, 500
"""Tokens and rows where there is no data yet."""

BatchOf = Callable[[int, int, int, int], list[int]]
"""(step, batch size, examples, seed) → the examples of a step; they come again where there are fewer."""


class Length(NamedTuple):
    """Tokens of one row."""

    prompt: int
    answer: int

    @property
    def total(self) -> int:
        """Tokens of both together."""
        return self.prompt + self.answer


Example = tuple[Length, ...]
"""A demonstration has one row, a vote one for each answer, a prompt one without an answer."""


@dataclass(frozen=True)
class Data:
    """Lengths of what a stage works on."""

    train: tuple[Example, ...]
    heldout: tuple[Example, ...] = ()
    anchors: int = 0
    """Rows whose mean score a reward model moves to 0 in the end."""
    drawn: tuple[int, ...] = ()
    """Lengths of answers seen so far; () where the longest one allowed has to stand for all."""
    share: float = 1.0
    """Examples there are for each one in `train` and `heldout`: of very many only some are counted."""
    said: tuple[str, ...] = ()
    """What was assumed, in words."""


@dataclass(frozen=True)
class Roles:
    """Rank of every adapter in memory, in the order they are trained."""

    trained: tuple[int, ...]
    frozen: tuple[int, ...] = ()
    heads: int = 0


class Effort(NamedTuple):
    """What takes time, in pieces that each take about as long; a pace has the seconds of each in the same place."""

    learn_passes: float = 0
    """Forward and backward passes."""
    learn_tokens: float = 0
    learn_answers: float = 0
    """Tokens of them that need logits."""
    score_passes: float = 0
    """Forward passes alone."""
    score_tokens: float = 0
    score_answers: float = 0
    drawings: float = 0
    """Times that drawing begins: a small base is unpacked for it."""
    steps: float = 0
    """Tokens drawn one after the other."""
    drawn: float = 0
    """Tokens drawn in all rows."""
    updates: float = 0
    """Adapters moved by Adam, each time."""
    writes: float = 0
    """Adapters written into checkpoints, with their moments."""

    def plus(self, other: Effort) -> Effort:
        """Add another one."""
        return Effort(*(a + b for a, b in zip(self, other, strict=True)))

    def repeated(self, times: float) -> Effort:
        """Do all of it several times."""
        return Effort(*(times * n for n in self))

    def seconds(self, pace: Effort) -> float:
        """Add up how long it takes at so many seconds a piece."""
        return sum(n * each for n, each in zip(self, pace, strict=True))


def learning(found: Sequence[Pass]) -> Effort:
    """Count passes with gradient."""
    return Effort(len(found), sum(p.tokens for p in found), sum(p.answers for p in found))


def scoring(found: Sequence[Pass]) -> Effort:
    """Count passes without gradient."""
    counted = learning(found)
    return Effort(score_passes=counted[0], score_tokens=counted[1], score_answers=counted[2])


@dataclass(frozen=True)
class Work:
    """A whole run."""

    steps: int
    demand: Demand
    efforts: dict[str, Effort] = field(default_factory=dict)
    """Phase (draw, score, learn, measure, write) → what it does in the whole run."""


def assumed(stage: str, settings: Settings) -> Data:
    """Make data up where there is none, so that a first plan can be made."""
    assert isinstance(settings, OptimSettings)
    own = settings.max_new_tokens if isinstance(settings, PPOSettings) else 0
    answer = 0 if own else min(ASSUMED_ANSWER, settings.max_length // 2)
    room = settings.max_length - own
    prompt = min(ASSUMED_PROMPT, room - answer)
    # Of many lengths, as those of people are: rows that are all alike would leave a part of every pass empty.
    rows = []
    for share in (0.5 + i / (ASSUMED_ROWS - 1) for i in range(ASSUMED_ROWS)):
        said = min(round(share * answer), room - 1)
        rows.append(Length(max(1, min(round(share * prompt), room - said)), said))
    random.Random(0).shuffle(rows)
    examples = tuple((row, row) if stage == "reward" else (row,) for row in rows)
    kind = {"sft": "demonstrations", "reward": "votes", "ppo": "prompts"}[stage]
    words = f"no {kind} yet: {ASSUMED_ROWS} were assumed, with prompts of about {prompt} tokens"
    words += f" and answers of about {answer}" if answer else ""
    held = round(ASSUMED_ROWS * settings.heldout_share)
    return Data(train=examples[held:], heldout=examples[:held], said=(words,))


def default_roles(stage: str, rank: int, critic: str = "head") -> Roles:
    """Name the adapters a stage has in memory where nothing else is known: all of one rank."""
    if stage == "ppo":
        return Roles((rank,) * (2 if critic == "adapter" else 1), (rank, rank), heads=heads_of(critic))
    return Roles((rank,), heads=int(stage == "reward"))


def heads_of(critic: str) -> int:
    """Count the scalar heads in PPO: that of the reward model, and the critic's where there is one."""
    return 1 if critic == "none" else 2


def work_of(
    settings: Settings, data: Data, roles: Roles, batch_of: BatchOf | None = None, *, padded: bool = False
) -> Work:
    """Cut a whole run into passes; `batch_of` chooses the examples of a step as the stage does."""
    assert isinstance(settings, OptimSettings)
    cutting = Cutting(settings.micro_batch_tokens, padded, batch_of or _some)
    if isinstance(settings, PPOSettings):
        return _ppo(settings, data, roles, cutting)
    assert isinstance(settings, SFTSettings | RewardSettings)
    return _supervised(settings, data, roles, cutting)


def _some(step: int, batch_size: int, length: int, seed: int) -> list[int]:
    times, rest = divmod(batch_size, length)
    return [*range(length)] * times + random.Random(seed * 1_000_003 + step).sample(range(length), rest)


class Cutting(NamedTuple):
    """How rows become steps and passes."""

    budget: int
    """Tokens of a pass."""
    padded: bool = False
    """Whether rows of a pass are padded to the longest."""
    batch_of: BatchOf = _some

    def passes(self, examples: Sequence[Example], *, logits: bool) -> list[Pass]:
        """Cut the rows of examples into micro-batches as the stages do; those of one stand together."""
        rows = [(n, row) for n, example in enumerate(_sharing(examples)) for row in example]
        prompts = [(n, row.prompt) for n, row in rows]
        groups = micro_batches([row.total for _, row in rows], self.budget, padded=self.padded, prompts=prompts)
        found = []
        for group in groups:
            together: dict[int, list[Length]] = {}
            for n, row in (rows[i] for i in group):
                together.setdefault(n, []).append(row)
            found.append(self.one_pass([tuple(some) for some in together.values()], logits=logits))
        return found

    def vote_passes(self, votes: Sequence[Example]) -> list[Pass]:
        """Cut votes into micro-batches: the answers of a vote share one, and their prompt."""
        sizes = [vote_tokens([row.total for row in vote], vote[0].prompt, padded=self.padded) for vote in votes]
        groups = micro_batches(sizes, self.budget, padded=self.padded)
        return [self.one_pass([votes[i] for i in group], logits=False) for group in groups]

    def one_pass(self, examples: Sequence[Example], *, logits: bool) -> Pass:
        """Put the rows of examples into one pass; those of an example share their prompt where it is as long."""
        rows = [row for example in examples for row in example]
        lengths = [row.total for row in rows]
        answers = sum(row.answer for row in rows) if logits else 0
        if self.padded:
            return Pass(len(rows), max(lengths), answers)
        again = sum((len(example) - 1) * example[0].prompt for example in _sharing(examples))
        alike = tuple((len(group), lengths[group[0]]) for group in like_lengths(lengths))
        return Pass(len(rows), max(lengths), answers, sum(lengths) - again, alike)


def _sharing(examples: Sequence[Example]) -> Iterator[Example]:
    """Take examples apart whose rows have other prompts: none is shared."""
    for example in examples:
        if len({row.prompt for row in example}) == 1:
            yield example
        else:
            yield from ((row,) for row in example)


def sample_of(settings: Settings, data: Data, batch_of: BatchOf | None = None) -> list[Example]:
    """Choose the examples of a first step, prompts with answers as long as those seen so far."""
    assert isinstance(settings, OptimSettings)
    each = settings.answers_per_prompt if isinstance(settings, PPOSettings) else 1
    size = min(settings.batch_size // each, len(data.train))
    chosen = [data.train[i] for i in (batch_of or _some)(0, size, len(data.train), settings.seed)]
    if not isinstance(settings, PPOSettings):
        return chosen
    rng = random.Random(settings.seed)
    return [tuple(answered(row, _lived(data, settings, rng)) for _ in range(each)) for (row,) in chosen]


def _supervised(settings: SFTSettings | RewardSettings, data: Data, roles: Roles, cut: Cutting) -> Work:
    s, pairs = settings, isinstance(settings, RewardSettings)
    examples = max(1, round(data.share * len(data.train)))
    steps = steps_of(passes_of(s.epochs), s.batch_size, examples)
    tried = TRIAL_RATES * trial_steps(s.batch_size, examples) if s.learning_rate == "auto" else 0
    size = min(s.batch_size, len(data.train))
    sampled = min(steps, SIMULATED)
    per_step = []
    for step in range(sampled):
        chosen = [data.train[i] for i in cut.batch_of(step, size, len(data.train), s.seed)]
        per_step.append(cut.vote_passes(chosen) if pairs else cut.passes(chosen, logits=True))
    every = [p for found in per_step for p in found]
    held = cut.passes(data.heldout, logits=not pairs)
    measured = scoring(held).repeated(data.share)
    efforts = {
        "learn": learning(every).repeated((steps + tried) / sampled).plus(Effort(updates=steps + tried)),
        "measure": measured.repeated(
            _measurements(steps, measured_every(s.eval_every, steps)) + 1 if data.heldout else 0
        ),
        "write": Effort(writes=_writes(steps, s.checkpoint_every)),
    }
    scored = list(held)
    if pairs and isinstance(s, RewardSettings) and s.center:
        anchors = cut.passes([vote[:1] for vote in data.train][: data.anchors or None], logits=False)
        times = 1.0 if data.anchors else data.share
        efforts["measure"] = efforts["measure"].plus(scoring(anchors).repeated(times))
        scored += anchors
    demand = Demand(
        trained=roles.trained,
        frozen=roles.frozen,
        heads=roles.heads,
        targets=s.targets,
        learn=tuple((p, 0) for p in dict.fromkeys(every)),
        score=tuple(dict.fromkeys(scored)),
        several=max(len(found) for found in per_step) > 1,
        checkpointing=s.gradient_checkpointing,
        steps=steps,
        keeps_best=bool(data.heldout),
        writes=_writes(steps, s.checkpoint_every) > 0,
    )
    return Work(steps, demand, efforts)


def _measurements(steps: int, every: int) -> int:
    """Count the evaluations of a run: before it, every so often, and after its last step."""
    return 1 + steps // every + (steps % every > 0)


def _writes(steps: int, every: int) -> int:
    """Count the checkpoints of a run: every so often, but not after the last step."""
    return (steps - 1) // every if every else 0


# -- PPO ------------------------------------------------------------------------------------------------------


def _ppo(s: PPOSettings, data: Data, roles: Roles, cut: Cutting) -> Work:
    prompts = [row for (row,) in data.train]
    held = [row for (row,) in (data.heldout or data.train)][: s.eval_prompts]
    sampled = min(s.steps, SIMULATED)
    rng = random.Random(s.seed)
    draw, score = Effort(), Effort()
    updates: list[list[list[Example]]] = []
    longest: list[tuple[Pass, int]] = []
    scored: list[Pass] = []
    drawings: list[Drawing] = []
    several = False
    for step in range(sampled):
        size = s.batch_size // s.answers_per_prompt
        order = cut.batch_of(step, size, len(prompts), s.seed)
        numbers = [i for i in order for _ in range(s.answers_per_prompt)]
        rows = [answered(prompts[i], s.max_new_tokens) for i in numbers]
        drawings += _drawings(rows, s, s.answers_per_prompt)
        scored += cut.passes(_by_prompt(rows, numbers), logits=True)
        for examples in _mini_batches(rows, numbers, s):
            part = cut.passes(examples, logits=True)
            several = several or len(part) > 1
            longest += [(p, 0) for p in part]
            if s.critic == "adapter":
                longest += [(p._replace(answers=0), len(roles.trained) - 1) for p in part]
        lived = [answered(prompts[i], _lived(data, s, rng)) for i in numbers]
        draw = draw.plus(_draw_effort(lived, s, s.answers_per_prompt))
        score = score.plus(_score_effort(_by_prompt(lived, numbers), s, cut))
        updates.append(_mini_batches(lived, numbers, s))
    times = s.steps / sampled
    learn = Effort()
    for step, batches in enumerate(updates):
        learn = learn.plus(_learn_effort(batches, s, cut, warming=step < s.value_only_steps))
    # Warm-up comes once: steps that were not cut one by one are like those after it.
    like = (updates[s.value_only_steps :] or updates[-1:]) if s.steps > sampled else []
    for batches in like:
        usual = _learn_effort(batches, s, cut, warming=False)
        learn = learn.plus(usual.repeated((s.steps - sampled) / len(like)))
    judged = [answered(row, _lived(data, s, rng)) for row in held]
    evaluation = _draw_effort(judged, s, 1).plus(_score_effort([(row,) for row in judged], s, cut))
    drawings += _drawings([answered(row, s.max_new_tokens) for row in held], s, 1)
    demand = Demand(
        trained=roles.trained,
        frozen=roles.frozen,
        heads=roles.heads,
        targets=s.targets,
        learn=tuple(dict.fromkeys(longest)),
        score=tuple(dict.fromkeys(scored)),
        draw=tuple(dict.fromkeys(drawings)),
        several=several,
        checkpointing=s.gradient_checkpointing,
        steps=s.steps - s.value_only_steps,
        states=s.batch_size * s.max_new_tokens * (s.critic == "head"),
        writes=_writes(s.steps, s.checkpoint_every) > 0,
    )
    efforts = {
        "draw": draw.repeated(times),
        "score": score.repeated(times),
        "learn": learn,
        "measure": evaluation.repeated(_measurements(s.steps, s.eval_every) + 1),
        "write": Effort(writes=len(roles.trained) * _writes(s.steps, s.checkpoint_every)),
    }
    return Work(s.steps, demand, efforts)


def answered(row: Length, answer: int) -> Length:
    """Give a prompt an answer of some length."""
    return Length(row.prompt, answer)


def _lived(data: Data, s: PPOSettings, rng: random.Random) -> int:
    """Draw the length of an answer from those seen so far."""
    return min(s.max_new_tokens, rng.choice(data.drawn)) if data.drawn else s.max_new_tokens


def _chunks(rows: Sequence[Length], s: PPOSettings) -> list[list[Length]]:
    """Put prompts of similar length side by side, as sampling does."""
    order = sorted(rows, key=lambda row: row.prompt)
    return [order[i : i + s.rollout_rows] for i in range(0, len(order), s.rollout_rows)]


def _drawings(rows: Sequence[Length], s: PPOSettings, each: int) -> list[Drawing]:
    return [
        Drawing(len(chunk), max(row.prompt for row in chunk), max(row.answer for row in chunk), s.top_p, each)
        for chunk in _chunks(rows, s)
    ]


def _draw_effort(rows: Sequence[Length], s: PPOSettings, each: int) -> Effort:
    chunks = _chunks(rows, s)
    # Its first token comes from the pass that reads the prompt.
    reads = [Pass(-(-len(chunk) // each), max(row.prompt for row in chunk), 0) for chunk in chunks]
    steps = sum(max(row.answer for row in chunk) - 1 for chunk in chunks)
    return scoring(reads).plus(Effort(drawings=1, steps=steps, drawn=sum(row.answer - 1 for row in rows)))


def _score_effort(examples: Sequence[Example], s: PPOSettings, cut: Cutting) -> Effort:
    """Policy and reference with logits, the reward with its head, and the critic where it has a pass of its own."""
    full = cut.passes(examples, logits=True)
    heads = scoring([p._replace(answers=0) for p in full])
    return scoring(full).repeated(2).plus(heads.repeated(2 if s.critic == "adapter" else 1))


def _learn_effort(batches: Sequence[list[Example]], s: PPOSettings, cut: Cutting, *, warming: bool) -> Effort:
    effort = Effort()
    for examples in batches:
        part = cut.passes(examples, logits=True)
        if s.critic == "adapter":
            effort = effort.plus(learning([p._replace(answers=0) for p in part])).plus(Effort(updates=1))
        if not warming:
            effort = effort.plus(learning(part)).plus(Effort(updates=1))
    return effort.repeated(s.ppo_epochs)


def _mini_batches(rows: Sequence[Length], numbers: Sequence[int], s: PPOSettings) -> list[list[Example]]:
    """Cut a batch as updates do, which shuffle it."""
    order, size = list(range(len(rows))), len(rows) // s.mini_batches
    random.Random(s.seed).shuffle(order)
    parts = [order[start : start + size] for start in range(0, len(rows), size)]
    return [_by_prompt([rows[i] for i in part], [numbers[i] for i in part]) for part in parts]


def _by_prompt(rows: Sequence[Length], numbers: Sequence[int]) -> list[Example]:
    """Put rows together that answer one prompt, which has the same number in all of them."""
    found: dict[int, list[Length]] = {}
    for row, number in zip(rows, numbers, strict=True):
        found.setdefault(number, []).append(row)
    return [tuple(some) for some in found.values()]
