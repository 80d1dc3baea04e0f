"""Records of WAL, one after the other, each taken apart: who wrote it, for which relations, and its main data.

The chain is followed from a page's header on: each record says how long it is, and where the one before began. Plain
Python, for reading hours of WAL; what runs while WAL streams is :mod:`holdfast.postgres.walscan`.

Sources: ``xlogrecord.h``, ``xlogreader.c`` (DecodeXLogRecord), ``rmgrlist.h``, ``xact.h`` and ``xactdesc.c``
(ParseCommitRecord, ParseAbortRecord).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import NamedTuple

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.walpages import Bytes, Layout, Payload, Run

HEAD = struct.Struct("<IIQBBxxI")
"""XLogRecord: length of all, xid, where the record before begins, info, resource manager, checksum."""
OPERATION = 0xF0
"""The bits of ``xl_info`` that belong to the resource manager."""

SHORT_DATA, LONG_DATA, ORIGIN, TOPLEVEL_XID = 255, 254, 253, 252
"""What a part of a record is, by its first byte (XLR_BLOCK_ID_…); smaller ones are blocks."""
_MOST_BLOCKS = 32
_HAS_IMAGE, _SAME_RELATION = 0x10, 0x80
_HAS_HOLE, _COMPRESSED = 0x01, 0x1C
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_LONGEST = 1 << 30


class Manager(IntEnum):
    """Resource managers (``rmgrlist.h``): those that are read here."""

    XLOG = 0
    XACT = 1
    SMGR = 2
    DBASE = 4
    TBLSPC = 5
    STANDBY = 8
    HEAP2 = 9
    HEAP = 10


class Relation(NamedTuple):
    """Where a relation's files lie (RelFileLocator): not its OID, and another one after TRUNCATE or VACUUM FULL."""

    tablespace: int
    database: int
    """0: shared by all."""
    number: int
    """``pg_class.relfilenode``."""


class Block(NamedTuple):
    """A page that a record changes."""

    relation: Relation
    fork: int
    number: int


class Record(NamedTuple):
    lsn: Lsn
    end: Lsn
    prev: Lsn
    """Where the record before it begins."""
    xid: int
    """0: of no transaction."""
    manager: int
    info: int
    toplevel_xid: int | None
    """Where a subtransaction says whose it is: once, and only at ``wal_level = logical``."""
    blocks: tuple[Block, ...]
    data: bytes
    """The main data, without what belongs to the blocks."""
    major: int
    """Of the PostgreSQL that wrote it."""


Wanted = Callable[[int, int], bool]
"""Whether a record of this resource manager and info is to be taken apart."""


def records(
    blocks: Iterable[Bytes], *, timeline: int, segment_size: int, start: int, wanted: Wanted = lambda _m, _i: True
) -> Iterator[Record]:
    """The wanted records that begin in WAL from ``start`` on, in order, as far as they are whole.

    Ends, without an error, where the chain of records ends. Checksums are not computed: the WAL is believed to be what
    was stored. Raises :class:`~holdfast.errors.Damaged` for a record that cannot be taken apart.
    """
    payload = Payload(timeline=timeline, segment_size=segment_size, start=start)
    chain = Chain()
    for block in blocks:
        for run in payload.feed(block):
            for place, raw in chain.feed(run, wanted):
                yield take_apart(raw, place, payload.layout, payload.major or 0)


