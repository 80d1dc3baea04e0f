"""How decisions write sizes, lengths of time and moments into their texts. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from holdfast.messages import _


def size(number: int) -> str:
    """Bytes: ``9.1 GB``."""
    if number >= 10**9:
        return f"{number / 1e9:.1f} GB"
    return f"{number / 1e6:.1f} MB" if number >= 10**5 else f"{number} B"


def length(time: timedelta) -> str:
    """In one unit, rounded down: ``0.8 s``, ``12 min``."""
    seconds = max(time.total_seconds(), 0.0)
    if seconds < 120:
        number = f"{seconds:.1f}".removesuffix(".0") if seconds < 10 else str(int(seconds))
        return _("{number} s").format(number=number)
    if seconds < 2 * 3600:
        return _("{number} min").format(number=int(seconds // 60))
    if seconds < 48 * 3600:
        return _("{number} h").format(number=int(seconds // 3600))
    return _("{number} days").format(number=int(seconds // 86400))


def moment(when: datetime, now: datetime) -> str:
    """In the time zone of ``now``: ``14:03:22`` on its day, else with the date."""
    local = when.astimezone(now.tzinfo)
    return local.strftime("%H:%M:%S" if local.date() == now.date() else "%Y-%m-%d %H:%M:%S")
