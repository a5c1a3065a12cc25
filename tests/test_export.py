"""Exports load with plain peft and transformers, by the very lines their README gives, and say the same numbers."""

from __future__ import annotations

import json
import re
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
from lorarlhf.errors import AdapterError, StoreError
from lorarlhf.export.origin import origin_of
from lorarlhf.export.peft_format import export_peft
from lorarlhf.forward import response_logprobs, sequence_scores
from lorarlhf.library import SavedAdapter, read_saved
from lorarlhf.settings import LoadSettings, LoraSettings
from lorarlhf.types import user
from tests import tiny

ARCHS = ("llama", "qwen3", "gpt2")
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


def make(bank: AdapterBank, folder: Path, stage: str) -> SavedAdapter:
    """Save a rank-4 adapter that changes something, with a shifted head if it is a reward model."""
    bank.create(stage, LoraSettings(rank=4, alpha=8), head=stage == "reward", seed=1)
    noise = torch.Generator().manual_seed(1)
    bank.load_state(stage, {k: 0.3 * torch.randn(v.shape, generator=noise) for k, v in bank.state(stage).items()})
    bank.save(stage, folder, {**CARD, "stage": stage})
    return read_saved(folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Export a policy and a reward model on each base → name → (export folder, our numbers, result)."""
    here, made = tmp_path_factory.mktemp("there"), {}
    for arch in ARCHS:
        bank = AdapterBank(
            load_base(LoadSettings(base=str(tiny.save(here / arch, arch)), compute="fp32", device="cpu"))
        )
        batches = [collate([row], bank.base.pad_id) for row in rows_of(bank.base.tokenizer, bank.base.eos_id)]
        for stage in ("ppo", "reward"):
            saved = make(bank, here / "workspace" / f"{arch}-{stage}", stage)
            result = export_peft(saved, here / f"{arch}-{stage}", base_folder=here / arch)
            with bank.activate(stage), torch.no_grad():
                if stage == "ppo":
                    numbers = [response_logprobs(bank.base, batch).logprobs_T.tolist() for batch in batches]
                else:
                    numbers = [sequence_scores(bank.base, bank.heads[stage], batch).item() for batch in batches]
            made[f"{arch}-{stage}"] = (here / f"{arch}-{stage}", numbers, result)
    return made


@pytest.fixture(scope="module")
def reread(exported, tmp_path_factory):
    """Run the lines of every README in one fresh process that knows nothing of lorarlhf → name → its numbers."""
    place = tmp_path_factory.mktemp("reader")
    jobs = []
    for name, (folder, _, _) in exported.items():
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


@pytest.mark.parametrize("stage", ["ppo", "reward"])
@pytest.mark.parametrize("arch", ARCHS)
def test_the_lines_of_the_readme_give_our_numbers(exported, reread, arch, stage):
    folder, ours, _ = exported[f"{arch}-{stage}"]
    theirs = reread[folder.name]
    for mine, found in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.tensor(found), torch.tensor(mine), rtol=0, atol=1e-3)
    assert ours[0] != ours[1]


@pytest.mark.parametrize("arch", ARCHS)
def test_a_reward_export_has_the_keys_that_peft_itself_saves(exported, arch):
    folder, _, result = exported[f"{arch}-reward"]
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
    folder, _, result = exported["llama-ppo"]
    here = folder.parent
    names = {"README.md", "adapter_config.json", "adapter_model.safetensors", "card.json"}
    names |= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {path.name for path in folder.iterdir()} == names == set(result["files"])
    original = here / "workspace" / "llama-ppo" / "adapter_model.safetensors"
    assert (folder / "adapter_model.safetensors").read_bytes() == original.read_bytes()
    for path in folder.iterdir():
        assert str(here).encode() not in path.read_bytes(), path.name
    text = (folder / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["base_model"] == "llama"
    assert head["library_name"] == "peft"
    assert {"lora", "ppo"} <= set(head["tags"])
    for said in (
        "| data: comparisons | 3 rows |",
        "| eval/x | 0.25 |",
        "| rank | 4 |",
        "reward-1 (abababababab)",
        "NF4",
    ):
        assert said in text


@pytest.mark.parametrize("bos", [True, False])
def test_a_base_without_chat_template_gets_the_plain_format_as_one(tmp_path, bos):
    tiny.save(tmp_path / "base", chat=False, bos=bos)
    bank = AdapterBank(load_base(LoadSettings(base=str(tmp_path / "base"), bits=16, compute="fp32", device="cpu")))
    export_peft(make(bank, tmp_path / "a", "ppo"), tmp_path / "out", base_folder=tmp_path / "base")
    exported = AutoTokenizer.from_pretrained(tmp_path / "out")
    turns = [{"role": "system", "content": "Be kind."}, *PROMPT]
    text = exported.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert exported(text, add_special_tokens=False)["input_ids"] == encode_prompt(bank.base.tokenizer, tuple(turns))
    whole = exported.apply_chat_template([*PROMPT, {"role": "assistant", "content": " Yes. "}], tokenize=False)
    assert whole.endswith("User: May I?\nAssistant: Yes.</s>\n")


@pytest.fixture
def torn(tmp_path):
    """Copy an adapter that can be spoilt."""
    bank = AdapterBank(load_base(LoadSettings(base=str(tiny.save(tmp_path / "llama")), bits=16, device="cpu")))
    return make(bank, tmp_path / "mine" / "r", "reward")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("adapter_model.safetensors", b"torn", "not the file its card describes"),
        ("head.safetensors", b"torn", "not the file its card describes"),
        ("head.safetensors", None, "head.safetensors is missing"),
        ("adapter_config.json", b"{", "adapter_config.json is missing or damaged"),
    ],
)
def test_a_torn_adapter_is_not_exported(torn, tmp_path, file, content, said):
    (torn.path / file).unlink()
    if content is not None:
        (torn.path / file).write_bytes(content)
    with pytest.raises(AdapterError, match=said):
        export_peft(torn, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_places_are_refused_and_only_earlier_exports_are_overwritten(torn, tmp_path):
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
            export_peft(torn, tmp_path / place, overwrite=force)
    assert (tmp_path / "photos" / "one.jpg").read_text() == "mine"
    for force in (False, True):
        export_peft(torn, tmp_path / "new" / "out", overwrite=force)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_another_base_or_an_architecture_without_classifier_is_refused(torn, tmp_path):
    other = tiny.save(tmp_path / "other", seed=1)
    with pytest.raises(AdapterError, match="was made on another llama than the one in"):
        origin_of(torn, other)
    for architecture, said in [
        ("CohereForCausalLM", "no sequence classifier for cohere"),
        ("XLNetLMHeadModel", "not a single linear layer called score"),
    ]:
        torn.card["base"]["architecture"] = architecture
        with pytest.raises(AdapterError, match=said):
            export_peft(torn, tmp_path / "out")
