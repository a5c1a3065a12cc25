"""PPO with or without a critic, as benchmarks are told on the command line."""

from __future__ import annotations

import argparse
from typing import Any

CRITICS = ("head", "none")
"""Those that need no adapter of their own; benchmarks make them on one reward adapter."""
ANSWERS = 4
"""To each prompt where there is no critic, out of as many answers a step as with one."""


def add_critic(parser: argparse.ArgumentParser, critics: tuple[str, ...] = CRITICS) -> None:
    """Add the option `--critic`."""
    text = f"what advantages compare with; none: {ANSWERS} answers to each prompt (RLOO)"
    parser.add_argument("--critic", choices=critics, default=critics[0], help=text)


def critic_settings(critic: str) -> dict[str, Any]:
    """Return the settings of PPO that go with a choice of critic."""
    return {"critic": critic, "answers_per_prompt": ANSWERS if critic == "none" else 1}
