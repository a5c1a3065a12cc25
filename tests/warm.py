"""Engines that start at once: forked from a process that has imported what an engine imports, and did nothing else.

Reading torch and transformers is nearly all of an engine's start. The rest stays as it is: a process of its own, with
its pipes, its session, its log and its exit status, which can be killed. Engines that start from nothing are tested
in `test_engine_process`, and wherever the app is.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import Future, TimeoutError
from multiprocessing.reduction import DupFd
from types import SimpleNamespace
from typing import Any, BinaryIO

from lorarlhf.engine import client

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.warm_imports"])


class Ends(tuple[int, ...]):
    """Open files that the process takes over as its stdin, stdout and stderr."""

    def __reduce__(self) -> tuple[Any, ...]:
        return list, ([DupFd(fd) for fd in self],)


class WarmEngine:
    """The part of `subprocess.Popen` that the engine's client uses."""

    def __init__(self, command: list[str], stdin: int, stdout: int, stderr: BinaryIO, start_new_session: bool) -> None:
        assert (stdin, stdout, start_new_session) == (subprocess.PIPE, subprocess.PIPE, True)
        code = command.index(client.BOOT)
        (reads, to), (out, writes) = os.pipe(), os.pipe()
        self.stdin, self.stdout = os.fdopen(to, "wb"), os.fdopen(out, "rb")
        ends = Ends((reads, writes, stderr.fileno()))
        self._process = FORKS.Process(target=serve, args=(command[code + 1 :], ends))
        self._process.start()
        os.close(reads)
        os.close(writes)
        self.pid = self._process.pid
        self._ended: Future[int] = Future()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        self._process.join()
        self._ended.set_result(self._process.exitcode or 0)

    def wait(self, timeout: float | None = None) -> int:
        try:
            return self._ended.result(timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired("engine", timeout or 0) from None

    def kill(self) -> None:
        self._process.kill()


def serve(words: list[str], ends: list[Any]) -> None:
    """Be an engine's process; `words` are those of its command line after the code."""
    from lorarlhf.engine.server import main

    os.setsid()
    for fd, end in enumerate(ends):
        taken = end.detach()
        os.dup2(taken, fd)
        os.close(taken)
    faulthandler.enable()
    sys.argv = ["-c", *words]
    sys.path[:] = words[2:]
    main()


PROCESSES = SimpleNamespace(Popen=WarmEngine, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
"""What takes the place of `subprocess` in `lorarlhf.engine.client`."""
