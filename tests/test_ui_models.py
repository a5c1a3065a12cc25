"""Models, without a browser: names change whole or not at all, nothing in use goes, cards are told right."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from lorarlhf.errors import AdapterError
from lorarlhf.files import size
from lorarlhf.library import CARD, delete_saved, list_saved, read_saved, rename_saved
from lorarlhf.settings import LoadSettings
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.models import shelf
from lorarlhf.ui.models.memory import Part, draw, parts_of
from lorarlhf.ui.models.shelf_html import card_html, exported_html, table_html, taken_in_html
from lorarlhf.ui.tabs.models import from_preset, known_bases
from lorarlhf.workspace import Workspace

HERE, ELSEWHERE = "f" * 16, "e" * 16


def put(place: Workspace, name: str, stage: str = "sft", base: str = HERE, **more) -> None:
    """Write an adapter's folder as far as its card goes."""
    folder = place.adapters_dir / name
    folder.mkdir()
    card = {"name": name, "stage": stage, "created": f"2026-01-0{len(list_saved(place.adapters_dir)) + 1}T10:00:00"}
    card |= {"base": {"name": "starter", "bits": 4, "fingerprint": base}, "hashes": {"adapter": f"hash of {name}"}}
    (folder / CARD).write_text(json.dumps({**card, **more}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights of " + name.encode())


@pytest.fixture
def place(tmp_path) -> Workspace:
    place = Workspace(tmp_path / "work").open()
    put(place, "sft-1", data={"demonstrations": [1, 2, 3], "rankings": []}, metrics={"eval/loss": 0.25})
    parents = {"sft": {"name": "sft-1", "hash": "hash of sft-1"}, "parent": {"name": "base", "hash": ""}}
    put(place, "ppo-1", "ppo", parents=parents, metrics={"eval/scores": 2.149, "eval/kl": 7.94})
    put(place, "sft-2", base=ELSEWHERE)
    return place


@pytest.fixture
def desk(place):
    """A desk without an engine."""
    used: set[str] = set()
    with place.store() as store:
        yield SimpleNamespace(workspace=place, fingerprint=HERE, memory={}, store=store, in_use=lambda: used, used=used)


def test_a_renamed_adapter_is_the_same_adapter(place):
    rename_saved(place.adapters_dir, "sft-1", "polite")
    saved = read_saved(place.adapters_dir / "polite")
    assert saved.card["name"] == "polite"
    assert saved.hash == "hash of sft-1"
    assert sorted(p.name for p in saved.path.iterdir()) == ["adapter_model.safetensors", CARD]
    assert [a.name for a in list_saved(place.adapters_dir)] == ["polite", "ppo-1", "sft-2"]


@pytest.mark.parametrize(
    ("name", "new", "why"),
    [
        ("sft-1", "ppo-1", "exists already"),
        ("sft-1", "base", "and not 'base'"),
        ("sft-1", "../ppo", "use letters"),
        ("sft-1", "", "use letters"),
        ("sft-1", "sft.one", "use letters, .* sft-one is free"),
        ("ghost", "new", "no adapter ghost"),
        ("../adapters/sft-1", "new", "is no adapter's name"),
        ("", "new", "is no adapter's name"),
    ],
)
def test_a_bad_name_changes_nothing(place, name, new, why):
    before = {path: path.read_bytes() for path in place.path.rglob("*") if path.is_file()}
    with pytest.raises(AdapterError, match=why):
        rename_saved(place.adapters_dir, name, new)
    assert {path: path.read_bytes() for path in place.path.rglob("*") if path.is_file()} == before


def test_a_deleted_adapter_is_gone_whole(place):
    delete_saved(place.adapters_dir, "sft-1")
    assert sorted(p.name for p in place.adapters_dir.iterdir()) == ["ppo-1", "sft-2"]
    for name in ("sft-1", "..", "../runs", "", "."):
        with pytest.raises(AdapterError):
            delete_saved(place.adapters_dir, name)
    assert place.runs_dir.is_dir()


def test_rows_say_where_an_adapter_comes_from_under_todays_names(desk):
    rows = {row["name"]: row for row in shelf.rows_of(desk)}
    assert list(rows) == ["sft-2", "ppo-1", "sft-1"]
    assert rows["ppo-1"]["parents"] == ["sft-1"]
    assert rows["ppo-1"]["result"] == "score +2.15, KL 7.9"
    assert rows["sft-1"]["data"] == ["3 demonstrations"]
    assert [row["fits"] for row in rows.values()] == [False, True, True]
    shelf.rename(desk, "sft-1", " polite ")
    assert {r["name"]: r["parents"] for r in shelf.rows_of(desk)}["ppo-1"] == ["polite"]
    shelf.delete(desk, "polite")
    assert {r["name"]: r["parents"] for r in shelf.rows_of(desk)}["ppo-1"] == ["sft-1 (deleted)"]


def test_nothing_in_use_is_renamed_or_deleted(desk):
    desk.used.add("sft-1")
    for change in (lambda: shelf.rename(desk, "sft-1", "new"), lambda: shelf.delete(desk, "sft-1")):
        with pytest.raises(AdapterError, match="sft-1 is in use"):
            change()
    assert shelf.details_of(desk, "sft-1")


def test_no_adapter_gets_the_name_that_an_unfinished_run_will_give(desk):
    run = desk.store.start_run("sft", "polite", "starter", {}, {})
    for status, words in (("running", "is at work"), ("paused", "was stopped"), ("interrupted", "broke off")):
        desk.store.set_status(run, status)
        with pytest.raises(AdapterError, match=f"polite is what run {run}, which {words} after step 0, will make"):
            shelf.rename(desk, "sft-1", "polite")
    desk.store.finish_run(run, "failed", {}, "the loss is no number")
    assert shelf.rename(desk, "sft-1", "polite") == "polite"


def test_what_would_miss_an_adapter_is_said_before(desk):
    assert shelf.consequences(desk, "ppo-1") == []
    run = desk.store.start_run("ppo", "ppo-2", "starter", {}, {"adapters": {"sft": "sft-1", "reward": "reward-1"}})
    desk.store.set_status(run, "paused")
    children, runs = shelf.consequences(desk, "sft-1")
    assert children.startswith("ppo-1 came from it")
    assert runs.startswith(f"{run} stopped half-way")
    with pytest.raises(AdapterError, match="finish it first"):
        shelf.rename(desk, "sft-1", "polite")
    desk.store.finish_run(run, "done", {})
    assert len(shelf.consequences(desk, "sft-1")) == 1
    assert shelf.rename(desk, "sft-1", "polite") == "polite"


def test_a_stages_result_is_told_in_words():
    reward = {"eval/accuracy": 0.75, "eval/votes": 28.0, "eval/loss": 0.6}
    assert shelf.key_metric("reward", reward) == "75% of 28 test votes right"
    assert shelf.key_metric("sft", {"eval/loss": 0.2907}) == "test loss 0.291"
    assert shelf.key_metric("ppo", {}) == ""


def test_hostile_cards_are_shown_as_text(place, desk):
    evil = "<img src=x onerror=alert(1)>'\""
    put(
        place,
        "odd",
        stage=evil,
        run=evil,
        created=evil,
        settings={evil: evil},
        data={evil: [1]},
        metrics={evil: 1.0, "eval/loss": evil},
    )
    for written in (table_html(shelf.rows_of(desk)), card_html(shelf.details_of(desk, "odd"))):
        assert "<img" not in written
        assert "&lt;img src=x" in written


def test_the_outcome_of_an_export_and_an_import_is_told(tmp_path):
    made = shelf.Exported(tmp_path / "<a>.zip", "1 < 2")
    told = exported_html("<a class='download'>", made)
    assert "<a class='download'>" in told
    assert "<b>Verified</b>" in told
    assert "Read back in a fresh process: 1 &lt; 2." in told
    assert "data-copy" not in told  # nothing to copy
    gguf = shelf.lines_for(tmp_path / "My-ppo-gguf.zip")
    assert gguf == ("unzip My-ppo-gguf.zip && cd My-ppo-gguf", "ollama create my-ppo -f Modelfile", "ollama run my-ppo")
    assert "unzip My-ppo-gguf.zip &amp;&amp;" in exported_html("", shelf.Exported(tmp_path / "x.zip", "fine", gguf))
    assert "pipeline('text-generation'" in shelf.lines_for(tmp_path)[1]
    folder = shelf.Exported(tmp_path, "fine")
    assert f"Written to {tmp_path}" in exported_html("<a class='download'>", folder)
    assert "download" not in exported_html("<a class='download'>", folder)
    assert "<b>&lt;b&gt;</b>" in taken_in_html({"name": "<b>", "remarks": ["<i>"]})
    assert "Note: &lt;i&gt;." in taken_in_html({"name": "<b>", "remarks": ["<i>"]})


class Asked:
    """Stands for the engine; answers with what it was asked."""

    def export(self, name, dest, **how):
        return SimpleNamespace(result=lambda: {"folder" if dest.suffix == "" else "file": str(dest), "check": str(how)})

    def take_in(self, source, role, name):
        return SimpleNamespace(result=lambda: {"name": name, "remarks": [source, role]})


@pytest.mark.parametrize(
    ("form", "file"), [("peft", "sft-1.zip"), ("gguf", "sft-1-gguf.zip"), ("merged", "sft-1-merged")]
)
def test_exports_lie_beside_each_other_and_only_whole_models_stay_folders(desk, form, file):
    desk.engine = Asked()
    made = shelf.finished_export(shelf.begin_export(desk, "sft-1", form))
    assert made.path == desk.workspace.exports_dir / file
    assert made.check == str({"form": form, "force": True})


def test_an_import_wants_a_folder(desk):
    desk.engine = Asked()
    assert shelf.take_in(desk, " /there ", "policy", " mine ") == {"name": "mine", "remarks": ["/there", "policy"]}
    with pytest.raises(AdapterError, match="name the folder"):
        shelf.take_in(desk, "  ", "policy", "")


def test_memory_is_divided_into_what_is_known_and_the_rest():
    memory = {"base": {"name": "starter"}, "base_bytes": 100, "adapters": {"sft": 20, "policy": 30}}
    parts = parts_of(memory, process=400, free=1000)
    assert [(p.kind, p.size) for p in parts] == [
        ("base", 100),
        ("adapter", 20),
        ("adapter", 30),
        ("rest", 250),
        ("free", 1000),
    ]
    card = parts_of({**memory, "total_bytes": 900, "free_bytes": 500}, process=4000, free=7)
    assert [p.size for p in card] == [100, 20, 30, 250, 500]
    assert sum(p.size for p in card) == 900
    assert parts_of({}, 1, 1) == []
    drawn = draw([Part("base", "<b>", 3 * 2**20), Part("free", "free", 5 * 2**30)], "In memory")
    assert "aria-label='In memory: &lt;b&gt; 3.0 MB, free 5.0 GB'" in drawn
    assert "<b><b>" not in drawn


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 B"), (5 * 2**20, "5.0 MB"), (480 * 2**20, "480 MB"), (12 * 2**30, "12.0 GB")]
)
def test_sizes_are_read_at_a_glance(count, told):
    assert size(count) == told


def test_the_form_offers_bases_that_are_known(place):
    desk = SimpleNamespace(workspace=place, load_settings=LoadSettings(base="/models/own"))
    assert known_bases(desk) == ["starter", "/models/own"]
    assert from_preset("starter", ("other", 16)) == ("starter", 4)
    assert from_preset("none", ("other", 16)) == ("other", 16)


def test_a_preset_is_remembered_for_its_base(place):
    desk = Desk(place, LoadSettings())
    assert desk.preset == "starter"
    assert desk.defaults("sampling") == {"temperature": 0.7, "max_new_tokens": 96}
    desk.use_preset("starter", "")
    desk.use_preset("own/base", "starter")
    assert desk.defaults("sampling") == {}
    own = Desk(place, LoadSettings(base="own/base"))
    assert own.preset == ""  # the starter's suits no other base
    assert own.sampling().temperature == 0.7  # what people read; training has its own
    assert own.stage_settings("ppo", {}).temperature == 1.0
    own.use_preset("own/base", "cpu")
    assert own.sampling().temperature == 0.8
    own.use_preset("own/base", "gone since")
    assert own.preset == ""
    for each in (desk, own):
        each.store.close()
