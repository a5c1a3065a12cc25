"""Which process works on a run, so that no dead one seems alive and no two work on the same.

An owner is [pid, when it was born, machine, boot]. Processes of another machine that shares the folder cannot be
looked at: their run counts as alive while it goes on writing.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from lorarlhf.errors import StoreError
from lorarlhf.store.runs import RunRow, Runs
from lorarlhf.store.votes import Votes

OWNERS = "run owners"
SILENCE = 30 * 60
"""Seconds without a word after which a run of another machine counts as given up."""


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

    def claim(self, run: str, *, take_over: bool = False) -> None:
        """Make a run this process's; raise `StoreError` while another one works on it.

        `take_over` takes it from a process of another machine, which cannot be looked at.
        """
        with self.transaction():
            owners = self.get_meta(OWNERS, {})
            owner, me = owners.get(run), owner_here()
            if owner and owner != me and self._at_work(run, owner) and not (take_over and _elsewhere(owner)):
                where = f" on {owner[2]}" if _elsewhere(owner) else ""
                raise StoreError(f"run {run} is at work in another process (pid {owner[0]}{where}); pause it there")
            self.set_meta(OWNERS, {**owners, run: me})

    def owner_elsewhere(self, run: str) -> str:
        """Name the other machine that may be at work on a run; empty where none is."""
        owner = self.get_meta(OWNERS, {}).get(run)
        return str(owner[2]) if owner and _elsewhere(owner) and self._at_work(run, owner) else ""

    def release(self, run: str) -> None:
        """Give up a run, if it is this process's."""
        with self.transaction():
            owners = self.get_meta(OWNERS, {})
            if owners.get(run) == owner_here():
                del owners[run]
                self.set_meta(OWNERS, owners)

    def mark_interrupted(self) -> None:
        """Mark the running runs whose process is gone."""
        with self.transaction():
            owners = self.get_meta(OWNERS, {})
            living = {run: owner for run, owner in owners.items() if self._at_work(run, owner)}
            self.set_meta(OWNERS, living)
            for row in self.runs():
                if row.status == "running" and row.id not in living:
                    self.finish_run(row.id, "interrupted", {}, "its engine ended without warning")

    def at_work(self) -> list[RunRow]:
        """List the running runs whose process lives, oldest first."""
        owners = self.get_meta(OWNERS, {})
        return [
            row
            for row in self.runs()
            if row.status == "running" and row.id in owners and self._at_work(row.id, owners[row.id])
        ]

    def _at_work(self, run: str, owner: list[Any]) -> bool:
        if not _elsewhere(owner):
            return _lives(owner)
        silent = datetime.now(timezone.utc) - datetime.fromisoformat(self.run(run).updated.replace("Z", "+00:00"))
        return abs(silent.total_seconds()) < SILENCE


def owner_here() -> list[Any]:
    """Describe this process as an owner."""
    return [os.getpid(), born(os.getpid()), platform.node(), _boot()]


def born(pid: int) -> float:
    """Tell when a process began: on Linux seconds since the machine did, which setting the clock does not change."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        try:
            # The name in brackets may hold blanks; field 22 is the 20th after it.
            return int(stat.read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError):
            raise psutil.NoSuchProcess(pid) from None
    return psutil.Process(pid).create_time()


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""  # only Linux tells; elsewhere the birth is a date


def _elsewhere(owner: list[Any]) -> bool:
    return len(owner) > 2 and owner[2] != platform.node()


def _lives(owner: list[Any]) -> bool:
    """Tell whether a process is still the one that was noted: numbers of processes are used again."""
    if len(owner) < 4 or owner[3] != _boot():
        return False
    try:
        return psutil.Process(owner[0]).status() != psutil.STATUS_ZOMBIE and abs(born(owner[0]) - owner[1]) < 5
    except psutil.Error:
        return False
