"""What the engine's process and its client say to each other: one JSON object a line.

Lines are all there is: no code, no tensors, and a log of them can be read. Knows nothing of torch or processes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeVar

from lorarlhf import errors
from lorarlhf.errors import LoraRlhfError

LOG = "engine.log"
"""File of the workspace that keeps tracebacks and whatever libraries print."""
GRACE_SECONDS = 10.0
"""How long an engine that was told to end, or whose app is gone, may take to save what it is at."""
EVERYTHING = 0
"""The job number that means all jobs in a request, and the engine itself in a report."""


class EngineError(LoraRlhfError, RuntimeError):
    """Something in the engine's process failed that should not; its log has the traceback."""


class EngineDied(EngineError):  # noqa: N818 - says what happened
    """The engine's process is gone, and with it the job; what the workspace holds is not."""


class JobCancelled(LoraRlhfError):  # noqa: N818 - asked for, not an error
    """Somebody asked a job to stop, and it left nothing behind."""


@dataclass(frozen=True)
class Request:
    """What the client asks for."""

    job: int
    do: str
    """A job of the engine's, or `stop`."""
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What the engine says about a job."""

    job: int
    kind: str
    """`progress`, `done` or `failed`."""
    value: Any = None


@dataclass(frozen=True)
class Progress:
    """How far a job is; a field says nothing where it does not apply."""

    started: bool = False
    """False while it waits for the jobs before it."""
    text: str = ""
    """What is being loaded."""
    share: float = 0.0
    """Of the loading, 0 to 1."""
    run: str = ""
    """The training run's row in the workspace."""
    step: int = 0
    total: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    """Newest numbers of the run; the workspace has all of them."""
    texts: tuple[str, ...] = ()
    """Answers as far as they are drawn; number `i * n + k` is the k-th to prompt i."""


M = TypeVar("M", Request, Report)


def send(stream: BinaryIO, message: Request | Report) -> None:
    """Write one message; raise `OSError` when nobody is there to read it."""
    stream.write(json.dumps(vars(message), default=str).encode() + b"\n")
    stream.flush()


def receive(stream: BinaryIO, kind: type[M]) -> Iterator[M]:
    """Read messages until the other side is gone; the torn line of a killed one is left out."""
    for line in stream:
        if line.endswith(b"\n"):
            yield kind(**json.loads(line))


def packed(error: LoraRlhfError) -> dict[str, Any]:
    """Put an error into words and class names, nearest class first."""
    packed = {"classes": [cls.__name__ for cls in type(error).__mro__], "text": str(error)}
    return packed | ({"differences": error.differences} if isinstance(error, errors.RunDiffers) else {})


def unpacked(value: dict[str, Any]) -> LoraRlhfError:
    """Make the error again: of its own class, or of the nearest one that is known without torch."""
    known = {**vars(errors), **globals()}
    error: LoraRlhfError = next(known[name] for name in value["classes"] if name in known)(value["text"])
    if isinstance(error, errors.RunDiffers):
        error.differences = value["differences"]
    return error
