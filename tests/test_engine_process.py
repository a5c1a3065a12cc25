"""The engine in its own process: what it streams, how it is stopped, and what is left when it is killed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
import torch

from lorarlhf.engine.client import EngineClient, Job
from lorarlhf.engine.requests import EngineDied, EngineError, JobCancelled, Request, packed, unpacked
from lorarlhf.engine.server import GrowingTexts, Server
from lorarlhf.errors import AdapterError, DataError, RunPaused, StoreError, TrainingError
from lorarlhf.settings import LoadSettings, RewardSettings, SamplingSettings, SFTSettings
from lorarlhf.store.owners import OWNERS, born
from lorarlhf.types import Comparison, Demonstration, Outcome, user
from lorarlhf.workspace import Workspace
from tests import tiny
from tests.warm import WarmCommand

SMALL = {"rank": 4, "alpha": 8, "micro_batch_tokens": 256, "heldout_share": 0.25, "batch_size": 4, "eval_every": 50}
SFT = SFTSettings(**SMALL, epochs=10, checkpoint_every=0)
REWARD = RewardSettings(**SMALL, epochs=1)
PROMPTS = [user("hello?"), user("what is a naïve façade? 数"), user("why?")]
LONG = SamplingSettings(max_new_tokens=200, batch_rows=1)
PATIENCE = 180.0
"""Seconds; a process that imports torch on a busy machine takes a while."""


def fill(workspace: Workspace) -> Workspace:
    with workspace.store() as store:
        prompts = [user(f"question number {i}?") for i in range(16)]
        store.add_demonstrations(Demonstration(p, f"answer {i}") for i, p in enumerate(prompts))
        store.add_comparisons(Comparison(p, "short", "a much longer answer", Outcome.A) for p in prompts)
    return workspace


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    folder = tiny.save(tmp_path_factory.mktemp("process") / "base", arch="qwen3")
    return LoadSettings(base=str(folder), compute="fp32", device="cpu")


@pytest.fixture(scope="module")
def shared(load):
    with EngineClient(fill(Workspace(Path(load.base).parent / "work")).path, load) as client:
        yield client
    assert not client.alive


@pytest.fixture
def client(shared, warm_engines):
    """The engine that started from nothing, or one of those that take its place when it is dead."""
    return shared if shared.alive else shared.restart()


@pytest.fixture
def store(client):
    with client.workspace.store() as opened:
        yield opened


def until(job: Job, wanted) -> None:
    assert any(wanted(now) for now in job.updates()), "the job ended before that"


def kill(client: EngineClient, number: int = signal.SIGKILL) -> None:
    os.kill(client.pid, number)
    deadline = time.monotonic() + PATIENCE
    while client.alive:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_client_knows_no_torch():
    code = "import sys, lorarlhf.engine.client; sys.exit(any(m in sys.modules for m in sys.argv[1:]))"
    command = [sys.executable, "-c", code, "torch", "transformers", "peft", "numpy", "accelerate", "gradio"]
    assert subprocess.run(command, check=False).returncode == 0


def test_errors_come_back_as_the_nearest_class_that_needs_no_torch():
    class RowError(DataError):
        """Like those of modules the client does not know."""

    back = unpacked(packed(RowError("line 3: no")))
    assert (type(back), str(back)) == (DataError, "line 3: no")
    assert type(unpacked(packed(EngineDied("gone")))) is EngineDied


def test_an_engine_that_was_never_started_says_so(tmp_path, load):
    client = EngineClient(tmp_path / "work", load)
    assert (client.alive, client.pid, client.jobs) == (False, None, [])
    with pytest.raises(EngineError, match=r"not started; call start\(\)"):
        client.load().result()
    client.stop()
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file, not a folder"):
        EngineClient(tmp_path / "file", load).start()
    assert not (tmp_path / "work").exists()


def test_loading_shows_how_far_it_is_and_looking_waits_for_nothing(client):
    job = client.load()
    assert client.describe().result(PATIENCE) == {}  # answered while torch is being imported
    seen = list(job.updates())
    assert "Loading the weights" in {now.text for now in seen}
    assert (seen[-1].text, seen[-1].share) == ("Base model ready", 1.0)
    shares = [now.share for now in seen]
    assert shares == sorted(shares)
    described = job.result(PATIENCE)
    assert described["base"]["architecture"] == "Qwen3ForCausalLM"
    assert client.describe().result(PATIENCE) == described
    assert client.start().pid == client.pid


def test_answers_grow_and_are_those_of_the_engine_in_process(client, load):
    from lorarlhf.engine.core import Engine

    sampling = SamplingSettings(max_new_tokens=60, seed=3)
    job = client.generate(PROMPTS, 2, sampling)
    seen = [now.texts for now in job.updates()]
    found = job.result()
    engine = Engine(client.workspace, load)
    expected = [[c._asdict() for c in answers] for answers in engine.generate(PROMPTS, 2, sampling)]
    engine.store.close()
    assert found == expected
    final = tuple(answer["text"] for answers in found for answer in answers)
    # A character that was never finished is shown in the end only.
    assert [text.rstrip("\ufffd") for text in seen[-1]] == [text.rstrip("\ufffd") for text in final]
    assert len(set(seen)) > 2
    assert all(whole.startswith(text) for texts in seen for text, whole in zip(texts, final, strict=True))


def test_growing_answers_show_no_half_character_and_no_stop_text(monkeypatch):
    monkeypatch.setattr("lorarlhf.engine.server.STREAM_SECONDS", 0.0)
    tokenizer, shown = tiny.tokenizer(), []
    texts = GrowingTexts(tokenizer, ["END"], shown.extend)
    for token in tokenizer("a数b END", add_special_tokens=False)["input_ids"]:  # a token is a byte
        texts._due = 0.0
        texts.add({7: token})
    assert [text for _, text in shown] == ["a", "a", "a", "a数", "a数b", "a数b", "a数b E", "a数b EN", "a数b"]
    assert {row for row, _ in shown} == {7}


def test_a_mistake_comes_back_as_itself_and_a_bug_as_one_line(client):
    with pytest.raises(AdapterError, match=r"^no adapter ghost; there are: none yet, train one first$"):
        client.generate(PROMPTS, 1, SamplingSettings(), adapter="ghost").result(PATIENCE)
    with pytest.raises(StoreError, match="there is no run 'sft-9'"):
        client.resume("sft-9").result(PATIENCE)
    with pytest.raises(TrainingError, match="no reward model on this base yet"):
        client._ask("train", {"stage": "ppo", "settings": {}, "name": ""}).result(PATIENCE)
    with pytest.raises(EngineError, match=r"^TypeError: .*engine.log says where; .*restart the engine$") as caught:
        client._ask("load", {"wrong": 1}).result(PATIENCE)
    assert not isinstance(caught.value, EngineDied)
    assert "Traceback" in (client.workspace.path / "engine.log").read_text()
    assert client.load().result(PATIENCE)["adapters"] == {}


def test_an_engine_whose_card_answers_no_more_ends_once_it_has_said_so(tmp_path, load, monkeypatch):
    outbox, ended = io.BytesIO(), []
    server = Server(Workspace(tmp_path).open(), load, io.BytesIO(), outbox)
    monkeypatch.setattr(os, "_exit", lambda code: ended.append((code, outbox.getvalue())))
    for job, error in enumerate((ValueError("a bug"), torch.AcceleratorError("CUDA error: device-side assert"))):
        monkeypatch.setattr(server, "do_score", Mock(side_effect=error), raising=False)
        server._waiting.put(Request(job, "score", {}))
        server._waiting.put(None)
        monkeypatch.setattr(server, "_listen", lambda: None)
        server.serve()
        assert len(ended) == job
    assert ended[0][0] == 1
    assert b"device-side assert" in ended[0][1]


def test_jobs_wait_for_each_other_and_can_be_stopped(client):
    ended: list[int] = []
    jobs = [client.generate(PROMPTS, 300, LONG), client.load(), client.generate(PROMPTS, 1, LONG), client.load()]
    for job in jobs:
        job.future.add_done_callback(lambda _, number=job.number: ended.append(number))
    until(jobs[0], lambda now: any(now.texts))
    assert client.describe().result(PATIENCE)["device"] == "cpu"
    assert client.jobs == jobs
    assert not jobs[1].progress.started
    jobs[1].stop()  # before it begins
    os.kill(client.pid, signal.SIGINT)  # Ctrl-C is the app's to handle
    jobs[0].stop()
    for job in jobs[:2]:
        with pytest.raises(JobCancelled, match="stopped before its end"):
            job.result(PATIENCE)
    assert jobs[2].result(PATIENCE)
    assert jobs[3].result(PATIENCE)["adapters"] == {}
    assert ended == [job.number for job in jobs]
    assert client.jobs == []


def test_a_run_is_paused_saved_and_goes_on(client, store, load):
    from lorarlhf.engine.core import Engine
    from lorarlhf.engine.training import train

    job = client.train("sft", SFT, "halves")
    until(job, lambda now: now.step >= 2)
    row = store.run(job.progress.run)
    assert (row.status, row.adapter) == ("running", "halves")
    assert client.describe().result(PATIENCE)["adapters"].keys() == {"sft"}
    assert "loss/sft" in job.progress.metrics
    job.stop()
    with pytest.raises(RunPaused, match=f"go on with `lorarlhf resume {row.id}`"):
        job.result(PATIENCE)
    assert store.run(row.id).status == "paused"
    onward = client.resume(row.id)
    result = onward.result(PATIENCE)
    assert (onward.progress.run, onward.progress.step) == (row.id, onward.progress.total)
    engine = Engine(client.workspace, load)
    assert train(engine, "sft", SFT, "whole")["metrics"] == result["metrics"]
    engine.store.close()


def test_scores_and_exports(client, tmp_path):
    reward = client.train("reward", REWARD, "judge").result(PATIENCE)["adapter"]
    assert len(client.score(reward, [(user("a"), "b"), (user("a"), "c")]).result(PATIENCE)) == 2
    sft = client.train("sft", SFT.model_copy(update={"epochs": 1.0}), "polite").result(PATIENCE)["adapter"]
    written = client.export(sft, tmp_path / "out").result(PATIENCE)["files"]
    assert {"README.md", "adapter_model.safetensors", "tokenizer.json"} <= set(written)
    with pytest.raises(StoreError, match="exists already"):
        client.export(sft, tmp_path / "out").result(PATIENCE)


def test_a_kill_while_idle_or_answering_is_told_and_mended(client):
    kill(client)
    with pytest.raises(EngineDied, match=r"was killed \(SIGKILL\).* memory ran out; restart it$"):
        client.load().result(PATIENCE)
    client.restart()
    jobs = [client.generate(PROMPTS, 300, LONG), client.load()]
    until(jobs[0], lambda now: any(now.texts))
    kill(client, signal.SIGSEGV)
    for job in jobs:
        with pytest.raises(EngineDied, match=r"ended by SIGSEGV; .*engine.log may say why; restart it$"):
            job.result(PATIENCE)
    assert "Segmentation fault" in (client.workspace.path / "engine.log").read_text()


def test_a_request_that_the_engine_died_over_ends_with_it(client):
    with client._lock:  # before anybody noticed
        os.kill(client.pid, signal.SIGKILL)
        client._process.wait()
        job = client._jobs[99] = Job(client, 99, "describe", 0, "")
        client._send(Request(99, "describe", {}))
    with pytest.raises(EngineDied, match=r"restart it$"):
        job.result(PATIENCE)


def test_a_killed_run_is_interrupted_and_resumes_to_its_end(client, store):
    elsewhere = store.start_run("sft", "elsewhere", "base", {}, {})  # by a terminal, which is still at it
    job = client.train("sft", SFT.model_copy(update={"checkpoint_every": 1}), "survivor")
    until(job, lambda now: now.step >= 2)
    kill(client)
    run = job.progress.run
    with pytest.raises(EngineDied, match=f"restart it, then resume run {run}$"):
        job.result(PATIENCE)
    assert store.run(run).status == "running"
    client.restart().describe().result(PATIENCE)
    assert (store.run(run).status, store.run(elsewhere).status) == ("interrupted", "running")
    assert client.resume(run).result(PATIENCE)["adapter"] == "survivor"
    assert store.run(run).status == "done"


def test_only_runs_whose_process_is_gone_count_as_interrupted(tmp_path):
    with fill(Workspace(tmp_path)).store() as store:
        mine, gone, theirs, nobodys = (store.start_run("sft", "a", "b", {}, {}) for _ in range(4))
        owners = store.get_meta(OWNERS)
        parent, here = os.getppid(), owners[mine][2:]
        # The number of the process that had `gone` now belongs to another one.
        store.set_meta(
            OWNERS,
            {mine: owners[mine], gone: [parent, born(parent) - 60, *here], theirs: [parent, born(parent), *here]},
        )
        store.mark_interrupted()
        found = {row.id: row.status for row in store.runs()}
        assert found == {mine: "running", gone: "interrupted", theirs: "running", nobodys: "interrupted"}
        with pytest.raises(StoreError, match=f"run {theirs} is at work in another process"):
            store.claim(theirs)
        store.claim(mine)
        for run in (mine, theirs):
            store.release(run)
        assert store.get_meta(OWNERS).keys() == {theirs}


def test_two_processes_cannot_work_on_one_run(client, store, tmp_path):
    job = client.train("sft", SFT.model_copy(update={"epochs": 1000.0}), "contended")
    until(job, lambda now: now.step >= 1)
    words = ["resume", job.progress.run, "--workspace", str(client.workspace.path)]
    with (tmp_path / "said").open("w+") as said:
        assert WarmCommand(words, said, said).wait(PATIENCE) == 1
        said.seek(0)
        assert "at work in another process" in said.read()
    job.stop()
    with pytest.raises(RunPaused):
        job.result(PATIENCE)
    assert store.run(job.progress.run).status == "paused"


def test_stopping_saves_the_run_at_work_and_ends_what_waits(client, store):
    jobs = [client.train("sft", SFT, "late"), client.load()]
    until(jobs[0], lambda now: now.step >= 1)
    client.stop(PATIENCE)
    assert (client.alive, client.pid) == (False, None)
    with pytest.raises(RunPaused):
        jobs[0].result(0)
    with pytest.raises(JobCancelled):
        jobs[1].result(0)
    assert store.run(jobs[0].progress.run).status == "paused"
    with pytest.raises(JobCancelled, match="the engine was stopped; start it again"):
        client.load().result(0)


@pytest.mark.usefixtures("warm_engines")
def test_a_process_that_does_not_end_is_killed(tmp_path, load):
    client = EngineClient(tmp_path / "work", load).start()
    pid, job = client.pid, client.load()
    os.kill(pid, signal.SIGSTOP)
    client.stop(grace=0.1)
    assert gone(pid)
    with pytest.raises(EngineDied, match="did not stop in time and was killed; restart it"):
        job.result(0)


@pytest.mark.usefixtures("warm_engines")
def test_a_workspace_of_a_newer_version_is_refused_in_its_own_words(tmp_path, load):
    with Workspace(tmp_path / "work").store() as store, store.transaction() as db:
        db.execute("INSERT INTO migrations VALUES ('9999-future', '', '99.0')")
    client = EngineClient(tmp_path / "work", load).start()
    with pytest.raises(StoreError, match=r"written by a newer lorarlhf \(99.0"):
        client.load().result(PATIENCE)
    client.stop()


PARENT = """
import sys
from lorarlhf.engine.client import EngineClient
from lorarlhf.settings import LoadSettings, SFTSettings
client = EngineClient(sys.argv[1], LoadSettings.model_validate_json(sys.argv[2])).start()
print(client.pid, flush=True)
for now in client.train("sft", SFTSettings.model_validate_json(sys.argv[3])).updates():
    if now.step == 2:
        print(now.run, flush=True)
"""


def test_the_engine_does_not_outlive_a_killed_app(tmp_path, load):
    workspace = fill(Workspace(tmp_path / "work"))
    endless = SFT.model_copy(update={"epochs": 1000.0})
    command = [sys.executable, "-c", PARENT, str(workspace.path), load.model_dump_json(), endless.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, run = int(parent.stdout.readline()), parent.stdout.readline().strip()
        parent.kill()
    deadline = time.monotonic() + 30
    while not gone(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with workspace.store() as store:
        assert store.run(run).status == "paused"  # it even saved what it was at
