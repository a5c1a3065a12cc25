"""What a page asks for while a person rates, and what it is told. Knows nothing of Gradio.

One rating desk serves all pages: a reload, or a second window, shows the same pair. A page sends
`{"do": "vote", "sheet": id, …}` and gets everything it shows next in the same reply. A vote is on disk before the
reply, and so before the next pair, exists. Which adapter wrote what is told on request only, after the vote.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lorarlhf.errors import DataError
from lorarlhf.evaluate.duel_words import counted
from lorarlhf.evaluate.failures import RULE, failures, stamp
from lorarlhf.library import SavedAdapter
from lorarlhf.store import Vote
from lorarlhf.types import Outcome, Prompt
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.markdown import rendered, told
from lorarlhf.ui.rate.asking import Payload, reply_to
from lorarlhf.ui.rate.consistency import again
from lorarlhf.ui.rate.pairs import Tray
from lorarlhf.ui.rate.preferences import CRITERIA, REASONS, Preferences, load_preferences, save_preferences
from lorarlhf.ui.rate.profile import profile, profile_html
from lorarlhf.ui.rate.prompt_sources import (
    Chat,
    FailuresFirst,
    Source,
    Typed,
    everyday_line,
    has_imported,
    imported_line,
    starter_line,
)
from lorarlhf.ui.rate.recipes import offered, recipe_of
from lorarlhf.ui.rate.sheets import PREFERRED, VERDICTS, About, Recipe, Sheet
from lorarlhf.ui.rate.tally import progress
from lorarlhf.ui.rate.vote_history import History, in_words

LONGEST_NOTE, LONGEST_TEXT = 2_000, 200_000
MOST_PREPARED = 200
CLEAR_FIRST = 10
"""Votes that come before pairs may be hard to tell apart."""
SLOW_SECONDS = 3.0
"""A pair that takes so long is worth telling how long."""


class RatingDesk:
    """The pair in front of the person, those behind it, and what was said so far."""

    def __init__(self, desk: Desk, rng: random.Random | None = None) -> None:
        self._desk, self._rng = desk, rng or random.Random()
        store = desk.store
        self.chosen = load_preferences(store)
        self.history = History(store)
        self._chat, self._typed = Chat(store), Typed(store)
        self._failures = FailuresFirst(
            lambda: [one.prompt for one in failures(store, *self._judged_by())],
            lambda: stamp(store, *self._judged_by()),
            lambda: self._sources[self._usual],
        )
        self._sources: dict[str, Source] = {
            "failures": self._failures,
            "chat": self._chat,
            "typed": self._typed,
            "queue": imported_line(store),
            "everyday": everyday_line(store),
            "starter": starter_line(store),
        }
        self.tray = Tray(desk, lambda prompt: self.recipe(), self._take, self._again, choosy=self._is_new)
        self._last: Sheet | None = None
        """What the last verdict was about."""
        self._base = desk.load_settings.base
        """The base that the sheets are of; they do not outlive it."""

    # -- what pages ask ---------------------------------------------------------------------------------------

    def ask(self, payload: Payload) -> dict[str, Any]:
        """Do what a page asks for and reply with what it shows next; a refusal is said in one line."""
        self.tray.watch()
        return reply_to(payload, self)

    def do_open(self, payload: Payload) -> dict[str, Any]:
        """Tell a page everything."""
        self._follow()
        return {**self.tally(), **self.choices(), **self.view()}

    def do_look(self, payload: Payload) -> dict[str, Any]:
        """Tell a page what changed since it looked last."""
        self._follow()
        view = self.view()
        if view["stamp"] == payload.get("stamp"):
            return {"stamp": view["stamp"]}
        # A base that came, or a run that ended, brings other adapters to choose from, and other next steps.
        same = view["shelf"] == payload.get("shelf", view["shelf"])
        return view if same else {**self.tally(), **self.choices(), **view}

    def do_vote(self, payload: Payload) -> dict[str, Any]:
        """Say which of two answers is better."""
        sheet, verdict = self._current(payload), str(payload.get("verdict"))
        if sheet.readable and verdict in VERDICTS:
            sheet.stop()
        sheet = self._judged(payload)
        said = sheet.comparison(verdict, self._about(payload))
        answer = sheet.placed[PREFERRED[verdict]] if verdict in PREFERRED else ""
        return self._say(sheet, [said], VERDICTS[verdict][2], answer)

    def do_rank(self, payload: Payload) -> dict[str, Any]:
        """Say in which order three or more answers stand."""
        sheet, ranks = self._judged(payload), payload.get("ranks")
        if not isinstance(ranks, list) or any(type(rank) is not int for rank in ranks):
            raise DataError("a ranking is a list of whole numbers, one per answer")
        said = sheet.ranking(ranks, self._about(payload))
        return self._say(sheet, [said], in_words(said), sheet.best_of(ranks))

    def do_edit(self, payload: Payload) -> dict[str, Any]:
        """Take the answer the person wrote: worth imitating, and better than both."""
        sheet, text = self._judged(payload), _text(payload, "text")
        values = sheet.written(text, _number(payload, "place"), str(payload.get("better")), self._about(payload))
        return self._say(sheet, values, f"your answer: {in_words(values[1])}", text.strip())

    def do_again(self, payload: Payload) -> dict[str, Any]:
        """Draw other answers to the same prompt."""
        self._current(payload)
        self.tray.redraw()
        return self._told("New answers to the same prompt")

    def do_next(self, payload: Payload) -> dict[str, Any]:
        """Go on to another prompt without a verdict."""
        if self.tray.front:
            sheet = self._current(payload)
            self._source.drop(sheet.prompt)
            self.tray.leave()
        else:
            self._source.drop(self._chat.turns)
        if self.source == "chat":
            self.tray.clear()
            return self._told("A new conversation")
        return self._told("Another prompt; nothing was saved about the last one")

    def do_prepare(self, payload: Payload) -> dict[str, Any]:
        """Draw many pairs ahead, also while no page looks; or no more than usual again."""
        self.tray.prepare(min(_number(payload, "number"), MOST_PREPARED))
        return self._told("Preparing. You can leave; keep the app running" if self.tray.preparing else "Stopped")

    def do_undo(self, payload: Payload) -> dict[str, Any]:
        """Take the last verdict back and show its answers again."""
        sheet = self.history.undo()
        self._last = None
        if self.source == "chat":
            self.tray.clear()
            self._chat.go_back_to(sheet.prompt)
        self.tray.put_back(sheet)
        return self._told("Undone. Rate it again, or undo the one before")

    def do_type(self, payload: Payload) -> dict[str, Any]:
        """Take a prompt, or the next turn of the conversation."""
        text = _text(payload, "text")
        if self.source == "chat":
            self._chat.say(text)
        else:
            self._typed.say(text)
        self.tray.changed()
        return self._told("")

    def do_prefer(self, payload: Payload) -> dict[str, Any]:
        """Change what the person chose, and draw again where that changes the answers."""
        values = payload.get("values")
        if not isinstance(values, dict):
            raise DataError("nothing was chosen")
        self._follow()
        chosen = Preferences.parse({**self.chosen.model_dump(), **values}, "rating")
        save_preferences(self._desk.store, chosen)
        return {**self._told(self._take_over(chosen)), **self.choices()}

    def do_reveal(self, payload: Payload) -> dict[str, Any]:
        """Tell who wrote the answers that were judged last."""
        if self._last is None:
            raise DataError("rate a pair first; then you may look where its answers came from")
        return {**self.view(), "sources": self._last.sources}

    def do_profile(self, payload: Payload) -> dict[str, Any]:
        """Tell what the votes say about who cast them."""
        return {**self.view(), "profile": profile_html(profile(self._desk.store, self.chosen.rater), self.chosen.rater)}

    def do_history(self, payload: Payload) -> dict[str, Any]:
        """List what was said before."""
        return {**self.view(), "history": self.history.page(_number(payload, "page"))}

    def do_change(self, payload: Payload) -> dict[str, Any]:
        """Change what was said before."""
        self.history.change(str(payload.get("kind")), _number(payload, "id"), payload.get("verdict", ""))
        return {**self._told("Changed; what you said before stays in the history"), **self.do_history(payload)}

    def do_take_back(self, payload: Payload) -> dict[str, Any]:
        """Undo something that was said before."""
        self.history.take_back(str(payload.get("kind")), _number(payload, "id"))
        return {**self._told("Taken back"), **self.do_history(payload)}

    # -- what pages are told ----------------------------------------------------------------------------------

    def view(self) -> dict[str, Any]:
        """Describe what lies in front of the person; nothing in it says where an answer comes from."""
        with self.tray.lock:
            sheet, obstacle = self.tray.front, self.tray.obstacle() or self.tray.problem
            seen: dict[str, Any] = {
                "sheet": None,
                "turns": told(self._chat.turns) if self.source == "chat" else [],
                "compose": self.source if self.source in ("chat", "typed") else "",
                "ahead": sum(sheet.whole for sheet in list(self.tray.sheets)[1:]),
                "wait": obstacle or (self._why_nothing() if sheet is None else ""),
                "stuck": bool(obstacle),
                "preparing": self.tray.ahead if self.tray.preparing else 0,
                "seconds": round(self.tray.seconds) if self.tray.seconds and self.tray.seconds >= SLOW_SECONDS else 0,
                "shelf": self._shelf(),
            }
            if sheet:
                seen["sheet"] = {
                    "id": sheet.id,
                    "prompt": told(sheet.prompt),
                    "answers": sheet.placed,
                    "html": [rendered(text) for text in sheet.placed] if sheet.whole else [],
                    "cut": sheet.cut,
                    "whole": sheet.whole,
                    "readable": sheet.readable,
                    "pace": {} if sheet.whole else sheet.pace.told(),
                    "equal": sheet.equal,
                    "tries": sheet.tries,
                    "problem": sheet.problem,
                }
                if sheet.whole:
                    sheet.show()
        return {**seen, "stamp": zlib.crc32(json.dumps(seen).encode())}

    def tally(self) -> dict[str, Any]:
        """Say how far the person has come."""
        newest = self._desk.newest("reward")
        said = progress(self._desk.store, self.chosen.rater, [newest] if newest else [])
        return {
            "progress": said,
            "welcome": self._welcome(),
            "toy": self._desk.load_settings.base == "starter",
            "undoable": len(self.history),
            "revealable": self._last is not None,
        }

    def choices(self) -> dict[str, Any]:
        """Tell what can be chosen, and what is."""
        return {
            "chosen": {**self.chosen.model_dump(mode="json"), "source": self.source},
            "choices": {
                **offered(self._desk),
                "criteria": list(dict.fromkeys([*CRITERIA, *self.chosen.own])),
                "reasons": list(REASONS),
            },
        }

    def _welcome(self) -> str:
        """Say to who has never voted what this is; empty once anything was said, taken back or not."""
        store = self._desk.store
        if store.query("SELECT 1 FROM comparisons UNION ALL SELECT 1 FROM rankings LIMIT 1"):
            return ""
        base = self._desk.load_settings.base
        pupil = "a small shop assistant manners" if base == "starter" else f"{Path(base).name} what you like"
        return f"Teach {pupil}. Read two answers, press 1 to 5."

    # -- how it is done ---------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Go by what was chosen elsewhere: under Rounds, or in another window.

        Not before a vote: that is about the answers the person has in front of them, whatever was chosen since.
        """
        if (base := self._desk.load_settings.base) != self._base:
            # Its answers, and what can be undone, were about the base that was there before.
            self._base, self._last, self.history = base, None, History(self._desk.store)
            self.tray.clear()
        if (now := load_preferences(self._desk.store)) != self.chosen:
            self._take_over(now)

    def _take_over(self, chosen: Preferences) -> str:
        """Go by other choices from now on; return what there is to say about that."""
        before, source = self.recipe(), self.source
        self.chosen = chosen
        if self.source != source:
            self.tray.clear()
        elif self.recipe() != before:
            self.tray.renew()
        if self.source != "failures" or source == "failures":
            return ""
        if left := self._failures.left:
            return f"{counted(left, 'prompt')} on which it failed first: {RULE}"
        return "No failure is known that was not rated since. Measure reward model and policy under Judge to find some"

    def _judged_by(self) -> tuple[SavedAdapter | None, SavedAdapter | None]:
        """Give who answers in the round that is on, and its reward model."""
        return self._desk.newest("ppo") or self._desk.newest("sft"), self._desk.newest("reward")

    @property
    def source(self) -> str:
        """Where prompts come from: what the person chose, else what suits."""
        return self.chosen.source or self._usual

    @property
    def _usual(self) -> str:
        if has_imported(self._desk.store):
            return "queue"
        return "starter" if self._desk.load_settings.base == "starter" else "everyday"

    @property
    def _source(self) -> Source:
        return self._sources[self.source]

    def recipe(self) -> Recipe:
        """Say how answers are drawn now."""
        return recipe_of(self._desk, self.chosen)

    def _shelf(self) -> str:
        """Write what the choices depend on, as a number: no name of an adapter stands in it."""
        folder = self._desk.workspace.adapters_dir.stat().st_mtime_ns
        return str(zlib.crc32(f"{folder} {self.recipe()} {self.source}".encode()))

    def _take(self, busy: Collection[str]) -> Prompt | None:
        return self._source.take(busy)

    def _again(self, busy: Collection[int]) -> Sheet | None:
        if not self.chosen.repeats or self.chosen.answers != 2 or self.source == "chat":
            return None
        return again(self._desk.store, self.chosen.rater, busy, self._rng)

    def _is_new(self) -> bool:
        """Tell whether the person has hardly voted: whoever begins sees clear-cut pairs."""
        return len(self.history) < CLEAR_FIRST

    def _current(self, payload: Payload) -> Sheet:
        """Give the front sheet; refuse what another page, or a second key press, says about one that is gone."""
        sheet = self.tray.front
        if sheet is None or sheet.id != payload.get("sheet"):
            raise DataError("that pair is done already, here or in another window; this is the current one")
        return sheet

    def _judged(self, payload: Payload) -> Sheet:
        sheet = self._current(payload)
        if not sheet.whole:
            raise DataError("the answers are still being written; one moment")
        return sheet

    def _about(self, payload: Payload) -> About:
        criteria, reasons = payload.get("criteria") or {}, payload.get("reasons") or []
        known = {"a": Outcome.A, "b": Outcome.B, "tie": Outcome.TIE}
        return About(
            rater=self.chosen.rater,
            note=str(payload.get("note") or "")[:LONGEST_NOTE],
            reasons=tuple(reason for reason in REASONS if reason in reasons),
            criteria={name: known[criteria[name]] for name in self.chosen.criteria if criteria.get(name) in known},
        )

    def _say(self, sheet: Sheet, values: Collection[Vote], words: str, answer: str) -> dict[str, Any]:
        """Put on disk what was said; then lay the next sheet in front."""
        with self._desk.store.transaction():
            self.history.add(list(values))
            self._source.done(sheet.prompt, answer)
        self._last = sheet
        self.tray.leave()
        if self.source == "chat":
            self.tray.clear()
        return self._told(f"Saved: {words}")

    def _told(self, words: str) -> dict[str, Any]:
        return {**self.tally(), **self.view(), "said": words}

    def _why_nothing(self) -> str:
        if self.source == "queue" and not has_imported(self._desk.store):
            return "No prompts were imported yet. Import some in the tab Data, take the starter's, or type one."
        if self.source == "failures":
            return "No failure is known that was not rated since, and there are no other prompts: import or type some."
        if self.source == "typed" and not self._typed.waiting:
            return "Type a prompt, and two answers to it appear here."
        if self.source == "chat":
            if not self._chat.turns:
                return "Say something: the answer you prefer continues the conversation."
            return "" if self._chat.open else "Your turn: what you write goes on from the answer you preferred."
        return ""


def _text(payload: Payload, name: str) -> str:
    text = payload.get(name)
    if not isinstance(text, str):
        raise DataError("nothing was typed")
    if len(text) > LONGEST_TEXT:
        raise DataError(f"{len(text):,} letters are too many; {LONGEST_TEXT:,} at most")
    return text


def _number(payload: Payload, name: str) -> int:
    number = payload.get(name, 0)
    if type(number) is not int:
        raise DataError(f"{name} = {number!r}: a whole number was expected")
    return number
