"""Measure the peak of the memory that a block takes.

On a card torch's allocator keeps the peak itself. On a CPU it does not, but it reports every piece that comes and goes
to torch's profiler, also those that never leave the C++ code; their running sum is the allocator's peak, free of the
noise of pages. What the C library keeps back, and packing buffers of the matrix libraries, only the resident memory
of the process shows: on Linux the kernel keeps that peak (`VmHWM`) and can be told to begin anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch.profiler import ProfilerActivity, profile


@dataclass
class Peak:
    """Bytes above those at the block's beginning; set when the block has ended."""

    bytes: int = 0
    left: int = 0
    """Bytes that are still there at the end."""


@contextmanager
def allocated(device: torch.device) -> Iterator[Peak]:
    """Measure by torch's allocator. On a CPU only what is allocated inside the block counts."""
    found = Peak()
    if device.type in ("cuda", "xpu"):
        memory = getattr(torch, device.type)
        memory.synchronize(device)
        memory.reset_peak_memory_stats(device)
        before = memory.memory_allocated(device)
        yield found
        memory.synchronize(device)
        found.bytes = memory.max_memory_allocated(device) - before
        found.left = memory.memory_allocated(device) - before
        return
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler else writes a diary to stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        yield found
    now = peak = 0
    inside = set()
    for address, count in _pieces(seen):
        # A profile of before knows pieces that go only now; they were no part of this block.
        if count > 0:
            inside.add(address)
        elif address not in inside:
            continue
        now += count
        peak = max(peak, now)
    found.bytes, found.left = peak, now


def _pieces(seen: profile) -> list[tuple[int, int]]:
    """List (address, bytes) of every piece that came, or went (below 0), in that order."""
    found, waiting = [], list(seen.profiler.kineto_results.experimental_event_tree())  # type: ignore[union-attr]
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag.name == "Allocation":
            fields = event.extra_fields
            found.append((event.start_time_ns, fields.ptr, fields.alloc_size))
    return [(address, count) for _, address, count in sorted(found, key=lambda piece: piece[0])]


@contextmanager
def resident() -> Iterator[Peak]:
    """Measure by the resident memory of this process; 0 where the system keeps no peak that can be begun anew."""
    found, before = Peak(), psutil.Process().memory_info().rss
    begun = _begin_anew()
    yield found
    found.left = psutil.Process().memory_info().rss - before
    found.bytes = max(0, _high_water() - before) if begun else 0


def _begin_anew() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _high_water() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
