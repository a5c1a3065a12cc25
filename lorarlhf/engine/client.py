"""Drive an engine that lives in its own process. Knows nothing of torch, and writes nothing to the workspace.

    with EngineClient(path, LoadSettings()) as engine:
        job = engine.generate([user("hello?")], 2, SamplingSettings())
        for now in job.updates():
            show(now.texts)
        answers = job.result()

The engine ends with the process that started it, however that one ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from lorarlhf.engine.requests import (
    EVERYTHING,
    GRACE_SECONDS,
    LOG,
    EngineDied,
    EngineError,
    JobCancelled,
    Progress,
    Report,
    Request,
    receive,
    send,
    unpacked,
)
from lorarlhf.errors import LoraRlhfError
from lorarlhf.settings import LoadSettings, SamplingSettings, Settings
from lorarlhf.types import Prompt
from lorarlhf.workspace import Workspace

# The child finds the modules this process found: never one that happens to lie in the current folder.
BOOT = "import sys; sys.path[:] = sys.argv[3:]; from lorarlhf.engine.server import main; main()"
RESTART = "; restart it"
LOG_BYTES = 2**20
"""A longer log is begun anew when an engine starts."""


class Job:
    """Something the engine was asked to do. Any number of threads may look at it."""

    def __init__(self, client: EngineClient, number: int, kind: str, rows: int = 0, adapter: str = "") -> None:
        self.number, self.kind = number, kind
        self.adapter = adapter
        """The adapter it reads, if it names one."""
        self.future: Future[Any] = Future()
        """For `asyncio.wrap_future` and callbacks, which must not start or stop the engine themselves."""
        self.future.set_running_or_notify_cancel()
        self.progress = Progress(texts=("",) * rows)
        """The newest there is to know."""
        self._client = client
        self._changed = threading.Condition()

    @property
    def done(self) -> bool:
        """Tell whether it has ended, well or not."""
        return self.future.done()

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end and return what came out, or raise the `LoraRlhfError` that ended it."""
        return self.future.result(timeout)

    def stop(self) -> None:
        """Ask it to end at the next chance: a training run is paused, everything saved, and raises `RunPaused`.

        Other jobs, and those that have not begun, raise `JobCancelled`.
        """
        self._client._ask_to_stop(self.number)

    def updates(self) -> Iterator[Progress]:
        """Yield the newest progress whenever there is some, until the job ends. Slow readers miss steps in between."""
        seen: Progress | None = None
        while True:
            with self._changed:
                while self.progress is seen and not self.done:
                    self._changed.wait()
                ended, fresh, seen = self.done, self.progress is not seen, self.progress
            if fresh:
                yield seen
            if ended:
                return

    def _update(self, **changes: Any) -> None:
        if rows := changes.pop("rows", None):
            texts = list(self.progress.texts)
            for row, text in rows:
                texts[row] = text
            changes["texts"] = tuple(texts)
        with self._changed:
            self.progress = replace(self.progress, **changes)
            self._changed.notify_all()

    def _end(self, outcome: Any) -> None:
        if isinstance(outcome, LoraRlhfError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)
        with self._changed:
            self._changed.notify_all()