class Chain:
    """Follows records from run to run of payload."""

    def __init__(self) -> None:
        self._base = 0
        """The place of the first byte kept."""
        self._rest = bytearray()
        self._next: int | None = None
        """The place where the next record begins, perhaps behind all there is; None: a page must say it."""
        self._lost = 0
        """No record begins before this place, where :attr:`_next` is None."""

    def feed(self, run: Run, wanted: Wanted) -> Iterator[tuple[int, bytes]]:
        """Place and bytes of each wanted record that is whole now."""
        if run.fresh:
            self._rest.clear()
            self._next = None
        if not self._rest:
            self._base = run.place
        self._rest += run.content
        while True:
            if self._next is None:
                self._next = next((place for place in run.begins if place >= self._lost), None)
            if self._next is None:
                self._rest.clear()
                return
            yield from self._walk(wanted, self._next)
            if self._next is not None:
                return

    def _walk(self, wanted: Wanted, start: int) -> Iterator[tuple[int, bytes]]:
        rest, at, size = self._rest, start - self._base, len(self._rest)
        while at + HEAD.size <= size:
            length, _xid, _previous, info, manager, _crc = HEAD.unpack_from(rest, at)
            if not HEAD.size <= length <= _LONGEST:  # zeros: behind a switch of segments, or the end
                self._next, self._lost = None, self._base + at + 8
                return
            following = at + (length + 7 & ~7)
            if wanted(manager, info):
                if following > size:
                    break
                yield self._base + at, bytes(rest[at : at + length])
            at = following
        self._next = self._base + at
        kept = min(at, size)
        del rest[:kept]
        self._base += kept


def take_apart(raw: bytes, place: int, layout: Layout, major: int) -> Record:
    """Raises :class:`~holdfast.errors.Damaged`."""
    length, xid, previous, info, manager, _crc = HEAD.unpack_from(raw)
    try:
        toplevel, blocks, data = _parts(raw)
    except (struct.error, IndexError, ValueError) as error:
        raise Damaged(
            _("the WAL record at {lsn} cannot be taken apart: {error}").format(lsn=layout.lsn(place), error=error)
        ) from error
    return Record(
        lsn=layout.lsn(place),
        end=layout.end_lsn(place + (length + 7 & ~7)),
        prev=Lsn(previous),
        xid=xid,
        manager=manager,
        info=info,
        toplevel_xid=toplevel,
        blocks=blocks,
        data=data,
        major=major,
    )


def _parts(raw: bytes) -> tuple[int | None, tuple[Block, ...], bytes]:
    """Toplevel xid, blocks and main data: all headers first, then what belongs to the blocks, the main data last."""
    at, announced = HEAD.size, 0
    toplevel: int | None = None
    relation: Relation | None = None
    blocks: list[Block] = []
    while len(raw) - at > announced:
        kind = raw[at]
        if kind in (SHORT_DATA, LONG_DATA):
            length = raw[at + 1] if kind == SHORT_DATA else struct.unpack_from("<I", raw, at + 1)[0]
            if length > len(raw) - at - announced:
                raise ValueError(f"{length} bytes of main data")
            return toplevel, tuple(blocks), raw[len(raw) - length :]
        if kind == ORIGIN:
            at += 3
        elif kind == TOPLEVEL_XID:
            (toplevel,) = struct.unpack_from("<I", raw, at + 1)
            at += 5
        elif kind <= _MOST_BLOCKS:
            block, at, length = _block(raw, at, relation)
            relation = block.relation
            blocks.append(block)
            announced += length
        else:
            raise ValueError(f"a part of kind {kind}")
    return toplevel, tuple(blocks), b""


def _block(raw: bytes, at: int, before: Relation | None) -> tuple[Block, int, int]:
    """The block whose header begins at ``at``, where the next header begins, and how many bytes belong to the block."""
    flags, length = struct.unpack_from("<BH", raw, at + 1)
    at += 4
    if flags & _HAS_IMAGE:
        image_length, _hole, image = struct.unpack_from("<HHB", raw, at)
        at += 7 if image & _HAS_HOLE and image & _COMPRESSED else 5
        length += image_length
    if not flags & _SAME_RELATION:
        before = Relation(*struct.unpack_from("<III", raw, at))
        at += 12
    if before is None:
        raise ValueError("a block of no relation")
    (number,) = struct.unpack_from("<I", raw, at)
    return Block(before, flags & 0x0F, number), at + 4, length


