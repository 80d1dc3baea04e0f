"""What TARGET means: text in, value out. The moment to recover to, as people write it.

``latest`` · a time (``2026-11-22 14:03``, ``2026-11-22T14:03:22.5+08:00``, ``14:03``, ``yesterday 14:03``,
``10 minutes ago``, ``昨天 14:03``, ``10 分钟前``) · ``lsn:0/3000060`` · ``xid:1234`` · ``name:before_migration`` ·
``snapshot:ID`` (``snapshot:latest``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from enum import StrEnum
from functools import partial

from holdfast.errors import UsageError
from holdfast.messages import _
from holdfast.postgres.lsn import Lsn

_UNITS = {
    timedelta(seconds=1): "s|secs?|seconds?|秒钟?",
    timedelta(minutes=1): "m|mins?|minutes?|分钟?",
    timedelta(hours=1): "h|hrs?|hours?|个?小时|个?钟头",
    timedelta(days=1): "d|days?|天",
    timedelta(weeks=1): "w|weeks?|周|个?星期",
}
_AGO = tuple(
    (unit, re.compile(rf"(an?|one|\d{{1,9}}(?:\.\d{{1,6}})?)\s*(?:{names})\s*(?:ago|前|之前|以前)", re.IGNORECASE))
    for unit, names in _UNITS.items()
)
_DAYS = {"today": 0, "今天": 0, "yesterday": 1, "昨天": 1, "前天": 2}
_TIME = re.compile(
    r"(?:(?P<year>\d{4})[-/年](?P<month>\d{1,2})[-/月](?P<day>\d{1,2})日?(?:[Tt]|\s*)"
    rf"|(?P<named>{'|'.join(_DAYS)})\s*)?"
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"\s*(?P<zone>Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?",
    re.IGNORECASE,
)
_MAX_XID = 1 << 32
_MAX_NAME_BYTES = 63
"""``MAXFNAMELEN`` less its terminator (``pg_create_restore_point``)."""


Moment = Callable[[], datetime]


class TargetKind(StrEnum):
    LATEST = "latest"
    TIME = "time"
    LSN = "lsn"
    XID = "xid"
    NAME = "name"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedTarget:
    kind: TargetKind
    text: str
    """As it was written, for people."""
    time: datetime | None = None
    """Aware; for TIME."""
    value: str = ""
    """LSN, xid (32 bits, decimal), name, or which snapshot."""
    inclusive: bool = True
    """Whether what lies exactly there is kept."""
    timeline: int | None = None
    """None: the newest that is held (``latest``); a number; ``current`` (that of the snapshot) is :attr:`current`."""
    current: bool = False
    zone: tzinfo = field(default=UTC)
    """In which times are told to whoever asked."""


def parse_target(
    text: str, *, now: datetime, zone: tzinfo, inclusive: bool = True, timeline: str = "latest"
) -> WantedTarget:
    """Raises :class:`~holdfast.errors.UsageError` that shows the forms. A time without a zone is in ``zone``; one that
    does not exist or exists twice there (daylight saving) is refused with both instants named."""
    kind, value, time = _read(text.strip(), now=now, zone=zone)
    if not inclusive and kind in (TargetKind.LATEST, TargetKind.SNAPSHOT):
        raise UsageError(
            _("{target} has nothing at its end that could be left out").format(target=text.strip()),
            hint=_("Leave --exclusive out, or name a time, lsn:, xid: or name:."),
        )
    number, current = _timeline(timeline.strip())
    return WantedTarget(
        kind=kind,
        text=text.strip(),
        time=time,
        value=value,
        inclusive=inclusive,
        timeline=number,
        current=current,
        zone=zone,
    )


def _read(text: str, *, now: datetime, zone: tzinfo) -> tuple[TargetKind, str, datetime | None]:
    if text.lower() == "latest":
        return TargetKind.LATEST, "", None
    prefix, colon, value = text.partition(":")
    value = value.strip()
    if colon and prefix.lower() in ("lsn", "xid", "name", "snapshot"):
        kind = TargetKind(prefix.lower())
        if not value:
            raise _unknown(text)
        return kind, _CHECKS[kind](value), None
    return TargetKind.TIME, "", _time(text, now=now, zone=zone)


def _xid(value: str) -> str:
    """With or without its epoch, as ``pg_current_xact_id()`` and ``txid_current()`` show it: WAL knows 32 bits."""
    if not (value.isascii() and value.isdecimal() and int(value) % _MAX_XID >= 3 and int(value) < 1 << 64):
        raise UsageError(
            _("{value!r} is not a transaction id").format(value=value),
            hint=_("It is a number, as pg_current_xact_id() and `holdfast log` show it: xid:1234."),
        )
    return str(int(value) % _MAX_XID)


def _name(value: str) -> str:
    if len(value.encode("utf-8", "surrogateescape")) > _MAX_NAME_BYTES:
        raise UsageError(
            _("{value!r} is not the name of a restore point").format(value=value),
            hint=_("A name has at most 63 bytes, as pg_create_restore_point() takes it."),
        )
    return value


_CHECKS: dict[TargetKind, Callable[[str], str]] = {
    TargetKind.LSN: lambda value: str(Lsn.parse(value)),
    TargetKind.XID: _xid,
    TargetKind.NAME: _name,
    TargetKind.SNAPSHOT: lambda value: value,
}


def _timeline(text: str) -> tuple[int | None, bool]:
    if text.lower() in ("latest", "current"):
        return None, text.lower() == "current"
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) < 1 << 32):
        raise UsageError(
            _("{text!r} is no timeline").format(text=text),
            hint=_("Write --timeline latest, --timeline current, or a number as in pg_control_checkpoint()."),
        )
    return int(text), False


def _time(text: str, *, now: datetime, zone: tzinfo) -> datetime:
    plain = " ".join(text.replace("：", ":").split())
    for unit, pattern in _AGO:
        if match := pattern.fullmatch(plain):
            number = 1.0 if match[1][0] in "aAoO" else float(match[1])
            return _past(partial(_before, now, unit, number), text, now=now, zone=zone)
    match = _TIME.fullmatch(plain)
    if match is None:
        raise _unknown(text)
    try:
        local = _local(match, today=now.astimezone(zone).date())
        offset = _offset(match["zone"])
    except (ValueError, OverflowError):
        raise _unknown(text) from None
    if offset is not None:
        return _past(lambda: local.replace(tzinfo=offset), text, now=now, zone=zone)
    return _past(lambda: _unambiguous(local, zone, text), text, now=now, zone=zone)


def _before(now: datetime, unit: timedelta, number: float) -> datetime:
    return now - unit * number


def _local(match: re.Match[str], *, today: date) -> datetime:
    if match["year"]:
        day = date(int(match["year"]), int(match["month"]), int(match["day"]))
    else:
        day = today - timedelta(days=_DAYS[match["named"].lower()] if match["named"] else 0)
    microsecond = int((match["fraction"] or "").ljust(6, "0")[:6])
    return datetime(  # noqa: DTZ001  its zone comes afterwards
        day.year, day.month, day.day, int(match["hour"]), int(match["minute"]), int(match["second"] or 0), microsecond
    )


def _offset(text: str | None) -> timezone | None:
    if text is None:
        return None
    if text[0] not in "+-":
        return UTC
    digits = text[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if minutes > 59:
        raise ValueError(text)
    length = timedelta(hours=hours, minutes=minutes)
    return timezone(length if text[0] == "+" else -length)


def _unambiguous(local: datetime, zone: tzinfo, text: str) -> datetime:
    first, second = (local.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return first
    exists = first.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == local
    instants = sorted(moment.astimezone(UTC) for moment in (first, second))
    one, other = (_shown(moment.astimezone(zone)) for moment in instants)
    raise UsageError(
        _("{text} exists twice in {zone}: clocks were set back").format(text=text, zone=zone)
        if exists
        else _("{text} does not exist in {zone}: clocks were set forward").format(text=text, zone=zone),
        hint=_("Write which you mean: '{one}' or '{other}'.").format(one=one, other=other),
    )


def _past(moment: Moment, text: str, *, now: datetime, zone: tzinfo) -> datetime:
    try:
        found = moment()
        found.astimezone(UTC)
    except OverflowError:
        raise _unknown(text) from None
    if found > now:
        raise UsageError(
            _("{text} is in the future: now it is {now}").format(text=text, now=_shown(now.astimezone(zone))),
            hint=_("For the newest moment write --at latest; for one of the day before, --at 'yesterday 14:03'."),
        )
    return found


def _shown(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="microseconds" if moment.microsecond else "seconds")


def _unknown(text: str) -> UsageError:
    return UsageError(
        _("{text!r} is no moment to recover to").format(text=text),
        hint=_(
            "Write latest, a time ('2026-11-22 14:03', '2026-11-22T14:03:22.5+08:00', '14:03', 'yesterday 14:03', "
            "'10 minutes ago'), lsn:0/3000060, xid:1234, name:before_migration, or snapshot:ID."
        ),
    )
