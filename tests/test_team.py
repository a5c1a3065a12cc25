"""Two processes against one: the same losses, gradients, scores and adapters, within rounding."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorarlhf.adapters import AdapterBank
from lorarlhf.base import load_base
from lorarlhf.settings import LoadSettings, RewardSettings, SFTSettings
from lorarlhf.train.common import Studio
from lorarlhf.train.reward import RewardStage
from lorarlhf.train.sft import SFTStage
from lorarlhf.train.team import Team
from tests import tiny
from tests.test_reward import MIXED, votes
from tests.test_sft import DEMONSTRATIONS, noisy
from tests.warm import Warm

COMMON = {"heldout_share": 0, "learning_rate": 0.01, "micro_batch_tokens": 64, "epochs": 10}


def work(folder: Path) -> dict[str, torch.Tensor]:
    """Do a little of everything that is shared; the same in one process and in several."""
    torch.set_num_threads(1)
    team = Team()
    found: dict[str, torch.Tensor] = {}
    for length in (0, 1, 2, 5):
        items = list(range(100, 100 + length))
        assert team.gather(team.share(items)) == items
    assert team.broadcast(f"from {team.rank}") == "from 0"
    found["sum"] = team.sum(torch.tensor([float(team.rank + 1)])) * 2 / (team.size * (team.size + 1))
    base = load_base(LoadSettings(base=str(folder / "base"), bits=16, compute="fp32", device="cpu"))
    studio = Studio(base, AdapterBank(base), team)
    noisy(studio.bank, "sft")
    noisy(studio.bank, "reward", head=True)
    # A batch of one leaves the second process without rows; so does measuring on one row.
    for size in (3, 1):
        sft = SFTStage(studio, "sft", SFTSettings(**COMMON, batch_size=size), DEMONSTRATIONS)
        sft.heldout = sft.rows[:size]
        reward = RewardStage(studio, "reward", RewardSettings(**COMMON, batch_size=size), votes(MIXED))
        reward.heldout = reward.votes[:size]
        for name, stage in (("sft", sft), ("reward", reward)):
            numbers = [n for i in range(2) for n in stage.step(i).values()]
            numbers += [*stage.evaluate().metrics.values(), *stage.finish().values()]
            found[f"{name}{size}.numbers"] = torch.tensor(numbers)
    return found | {f"{name}.{k}": v for name in ("sft", "reward") for k, v in studio.bank.state(name).items()}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("team")
    tiny.save(folder / "base", "llama", layers=1)
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with (folder / "log").open("w+") as log:
        ends = [log.fileno()] * 3
        ranks = [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
        processes = [Warm("tests.test_team:child", [str(folder)], ends, env=rank) for rank in ranks]
        alone = work(folder)  # meanwhile, here
        try:
            statuses = [process.wait(400) for process in processes]
        finally:
            for process in processes:
                process.kill()
    assert statuses == [0, 0], (folder / "log").read_text()[-3000:]
    return alone, *(load_file(folder / f"{rank}.safetensors") for rank in range(2))


def child(folder: str) -> None:
    """Be one of two processes."""
    found = work(Path(folder))
    assert Team().size == 2
    save_file({k: v.contiguous() for k, v in found.items()}, Path(folder) / f"{Team().rank}.safetensors")


def test_two_processes_give_the_numbers_of_one(results):
    alone, first, _ = results
    assert alone.keys() == first.keys()
    assert len(alone) > 30
    for key, expected in alone.items():
        torch.testing.assert_close(first[key], expected, rtol=1e-3, atol=1e-4, msg=lambda m, k=key: f"{k}: {m}")


def test_both_processes_end_with_the_same_adapters_to_the_bit(results):
    _, first, second = results
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key


def test_one_process_is_a_team_too():
    team = Team()
    assert (team.rank, team.size, team.is_main) == (0, 1, True)
    assert team.share([1, 2, 3]) == [1, 2, 3]
    assert team.gather([1, 2]) == [1, 2]
    assert team.broadcast("x") == "x"
