"""A new project without a browser: which models there are, what one would take here, and what speaks against it."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from lorarlhf.data.everyday import everyday
from lorarlhf.plan.shapes import SHAPES, known
from lorarlhf.settings import LoadSettings
from lorarlhf.types import prompt_key
from lorarlhf.ui.models import candidates
from lorarlhf.ui.models.candidates import (
    RECOMMENDED,
    Check,
    Found,
    Machine,
    check,
    choose_bits,
    fits,
    pair_seconds,
    parameters,
    recommended,
)
from lorarlhf.ui.models.candidates_html import check_html, found_html
from lorarlhf.ui.rate.preferences import load_preferences
from lorarlhf.ui.tabs.models import switch
from lorarlhf.workspace import Workspace
from tests import tiny

EVIL = "<img src=x onerror=alert(1)>'\""
LAPTOP = Machine("cpu", 4, 16 * 2**30, cores=2)
CARD = Machine("cuda", 2, 24 * 2**30)


def test_the_numbers_of_parameters_are_those_on_the_models_cards():
    # From the models' cards, in millions; norms and biases are left out here.
    for name, millions in (
        ("SmolLM2-135M", 134.5),
        ("SmolLM2-360M", 361.8),
        ("Qwen2.5-0.5B", 494),
        ("Qwen3-0.6B", 596),
    ):
        assert parameters(known(name)) / 1e6 == pytest.approx(millions, rel=0.005)
    assert parameters(known("Llama-3.1-8B")) / 1e9 == pytest.approx(8.03, rel=0.005)


def test_a_precision_is_chosen_by_fit_speed_and_size():
    small, large = known(RECOMMENDED[0]), known("Qwen3-4B")
    assert choose_bits("starter", small, LAPTOP)[0] == 4
    bits, why = choose_bits("x/y", small, LAPTOP)
    assert (bits, "faster on a processor" in why) == (16, True)
    bits, why = choose_bits("x/y", small, CARD)
    assert (bits, "loses quality in 4" in why) == (16, True)
    assert choose_bits("x/y", large, CARD)[0] == 4
    assert choose_bits("x/y", small, Machine("cpu", 4, 600 * 2**20))[0] == 4  # no room for 16
    assert choose_bits("x/y", None, LAPTOP)[0] == 4


def test_every_model_that_may_be_recommended_has_a_known_shape():
    assert all(map(known, RECOMMENDED))


def test_what_is_recommended_trains_here_and_tries_nobodys_patience():
    for machine in (LAPTOP, CARD, Machine("cuda", 2, 8 * 2**30), Machine("cpu", 4, 4 * 2**30, cores=16)):
        offered = recommended(machine)
        assert 1 <= len(offered) <= 3
        sizes = [parameters(shape) for _, shape in offered]
        assert sizes == sorted(sizes, reverse=True)
        for base, shape in offered:
            bits = choose_bits(base, shape, machine)[0]
            assert fits(shape, bits, machine)
            assert pair_seconds(shape, bits, machine) <= 60
    assert recommended(CARD)[0][0] == "Qwen/Qwen3-14B"
    assert recommended(Machine("cpu", 4, 2**28)) == []
    # A 135M model on two cores: 20 tokens a second, two answers of 96 tokens side by side.
    assert pair_seconds(known(RECOMMENDED[0]), 16, LAPTOP) == pytest.approx(96 * 0.1, rel=0.1)


def test_a_name_is_looked_at_before_anything_is_loaded(tmp_path, monkeypatch):
    folder = tiny.save(tmp_path / "own", arch="llama")
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Own")
    found = check(str(folder))
    assert (found.problem, found.licence, found.shape.layers) == ("", "apache-2.0", 2)
    assert "there is no folder" in check(str(tmp_path / "gone")).problem.lower()
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in check(str(tmp_path / "empty")).problem
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    assert "holds a BertForMaskedLM, not a causal language model" in check(str(folder)).problem
    (folder / "config.json").write_text("{")
    assert "can't be read" in check(str(folder)).problem
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"no weights")
    assert "is damaged or incomplete" in check(str(folder)).problem
    (tmp_path / "empty" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    assert "is a LoRA adapter, not a base; choose its base instead: org/base" in check(str(tmp_path / "empty")).problem
    assert check(" ").problem.startswith("Name a model")
    assert (check("starter").problem, check("starter").licence) == ("", "Apache-2.0")

    # Of the Hub only the look-up is played; what comes of each answer is ours.
    def hub(outcome):
        class Api:
            def model_info(self, base, timeout):
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome

        monkeypatch.setattr("huggingface_hub.HfApi", Api)
        return check("Qwen/Qwen3-0.6B", here={}, ask_hub=True)

    response = SimpleNamespace(headers={}, status_code=404, request=None, url="")
    there = hub(SimpleNamespace(card_data={"license": "apache-2.0"}, gated=False))
    assert (there.licence, there.shape.name, there.problem) == ("apache-2.0", "Qwen3-0.6B", "")
    assert "no Qwen/Qwen3-0.6B on the Hub" in hub(RepositoryNotFoundError("no", response=response)).problem
    assert "is gated" in hub(GatedRepoError("no", response=response)).problem
    assert "out of reach" in hub(TimeoutError("slow")).note
    assert hub(TimeoutError("slow")).problem == ""


def test_what_is_known_is_said_with_fit_time_and_licence():
    small = known(RECOMMENDED[0])
    found = Check("x/y", shape=small, licence="apache-2.0", note="on this computer")
    told = check_html(found, "auto", LAPTOP)
    assert "134M parameters · ✓ fits: training takes" in told
    assert "of 16.0 GB · about 10 s a pair · licence apache-2.0" in told
    assert "16 bits: fits, and is faster on a processor" in told
    assert "So small a model answers worse in 4 bits" in check_html(found, 4, LAPTOP)
    assert "answers worse" not in check_html(found, 16, LAPTOP)
    assert "✗ does not fit" in check_html(found, "auto", Machine("cpu", 4, 2**28))
    assert "Nothing was changed" in check_html(Check("x", "There is no x"), "auto", LAPTOP)
    for page in (
        check_html(Check(EVIL, EVIL), "auto", LAPTOP),
        check_html(Check(EVIL, licence=EVIL, note=EVIL), "auto", LAPTOP),
        found_html([Found(EVIL, EVIL, licence=EVIL), Found("a", "Recent", SHAPES[0])], LAPTOP, EVIL),
    ):
        assert "<img" not in page


def test_models_are_listed_by_where_they_are_each_once(tmp_path, monkeypatch):
    folder = tiny.save(tmp_path / "own", arch="llama")
    monkeypatch.setattr(candidates, "cached", lambda: {"org/model": folder})
    with Workspace(tmp_path / "work").open().store() as store:
        store.set_meta("fingerprints of bases", {"starter": "f", "org/model": "g"})
        desk = SimpleNamespace(
            workspace=Workspace(tmp_path / "work"), store=store, load_settings=LoadSettings(), memory={}
        )
        rows = candidates.found(desk, LAPTOP)
    assert [(row.base, row.section) for row in rows[:2]] == [("starter", "Recent"), ("org/model", "Recent")]
    assert {row.section for row in rows[2:]} == {"Good for this machine"}
    page = found_html(rows, LAPTOP, "starter")
    assert page.count("data-name='org/model'") == 1
    assert "<span class='tag'>loaded</span>" in page


def test_loading_takes_the_chosen_precision_and_questions(tmp_path, monkeypatch):
    folder = tiny.save(tmp_path / "own", arch="llama")
    begun, warned = [], []
    monkeypatch.setattr("lorarlhf.ui.tabs.models.gr.Warning", warned.append)
    with Workspace(tmp_path / "work").open().store() as store:
        desk = SimpleNamespace(
            store=store,
            memory={},
            engine=SimpleNamespace(pid=None),
            use_preset=lambda *_: pytest.fail("the base keeps its own"),
            switch_base=begun.append,
        )
        switch(desk, {"base": str(folder), "bits": "auto"}, "auto", "everyday")
        assert (begun[0].base, begun[0].bits) == (str(folder), 16)
        assert load_preferences(store).source == "everyday"
        switch(desk, {"base": "starter", "bits": "auto"}, "auto", "")
        assert (begun[1].bits, load_preferences(store).source) == (4, "")
        switch(desk, {"base": str(tmp_path / "gone"), "bits": "auto"}, "auto", "typed")
        assert (len(begun), load_preferences(store).source) == (2, "")  # nothing was changed
        assert "nothing was changed" in warned[0]


def test_the_everyday_questions_are_two_hundred_and_all_different():
    assert len(everyday()) == len({prompt_key(prompt) for prompt in everyday()}) == 200
    assert all(prompt[0]["content"][-1] in '.?"' for prompt in everyday())


def test_looking_at_models_needs_neither_torch_nor_transformers():
    code = "import sys, lorarlhf.ui.models.candidates_html as c; from lorarlhf.ui.models.candidates import *; "
    code += "cached(); check('starter'); recommended(Machine('cpu', 4, 2**34)); "
    code += "print({'torch', 'transformers', 'gradio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
