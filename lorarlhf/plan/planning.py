"""The plan of a stage: its peak against what there is, its time, and what to change where it does not fit.

`make_plan` is a function of (shape of the base as it is loaded, settings of the stage) and of whatever else is known:
lengths of the data, adapters in memory, a probe of this machine. Knows nothing of torch or of this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lorarlhf.errors import SettingsError
from lorarlhf.plan.memory import PARTS, Correction, Load, Phase, phases, resident_bytes
from lorarlhf.plan.shapes import SHAPES
from lorarlhf.plan.work import BatchOf, Data, Effort, Roles, Work, assumed, default_roles, work_of
from lorarlhf.settings import STAGES, Settings

ERROR = 0.1
"""What predictions of the peak may be wrong by, as `benchmarks/plan_check.py` checks."""
LEAST = {"micro_batch_tokens": 64, "rollout_rows": 1, "rank": 4}
"""Settings that may be halved when memory is short, and where that ends."""
SHRINKABLE = ("micro_batch_tokens", "rollout_rows", "gradient_checkpointing", "rank")
"""Settings to change for memory, those that change no numbers first."""
WORDS = {
    "micro_batch_tokens": "fewer tokens per pass: same numbers, somewhat slower",
    "rollout_rows": "fewer answers drawn side by side: same numbers, slower",
    "gradient_checkpointing": "recompute activations: same numbers, about a third slower",
    "rank": "a smaller adapter, which learns less",
    "bits": "4-bit weights",
    "base": "a smaller base",
}


@dataclass(frozen=True)
class Probed:
    """What a probe found out about this machine."""

    pace: Effort
    """Seconds of each piece of work."""
    correction: Correction = Correction()  # noqa: RUF009 - frozen
    heap: float | None = None
    """Bytes that the C library keeps back on a CPU."""
    measured: dict[str, Any] | None = None
    """The measurements themselves, to show."""


@dataclass(frozen=True)
class Advice:
    """A change that makes room, and what it comes to."""

    text: str
    settings: dict[str, Any]
    load: dict[str, Any]
    peak_bytes: int
    fits: bool


@dataclass(frozen=True)
class Plan:
    """What a stage will take."""

    stage: str
    load: Load
    work: Work
    phases: tuple[Phase, ...]
    available: int | None
    """Bytes the stage may take, base and program included; None where nobody said."""
    seconds: dict[str, float] | None = None
    """Phase → seconds in the whole run; None without a probe."""
    probed: Probed | None = None
    advice: tuple[Advice, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def peak(self) -> Phase:
        """The phase that takes most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def fits(self) -> bool | None:
        """Tell whether there is room; None where nobody said how much there is."""
        return None if self.available is None else self.peak.total <= self.available

    @property
    def tight(self) -> bool:
        """Tell whether it fits by less than predictions may be wrong."""
        return bool(self.fits) and self.peak.total > (1 - ERROR) * (self.available or 0)

    def as_json(self) -> dict[str, Any]:
        """Put it into plain values; sizes are bytes."""
        return {
            "stage": self.stage,
            "base": self.load.shape.name,
            "bits": self.load.bits,
            "number_bytes": self.load.item,
            "device": self.load.device,
            "peak_bytes": self.peak.total,
            "peak_phase": self.peak.name,
            "parts": {part: round(self.peak.parts.get(part, 0)) for part in PARTS},
            "phases": [
                {"phase": p.name, "bytes": p.total, "parts": {part: round(p.parts.get(part, 0)) for part in PARTS}}
                for p in self.phases
            ],
            "available_bytes": self.available,
            "fits": self.fits,
            "tight": self.tight,
            "steps": self.work.steps,
            "seconds": None if self.seconds is None else round(sum(self.seconds.values()), 3),
            "seconds_by_phase": None if self.seconds is None else {k: round(v, 3) for k, v in self.seconds.items()},
            "probe": None if self.probed is None else self.probed.measured,
            "advice": [vars(advice) for advice in self.advice],
            "notes": list(self.notes),
        }


