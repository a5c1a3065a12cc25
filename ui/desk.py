"""What the whole app stands on: one workspace, one engine process, and what there is to say about both.

The desk keeps nothing that matters: votes, runs and adapters are rows and files, so a desk may die at any moment.
It watches the engine, starts it again when it dies, and says what happened. Knows nothing of Gradio.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from lorarlhf.checkpoints import checkpoints_stamp, list_checkpoints
from lorarlhf.engine.client import EngineClient, Job
from lorarlhf.engine.requests import EngineDied, JobCancelled
from lorarlhf.errors import LoraRlhfError, RunDiffers, RunPaused
from lorarlhf.evaluate.rounds import Course, course_now
from lorarlhf.library import SavedAdapter, list_on, list_saved
from lorarlhf.preset import load_preset, preset_files
from lorarlhf.settings import STAGES, LoadSettings, SamplingSettings, Settings
from lorarlhf.store import RunRow, Store
from lorarlhf.workspace import Workspace

LOOK_SECONDS, DESCRIBE_SECONDS = 0.2, 1.0
BASE = "base"
MOST_DEATHS, DEATH_SECONDS = 3, 120.0
"""An engine that died this often in this time is not started again unasked."""
HANDOVER_SECONDS = 30.0
"""How long a run's former engine may take to save it and to let go of it."""
SAMPLED = {"temperature": 0.7}
"""How answers that people read are sampled unless a preset says otherwise: at 1.0 small models lose the thread."""
PRESETS = "presets of bases"
"""Name in the workspace of the presets the person chose, by base."""
STARTER = "starter"
FINGERPRINTS = "fingerprints of bases"
"""Name in the workspace of what identifies the bases that were loaded, by name: known before they are loaded again."""
OPEN_RUN = "app run"
"""Name in the workspace of the run that the app has at work, so that the next app goes on with it."""


@dataclass(frozen=True)
class Notice:
    """Something the person should know, whichever page they look at."""

    text: str
    run: str = ""
    """The run that can be gone on with."""
    good: bool = False
    """Good news needs no alarm."""
    about: str = ""
    """`BASE` where it is about loading one."""
    when: datetime = field(default_factory=datetime.now)


@dataclass(frozen=True)
class Status:
    """What the engine is at."""

    state: str
    """`loading`, `ready`, `working` or `down`."""
    text: str
    """In words."""
    share: float | None = None
    """Of what it is at, where that is known."""


