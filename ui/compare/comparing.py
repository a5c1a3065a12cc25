"""Answers of several adapters to the same prompt, and chats. Knows nothing of Gradio.

The engine does one job at a time, so that the answers come one after the other, in the order of the adapters.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from lorarlhf.engine.client import Job
from lorarlhf.engine.requests import EngineDied, JobCancelled
from lorarlhf.errors import LoraRlhfError
from lorarlhf.library import BARE
from lorarlhf.settings import SamplingSettings
from lorarlhf.types import Message, Prompt
from lorarlhf.ui.desk import Desk

MOST = 4
"""Adapters side by side."""


@dataclass(frozen=True)
class Answer:
    """One adapter's answer as far as it is there."""

    adapter: str
    text: str = ""
    state: str = "waiting"
    """`waiting`, `writing`, `done`, `stopped` or `failed`."""
    problem: str = ""
    score: float | None = None


class AtWork:
    """The jobs of each open page, so that its Stop button finds them."""

    def __init__(self) -> None:
        self._jobs: defaultdict[str, list[Job]] = defaultdict(list)
        self._lock = threading.Lock()

    @contextmanager
    def jobs(self, page: str, jobs: list[Job]) -> Iterator[list[Job]]:
        """Keep a page's jobs until they are done with; whatever still runs then is stopped."""
        with self._lock:
            self._jobs[page] += jobs
        try:
            yield jobs
        finally:
            _stop(jobs)
            with self._lock:
                left = [job for job in self._jobs.pop(page, []) if job not in jobs]
                if left:
                    self._jobs[page] = left

    def stop(self, page: str) -> None:
        """Stop what a page has at work."""
        with self._lock:
            jobs = list(self._jobs.get(page, ()))
        _stop(jobs)


def _stop(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if not job.done:
            job.stop()


def choices(desk: Desk) -> list[tuple[str, str]]:
    """List what can answer, as label and name: the bare base, and the adapters on it that are no reward models."""
    fitting = [adapter for adapter in desk.adapters() if not adapter.has_head]
    return [("the base model", BARE), *((adapter.name, adapter.name) for adapter in reversed(fitting))]


def usual(desk: Desk) -> list[str]:
    """Choose what one most often wants to see: the base, the newest SFT adapter, the newest policy."""
    return [BARE, *(found.name for stage in ("sft", "ppo") if (found := desk.newest(stage)))]


def scorer(desk: Desk) -> str:
    """Name the newest reward model; empty where there is none."""
    found = desk.newest("reward")
    return found.name if found else ""


def side_by_side(
    desk: Desk, at_work: AtWork, page: str, prompt: Prompt, adapters: Sequence[str], how: SamplingSettings, judge: str
) -> Iterator[list[Answer]]:
    """Answer a prompt with each adapter and the same seed; yield all answers whenever one has grown.

    With the name of a reward model as `judge` the finished answers are scored at the end.
    """
    answers = [Answer(name) for name in adapters]
    yield answers
    jobs = [desk.engine.generate([prompt], 1, how, name) for name in adapters]
    with at_work.jobs(page, jobs):
        for place, job in enumerate(jobs):
            for answer in _growing(job, answers[place]):
                answers[place] = answer
                yield list(answers)
    finished = [place for place, answer in enumerate(answers) if answer.state == "done"]
    if judge and finished:
        job = desk.engine.score(judge, [(prompt, answers[place].text) for place in finished])
        with at_work.jobs(page, [job]):
            for place, score in zip(finished, job.result(), strict=True):
                answers[place] = replace(answers[place], score=score)
        yield list(answers)


def reply(
    desk: Desk, at_work: AtWork, page: str, turns: Sequence[Message], adapter: str, how: SamplingSettings
) -> Iterator[Answer]:
    """Go on with a conversation that ends with the person's turn; yield the answer whenever it has grown."""
    job = desk.engine.generate([tuple(turns)], 1, how, adapter)
    with at_work.jobs(page, [job]):
        yield from _growing(job, Answer(adapter))


def _growing(job: Job, answer: Answer) -> Iterator[Answer]:
    for now in job.updates():
        answer = replace(answer, text=now.texts[0], state="writing" if now.started else "waiting")
        yield answer
    try:
        answer = replace(answer, text=job.result()[0][0]["text"], state="done")
    except JobCancelled:
        answer = replace(answer, state="stopped")
    except EngineDied:
        answer = replace(answer, state="failed", problem="The engine ended in the middle. Ask again when it is back.")
    except LoraRlhfError as error:
        answer = replace(answer, state="failed", problem=str(error))
    yield answer
