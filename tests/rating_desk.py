"""A desk without an engine's process, whose answers, adapters and state a test decides."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lorarlhf.checkpoints import list_checkpoints
from lorarlhf.engine.client import Job
from lorarlhf.engine.requests import EngineDied
from lorarlhf.library import CARD, WEIGHTS
from lorarlhf.settings import LoadSettings, SamplingSettings
from lorarlhf.ui.rate.rating import RatingDesk
from lorarlhf.workspace import Workspace


class FakeEngine:
    """Answers at once, with what a test wants; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.jobs: list[Any] = []
        self.alive, self.held = True, threading.Event()
        self.held.set()
        self.ended = True
        self.answer: Callable[[int, int], str] = lambda call, k: f"answer {call}.{k}"

    def generate(self, prompts: list[Any], n: int, sampling: SamplingSettings, adapter: str = "") -> Job:
        call = len(self.asked)
        self.asked.append({"prompt": prompts[0], "n": n, "seed": sampling.seed, "adapter": adapter})
        client: Any = SimpleNamespace(_ask_to_stop=lambda number: None)
        job = Job(client, call, "generate", n)

        def work() -> None:
            self.held.wait(10)
            if not self.alive:
                return job._end(EngineDied("the engine was killed"))
            texts = [self.answer(call, k) for k in range(n)]
            job._update(rows=[[k, text] for k, text in enumerate(texts)])
            answers = [{"tokens": [], "text": text, "ended": self.ended or k > 0} for k, text in enumerate(texts)]
            return job._end([answers])

        threading.Thread(target=work, daemon=True).start()
        return job


class FakeDesk:
    """A desk whose engine, adapters and state a test decides."""

    def __init__(self, folder: Path) -> None:
        self.workspace = Workspace(folder).open()
        self.store = self.workspace.store()
        self.engine = FakeEngine()
        self.fingerprint, self.state = "base-1", "ready"
        self.load_settings = LoadSettings()
        self.saved: list[Any] = []

    def adapters(self, stage: str = "") -> list[Any]:
        return [adapter for adapter in self.saved if stage in ("", adapter.stage)]

    def checkpoints(self) -> list[Any]:
        return list_checkpoints(self.workspace)

    def newest(self, stage: str) -> Any:
        return next(iter(reversed(self.adapters(stage))), None)

    def sampling(self, **changes: Any) -> SamplingSettings:
        return SamplingSettings.parse({"max_new_tokens": 8, **changes}, "sampling")

    def status(self) -> Any:
        return SimpleNamespace(state=self.state, text=self.state)


@contextmanager
def fake_desk(folder: Path) -> Iterator[FakeDesk]:
    """Give a desk for a test, and let the thread of its pairs ask for nothing after that: it ends with the process."""
    made = FakeDesk(folder)
    yield made
    made.state = "down"
    time.sleep(0.01)


def put_checkpoint(place: Workspace, step: int, fingerprint: str = "base-1") -> Path:
    """Put the weights of the run ppo-2 after a step where that run would; every prompt is new to it."""
    folder = place.runs_dir / "ppo-2" / f"ppo-2@{step}"
    folder.mkdir(parents=True)
    weights = f"weights {step}".encode()
    (folder / WEIGHTS).write_bytes(weights)
    card = {"stage": "ppo", "run": "ppo-2", "step": step, "created": str(step), "settings": {"heldout_share": 1.0}}
    card |= {"base": {"fingerprint": fingerprint, "name": "starter"}}
    card |= {"hashes": {"adapter": hashlib.sha256(weights).hexdigest()}}
    (folder / CARD).write_text(json.dumps(card))
    return folder


def adapter(name: str) -> Any:
    return SimpleNamespace(name=name, stage=name.partition("-")[0], hash=f"hash of {name}", card={})


def wait_for(look: Callable[[], Any], seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found


def whole(rating: RatingDesk, ahead: int = 0) -> dict[str, Any]:
    """Wait for a pair that can be rated, and for others behind it."""

    def look() -> Any:
        view = rating.ask({"do": "look"})
        return view if view["sheet"] and view["sheet"]["whole"] and view["ahead"] >= ahead else None

    return wait_for(look)


def vote(rating: RatingDesk, verdict: str = "a1", **more: Any) -> dict[str, Any]:
    return rating.ask({"do": "vote", "sheet": whole(rating)["sheet"]["id"], "verdict": verdict, **more})
