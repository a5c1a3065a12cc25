"""Sheets of answers, drawn ahead: the first lies in front of the person, the others wait behind it.

A thread has the engine draw one sheet after the other, so that the next is whole before it is needed. It works while
a page looks, and waits while the engine loads, trains or is being started again. Knows nothing of votes and Gradio.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from lorarlhf.engine.client import Job
from lorarlhf.engine.requests import EngineDied, JobCancelled
from lorarlhf.errors import LoraRlhfError
from lorarlhf.evaluate.duel_words import counted
from lorarlhf.types import Prompt, prompt_key
from lorarlhf.ui.desk import Desk, Notice
from lorarlhf.ui.rate.sheets import Recipe, Sheet

AHEAD = 3
"""Sheets kept ready behind the one in front."""
REDRAWS = 3
"""How often answers that are all the same are drawn again."""
WATCHED_SECONDS = 10.0
"""A page that did not look for this long is gone, or shows something else."""
IDLE_SECONDS = 0.5
QUICK_SECONDS = 3.0


def alike(texts: Collection[str]) -> bool:
    """Tell whether answers share more than half of their words."""
    words = [set(text.lower().split()) for text in texts]
    every = set.union(*words)
    return bool(every) and len(set.intersection(*words)) > len(every) / 2


class Tray:
    """The sheets, and the thread that fills them."""

    def __init__(
        self,
        desk: Desk,
        recipe: Callable[[Prompt], Recipe],
        take: Callable[[Collection[str]], Prompt | None],
        repeat: Callable[[Collection[int]], Sheet | None] = lambda asked: None,
        redraws: int = REDRAWS,
        choosy: Callable[[], bool] = lambda: False,
    ) -> None:
        self.lock = threading.RLock()
        """Held by whoever looks at the sheets or moves them; never while the engine is waited for."""
        self.sheets: deque[Sheet] = deque()
        self.problem = ""
        """Why the thread could not go on."""
        self._desk, self._recipe, self._take, self._repeat, self._redraws = desk, recipe, take, repeat, redraws
        self._choosy = choosy
        """Tells whether answers that are much alike are drawn again, too, where that takes next to no time."""
        self.ahead = AHEAD
        """How many sheets are kept ready behind the one in front."""
        self.seconds: float | None = None
        """What the last sheet took to draw."""
        self._news = threading.Event()
        self._watched = 0.0
        self._at_work: tuple[Sheet, Job] | None = None
        self._thread: threading.Thread | None = None

    @property
    def front(self) -> Sheet | None:
        """The sheet in front of the person."""
        return self.sheets[0] if self.sheets else None

    def watch(self) -> None:
        """Note that a page looks."""
        with self.lock:
            asleep = not self._watching
            self._watched = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="pairs")
                self._thread.start()
        if asleep:
            self._news.set()

    def prepare(self, number: int) -> None:
        """Draw so many sheets ahead, also while nobody looks; the number is as usual again once they are there."""
        with self.lock:
            self.ahead = max(number, AHEAD)
        self.changed()

    @property
    def preparing(self) -> bool:
        """Tell whether more than the usual number is being drawn ahead."""
        return self.ahead > AHEAD

    def changed(self) -> None:
        """Note that sheets came or went: what is being drawn may not be what is wanted now."""
        with self.lock:
            if self._at_work and not self._wanted(self._at_work[0]):
                self._at_work[1].stop()
        self._news.set()

    def leave(self) -> None:
        """Take the front sheet away."""
        with self.lock:
            self.sheets.popleft()
        self.changed()

    def clear(self) -> None:
        """Take all sheets away."""
        with self.lock:
            self.sheets.clear()
        self.changed()

    def put_back(self, sheet: Sheet) -> None:
        """Lay a sheet in front."""
        with self.lock:
            self.sheets.appendleft(sheet)
        self.changed()

    def redraw(self) -> None:
        """Draw other answers to the front sheet's prompt."""
        with self.lock:
            if self.sheets:
                self.sheets[0] = self._blank(self.sheets[0].prompt)
        self.changed()

    def renew(self) -> None:
        """Draw everything again, as is wanted now."""
        with self.lock:
            self.sheets = deque(self._blank(sheet.prompt) for sheet in self.sheets if sheet.repeats is None)
        self.changed()

    def obstacle(self) -> str:
        """Say why the engine draws nothing now; empty where it can."""
        status = self._desk.status()
        if status.state == "loading":
            return f"The base is on its way ({status.text}). Answers come as soon as it is there."
        if status.state == "down":
            return f"{status.text}. Answers come when it is back; the line at the top of the page has more."
        if any(job.kind in ("train", "resume") for job in self._desk.engine.jobs):
            return "Training: new answers after the run."
        return ""

    # -- the thread -------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            self._news.clear()
            try:
                sheet = self._next()
                self.problem = ""
            except LoraRlhfError as error:
                sheet, self.problem = None, str(error)
            if sheet is None or not self._draw(sheet):
                self._news.wait(IDLE_SECONDS)

    @property
    def _watching(self) -> bool:
        return time.monotonic() < self._watched + WATCHED_SECONDS

    def _next(self) -> Sheet | None:
        """Find the sheet to draw now, or begin one; None where there is nothing to do."""
        if not (self._watching or self.preparing) or self.obstacle() or not self._desk.fingerprint:
            return None
        with self.lock:
            self._refresh()
            undone = self._first_undone()
            if undone:
                return undone
            if len(self.sheets) > self.ahead:
                self._prepared()
                return None
            prompt = self._take({prompt_key(sheet.prompt) for sheet in self.sheets})
            if prompt is None:
                self._prepared()
                return None
            if self.sheets and (again := self._repeat({s.repeats for s in self.sheets if s.repeats is not None})):
                self.sheets.append(again)
            self.sheets.append(sheet := self._blank(prompt))
            return sheet

    def _prepared(self) -> None:
        """Say that what was to be prepared is there, or all of it that there are prompts for."""
        if self.preparing:
            ready = sum(sheet.whole for sheet in self.sheets)
            self.ahead = AHEAD
            self._desk.tell(Notice(f"{counted(ready, 'pair')} ready to be rated", good=True))

    def _blank(self, prompt: Prompt) -> Sheet:
        return Sheet.blank(prompt, self._recipe(prompt))

    def _refresh(self) -> None:
        """Put blanks in the place of sheets drawn otherwise than is wanted now, except one that may be being read."""
        for i, sheet in enumerate(self.sheets):
            if sheet.recipe not in (None, self._recipe(sheet.prompt)) and not (i == 0 and sheet.whole):
                self.sheets[i] = self._blank(sheet.prompt)

    def _first_undone(self) -> Sheet | None:
        return next((sheet for sheet in self.sheets if not sheet.done), None)

    def _wanted(self, sheet: Sheet) -> bool:
        return sheet is self._first_undone()

    def _draw(self, sheet: Sheet) -> bool:
        """Fill a sheet, or say on it why not; tell whether it is whole."""
        assert sheet.recipe is not None
        began = time.monotonic()
        hopeless = sheet.recipe.sampling.temperature == 0 and len(sheet.recipe.groups()) == 1
        try:
            for _ in range(1 if hopeless else 1 + self._redraws):
                sheet.begin(secrets.randbelow(2**31))
                sheet.tries += 1
                self._answer(sheet)
                again = self._choosy() and time.monotonic() < began + QUICK_SECONDS and alike(sheet.texts)
                if sheet.whole or (len(set(sheet.texts)) > 1 and not again):
                    break
        except (JobCancelled, EngineDied):
            if sheet.whole:  # it was judged before its end
                return True
            # Not wanted any more, or to be drawn again when the engine is back.
            sheet.begin(0)
            return False
        except LoraRlhfError as error:
            sheet.begin(0)
            sheet.problem = str(error)
            self.ahead = AHEAD  # thirty pairs that all fail help nobody
            return False
        with self.lock:
            if not sheet.whole:
                sheet.finish()
                self.seconds = time.monotonic() - began
        return True

    def _answer(self, sheet: Sheet) -> None:
        """Have all answers of a sheet drawn, its leftmost first: which adapter is first says nothing then."""
        assert sheet.recipe is not None
        groups = [(name, numbers, i) for i, (name, numbers) in enumerate(sheet.recipe.groups())]
        for at, (name, numbers, i) in enumerate(sorted(groups, key=lambda g: min(map(sheet.order.index, g[1])))):
            if sheet.whole:
                return
            sheet.pace.behind = len(groups) - 1 - at
            seed = sheet.origin.sampling["seed"] + i
            sampling = sheet.recipe.sampling.model_copy(update={"seed": seed})
            self._fill(sheet, numbers, self._desk.engine.generate([sheet.prompt], len(numbers), sampling, name))

    def _fill(self, sheet: Sheet, numbers: list[int], job: Job) -> None:
        with self.lock:
            self._at_work = sheet, job
        self.changed()  # it may have become unwanted since it was chosen
        try:
            for now in job.updates():
                self._write(sheet, numbers, now.texts)
                sheet.pace.look(now.step, now.total, time.monotonic())
            answers: list[dict[str, Any]] = job.result()[0]
            self._write(sheet, numbers, [answer["text"] for answer in answers])
            with self.lock:
                for number, answer in zip(numbers, answers, strict=True):
                    sheet.cut_off[number] = sheet.whole or not answer["ended"]
        finally:
            with self.lock:
                self._at_work = None

    def _write(self, sheet: Sheet, numbers: list[int], texts: Collection[str]) -> None:
        with self.lock:
            if not sheet.whole:
                for number, text in zip(numbers, texts, strict=True):
                    sheet.texts[number] = text
