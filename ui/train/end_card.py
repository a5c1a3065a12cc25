"""What a policy learned, as a card: the same prompts before and after, step by step. Pure functions; no Gradio.

What people and models wrote is escaped here, and shown as written: Markdown would hide some of the words compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from html import escape
from typing import Any

from lorarlhf.figures import figure
from lorarlhf.reading import BEST_STEP, distance_of
from lorarlhf.store import RunRow
from lorarlhf.ui.train.progress import Series

PLACES = ("largest gain", "typical", "smallest gain")
"""Which of the test prompts are shown: nobody can suspect that the best ones were picked."""
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """One test prompt and its answers, by step."""

    prompt: str
    answers: Mapping[int, Sample]
    place: str = ""

    def gain(self, step: int) -> float:
        """Give how much more the answer of a step scores than the first."""
        return float(self.answers[step]["score"]) - float(self.answers[min(self.answers)]["score"])


def measured_steps(samples: Sequence[Sample]) -> list[int]:
    """List the steps after which the test prompts were answered."""
    return sorted({int(sample["step"]) for sample in samples if sample.get("heldout")})


def examples(samples: Sequence[Sample], step: int) -> list[Example]:
    """Choose three prompts answered at all steps: their score gained most, a middle amount, and least until a step."""
    steps = measured_steps(samples)
    answers: dict[str, dict[int, Sample]] = {}
    for sample in samples:
        if sample.get("heldout"):
            answers.setdefault(str(sample["prompt"]), {}).setdefault(int(sample["step"]), sample)
    whole = [Example(prompt, found) for prompt, found in answers.items() if set(found) == set(steps)]
    whole.sort(key=lambda example: -example.gain(step))
    if len(whole) <= len(PLACES):
        return whole
    chosen = (whole[0], whole[len(whole) // 2], whole[-1])
    return [Example(e.prompt, e.answers, place) for e, place in zip(chosen, PLACES, strict=True)]


def shown_step(run: RunRow, steps: Sequence[int]) -> int:
    """Give the step whose answers stand for the run: the one that was kept, else the last measured."""
    kept = _kept(run)
    return kept if kept is not None and kept in steps[1:] else steps[-1]


def card_html(run: RunRow, series: Series, samples: Sequence[Sample]) -> str:
    """Write the card of a PPO run; empty until the test prompts were answered twice."""
    steps = measured_steps(samples)
    if run.stage != "ppo" or len(steps) < 2:
        return ""
    step = shown_step(run, steps)
    found = examples(samples, step)
    if not found:
        return ""
    done = run.status == "done"
    title = "Before and after" if done else "Before, and so far"
    body = "".join(_example(example, steps, step) for example in found)
    return (
        f"<section class='end-card' aria-label='{title}' data-run='{escape(run.adapter, quote=True)}'>"
        f"<h3>{title}</h3><p class='figures'>{escape(sentence(run, series, step))}</p>"
        f"{_slider(steps, step, _kept(run))}{body}{_buttons(run) if done else ''}</section>"
    )


def _kept(run: RunRow) -> int | None:
    kept = run.result.get(BEST_STEP)
    return None if kept is None else int(kept)


def sentence(run: RunRow, series: Series, step: int) -> str:
    """Say in one sentence how reward, length and distance from the start changed until a step."""
    parts = []
    if pair := _ends(series, "eval/scores", step):
        parts.append(f"Reward {figure(pair[0], '+.2f')} → {figure(pair[1], '+.2f')} on test prompts")
    if pair := _ends(series, "eval/length", step):
        same = abs(pair[1] - pair[0]) <= 0.1 * max(pair[0], 1)
        parts.append("answers about as long" if same else f"answers {pair[0]:.0f} → {pair[1]:.0f} tokens long")
    if pair := _ends(series, "eval/kl", step):
        parts.append(distance_of(run, pair[1]))
    text = "; ".join(parts) + "." if parts else ""
    if _kept(run) == 0:
        text += " No step was better than the start on the test prompts, so the start was kept."
    return text.strip()


def _ends(series: Series, name: str, step: int) -> tuple[float, float] | None:
    values = {int(at): value for at, value in series.get(name, [])}
    first = min(values, default=0)
    return (values[first], values[step]) if step in values and step > first else None


def _slider(steps: Sequence[int], step: int, kept: int | None) -> str:
    names = [f"step {at}{' · kept' if at == kept else ''}" for at in steps]
    at = steps.index(step)
    return (
        f"<label class='steps'>After <input type='range' min='0' max='{len(steps) - 1}' value='{at}' step='1' "
        f"aria-label='Step whose answers are shown' data-steps='{','.join(map(str, steps))}' "
        f"data-names='{escape('|'.join(names), quote=True)}'><output>{escape(names[at])}</output></label>"
    )


def _example(example: Example, steps: Sequence[int], step: int) -> str:
    first = example.answers[steps[0]]
    pairs = []
    for at in steps:
        sample = example.answers[at]
        old, new = tinted(str(first["response"]), str(sample["response"]))
        columns = _column("Before", first, old) + _column("After", sample, new)
        pairs.append(f"<div class='pair' data-step='{at}'{'' if at == step else ' hidden'}>{columns}</div>")
    place = f"<span class='place'>{example.place}</span>" if example.place else ""
    return f"<article><p class='asked' dir='auto'>{escape(example.prompt)}{place}</p>{''.join(pairs)}</article>"


def _column(title: str, sample: Sample, text: str) -> str:
    score = f"<span class='score'>{figure(float(sample['score']), '+.2f')}</span>"
    cut = "" if sample.get("ended", True) else " <span class='cut'>cut off at the longest length</span>"
    return f"<div class='{title.lower()}'><h4>{title} {score}</h4><p dir='auto'>{text}{cut}</p></div>"


def tinted(before: str, after: str) -> tuple[str, str]:
    """Mark the words that went in one text and those that came in the other, as HTML."""
    old, new = re.findall(r"\s*\S+", before), re.findall(r"\s*\S+", after)
    matcher = SequenceMatcher(None, [word.strip() for word in old], [word.strip() for word in new], autojunk=False)
    gone, came = [], []
    for kind, i, j, k, m in matcher.get_opcodes():
        gone.append(_marked("".join(old[i:j]), "del" if kind != "equal" else ""))
        came.append(_marked("".join(new[k:m]), "ins" if kind != "equal" else ""))
    return "".join(gone).strip(), "".join(came).strip()


def _marked(text: str, tag: str) -> str:
    """Write words, in a tag that leaves the space before them out."""
    if not text or not tag:
        return escape(text)
    word = text.lstrip()
    return f"{escape(text[: len(text) - len(word)])}<{tag}>{escape(word)}</{tag}>"


def _buttons(run: RunRow) -> str:
    name = escape(run.adapter, quote=True)
    places = [
        ("primary", "Blind test: is it better?", "Judge", "Blind comparison", ""),
        ("", "Chat with it", "Compare", "Chat", ""),
        ("", "Rate its answers", "Rate", "", ""),
        ("", "Export", "Models", "", name),
    ]
    found = "".join(
        f"<button type='button' class='{kind}' data-go='{go}' data-section='{section}' data-adapter='{adapter}'>"
        f"{words}</button>"
        for kind, words, go, section, adapter in places
    )
    return f"<div class='do'>{found}<button type='button' class='picture'>Save as picture</button></div>"
