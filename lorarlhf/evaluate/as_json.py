"""Figures as JSON. Kinds that show themselves otherwise than field by field are registered where they are defined."""

from __future__ import annotations

import math
from dataclasses import is_dataclass
from functools import singledispatch
from typing import Any

from lorarlhf.evaluate.statistics import Share
from lorarlhf.reading import Remark


@singledispatch
def as_json(value: Any) -> Any:
    """Write figures as JSON: records by the names of their fields, shares with their value, no number as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return as_json(vars(value))
    if isinstance(value, dict):
        return {name: as_json(own) for name, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@as_json.register
def _(share: Share) -> dict[str, Any]:
    return {name: as_json(value) for name, value in {**vars(share), "value": share.value}.items()}


@as_json.register
def _(remark: Remark) -> dict[str, Any]:
    return remark._asdict()
