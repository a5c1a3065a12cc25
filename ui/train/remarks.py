"""Say in words what the charts of a run show to be wrong, and what helps. Knows no Gradio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from lorarlhf.store import RunRow
from lorarlhf.ui.train.charts import Point, number
from lorarlhf.ui.train.progress import Series

RECENT = 3
"""Points that are looked at together: one batch alone says little."""


def remarks(run: RunRow, series: Series) -> list[str]:
    """Say in words what the charts show to be wrong, and what helps."""
    found = {"sft": _about_sft, "reward": _about_reward, "ppo": _about_ppo}[run.stage](run, series)
    return [text for text in found if text]


def _about_sft(run: RunRow, series: Series) -> list[str]:
    return [_loss_rises(series.get("loss/sft", [])), _heldout_rises(series.get("eval/loss", []))]


def _about_reward(run: RunRow, series: Series) -> list[str]:
    texts = [_loss_rises(series.get("loss/reward", [])), _heldout_rises(series.get("eval/loss", []))]
    votes, low = _last(series, "eval/votes"), _last(series, "eval/accuracy_low")
    if run.status == "done" and votes and low <= 0.5:
        high = _last(series, "eval/accuracy_high")
        texts.append(
            f"Its accuracy on {votes:.0f} held-out votes lies between {low:.0%} and {high:.0%}: it may be guessing. "
            "More votes help most."
        )
    return texts


def _about_ppo(run: RunRow, series: Series) -> list[str]:
    budget, texts = run.settings.get("kl_budget", math.inf), []
    kl, _ = _recent(series, "objective/kl")
    if kl > 0.8 * budget:
        texts.append(
            f"KL is {kl:.1f} of the {budget:g} nats at which the run ends: raise KL coef or lower the learning rate."
        )
    entropy, first = _recent(series, "objective/entropy")
    if entropy < 0.3 * first:
        texts.append(
            f"Entropy fell to {entropy / first:.0%} of its start: the answers are becoming all alike. Raise KL coef."
        )
    ended, _ = _recent(series, "response/eos_share")
    if ended < 0.8:
        texts.append(
            f"Only {ended:.0%} of the answers come to an end by themselves: allow longer ones (Max new tokens)."
        )
    length, first = _recent(series, "response/length")
    if length > 1.3 * first:
        texts.append(
            f"Answers are {length / first - 1:.0%} longer than at the start: see below whether longer is better."
        )
    score, first = _recent(series, "objective/scores")
    spread, _ = _recent(series, "objective/scores_std")
    if score < first - 0.5 * spread:
        texts.append(f"Reward fell from {number(first)} to {number(score)}: lower the learning rate.")
    clipped, _ = _recent(series, "policy/clipfrac")
    if clipped > 0.3:
        texts.append(f"{clipped:.0%} of the tokens are clipped: the steps are too long. Lower the learning rate.")
    return texts


def _recent(series: Series, name: str) -> tuple[float, float]:
    """Give the mean of the newest and of the first values; (nan, nan), which no remark is about, before both exist."""
    values = [value for _, value in series.get(name, []) if math.isfinite(value)]
    if len(values) < 2 * RECENT:
        return math.nan, math.nan
    return fmean(values[-RECENT:]), fmean(values[:RECENT])


def _last(series: Series, name: str) -> float:
    return series[name][-1][1] if series.get(name) else math.nan


def _loss_rises(points: Sequence[Point]) -> str:
    quarter = len(points) // 4
    if quarter < RECENT:
        return ""
    first, last = (fmean(value for _, value in part) for part in (points[:quarter], points[-quarter:]))
    return (
        f"The loss rises, from {number(first)} to {number(last)}: lower the learning rate."
        if last > 1.1 * first
        else ""
    )


def _heldout_rises(points: Sequence[Point]) -> str:
    if len(points) < 2:
        return ""
    (best, lowest), last = min(points, key=lambda point: point[1]), points[-1][1]
    if last <= 1.05 * lowest:
        return ""
    return (
        f"On held-out data it was best at step {best:g}; since then it learns by heart. "
        "The adapter of the best step is the one that is kept; fewer epochs would do."
    )
