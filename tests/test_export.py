"""Exports say the same elsewhere: by the lines of their README, replayed in a fresh process, and tensor by tensor."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, TaskType, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lorarlhf.adapters import AdapterBank
from lorarlhf.base import load_base
from lorarlhf.data.chat import encode_prompt, encode_response
from lorarlhf.data.tokens import Row, collate
from lorarlhf.export import children, exporting
from lorarlhf.export.children import run_child
from lorarlhf.export.exporting import Order, export
from lorarlhf.export.origin import origin_of
from lorarlhf.export.probe import SPARE, measure
from lorarlhf.forward import response_logprobs, sequence_scores
from lorarlhf.library import SavedAdapter, read_saved
from lorarlhf.settings import LoadSettings, LoraSettings
from lorarlhf.types import user
from tests import tiny

ARCHS = ("starter", "llama", "qwen3", "gemma3", "gpt2")
BY_README = ("llama", "qwen3", "gpt2")
ANSWERS = ["Yes.", "No, not today; come back tomorrow."]
PROMPT = user("May I?")
CARD = {"settings": {"rank": 4, "max_new_tokens": 3}, "data": {"comparisons": [1, 2, 3]}, "metrics": {"eval/x": 0.25}}
CARD |= {"run": "ppo-1", "parents": {"reward": {"name": "reward-1", "hash": "ab" * 32}}}

READER = """
import json, os, re, sys
import torch
torch.set_num_threads(1)
found = {}
for job in json.load(open(sys.argv[1])):
    os.chdir(job["folder"])
    text = open(os.path.join(job["name"], "README.md"), encoding="utf-8").read()
    lines = {}
    exec(re.search(r"```python\\n(.*?)```", text, re.S).group(1), lines)
    if "score" in lines:
        found[job["name"]] = [lines["score"](messages) for messages in job["conversations"]]
        continue
    found[job["name"]] = []
    for prompt, response in job["rows"]:
        with torch.no_grad():
            logits = lines["model"](input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        taken = torch.log_softmax(logits.float(), -1).gather(-1, torch.tensor(response)[:, None])
        found[job["name"]].append(taken[:, 0].tolist())
json.dump(found, open(sys.argv[2], "w"))
"""


def rows_of(tokenizer, end: int) -> list[Row]:
    return [Row(encode_prompt(tokenizer, PROMPT), encode_response(tokenizer, text, end)) for text in ANSWERS]


def make(bank: AdapterBank, folder: Path, stage: str, strength: float = 0.1) -> SavedAdapter:
    """Save a rank-4 adapter that changes something, with a shifted head if it is a reward model."""
    bank.create(stage, LoraSettings(rank=4, alpha=8), head=stage == "reward", seed=1)
    noise = torch.Generator().manual_seed(1)
    bank.load_state(stage, {k: strength * torch.randn(v.shape, generator=noise) for k, v in bank.state(stage).items()})
    bank.save(stage, folder, {**CARD, "stage": stage})
    return read_saved(folder)


class Here:
    """Runs the programs of an export in this process, which is quick, and keeps the jobs for a fresh one."""

    def __init__(self, place: Path) -> None:
        self.place, self.jobs = place, []

    def __call__(self, program, job, what, breathe) -> None:
        breathe()
        paper = self.place / "job.json"
        paper.write_text(json.dumps(job))
        script, before = str(Path(children.__file__).with_name(f"{program}.py")), sys.argv
        sys.argv = [script, str(paper)]
        try:
            runpy.run_path(script, run_name="__main__")
        finally:
            sys.argv = before
        for each in job.get("jobs", []):
            kept = self.place / str(len(self.jobs))
            kept.mkdir()
            shutil.copy(each["rows"], kept / "rows.json")
            shutil.copy(each["said"], kept / "said.json")
            shutil.copy(Path(each["rows"]).with_name("numbers.safetensors"), kept / "ours.safetensors")
            shutil.copy(each["out"], kept / "here.safetensors")
            files = {"rows": kept / "rows.json", "said": kept / "said.json", "out": kept / "fresh.safetensors"}
            self.jobs.append({**each, **{name: str(path) for name, path in files.items()}})


def ours(bank: AdapterBank):
    """Measure with the adapter that is in memory under its stage's name, as the engine does."""

    def measured(saved, conversations, place):
        return measure(bank.base, bank, saved.stage, conversations, place)

    return measured


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Export a policy and a reward model on each base in each form → name → (folder, our numbers, result), and jobs."""
    here, made = tmp_path_factory.mktemp("there"), {}
    programs = Here(tmp_path_factory.mktemp("jobs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "run_child", programs)
        for arch in ARCHS:
            where = "starter" if arch == "starter" else str(tiny.save(here / arch, arch))
            bank = AdapterBank(load_base(LoadSettings(base=where, compute="fp32", device="cpu")))
            batches = [collate([row], bank.base.pad_id) for row in rows_of(bank.base.tokenizer, bank.base.eos_id)]
            for stage, form in [("ppo", "peft"), ("ppo", "gguf"), ("ppo", "merged"), ("reward", "peft")]:
                if stage not in bank.names:
                    saved = make(bank, here / "workspace" / f"{arch}-{stage}", stage)
                dest, since = here / f"{arch}-{stage}-{form}", len(programs.jobs)
                result = export(Order(saved, dest, form, bank.base.settings, SPARE), ours(bank))
                for job in programs.jobs[since:]:
                    job["base"] = str(dest) if job["mode"] == "merged" else job["base"]
                    job["lines"] = job["lines"].replace(json.dumps(job["folder"]), json.dumps(str(dest)))
                    job["folder"] = str(dest)
                with bank.activate(stage), torch.no_grad():
                    if stage == "ppo":
                        numbers = [response_logprobs(bank.base, batch).logprobs_T.tolist() for batch in batches]
                    else:
                        numbers = [sequence_scores(bank.base, bank.heads[stage], batch).item() for batch in batches]
                made[dest.name] = (dest, numbers, result)
    return made, programs.jobs


@pytest.fixture(scope="module")
def reread(exported, tmp_path_factory):
    """Run the lines of READMEs in one fresh process that knows nothing of lorarlhf → name → its numbers."""
    place, jobs = tmp_path_factory.mktemp("reader"), []
    names = [f"{arch}-{what}" for arch in BY_README for what in ("ppo-peft", "reward-peft", "ppo-merged")]
    for name in names:
        folder = exported[0][name][0]
        tokenizer = AutoTokenizer.from_pretrained(folder)
        end = int(re.search(r"(?:END|eos_token_id) ?= ?(\d+)", (folder / "README.md").read_text())[1])
        turns = [[*PROMPT, {"role": "assistant", "content": text}] for text in ANSWERS]
        rows = [(row.prompt, row.response) for row in rows_of(tokenizer, end)]
        jobs.append({"name": name, "folder": str(folder.parent), "rows": rows, "conversations": turns})
    (place / "jobs.json").write_text(json.dumps(jobs))
    (place / "reader.py").write_text(READER)
    command = [sys.executable, "-I", str(place / "reader.py"), str(place / "jobs.json"), str(place / "found.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((place / "found.json").read_text())


@pytest.mark.parametrize("what", ["ppo-peft", "reward-peft", "ppo-merged"])
@pytest.mark.parametrize("arch", BY_README)
def test_the_lines_of_the_readme_give_our_numbers(exported, reread, arch, what):
    folder, mine, _ = exported[0][f"{arch}-{what}"]
    # The merged model has 16 bits where we have 4, so it only says nearly the same.
    allowed = 1.0 if "merged" in what else 1e-3
    for here, found in zip(mine, reread[folder.name], strict=True):
        torch.testing.assert_close(torch.tensor(found), torch.tensor(here), rtol=0, atol=allowed)
    assert mine[0] != mine[1]


def test_a_fresh_process_reads_every_export_with_equal_numbers(exported):
    # The adapter beside a merged model was not kept, so it cannot be read again.
    jobs = [job for job in exported[1] if not (job["mode"] == "peft" and job["folder"].endswith("merged"))]
    assert len(jobs) == 4 * len(ARCHS)
    run_child("replay", {"jobs": jobs}, "reading again", lambda: None)
    for job in jobs:
        fresh = load_file(job["out"])
        # A merged model answers to what it said when it was checked, adapters to the base and adapter here.
        kept = "here" if job["mode"] == "merged" else "ours"
        wanted = load_file(Path(job["rows"]).with_name(f"{kept}.safetensors"))
        assert fresh.keys() == wanted.keys()
        for number, (_, answer) in enumerate(json.loads(Path(job["rows"]).read_text())):
            found, mine = fresh[str(number)], wanted[str(number)]
            if job["reward"]:
                offset = json.loads((Path(job["folder"]) / "card.json").read_text())["export"]["score_offset"]
                assert abs(float(found) + offset - float(mine)) < 1e-3
            else:
                taken = torch.tensor(answer)[:, None]
                torch.testing.assert_close(found.gather(-1, taken), mine.gather(-1, taken), rtol=0, atol=1e-3)


def test_a_merged_model_stops_by_itself_where_answers_end_here(exported):
    folder = exported[0]["llama-ppo-merged"][0]
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    # The mark of the chat template first, then what the base's own files name.
    assert ends == [260, 257]


@pytest.mark.parametrize("arch", ARCHS)
def test_a_merged_model_has_the_adapter_in_its_weights(exported, arch):
    folder = exported[0][f"{arch}-ppo-merged"][0]
    saved = read_saved(folder.parent / "workspace" / f"{arch}-ppo")
    origin = origin_of(saved, None if arch == "starter" else folder.parent / arch)
    base, merged = load_file(origin.folder / "model.safetensors"), load_file(folder / "model.safetensors")
    lora, changed = load_file(saved.path / "adapter_model.safetensors"), 0
    for name, weight in base.items():
        key = "base_model.model." + name.removesuffix(".weight")
        wanted = weight.to(torch.bfloat16)
        if f"{key}.lora_A.weight" in lora:
            delta = 8 / 4 * lora[f"{key}.lora_B.weight"] @ lora[f"{key}.lora_A.weight"]
            wanted = (wanted.float() + (delta.T if arch == "gpt2" else delta)).to(torch.bfloat16)
            changed += 1
        assert torch.equal(merged[name], wanted), name
    assert changed == len(lora) // 2
    report = json.loads((folder / "report.json").read_text())
    pairs = [(c["first"], c["second"]) for c in report["checks"]]
    four, sixteen = "4-bit base + adapter", "16-bit base + adapter"
    assert pairs == [(sixteen, "merged"), (four, sixteen), (four, "merged")]
    assert all(c["kl"] >= 0 and 0.5 < c["top1"] <= 1 for c in report["checks"])
    assert report["checks"][0]["kl"] < report["checks"][2]["kl"]


@pytest.mark.parametrize("arch", BY_README)
def test_a_reward_export_has_the_keys_that_peft_itself_saves(exported, arch):
    folder, _, result = exported[0][f"{arch}-reward-peft"]
    config = tiny.config(arch)
    config.num_labels = 1
    plain = AutoModelForSequenceClassification.from_config(config)
    wanted = LoraConfig(task_type=TaskType.SEQ_CLS, r=4, target_modules="all-linear")
    expected = get_peft_model_state_dict(get_peft_model(plain, wanted))
    found = load_file(folder / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    assert config["modules_to_save"] == ["score"]
    assert result["score_offset"] == json.loads((folder / "card.json").read_text())["export"]["score_offset"] != 0


def test_a_policy_export_is_the_adapter_as_it_is_with_tokenizer_card_and_no_paths(exported):
    folder, _, result = exported[0]["llama-ppo-peft"]
    here = folder.parent
    names = {"README.md", "adapter_config.json", "adapter_model.safetensors", "card.json"}
    names |= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {path.name for path in folder.iterdir()} == names == set(result["files"])
    original = here / "workspace" / "llama-ppo" / "adapter_model.safetensors"
    assert (folder / "adapter_model.safetensors").read_bytes() == original.read_bytes()
    text = (folder / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["base_model"] == "llama"
    assert head["library_name"] == "peft"
    assert {"lora", "ppo"} <= set(head["tags"])
    said = ["| data: comparisons | 3 rows |", "| eval/x | 0.25 |", "| rank | 4 |", "reward-1 (abababababab)", "NF4"]
    said += ["Intended use: answering", "## Checked", "the adapter against the export: log-probabilities of 216 tokens"]
    for each in said:
        assert each in text


def test_no_export_names_a_path_of_this_machine(exported):
    for folder, _, _ in exported[0].values():
        for path in folder.iterdir():
            assert str(folder.parent).encode() not in path.read_bytes(), path