class EngineClient:
    """The engine of a workspace, in a process of its own; a context manager that starts and stops it."""

    def __init__(self, workspace: str | os.PathLike[str], load: LoadSettings) -> None:
        self.workspace, self.load_settings = Workspace(workspace), load
        self._lock = threading.Lock()
        """Held while jobs come and go, never for long."""
        self._birth = threading.RLock()
        """Held while processes come and go: there is never more than one."""
        self._jobs: dict[int, Job] = {}
        self._last = EVERYTHING
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._ended: LoraRlhfError | None = EngineError("the engine was not started; call start()")
        self._stopped = self._killed = False

    def __enter__(self) -> EngineClient:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- the process ------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Tell whether the engine takes jobs."""
        return self._ended is None

    @property
    def why_ended(self) -> str:
        """Say what became of the engine; empty while it takes jobs."""
        return str(self._ended or "").removesuffix(RESTART)

    @property
    def pid(self) -> int | None:
        """The process of the engine, None where there is none."""
        return self._process.pid if self._process and self.alive else None

    @property
    def jobs(self) -> list[Job]:
        """List the jobs that have not ended, in the order they were asked for."""
        with self._lock:
            return list(self._jobs.values())

    def start(self) -> EngineClient:
        """Start the process and return at once, without a base; raise `StoreError` where no workspace can be."""
        with self._birth:
            if self.alive:
                return self
            log = self.workspace.open().path / LOG
            fresh = not log.exists() or log.stat().st_size > LOG_BYTES
            command = [sys.executable, "-X", "faulthandler", "-c", BOOT, str(self.workspace.path)]
            command += [self.load_settings.model_dump_json(), *(path or os.getcwd() for path in sys.path)]
            with log.open("wb" if fresh else "ab") as errors:
                # In a session of its own, so that Ctrl-C in the terminal reaches this process only.
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
                )
            self._ended, self._stopped, self._killed = None, False, False
            self._reader = threading.Thread(target=self._listen, args=(self._process,), daemon=True, name="reports")
            self._reader.start()
            return self

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """End the process: jobs are asked to stop and save; what still runs after `grace` seconds is killed."""
        with self._birth:
            if self._process is None or self._reader is None:
                return
            self._stopped = True
            self._ask_to_stop(EVERYTHING)
            try:
                self._process.wait(grace)
            except subprocess.TimeoutExpired:
                self._killed = True
                self._process.kill()
            self._reader.join()

    def restart(self, load: LoadSettings | None = None) -> EngineClient:
        """End the process, if it lives, and start another, on another base if `load` says so.

        A run that the old one could not save is then marked `interrupted`, and can be resumed.
        """
        with self._birth:
            self.stop()
            self.load_settings = load or self.load_settings
            return self.start()

    # -- jobs: one at a time, in the order they are asked for -------------------------------------------------

    def load(self) -> Job:
        """Load the base, which other jobs else do on first use → what `describe` says."""
        return self._ask("load")

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: SamplingSettings, adapter: str = "") -> Job:
        """Draw `n` answers to each prompt → per prompt, a list of {"tokens", "text", "ended"}."""
        return self._ask(
            "generate",
            {"prompts": list(prompts), "n": n, "sampling": sampling.model_dump(), "adapter": adapter},
            rows=len(prompts) * n,
        )

    def train(self, stage: str, settings: Settings, name: str = "") -> Job:
        """Run one stage on what the workspace holds → {"run", "adapter", "metrics"}."""
        return self._ask("train", {"stage": stage, "settings": settings.model_dump(mode="json"), "name": name})

    def resume(self, run: str, changes: dict[str, Any] | None = None, *, accept: bool = False) -> Job:
        """Go on with a paused or interrupted run, with some settings changed → {"run", "adapter", "metrics"}.

        Where anything differs from how it began it raises `RunDiffers`, unless that is accepted.
        """
        return self._ask("resume", {"run": run, "changes": changes or {}, "accept": accept})

    def plan(self, stage: str, settings: Settings, *, probing: bool = True) -> Job:
        """Predict memory and time of a stage on what the workspace holds → what `Plan.as_json` says; changes nothing.

        With `probing` it measures this machine for a few seconds first; without, it counts, and knows no seconds.
        """
        args = {"stage": stage, "settings": settings.model_dump(mode="json"), "probing": probing}
        return self._ask("plan", args)

    def score(self, adapter: str, answers: Sequence[tuple[Prompt, str]]) -> Job:
        """Score answers to prompts with a reward adapter → one number each."""
        return self._ask("score", {"adapter": adapter, "answers": list(answers)})

    def judge(self, adapter: str, sampling: SamplingSettings) -> Job:
        """Score whatever of the votes a reward adapter has not scored, and fresh answers → {"scored", "drawn"}.

        What it finds is in the workspace, for `lorarlhf.evaluate.health`.
        """
        return self._ask("judge", {"adapter": adapter, "sampling": sampling.model_dump()})

    def drift(self, adapter: str) -> Job:
        """Measure a policy against its reference → {"drawn"}; for `lorarlhf.evaluate.drift`."""
        return self._ask("drift", {"adapter": adapter})

    def best_of(self, adapter: str, reward: str) -> Job:
        """Try best-of-n out with a reward adapter → {"drawn"}; for `lorarlhf.evaluate.bestof`."""
        return self._ask("best_of", {"adapter": adapter, "reward": reward})

    def duel(self, number: int, by: str) -> Job:
        """Have `script` or a reward model vote in a duel → {"duel", "judge", "prompts", "results"}.

        What it says is in the workspace, for `lorarlhf.evaluate.duels`.
        """
        return self._ask("duel", {"number": number, "by": by})

    def export(self, adapter: str, dest: str | os.PathLike[str], *, form: str = "peft", force: bool = False) -> Job:
        """Write an adapter to a folder or .zip file that other programs load, checked → what was written and found."""
        where = str(Path(dest).absolute())
        return self._ask("export", {"adapter": adapter, "dest": where, "force": force, "form": form})

    def take_in(self, source: str, role: str, name: str = "") -> Job:
        """Take in an adapter made elsewhere as `sft`, `policy` or `reward` → {"name", "stage", "layers", "remarks"}."""
        return self._ask("take_in", {"source": source, "role": role, "name": name})

    def describe(self) -> Job:
        """Ask what is in memory: base, adapters, bytes; {} before the base is. Waits for no other job."""
        return self._ask("describe")

    # -- the pipe ---------------------------------------------------------------------------------------------

    def _ask(self, do: str, args: dict[str, Any] | None = None, rows: int = 0) -> Job:
        with self._lock:
            self._last += 1
            job = Job(self, self._last, do, rows, (args or {}).get("adapter", ""))
            if self._ended is None:
                self._jobs[job.number] = job
                self._send(Request(job.number, do, args or {}))
                return job
        job._end(self._ended)
        return job

    def _ask_to_stop(self, number: int) -> None:
        with self._lock:
            if self.alive:
                self._send(Request(number, "stop"))

    def _send(self, request: Request) -> None:
        assert self._process is not None
        try:
            send(cast(BinaryIO, self._process.stdin), request)
        except OSError:
            return  # it died this moment: whoever listens to it finds out and ends the job

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Pass on what the process says until it is gone, then end what it left undone."""
        refused = None
        for report in receive(cast(BinaryIO, process.stdout), Report):
            if report.job == EVERYTHING:
                refused = unpacked(report.value)
            elif report.kind in ("done", "failed"):
                with self._lock:
                    job = self._jobs.pop(report.job)
                job._end(unpacked(report.value) if report.kind == "failed" else report.value)
            else:
                self._jobs[report.job]._update(**report.value)
        code = process.wait()
        with self._lock:
            self._ended = refused or self._died(code, "")
            left, self._jobs = list(self._jobs.values()), {}
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # a request that it did not live to read is still to be written
                    cast(BinaryIO, pipe).close()
        for job in left:
            job._end(refused or self._died(code, job.progress.run))

    def _died(self, code: int, run: str) -> LoraRlhfError:
        """Say what became of the process, and what to do."""
        if self._stopped and code == 0:
            return JobCancelled("the engine was stopped; start it again")
        where = f"; {self.workspace.path / LOG} may say why"
        name = signal.Signals(-code).name if code < 0 else ""
        if self._killed:
            how = "did not stop in time and was killed"
        elif name == "SIGKILL":
            how = "was killed (SIGKILL), which most often means that memory ran out"
        else:
            how = (f"was ended by {name}" if name else f"ended with exit status {code}") + where
        return EngineDied(f"the engine {how}{RESTART}" + (f", then resume run {run}" if run else ""))
