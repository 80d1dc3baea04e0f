"""Rare records of WAL that a plan must know of, as events: restore points, settings, tablespaces, databases, timelines.

Sources: ``pg_control.h`` (CheckPoint, info values of RM_XLOG), ``xlog_internal.h`` (xl_parameter_change,
xl_restore_point, xl_end_of_recovery), ``dbcommands_xlog.h``, ``tablespace.h``, ``xlog.h`` (WalLevel).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from datetime import datetime

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.postgres.walfacts import Event, EventKind
from holdfast.postgres.walrecords import OPERATION, Manager, Record, moment

SWITCH = 0x40
"""RM_XLOG: the rest of the segment holds nothing."""
_SHUTDOWN, _PARAMETERS, _RESTORE_POINT, _FULL_PAGE_WRITES, _END_OF_RECOVERY = 0x00, 0x60, 0x70, 0x80, 0x90
_BY_COPY, _BY_WAL, _DATABASE_DROPPED = 0x00, 0x10, 0x20
_TABLESPACE, _TABLESPACE_DROPPED = 0x00, 0x10
_WAL_LEVELS = ("minimal", "replica", "logical")
_CHECKPOINT_19 = 96
"""Bytes of CheckPoint in PostgreSQL 19; 88 before."""
_SINCE_1970 = 946_684_800
"""Seconds from 1970 to 2000."""

Read = tuple[datetime | None, str]


def is_event(manager: int, info: int) -> bool:
    return (manager, info & OPERATION) in _KINDS


def event_of(record: Record) -> Event | None:
    """None for a record that is no event. Raises :class:`~holdfast.errors.Damaged` for one that cannot be read."""
    found = _KINDS.get((record.manager, record.info & OPERATION))
    if found is None:
        return None
    kind, read = found
    try:
        time, detail = read(record.data)
    except (struct.error, IndexError) as error:
        raise Damaged(
            _("the WAL record at {lsn} cannot be taken apart: {error}").format(lsn=record.lsn, error=error)
        ) from error
    return Event(kind=kind, lsn=record.lsn, end=record.end, time=time, detail=detail)


def _shutdown(data: bytes) -> Read:
    (seconds,) = struct.unpack_from("<q", data, 72 if len(data) == _CHECKPOINT_19 else 64)
    return moment((seconds - _SINCE_1970) * 1_000_000), ""


def _restore_point(data: bytes) -> Read:
    (when,) = struct.unpack_from("<q", data)
    return moment(when), _text(data[8:])


def _parameters(data: bytes) -> Read:
    connections, workers, senders, prepared, locks, level = struct.unpack_from("<6i", data)
    found = {
        "max_connections": connections,
        "max_worker_processes": workers,
        "max_wal_senders": senders,
        "max_prepared_transactions": prepared,
        "max_locks_per_transaction": locks,
        "wal_level": _WAL_LEVELS[level],
    }
    return None, json.dumps(found)


def _full_page_writes(data: bytes) -> Read:
    return None, "on" if data[0] else "off"


def _end_of_recovery(data: bytes) -> Read:
    when, timeline, before = struct.unpack_from("<qII", data)
    return moment(when), f"{timeline} {before}"


def _tablespace(data: bytes) -> Read:
    return None, f"{_oid(data)} {_text(data[4:])}"


def _of_oid(data: bytes) -> Read:
    return None, str(_oid(data))


def _oid(data: bytes) -> int:
    (oid,) = struct.unpack_from("<I", data)
    return int(oid)


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "backslashreplace")


_KINDS: dict[tuple[int, int], tuple[EventKind, Callable[[bytes], Read]]] = {
    (Manager.XLOG, _SHUTDOWN): (EventKind.SHUTDOWN, _shutdown),
    (Manager.XLOG, _PARAMETERS): (EventKind.PARAMETERS, _parameters),
    (Manager.XLOG, _RESTORE_POINT): (EventKind.RESTORE_POINT, _restore_point),
    (Manager.XLOG, _FULL_PAGE_WRITES): (EventKind.FULL_PAGE_WRITES, _full_page_writes),
    (Manager.XLOG, _END_OF_RECOVERY): (EventKind.END_OF_RECOVERY, _end_of_recovery),
    (Manager.TBLSPC, _TABLESPACE): (EventKind.TABLESPACE, _tablespace),
    (Manager.TBLSPC, _TABLESPACE_DROPPED): (EventKind.TABLESPACE_DROPPED, _of_oid),
    (Manager.DBASE, _BY_COPY): (EventKind.DATABASE, _of_oid),
    (Manager.DBASE, _BY_WAL): (EventKind.DATABASE, _of_oid),
    (Manager.DBASE, _DATABASE_DROPPED): (EventKind.DATABASE_DROPPED, _of_oid),
}
