"""Which reward models the person looked at before they let PPO loose on them. Kept in the workspace; no Gradio."""

from __future__ import annotations

from lorarlhf.errors import TrainingError
from lorarlhf.evaluate.health import judge_of
from lorarlhf.library import SavedAdapter
from lorarlhf.settings import Settings
from lorarlhf.store import Store
from lorarlhf.ui.desk import Desk

LOOK = "Reward model"
"""Where they are looked at, as that section of the Judge tab is called."""
LOOKED = "reward models looked at"
"""Name in the workspace: what a reward model is by content → `seen` or `skipped`."""


class UnseenReward(TrainingError):  # noqa: N818 - says what is so
    """PPO was asked for on a reward model whose figures nobody has looked at."""


def remember(store: Store, reward: SavedAdapter, how: str) -> None:
    """Note that the person has `seen` a reward model's figures, or `skipped` them."""
    with store.transaction():
        looked = store.get_meta(LOOKED, {})
        if looked.get(judge_of(reward)) not in ("seen", how):
            store.set_meta(LOOKED, {**looked, judge_of(reward): how})


def unseen(store: Store, reward: SavedAdapter) -> bool:
    """Tell whether the person neither saw a reward model's figures nor asked to skip them."""
    return judge_of(reward) not in store.get_meta(LOOKED, {})


def check_looked(store: Store, reward: SavedAdapter | None, *, skip: bool = False) -> None:
    """Raise `UnseenReward` unless the reward model was looked at; `skip` remembers that it need not be."""
    if reward is None or not unseen(store, reward):
        return
    if not skip:
        raise UnseenReward(f"You have not looked yet how good {reward.name} is, which would judge in your place")
    remember(store, reward, "skipped")


def reward_for(desk: Desk, stage: str, settings: Settings) -> SavedAdapter | None:
    """Find the reward model that a stage would follow: the one it names, else the newest; None for other stages."""
    if stage != "ppo":
        return None
    if named := getattr(settings, "reward", ""):
        return next((saved for saved in desk.adapters("reward") if saved.name == named), None)
    return desk.newest("reward")
