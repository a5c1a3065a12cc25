"""Workspaces on a miniature base, for tests of what stands on trained adapters."""

from __future__ import annotations

from pathlib import Path

from lorarlhf.engine.core import Engine
from lorarlhf.settings import LoadSettings
from lorarlhf.store import Store
from lorarlhf.types import Comparison, Demonstration, Outcome, user
from lorarlhf.workspace import Workspace
from tests import tiny


def open_small(folder: Path, bits: int = 4) -> Engine:
    """Open a workspace which remembers its base, as the app's does; the fixture `engine` loads it again."""
    load = {"base": str(tiny.save(folder / "base", arch="qwen3")), "compute": "fp32", "device": "cpu", "bits": bits}
    engine = Engine(Workspace(folder / "work"), LoadSettings.parse(load))
    engine.store.set_meta("load", load)
    return engine


def teach(store: Store) -> None:
    """Give every stage a dozen things to learn from, each kind on prompts of its own."""
    store.add_demonstrations(Demonstration(user(f"shown {i}?"), f"so {i}") for i in range(12))
    store.add_comparisons(Comparison(user(f"voted {i}?"), f"yes {i}", "no", Outcome.A) for i in range(12))
    store.add_prompts(user(f"asked {i}?") for i in range(12))
