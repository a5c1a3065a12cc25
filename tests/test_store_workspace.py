"""The workspace folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorarlhf.errors import StoreError
from lorarlhf.workspace import Workspace


def test_places_and_lazy_creation(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "deep" / "ws")
    assert workspace.db == tmp_path / "deep" / "ws" / "workspace.db"
    folders = [workspace.adapters_dir, workspace.runs_dir, workspace.exports_dir]
    assert [folder.name for folder in folders] == ["adapters", "runs", "exports"]
    assert not (tmp_path / "deep").exists()
    assert workspace.open() is workspace
    assert all(folder.is_dir() for folder in folders)
    with workspace.store() as store:
        assert store.counts()["comparisons"] == 0
    assert sorted(p.name for p in workspace.path.iterdir()) == ["adapters", "exports", "runs", "workspace.db"]


def test_the_default_follows_the_environment(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LORARLHF_HOME", str(tmp_path / "env"))
    assert Workspace().path == tmp_path / "env"
    monkeypatch.delenv("LORARLHF_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Workspace().path == tmp_path / "home" / ".lorarlhf"
    assert Workspace("~/x").path == tmp_path / "home" / "x"


def test_places_where_no_workspace_can_be(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for path, words in [
        (file, f"{file} is a file, not a folder"),
        (file / "below", f"{file} is a file, not a folder"),
        (Path("/proc/nothing/here"), "cannot write there"),
        (Path("a\0b"), "not a possible folder name"),
    ]:
        with pytest.raises(StoreError, match=words) as caught:
            Workspace(path).open()
        assert "--workspace" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_folder_without_permission(tmp_path: Path, monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # the tests may run as root, whom nothing stops
    with pytest.raises(StoreError, match="you may not write there"):
        Workspace(tmp_path).open()
