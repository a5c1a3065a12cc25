"""Processes that start at once: forked from one that has imported what they import, and did nothing else.

Reading torch, transformers and Gradio is nearly all of their start. The rest stays as it is: a process of its own, with
its pipes, its session, its log and its exit status, which can be killed; the engine of such an app is another. Engines
that start from nothing are tested in `test_engine_process`, apps in `test_ui_app` and `test_ui_loop`, commands in
`test_cli`.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future, TimeoutError
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, BinaryIO

from lorarlhf.engine import client

LARGEST = 2**20
"""Bytes of a request; one is a command line, an environment and three open files."""
APP = "lorarlhf.ui.app"
"""What an app reads besides; it is read when the first one is asked for."""
KEPT: dict[str, Any] = {}
"""The process to fork from, and the address where it is asked; started when it is first needed."""


def address() -> str:
    """Say where the process that forks can be asked; start it, if nobody did."""
    if not KEPT:
        at = str(Path(tempfile.mkdtemp(prefix="warm-")) / "at")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(at)
        listener.listen()
        code = f"from tests.warm import fork_on_demand; fork_on_demand({listener.fileno()}, {at!r})"
        # It ends when nobody holds the other end of its stdin any more.
        KEPT["process"] = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            cwd=Path(__file__).parents[1],
        )
        KEPT["at"] = at
    return str(KEPT["at"])


class Warm:
    """The part of `subprocess.Popen` that is used here, of a process that calls a function; `ends` are its open files.

    The function is given as `module:name`, and called with the words; `needs` is a module that it wants read.
    """

    def __init__(
        self, function: str, words: list[str], ends: list[int], needs: str = "", env: dict[str, str] | None = None
    ) -> None:
        asked = {"function": function, "words": words, "needs": needs, "folder": os.getcwd()}
        asked["env"] = {**os.environ, **(env or {})}
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.connect(address())
        socket.send_fds(self._line, [json.dumps(asked).encode()], ends)
        self.pid = int(self._line.recv(LARGEST))
        self._ended: Future[int] = Future()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        self._ended.set_result(int(self._line.recv(LARGEST) or -signal.SIGKILL))
        self._line.close()

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        try:
            return self._ended.result(timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired("warm", timeout or 0) from None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class WarmEngine(Warm):
    """An engine, as its client starts one."""

    def __init__(self, command: list[str], stdin: int, stdout: int, stderr: BinaryIO, start_new_session: bool) -> None:
        assert (stdin, stdout, start_new_session) == (subprocess.PIPE, subprocess.PIPE, True)
        (reads, to), (out, writes) = os.pipe(), os.pipe()
        self.stdin, self.stdout = os.fdopen(to, "wb"), os.fdopen(out, "rb")
        words = command[command.index(client.BOOT) + 1 :]
        super().__init__("tests.warm:be_engine", words, [reads, writes, stderr.fileno()])
        os.close(reads)
        os.close(writes)


class WarmCommand(Warm):
    """The program, with the words of its command line; what it prints goes to files."""

    def __init__(self, words: list[str], out: IO[Any], errors: IO[Any], needs: str = "") -> None:
        with open(os.devnull) as nothing:
            super().__init__("tests.warm:be_program", words, [nothing.fileno(), out.fileno(), errors.fileno()], needs)


PROCESSES = SimpleNamespace(Popen=WarmEngine, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
"""What takes the place of `subprocess` in `lorarlhf.engine.client`."""


# -- in the process that forks --------------------------------------------------------------------------------


def fork_on_demand(listening: int, at: str) -> None:
    """Fork whatever is asked for, until the process that began this one ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    importlib.import_module("tests.warm_imports")
    listener = socket.socket(fileno=listening)
    KEPT["at"] = at
    while 0 not in select.select([0, listener], [], [])[0]:
        line, _ = listener.accept()
        said, ends, *_ = socket.recv_fds(line, LARGEST, 3)
        asked = json.loads(said)
        if asked["needs"]:
            importlib.import_module(asked["needs"])
        gc.freeze()  # what lies there is nobody's garbage, and shared as long as nobody touches it
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            return attend(line, asked, ends)
        for end in (line.fileno(), *ends):
            os.close(end)
        line.detach()
    return None


def attend(line: socket.socket, asked: dict[str, Any], ends: list[int]) -> None:
    """Fork a process and tell who asked what becomes of it; return in that process, when its work is done."""
    pid = os.fork()
    if not pid:
        line.close()
        return be(asked, ends)
    for end in ends:
        os.close(end)
    line.send(str(pid).encode())
    _, status = os.waitpid(pid, 0)
    with suppress(OSError):  # whoever asked is gone
        line.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def be(asked: dict[str, Any], ends: list[int]) -> None:
    """Be what was asked for."""
    os.environ.clear()
    os.environ |= asked["env"]
    os.chdir(asked["folder"])
    for fd, end in enumerate(ends):
        os.dup2(end, fd)
        os.close(end)
    faulthandler.enable()
    module, _, name = asked["function"].partition(":")
    getattr(importlib.import_module(module), name)(*asked["words"])


def be_engine(*words: str) -> None:
    """Be an engine's process; the words are those of its command line after the code."""
    from lorarlhf.engine.server import main

    os.setsid()
    sys.argv = ["-c", *words]
    sys.path[:] = words[2:]
    main()


def be_program(*words: str) -> None:
    """Be the command line."""
    from lorarlhf.cli import main

    client.subprocess = PROCESSES  # type: ignore[assignment]
    sys.argv = ["lorarlhf", *words]
    main()
