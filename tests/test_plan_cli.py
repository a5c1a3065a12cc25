"""`lorarlhf plan`: a bar, one JSON value, one line of cause; bases that are not here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorarlhf.errors import SettingsError
from lorarlhf.files import size
from lorarlhf.plan.show import parse_size
from tests import tiny
from tests.conftest import Run


@pytest.mark.parametrize(
    ("text", "count"),
    [("8GB", 8 * 2**30), ("8 GiB", 8 * 2**30), ("7.5g", 7.5 * 2**30), ("6000MB", 6000 * 2**20), ("12", 12 * 2**30)],
)
def test_sizes_are_read_as_people_write_them(text: str, count: float) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["much", "", "0GB", "-3GB", "8 apples", "1e9"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="is no size; write it like 8GB"):
        parse_size(text)


def test_sizes_are_written_with_two_or_three_digits() -> None:
    assert [size(n * 2**20) for n in (0.25, 9.9, 15.4, 999, 2048)] == [
        "256 kB",
        "9.9 MB",
        "15.4 MB",
        "999 MB",
        "2.0 GB",
    ]


def test_a_card_one_does_not_have(lorarlhf: Run) -> None:
    done = lorarlhf("plan", "--stage", "ppo", "--base", "Qwen/Qwen3-4B", "--memory", "8GB")
    assert done.status == 0
    assert "does not fit" in done.out
    assert "8.0 GB there" in done.out
    assert "--gradient-checkpointing" in done.out
    assert "numbers of Qwen3-4B's config.json" in done.out
    done = lorarlhf(
        "plan", "--stage", "ppo", "--base", "Qwen/Qwen3-4B", "--memory=8GB", "--gradient-checkpointing", "--json"
    )
    found = json.loads(done.out)
    assert found["fits"] is True
    assert found["available_bytes"] == 8 * 2**30
    assert found["seconds"] is None
    assert found["peak_bytes"] == max(phase["bytes"] for phase in found["phases"])


@pytest.mark.parametrize("arch", tiny.ARCHS)
def test_a_folder_with_a_configuration_is_enough(lorarlhf: Run, tmp_path: Path, arch: str) -> None:
    folder = tmp_path / arch
    tiny.config(arch).save_pretrained(folder)
    done = lorarlhf("plan", "--stage", "sft", "--base", str(folder), "--memory", "4GB", "--rank", "3", "--json")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["base"] == arch
    assert any("no tokenizer" in note for note in found["notes"])
    assert any("no demonstrations yet" in note for note in found["notes"])
    assert any("formulas alone" in note for note in found["notes"])


def test_a_probe_tells_the_time(lorarlhf: Run, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "base")
    asked = ("plan", "--stage", "reward", "--base", str(folder), "--device", "cpu", "--max-length", "64")
    done = lorarlhf(*asked)
    assert done.status == 0, done.err
    assert "fits" in done.out
    assert "about" in next(line for line in done.out.splitlines() if line.startswith("Time:"))
    # Planning chooses no base for the workspace.
    assert json.loads(lorarlhf("plan", "--stage", "sft", "--memory", "1GB", "--json").out)["base"] == "starter"
    assert "only a probe" in lorarlhf(*asked, "--no-probe").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stage", "sft", "--memory", "much"], "--memory: 'much' is no size; write it like 8GB, 7.5GB or 6000MB"),
        (["--memory", "8GB"], "Missing option '--stage'"),
        (["--stage", "dpo"], "'dpo' is not one of"),
        (["--stage", "sft", "--steps", "3"], "No such option '--steps'"),
        (["--stage", "ppo", "--rank", "0"], "rank"),
    ],
)
def test_wrong_usage_says_what_is_wrong_and_is_2(lorarlhf: Run, arguments: list[str], said: str) -> None:
    done = lorarlhf("plan", *arguments)
    assert done.status == 2
    assert done.out == ""
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_base_that_cannot_be_found_says_what_would_do(lorarlhf: Run) -> None:
    done = lorarlhf("plan", "--stage", "sft", "--base", "no/such-base", "--memory", "8GB")
    assert done.status == 1
    assert len(done.err.splitlines()) == 1
    assert "pass a folder that holds one, or plan with one of SmolLM2-135M, SmolLM2-360M" in done.err


def test_help_lists_the_settings_of_the_stage(lorarlhf: Run) -> None:
    shown = lorarlhf("plan", "--stage", "ppo", "--help").out
    assert "--kl-coef" in shown
    assert "--memory" in shown
    assert "--kl-coef" not in lorarlhf("plan", "--help").out
