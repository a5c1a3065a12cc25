"""Every preset we ship is read, and whatever can be wrong with one is named with file, line and what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lorarlhf.doctor import preset_name
from lorarlhf.errors import SettingsError
from lorarlhf.preset import SECTIONS, load_preset, preset_files, preset_for

SHIPPED = sorted((Path(__file__).parent.parent / "presets").glob("*.yaml"))


def written(tmp_path: Path, text: str) -> str:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    return str(tmp_path / "mine.yaml")


def test_the_presets_in_the_folder_are_the_ones_that_names_find() -> None:
    assert {"starter", "cpu", "8gb", "12gb", "16gb", "24gb", "48gb"} == {path.stem for path in SHIPPED}
    assert sorted(preset_files()) == [path.stem for path in SHIPPED]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_preset_parses_whole_and_says_what_it_was_measured_on(path: Path) -> None:
    preset = load_preset(path.stem)
    assert load_preset(str(path)) == preset
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {section: set(values) for section, values in preset.items()} == {s: set(v) for s, v in raw.items()}
    for section, values in preset.items():
        SECTIONS[section].parse(values)
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert "Measured on:" in "\n".join(header)
    assert "Command: lorarlhf " in "\n".join(header)


@pytest.mark.parametrize("number", ["1e-5", "1.0e-05", "0.00001"])
def test_numbers_are_numbers_however_they_are_written(tmp_path: Path, number: str) -> None:
    preset = load_preset(written(tmp_path, f"sft:\n  learning_rate: {number}\n  rank: 8\n"))
    assert preset == {"sft": {"learning_rate": 1e-5, "rank": 8}}


def test_only_what_is_written_is_set(tmp_path: Path) -> None:
    text = "load: {bits: 4, trust_remote_code: no}\nsampling:\n  stop: [END, '#']\nppo:\n  whiten_advantages: false\n"
    assert load_preset(written(tmp_path, text)) == {
        "load": {"bits": 4, "trust_remote_code": False},
        "sampling": {"stop": ("END", "#")},
        "ppo": {"whiten_advantages": False},
    }
    assert load_preset(written(tmp_path, "sft: {}\n")) == {"sft": {}}
    few = load_preset(written(tmp_path, "ppo:\n  steps: 3\n  value_warmup_steps: 1\n"))
    assert few == {"ppo": {"steps": 3, "value_warmup_steps": 1}}


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("# mine\nloda:\n  bits: 4\n", 2, "unknown section loda; did you mean load"),
        ("sft:\n  rank: 8\nqqq:\n  rank: 8\n", 3, "unknown section qqq; known: load, sampling, sft"),
        ("sft:\n  epochs: 1\n  lerning_rate: 1e-4\n", 3, "unknown setting lerning_rate; did you mean learning_rate"),
        ("sampling:\n  zzz: 1\n", 2, "unknown setting zzz; known: temperature"),
        ("sft:\n  rank: 0\n", 2, "rank = '0': input should be greater than or equal to 1"),
        ("sft:\n  rank: 8\n  warmup: 1.5\n", 3, "warmup = '1.5'"),
        ("sft:\n  rank: many\n", 2, "rank = 'many'"),
        ("load:\n  bits: 5\n", 2, "bits = 5: input should be 4, 8 or 16"),
        ("ppo:\n  kl_coef: nan\n", 2, "kl_coef = 'nan'"),
        ("ppo:\n  steps: 3\n  clip: 1\n", 3, "clip = '1'"),
        (
            "sft: {}\nppo:\n  critic: head\n  steps: 3\n",
            2,
            "steps = 3: the first 5 (value_warmup_steps) train no policy",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SettingsError) as error:
        load_preset(path)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "- sft\n", "just words\n", "sft: 3\n", "sft:\n  - rank\n"])
def test_what_is_no_preset_says_what_one_looks_like(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=r"mine\.yaml: a preset has sections \(load, sampling, sft, reward, ppo\)"):
        load_preset(written(tmp_path, text))


def test_what_is_no_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"mine\.yaml:2: not YAML: "):
        load_preset(written(tmp_path, "sft: {rank: 8\nppo: [\n"))


def test_values_that_only_fail_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="batch_size 32 must be a multiple of mini_batches 5"):
        load_preset(written(tmp_path, "ppo:\n  batch_size: 32\n  mini_batches: 5\n"))


@pytest.mark.parametrize(("name", "said"), [("startr", "did you mean starter"), ("zzz", "there are: 12gb, 16gb")])
def test_an_unknown_preset_names_what_there_is(name: str, said: str) -> None:
    with pytest.raises(SettingsError, match=f"no preset {name}; {said}"):
        load_preset(name)


@pytest.mark.parametrize(
    ("device", "gib", "name"),
    [
        ("cpu", 64, "cpu"),
        ("cuda", 7.6, "8gb"),  # what a card sold as 8 GB reports
        ("cuda", 10, "8gb"),
        ("xpu", 15.9, "16gb"),
        ("cuda", 23.5, "24gb"),
        ("cuda", 139, "48gb"),
    ],
)
def test_a_machine_gets_the_largest_preset_it_holds(device: str, gib: float, name: str) -> None:
    assert preset_for(device, int(gib * 2**30)) == name


def test_a_machine_smaller_than_every_preset_is_told_so() -> None:
    with pytest.raises(SettingsError, match=r"no preset for a device of 4\.0 GiB; the smallest is for 8 GB"):
        preset_for("cuda", 4 * 2**30)


def test_auto_is_the_preset_of_this_machine_and_other_names_stay() -> None:
    assert preset_name("auto") in preset_files()
    assert preset_name("mine.yaml") == "mine.yaml"


def test_every_preset_names_a_base_of_known_shape_and_the_table_is_up_to_date() -> None:
    from benchmarks.preset_table import HEAD, rows

    table = [HEAD, *rows()]
    assert len(table) == 1 + 3 * (len(SHIPPED) - 1)  # the starter's figures stand in the README
    assert (SHIPPED[0].parent / "README.md").read_text(encoding="utf-8") == "\n".join(table) + "\n"