class Desk:
    """The workspace and its engine, for every page that is open."""

    def __init__(self, workspace: Workspace, load: LoadSettings) -> None:
        self.workspace = workspace.open()
        self.engine = EngineClient(workspace.path, load)
        self.notices: deque[Notice] = deque(maxlen=20)
        """Newest last; the page shows those not dismissed."""
        self.memory: dict[str, Any] = {}
        """What `EngineClient.describe` said last."""
        self.run_job: Job | None = None
        """The training run at work, or the last one."""
        self._loading: Job | None = None
        self._making_room = False
        """The engine ends, and with it the base it has, to be started anew."""
        self._before: LoadSettings | None = None
        """The base to go back to when the one that is being loaded cannot be."""
        self._going_back = False
        """The base that is being loaded is the one of before: that another could not be is still to be read."""
        self._deaths: list[float] = []
        self._shelf: tuple[Any, list[SavedAdapter]] = (None, [])
        self._steps: tuple[Any, list[SavedAdapter]] = (None, [])
        self._open_run = ""
        self._stopped: Job | None = None
        """The run the person asked to stop; the next app shall not go on with it."""
        self.watchers: list[Callable[[], None]] = []
        """Called again and again, once no run of the last app waits to be gone on with any more."""
        self._differing: set[str] = set()
        """Runs that would go on otherwise than they began, as the person knows."""
        self._switching = threading.Lock()
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="engine watch")

    @cached_property
    def store(self) -> Store:
        """The workspace's database; one connection for all threads of the app."""
        return self.workspace.store()

    def open(self) -> Desk:
        """Start the engine and begin to load the base; return at once."""
        self.store.belong(self.store.get_meta(FINGERPRINTS, {}).get(self.load_settings.base, ""))
        self.engine.start()
        self._loading = self.engine.load()
        self._watcher.start()
        return self

    def close(self) -> None:
        """End the engine; a run at work is saved, and the next app goes on with it."""
        self._closing.set()
        self.engine.stop()
        self.store.close()

    # -- the base ---------------------------------------------------------------------------------------------

    @property
    def load_settings(self) -> LoadSettings:
        """The base that is in memory or on its way there."""
        return self.engine.load_settings

    @property
    def fingerprint(self) -> str:
        """What identifies the base for its adapters; empty until one is loaded."""
        return str(self.memory.get("base", {}).get("fingerprint", ""))

    def defaults(self, section: str) -> dict[str, Any]:
        """Give the settings measured to suit this base, by section of a preset: `sampling`, `sft` …"""
        return load_preset(self.preset).get(section, {}) if self.preset else {}

    @property
    def preset(self) -> str:
        """The preset whose settings this base begins with; empty for the declared ones. The starter has its own."""
        base = self.load_settings.base
        name = self.store.get_meta(PRESETS, {}).get(base, STARTER if base == STARTER else "")
        return name if name in preset_files() else ""

    def use_preset(self, base: str, name: str) -> None:
        """Begin with a preset's settings whenever this base is loaded; an empty name takes the declared ones.

        The starter's own preset suits no other base, which does not inherit it by being loaded after the starter.
        """
        name = "" if name == STARTER and base != STARTER else name
        self.store.set_meta(PRESETS, {**self.store.get_meta(PRESETS, {}), base: name})

    def sampling(self, **changes: Any) -> SamplingSettings:
        """Make sampling settings out of this base's defaults."""
        return SamplingSettings.parse({**SAMPLED, **self.defaults("sampling"), **changes}, "sampling")

    def switch_base(self, load: LoadSettings) -> None:
        """Replace the base; return at once. A run at work is saved. If the new one fails, the old one comes back."""
        with self._switching:
            self._before = self._before or (self.load_settings if self.fingerprint else None)
            self._going_back = False
            self._restart(load)

    def cancel_loading(self) -> None:
        """Stop loading, and go back to the base there was, or to none."""
        with self._switching:
            if not self.loading:
                return
            back, self._before = self._before, None
            if back:
                self._restart(back)
            else:
                self._loading = None
                self.engine.restart()

    @property
    def loading(self) -> bool:
        """Tell whether a base is on its way, until the watcher has taken it in."""
        return self._making_room or self._loading is not None

    def _restart(self, load: LoadSettings | None = None) -> None:
        self._making_room, self.memory = True, {}
        try:
            self.engine.restart(load)
            self._loading = self.engine.load()
        finally:
            self._making_room = False

    # -- adapters and runs ------------------------------------------------------------------------------------

    def adapters(self, stage: str = "") -> list[SavedAdapter]:
        """List the adapters that fit this base, oldest first; those of one stage if it is named."""
        folder = self.workspace.adapters_dir
        stamp = (self.fingerprint, folder.stat().st_mtime_ns)
        if self._shelf[0] != stamp:  # cards are read again only when a folder came or went
            self._shelf = (stamp, list_on(folder, stamp[0]))
        return [saved for saved in self._shelf[1] if stage in ("", saved.stage)]

    def checkpoints(self) -> list[SavedAdapter]:
        """List the checkpoints on this base whose weights no adapter has, oldest first."""
        stamp = (self.fingerprint, self.workspace.adapters_dir.stat().st_mtime_ns, checkpoints_stamp(self.workspace))
        if self._steps[0] != stamp:
            found = [one for one in list_checkpoints(self.workspace) if one.card["base"]["fingerprint"] == stamp[0]]
            known = {saved.hash for saved in list_saved(self.workspace.adapters_dir)}
            self._steps = (stamp, [one for one in found if one.hash not in known])
        return self._steps[1]

    def course(self) -> Course:
        """Read the rounds on this base, and which one is on."""
        return course_now(self.store, self.adapters(), self.fingerprint)

    def newest(self, stage: str) -> SavedAdapter | None:
        """Find the adapter of a stage that is meant where nobody is named, in the round that is on."""
        return self.course().newest(stage)

    def in_use(self) -> set[str]:
        """Name the adapters that a job of the engine stands on."""
        names = {job.adapter for job in self.engine.jobs}
        run = self.running
        return names | (set(run.parents["adapters"].values()) | {run.adapter} if run else set())

    @property
    def running(self) -> RunRow | None:
        """The training run at work."""
        job = self.run_job
        return self.store.run(job.progress.run) if job and not job.done and job.progress.run else None

    def train(self, stage: str, settings: Settings, name: str = "") -> Job:
        """Start a stage; raise `LoraRlhfError` where one is at work already."""
        return self._run(lambda: self.engine.train(stage, settings, name))

    def resume(self, run: str) -> Job:
        """Go on with a run; what was offered about it is settled by that.

        Where it would not go on as it began, a notice says what differs, and asking once more accepts that.
        """
        accept = run in self._differing
        job = self._run(lambda: self.engine.resume(run, accept=accept), run)
        self._differing.discard(run)
        for old in [old for old in self.notices if old.run == run]:
            self.notices.remove(old)
        return job

    def try_resume(self, run: str) -> bool:
        """Go on with a run, or give notice why that cannot be; tell which."""
        try:
            self.resume(run)
        except LoraRlhfError as error:
            self.notices.append(Notice(f"{run} does not go on: {error}", run))
            return False
        return True

    def stop_run(self) -> None:
        """Ask the run at work to save and stop."""
        if job := self.run_job:
            self._stopped, self._open_run = job, ""
            self.store.set_meta(OPEN_RUN, "")
            job.stop()

    @property
    def stopping(self) -> bool:
        """Tell whether the run at work was asked to stop and is about to."""
        return self.run_job is not None and self.run_job is self._stopped and not self.run_job.done

    def stage_settings(self, stage: str, values: dict[str, Any]) -> Settings:
        """Make a stage's settings out of this base's defaults and a form."""
        return STAGES[stage].parse({**self.defaults(stage), **values}, f"train {stage}")

    def tell(self, notice: Notice) -> None:
        """Give notice; good news takes the place of older good news, so that a night's runs do not pile up."""
        for old in [old for old in self.notices if notice.good and old.good]:
            self.notices.remove(old)
        self.notices.append(notice)

    def _run(self, start: Callable[[], Job], run: str = "") -> Job:
        with self._switching:
            if self.run_job and not self.run_job.done:
                raise LoraRlhfError("a run is at work already; stop it first, or wait for its end")
            job = self.run_job = start()
            for old in [old for old in self.notices if old.good]:
                self.notices.remove(old)  # that something is done is no news while the next is on its way
        job.future.add_done_callback(lambda _: self._run_ended(job, run))
        return job

    def _run_ended(self, job: Job, run: str) -> None:
        """Say how a run ended, unless it is to be gone on with by the next app."""
        error = job.future.exception()
        if self._closing.is_set() or isinstance(error, JobCancelled):
            return
        self._open_run = ""
        self.store.set_meta(OPEN_RUN, "")
        if error is None:
            self.tell(Notice(f"{job.result()['adapter']} is done", good=True))
        elif isinstance(error, RunDiffers):
            self._differing.add(run)
            told = f"{run} would not go on as it began: {'; '.join(error.differences)}"
            self.notices.append(Notice(f"{told}. Resume it again to accept that.", run))
        elif not isinstance(error, (RunPaused, EngineDied)):  # of a death the watcher speaks
            self.notices.append(Notice(str(error)))

    @property
    def given_up(self) -> bool:
        """Tell whether the engine died too often to be started again unasked."""
        return not self.engine.alive and len(self._deaths) >= MOST_DEATHS

    # -- watching ---------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """Say what the engine is at, from whatever is known without asking it."""
        now = self._stands()
        # Where a base begins to be replaced between two of the looks that this takes, they fit no longer: look again.
        return self._stands() if now.state == "down" else now

    def _stands(self) -> Status:
        load = self.load_settings
        if self._making_room:
            return Status("loading", "Restarting …")
        if not self.engine.alive:
            return Status("down", "The engine is not running")
        if self.loading:
            text, share = (self._loading.progress.text, self._loading.progress.share) if self._loading else ("", None)
            return Status("loading", text or f"Loading {load.base}", share)
        at_work = [job for job in self.engine.jobs if job.kind != "describe"]
        if not at_work:
            return Status("ready", "ready") if self.fingerprint else Status("down", "no base is loaded")
        job = next((job for job in at_work if job.progress.started), at_work[0])
        now = job.progress
        share = now.step / now.total if now.total else None
        words = {"generate": "answering", "train": "training", "resume": "training", "load": "loading"}
        words |= {"judge": "measuring a reward model", "score": "scoring", "duel": "judging answers"}
        words |= {"export": "exporting", "take_in": "importing", "plan": "planning"}
        words |= {"drift": "measuring a policy", "best_of": "trying best of n"}
        text = words.get(job.kind, job.kind)
        if now.run:
            text = f"training {self.store.run(now.run).called}"
            text += f", step {now.step} of {now.total}" if now.total else ""
        return Status("working", text, share)

    def revive(self) -> None:
        """Start the engine again on the person's word."""
        with self._switching:
            self._deaths.clear()
            self._restart()

    def _watch(self) -> None:
        left, since = self.store.get_meta(OPEN_RUN, ""), time.monotonic()
        described = 0.0
        while not self._closing.wait(LOOK_SECONDS):
            with self._switching:
                if self._loading is not None and self._loading.done:
                    self._loaded(self._loading)
                if not self.engine.alive and not self._closing.is_set() and len(self._deaths) < MOST_DEATHS:
                    self._died()
            if left and self.fingerprint:
                left = left if self._wait_for(left, since) else ""
            else:
                self._remember_run()
                for look in self.watchers:
                    look()
            if self.fingerprint and time.monotonic() > described + DESCRIBE_SECONDS:
                described = time.monotonic()
                self.engine.describe().future.add_done_callback(self._described)

    def _described(self, found: Future[Any]) -> None:
        # Only a base that was taken in is looked at again: the last words of an engine that is going are of another.
        if found.exception() is None and found.result() and self.memory:
            self.memory = found.result()

    def _loaded(self, job: Job) -> None:
        self._loading = None
        error = job.future.exception()
        if error is None:
            self._before, self.memory = None, job.result()
            for old in [old for old in self.notices if old.about == BASE and not self._going_back]:
                self.notices.remove(old)  # what was wrong with another base is over
            self._going_back = False
            load = self.load_settings
            # What people say from now on is about this base, and only what was said about it counts.
            self.store.belong(self.fingerprint)
            known = self.store.get_meta(FINGERPRINTS, {})
            self.store.set_meta(FINGERPRINTS, {**known, load.base: self.fingerprint})
            self.store.set_meta("load", load.model_dump(exclude_defaults=True) | {"base": load.base})
        elif self.engine.alive:
            back, self._before = self._before, None
            self.notices.append(Notice(f"{error}; back to {back.base}" if back else str(error), about=BASE))
            if back:
                self._going_back = True
                self._restart(back)

    def _died(self) -> None:
        """Say why the engine is gone and start it again, unless it dies each time."""
        run = self.run_job.progress.run if self.run_job else ""
        resumable = bool(run) and self.store.run(run).status in ("running", "interrupted")
        now = time.monotonic()
        self._deaths = [*(then for then in self._deaths if now - then < DEATH_SECONDS), now]
        again = len(self._deaths) < MOST_DEATHS
        then = "It was started again." if again else "It died again and again, so it was not started any more."
        why = self.engine.why_ended
        self.notices.append(Notice(f"{why[:1].upper()}{why[1:]}. {then}", run if resumable else ""))
        if again:
            self._restart()

    def _remember_run(self) -> None:
        job = self.run_job
        if job and not job.done and job is not self._stopped and (run := job.progress.run) != self._open_run:
            self._open_run = run
            self.store.set_meta(OPEN_RUN, run)

    def _wait_for(self, run: str, since: float) -> bool:
        """Go on with the run the last app left at work, as soon as its engine let go of it; tell whether to wait."""
        status = self.store.run(run).status
        if status == "running" and time.monotonic() < since + HANDOVER_SECONDS:
            return True
        if status in ("running", "paused", "interrupted") and self.try_resume(run):
            self.tell(Notice(f"The app ended while {run} was at work; it goes on.", good=True))
        return False
