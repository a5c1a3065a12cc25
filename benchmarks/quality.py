"""Does the loop work? Reward accuracy, win rate and KL on the starter base, three seeds, against what is promised.

    python -m benchmarks.quality [--seeds 3] [--votes 400] [--noise 0.1] [--critic head|adapter|none]

Each seed goes round the whole loop in a fresh workspace: SFT, scripted votes (a tenth of them wrong), reward model,
PPO. The reward model is judged on answers to held-out prompts, against the labels the rater gives without noise
(its ties left out); the policy against the SFT model on held-out prompts, ties half. Prints one JSON value.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
from typing import Any

import torch

from benchmarks.critics import add_critic, critic_settings
from lorarlhf.algo.intervals import wilson_interval
from lorarlhf.base import base_hash
from lorarlhf.engine.core import Engine
from lorarlhf.engine.demo import rehearse, scripted_votes
from lorarlhf.preset import load_preset
from lorarlhf.settings import LoadSettings
from lorarlhf.starter import prompts
from lorarlhf.types import Outcome
from lorarlhf.workspace import Workspace

ASKED = {"reward_accuracy_each": 0.85, "win_rate_mean": 0.80, "win_rate_each": 0.70, "kl_at_most": 20.0}
PAIRS = 400


def one_seed(seed: int, votes: int, noise: float, critic: str) -> dict[str, Any]:
    """Go round the loop once and measure."""
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(Workspace(folder), LoadSettings.parse(load_preset("starter").get("load", {})))
        before = base_hash(engine.base.model)
        found = rehearse(
            engine,
            votes=votes,
            noise=noise,
            seed=seed,
            say=lambda text: print(text, file=sys.stderr),
            changes=critic_settings(critic),
        )
        duel, stages = found["before_after"], found["stages"]
        steps = [seconds for _, name, seconds in engine.store.metrics(stages["ppo"]["run"]) if name == "time/step"]
        result = {
            "seed": seed,
            "reward": reward_accuracy(engine, stages["sft"]["adapter"], stages["reward"]["adapter"], seed),
            "win_rate": duel["win_rate"],
            "win_rate_interval": duel["win_rate_interval"],
            "judge_score": duel["judge_score"],
            "kl": stages["ppo"]["metrics"]["eval/kl"],
            "heldout_reward": stages["ppo"]["metrics"]["eval/scores"],
            "ppo_step_seconds": statistics.median(steps),
            "length": stages["ppo"]["metrics"]["eval/length"],
            "base_unchanged": base_hash(engine.base.model) == before,
            "seconds": found["seconds"],
        }
        engine.store.close()
        return result


def reward_accuracy(engine: Engine, sft: str, reward: str, seed: int) -> dict[str, Any]:
    """Compare the reward model with the noise-free rater on fresh answers to held-out prompts."""
    pairs = scripted_votes(engine, sft, prompts(heldout=True), PAIRS, 0.0, 1000 + seed)
    clear = [pair for pair in pairs if pair.outcome in (Outcome.A, Outcome.B)]
    scores = engine.score(reward, [(pair.prompt, text) for pair in clear for text in (pair.a, pair.b)])
    right = sum(
        (a > b) == (pair.outcome is Outcome.A) for pair, a, b in zip(clear, scores[0::2], scores[1::2], strict=True)
    )
    return {"accuracy": right / len(clear), "interval": wilson_interval(right, len(clear)), "pairs": len(clear)}


def main() -> None:
    """Run all seeds and say whether each promise holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--votes", type=int, default=400)
    parser.add_argument("--noise", type=float, default=0.1)
    add_critic(parser, ("head", "adapter", "none"))
    args = parser.parse_args()
    runs = []
    for seed in range(args.seeds):
        runs.append(one_seed(seed, args.votes, args.noise, args.critic))
        print(json.dumps(runs[-1]), file=sys.stderr)  # half an hour is long to wait for the first number
    accuracies, wins = [r["reward"]["accuracy"] for r in runs], [r["win_rate"] for r in runs]
    holds = {
        "reward_accuracy_each": min(accuracies) >= ASKED["reward_accuracy_each"],
        "win_rate_mean": sum(wins) / len(wins) >= ASKED["win_rate_mean"],
        "win_rate_each": min(wins) >= ASKED["win_rate_each"],
        "kl_at_most": max(r["kl"] for r in runs) <= ASKED["kl_at_most"],
        "base_unchanged": all(r["base_unchanged"] for r in runs),
    }
    machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    said = {"critic": args.critic, "asked": ASKED, "holds": holds, "runs": runs, "machine": machine}
    print(json.dumps(said, indent=2))


if __name__ == "__main__":
    main()
