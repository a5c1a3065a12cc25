"""What does a kill cost? Processes are killed at random moments while runs are at work and votes are cast.

    python -m benchmarks.faults [--kills 200] [--seed 0] [--only-kills]

A run of each stage is made once undisturbed, and then again and again in copies of the same workspace, where the
terminal's process, the engine's, the app's or the voter's is killed with SIGKILL at a random moment, and the run is
resumed, until it is done. Counted are votes that were acknowledged and are gone, adapter folders that are not whole,
runs that could not be resumed, and runs whose numbers or adapter differ from the undisturbed one by a single bit.
Then the disasters of `benchmarks.disasters`, one each. Prints one JSON value; exits with 1 where anything was lost.

Every process is a real one, made by forking one that has torch imported already: a fresh one would spend seconds on
that, and seldom be killed while it trains.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from benchmarks.disasters import disasters
from lorarlhf import cli
from lorarlhf.engine import client as client_module
from lorarlhf.engine import server, training
from lorarlhf.engine.client import EngineClient
from lorarlhf.errors import LoraRlhfError
from lorarlhf.library import list_saved
from lorarlhf.settings import STAGES, LoadSettings
from lorarlhf.types import Comparison, Demonstration, Outcome, user
from lorarlhf.workspace import Workspace
from tests import tiny

SMALL = {"rank": 2, "alpha": 4, "heldout_share": 0.2, "batch_size": 4, "checkpoint_every": 2, "eval_every": 3}
SETTINGS: dict[str, dict[str, Any]] = {
    "sft": {**SMALL, "epochs": 8, "micro_batch_tokens": 128},
    "reward": {**SMALL, "epochs": 6, "micro_batch_tokens": 256},
    "ppo": {**SMALL, "steps": 14, "max_new_tokens": 6, "value_warmup_steps": 1, "eval_prompts": 4, "sample_every": 1},
}
PARENTS = ("sft", "reward")
"""Stages the workspace has an adapter of before the disturbed run: what PPO stands on."""
VICTIMS = ("terminal", "engine", "app", "voter")
PATIENCE = 120.0
"""Seconds after which something hangs."""


class Forked:
    """What the client needs of a `Popen`, made by forking instead of starting Python and importing torch anew."""

    def __init__(self, command: list[str], stderr: Any, **_: Any) -> None:
        to_child, from_parent = os.pipe()
        to_parent, from_child = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.setsid()
            for source, target in ((to_child, 0), (from_child, 1), (stderr.fileno(), 2)):
                os.dup2(source, target)
            os.closerange(3, 256)
            sys.argv = ["-c", *command[command.index(client_module.BOOT) + 1 :]]
            server.main()
            os._exit(0)
        os.close(to_child)
        os.close(from_child)
        self._waiting, self._code = threading.Lock(), None
        self.stdin, self.stdout = os.fdopen(from_parent, "wb"), os.fdopen(to_parent, "rb")

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end → exit status, negative for a signal."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with self._waiting:
                if self._code is None:
                    found, status = os.waitpid(self.pid, os.WNOHANG)
                    self._code = os.waitstatus_to_exitcode(status) if found else None
                if self._code is not None:
                    return self._code
            time.sleep(0.002)
        raise subprocess.TimeoutExpired("engine", timeout)

    def kill(self) -> None:
        """End it at once."""
        os.kill(self.pid, signal.SIGKILL)


def forked(job: Callable[[], int]) -> int:
    """Do a job in a process of its own → its pid; the process ends with the job's result."""
    assert len(psutil.Process().threads()) == 1, "a forked process may wait for a thread that is not there"
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        code = job() or 0
    except SystemExit as done:
        code = int(done.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int, timeout: float = PATIENCE) -> int | None:
    """Wait for a child → its exit status, None where it hangs; 0 of an orphan that its own parent saw end."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            found, status = int(not psutil.pid_exists(pid)), 0
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def fill(place: Workspace) -> None:
    """Give a workspace something to learn from."""
    prompts = [user(f"question number {i}?") for i in range(20)]
    with place.store() as store:
        store.add_demonstrations(Demonstration(p, f"answer {i}") for i, p in enumerate(prompts))
        store.add_comparisons(
            Comparison(p, "short", "a longer answer", list(Outcome)[i % 4]) for i, p in enumerate(prompts)
        )
        store.add_prompts(prompts)


def killed(pid: int) -> bool:
    """Kill a process; tell whether it was there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


