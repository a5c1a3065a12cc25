"""Pushing to the Hub: a dry run sends nothing, a failure is told in one line and loses nothing, private unless told."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import click
import httpx
import huggingface_hub
import pytest
from click.testing import CliRunner
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

from lorarlhf.cli import cli
from lorarlhf.errors import ExportError
from lorarlhf.export.push import check_login, check_repository, plan_push, push


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "README.md").write_text("12345")
    (tmp_path / "out" / "deep" / "model.safetensors").write_bytes(b"123")
    return tmp_path / "out"


def test_a_dry_run_lists_files_and_sizes(folder):
    assert plan_push(folder, "me/mine") == {
        "repository": "me/mine",
        "private": True,
        "files": [{"name": "README.md", "bytes": 5}, {"name": "deep/model.safetensors", "bytes": 3}],
        "bytes": 8,
        "sent": False,
    }


def test_without_network_the_failure_is_one_line(folder):
    """Tests run offline: this is huggingface_hub's own refusal."""
    with pytest.raises(ExportError, match=r"^me/mine was not pushed: .*out of reach.*the export itself is done, in /"):
        push(folder, "me/mine")


@pytest.mark.parametrize("name", ["mine", "a/b/c", "/mine", "me/", "me/..", "me/mi ne", "", "../x"])
def test_a_bad_repository_is_refused(name):
    with pytest.raises(ExportError, match="as USER/NAME"):
        check_repository(name)


def test_whoever_is_not_logged_in_is_told_before_the_export(monkeypatch):
    check_repository("me/mine-1.0")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ExportError, match="hf auth login"):
        check_login()


class Hub:
    """Stands for the Hub, which tests cannot reach; remembers what it was asked."""

    def __init__(self, private: bool = True, error: Exception | None = None) -> None:
        self.asked: list = []
        self.private, self.error = private, error

    def create_repo(self, repo_id, *, private, exist_ok):
        self.asked.append(("create", repo_id, private))
        if self.error:
            raise self.error

    def model_info(self, repo_id):
        return SimpleNamespace(private=self.private)

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.asked.append(("upload", repo_id, Path(folder_path).name))
        return SimpleNamespace(commit_url="https://hub/commit")


def test_it_is_private_unless_told_otherwise(folder, monkeypatch):
    for public in (False, True):
        hub = Hub(private=not public)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda hub=hub: hub)
        sent = push(folder, "me/mine", public=public)
        assert hub.asked == [("create", "me/mine", not public), ("upload", "me/mine", "out")]
        assert (sent["sent"], sent["private"], sent["url"]) == (True, not public, "https://hub/commit")


def test_nothing_private_goes_to_a_public_repository(folder, monkeypatch):
    hub = Hub(private=False)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    with pytest.raises(ExportError, match="there already and public, nothing was sent"):
        push(folder, "me/mine")
    assert [what for what, *_ in hub.asked] == ["create"]


def answered(status: int, kind: type = HfHubHTTPError) -> Exception:
    return kind("no", response=httpx.Response(status, request=httpx.Request("POST", "https://hub")))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LocalTokenNotFoundError("no token"), "hf auth login"),
        (answered(401), "hf auth login"),
        (answered(403), "may not write there"),
        (answered(404, RepositoryNotFoundError), "may not write there"),
        (answered(503), "the Hub answered 503"),
        (httpx.ConnectError("refused"), "out of reach"),
        (OSError("odd\nthings"), r"\(odd things\)"),
    ],
)
def test_failures_say_what_to_do(folder, monkeypatch, error, said):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(error=error))
    with pytest.raises(ExportError, match=said) as raised:
        push(folder, "me/mine")
    assert "\n" not in str(raised.value)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "deep"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dry-run"], "go with --push"),
        (["--public"], "go with --push"),
        (["--push", "me/mine", "--dry-run"], "name one as DEST"),
    ],
)
def test_options_that_do_not_go_together(arguments, said, tmp_path):
    dest = "out.zip" if "--push" in arguments else "out"
    with pytest.raises(click.UsageError, match=said):
        CliRunner().invoke(cli, ["export", "a", dest, *arguments], standalone_mode=False, catch_exceptions=False)
    assert json.dumps([path.name for path in tmp_path.iterdir()]) == "[]"
