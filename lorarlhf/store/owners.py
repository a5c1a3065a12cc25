"""Which process works on a run, so that no dead one seems alive and no two work on the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import psutil

from lorarlhf.errors import StoreError
from lorarlhf.store.runs import RunRow, Runs
from lorarlhf.store.votes import Votes

OWNERS = "run owners"


class OwnedRuns(Votes, Runs):
    """Runs, each owned by the process that works on it."""

    def start_run(
        self, stage: str, adapter: str, base: str, settings: Mapping[str, Any], parents: Mapping[str, Any]
    ) -> str:
        """Record a run that starts now in this process, as `running`; return its id."""
        with self.transaction():
            run = super().start_run(stage, adapter, base, settings, parents)
            self.claim(run)
        return run

    def claim(self, run: str) -> None:
        """Make a run this process's; raise `StoreError` while another one works on it."""
        with self.transaction():
            owners = self.get_meta(OWNERS, {})
            me = psutil.Process()
            if run in owners and owners[run][0] != me.pid and _lives(owners[run]):
                raise StoreError(f"run {run} is at work in another process (pid {owners[run][0]}); pause it there")
            self.set_meta(OWNERS, {**owners, run: [me.pid, me.create_time()]})

    def release(self, run: str) -> None:
        """Give up a run, if it is this process's."""
        with self.transaction():
            owners = self.get_meta(OWNERS, {})
            if run in owners and owners[run][0] == os.getpid():
                del owners[run]
                self.set_meta(OWNERS, owners)

    def mark_interrupted(self) -> None:
        """Mark the running runs whose process is gone."""
        with self.transaction():
            owners = self.get_meta(OWNERS, {})
            living = {run: owner for run, owner in owners.items() if _lives(owner)}
            self.set_meta(OWNERS, living)
            for row in self.runs():
                if row.status == "running" and row.id not in living:
                    self.finish_run(row.id, "interrupted", {}, "its engine ended without warning")

    def at_work(self) -> list[RunRow]:
        """List the running runs whose process lives, oldest first."""
        owners = self.get_meta(OWNERS, {})
        return [row for row in self.runs() if row.status == "running" and row.id in owners and _lives(owners[row.id])]


def _lives(owner: list[Any]) -> bool:
    """Tell whether a process is still the one that was noted: numbers of processes are used again."""
    try:
        process = psutil.Process(owner[0])
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - owner[1]) < 5
    except psutil.Error:
        return False
