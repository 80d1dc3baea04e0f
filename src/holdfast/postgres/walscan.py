"""What WAL says to planning and status, found while it streams: commits and aborts, and rare events.

The chain of records is followed without Python touching each record. Headers of pages are taken out. A place is a
candidate for a record's beginning if what would be ``xl_prev`` there is a position near by, which one comparison of
whole arrays tells; the chain is those candidates that the one before leads to by its length, from the place on that a
page's header names. So what rows may hold, even a perfect copy of a record, is never taken for one. Records that are
of interest must have the right ``xl_prev`` and CRC-32C besides.

Sources: ``xlogrecord.h``, ``xact.h`` (xl_xact_commit, xl_xact_abort), ``xlogreader.c`` (ValidXLogRecord).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.postgres.lsn import Lsn
from holdfast.postgres.walcrc import record_checksums
from holdfast.postgres.walevents import SWITCH, event_of, is_event
from holdfast.postgres.walfacts import Event, Outcome, Transaction, WalFacts
from holdfast.postgres.walpages import Bytes, Layout, Payload, Run
from holdfast.postgres.walrecords import (
    ENDINGS,
    HEAD,
    OPERATION,
    ORIGIN,
    SHORT_DATA,
    TOPLEVEL_XID,
    XACT_ABORT,
    XACT_COMMIT,
    XACT_OPERATION,
    Manager,
    ending,
    microseconds,
    moment,
    take_apart,
)

_LONGEST_HEADER = 40
"""Of a page: ``SizeOfXLogLongPHD``."""
_SMALLEST_PAGE = 1024
_STEP = 1 << 20
"""Bytes looked at in one go: arrays that fit the processor's cache."""

Array = NDArray[Any]
_Columns = tuple[Array, Array, Array, Array, Array, Array]


def _wanted() -> Array:
    """For each ``xl_info | xl_rmid << 8`` whether such a record is of interest."""
    wanted = np.zeros(1 << 16, dtype=np.bool_)
    for kind in range(1 << 12):
        manager, info = kind >> 8, kind & 0xFF
        ends = manager == Manager.XACT and info & XACT_OPERATION in ENDINGS
        switches = manager == Manager.XLOG and info & OPERATION == SWITCH
        wanted[kind] = ends or switches or is_event(manager, info)
    return wanted


_WANTED = _wanted()


@dataclass(slots=True)
class _Found:
    """Of records that ended."""

    endings: list[_Columns] = field(default_factory=list)
    """Of commits and aborts: places of beginnings and ends, ``xl_prev``, xids, microseconds since 2000, whether it
    commits."""
    events: list[Event] = field(default_factory=list)
    records_end: Lsn | None = None

    def columns(self) -> _Columns | None:
        """All endings in the order of WAL."""
        if not self.endings:
            return None
        starts, *others = (np.concatenate(column) for column in zip(*self.endings, strict=True))
        order = np.argsort(starts, kind="stable")
        ends, previous, xids, times, commits = (column[order] for column in others)
        return starts[order], ends, previous, xids, times, commits

    def reached(self, end: Lsn) -> None:
        self.records_end = end if self.records_end is None else max(end, self.records_end)


