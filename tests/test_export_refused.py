"""An export that says something else is not kept, and what cannot be exported is told before anything is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from lorarlhf.adapters import AdapterBank
from lorarlhf.base import load_base
from lorarlhf.data.chat import encode_prompt
from lorarlhf.errors import AdapterError, ExportError, StoreError
from lorarlhf.export import children, exporting, gguf_format
from lorarlhf.export.children import run_child, why
from lorarlhf.export.exporting import Order, export
from lorarlhf.export.origin import Origin, check_classifier, load_of, origin_of
from lorarlhf.export.probe import SPARE
from lorarlhf.library import SavedAdapter
from lorarlhf.settings import LoadSettings
from tests import tiny
from tests.test_export import PROMPT, Here, make, ours


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run the programs of exports in this process."""
    (tmp_path / "jobs").mkdir()
    programs = Here(tmp_path / "jobs")
    monkeypatch.setattr(exporting, "run_child", programs)
    return programs


@pytest.fixture
def bank(tmp_path):
    return AdapterBank(
        load_base(LoadSettings(base=str(tiny.save(tmp_path / "llama")), bits=16, compute="fp32", device="cpu"))
    )


@pytest.fixture
def torn(bank, tmp_path):
    """Copy an adapter that can be spoilt."""
    return make(bank, tmp_path / "mine" / "r", "reward")


def order(saved: SavedAdapter, dest: Path, bank: AdapterBank, form: str = "peft", **more) -> Order:
    return Order(saved, dest, form, bank.base.settings, SPARE, **more)


def spoil(file: Path, factor: float) -> None:
    """Change one matrix of a safetensors file by a factor."""
    tensors = load_file(file)
    key = next(k for k in sorted(tensors) if "layers.1.mlp.up_proj" in k and "lora_A" not in k)
    tensors[key] = tensors[key] * factor
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("factor", [1.5, float("nan")])
@pytest.mark.parametrize(("form", "stage"), [("peft", "ppo"), ("peft", "reward"), ("merged", "ppo")])
def test_a_corrupted_export_is_refused_and_an_earlier_one_stays(bank, tmp_path, here, monkeypatch, form, stage, factor):
    saved = make(bank, tmp_path / "mine" / stage, stage, 0.3)
    dest = tmp_path / "out"
    export(order(saved, dest, bank, form), ours(bank))
    before = {path.name: path.read_bytes() for path in dest.iterdir()}
    whole = exporting.WRITERS[form]

    def corrupted(program, job, what, breathe):
        if program == "replay":
            for each in job["jobs"]:
                if each["mode"] == form:
                    file = "adapter_model.safetensors" if form == "peft" else "model.safetensors"
                    spoil(Path(each["folder"]) / file, factor if form == "peft" else factor * 3)
        here(program, job, what, breathe)

    monkeypatch.setattr(exporting, "run_child", corrupted)
    with pytest.raises(ExportError, match=f"the {form} export is not kept, because it does not say what"):
        export(order(saved, dest, bank, form, overwrite=True), ours(bank))
    assert {path.name: path.read_bytes() for path in dest.iterdir()} == before
    with pytest.raises(ExportError):
        export(order(saved, tmp_path / "new", bank, form), ours(bank))
    assert not [path for path in tmp_path.iterdir() if "new" in path.name or path.name.startswith(".")]
    assert whole is exporting.WRITERS[form]


def spoilt_lines(here, monkeypatch, old: str, new: str) -> None:
    """Let the README's lines be others than the ones that were meant."""

    def other(program, job, what, breathe):
        for each in job.get("jobs", []):
            assert not each["lines"] or old in each["lines"]
            each["lines"] = each["lines"].replace(old, new)
        here(program, job, what, breathe)

    monkeypatch.setattr(exporting, "run_child", other)


@pytest.mark.parametrize(
    ("stage", "old", "new", "said"),
    [
        ("ppo", "eos_token_id=2", "eos_token_id=3", "would not stop where an answer ends"),
        ("ppo", "add_generation_prompt=True", "add_generation_prompt=False", "a prompt into other tokens"),
        ("reward", "+ [END]", "", "score an answer"),
    ],
)
def test_lines_of_a_readme_that_read_otherwise_than_training_are_refused(
    bank, tmp_path, here, monkeypatch, stage, old, new, said
):
    saved = make(bank, tmp_path / "mine" / stage, stage, 0.3)
    spoilt_lines(here, monkeypatch, old, new)
    with pytest.raises((ExportError, SystemExit), match=said):
        export(order(saved, tmp_path / "out", bank), ours(bank))
    assert not (tmp_path / "out").exists()


