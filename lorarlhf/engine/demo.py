"""The whole loop on the starter base with a scripted rater: what `lorarlhf demo` and the quality benchmark run.

Nothing here is special to the demo but the rater: data, stages and settings are those of any other run.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil

from lorarlhf.algo.intervals import wilson_interval
from lorarlhf.data.importing import import_file
from lorarlhf.engine.core import Engine
from lorarlhf.engine.training import train
from lorarlhf.preset import load_preset
from lorarlhf.settings import STAGES, LoadSettings, SamplingSettings
from lorarlhf.starter import judge, prompts, shipped_file
from lorarlhf.terminal import training_bar
from lorarlhf.types import Comparison, Outcome, Prompt
from lorarlhf.workspace import Workspace

PRESET = "starter"
Say = Callable[[str], None]


def run_demo(
    place: Workspace, *, votes: int = 400, noise: float = 0.1, seed: int = 0, say: Say = print
) -> dict[str, Any]:
    """Go round the loop once in a new folder of the workspace; return before and after, with examples."""
    began = time.perf_counter()
    workspace = _new_workspace(place)
    say(f"working in {workspace.path}")
    engine = Engine(workspace, LoadSettings.parse(load_preset(PRESET).get("load", {})))
    result = rehearse(engine, votes=votes, noise=noise, seed=seed, say=say)
    return {
        "workspace": str(workspace.path),
        **result,
        "seconds": {**result["seconds"], "all": time.perf_counter() - began},
        "peak_memory_mb": _peak_memory_mb(),
    }


def rehearse(
    engine: Engine, *, votes: int, noise: float, seed: int, say: Say, changes: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Import, SFT, answer, vote, reward model, PPO, judge: on an empty workspace with the starter base.

    `changes` are settings of PPO that differ from the preset's.
    """
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(name: str, text: str) -> Iterator[None]:
        say(text)
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    with timed("load", "1/6 loading the starter base in 4 bits and its data"):
        for kind in ("demonstrations", "prompts"):
            import_file(engine.store, shipped_file(kind), kind)
        _ = engine.base
    with timed("sft", "2/6 SFT on past conversations"):
        sft = _train(engine, "sft", seed)
    with timed("rate", f"3/6 {votes} votes by the scripted rater, {noise:.0%} of them wrong"):
        engine.store.add_comparisons(scripted_votes(engine, sft["adapter"], prompts(), votes, noise, seed))
    with timed("reward", "4/6 reward model"):
        reward = _train(engine, "reward", seed)
    with timed("ppo", "5/6 PPO"):
        ppo = _train(engine, "ppo", seed, changes)
    with timed("judge", "6/6 judging on prompts nobody trained on"):
        duel = judge_policy(engine, sft["adapter"], ppo["adapter"], seed)
    stages = {"sft": sft, "reward": reward, "ppo": ppo}
    return {"stages": stages, "before_after": duel, "seconds": seconds, "votes": votes, "noise": noise, "seed": seed}


def scripted_votes(
    engine: Engine, adapter: str, on: Sequence[Prompt], count: int, noise: float, seed: int
) -> list[Comparison]:
    """Draw two answers to prompts taken at random and have the scripted rater compare each pair."""
    rng = random.Random(seed)
    asked = rng.choices(list(on), k=count) if count > len(on) else rng.sample(list(on), count)
    # Equal prompts must not get equal answers: rows draw from their own streams, so one call serves.
    answers = engine.generate(asked, 2, _sampling(seed), adapter)
    pairs = zip(asked, answers, strict=True)
    return [judge.compare(prompt, a.text, b.text, noise=noise, rng=rng) for prompt, (a, b) in pairs]


def judge_policy(engine: Engine, before: str, after: str, seed: int) -> dict[str, Any]:
    """Let both adapters answer the held-out prompts and the noise-free rater choose; ties count half."""
    asked = prompts(heldout=True)
    old, new = (
        [answers[0].text for answers in engine.generate(asked, 1, _sampling(seed + offset), adapter)]
        for offset, adapter in ((1, before), (2, after))
    )
    outcomes = [judge.compare(p, a, b).outcome for p, a, b in zip(asked, old, new, strict=True)]
    wins = sum({Outcome.B: 1.0, Outcome.A: 0.0}.get(outcome, 0.5) for outcome in outcomes)
    low, high = wilson_interval(wins, len(asked))

    def mean_score(answers: list[str]) -> float:
        return sum(judge.score(p, a).total for p, a in zip(asked, answers, strict=True)) / len(asked)

    shown = random.Random(seed).sample(range(len(asked)), 5)
    return {
        "prompts": len(asked),
        "win_rate": wins / len(asked),
        "win_rate_interval": [low, high],
        "judge_score": {"before": mean_score(old), "after": mean_score(new)},
        "examples": [{"prompt": asked[i][-1]["content"], "before": old[i], "after": new[i]} for i in shown],
    }


def show_demo(result: dict[str, Any]) -> str:
    """Put a demo's result in words."""
    duel, reward, ppo = result["before_after"], result["stages"]["reward"], result["stages"]["ppo"]
    low, high = duel["win_rate_interval"]
    lines = [
        f"reward model: right about {reward['metrics'].get('eval/accuracy', float('nan')):.0%} of its held-out votes "
        f"(of which {result['noise']:.0%} are wrong on purpose)",
        f"after PPO the rater prefers the policy over the SFT model {duel['win_rate']:.0%} of the time "
        f"(95 % interval {low:.0%} to {high:.0%}, {duel['prompts']} new prompts, ties half)",
        f"mean score by the rater: {duel['judge_score']['before']:.2f} before, "
        f"{duel['judge_score']['after']:.2f} after; "
        f"KL {ppo['metrics'].get('eval/kl', float('nan')):.1f} nats an answer",
        f"{result['seconds']['all']:.0f} s, at most {result['peak_memory_mb']:.0f} MB of memory",
        "",
    ]
    for example in duel["examples"]:
        lines += [f"> {example['prompt']}", f"  before: {example['before']}", f"  after:  {example['after']}", ""]
    lines.append(f"everything is in {result['workspace']}; look with `lorarlhf adapters --workspace DIR`")
    return "\n".join(lines)


def _train(engine: Engine, stage: str, seed: int, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    settings = STAGES[stage].parse({**load_preset(PRESET).get(stage, {}), "seed": seed, **(changes or {})}, PRESET)
    with training_bar(stage) as watch:
        return train(engine, stage, settings, watch=watch)


def _sampling(seed: int) -> SamplingSettings:
    return SamplingSettings.parse({**load_preset(PRESET).get("sampling", {}), "seed": seed}, PRESET)


def _new_workspace(place: Workspace) -> Workspace:
    number = 1
    while (place.path / "demos" / str(number)).exists():
        number += 1
    return Workspace(place.path / "demos" / str(number)).open()


def _peak_memory_mb() -> float:
    """Return the most memory this process ever held."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset / 2**20)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
