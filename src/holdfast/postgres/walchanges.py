"""Which rows of which tables each transaction changed, from WAL: what ``holdfast log`` shows.

Rows are counted by relation and kind until their transaction ends; those of subtransactions count for their parent. A
transaction that began before the WAL that was read may have changed more: it is marked. What is counted is what WAL
has: TOAST tables, catalogues and partitions are relations of their own.

Sources: ``heapam_xlog.h``, ``storage_xlog.h``, ``standbydefs.h`` (xl_running_xacts), ``pg_control.h`` (XLOG_FPI),
``dbcommands_xlog.h``.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.walrecords import ENDINGS, OPERATION, XACT_OPERATION, Manager, Record, Relation, ending

_INSERT, _DELETE, _UPDATE, _TRUNCATE, _HOT_UPDATE = 0x00, 0x10, 0x20, 0x30, 0x40
_MULTI_INSERT = 0x50
_HEAP_OPERATION = 0x70
_IS_SUPER_DELETE = 0x08
_CREATED = 0x10
_PAGE_IMAGE = 0xB0
_DATABASE_DROPPED = 0x20
_RUNNING = 0x10
_WRAPS = 1 << 31


class ChangeKind(StrEnum):
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    TRUNCATE = "truncate"
    DROP = "drop"


@dataclass(slots=True)
class Changes:
    """What one transaction has done so far."""

    rows: Counter[tuple[Relation, ChangeKind]] = field(default_factory=Counter)
    truncated: set[tuple[int, int]] = field(default_factory=set)
    """Database and OID (no file's number) of what TRUNCATE named: only at ``wal_level = logical``."""
    created: set[Relation] = field(default_factory=set)
    """Files that it began."""
    filled: set[Relation] = field(default_factory=set)
    """Files of which it wrote whole pages: rewritten tables, built indexes."""
    dropped_databases: set[int] = field(default_factory=set)

    def add(self, other: Changes) -> None:
        self.rows.update(other.rows)
        self.truncated |= other.truncated
        self.created |= other.created
        self.filled |= other.filled
        self.dropped_databases |= other.dropped_databases


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A transaction that committed, and all that it did."""

    xid: int
    time: datetime
    lsn: Lsn
    """Of its commit record: recovery to just before it goes there, exclusively."""
    end: Lsn
    changes: Changes
    dropped: tuple[Relation, ...]
    """Files that its commit removed: of what was dropped, truncated or rewritten."""
    is_whole: bool
    """Whether it is known to have begun inside the WAL that was read."""


def wanted(manager: int, info: int) -> bool:
    """Which records :class:`Following` needs."""
    operation = info & OPERATION
    if manager == Manager.HEAP:
        return info & _HEAP_OPERATION in (_INSERT, _DELETE, _UPDATE, _TRUNCATE, _HOT_UPDATE)
    return (
        (manager == Manager.XACT and info & XACT_OPERATION in ENDINGS)
        or (manager == Manager.HEAP2 and info & _HEAP_OPERATION == _MULTI_INSERT)
        or (manager == Manager.SMGR and operation == _CREATED)
        or (manager == Manager.XLOG and operation == _PAGE_IMAGE)
        or (manager == Manager.DBASE and operation == _DATABASE_DROPPED)
        or (manager == Manager.STANDBY and operation == _RUNNING)
    )


def committed(records: Iterable[Record]) -> Iterator[Committed]:
    """Each transaction that commits, in the order of WAL. Memory follows how many run at the same time.

    Raises :class:`~holdfast.errors.Damaged`.
    """
    following = Following()
    for record in records:
        try:
            found = following.take(record)
        except (struct.error, IndexError) as error:
            raise Damaged(
                _("the WAL record at {lsn} cannot be taken apart: {error}").format(lsn=record.lsn, error=error)
            ) from error
        if found is not None:
            yield found


class Following:
    """Counts by transaction, record by record."""

    def __init__(self) -> None:
        self._running: dict[int, Changes] = {}
        self._begun_at: int | None = None
        """The first xid that cannot have begun before what was read; None: not known yet."""

    def take(self, record: Record) -> Committed | None:
        """The transaction that this record commits, if any. Raises ``Damaged``, ``struct.error``, ``IndexError``."""
        if record.manager == Manager.XACT:
            return self._end(record)
        if record.manager == Manager.STANDBY:
            self._forget(*struct.unpack_from("<2I", record.data, 12))
        elif record.xid:
            self._count(record, self._running.setdefault(record.xid, Changes()))
        return None

    def _count(self, record: Record, changes: Changes) -> None:
        operation = record.info & _HEAP_OPERATION
        if record.manager == Manager.HEAP and operation == _TRUNCATE:
            database, count = struct.unpack_from("<II", record.data)
            changes.truncated |= {(database, oid) for oid in struct.unpack_from(f"<{count}I", record.data, 12)}
        elif record.manager == Manager.HEAP:
            kind, rows = _ROWS[operation], 1
            if operation == _DELETE and record.data[7] & _IS_SUPER_DELETE:  # an INSERT … ON CONFLICT taken back
                kind, rows = ChangeKind.INSERT, -1
            changes.rows[record.blocks[0].relation, kind] += rows
        elif record.manager == Manager.HEAP2:
            (rows,) = struct.unpack_from("<H", record.data, 2)
            changes.rows[record.blocks[0].relation, ChangeKind.INSERT] += rows
        elif record.manager == Manager.SMGR:
            *relation, fork = struct.unpack_from("<IIIi", record.data)
            if fork == 0:
                changes.created.add(Relation(*relation))
        elif record.manager == Manager.XLOG:
            changes.filled |= {block.relation for block in record.blocks if block.fork == 0}
        elif record.manager == Manager.DBASE:
            changes.dropped_databases.add(*struct.unpack_from("<I", record.data))

    def _end(self, record: Record) -> Committed | None:
        ended = ending(record)
        if ended is None:
            return None
        changes = self._running.pop(ended.xid, None) or Changes()
        for xid in ended.subtransactions:
            if (more := self._running.pop(xid, None)) is not None:
                changes.add(more)
        if not ended.is_commit:
            return None
        return Committed(
            xid=ended.xid,
            time=ended.time,
            lsn=record.lsn,
            end=record.end,
            changes=changes,
            dropped=ended.dropped,
            is_whole=self._begun_at is not None and not _precedes(ended.xid, self._begun_at),
        )

    def _forget(self, next_xid: int, oldest: int) -> None:
        """What a snapshot of running transactions says: those that ended without a record are gone with a crash."""
        if self._begun_at is None:
            self._begun_at = next_xid
        for xid in [xid for xid in self._running if _precedes(xid, oldest)]:
            del self._running[xid]


_ROWS = {
    _INSERT: ChangeKind.INSERT,
    _DELETE: ChangeKind.DELETE,
    _UPDATE: ChangeKind.UPDATE,
    _HOT_UPDATE: ChangeKind.UPDATE,
}


def _precedes(one: int, other: int) -> bool:
    """As TransactionIdPrecedes (``transam.c``): xids wrap around."""
    return (one - other) % (1 << 32) > _WRAPS
