"""What every test stands on: no network, one thread, and a workspace that is nobody's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch and transformers are imported: they read these once.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
# The models are so small that threads only wait for each other, the more so with several workers.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def own_workspace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Point the default workspace at a folder that does not exist yet."""
    monkeypatch.setenv("LORARLHF_HOME", str(tmp_path / "lorarlhf-home"))
