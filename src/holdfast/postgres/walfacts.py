"""What a stretch of WAL says that planning, status and people need: times, transactions, rare events. Values only.

Found by :mod:`holdfast.postgres.walscan` while WAL streams; kept beside each piece as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any, TypeVar

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.postgres.lsn import Lsn

Json = dict[str, Any]
Value = TypeVar("Value")


MOST_RESTORE_POINTS = 10_000
"""In what is written of one piece."""


class EventKind(StrEnum):
    RESTORE_POINT = "restore_point"
    """``detail``: its name."""
    PARAMETERS = "parameters"
    """``detail``: JSON of :class:`~holdfast.postgres.facts.RecoveryLimits` and ``wal_level``."""
    TABLESPACE = "tablespace"
    """Created; ``detail``: ``OID PATH``."""
    TABLESPACE_DROPPED = "tablespace_dropped"
    DATABASE = "database"
    """Created; ``detail``: its OID."""
    DATABASE_DROPPED = "database_dropped"
    SHUTDOWN = "shutdown"
    """A shutdown checkpoint."""
    END_OF_RECOVERY = "end_of_recovery"
    """``detail``: the timeline that begins, and the one before."""
    FULL_PAGE_WRITES = "full_page_writes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    kind: EventKind
    lsn: Lsn
    """Where its record begins."""
    end: Lsn
    """One past its record, rounded up to where the next one may begin."""
    time: datetime | None = None
    detail: str = ""


class Outcome(StrEnum):
    COMMIT = "commit"
    ABORT = "abort"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A commit or abort record (of a prepared transaction too)."""

    outcome: Outcome
    xid: int
    time: datetime
    lsn: Lsn
    """Where its record begins."""
    end: Lsn
    prev: Lsn | None = None
    """Where the record before it begins; None: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WalFacts:
    """Of the records that *end* in a stretch of WAL."""

    start: Lsn
    """The stretch."""
    stop: Lsn
    records_end: Lsn | None = None
    """Where the last whole record ends: recovery through this WAL can get there; None: no record ends in it."""
    commits: int = 0
    aborts: int = 0
    first_time: datetime | None = None
    """The least and the greatest time of its commits and aborts: not in order of time, as clocks and locks have it."""
    last_time: datetime | None = None
    min_xid: int | None = None
    """Of commits and aborts; as numbers, without regard to wrapping around."""
    max_xid: int | None = None
    events: tuple[Event, ...] = field(default=())
    is_blind: bool = False
    """A record may have ended in it that began before anything was known: it is in none of the above."""

    def to_json(self) -> Json:
        """Short keys; positions and times are integers, times microseconds since 1970. What is empty is left out. Of
        more than :data:`MOST_RESTORE_POINTS` the first of each name are kept, and no more: anybody may make a sea of
        them, and what is said of a piece must stay small."""
        events, is_cut = _most(self.events)
        found = {
            "r": self.records_end,
            "c": self.commits or None,
            "a": self.aborts or None,
            "f": _microseconds(self.first_time),
            "l": _microseconds(self.last_time),
            "x": self.min_xid,
            "y": self.max_xid,
            "v": [
                [event.kind.value, int(event.lsn), int(event.end), _microseconds(event.time), event.detail]
                for event in events
            ]
            or None,
            "b": self.is_blind or is_cut or None,
        }
        return {
            "s": int(self.start),
            "e": int(self.stop),
            **{
                key: int(value) if isinstance(value, Lsn) else value
                for key, value in found.items()
                if value is not None
            },
        }

    @classmethod
    def from_json(cls, data: Json) -> WalFacts:
        """The inverse. Keys of later versions are passed over.

        Raises :class:`~holdfast.errors.Damaged` for what :meth:`to_json` cannot have written.
        """
        try:
            return cls(
                start=_lsn(data["s"]),
                stop=_lsn(data["e"]),
                records_end=_optional(_lsn, data.get("r")),
                commits=_count(data.get("c", 0)),
                aborts=_count(data.get("a", 0)),
                first_time=_optional(_moment, data.get("f")),
                last_time=_optional(_moment, data.get("l")),
                min_xid=_optional(_xid, data.get("x")),
                max_xid=_optional(_xid, data.get("y")),
                events=tuple(_event(*item) for item in _list(data.get("v", []))),
                is_blind=_flag(data.get("b", False)),
            )._in_range()
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise Damaged(_("the facts of a piece of WAL cannot be read: {error}").format(error=error)) from error

    def _in_range(self) -> WalFacts:
        """Raises ``ValueError`` for what no stretch of WAL can say."""
        ends = [event.end for event in self.events] + ([] if self.records_end is None else [self.records_end])
        if self.start > self.stop or any(not self.start < end <= self.stop for end in ends):
            raise ValueError(f"positions outside {self.start} to {self.stop}")
        extremes = (self.first_time, self.last_time, self.min_xid, self.max_xid)
        if {value is None for value in extremes} != {self.commits + self.aborts == 0}:
            raise ValueError(f"{self.commits} commits, {self.aborts} aborts, {extremes}")
        if (self.first_time and self.last_time and self.first_time > self.last_time) or (
            (self.min_xid or 0) > (self.max_xid or 0)
        ):
            raise ValueError(f"{extremes}")
        return self


def join(parts: Iterable[WalFacts]) -> WalFacts:
    """The facts of neighbouring stretches as those of one. Raises ``ValueError`` where one does not begin at the end of
    the one before."""
    known = list(parts)
    if not known:
        raise ValueError("no stretch of WAL to join")
    for before, after in pairwise(known):
        if before.stop != after.start:
            raise ValueError(f"no neighbours: one stops at {before.stop}, the next begins at {after.start}")
    return WalFacts(
        start=known[0].start,
        stop=known[-1].stop,
        records_end=max((part.records_end for part in known if part.records_end is not None), default=None),
        commits=sum(part.commits for part in known),
        aborts=sum(part.aborts for part in known),
        first_time=min((part.first_time for part in known if part.first_time is not None), default=None),
        last_time=max((part.last_time for part in known if part.last_time is not None), default=None),
        min_xid=min((part.min_xid for part in known if part.min_xid is not None), default=None),
        max_xid=max((part.max_xid for part in known if part.max_xid is not None), default=None),
        events=tuple(event for part in known for event in part.events),
        is_blind=any(part.is_blind for part in known),
    )


def _most(events: tuple[Event, ...]) -> tuple[tuple[Event, ...], bool]:
    """What of them is kept, and whether a name is left out by that."""
    if sum(event.kind is EventKind.RESTORE_POINT for event in events) <= MOST_RESTORE_POINTS:
        return events, False
    kept: list[Event] = []
    names: set[str] = set()
    is_cut = False
    for event in events:
        if event.kind is EventKind.RESTORE_POINT:
            if event.detail in names:
                continue
            if len(names) == MOST_RESTORE_POINTS:
                is_cut = True
                continue
            names.add(event.detail)
        kept.append(event)
    return tuple(kept), is_cut


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _microseconds(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND


def _moment(value: Any) -> datetime:
    return _EPOCH + timedelta(microseconds=_whole(value, -(1 << 62), 1 << 62))


def _optional(read: Callable[[Any], Value], value: Any) -> Value | None:
    return None if value is None else read(value)


def _whole(value: Any, least: int, greatest: int) -> int:
    if type(value) is not int or not least <= value <= greatest:
        raise ValueError(f"{value!r} is out of range")
    return value


def _lsn(value: Any) -> Lsn:
    return Lsn(_whole(value, 0, (1 << 64) - 1))


def _count(value: Any) -> int:
    return _whole(value, 0, (1 << 64) - 1)


def _xid(value: Any) -> int:
    return _whole(value, 0, (1 << 32) - 1)


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError(f"{value!r} is no flag")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def _event(kind: Any, lsn: Any, end: Any, time: Any, detail: Any) -> Event:
    if not isinstance(detail, str):
        raise TypeError(f"{detail!r} is no text")
    return Event(kind=EventKind(kind), lsn=_lsn(lsn), end=_lsn(end), time=_optional(_moment, time), detail=detail)