class WalScanner:
    """Of the WAL of one timeline, fed in order from ``start`` on, in blocks of any size.

    ``start`` may lie anywhere: a record that began before it is passed over. Where the chain of records ends (zeros,
    what a recycled file held before), it is taken up at the next page that names a beginning.
    """

    def __init__(self, *, timeline: int, segment_size: int, start: int) -> None:
        self._payload = Payload(timeline=timeline, segment_size=segment_size, start=start)
        self._chain = _Chain(self._payload, start)

    def feed(self, block: Bytes) -> WalFacts:
        """The facts of the records that ended in ``block``. A call costs about 0.1 ms however small the block is.

        Raises :class:`~holdfast.errors.Damaged` for a record that is whole and that no PostgreSQL writes.
        """
        start, knew = self._payload.stop, self._chain.begins_whole is not None
        found = self._scan(block)
        columns = found.columns()
        is_blind = not knew and self._chain.has_begun and not self._chain.begins_whole
        if columns is None:
            return WalFacts(
                start=start,
                stop=self._payload.stop,
                records_end=found.records_end,
                events=tuple(found.events),
                is_blind=is_blind,
            )
        _starts, _ends, _previous, xids, times, commits = columns
        return WalFacts(
            start=start,
            stop=self._payload.stop,
            records_end=found.records_end,
            commits=int(commits.sum()),
            aborts=int(len(commits) - commits.sum()),
            first_time=moment(int(times.min())),
            last_time=moment(int(times.max())),
            min_xid=int(xids.min()),
            max_xid=int(xids.max()),
            events=tuple(found.events),
            is_blind=is_blind,
        )

    def transactions(self, block: Bytes) -> list[Transaction]:
        """Instead of :meth:`feed`: each commit and abort whose record ended in ``block``, in the order of WAL."""
        columns = self._scan(block).columns()
        if columns is None:
            return []
        layout = self._payload.layout
        return [
            Transaction(
                outcome=Outcome.COMMIT if is_commit else Outcome.ABORT,
                xid=xid,
                time=moment(time),
                lsn=layout.lsn(start),
                end=layout.end_lsn(end),
                prev=Lsn(previous),
            )
            for start, end, previous, xid, time, is_commit in zip(*(column.tolist() for column in columns), strict=True)
        ]

    def _scan(self, block: Bytes) -> _Found:
        found = _Found()
        with memoryview(block) as view:
            for at in range(0, len(view), _STEP):
                for run in self._payload.feed(view[at : at + _STEP]):
                    self._chain.follow(run, found)
                self._chain.settle(found)
        return found


def transactions(blocks: Iterable[Bytes], *, timeline: int, segment_size: int, start: int) -> list[Transaction]:
    """The commits and aborts whose records lie whole in this WAL, in its order.

    For all that *end* in a segment, begin with the segment before, and take those whose ``end`` lies behind its start.
    """
    scanner = WalScanner(timeline=timeline, segment_size=segment_size, start=start)
    return [transaction for block in blocks for transaction in scanner.transactions(block)]


