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
from lorarlhf.types import Prompt, prompt_key
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.rate.sheets import Recipe, Sheet

AHEAD = 3
"""Sheets kept ready behind the one in front."""
REDRAWS = 3
"""How often answers that are all the same are drawn again."""
WATCHED_SECONDS = 10.0
"""A page that did not look for this long is gone, or shows something else."""
IDLE_SECONDS = 0.5


class Tray:
    """The sheets, and the thread that fills them."""

    def __init__(
        self,
        desk: Desk,
        recipe: Callable[[Prompt], Recipe],
        take: Callable[[Collection[str]], Prompt | None],
        repeat: Callable[[Collection[int]], Sheet | None] = lambda asked: None,
        redraws: int = REDRAWS,
    ) -> None:
        self.lock = threading.RLock()
        """Held by whoever looks at the sheets or moves them; never while the engine is waited for."""
        self.sheets: deque[Sheet] = deque()
        self.problem = ""
        """Why the thread could not go on."""
        self._desk, self._recipe, self._take, self._repeat, self._redraws = desk, recipe, take, repeat, redraws
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
        if not self._watching or self.obstacle() or not self._desk.fingerprint:
            return None
        with self.lock:
            self._refresh()
            undone = self._first_undone()
            if undone or len(self.sheets) > AHEAD:
                return undone
            prompt = self._take({prompt_key(sheet.prompt) for sheet in self.sheets})
            if prompt is None:
                return None
            if self.sheets and (again := self._repeat({s.repeats for s in self.sheets if s.repeats is not None})):
                self.sheets.append(again)
            self.sheets.append(sheet := self._blank(prompt))
            return sheet

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
        hopeless = sheet.recipe.sampling.temperature == 0 and len(sheet.recipe.groups()) == 1
        try:
            for _ in range(1 if hopeless else 1 + self._redraws):
                sheet.begin(secrets.randbelow(2**31))
                sheet.tries += 1
                self._answer(sheet)
                if len(set(sheet.texts)) > 1:
                    break
        except (JobCancelled, EngineDied):
            # Not wanted any more, or to be drawn again when the engine is back.
            sheet.begin(0)
            return False
        except LoraRlhfError as error:
            sheet.begin(0)
            sheet.problem = str(error)
            return False
        with self.lock:
            sheet.finish()
        return True

    def _answer(self, sheet: Sheet) -> None:
        """Have all answers of a sheet drawn, its leftmost first: which adapter is first says nothing then."""
        assert sheet.recipe is not None
        groups = [(name, numbers, i) for i, (name, numbers) in enumerate(sheet.recipe.groups())]
        for name, numbers, i in sorted(groups, key=lambda group: min(map(sheet.order.index, group[1]))):
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
            answers: list[dict[str, Any]] = job.result()[0]
            self._write(sheet, numbers, [answer["text"] for answer in answers])
            for number, answer in zip(numbers, answers, strict=True):
                sheet.cut_off[number] = not answer["ended"]
        finally:
            with self.lock:
                self._at_work = None

    def _write(self, sheet: Sheet, numbers: list[int], texts: Collection[str]) -> None:
        for number, text in zip(numbers, texts, strict=True):
            sheet.texts[number] = text
