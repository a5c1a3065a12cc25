"""The Train tab without a browser: advice, remarks, charts, forms, and what a page is sent when it looks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from lorarlhf.engine.training import PARENTS
from lorarlhf.errors import LoraRlhfError, SettingsError
from lorarlhf.figures import duration
from lorarlhf.library import SavedAdapter
from lorarlhf.settings import STAGES, LoadSettings
from lorarlhf.types import Comparison, Demonstration, Outcome, user
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.tabs.train import Page
from lorarlhf.ui.train import costs, run_html
from lorarlhf.ui.train.advice import FIRST_VOTES, ROLES, Standing, choices, milestone, missing, next_step, plan, work
from lorarlhf.ui.train.efforts import length_of
from lorarlhf.ui.train.forms import GROUPS, build_form
from lorarlhf.ui.train.progress import RunNumbers, clock, log, outcome, way, why_not_resumed
from lorarlhf.ui.train.queue import Line, Waiting
from lorarlhf.ui.train.training_view import TrainingView
from lorarlhf.workspace import Workspace

HOSTILE = "<img src=x onerror=alert(1)> & 'quoted' \"twice\""


@pytest.fixture
def store(tmp_path):
    with Workspace(tmp_path / "store").store() as opened:
        yield opened


@pytest.fixture
def desk(tmp_path):
    """A desk whose engine was never started, on a base that seems to be in memory."""
    desk = Desk(Workspace(tmp_path / "work"), LoadSettings())
    desk.memory = {"base": {"fingerprint": "f"}}
    yield desk
    desk.store.close()


def a_run(store, stage="ppo", **settings):
    return store.run(store.start_run(stage, f"{stage}-1", "starter", settings, {"base": {"fingerprint": "f"}}))


def adapter(name: str, created: str, **metrics: float) -> SavedAdapter:
    card = {"stage": name.split("-")[0], "created": created, "metrics": metrics, "data": {"comparisons": [1] * 60}}
    return SavedAdapter(Path(name), card)


# -- advice -----------------------------------------------------------------------------------------------------


def test_a_queued_stage_is_offered_by_what_there_will_be_in_this_round(store):
    sft, reward, other = adapter("sft-1", "1"), adapter("reward-1", "2"), adapter("sft-2", "3")
    now = Standing(
        clear=1,
        votes=1,
        practice={"votes": 1},
        adapters=[sft, reward, other],
        present=[sft],
        at_work="sft-3 is at work",
    )
    assert missing("ppo", replace(now, at_work="")) == "No reward model on this base yet: train one first."
    then = now.in_time()
    # A reward model is made until then; who else there is in this round stays so, and other rounds stay aside.
    assert [then.newest("sft"), then.newest("ppo"), then.newest("reward").name] == [sft, None, "reward"]
    assert [missing(stage, then) for stage in ROLES] == [missing("sft", Standing()), "", ""]


def test_the_next_step_goes_round_the_loop(store):
    sft, reward, ppo = adapter("sft-1", "1"), adapter("reward-1", "2"), adapter("ppo-1", "3")
    paused = replace(a_run(store, "sft"), status="paused", step=40)
    guessing = adapter("reward-1", "2", **{"eval/accuracy": 0.5})
    ladder = [
        (Standing(base=False, votes=99), "", "not in memory"),
        (Standing(at_work="sft-1 is at work", votes=99), "", "sft-1 is at work"),
        (Standing(unfinished=paused, votes=99), "resume", "stopped after step 40"),
        (Standing(), "Rate", "No votes yet: rate 50 answers"),
        (Standing(demonstrations=799), "sft", "You have 799 demonstrations: train SFT"),
        (Standing(demonstrations=799, sft_helps=False), "Rate", "No votes yet: rate 50 answers"),
        (Standing(demonstrations=799, votes=48, adapters=[sft]), "Rate", "48 votes: rate 2 more"),
        (Standing(votes=1), "Rate", "You have 1 vote: rate 49 more"),
        (Standing(demonstrations=799, votes=60, adapters=[sft]), "reward", "You have 60 votes: train a reward model"),
        (Standing(votes=60, adapters=[sft, reward]), "ppo", "reward-1 is a first try: it has no test votes"),
        (Standing(votes=60, adapters=[sft, guessing]), "Rate", "agrees with only 50%"),
        (
            Standing(votes=60, adapters=[sft, reward, ppo]),
            "Judge",
            "ppo-1 is done. Is it better? Blind test it",
        ),
        (Standing(votes=95, adapters=[sft, reward, ppo]), "Judge", "ppo-1 is done"),
        (Standing(votes=110, adapters=[sft, reward, ppo]), "reward", "110 votes, 50 of them new"),
        (Standing(votes=60, adapters=[sft, ppo, adapter("reward-2", "4")]), "ppo", "reward-2 is a first try"),
    ]
    assert (
        next_step(Standing(votes=41, adapters=[sft, reward])).why == "Rate 109 more to make it usable, or try PPO now."
    )
    sure = adapter("reward-1", "2", **{"eval/accuracy": 0.84, "eval/votes": 25})
    told = "reward-1 agrees with you in 84% of 25 test votes. Train with PPO"
    assert next_step(Standing(votes=60, adapters=[sft, sure])).text == told
    for now, do, text in ladder:
        step = next_step(now)
        assert (step.do, text in step.text) == (do, True), step
        assert bool(step.label) == bool(do)
    assert next_step(Standing(unfinished=paused)).run == paused.id


def test_what_is_missing_is_said_with_what_to_do():
    ready = Standing(demonstrations=9, votes=9, clear=9, practice={"imported": 9}, adapters=[adapter("reward-1", "1")])
    assert [missing(stage, ready) for stage in STAGES] == ["", "", ""]
    assert "import some under Data" in missing("sft", replace(ready, demonstrations=0))
    assert "rate some pairs" in missing("reward", replace(ready, clear=0))  # nine ties teach nothing
    assert "No reward model" in missing("ppo", replace(ready, adapters=[]))
    assert "Stop it or wait" in missing("sft", replace(ready, at_work="ppo-3 is at work"))
    assert "not in memory" in missing("sft", replace(ready, base=False))


def test_a_plan_counts_steps_and_guesses_the_time():
    now = Standing(demonstrations=800, votes=40, practice={"imported": 600, "votes": 40, "demonstrations": 800})
    text = plan("sft", now, {"epochs": 2, "batch_size": 16}, 0.5 / 16)
    assert "Learns from ~720 of 800 demonstrations, 10% kept for testing" in text
    assert "About 90 steps, 45 s at the pace" in text  # 0.9 * 800 * 2 / 16
    assert f"{FIRST_VOTES - 40} more for a first reward model" in plan("reward", now, {}, None)
    assert "600 imported and 40 voted on prompts" in plan("ppo", now, {"steps": 28}, None)
    chosen = {"steps": 28, "practise_on": ["votes"]}
    assert "Trains on 40 voted on prompts" in plan("ppo", now, chosen, None)
    assert "800 demonstrated prompts" in plan("ppo", replace(now, practice={"demonstrations": 800}), chosen, None)
    assert "About 28 steps." in plan("ppo", now, {"steps": 28}, None)
    # The last run took 2 s a step with 8 answers of 24 tokens; eight times the rows of four times the length take 64 s.
    larger = {"steps": 10, "batch_size": 64, "max_new_tokens": 96}
    assert ", 11 min at the pace" in plan("ppo", now, larger, 2 / work({"batch_size": 8, "max_new_tokens": 24}))
    assert milestone(Standing(votes=FIRST_VOTES)) == ""
    assert milestone(Standing(votes=70, adapters=[adapter("reward-1", "1")])) == "40 more before it pays to retrain"


def test_the_adapters_offered_are_those_that_fit_and_the_engine_means_the_same_by_none():
    assert ROLES == PARENTS
    now = Standing(adapters=[adapter("sft-1", "1"), adapter("sft-2", "2"), adapter("reward-1", "3")])
    assert choices("reward", "parent", now)[:3] == [
        ("the newest: sft-2", ""),
        ("the base model", "base"),
        ("reward-1",) * 2,
    ]
    assert choices("ppo", "reward", now) == [("the newest: reward-1", ""), ("reward-1", "reward-1")]
    assert choices("sft", "parent", now) == [("the base model", ""), ("sft-2", "sft-2"), ("sft-1", "sft-1")]
    assert choices("ppo", "reward", Standing())[0] == ("none yet", "")


# -- rows of a run ----------------------------------------------------------------------------------------------


def test_numbers_are_read_once_and_only_new_ones_after_that(store, monkeypatch):
    run, numbers, asked = a_run(store), RunNumbers(store), []
    metrics = store.metrics
    monkeypatch.setattr(store, "metrics", lambda run, after=None: asked.append(after) or metrics(run, after))
    assert numbers.of(run) == {}
    for step in (1, 2, 3):
        store.log_metrics(run.id, step, {"objective/kl": step / 10})
    assert numbers.of(run) == {"objective/kl": [(1, 0.1), (2, 0.2), (3, 0.3)]}
    store.log_metrics(run.id, 3, {"eval/kl": 9.0})  # measured after the step's own numbers
    store.log_metrics(run.id, 4, {"objective/kl": 0.4})
    assert numbers.of(run) == {"objective/kl": [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)], "eval/kl": [(3, 9.0)]}
    assert asked == [None, None, 2]
    store.log_metrics(run.id, 2, {"objective/kl": 7.0})  # done again after it broke off
    again = numbers.of(replace(run, status="interrupted"))
    assert again["objective/kl"][1] == (2, 7.0)


def test_how_far_a_run_is(store):
    run = replace(a_run(store, "sft"), step=40)
    series = {"run/steps": [(0, 100.0)], "time/step": [(s, 9.0) for s in range(20)] + [(s, 0.5) for s in range(20, 40)]}
    assert way(run, series).share == 0.4
    assert way(run, series).seconds_left == 30.0  # 60 steps at the pace of the last 20
    assert way(replace(run, status="paused"), series).seconds_left is None
    assert way(replace(run, status="done"), series).share == 1.0  # ended before all of its steps
    assert way(run, {}).total == 0
    assert [duration(s) for s in (0.2, 59, 90, 3600, 7500)] == ["1 s", "59 s", "2 min", "1 h 0 min", "2 h 5 min"]
    assert len(clock("2026-11-21T02:10:13.394951Z")) == len("02:10")


def test_a_run_that_cannot_be_gone_on_with_says_why(store):
    run = replace(a_run(store), status="interrupted")
    assert why_not_resumed(run, "f") == ""
    assert "another base" in why_not_resumed(run, "g")
    assert why_not_resumed(replace(run, status="done"), "f")


def test_a_plan_is_shown_before_the_start():
    found = {
        "peak_bytes": 9 * 2**30, "available_bytes": 8 * 2**30, "peak_phase": "learn", "steps": 1200, "seconds": 100.0,
        "seconds_by_phase": {"learn": 90.0, "draw": 8.0, "write": 2.0}, "fits": False, "tight": False,
        "parts": dict.fromkeys(("base", "adapters", "gradients", "cache", "logits", "runtime", "heap"), 2 ** 30),
        "advice": [{"text": "--rank <4>", "peak_bytes": 7 * 2**30, "fits": True}],
    }  # fmt: skip
    html = costs.plan_html(found)
    assert "Needs 9.0 GB of 8.0 GB, most of it while learning" in html
    assert all(part in html for part in ("frozen base <b>1.0 GB", "their training <b>2.0 GB", "batch <b>2.0 GB"))
    assert "about 2 min for 1,200 steps (learning 2 min, drawing answers 8 s)" in html
    assert "more than there is" in html
    assert "7.0 GB: --rank &lt;4&gt;" in html


def test_the_log_tells_the_story_in_order(store):
    run = a_run(store, "sft")
    store.log_metrics(run.id, 0, {"eval/loss": 0.5})
    store.log_metrics(run.id, 9, {"eval/loss": 0.25, "loss/sft": 0.3})
    store.log_event(run.id, 9, "kept the adapter of step 9")
    store.finish_run(run.id, "failed", {}, "out of memory")
    run = store.run(run.id)
    story = [text for _, text in log(run, store.events(run.id), RunNumbers(store).of(run))]
    assert story[0].startswith("started on starter")
    assert story[1:] == [
        "test: loss 0.5",
        "test: loss 0.25",
        "kept the adapter of step 9",
        "failed. out of memory",
    ]


def test_what_came_out_is_said_in_a_line(store):
    found = {"eval/accuracy": 0.75, "eval/accuracy_low": 0.57, "eval/accuracy_high": 0.87, "eval/votes": 28.0}
    done = replace(a_run(store, "reward"), status="done", result=found)
    assert outcome(done) == "Agrees with 75% of 28 test votes (95 % interval 57% to 87%)"
    assert "test votes (95 % interval 57% to 87%: too few votes to tell)" in outcome(
        replace(done, result={**found, "eval/votes": 19.0})
    )
    untrained = replace(done, result={"eval/loss": 0.5, "run/best_step": 0.0})
    assert outcome(untrained) == ("Test loss 0.5, as it was before training: no later step was better on test data")
    assert outcome(replace(done, result={"eval/loss": 0.5, "run/best_step": 20.0})) == "Test loss 0.5"
    assert outcome(replace(done, result={})) == "Made reward-1"
    assert outcome(replace(done, status="running", result={})) == ""
    assert outcome(replace(done, status="failed", error="no memory")) == "no memory"


# -- pages ------------------------------------------------------------------------------------------------------


def test_what_people_and_models_write_is_escaped(store):
    run = replace(a_run(store), status="failed", adapter=HOSTILE, error=HOSTILE, base=HOSTILE)
    sample = {"step": 0, "prompt": HOSTILE, "response": HOSTILE, "ended": False, "score": 1.0, "kl": 0.0}
    pages = [
        run_html.head(run, {}),
        run_html.samples_html([sample]),
        run_html.log_html(log(run, [], {})),
        run_html.runs_html([run], run.id, [run.id]),
        run_html.step_html(HOSTILE, HOSTILE, HOSTILE),
        run_html.problem_html(HOSTILE),
        run_html.plan_html(HOSTILE, possible=True),
        run_html.numbers_html([run], [{HOSTILE: [(0, 1.0)]}]),
        run_html.settings_html([replace(run, settings={"targets": HOSTILE})]),
        run_html.queue_html(Line((Waiting("sft", {}, HOSTILE),), stopped=HOSTILE)),
        run_html.bell_html([replace(run, finished="2026")]),
    ]
    for page in pages:
        assert "<img" not in page
        assert "&lt;img src=x onerror=alert(1)&gt; &amp; &#x27;quoted&#x27; &quot;twice&quot;" in page


def test_samples_stand_newest_step_first():
    samples = [{"step": s, "prompt": f"p{s}", "response": "r", "score": 0.0, "kl": 0.0} for s in range(0, 100, 5)]
    table = run_html.samples_html(samples)
    assert table.index("p95") < table.index("p90")
    assert "p40" in table
    assert "p35" not in table  # twelve steps
    assert "cut off" not in table
    heldout = {"step": 95, "prompt": "q", "response": "r", "score": 0.5, "kl": 1.0, "heldout": True}
    table = run_html.samples_html([*samples, heldout])
    # Drawn after step 95; those of training stand under 96, the step they were drawn in.
    titles = re.findall(r"Step \d+ · [a-z -]+", table)
    assert titles[:3] == ["Step 96 · training", "Step 95 · test prompts", "Step 91 · training"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_form_has_every_setting_with_its_help_and_the_defaults_of_the_base(desk, stage):
    with gr.Blocks():
        form = build_form(desk, stage, ROLES[stage])
    assert set(form.fields) == set(STAGES[stage].model_fields)
    grouped = " ".join(GROUPS.values()).split()
    assert len(grouped) == len(set(grouped))  # none stands twice, and each group names only what there is
    assert set(grouped) <= {name for group in STAGES.values() for name in group.model_fields}
    for name, field in form.fields.items():
        assert field.info.startswith(STAGES[stage].model_fields[name].description)
    filled = {field: field.value for field in form.fields.values()}
    assert form.settings(desk, filled) == desk.stage_settings(stage, {})
    emptied = {field: None if isinstance(field, gr.Number) else field.value for field in form.fields.values()}
    assert form.settings(desk, emptied) == desk.stage_settings(stage, {})
    assert form.changed(desk, filled) == {} == form.changed(desk, emptied)


def test_quick_balanced_and_thorough_say_how_long_unless_a_number_does(desk):
    with gr.Blocks():
        forms = {stage: build_form(desk, stage, ROLES[stage]) for stage in STAGES}
    assert [value for _, value in forms["sft"].effort.choices] == ["quick", "balanced"]
    assert [value for _, value in forms["ppo"].effort.choices] == ["quick", "balanced", "thorough"]

    def made(stage, effort, **typed):
        form = forms[stage]
        filled = {field: field.value for field in form.fields.values()} | {form.effort: effort}
        return form.settings(desk, {**filled, **{form.fields[name]: value for name, value in typed.items()}})

    assert [made("ppo", effort).steps for effort in ("quick", "balanced", "thorough")] == [16, 40, 100]
    assert [made("reward", effort).epochs for effort in ("quick", "balanced")] == [1.0, "auto"]
    assert made("ppo", "thorough", steps=7).steps == 7
    assert made("sft", "quick", epochs="2.5").epochs == 2.5
    # A critic's first steps train no policy: there is at least one more.
    assert length_of("ppo", "quick", {"steps": 10, "critic": "head", "value_warmup_steps": 5}) == 6
    form = forms["ppo"]
    filled = {field: field.value for field in form.fields.values()} | {form.effort: "quick"}
    filled |= {form.fields["rank"]: 8, form.fields["kl_coef"]: 0.050, form.fields["missing_eos_score"]: "-1.0"}
    assert form.changed(desk, filled) == {"Missing EOS score": "-1", "Rank": "8"}
    assert "2 settings changed: Missing EOS score -1, Rank 8" in run_html.changed_html(form.changed(desk, filled))


def test_an_effort_says_its_minutes_by_the_last_run_or_by_what_was_measured(desk, monkeypatch):
    view, now = TrainingView(desk), Standing(demonstrations=800)
    told = lambda stage, given: [words for words, _ in view.efforts(stage, now, given, view.runs())]  # noqa: E731
    assert told("ppo", {"batch_size": 64, "max_new_tokens": 96}) == ["Quick", "Balanced", "Thorough"]
    monkeypatch.setattr(view.costs, "plan", lambda stage: {"seconds": 120.0, "steps": 40})  # 3 s a step
    assert told("ppo", {}) == ["Quick · about 48 s", "Balanced · about 2 min", "Thorough · about 5 min"]
    # 0.9 * 800 / 16 are 45 steps a pass; by itself it makes two, and more as long as they help.
    assert told("sft", {"batch_size": 16}) == ["Quick · about 2 min", "Balanced · about 4 min or more"]
    run = a_run(desk.store, "ppo", batch_size=8, max_new_tokens=24)
    desk.store.log_metrics(run.id, 0, {"time/step": 1.0})
    assert told("ppo", {"batch_size": 16, "max_new_tokens": 48})[1] == "Balanced · about 3 min"  # four times the work


def test_a_wrong_value_is_one_line_that_names_its_field(desk):
    with gr.Blocks():
        form = build_form(desk, "ppo", ROLES["ppo"])
    filled = {field: field.value for field in form.fields.values()}

    def problem(**wrong) -> str:
        with pytest.raises(SettingsError) as caught:
            form.settings(desk, {**filled, **{form.fields[name]: value for name, value in wrong.items()}})
        return str(caught.value)

    assert problem(batch_size=None).startswith("Batch size is empty")
    assert problem(learning_rate="fast").startswith("Learning rate = 'fast': should be a valid number")
    assert problem(learning_rate="-1") == "Learning rate = '-1': should be greater than 0"
    assert problem(steps=2.5).startswith("Steps = 2.5: should be a valid integer")
    assert problem(batch_size=9, mini_batches=2) == "Batch size 9 must be a multiple of Mini batches 2"
    assert form.settings(desk, {**filled, form.fields["rank"]: 8}).rank == 8


def test_a_page_is_sent_what_changed_and_nothing_else(desk):
    with gr.Blocks():
        page = Page(desk)
    filled = {
        page.seen: {},
        page.chosen: "",
        page.compared: ((), False),
        **{field: field.value for field in page.planning},
    }

    def look():
        found = page.look(filled)
        if page.seen in found and isinstance(found[page.seen], dict) and "next" in found[page.seen]:
            filled[page.seen] = found.pop(page.seen)
            return found
        return None

    assert "No votes yet" in look()[page.step]
    assert look() is None
    desk.store.add_demonstrations(Demonstration(user(f"{i}?"), "yes") for i in range(12))
    sent = look()
    assert "Learns from ~11 of 12 demonstrations" in sent[page.stages["sft"].plan]
    assert not sent.get(page.run.charts)
    run = desk.store.start_run("sft", "sft-1", "starter", {}, {})
    assert "training in another process" in look()[page.step]
    desk.store.log_metrics(run, 1, {"loss/sft": 1.5})
    sent = look()
    assert json.loads(sent[page.run.charts])["charts"][0]["lines"][0]["points"] == [[1, 1.5]]
    assert page.step not in sent
    desk.store.finish_run(run, "done", {})
    later = desk.store.start_run("reward", "reward-1", "starter", {}, {})
    assert f"<h3>{later}" in look()[page.run.head]
    filled[page.chosen] = run
    assert f"<h3>{run}" in look()[page.run.head]
    # Another run is laid over it, and all metrics are asked for.
    filled[page.compared] = ((later,), True)
    sent = look()
    drawn = json.loads(sent[page.run.charts])
    assert [one["id"] for one in drawn["runs"]] == [run, later]
    assert "stage" in sent[page.run.settings]
    assert page.run.head not in sent
    assert page.numbers_csv({"runs": [run]}).splitlines() == ["run,step,loss/sft", "sft-1,1,1.5"]


def test_a_start_that_cannot_be_is_one_line_and_changes_nothing(desk):
    view = TrainingView(desk)
    settings = desk.stage_settings("sft", {})

    def problem(stage="sft", name="") -> str:
        with pytest.raises(LoraRlhfError) as caught:
            view.train(stage, settings, name)
        return str(caught.value)

    assert problem().startswith("No demonstrations yet")
    desk.store.add_demonstrations([Demonstration(user("a?"), "b")])
    assert "letters, digits" in problem(name="../up")
    assert problem(name="up.2").endswith("up-2 is free")
    (desk.workspace.adapters_dir / "mine").mkdir()
    assert "mine exists already" in problem(name=" mine ")
    assert "engine was not started" in problem()
    desk.store.add_comparisons([Comparison(user("a?"), "b", "c", Outcome.TIE)])
    assert problem("reward").startswith("No votes that prefer an answer")
    desk.memory = {}
    assert "not in memory yet" in problem()
    assert desk.store.runs() == []


def test_the_run_of_this_app_counts_as_at_work_from_its_first_moment(desk):
    run = desk.store.start_run("sft", "sft-1", "starter", {}, {})
    desk.store.set_status(run, "paused")
    view = TrainingView(desk)
    assert view.at_work(view.runs()) == ""
    desk.run_job = SimpleNamespace(done=False, progress=SimpleNamespace(run=run))
    assert view.runs()[0].status == "running"
    assert view.at_work(view.runs()) == f"{run} is training"


def test_what_the_tab_stands_on_is_made_without_gradio():
    modules = "lorarlhf.ui.train.run_html, lorarlhf.ui.train.training_view"
    code = f"import sys, {modules}; print({{'gradio', 'torch'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
