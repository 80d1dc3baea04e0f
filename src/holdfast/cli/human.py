"""Numbers and moments as people read them, in the language. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo

from holdfast.messages import _, ngettext


def size(nbytes: int) -> str:
    """Bytes in binary units with three digits: ``1.50 GiB``."""
    if abs(nbytes) < 1024:
        return f"{nbytes} B"
    value = float(nbytes)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        value /= 1024
        if abs(value) < 999.5 or unit == "EiB":
            break
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{decimals}f} {unit}"


def duration(length: timedelta) -> str:
    """A length of time in its two largest units: ``3 h 5 min``."""
    seconds = length.total_seconds()
    if seconds < 0:
        return "-" + duration(-length)
    if seconds < 1:
        return _("{number} ms").format(number=round(seconds * 1000))
    if seconds < 59.95:
        return _("{number} s").format(number=f"{seconds:.1f}".removesuffix(".0"))
    whole = round(seconds)
    units = ((86400, _("{number} d")), (3600, _("{number} h")), (60, _("{number} min")), (1, _("{number} s")))
    first = next(index for index, (unit, _text) in enumerate(units) if whole >= unit)
    large, small = units[first : first + 2]
    text = large[1].format(number=whole // large[0])
    rest = whole % large[0] // small[0]
    return f"{text} {small[1].format(number=rest)}" if rest else text


def relative(moment: datetime, now: datetime) -> str:
    """``5 minutes ago``, ``in 2 hours``, ``just now``. Both moments are aware."""
    seconds = (moment - now).total_seconds()
    if abs(seconds) < 10:
        return _("just now")
    length = _rounded(abs(seconds))
    return (_("in {length}") if seconds > 0 else _("{length} ago")).format(length=length)


def moment(when: datetime, zone: tzinfo | None = None) -> str:
    """Date, time and offset in ``zone`` (the machine's own without one): ``2026-11-22 14:03:22+08:00``."""
    return when.astimezone(zone).isoformat(sep=" ", timespec="seconds")


def _rounded(seconds: float) -> str:
    if seconds < 90:
        number = round(seconds)
        text = ngettext("{number} second", "{number} seconds", number)
    elif seconds < 90 * 60:
        number = round(seconds / 60)
        text = ngettext("{number} minute", "{number} minutes", number)
    elif seconds < 36 * 3600:
        number = round(seconds / 3600)
        text = ngettext("{number} hour", "{number} hours", number)
    else:
        number = round(seconds / 86400)
        text = ngettext("{number} day", "{number} days", number)
    return text.format(number=number)