class Bench:
    """Workspaces that are worked in, killed, and looked at."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        base = folder / "base"
        # Its progress bar leaves a thread behind, and a thread may hold a lock that a forked process then waits for.
        assert ended(forked(lambda: tiny.save(base, "qwen3", layers=1) and 0)) == 0
        self.load = LoadSettings(base=str(base), compute="fp32", device="cpu")
        self.template = Workspace(folder / "template")
        self.expected: dict[str, Any] = {}
        self.start: dict[str, float] = {}
        """Seconds from a process's birth to its run's row, by stage."""
        self.work: dict[str, float] = {}
        """Seconds from there to the end."""
        self.kills: Counter[str] = Counter()
        self.moments: Counter[str] = Counter()
        """How far a run was when something was killed: before it had a row, or after how many steps."""
        self.found: Counter[str] = Counter()
        self.problems: list[str] = []

    # -- processes ---------------------------------------------------------------------------------------------

    def terminal(self, place: Workspace, stage: str, run: str) -> int:
        """Train or resume as a person would in a terminal → pid."""

        def job() -> int:
            with (place.path / "terminal.log").open("ab") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            command = ["resume", run] if run else ["train", stage, "--name", "final", "--base", self.load.base]
            if not run:
                command += ["--compute", "fp32", "--device", "cpu"]
                for name, value in SETTINGS[stage].items():
                    command += [f"--{name.replace('_', '-')}", str(value)]
            sys.argv = ["lorarlhf", *command, "--workspace", str(place.path), "--json"]
            cli.main()
            return 0

        return forked(job)

    def app(self, place: Workspace, stage: str, run: str) -> tuple[int, Path]:
        """Train or resume in an engine of its own, as the app does, and cast votes meanwhile → pid, file of pids."""
        pids = place.path / "engine.pid"
        pids.unlink(missing_ok=True)

        def job() -> int:
            client_module.subprocess = SimpleNamespace(  # type: ignore[assignment]
                Popen=Forked, PIPE=None, TimeoutExpired=subprocess.TimeoutExpired
            )
            client = EngineClient(place.path, self.load).start()
            pids.write_text(str(client.pid))
            asked = client.resume(run) if run else client.train(stage, STAGES[stage].parse(SETTINGS[stage]), "final")
            self.vote(place, lambda: asked.done)
            try:
                asked.result(PATIENCE)
            except LoraRlhfError as error:
                (place.path / "terminal.log").open("a").write(f"lorarlhf: {error}\n")
                return 1
            finally:
                client.stop()
            return 0

        return forked(job), pids

    def vote(self, place: Workspace, over: Callable[[], bool]) -> None:
        """Cast votes once a run is at work; each is acknowledged in a file when the store says it is safe."""
        handle = os.open(place.path / "acknowledged", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with place.store() as store:
            while not over():
                if len(store.runs()) > len(PARENTS):
                    text = f"{os.getpid()}-{time.monotonic_ns()}"
                    id = store.add_comparison(Comparison(user(f"say {text}"), text, "other", Outcome.A))
                    os.write(handle, f"{id} {text}\n".encode())
                time.sleep(0.01)

    # -- one run -----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the workspace all others are copies of, and each stage's undisturbed run."""
        fill(self.template)
        for name in PARENTS:
            self._undisturbed(self.template, name, f"{name}-1")
        for stage in SETTINGS:
            place = self.copy(f"{stage}-whole")
            began = time.time()
            self._undisturbed(place, stage, "final")
            self.work[stage] = time.time() - (place.path / "began").stat().st_mtime
            self.start[stage] = time.time() - began - self.work[stage]
            self.expected[stage] = self.outcome(place)

    def _undisturbed(self, place: Workspace, stage: str, name: str) -> None:
        def job() -> int:
            from lorarlhf.engine.core import Engine

            settings, began = STAGES[stage].parse(SETTINGS[stage]), (place.path / "began").touch
            training.train(Engine(place, self.load), stage, settings, name, on_run=lambda run: began())
            return 0

        assert ended(forked(job)) == 0

    def copy(self, name: str) -> Workspace:
        """Make a workspace like the template."""
        shutil.copytree(self.template.path, self.folder / name)
        return Workspace(self.folder / name)

    def outcome(self, place: Workspace) -> Any:
        """Return everything a run left that must be the same to the bit."""
        with place.store() as store:
            row = store.runs()[-1]
            numbers = {(s, n): v for s, n, v in store.metrics(row.id) if not n.startswith("time/")}
            samples = store.samples(row.id)
        adapter = place.adapters_dir / "final"
        weights = {file.name: file.read_bytes() for file in adapter.glob("*.safetensors")}
        return row.status, row.result, numbers, samples, weights

    def newest(self, place: Workspace) -> Any:
        """Return the row of the run that is being disturbed, None before it has one."""
        with place.store() as store:
            rows = store.runs()[len(PARENTS) :]
        return rows[-1] if rows else None

    def disturbed_run(self, number: int, stage: str) -> None:
        """Kill and resume one run until it is done, then look at what it left."""
        place = self.copy(f"{stage}-{number}")
        while True:
            row = self.newest(place)
            if row and row.status == "done":
                break
            code = self._attempt(place, stage, row.id if row else "")
            self.check(place)
            if code not in (0, -signal.SIGKILL):
                log = (place.path / "terminal.log").read_text().strip().splitlines()
                self.found["runs_not_resumable"] += 1
                self.problems.append(f"{stage}: exit status {code}: {log[-1] if log else ''}")
                return
        if self.outcome(place) != self.expected[stage]:
            self.found["numbers_different"] += 1
            self.problems.append(f"{place.path.name}: other numbers than the undisturbed run's")
        self.found["runs"] += 1
        shutil.rmtree(place.path)

    def _attempt(self, place: Workspace, stage: str, run: str) -> int:
        """Train or resume, and kill something at a random moment → how the process that trains ended."""
        victim = self.chance.choice(VICTIMS)
        early = self.chance.random() < 0.1
        start, work = self.start[stage], self.work[stage]
        delay = self.chance.uniform(0, start) if early else self.chance.uniform(0.8 * start, start + work)
        if victim in ("terminal", "voter"):
            worker, pids = self.terminal(place, stage, run), None
            voter = forked(lambda: self.vote(place, lambda: False) or 0)
        else:
            (worker, pids), voter = self.app(place, stage, run), 0
        code = ended(worker, delay)
        if code is not None:  # done before its killer came
            self._end(voter)
            return code
        self.kills[f"{stage}/{victim}"] += 1
        row = self.newest(place)
        self.moments[f"after step {row.step:02d}" if row else "before it began"] += 1
        engine = int(pids.read_text() or 0) if pids and pids.exists() else 0
        if victim == "voter":
            self._end(voter)
            return self._result(worker)
        if victim == "engine" and engine:
            killed(engine)
            return -signal.SIGKILL if ended(worker) is not None else 1
        os.kill(worker, signal.SIGKILL)
        code = self._result(worker)
        self._end(voter)
        if engine:  # it saves what it is at; now and then that is cut short too
            if self.chance.random() < 0.3:
                time.sleep(self.chance.uniform(0, 0.1))
                self.kills[f"{stage}/engine"] += killed(engine)
            if ended(engine) is None:
                self.problems.append("an engine outlived its app")
        return code

    def _result(self, worker: int) -> int:
        code = ended(worker)
        return 99 if code is None else code

    def _end(self, pid: int) -> None:
        if pid:
            os.kill(pid, signal.SIGKILL)
            ended(pid)

    def check(self, place: Workspace) -> None:
        """Count votes that were acknowledged and are gone, and adapters that are not whole."""
        file = place.path / "acknowledged"
        acknowledged = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
        with place.store() as store:
            votes = {str(row.id): row.value.a for row in store.comparisons()}
        self.found["votes_lost"] += sum(votes.get(id) != text for id, text in acknowledged)
        self.found["votes_cast"] += len(acknowledged)
        file.unlink(missing_ok=True)
        saved = list_saved(place.adapters_dir)
        folders = [path for path in place.adapters_dir.iterdir() if not path.name.startswith(".")]
        torn = len(folders) - len(saved)
        for adapter in saved:
            try:
                for part in adapter.card["hashes"]:
                    adapter.content(part)
            except LoraRlhfError:
                torn += 1
        self.found["adapters_torn"] += torn