def make_plan(
    stage: str,
    settings: Settings,
    load: Load,
    *,
    available: int | None = None,
    data: Data | None = None,
    roles: Roles | None = None,
    probed: Probed | None = None,
    runtime: float | None = None,
    batch_of: BatchOf | None = None,
    notes: tuple[str, ...] = (),
) -> Plan:
    """Plan one stage; whatever is not given is assumed, and `notes` says so.

    `roles` are the adapters in memory, `runtime` the bytes of the program without a base, `batch_of` the stage's own
    way to choose examples. Raises `SettingsError` for settings of another stage.
    """
    if not isinstance(settings, STAGES[stage]):
        raise SettingsError(f"these are no settings of {stage}; pass {STAGES[stage].__name__}")
    data = data or assumed(stage, settings)
    roles = roles or default_roles(stage, settings.rank, getattr(settings, "critic", ""))  # type: ignore[attr-defined]
    plan = _planned(stage, settings, load, available, data, roles, probed, runtime, batch_of)
    said = [*notes, *data.said]
    if stage == "ppo" and not data.drawn:
        said.append("no answers drawn yet: each was taken to be as long as max_new_tokens allows, so PPO may be faster")
    elif stage == "ppo":
        said.append(
            f"answers as long as the {len(data.drawn)} seen in votes for the time, max_new_tokens for the memory"
        )
    if load.shape.like:
        said.append("its architecture is not one the planner knows: layers were taken to be like Llama's")
    advice: tuple[Advice, ...] = ()
    if plan.fits is False:
        advice = tuple(_advise(plan, settings, data, roles, probed, runtime, batch_of))
    return replace(plan, notes=tuple(said), advice=advice)


def _planned(
    stage: str,
    settings: Settings,
    load: Load,
    available: int | None,
    data: Data,
    roles: Roles,
    probed: Probed | None,
    runtime: float | None,
    batch_of: BatchOf | None,
) -> Plan:
    work = work_of(settings, data, roles, batch_of, padded=not load.packs)
    if probed:
        found = phases(load, work.demand, probed.correction, runtime, probed.heap)
    else:
        found = phases(load, work.demand, runtime=runtime)
    seconds = {name: effort.seconds(probed.pace) for name, effort in work.efforts.items()} if probed else None
    return Plan(stage, load, work, tuple(found), available, seconds, probed)


# -- what to change -------------------------------------------------------------------------------------------


def _advise(
    plan: Plan,
    settings: Settings,
    data: Data,
    roles: Roles,
    probed: Probed | None,
    runtime: float | None,
    batch_of: BatchOf | None,
) -> Iterator[Advice]:
    """Plan again with one setting changed at a time, then with all of them, then with another base."""
    assert plan.available is not None
    available = plan.available

    def again(changes: dict[str, Any], load: Load) -> Plan:
        changed = type(settings).parse({**settings.model_dump(), **changes})
        ranks = _ranks(roles, settings, changes.get("rank"))
        return _planned(plan.stage, changed, load, available, data, ranks, probed, runtime, batch_of)

    def least(name: str, before: dict[str, Any]) -> tuple[dict[str, Any], Plan] | None:
        """Find the smallest change of one setting that is enough, else the one that helps most."""
        best = None
        now = again(before, plan.load)
        for value in _values(settings, name):
            tried = again({**before, name: value}, plan.load)
            if tried.peak.total >= now.peak.total:
                break  # it is not what takes the memory
            best, now = ({**before, name: value}, tried), tried
            if tried.fits:
                break
        return best

    alone = [found for name in SHRINKABLE if (found := least(name, {}))]
    yield from (_advice(changes, {}, tried) for changes, tried in alone)
    if plan.load.bits > 4:
        yield _advice({}, {"bits": 4}, again({}, replace(plan.load, bits=4)))
    if any(tried.fits for _, tried in alone):
        return
    together: dict[str, Any] = {}
    for name in SHRINKABLE:
        if found := least(name, together):
            together = found[0]
            if found[1].fits:
                yield _advice(together, {}, found[1])
                return
    mine = resident_bytes(plan.load.shape, plan.load.bits, plan.load.item)
    for shape in reversed(SHAPES):
        load = replace(plan.load, shape=shape, bits=4)
        if resident_bytes(shape, 4, load.item) < mine:
            for changes in ({}, together):
                if (tried := again(changes, load)).fits:
                    yield _advice(changes, {"base": shape.name}, tried)
                    return


def _values(settings: Settings, name: str) -> Iterator[Any]:
    now = getattr(settings, name, None)
    if name == "gradient_checkpointing":
        yield from [] if now else [True]
    while name in LEAST and now is not None and now // 2 >= LEAST[name]:
        now //= 2
        yield now


def _ranks(roles: Roles, settings: Settings, rank: int | None) -> Roles:
    """Give new adapters another rank; those that copy a saved one keep theirs."""
    if rank is None:
        return roles
    old = settings.rank  # type: ignore[attr-defined]
    return replace(
        roles,
        trained=tuple(rank if r == old else r for r in roles.trained),
        frozen=tuple(rank if r == old else r for r in roles.frozen),
    )


def _advice(settings: dict[str, Any], load: dict[str, Any], plan: Plan) -> Advice:
    changes = {**load, **settings}
    flags = " ".join(_flag(name, value) for name, value in changes.items())
    why = WORDS[next(iter(changes))] if len(changes) == 1 else "together"
    return Advice(f"{flags} ({why})", settings, load, plan.peak.total, bool(plan.fits))


def _flag(name: str, value: Any) -> str:
    flag = "--" + name.replace("_", "-")
    return flag if value is True else f"{flag} {value}"
