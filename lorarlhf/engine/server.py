"""The engine's own process: it owns the base for its whole life and does one job after another.

Requests come in on stdin and reports go out on stdout; what libraries print goes to the log. A thread listens all the
time, so that stopping a job, and asking what is in memory, never wait for the job that runs. The process ends when it
is told to, or when nobody holds the other end of its stdin any more.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO

from lorarlhf.data.chat import clean, stop_texts
from lorarlhf.engine.requests import (
    EVERYTHING,
    GRACE_SECONDS,
    LOG,
    EngineError,
    JobCancelled,
    Report,
    Request,
    packed,
    receive,
    send,
)
from lorarlhf.errors import LoraRlhfError
from lorarlhf.settings import STAGES, LoadSettings, SamplingSettings
from lorarlhf.starting import compiling_later
from lorarlhf.workspace import Workspace

if TYPE_CHECKING:
    from lorarlhf.engine.core import Engine

STREAM_SECONDS = 0.05
"""Growing answers are shown this often; less often where that would take more than a twentieth of the time."""


def main() -> None:
    """Serve the workspace and load settings of the command line until told to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inbox, outbox = _private_pipes()
    try:
        workspace = Workspace(sys.argv[1]).open()
        with workspace.store() as store:
            store.mark_interrupted()
        Server(workspace, LoadSettings.model_validate_json(sys.argv[2]), inbox, outbox).serve()
    except LoraRlhfError as error:
        send(outbox, Report(EVERYTHING, "failed", packed(error)))
        sys.exit(1)


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keep stdin and stdout for messages; whoever else reads finds nothing, and whoever prints prints to the log."""
    inbox, outbox = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return inbox, outbox


class Server:
    """The jobs, and the one engine they run on."""

    engine: Engine

    def __init__(self, workspace: Workspace, load: LoadSettings, inbox: BinaryIO, outbox: BinaryIO) -> None:
        self.workspace, self.load_settings = workspace, load
        self._inbox, self._outbox, self._writing = inbox, outbox, threading.Lock()
        self._waiting: SimpleQueue[Request | None] = SimpleQueue()
        self._stopped: set[int] = set()
        self._job = EVERYTHING
        """The one that runs."""
        self._broken = False
        """Whether the card answers no more: after some errors all that a process asks of it fails, until it ends."""
        self._memory: dict[str, Any] = {}
        """What is in memory, as seen between two steps of a job."""

    def serve(self) -> None:
        """Do jobs in their order until told to end."""
        # Listening begins before torch is imported: whoever asks or stops meanwhile shall not wait.
        threading.Thread(target=self._listen, daemon=True, name="requests").start()
        with compiling_later():
            from lorarlhf.engine.core import Engine

        self.engine = Engine(self.workspace, self.load_settings, lambda text, share: self._tell(text=text, share=share))
        while request := self._waiting.get():
            self._job = request.job
            kind, value = self._outcome(request)
            if not self._broken:
                self._look()
            self._say(request.job, kind, value)
            if self._broken:
                os._exit(1)

    def _listen(self) -> None:
        for request in receive(self._inbox, Request):
            if request.do == "describe":
                self._say(request.job, "done", self._memory)
            elif request.do == "stop":
                self._stop(request.job)
            else:
                self._waiting.put(request)
        # The app is gone. A run may save what it has; after that there is nobody to work for.
        self._stop(EVERYTHING)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    def _stop(self, job: int) -> None:
        self._stopped.add(job)
        if job == EVERYTHING:
            self._waiting.put(None)

    def _stopping(self) -> bool:
        return not self._stopped.isdisjoint((self._job, EVERYTHING))

    def _outcome(self, request: Request) -> tuple[str, Any]:
        """Do a job; nothing it raises ends the process."""
        try:
            self._tell(started=True)
            return "done", getattr(self, f"do_{request.do}")(**request.args)
        except LoraRlhfError as error:
            return "failed", packed(error)
        except (Exception, SystemExit) as error:
            print(f"\n{datetime.now():%Y-%m-%d %H:%M:%S} {request.do} failed", file=sys.stderr)
            traceback.print_exc()
            self._broken = type(error).__name__ == "AcceleratorError"
            return "failed", packed(EngineError(self._worded(error)))

    def _worded(self, error: BaseException) -> str:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return f"{said}; {self.workspace.path / LOG} says where; if it happens again, restart the engine"

    def _tell(self, **progress: Any) -> None:
        """Report progress of the job that runs, unless somebody wants it to stop."""
        self._check()
        self._look()
        self._say(self._job, "progress", progress)

    def _check(self) -> None:
        if self._stopping():
            raise JobCancelled("stopped before its end; what was done until then stays")

    def _look(self) -> None:
        # The engine would load what is not there yet in order to describe it.
        if hasattr(self, "engine") and {"base", "bank"} <= vars(self.engine).keys():
            self._memory = self.engine.describe()

    def _say(self, job: int, kind: str, value: Any) -> None:
        # Where nobody is left to hear it, the listening thread ends the process.
        with self._writing, suppress(OSError):
            send(self._outbox, Report(job, kind, value))

    # -- jobs -------------------------------------------------------------------------------------------------

    def do_load(self) -> dict[str, Any]:
        _ = self.engine.bank
        return self.engine.describe()

    def do_generate(self, prompts: list[Any], n: int, sampling: dict[str, Any], adapter: str) -> list[list[Any]]:
        settings = SamplingSettings.parse(sampling)
        most = settings.max_new_tokens

        def show(rows: list[tuple[int, str]]) -> None:
            self._tell(rows=rows, step=texts.longest, total=most)

        texts: GrowingTexts = GrowingTexts(self.engine.base.tokenizer, settings.stop, show)

        def on_step(tokens: dict[int, int]) -> None:
            self._check()
            texts.add(tokens)

        answers = self.engine.generate([tuple(p) for p in prompts], n, settings, adapter, on_step)
        texts.finish([c.text for of_prompt in answers for c in of_prompt])
        return [[c._asdict() for c in of_prompt] for of_prompt in answers]

    def do_train(self, stage: str, settings: dict[str, Any], name: str) -> dict[str, Any]:
        from lorarlhf.engine.training import train

        return self._drive(lambda **live: train(self.engine, stage, STAGES[stage].parse(settings), name, **live))

    def do_resume(self, run: str, changes: dict[str, Any], accept: bool) -> dict[str, Any]:
        from lorarlhf.engine.training import resume

        return self._drive(lambda **live: resume(self.engine, run, changes, accept=accept, **live))

    def _drive(self, job: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        def watch(step: int, total: int, metrics: dict[str, float]) -> None:
            self._look()
            self._say(self._job, "progress", {"step": step, "total": total, "metrics": metrics})

        def on_run(run: str) -> None:
            self._say(self._job, "progress", {"run": run})

        return job(watch=watch, paused=self._stopping, on_run=on_run)

    def do_plan(self, stage: str, settings: dict[str, Any], probing: bool) -> dict[str, Any]:
        from lorarlhf.engine.planning import plan

        return plan(self.engine, stage, STAGES[stage].parse(settings), probing=probing).as_json()

    def do_score(self, adapter: str, answers: list[Any]) -> list[float]:
        return self.engine.score(adapter, [(tuple(prompt), response) for prompt, response in answers])

    def do_judge(self, adapter: str, sampling: dict[str, Any]) -> dict[str, Any]:
        from lorarlhf.engine.judging import judge

        def on_judged(done: int, total: int) -> None:
            self._tell(step=done, total=total)

        return judge(self.engine, adapter, SamplingSettings.parse(sampling), on_judged=on_judged)

    def do_drift(self, adapter: str) -> dict[str, Any]:
        from lorarlhf.engine.drifting import judge_policy

        return judge_policy(self.engine, adapter, on_done=lambda done, total: self._tell(step=done, total=total))

    def do_best_of(self, adapter: str, reward: str) -> dict[str, Any]:
        from lorarlhf.engine.best_of import judge_best_of

        return judge_best_of(
            self.engine, adapter, reward, on_done=lambda done, total: self._tell(step=done, total=total)
        )

    def do_duel(self, number: int, by: str) -> dict[str, Any]:
        from lorarlhf.engine.dueling import judge_duel

        def on_judged(done: int, total: int) -> None:
            self._tell(step=done, total=total)

        return judge_duel(self.engine, number, by, on_judged)

    def do_export(self, adapter: str, dest: str, force: bool, form: str) -> dict[str, Any]:
        from lorarlhf.engine.exports import export_adapter

        engine, said = self.engine, ""

        def tell(text: str) -> None:
            nonlocal said
            self._check()
            if text != said:
                said = text
                self._say(self._job, "progress", {"text": text})

        where = self.workspace, engine.store, self.load_settings
        return export_adapter(*where, adapter, Path(dest), form, force=force, engine=engine, tell=tell)

    def do_take_in(self, source: str, role: str, name: str) -> dict[str, Any]:
        from lorarlhf.engine.exports import import_adapter

        return import_adapter(self.workspace, self.engine.store, self.load_settings, source, role, name)


class GrowingTexts:
    """Answers as they are drawn, shown now and then: only those that grew, and never half a character."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], show: Callable[[list[tuple[int, str]]], None]) -> None:
        self._tokenizer, self._stops, self._show = tokenizer, stop_texts(tokenizer, stop), show
        self._drawn: defaultdict[int, list[int]] = defaultdict(list)
        self._grown: set[int] = set()
        self._due = 0.0

    def add(self, tokens: dict[int, int]) -> None:
        """Take the tokens of one step, by row."""
        for row, token in tokens.items():
            self._drawn[row].append(token)
        self._grown |= tokens.keys()
        began = time.monotonic()
        if began >= self._due:
            self._show([(row, self._text(row)) for row in sorted(self._grown)])
            self._grown.clear()
            now = time.monotonic()
            self._due = now + max(STREAM_SECONDS, 20 * (now - began))

    @property
    def longest(self) -> int:
        """Count the tokens of the longest answer so far."""
        return max(map(len, self._drawn.values()), default=0)

    def finish(self, texts: list[str]) -> None:
        """Show the answers as they ended."""
        self._show([(row, texts[row]) for row in sorted(self._grown)])

    def _text(self, row: int) -> str:
        text = self._tokenizer.decode(self._drawn[row], skip_special_tokens=True)
        return clean(str(text).rstrip("\ufffd"), self._stops)