class _Chain:
    """The chain of records, across runs of payload."""

    def __init__(self, payload: Payload, start: int) -> None:
        self._payload = payload
        self._start = start
        self._rest = b""
        """Payload from :attr:`_next` on, if that lies inside what there is."""
        self._next: int | None = None
        """The place where the next record begins, perhaps behind all there is; None: a page must say it."""
        self._lost = 0
        """No record begins before this place, where :attr:`_next` is None."""
        self._previous: int | None = None
        """The place where the record before the next one begins."""
        self._ended: int | None = None
        """The place where the last whole record ends, until it is told."""
        self._skipped: int | None = None
        """The place where a record ends that was left before it was whole."""
        self._switch: Lsn | None = None
        """The end of the segment that a record switched away from, until it is reached."""
        self.begins_whole: bool | None = None
        """Whether the first record begins where the WAL does, so that none before it is passed over; None: there is no
        first record yet."""
        self._first: int | None = None
        """The place where the WAL begins."""

    @property
    def has_begun(self) -> bool:
        """Whether there was anything but page headers, or what lies before the first of them."""
        return self._first is not None or self._start % _SMALLEST_PAGE != 0

    def follow(self, run: Run, found: _Found) -> None:
        if run.fresh:
            self._rest, self._next, self._skipped = b"", None, None
        if self._first is None:
            self._first = run.place
        content, base = self._rest + run.content, run.place - len(self._rest)
        self._rest = b""
        if base % 8:  # in the middle of a record that is skipped
            content, base = bytes(base % 8) + content, base - base % 8
        while True:
            if self._next is None:
                self._next, self._previous = next((place for place in run.begins if place >= self._lost), None), None
            if self._next is None:
                return
            if self.begins_whole is None:
                first = self._payload.layout.lsn(self._next)
                self.begins_whole = self._next == self._first and first - self._start <= _LONGEST_HEADER
            if self._skipped is not None and run.stop >= self._skipped:
                self._ended, self._skipped = self._skipped, None
            if self._next < base + len(content):
                self._walk(_View(content, base, self._payload.layout), self._next, found)
            if self._next is not None:
                return

    def settle(self, found: _Found) -> None:
        """Tells how far whole records reach."""
        if self._ended is not None:
            found.reached(self._payload.layout.end_lsn(self._ended))
            self._ended = None
        if self._switch is not None and self._payload.stop >= self._switch:
            found.reached(self._switch)
            self._switch = None

    def _walk(self, view: _View, place: int, found: _Found) -> None:
        """Follows the chain as far as ``view`` goes; the next record begins at ``place``."""
        if not view.holds_head(place):
            self._rest = view.rest(place)
            return
        starts, ends = view.chain(place, self._previous)
        if not len(starts):
            self._lose(place)
            return
        whole = int(np.searchsorted(ends, view.stop, side="right"))
        if whole:
            self._take(view, starts[:whole], ends[:whole], found)
            self._previous, place = int(starts[whole - 1]), int(ends[whole - 1])
            self._ended = self._next = place
        if whole < len(starts) and not _WANTED[view.kinds(starts[whole:])[0]]:
            self._previous = place
            self._next = self._skipped = int(ends[whole])
        elif whole < len(starts) or not view.holds_head(place):
            self._rest = view.rest(place)
        else:
            self._lose(place)

    def _lose(self, place: int) -> None:
        """No record is there: zeros behind a switch of segments, or the end of what was written."""
        self._next, self._lost = None, place + 8

    def _take(self, view: _View, starts: Array, ends: Array, found: _Found) -> None:
        """Believes and reads those of interest among neighbouring whole records."""
        rows = np.flatnonzero(_WANTED[view.kinds(starts)])
        if len(rows):
            before = starts[np.maximum(rows - 1, 0)]
            is_next = (view.previous(starts[rows]) == view.lsns(before)) | (rows == 0)  # the first is compared already
            rows = rows[is_next & view.are_sound(starts[rows])]
        if not len(rows):
            return
        starts, ends, kinds = starts[rows], ends[rows], view.kinds(starts[rows])
        plain = (kinds >> 8 == Manager.XACT) & (kinds & (XACT_OPERATION & ~XACT_ABORT) == XACT_COMMIT)
        if plain.any():
            times, xids = view.times(starts[plain]), view.xids(starts[plain])
            commits = kinds[plain] & XACT_OPERATION == XACT_COMMIT
            previous = view.previous(starts[plain])
            found.endings.append((starts[plain], ends[plain], previous, xids, times, commits))
        for start, end in zip(starts[~plain].tolist(), ends[~plain].tolist(), strict=True):
            self._take_other(view, start, end, found)

    def _take_other(self, view: _View, start: int, end: int, found: _Found) -> None:
        layout = view.layout
        record = take_apart(view.record(start), start, layout, self._payload.major or 0)
        if record.manager == Manager.XACT:
            ended = ending(record)
            assert ended is not None
            columns = (start, end, record.prev, ended.xid, microseconds(ended.time), ended.is_commit)
            one, two, three, four, five, six = (np.array([value]) for value in columns)
            found.endings.append((one, two, three, four, five, six))
        elif record.manager == Manager.XLOG and record.info & OPERATION == SWITCH:
            self._switch = Lsn(-(-record.end // layout.segment_size) * layout.segment_size)
        elif (event := event_of(record)) is not None:
            found.events.append(event)


class _View:
    """Payload as arrays: ``content`` from the place ``base`` on, a multiple of 8, as the places of all records are."""

    def __init__(self, content: bytes, base: int, layout: Layout) -> None:
        self.content, self.base, self.layout = content, base, layout
        self.stop = base + len(content)
        self._bytes = np.frombuffer(content, dtype=np.uint8)
        self._words = np.frombuffer(content, dtype="<u8", count=len(content) // 8)
        self._halves = self._words.view("<u4")

    def holds_head(self, place: int) -> bool:
        return place + HEAD.size <= self.base + 8 * len(self._words)

    def rest(self, place: int) -> bytes:
        return self.content[place - self.base :]

    def record(self, place: int) -> bytes:
        at = place - self.base
        return self.content[at : at + HEAD.unpack_from(self.content, at)[0]]

    def chain(self, place: int, previous: int | None) -> tuple[Array, Array]:
        """Beginnings and ends of the records from ``place`` on, one behind the other; the last may be longer than the
        view. Nothing where none begins there."""
        first = (place - self.base) // 8
        if previous is not None and int(self._words[first + 1]) != self.layout.lsn(previous):
            return _NONE, _NONE
        low = int(self.layout.lsn(place))
        near = self._words[first + 2 :] - np.uint64(low) < np.uint64(self.layout.lsn(self.stop) - low)
        starts = np.concatenate(([first], np.flatnonzero(near) + (first + 1)))
        starts = starts[starts + 3 <= len(self._words)]
        lengths = self._halves[2 * starts].astype(np.int64)
        is_possible = lengths >= HEAD.size
        if not is_possible[0]:
            return _NONE, _NONE
        starts, ends = starts[is_possible], (starts + (lengths + 7) // 8)[is_possible]
        members = _linked(starts, ends)
        return self.base + 8 * starts[members], self.base + 8 * ends[members]

    def _at(self, places: Array, offset: int) -> Array:
        found: Array = (places - self.base + offset) // 4
        return found

    def kinds(self, places: Array) -> Array:
        """``xl_info | xl_rmid << 8`` of the records there."""
        kinds: Array = self._halves[self._at(places, 16)] & 0xFFFF
        return kinds

    def xids(self, places: Array) -> Array:
        found: Array = self._halves[self._at(places, 4)].astype(np.int64)
        return found

    def previous(self, places: Array) -> Array:
        found: Array = self._words[(places - self.base) // 8 + 1].astype(np.int64)
        return found

    def lsns(self, places: Array) -> Array:
        """As :meth:`Layout.lsn`."""
        layout = self.layout
        long = layout.header(0) - layout.header(1)
        segment, offset = np.divmod(places, layout.segment_room)
        page, offset = np.divmod(offset + long, layout.page_room)
        found: Array = segment * layout.segment_size + page * layout.page_size + layout.header(1) + offset
        return found

    def times(self, places: Array) -> Array:
        """The first eight bytes of the main data of records without blocks: microseconds since 2000."""
        at = places - self.base + HEAD.size
        for marker, length in ((ORIGIN, 3), (TOPLEVEL_XID, 5)):
            at = at + length * (self._bytes[at] == marker)
        at = at + np.where(self._bytes[at] == SHORT_DATA, 2, 5)
        return self._bytes[at[:, None] + np.arange(8)].view("<i8")[:, 0]

    def are_sound(self, places: Array) -> Array:
        """Whether the records there have the checksum that they should have."""
        lengths = self._halves[self._at(places, 0)].astype(np.int64)
        checksums = record_checksums(self._bytes, places - self.base, lengths)
        sound: Array = checksums == self._halves[self._at(places, 20)]
        return sound


_NONE = np.empty(0, dtype=np.int64)


def _linked(starts: Array, ends: Array) -> Array | slice:
    """Which of the candidates the first one leads to, each beginning where the one before ends."""
    breaks = np.flatnonzero(ends[:-1] != starts[1:])
    if not len(breaks):
        return slice(None)
    parts, first = [], 0
    while True:
        at = int(np.searchsorted(breaks, first))
        last = int(breaks[at]) if at < len(breaks) else len(starts) - 1
        parts.append(np.arange(first, last + 1))
        first = int(np.searchsorted(starts, ends[last]))
        if first == len(starts) or starts[first] != ends[last]:
            return np.concatenate(parts)