def main() -> int:
    """Kill, resume, count, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-kills", action="store_true", help="leave the disasters out")
    options = parser.parse_args()
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # threads do not survive a fork, and libraries start some at once
        one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.faults", *sys.argv[1:]], {**os.environ, **one})
    began = time.monotonic()
    # Engines whose app was killed become children of this process, which can then wait for them.
    import ctypes

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.seed)
        bench.prepare()
        number = 0
        while bench.kills.total() < options.kills:
            for stage in SETTINGS:
                bench.disturbed_run(number, stage)
            number += 1
            print(f"{bench.kills.total()} kills, {bench.found['runs']} runs", file=sys.stderr)
        lost = ("votes_lost", "adapters_torn", "runs_not_resumable", "numbers_different")
        found = {name: bench.found[name] for name in ("runs", "votes_cast", *lost)}
        more = {} if options.only_kills else disasters(Path(folder) / "disasters")
    held = not any(found[name] for name in lost) and not bench.problems and all(d["held"] for d in more.values())
    print(
        json.dumps(
            {
                "kills": bench.kills.total(),
                **found,
                "by_stage_and_process": dict(sorted(bench.kills.items())),
                "by_moment": dict(sorted(bench.moments.items())),
                "problems": bench.problems,
                "disasters": more,
                "held": held,
                "seconds": round(time.monotonic() - began),
                "seed": options.seed,
            },
            indent=2,
        )
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