class Ending(NamedTuple):
    """What a commit or abort record says."""

    xid: int
    """The transaction's; of a prepared one, which another one ends, too."""
    is_commit: bool
    time: datetime
    database: int | None
    subtransactions: tuple[int, ...]
    dropped: tuple[Relation, ...]
    """Relations whose files are removed by it: dropped, truncated, rewritten; or made and rolled back."""


XACT_OPERATION = 0x70
XACT_COMMIT, XACT_ABORT, XACT_COMMIT_PREPARED, XACT_ABORT_PREPARED = 0x00, 0x20, 0x30, 0x40
_COMMITS = (XACT_COMMIT, XACT_COMMIT_PREPARED)
_PREPARED = (XACT_COMMIT_PREPARED, XACT_ABORT_PREPARED)
ENDINGS = frozenset({XACT_COMMIT, XACT_ABORT, XACT_COMMIT_PREPARED, XACT_ABORT_PREPARED})
_HAS_INFO = 0x80
_WITH_DATABASE, _WITH_SUBTRANSACTIONS, _WITH_RELATIONS, _WITH_INVALIDATIONS, _WITH_PREPARED, _WITH_STATISTICS = (
    *(0x01, 0x02, 0x04, 0x08, 0x10),
    0x100,
)


def ending(record: Record) -> Ending | None:
    """What a record of ``Manager.XACT`` ends; None if it ends nothing.

    Raises :class:`~holdfast.errors.Damaged`.
    """
    operation = record.info & XACT_OPERATION
    if operation not in ENDINGS:
        return None
    try:
        return _ending(record, operation)
    except struct.error as error:
        raise Damaged(
            _("the WAL record at {lsn} cannot be taken apart: {error}").format(lsn=record.lsn, error=error)
        ) from error


def _ending(record: Record, operation: int) -> Ending:
    data, is_commit = record.data, operation in _COMMITS
    (when,) = struct.unpack_from("<q", data)
    at, parts = 8, 0
    if record.info & _HAS_INFO:
        (parts,) = struct.unpack_from("<I", data, at)
        at += 4
    database: int | None = None
    subtransactions: tuple[int, ...] = ()
    dropped: tuple[Relation, ...] = ()
    xid = record.xid
    if parts & _WITH_DATABASE:
        (database,) = struct.unpack_from("<I", data, at)
        at += 8
    if parts & _WITH_SUBTRANSACTIONS:
        (count,) = struct.unpack_from("<i", data, at)
        subtransactions = struct.unpack_from(f"<{count}I", data, at + 4)
        at += 4 + 4 * count
    if parts & _WITH_RELATIONS:
        (count,) = struct.unpack_from("<i", data, at)
        numbers = iter(struct.unpack_from(f"<{3 * count}I", data, at + 4))
        dropped = tuple(Relation(*found) for found in zip(numbers, numbers, numbers, strict=True))
        at += 4 + 12 * count
    if parts & _WITH_STATISTICS:
        (count,) = struct.unpack_from("<i", data, at)
        at += 4 + count * (16 if record.major >= 18 else 12)
    if parts & _WITH_INVALIDATIONS:
        (count,) = struct.unpack_from("<i", data, at)
        at += 4 + 16 * count
    if operation in _PREPARED and parts & _WITH_PREPARED:
        (xid,) = struct.unpack_from("<I", data, at)
    return Ending(
        xid=xid,
        is_commit=is_commit,
        time=moment(when),
        database=database,
        subtransactions=subtransactions,
        dropped=dropped,
    )


def microseconds(when: datetime) -> int:
    """The inverse of :func:`moment`."""
    return (when - _EPOCH) // timedelta(microseconds=1)


def moment(microseconds: int) -> datetime:
    """PostgreSQL's TimestampTz: microseconds since 2000. What lies beyond Python's years becomes the nearest."""
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return datetime(9999, 12, 31, tzinfo=UTC) if microseconds > 0 else datetime(1, 1, 1, tzinfo=UTC)
