"""The command line at its edge: exit status, one line of cause, one JSON value. No command here needs a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lorarlhf import __version__, cli
from lorarlhf.settings import STAGES
from lorarlhf.store import OTHERS
from lorarlhf.workspace import Workspace
from tests.conftest import Run

VOTES = [
    {"prompt": "May I?", "chosen": "Yes.", "rejected": "No."},
    {"prompt": "And now?", "chosen": "Certainly.", "rejected": "Go away."},
]


def lines_of(text: str) -> list[str]:
    """Split what a terminal would show, leaving out progress bars that were wiped."""
    return [line.rpartition("\r")[2] for line in text.split("\n") if line.rpartition("\r")[2].strip()]


def written(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_help_and_version(lorarlhf: Run) -> None:
    for arguments in (["--help"], ["-h"], ["train", "--help"], ["train", "ppo", "-h"], ["export", "--help"]):
        done = lorarlhf(*arguments)
        assert done.status == 0
        assert "Usage: lorarlhf" in done.out
    assert lorarlhf("--version").out == f"lorarlhf, version {__version__}\n"


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_is_an_option(lorarlhf: Run, stage: str) -> None:
    shown = lorarlhf("train", stage, "--help").out
    for name in STAGES[stage].model_fields:
        assert f"--{name.replace('_', '-')}" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fly"], "No such command 'fly'"),
        (["adapters", "--fast"], "No such option"),
        (["import", "votes.jsonl"], "Missing option '--as'"),
        (["import", "votes.jsonl", "--as", "songs"], "'songs' is not one of"),
        (["generate"], "either --prompts FILE or --prompt TEXT"),
        (["generate", "--prompt", "a", "--prompts", "b"], "either --prompts FILE or --prompt TEXT"),
        (["generate", "--prompt", "a", "-n", "0"], "0 is not in the range"),
        (["generate", "--prompt", "a", "--top-p", "2"], "top_p = 2.0"),
        (["generate", "--prompt", "a", "--bits", "5"], "'5' is not one of"),
        (["train", "sft", "--rank", "0"], "rank = 0"),
        (["train", "sft", "--rank", "eight"], "'eight' is not a valid integer"),
        (["train", "ppo", "--mini-batches", "5"], "must be a multiple of mini_batches"),
        (["train", "dance"], "No such command 'dance'"),
        (["score", "--adapter", "r"], "Missing option '--input'"),
        (["export", "one"], "Missing argument 'DEST'"),
        (["votes", "--export", "f", "--format", "xml"], "'xml' is not one of"),
        (["resume"], "Missing argument 'RUN'"),
    ],
)
def test_wrong_usage_exits_with_2(lorarlhf: Run, arguments: list[str], said: str) -> None:
    done = lorarlhf(*arguments)
    assert done.status == 2, done
    assert done.out == ""
    assert said in " ".join(done.err.split())
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "gone.jsonl", "--as", "comparisons"], "gone.jsonl"),
        (["import", "bad.jsonl", "--as", "comparisons"], "1 bad row"),
        (["votes", "--export", "votes.jsonl"], "nothing that can be written"),
        (["votes", "--export", "no/such/folder.jsonl"], "there is no folder no/such"),
        (["export", "ghost", "out"], "no adapter ghost; there are: none yet"),
        (["resume", "ppo-7"], "ppo-7"),
        (["generate", "--prompts", "gone.txt"], "gone.txt"),
        (["score", "--adapter", "r", "--input", "gone.jsonl"], "gone.jsonl"),
        (["train", "sft", "--preset", "starterr"], "no preset starterr; did you mean starter"),
        (["train", "sft", "--preset", "mine.yaml"], "mine.yaml:2: unknown setting rnk; did you mean rank"),
        (["adapters", "--workspace", "bad.jsonl"], "is a file, not a folder"),
        (["runs", "--workspace", "bad.jsonl/deeper"], "bad.jsonl"),
    ],
)
def test_a_failure_exits_with_1_and_one_line(lorarlhf: Run, tmp_path: Path, arguments: list[str], said: str) -> None:
    written(tmp_path / "bad.jsonl", VOTES[0], {"prompt": "x", "chosen": 3})
    (tmp_path / "mine.yaml").write_text("sft:\n  rnk: 3\n")
    done = lorarlhf(*arguments, "--json")
    assert done.status == 1, done
    assert done.out == ""
    (line,) = lines_of(done.err)
    assert line.startswith("lorarlhf: ")
    assert said in line


def test_a_damaged_workspace_is_named(lorarlhf: Run, tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "workspace.db").write_bytes(b"no database at all" * 100)
    for command in ("votes", "runs"):
        done = lorarlhf(command, "--workspace", "place")
        assert (done.status, done.out) == (1, "")
        (line,) = lines_of(done.err)
        assert "workspace.db" in line


def test_a_bug_is_one_line_too_and_its_traceback_a_file(lorarlhf: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by design\nand more")

    monkeypatch.setattr(cli, "open_workspace", broken)
    done = lorarlhf("votes")
    assert done.status == 1
    (line,) = lines_of(done.err)
    said, _, report = line.partition("; details: ")
    assert said == "lorarlhf: unexpected ZeroDivisionError: by design"
    assert "Traceback" in Path(report).read_text()
    Path(report).unlink()


def test_votes_of_other_bases_count_once_they_are_let(lorarlhf: Run, tmp_path: Path) -> None:
    place = tmp_path / "w"
    assert lorarlhf("votes", "--other-bases", "on", "--workspace", str(place)).status == 0
    with Workspace(place).store() as store:
        assert store.get_meta(OTHERS) is True
    lorarlhf("votes", "--other-bases", "off", "--workspace", str(place))
    with Workspace(place).store() as store:
        assert store.get_meta(OTHERS) is False


def test_votes_come_in_once_and_go_out_as_one_json_value_each_time(lorarlhf: Run, tmp_path: Path) -> None:
    file = written(tmp_path / "votes.jsonl", *VOTES)
    first = lorarlhf("import", file, "--as", "comparisons", "--json")
    again = lorarlhf("import", file, "--as", "comparisons", "--json")
    assert (first.status, again.status) == (0, 0)
    assert (json.loads(first.out)["added"], json.loads(first.out)["duplicates"]) == (2, 0)
    assert (json.loads(again.out)["added"], json.loads(again.out)["duplicates"]) == (0, 2)
    counted = json.loads(lorarlhf("votes", "--json").out)
    assert counted["comparisons"] == 2
    assert counted["outcomes"]["a"] == 2
    out = lorarlhf("votes", "--export", "out.jsonl", "--format", "preference", "--json")
    assert json.loads(out.out)["written"] == 2
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    refused = lorarlhf("votes", "--export", "out.jsonl", "--json")
    assert (refused.status, refused.out) == (1, "")
    assert lorarlhf("votes", "--export", "out.jsonl", "--force", "--json").status == 0


def test_an_import_with_a_bad_row_changes_nothing(lorarlhf: Run, tmp_path: Path) -> None:
    file = written(tmp_path / "votes.jsonl", *VOTES, {"prompt": "x", "chosen": 3})
    assert lorarlhf("import", file, "--as", "comparisons").status == 1
    assert json.loads(lorarlhf("votes", "--json").out)["comparisons"] == 0


@pytest.mark.parametrize("command", ["adapters", "runs"])
def test_an_empty_workspace_lists_nothing(lorarlhf: Run, command: str) -> None:
    assert json.loads(lorarlhf(command, "--json").out) == []
    assert lorarlhf(command).out == f"no {command} yet\n"


def test_adapters_are_listed_as_their_cards_say(lorarlhf: Run, tmp_path: Path) -> None:
    folder = tmp_path / "place" / "adapters" / "sft-1"
    folder.mkdir(parents=True)
    base = {"name": "starter", "fingerprint": "f", "bits": 4}
    card = {"stage": "sft", "created": "2026-01-02T03:04:05.678", "base": base, "hashes": {"adapter": "h"}}
    (folder / "card.json").write_text(json.dumps(card))
    (listed,) = json.loads(lorarlhf("adapters", "--workspace", "place", "--json").out)
    assert (listed["name"], listed["stage"], listed["base"]) == ("sft-1", "sft", "starter")
    assert "2026-01-02T03:04:05" in lorarlhf("adapters", "--workspace", "place").out
    missing = lorarlhf("export", "sft-1", "out", "--workspace", "place")
    assert missing.status == 1
    assert "adapter_model.safetensors is missing" in missing.err


def test_the_doctor_answers_as_json(lorarlhf: Run) -> None:
    done = lorarlhf("doctor", "--json")
    assert done.status == 0
    assert json.loads(done.out)["python"] == sys.version.split()[0]


def test_the_module_is_the_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lorarlhf", "adapters", "--workspace", str(tmp_path / "w"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, [], "")