PARTS = tiny.CHATML.replace("m['content']", "(m['content'][0]['text'] if m['content'] is not string else '')")
DATED = "{{ strftime_now('%Y-%m-%d') }}" + tiny.CHATML
THINKS = tiny.CHATML.replace("assistant\n' }}", "assistant\n<think>\n\n</think>\n\n' }}")


@pytest.mark.parametrize(
    ("template", "line"),
    [(PARTS, '"type": "text"'), (DATED, "DAY.sub(lambda call: repr(date(2026, 1, 1)"), (THINKS, "whole[len(before)")],
)
def test_a_reward_readme_builds_rows_as_training_did_whatever_the_template(tmp_path, here, template, line):
    assert template != tiny.CHATML
    folder = tiny.save(tmp_path / "llama", chat=template)
    bank = AdapterBank(load_base(LoadSettings(base=str(folder), bits=16, compute="fp32", device="cpu")))
    for stage in ("reward", "ppo"):
        saved = make(bank, tmp_path / "mine" / stage, stage, 0.3)
        export(order(saved, tmp_path / stage, bank), ours(bank))  # its check runs the lines and compares
        assert line in (tmp_path / stage / "README.md").read_text() or stage == "ppo"
    assert any(json.loads(Path(here.jobs[0]["said"]).read_text()))


def test_programs_of_an_export_that_stay_on_the_processor_see_no_card(monkeypatch):
    seen = {}

    class Child:
        returncode = 0

        def __init__(self, command, **options):
            seen.update(options["env"])

        def poll(self):
            return 0

    monkeypatch.setattr(children.subprocess, "Popen", Child)
    run_child("replay", {"jobs": [], "hide_gpus": True}, "reading", lambda: None)
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    seen.clear()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    run_child("replay", {"jobs": []}, "reading", lambda: None)
    assert "CUDA_VISIBLE_DEVICES" not in seen


def test_a_merged_model_that_a_plain_generate_would_not_stop_is_refused(bank, tmp_path, here, monkeypatch):
    saved = make(bank, tmp_path / "mine" / "p", "ppo", 0.3)
    monkeypatch.setattr(exporting, "ends_of", lambda origin: [3])
    with pytest.raises((ExportError, SystemExit), match=r"a plain generate\(\) would not stop"):
        export(order(saved, tmp_path / "out", bank, "merged"), ours(bank))


def test_a_gguf_file_with_rows_in_the_wrong_order_is_refused(bank, tmp_path, here, monkeypatch):
    """Writing and reading back agree on the mistake; only the numbers tell."""
    saved = make(bank, tmp_path / "mine" / "p", "ppo", 0.3)
    export(order(saved, tmp_path / "right", bank, "gguf"), ours(bank))
    monkeypatch.setattr(gguf_format, "interleaved", lambda rows, heads: rows)
    with pytest.raises(ExportError, match="the gguf export is not kept"):
        export(order(saved, tmp_path / "wrong", bank, "gguf"), ours(bank))
    assert not (tmp_path / "wrong").exists()


def test_a_zip_is_whole_or_absent(bank, tmp_path, here, monkeypatch):
    saved = make(bank, tmp_path / "mine" / "p", "ppo")
    result = export(order(saved, tmp_path / "out" / "p.zip", bank), ours(bank))
    shutil.unpack_archive(result["file"], tmp_path / "unpacked")
    assert {path.name for path in (tmp_path / "unpacked" / "p").iterdir()} == set(result["files"])
    with pytest.raises(StoreError, match=r"exists already.*--force"):
        export(order(saved, tmp_path / "out" / "p.zip", bank), ours(bank))
    monkeypatch.setitem(exporting.TOLERANCES, "float32", exporting.Tolerance(-1, -1))
    with pytest.raises(ExportError):
        export(order(saved, tmp_path / "out" / "q.zip", bank), ours(bank))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p.zip"]


def test_a_child_that_fails_is_told_in_one_line():
    with pytest.raises(ExportError, match=r"^reading failed: KeyError: 'jobs'$"):
        run_child("replay", {}, "reading", lambda: None)
    assert why(1, "Traceback\n  …\nlorarlhf.errors.BaseModelError: no such base\n\n") == "no such base"
    assert why(-9, "").startswith("its process was killed, which most often means that memory ran out")
    assert len(why(1, "x" * 1000)) == 300
    assert why(3, "") == "exit status 3"


