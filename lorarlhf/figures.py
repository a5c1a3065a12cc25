"""Numbers and times as a reader wants them: one writer for pages, reports and the terminal."""

from __future__ import annotations

import math
from datetime import datetime


def figure(value: float, form: str) -> str:
    """Write a number in a form of Python's, as `+.2f`, with the minus of print, and none before a mere zero."""
    text = format(value, form)
    if math.isfinite(value) and not any(digit in text for digit in "123456789"):
        text = format(abs(value), form)
    return text.replace("-", "−")


def number(value: float, percent: bool = False) -> str:
    """Write a number as shortly as a reader needs it."""
    if percent:
        return f"{figure(100 * value, f'.{0 if abs(value) >= 0.1 else 1}f')} %".replace(".0 %", " %")
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
        text = figure(value, f".{min(digits, 5)}f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    return figure(value, ".1e")


def duration(seconds: float) -> str:
    """Write a time as people say it."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if seconds < 3600:
        return f"{round(seconds / 60)} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def moment(stamp: str) -> datetime:
    """Read the time of a row, in the time zone here; Python 3.10 does not read the Z."""
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).astimezone()


def clock(stamp: str, *, day: bool = False) -> str:
    """Write a time of the store's as a clock on the wall of this machine shows it."""
    # Python 3.10 does not read the Z.
    when = moment(stamp)
    return when.strftime("%d %b %H:%M" if day else "%H:%M")
