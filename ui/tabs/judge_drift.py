"""Judge, the policy: how far it drifted and whether it fools its reward model; and best-of-n before there is one."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lorarlhf.ui.desk import Desk
from lorarlhf.ui.judge.at_work import pressed, progress_html
from lorarlhf.ui.judge.drift_html import (
    NO_POLICY,
    best_of_html,
    drift_html,
    unmeasured_html,
    untried_html,
)
from lorarlhf.ui.judge.drift_view import DriftView
from lorarlhf.ui.live import GROWING, QUIET, UNSEEN, beating, leading, plain, warned

LOOKS = "judge-panel"
POLICY, GAIN = "Policy", "What PPO could gain"


def build(desk: Desk, tab: gr.Tab) -> None:
    """Build the section."""
    Section(desk).wire(tab)


class Section:
    """The components and what happens between them."""

    def __init__(self, desk: Desk) -> None:
        self.view = DriftView(desk)
        with gr.Tab(POLICY) as self.policy_tab:
            self.head = beating(LOOKS, stamp=self.view.news, value="<h2>Did it cheat?</h2>")
            with gr.Row(elem_classes="bottom"):
                self.policy = _choice("Policy", "drifted")
                self.measure = _button("Measure it", "measure-policy")
                self.stop = _stop("stop-drift")
                self.progress = plain(LOOKS, elem_id="drift-progress", scale=2, min_width=200)
            self.drift = leading(LOOKS, elem_id="drift")
        with gr.Tab(GAIN) as self.gain_tab:
            self.gain_head = beating(LOOKS, stamp=self.view.news, value="<h2>What PPO could gain</h2>")
            with gr.Row(elem_classes="bottom"):
                self.answering = _choice("Model", "answering")
                self.reward = _choice("Reward model", "choosing")
                self.attempt = _button("Estimate", "try-best-of")
                self.stop_attempt = _stop("stop-best-of")
                self.attempt_progress = plain(LOOKS, elem_id="best-of-progress", scale=1, min_width=200)
            self.best_of = leading(LOOKS, elem_id="best-of")
            self.seen = gr.State("")  # what stands beside tabs would count as one of them

    # -- events -----------------------------------------------------------------------------------------------

    def wire(self, tab: gr.Tab) -> None:
        """Connect events to what they do."""
        inputs = [self.seen, self.policy, self.answering, self.reward]
        outputs = [
            *(self.seen, self.policy, self.measure, self.stop, self.progress, self.drift),
            *(self.answering, self.reward, self.attempt, self.stop_attempt, self.attempt_progress, self.best_of),
        ]
        look: dict[str, Any] = {"fn": self.look, "inputs": inputs, "outputs": outputs, **QUIET}
        changed = [box.change for box in (self.policy, self.answering, self.reward)]
        shown = [tab.select, self.policy_tab.select, self.gain_tab.select, self.head.tick, self.gain_head.tick]
        gr.on([*shown, *changed], trigger_mode="always_last", **look)
        self.measure.click(self._measure, self.policy, **UNSEEN).then(**look)
        self.attempt.click(self._try, [self.answering, self.reward], **UNSEEN).then(**look)
        for button in (self.stop, self.stop_attempt):
            button.click(lambda: self.view.measurement.stop(), **QUIET).then(**look)

    def look(self, seen: str, policy: str | None, answering: str | None, reward: str | None) -> list[Any]:
        """Bring the section up to date: nothing is sent where nothing changed."""
        lists = [self.view.policies(), self.view.answering(), self.view.rewards()]
        if answering == seen.partition("\n")[0]:
            answering = ""  # the default of before: there may be a newer one by now
        names = [_one_of(name, some) for name, some in zip((policy, answering, reward), lists, strict=True)]
        policy, answering, reward = names
        drift, tried, now = self.view.drift(policy), self.view.best_of(answering, reward), self.view.measurement.now()
        state = f"{next(iter(lists[1]), '')}\n{lists} {names} {now} {hash(drift)} {hash(tried)}"
        if state == seen:
            return [gr.skip()] * 12
        again = "Measure again" if drift else "Measure it"
        about = drift_html(drift) if drift else unmeasured_html(policy) if policy else NO_POLICY
        return [
            state,
            gr.update(choices=lists[0], value=policy or None),
            gr.update(value=pressed(now, again, "drift", policy), visible=bool(policy), interactive=not now.at_work),
            gr.update(visible=now.on("drift", policy)),
            progress_html(now, "drift", policy),
            about,
            gr.update(choices=lists[1], value=answering or None),
            gr.update(choices=lists[2], value=reward or None),
            gr.update(
                value=pressed(now, "Estimate again" if tried else "Estimate", "best_of", answering, reward),
                visible=bool(reward),
                interactive=not now.at_work,
            ),
            gr.update(visible=now.on("best_of", answering, reward)),
            progress_html(now, "best_of", answering, reward),
            best_of_html(tried) if tried else untried_html(answering, reward),
        ]

    def _measure(self, policy: str) -> None:
        warned(lambda: self.view.measure(policy))

    def _try(self, answering: str, reward: str) -> None:
        warned(lambda: self.view.try_out(answering, reward))


def _choice(words: str, id: str) -> gr.Dropdown:
    return gr.Dropdown([], label=words, scale=1, min_width=180, elem_id=id, **GROWING)


def _button(words: str, id: str) -> gr.Button:
    return gr.Button(words, variant="primary", scale=0, min_width=190, visible=False, elem_id=id)


def _stop(id: str) -> gr.Button:
    return gr.Button("Stop", scale=0, min_width=80, visible=False, elem_id=id)


def _one_of(name: str | None, names: list[str]) -> str:
    """Stay with what was chosen while it is there, else take the first."""
    return name if name and name in names else (names[0] if names else "")
