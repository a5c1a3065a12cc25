"""The loop in a real browser: three stages trained, engine and app killed on the way, an export used."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from lorarlhf import starter
from lorarlhf.data.importing import import_file
from lorarlhf.starter import judge
from lorarlhf.workspace import Workspace
from tests.browser import PATIENCE, App, cramped, draw_little, open_tab, ready

LONG = PATIENCE * 1000

PLAIN_PEFT = """
import sys, json, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
base, adapter = sys.argv[1:]
config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                            bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=["lm_head"])
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, quantization_config=config, device_map="cpu")
tokenizer = AutoTokenizer.from_pretrained(adapter)
text = tokenizer.apply_chat_template([{"role": "user", "content": "where is my parcel"}], tokenize=False,
                                     add_generation_prompt=True)
ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
with torch.no_grad():
    before = model(ids).logits[0, -1]
    model = PeftModel.from_pretrained(model, adapter).eval()
    after = model(ids).logits[0, -1]
    drawn = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False)
assert not any(name in sys.modules for name in ("lorarlhf", "gradio"))
print(json.dumps({"moved": float((after - before).abs().max()), "text": tokenizer.decode(drawn[0, ids.shape[1]:])}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Fill a workspace with prompts, demonstrations and votes between answers of different manners."""
    place = Workspace(tmp_path_factory.mktemp("loop") / "work").open()
    draw_little(place)
    rng = random.Random(0)
    with place.store() as store:
        import_file(store, starter.shipped_file("demonstrations"), "demonstrations")
        import_file(store, starter.shipped_file("prompts"), "prompts")
        told = starter.transcripts()
        pairs = [(a, rng.choice(told)) for a in rng.sample(told, 80)]
        store.add_comparisons(judge.compare(a.prompt, a.response, b.response) for a, b in pairs)
    return place.path


def fill(page: Page, stage: str, **values: object) -> None:
    """Open a stage's form and fill some of its fields by their labels."""
    page.wait_for_selector("#next-text .lead")  # until then it is not chosen which stage is shown
    stages = page.locator("#stages")
    stages.get_by_role("tab", name=stage, exact=True).click()
    panel = stages.get_by_role("tabpanel").filter(has=page.locator(".effort").locator("visible=true"))
    panel.get_by_role("button", name="Settings").click()
    for name, value in values.items():
        label = name.replace("_", " ")
        # The name of a text field ends with its help.
        field = panel.get_by_label(label, exact=True).or_(panel.get_by_role("textbox", name=label)).first
        field.fill(str(value))
        field.blur()


def train(page: Page, stage: str, button: str, **values: object) -> None:
    fill(page, stage, **values)
    page.locator(f"#{button}").click()


def until_done(page: Page, run: str) -> None:
    expect(page.locator("#run-head")).to_contain_text(re.compile(rf"{run}\s*done"), timeout=LONG)


def until_step(page: Page, run: str, step: int) -> None:
    page.wait_for_function(
        """([run, step]) => {
            const text = document.querySelector('#run-head').textContent, found = text.match(/step (\\d+) of/);
            return text.includes(run) && found && Number(found[1]) >= step;
        }""",
        arg=[run, step],
        timeout=LONG,
    )


def look_at_the_card(page: Page) -> None:
    """The same prompts before and after, at any step that was measured, as a picture too; and where to go on."""
    card = page.locator("#run-after")
    expect(card.locator(".figures")).to_contain_text("on test prompts; answers")
    shown = card.locator(".pair").locator("visible=true")
    expect(shown).to_have_count(3)
    steps = card.locator("input[type=range]").get_attribute("data-steps")
    assert steps == "0,10,12"
    assert not cramped(page)
    card.locator("input[type=range]").fill("0")
    expect(card.locator("output")).to_contain_text("step 0")
    before, after = (shown.first.locator(f"{side} p").inner_text() for side in (".before", ".after"))
    assert before == after  # nothing was trained yet
    card.locator("input[type=range]").fill("2")
    expect(shown.first).to_have_attribute("data-step", "12")
    with page.expect_download() as saved:
        card.get_by_role("button", name="Save as picture").click()
    assert saved.value.suggested_filename == "ppo-1-before-after.png"
    assert saved.value.path().read_bytes()[1:4] == b"PNG"
    for words, section in (("Blind test: is it better?", "Blind comparison"), ("Chat with it", "Chat")):
        card.get_by_role("button", name=words).click()
        tab = page.get_by_role("tab", name=section, exact=True).locator("visible=true")
        expect(tab).to_have_attribute("aria-selected", "true")
        open_tab(page, "Train")


def test_the_whole_loop_with_engine_and_app_killed_on_the_way(folder: Path, tmp_path: Path) -> None:
    app = App(folder, cold=True)
    with app:
        maps = Path(f"/proc/{app.process.pid}/maps").read_text()
        assert "libtorch" not in maps
        with app.page() as page:
            ready(page)
            open_tab(page, "Train")
            train(page, "SFT", "start-sft", Epochs=0.1)
            until_done(page, "sft-1")
            train(page, "Reward model", "start-reward", Epochs=1)
            until_done(page, "reward-1")
            train(
                page, "PPO", "start-ppo", Steps=12, Batch_size=8, Mini_batches=1, Max_new_tokens=32, Checkpoint_every=1
            )
            page.locator("#skip-look").click()  # what the reward model is worth is not what is tested here
            until_step(page, "ppo-1", 2)
            engine = app.engine()
            os.kill(engine.pid, signal.SIGKILL)
            notice = page.locator("#notice")
            expect(notice).to_contain_text("was killed", timeout=LONG)
            expect(notice).to_contain_text("started again")
            ready(page)
            page.get_by_role("button", name="Resume the run").click()
            until_step(page, "ppo-1", 5)
        # The app dies without a word in mid-run; its engine saves the run and ends, and the next app goes on with it.
        second = app.engine()
        app.end(signal.SIGKILL)
    app = App(folder)
    with app, app.page() as page:
        ready(page)
        open_tab(page, "Train")
        until_done(page, "ppo-1")
        assert not second.is_running()
        look_at_the_card(page)
        page.locator("#run-after").get_by_role("button", name="Export").click()
        expect(page.locator("#card")).to_contain_text("ppo-1")
        page.locator("#export").click()
        link = page.locator("#export-link a.download")
        link.wait_for(timeout=LONG)
        sent = page.request.get(f"{app.url}/{link.get_attribute('href')}")
        (tmp_path / "ppo-1.zip").write_bytes(sent.body())
        outside = page.request.get(f"{app.url}/gradio_api/file={folder / 'workspace.db'}")
        assert outside.status in (403, 404)
    with Workspace(folder).store() as store:
        runs = {run.id: run for run in store.runs()}
        assert {run.status for run in runs.values()} == {"done"}
        assert runs["ppo-1"].step == 12
        assert [step for step, name, _ in store.metrics("ppo-1") if name == "objective/kl"] == list(range(1, 13))
    with zipfile.ZipFile(tmp_path / "ppo-1.zip") as archive:
        archive.extractall(tmp_path / "out")
    (config,) = (tmp_path / "out").rglob("adapter_config.json")
    command = [sys.executable, "-c", PLAIN_PEFT, str(starter.MODEL_DIR), str(config.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["moved"] > 0.05
    assert len(found["text"].split()) > 3
