"""What is said while WAL streams: the server's messages, our feedback, and what it tells of itself. Bytes and values.

Framing: PostgreSQL's manual, "Streaming Replication Protocol": ``w`` XLogData, ``k`` primary keepalive, ``r`` standby
status update. Clocks are microseconds since 2000-01-01 UTC.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.protocol import Row

_DATA = struct.Struct(">cQQq")
_KEEPALIVE = struct.Struct(">cQq?")
_FEEDBACK = struct.Struct(">cQQQq?")
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WalData:
    start: Lsn
    content: memoryview
    """In memory of its own."""
    server_end: Lsn
    """How far the server has written."""
    clock: datetime
    """The server's, when it sent this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keepalive:
    server_end: Lsn
    """How far the server has sent."""
    clock: datetime
    reply: bool
    """Whether the server wants feedback at once; :class:`WalSession` does not answer by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEnds:
    """The timeline that was asked for is over: its WAL was sent up to ``switch``; the session may stream again.

    A standby that is promoted may have sent more: the first half of a record whose second half never came. What lies
    beyond ``switch`` on that timeline is of no use.
    """

    next_timeline: int
    switch: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    system_identifier: int
    timeline: int
    flushed: Lsn
    in_recovery: bool
    """A standby: it may be behind what its primary once sent, and catch up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """What a walsender tells of a physical slot; :mod:`holdfast.postgres.slot_watch` asks for more."""

    name: str
    restart_lsn: Lsn | None
    """The oldest WAL that it keeps; None: none, because it was invalidated, or never used."""


Message = WalData | Keepalive | TimelineEnds


def parse_stream(data: memoryview) -> WalData | Keepalive:
    """One CopyData message of the server's. Raises :class:`~holdfast.errors.Damaged` for one that is not known."""
    if len(data) > _DATA.size and data[0] == ord("w"):
        _kind, start, end, clock = _DATA.unpack_from(data)
        return WalData(start=Lsn(start), content=data[_DATA.size :], server_end=Lsn(end), clock=_time(clock))
    if len(data) == _KEEPALIVE.size and data[0] == ord("k"):
        _kind, end, clock, reply = _KEEPALIVE.unpack(data)
        return Keepalive(server_end=Lsn(end), clock=_time(clock), reply=reply)
    raise Damaged(
        _("the server's stream of WAL holds a message that is not known: {message!r}").format(message=bytes(data[:20])),
        hint=_("Use a Holdfast that knows this PostgreSQL."),
    )


def feedback(*, written: Lsn, flushed: Lsn, applied: Lsn, clock: datetime, reply: bool = False) -> bytes:
    """A standby status update: ``r`` and its fields."""
    return _FEEDBACK.pack(b"r", written, flushed, applied, (clock - _EPOCH) // _MICROSECOND, reply)


def parse_timeline_ends(rows: list[Row]) -> TimelineEnds:
    """The result set that follows the end of a timeline."""
    ((timeline, switch, *_rest),) = rows
    return TimelineEnds(next_timeline=int(timeline or 0), switch=Lsn.parse(switch or ""))


def _time(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
