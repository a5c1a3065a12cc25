"""Do the tests notice when training is wired wrongly? Each mutant breaks one line; the tests named with it must fail.

    python -m benchmarks.mutants [--only WORD] [--out FILE]

Every mutant is made in a copy of the tree, one after the other. The app (`ui/`) is left out: Python would find the one
that is installed. Prints one JSON value; exit status 1 where one lives.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.record import circumstances, write

ROOT = Path(__file__).resolve().parents[1]
STAGES, WIRED, FREE, KEPT = ((f"tests/test_{name}.py",) for name in ("stages", "wiring", "rates", "loop"))
PAIRED, SPOKEN = ((f"tests/test_{name}.py",) for name in ("pairs", "chat"))
APART, REFUSED = ((f"tests/test_{name}.py",) for name in ("bases_apart", "export_refused"))


class Mutant(NamedTuple):
    """One thing done wrong."""

    name: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...] = STAGES


PPO, ROLL, REWARD, SFT = (f"lorarlhf/train/{name}.py" for name in ("ppo", "rollout", "reward", "sft"))
COMMON, OPTIM, LOOP, PACE = (f"lorarlhf/train/{name}.py" for name in ("common", "optim", "loop", "pace"))
RATES, CRITIC, ORDER = (f"lorarlhf/train/{name}.py" for name in ("rates", "critic", "order"))
VOTES, REPLAY = "lorarlhf/store/votes.py", "lorarlhf/export/replay.py"
BUILD, RUN = "lorarlhf/engine/stages.py", "lorarlhf/engine/training.py"
GAE, KL, LOSSES, STATS, LOGPROBS, PROBE, INTERVALS = (
    f"lorarlhf/algo/{name}.py" for name in ("gae", "kl", "losses", "statistics", "logprobs", "probe", "intervals")
)
PAIRS, CHAT, CUT = (f"lorarlhf/data/{name}.py" for name in ("pairs", "chat", "cutting"))

MUTANTS = (
    # what was found to go unnoticed
    Mutant("no temperature in new log-probs", PPO, "self.settings.temperature, learn_entropy", "1.0, learn_entropy"),
    Mutant("no temperature in sampling", PPO, "temperature=s.temperature,", "temperature=1.0,"),
    Mutant("no temperature in old log-probs", ROLL, "budget, sampling.temperature)", "budget, 1.0)"),
    Mutant("gamma and lambda swapped", PPO, "s.gamma, s.lam)", "s.lam, s.gamma)"),
    Mutant("policy clip ignored", PPO, "old.advantages_T, self.settings.clip)", "old.advantages_T, 0.99)"),
    Mutant("value clip ignored", PPO, "old.returns_T, self.settings.value_clip)", "old.returns_T, 1e9)"),
    Mutant("every mini-batch the same rows", PPO, "order[start : start + size] for", "order[:size] for"),
    Mutant("adaptive KL never updated", PPO,
           'self.kl_control.update(metrics["objective/kl"], len(rollout.rows))',
           "pass"),
    Mutant("evaluation without KL", PPO, "- self.settings.kl_coef * rollout.kl_B", "- 0 * rollout.kl_B"),
    Mutant("evaluation on training prompts", PPO, "list(heldout or prompts)", "list(prompts)"),
    Mutant("advantages not centred", PPO, "s.gamma, s.lam), center_and_scale", "s.gamma, s.lam), scale_only"),
    Mutant("PPO trained on held-out prompts", BUILD,
           "asked, apart = encoded(train)",
           "apart, asked = encoded(train)",
           WIRED),
    Mutant("reward trained on held-out votes", REWARD,
           "encode_all(split.train, self._encode)",
           "encode_all(split.heldout, self._encode)"),
    Mutant("policy started from the reward adapter", BUILD,
           "else parents[\"sft\"]\n",
           "else parents[\"reward\"]\n",
           WIRED),
    Mutant("reference taken from the parent policy", BUILD,
           "engine.saved(parents[\"sft\"]).path, frozen=True",
           "engine.saved(start).path, frozen=True",
           WIRED),
    Mutant("entropy bonus with the wrong sign", PPO,
           "- entropy * new.entropy_T.sum()",
           "+ entropy * new.entropy_T.sum()"),
    Mutant("whiten_rewards ignored", PPO, "if s.whiten_rewards:", "if False:"),
    # and others
    Mutant("advantages never whitened", PPO, "if s.whiten_advantages:", "if False:"),
    Mutant("scores not in spreads", PPO, "rollout.scores_B / self._spread,", "rollout.scores_B,"),
    Mutant("quality not in spreads", PPO, "each_B = rollout.scores_B / self._spread", "each_B = rollout.scores_B"),
    Mutant("no rule for answers that never ended", PPO,
           "torch.where(ended_B, rollout.scores_B, least_B)",
           "rollout.scores_B"),
    Mutant("that rule turned round", PPO,
           "torch.where(ended_B, rollout.scores_B, least_B)",
           "torch.where(ended_B, least_B, rollout.scores_B)"),
    Mutant("one epoch only", PPO, "for epoch in range(s.ppo_epochs):", "for epoch in range(1):"),
    Mutant("every epoch in the same order", PPO, "index * s.ppo_epochs + epoch)", "index * s.ppo_epochs)"),
    Mutant("the policy learns from the first step", PPO, "warming = index < s.value_only_steps", "warming = False"),
    Mutant("policy's schedule counted from step 0", PPO, "first_step=settings.value_only_steps", "first_step=0"),
    Mutant("value learns at the policy's rate", PPO, "settings.value_learning_rate)", "rate)"),
    Mutant("Adam's epsilon forgotten", PPO, "eps=settings.adam_eps", "eps=1e-3"),
    Mutant("the same answers every step", PPO, "self._sampling(1 + index)", "self._sampling(1)"),
    Mutant("answers per prompt ignored", PPO, "for _ in range(each)]", "for _ in range(1)] * each"),
    Mutant("top_p ignored", PPO, "top_p=s.top_p,", "top_p=1.0,"),
    Mutant("reference is the policy", ROLL, "logprobs(roles.reference)", "logprobs(roles.policy)"),
    Mutant("KL charged as a reward", GAE, "-kl_coef * k1", "kl_coef * k1"),
    Mutant("score paid at the first token", GAE, "response_mask_BR.sum(1) - 1", "response_mask_BR.sum(1) * 0"),
    Mutant("no value after the next token", GAE, "+ gamma * next_value_B - values", "- values"),
    Mutant("an answer compared with itself too", GAE, "* (answers / (answers - 1))", "* 1.0", ("tests/test_algo.py",)),
    Mutant("price falls where KL is too high", KL, "self.coef *= 1 + error", "self.coef *= 1 - error"),
    Mutant("minimum of the losses", LOSSES,
           "ClippedLoss(torch.maximum(plain_T, bounded_T)",
           "ClippedLoss(torch.minimum(plain_T, bounded_T)"),
    Mutant("value loss not halved", LOSSES,
           "0.5 * torch.maximum(plain_T, clipped_T)",
           "torch.maximum(plain_T, clipped_T)"),
    Mutant("margin added", LOSSES, "difference_P - margin_P", "difference_P + margin_P"),
    Mutant("a tie counts twice", LOSSES, "-0.5 * (F.logsigmoid", "-1.0 * (F.logsigmoid"),
    Mutant("both bad pushes up", LOSSES, "-F.logsigmoid(-scores_P)", "-F.logsigmoid(scores_P)"),
    Mutant("variance not scaled away", STATS,
           "return shifted * torch.rsqrt",
           "return shifted * 0 + shifted * 2 * torch.rsqrt"),
    Mutant("margin ignored", REWARD, "self.settings.margin * (pair.strength - 1)", "0.0 * (pair.strength - 1)"),
    Mutant("weights of ties ignored", REWARD, "(self.settings.tie_weight if pair.tie else 1.0)", "1.0"),
    Mutant("both bad ignored", REWARD, "self.settings.both_bad_weight * pair.both_bad", "0.0 * pair.both_bad"),
    Mutant("batch weighed by itself", REWARD, "weight = len(votes) * self.mean_weight", "weight = 1.0 * len(votes)"),
    Mutant("chosen and rejected swapped", REWARD,
           "chosen += [start + i for i, _ in vote.order]",
           "chosen += [start + j for _, j in vote.order]"),
    Mutant("scores centred only in the end", REWARD,
           "        self._centre()\n        return super",
           "        return super",
           WIRED),
    Mutant("SFT trained on held-out rows", SFT,
           "self.rows, self.heldout = train.rows, heldout.rows",
           "self.rows, self.heldout = heldout.rows, train.rows"),
    Mutant("SFT loss by answer, not by token", SFT, "logprobs_T.sum() / tokens", "logprobs_T.mean() / len(rows)"),
    Mutant("no clip of gradients", OPTIM, "self.settings.max_grad_norm)", "1e9)"),
    Mutant("no weight decay", OPTIM, "weight_decay=settings.weight_decay", "weight_decay=0.0"),
    Mutant("no warm-up", OPTIM, "if step < warm_steps:", "if False:"),
    Mutant("an order that knows no seed", ORDER, "(seed * 1_000_003 + epoch)", "(epoch)"),
    Mutant("the first of several measurements is kept", LOOP,
           "evaluation.quality > self.best.quality or",
           "False or",
           KEPT),
    Mutant("an earlier adapter kept without evidence", LOOP,
           "not clearly_less(last.each, self.best.each)",
           "last.quality >= self.best.quality",
           KEPT),
    Mutant("trial leaves the last rate's weights", RATES,
           "    stage.load_tensors(start)\n    rate, count",
           "    rate, count",
           FREE),
    Mutant("the worst rate wins", RATES,
           "if clearly_less(losses[rate], losses[suggested])",
           "if clearly_less(losses[suggested], losses[rate])",
           FREE),
    Mutant("steering the wrong way", PACE,
           "math.sqrt(wanted / math.sqrt(moved))",
           "math.sqrt(math.sqrt(moved) / wanted)",
           FREE),
    Mutant("updates too far are kept", PPO, "while moved > most and kept > LEAST_KEPT:", "while False:", FREE),
    Mutant("evidence of nothing", INTERVALS, "mean < -errors * math.sqrt(variance / count)", "True", FREE + KEPT),
    Mutant("the probe knows no ties", PROBE, "(p_P - target_P)", "(p_P - 1.0)", FREE),
    # what was found since
    Mutant("rounding is taken for movement", PPO, "if self._exact or near > ROUNDING * tokens:", "if True:", FREE),
    Mutant("cut answers decide everything", PPO, "if sum(ended) >= OFTEN_CUT * len(ended) else None", "", FREE),
    Mutant("a reward model's sums on the processor", REWARD,
           "float(right)], device=base.device)",
           "float(right)])",
           ("tests/test_card.py",)),
    Mutant("other bases' votes count", VOTES, "base IN ('', (SELECT base FROM scope))", "1", APART),
    Mutant("an engine forgets its base", "lorarlhf/engine/core.py",
           'self.store.belong(str(base.identity["fingerprint"]))',
           "pass",
           WIRED),
    Mutant("votes are not practised on", "lorarlhf/data/practice.py",
           'store.lessons("ppo") if "votes" in sources',
           '[] if "votes" in sources',
           APART + WIRED),
    Mutant("an export may run on", REPLAY, "len(answer) > ENDS_AFTER + 1", "False", REFUSED),
    Mutant("an export may read other tokens", REPLAY, "if asked != rows[number][0]:", "if False:", REFUSED),
    Mutant("B means A", PAIRS, "comparison = comparison.swap()", "pass", PAIRED),
    Mutant("a ranking counts as all its pairs", PAIRS, "weight=1 / len(couples)", "weight=1.0", PAIRED),
    Mutant("answers without an end", CHAT, "return [*ids, eos_id] if end", "return [*ids] if end", SPOKEN),
    Mutant("each answer behind its own prompt", COMMON,
           "max(len(tokens) for tokens in encoded)",
           "len(encoded[0])",
           WIRED),
    Mutant("scores read at strange endings", "lorarlhf/sampling.py",
           "    if tokens and tokens[-1] == base.eos_id:\n",
           "    if True:\n",
           WIRED),
)  # fmt: skip


def killed(mutant: Mutant, tree: Path) -> tuple[bool, str]:
    """Break the copy, run the tests that should notice, and mend it → whether any failed, and the last line said."""
    file = tree / mutant.file
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(mutant.right, mutant.wrong, 1), encoding="utf-8")
    # The copy stands before what is installed.
    env = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-n", "0", "-q", "-p", "no:warnings", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run([*command, *mutant.tests], cwd=tree, env=env, capture_output=True, text=True, timeout=600)
        return done.returncode == 1, (done.stdout.strip().splitlines() or [""])[-1][:160]
    finally:
        file.write_text(text, encoding="utf-8")


def main() -> None:
    """Try all mutants, and say which live."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="mutants whose name holds this")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", "__pycache__", "*.egg-info"))
        for mutant in MUTANTS:
            if args.only not in mutant.name:
                continue
            began = time.perf_counter()
            dead, said = killed(mutant, tree)
            rows.append({"mutant": mutant.name, "file": mutant.file, "killed": dead, "said": said})
            rows[-1]["seconds"] = round(time.perf_counter() - began, 1)
            print(f"{'killed' if dead else 'LIVES '}  {mutant.name}", file=sys.stderr)
    alive = [row["mutant"] for row in rows if not row["killed"]]
    counts = {"mutants": len(rows), "killed": len(rows) - len(alive), "alive": alive}
    write(circumstances() | counts | {"rows": rows}, args.out)
    sys.exit(bool(alive))


if __name__ == "__main__":
    main()
