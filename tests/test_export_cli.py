"""The command line exports in processes of their own, lists what it would push, and takes adapters in."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from lorarlhf.adapters import AdapterBank
from lorarlhf.base import load_base
from lorarlhf.cli import cli
from lorarlhf.errors import LoraRlhfError
from lorarlhf.export import exporting
from lorarlhf.export.probe import CONVERSATIONS, SPARE, conversations_of
from lorarlhf.settings import LoadSettings
from lorarlhf.types import Comparison, Demonstration, Outcome, is_heldout, user
from lorarlhf.workspace import Workspace
from tests.test_export import Here, make


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Make a workspace with a policy and a reward model on the starter."""
    place = Workspace(tmp_path_factory.mktemp("work")).open()
    bank = AdapterBank(load_base(LoadSettings(device="cpu")))
    for stage in ("ppo", "reward"):
        make(bank, place.adapters_dir / f"{stage}-1", stage)
    return place


def lorarlhf(place: Workspace, *arguments: str) -> dict:
    command = [*arguments, "--workspace", str(place.path), "--json"]
    done = CliRunner().invoke(cli, command, standalone_mode=False, catch_exceptions=False)
    return json.loads(done.stdout)


def test_an_export_is_checked_and_a_dry_run_lists_what_would_be_sent(place, tmp_path):
    out = tmp_path / "out"
    done = lorarlhf(place, "export", "ppo-1", str(out), "--format", "gguf", "--push", "me/mine", "--dry-run")
    assert done["check"].startswith("log-probabilities of ")
    assert done["checks"][0]["most"] <= done["checks"][0]["allowed"]["most"]
    assert done["push"]["sent"] is False
    sizes = {path.name: path.stat().st_size for path in out.iterdir()}
    assert {file["name"]: file["bytes"] for file in done["push"]["files"]} == sizes
    assert set(sizes) == {"adapter.gguf", "Modelfile", "README.md", "card.json"} == set(done["files"])
    text = (out / "README.md").read_text()
    assert "--lora adapter.gguf" in text
    assert re.search(r"KL \S+ nats a token, the same likeliest token (100|9\d)\.\d% of the time", text)


def test_an_exported_reward_model_is_taken_in_again_with_its_head(place, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "run_child", Here(tmp_path))  # in a process of its own: above, and in `test_export`
    done = lorarlhf(place, "export", "reward-1", str(tmp_path / "out"))
    assert done["check"].startswith("scores of 8 held-out conversations")
    taken = lorarlhf(place, "adapters", "--import", done["folder"], "--as", "reward", "--name", "again")
    assert taken["remarks"] == []
    for file in ("adapter_model.safetensors", "head.safetensors"):
        contents = [(place.adapters_dir / name / file).stat().st_size for name in ("reward-1", "again")]
        assert contents[0] == contents[1]
    listed = {adapter["name"]: adapter["stage"] for adapter in lorarlhf(place, "adapters")}
    assert listed["again"] == "reward"


def test_what_is_missing_is_told_before_anything_is_loaded(place, tmp_path):
    for arguments, said in [
        (["export", "reward-1", "out", "--format", "gguf"], "no place for a reward head"),
        (["export", "ghost", "out"], "no adapter ghost"),
        (["export", "ppo-1", "out", "--push", "mine"], "as USER/NAME"),
        (["adapters", "--import", str(tmp_path), "--as", "policy"], "no readable adapter_config.json"),
    ]:
        with pytest.raises(LoraRlhfError, match=said):
            lorarlhf(place, *arguments)
    assert not Path("out").exists()


def test_heldout_conversations_of_the_workspace_are_asked_about_first(tmp_path):
    with Workspace(tmp_path / "work").store() as store:
        assert conversations_of(store) == list(SPARE)
        heldout = [user(f"Question {n}?") for n in range(200) if is_heldout(user(f"Question {n}?"))]
        seen = [user(f"Question {n}?") for n in range(200) if not is_heldout(user(f"Question {n}?"))]
        for prompt in (heldout[0], seen[0]):
            store.add_demonstration(Demonstration(prompt, "Shown."))
        store.add_comparison(Comparison(heldout[1], "worse", "better", Outcome.B))
        chosen = conversations_of(store)
        assert sorted(map(str, chosen[:2])) == sorted(map(str, [(heldout[0], "Shown."), (heldout[1], "better")]))
        assert chosen[2:] == list(SPARE[: CONVERSATIONS - 2])
        store.add_demonstrations(Demonstration(prompt, "Shown.") for prompt in heldout)
        assert len(conversations_of(store)) == CONVERSATIONS
        assert all(is_heldout(prompt) for prompt, _ in conversations_of(store))
