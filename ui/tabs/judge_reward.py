"""Judge, the reward model: its figures and warnings, the votes it contradicts, and a score for any text."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lorarlhf.errors import LoraRlhfError
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.judge.at_work import pressed, progress_html
from lorarlhf.ui.judge.health_html import (
    NO_REWARD,
    again_html,
    disagreements_html,
    health_html,
    told_html,
    unmeasured_html,
)
from lorarlhf.ui.judge.reward_view import RewardView, second_verdicts
from lorarlhf.ui.live import GROWING, QUIET, UNSEEN, asset, beating, listing, plain, warned

LOOKS = "judge-panel"


def build(desk: Desk, tab: gr.Tab) -> None:
    """Build the section."""
    Section(desk).wire(tab)


class Section:
    """The components and what happens between them."""

    def __init__(self, desk: Desk) -> None:
        self.view = RewardView(desk)
        with gr.Row(elem_classes="bottom", elem_id="judge-what"):
            self.chosen = gr.Dropdown([], label="Reward model", scale=1, min_width=220, elem_id="judged", **GROWING)
            self.measure = gr.Button(
                "Measure it", variant="primary", scale=0, min_width=190, visible=False, elem_id="measure-reward"
            )
            self.stop = gr.Button("Stop", scale=0, min_width=80, visible=False, elem_id="stop-measuring")
            self.progress = beating(LOOKS, stamp=self.view.news, elem_id="judge-progress", scale=2, min_width=200)
        self.health = self._panel()
        with gr.Row(elem_id="judge-rest"):
            with gr.Column(scale=3, min_width=320):
                with gr.Column(visible=False, elem_id="again", variant="panel") as self.again:
                    self.again_pair = plain(LOOKS, elem_id="again-pair")
                    with gr.Row(elem_id="again-verdicts"):
                        self.verdicts = [
                            (name, gr.Button(words, size="sm", min_width=110, elem_id=f"again-{name}"))
                            for words, name in second_verdicts()
                        ]
                        self.leave = gr.Button("Leave it", size="sm", variant="secondary", min_width=90)
                self.again_told = plain(LOOKS, elem_id="again-told")
                self.wrong = listing(LOOKS, elem_id="contradicted", opens="again")
            with gr.Column(scale=2, min_width=300):
                self._by_hand()
        self.row = gr.State(0)
        """The vote that is looked at again."""
        self.seen = gr.State("")

    def _panel(self) -> gr.HTML:
        def seen(payload: dict[str, Any]) -> None:
            self.view.see(str(payload.get("adapter", "")))

        return gr.HTML(
            elem_classes=LOOKS,
            elem_id="reward-health",
            apply_default_css=False,
            js_on_load=asset("lead.js") + asset("leading.js") + asset("judge.js"),
            server_functions=[seen],
        )

    def _by_hand(self) -> None:
        with gr.Column(variant="panel", elem_id="by-hand"):
            gr.HTML("<h3>Score any text</h3>", elem_classes=LOOKS)
            prompt = gr.Textbox(label="Prompt", lines=2, max_lines=6, elem_id="hand-prompt")
            answer = gr.Textbox(label="Answer", lines=3, max_lines=12, elem_id="hand-answer")
            button = gr.Button("Score", scale=0, min_width=110, elem_id="hand-score")
            told = plain(LOOKS, elem_id="hand-told")

        def scored(name: str, asked: str, said: str) -> str:
            return warned(lambda: told_html(self.view.score(name, asked, said))) or ""

        button.click(scored, [self.chosen, prompt, answer], told, **UNSEEN)

    # -- events -----------------------------------------------------------------------------------------------

    def wire(self, tab: gr.Tab) -> None:
        """Connect events to what they do."""
        inputs = [self.seen, self.chosen]
        outputs = [self.seen, self.chosen, self.measure, self.stop, self.progress, self.health, self.wrong]
        look: dict[str, Any] = {"fn": self.look, "inputs": inputs, "outputs": outputs, **QUIET}
        gr.on([tab.select, self.progress.tick, self.chosen.change], trigger_mode="always_last", **look)
        self.measure.click(self._measure, self.chosen, **UNSEEN).then(**look)
        self.stop.click(lambda: self.view.measurement.stop(), **QUIET).then(**look)
        pair = [self.row, self.again, self.again_pair, self.again_told]
        self.wrong.pick(self._pick, None, pair, **UNSEEN)
        self.leave.click(lambda: self._closed(""), None, pair, **QUIET)
        for name, button in self.verdicts:
            button.click(self._voter(name), [self.row, self.chosen], pair, **UNSEEN).then(**look)

    def look(self, seen: str, name: str | None) -> list[Any]:
        """Bring the section up to date: nothing is sent where nothing changed."""
        names, now = self.view.names(), self.view.measurement.now()
        name = name if name in names else (names[0] if names else "")
        state = f"{names} {name} {now} {self.view.stamp(name)}"
        if state == seen:
            return [gr.skip()] * 7
        health = self.view.health(name)
        there = bool(health and self.view.measured(health))
        left = health.unscored if health else 0
        label = f"Score {left:,} new votes" if there else "Measure it"
        work = now.on("reward", name)
        return [
            state,
            gr.update(choices=names, value=name or None),
            gr.update(
                value=pressed(now, label, "reward", name),
                visible=bool(left) or now.at_work,
                interactive=bool(left) and not now.at_work,
            ),
            gr.update(visible=work),
            progress_html(now, "reward", name),
            NO_REWARD if not health else health_html(health, whole=not work) if there else unmeasured_html(name, left),
            gr.HTML(value=disagreements_html(health.disagreements) if health and there else ""),
        ]

    def _measure(self, name: str) -> None:
        warned(lambda: self.view.measure(name))

    def _pick(self, event: gr.EventData) -> list[Any]:
        """Lay a pair out for a second vote."""
        try:
            row, sheet = self.view.pair(int(event.name))
        except LoraRlhfError as error:
            return self._closed(str(error))
        return [row.id, gr.update(visible=True), again_html(sheet.prompt, sheet.placed), ""]

    def _voter(self, verdict: str) -> Any:
        def vote(row: int, name: str) -> list[Any]:
            try:
                return self._closed(self.view.vote(row, verdict, name))
            except LoraRlhfError as error:
                return self._closed(str(error))

        return vote

    def _closed(self, words: str) -> list[Any]:
        return [0, gr.update(visible=False), "", told_html(words)]