def test_an_export_that_is_broken_off_leaves_nothing(bank, tmp_path, here):
    saved = make(bank, tmp_path / "mine" / "p", "ppo")

    def stop(text: str) -> None:
        if "reading" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(order(saved, tmp_path / "out" / "p", bank), ours(bank), stop)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("adapter_model.safetensors", b"torn", "not the file its card describes"),
        ("head.safetensors", b"torn", "not the file its card describes"),
        ("head.safetensors", None, "head.safetensors is missing"),
        ("adapter_config.json", b"{", "adapter_config.json is missing or damaged"),
    ],
)
def test_a_torn_adapter_is_not_exported(torn, bank, tmp_path, here, file, content, said):
    (torn.path / file).unlink()
    if content is not None:
        (torn.path / file).write_bytes(content)
    with pytest.raises(AdapterError, match=said):
        export(order(torn, tmp_path / "out", bank), ours(bank))
    assert not (tmp_path / "out").exists()


def test_bad_places_are_refused_and_only_earlier_exports_are_overwritten(torn, bank, tmp_path, here):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("mine")
    for place, force, said in [
        ("file", True, "is a file"),
        ("file/in/it", False, "cannot be written"),
        ("photos", False, "exists already.*--force"),
        ("photos", True, "not an earlier export"),
        ("mine/r", True, "is the adapter itself"),
    ]:
        with pytest.raises(StoreError, match=said):
            export(order(torn, tmp_path / place, bank, overwrite=force), ours(bank))
    assert (tmp_path / "photos" / "one.jpg").read_text() == "mine"
    for force in (False, True):
        export(order(torn, tmp_path / "new" / "out", bank, overwrite=force), ours(bank))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_a_base_that_is_not_at_hand_is_asked_for(torn, tmp_path):
    near = LoadSettings(base=str(tmp_path / "llama"), bits=8, compute="fp32")
    found = load_of(torn, near)
    assert (found.base, found.bits, found.compute) == (near.base, 16, "fp32")
    with pytest.raises(ExportError, match=r"made on llama, a folder that is not at hand.*--base"):
        load_of(torn, LoadSettings())
    assert load_of(torn, LoadSettings(), "/elsewhere").base == "/elsewhere"
    torn.card["base"] |= {"name": "org/name", "revision": "abc"}
    assert (load_of(torn, near).base, load_of(torn, near).revision) == ("org/name", "abc")


def test_another_base_or_an_architecture_without_classifier_is_refused(torn, bank, tmp_path, here):
    other = tiny.save(tmp_path / "other", seed=1)
    with pytest.raises(AdapterError, match="was made on another llama than the one in"):
        origin_of(torn, other)
    for architecture, kind, said in [
        ("CohereForCausalLM", "cohere", "no sequence classifier for cohere"),
        ("XLNetLMHeadModel", "xlnet", "not a single linear layer called score"),
    ]:
        origin = Origin("x", "", 16, architecture, None, {"model_type": kind}, {}, None)
        with pytest.raises(AdapterError, match=said):
            check_classifier(origin, set(), "r")


def test_a_merge_that_no_memory_holds_is_refused_before_it_begins(bank, tmp_path, here, monkeypatch):
    saved = make(bank, tmp_path / "mine" / "p", "ppo")
    monkeypatch.setattr("lorarlhf.hardware.free_bytes", lambda device: 1000)
    with pytest.raises(ExportError, match=r"needs .* GiB for the base .* GiB are free; close other programs"):
        export(order(saved, tmp_path / "out", bank, "merged"), lambda *_: pytest.fail("measured"))


def test_the_licence_of_the_base_is_told_where_it_is_known(tmp_path, torn):
    base = tmp_path / "llama"
    assert origin_of(torn, base).licence == ""
    (base / "README.md").write_text("---\nlicense: mit\n---\n# A base\n")
    assert origin_of(torn, base).licence == "mit"
    (base / "README.md").write_text("---\n: [\n---\n")
    assert origin_of(torn, base).licence == ""


@pytest.mark.parametrize("bos", [True, False])
def test_a_base_without_chat_template_gets_the_plain_format_as_one(tmp_path, bos, here):
    tiny.save(tmp_path / "base", chat=False, bos=bos)
    bank = AdapterBank(load_base(LoadSettings(base=str(tmp_path / "base"), bits=16, compute="fp32", device="cpu")))
    saved = make(bank, tmp_path / "a", "ppo")
    export(Order(saved, tmp_path / "out", "peft", bank.base.settings, SPARE[:1]), ours(bank))
    exported = AutoTokenizer.from_pretrained(tmp_path / "out")
    turns = [{"role": "system", "content": "Be kind."}, *PROMPT]
    text = exported.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert exported(text, add_special_tokens=False)["input_ids"] == encode_prompt(bank.base.tokenizer, tuple(turns))
    whole = exported.apply_chat_template([*PROMPT, {"role": "assistant", "content": " Yes. "}], tokenize=False)
    assert whole.endswith("User: May I?\nAssistant: Yes.</s>\n")
