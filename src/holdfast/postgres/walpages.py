"""Pages of WAL: their headers read, checked and taken out. What is left, the payload, is one record after the other.

A page of WAL has a header of 24 bytes, the first of a segment one of 40; records are cut where a page ends and go on
behind the next header. :class:`Layout` is the arithmetic between positions (LSN) and places in the payload;
:class:`Payload` takes the headers out of WAL as it comes; :func:`check_pages` finds what cannot be WAL of its segment.

Sources: ``xlog_internal.h`` (XLogPageHeaderData, XLogLongPageHeaderData), ``xlogreader.c``
(XLogReaderValidatePageHeader), ``xlog.c`` (XLogBytePosToRecPtr, CopyXLogRecordToWAL, CreateOverwriteContrecordRecord).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.postgres.lsn import Lsn, Segment, is_segment_size
from holdfast.postgres.timelines import History

Bytes = bytes | bytearray | memoryview

MAGICS = {0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18, 0xD122: 19}
"""``xlp_magic`` and the major version that writes it."""
PAGE_BYTES = 8192
"""XLOG_BLCKSZ, unless the server was built with another one: a segment's first page says it."""
_PAGE_SIZES = frozenset(1024 << power for power in range(7))

_SHORT = struct.Struct("<HHIQI4x")
_LONG = struct.Struct("<HHIQI4xQII")
_CONTINUES, _IS_LONG = 0x0001, 0x0002
_KNOWN_FLAGS = 0x000F
_SWITCH = struct.Struct("<I12xBB")
_RECORD_HEAD = 24
_SWITCH_INFO = 0x40


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentIdentity:
    """What the first page of a segment says of the whole."""

    system_identifier: int
    segment_size: int
    page_size: int
    major: int
    """Of the PostgreSQL that wrote it."""
    timeline: int
    """Of the first page: in the segment where a timeline begins, that of its parent."""
    start: Lsn
    """Of the segment."""
    continues: bool
    """Whether a record begins in an earlier segment and goes on here."""


def identify(head: Bytes) -> SegmentIdentity:
    """Reads the first 40 bytes of a segment. Raises :class:`~holdfast.errors.Damaged` if none begins like that."""
    if len(head) < _LONG.size:
        raise Damaged(_("{number} bytes are too few for a WAL segment").format(number=len(head)))
    magic, info, timeline, start, _remaining, system, segment_size, page_size = _LONG.unpack_from(head)
    if magic not in MAGICS or info & ~_KNOWN_FLAGS or not info & _IS_LONG or not timeline:
        raise Damaged(
            _("a WAL segment does not begin as WAL segments do"),
            hint=_("This version of Holdfast reads the WAL of PostgreSQL 15 to 19."),
        )
    if not is_segment_size(segment_size) or page_size not in _PAGE_SIZES or start % segment_size:
        raise Damaged(_("a WAL segment does not begin as WAL segments do"))
    return SegmentIdentity(
        system_identifier=system,
        segment_size=segment_size,
        page_size=page_size,
        major=MAGICS[magic],
        timeline=timeline,
        start=Lsn(start),
        continues=bool(info & _CONTINUES),
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a byte of the payload lies. A place is its number among all bytes of WAL that are no headers."""

    segment_size: int
    page_size: int = PAGE_BYTES

    @property
    def page_room(self) -> int:
        return self.page_size - _SHORT.size

    @property
    def segment_room(self) -> int:
        return self.segment_size // self.page_size * self.page_room - (_LONG.size - _SHORT.size)

    def header(self, page: int) -> int:
        """The length of the header of the page at the position ``page``."""
        return _SHORT.size if page % self.segment_size else _LONG.size

    def place(self, lsn: int) -> int:
        """Of the first byte of payload at or behind ``lsn``."""
        segment, offset = divmod(lsn, self.segment_size)
        page, offset = divmod(offset, self.page_size)
        header = _SHORT.size if page else _LONG.size
        before = page * self.page_room - (_LONG.size - _SHORT.size if page else 0)
        return segment * self.segment_room + before + max(offset - header, 0)

    def lsn(self, place: int) -> Lsn:
        """Where the byte at ``place`` lies: how a record's beginning is named."""
        segment, offset = divmod(place, self.segment_room)
        page, offset = divmod(offset + _LONG.size - _SHORT.size, self.page_room)
        return Lsn(segment * self.segment_size + page * self.page_size + _SHORT.size + offset)

    def end_lsn(self, place: int) -> Lsn:
        """One past the byte before ``place``: how a record's end is named. The end of a page, not behind a header."""
        return Lsn(self.lsn(place - 1) + 1) if place else Lsn(0)


@dataclass(slots=True)
class Run:
    """Payload without a hole, in which the chain of records goes on from the run before or begins anew."""

    place: int
    """Of its first byte."""
    fresh: bool
    """Whether nothing before it goes on in it."""
    content: bytearray = field(default_factory=bytearray)
    begins: list[int] = field(default_factory=list)
    """For each page that begins in it, the place where the page says that its first new record begins."""

    @property
    def stop(self) -> int:
        return self.place + len(self.content)


class Payload:
    """Takes the headers out of WAL that comes in blocks of any size; ``start`` may lie anywhere.

    What comes before the first beginning of a page is passed over, as are pages that are not WAL of their position:
    zeros after a switch, what a recycled file held before.
    """

    def __init__(self, *, timeline: int, segment_size: int, start: int, page_size: int | None = None) -> None:
        self._timeline = timeline
        self._knows_page_size = page_size is not None
        self.layout = Layout(segment_size, page_size or PAGE_BYTES)
        self._at = start
        self._pending = bytearray()
        self._in_page = False
        self.major: int | None = None
        """Of the PostgreSQL that wrote the last page."""

    @property
    def stop(self) -> Lsn:
        """One past what was fed."""
        return Lsn(self._at + len(self._pending))

    def feed(self, block: Bytes) -> list[Run]:
        """The payload of what was fed so far and not given yet, in order."""
        if self._pending:
            self._pending += block
            raw: Bytes = self._pending
        else:
            raw = block
        runs: list[Run] = []
        with memoryview(raw) as view:
            used = self._pages(view, runs)
            rest = bytes(view[used:])
        self._pending = bytearray(rest)
        return runs

    def _pages(self, view: memoryview, runs: list[Run]) -> int:
        """Takes what can be taken of ``view``; how many bytes that were."""
        used, total = 0, len(view)
        while used < total:
            into = self._at % self.layout.page_size
            if into:
                take = min(self.layout.page_size - into, total - used)
                if self._in_page:
                    if not runs:
                        runs.append(Run(self.layout.place(self._at), fresh=False))
                    runs[-1].content += view[used : used + take]
            else:
                take = self._header_size(view, used)
                if take > total - used:
                    break
                self._begin_page(view[used : used + take], runs)
            self._at += take
            used += take
        return used

    def _header_size(self, view: memoryview, used: int) -> int:
        if self._at % self.layout.segment_size:
            return _SHORT.size
        if not self._knows_page_size and len(view) - used >= _LONG.size:
            magic, info, *_others, page_size = _LONG.unpack_from(view, used)
            if magic in MAGICS and info & _IS_LONG and page_size in _PAGE_SIZES:
                self._knows_page_size = True
                self.layout = Layout(self.layout.segment_size, page_size)
        return _LONG.size

    def _begin_page(self, header: memoryview, runs: list[Run]) -> None:
        magic, info, timeline, address, remaining = _SHORT.unpack_from(header)
        is_long = len(header) == _LONG.size
        major = MAGICS.get(magic)
        if (
            major is None
            or address != self._at
            or not 0 < timeline <= self._timeline
            or bool(info & _IS_LONG) is not is_long
            or (is_long and _LONG.unpack_from(header)[6:] != (self.layout.segment_size, self.layout.page_size))
        ):
            self._in_page = False
            return
        fresh = not self._in_page or bool(info & overwrites(magic))
        if fresh or not runs:
            runs.append(Run(self.layout.place(self._at), fresh=fresh))
        runs[-1].begins.append(runs[-1].stop + (remaining + 7 & ~7 if info & _CONTINUES else 0))
        self.major, self._in_page = major, True


def overwrites(magic: int) -> int:
    """XLP_FIRST_IS_OVERWRITE_CONTRECORD: the page begins anew what a crash left unfinished. 19 gave it another bit."""
    return 0x0004 if MAGICS.get(magic, 0) >= 19 else 0x0008


def check_pages(
    blocks: Iterable[Bytes], segment: Segment, *, system_identifier: int, history: History | None = None
) -> None:
    """Checks the header of each page of a segment, whole or only its beginning, in blocks of any size.

    A page belongs to the segment's timeline, or to the ancestor that ``history`` names for its position; without one,
    to any older, but never to an older than the page before. Pages without a header are accepted from the end of a
    record that switches segments to the end.

    Raises :class:`~holdfast.errors.Damaged` that names segment and offset.
    """
    check = _Check(segment, system_identifier, history)
    for offset, page in _cut(blocks, segment):
        check.page(offset, page)


def _cut(blocks: Iterable[Bytes], segment: Segment) -> Iterator[tuple[int, memoryview]]:
    """Offset and bytes of each page; of the last, what there is."""
    pending = bytearray()
    offset = size = 0
    for block in blocks:
        pending += block
        if not size and len(pending) >= _LONG.size:
            size = identify(pending).page_size
        if not size:
            continue
        whole = len(pending) - len(pending) % size
        with memoryview(bytes(pending[:whole])) as view:
            for at in range(0, whole, size):
                yield offset + at, view[at : at + size]
        offset += whole
        del pending[:whole]
    if offset + len(pending) > segment.size:
        raise _damaged(segment, segment.size, _("it is longer than a segment"))
    if pending:
        yield offset, memoryview(bytes(pending))


class _Check:
    def __init__(self, segment: Segment, system_identifier: int, history: History | None) -> None:
        self._segment = segment
        self._system = system_identifier
        self._history = history
        self._magic = 0
        self._timeline = 0
        self._remaining: int | None = None
        """Of a record that fills the last page and goes on: what the next page must say; None: that is not known."""
        self._ended = False
        self._last: list[memoryview] = []
        """The last two pages."""

    def page(self, offset: int, page: memoryview) -> None:
        segment = self._segment
        if self._ended or (offset and page[: _SHORT.size].tobytes().strip(b"\0") == b""):
            if not self._ended and not _ends_by_switch(self._last):
                raise _damaged(segment, offset, _("the page has no header"))
            self._ended = True
            if page.tobytes().strip(b"\0"):
                raise _damaged(segment, offset, _("there is something behind the switch to the next segment"))
            return
        if len(page) < (_SHORT.size if offset else _LONG.size):
            return  # the header itself is not all there yet
        magic, info, timeline, address, remaining = _SHORT.unpack_from(page)
        if offset == 0:
            self._first(page)
            self._magic = magic
        if magic != self._magic or info & ~_KNOWN_FLAGS or bool(info & _IS_LONG) is not (offset == 0):
            raise _damaged(segment, offset, _("the page does not begin as pages of WAL do"))
        if address != segment.start + offset:
            raise _damaged(segment, offset, _("the page says that it lies at {lsn}").format(lsn=Lsn(address)))
        if not self._is_of_line(timeline, address):
            raise _damaged(segment, offset, _("the page is of timeline {number}").format(number=timeline))
        self._timeline = timeline
        self._continuation(offset, len(page), info, remaining)
        self._last = [*self._last[-1:], page]

    def _first(self, page: memoryview) -> None:
        segment, found = self._segment, identify(page)
        if found.system_identifier != self._system:
            raise _damaged(
                segment,
                0,
                _("it was written by the cluster {found}, not by {known}").format(
                    found=found.system_identifier, known=self._system
                ),
            )
        if found.segment_size != segment.size:
            raise _damaged(
                segment, 0, _("its cluster's segments have {number} bytes").format(number=found.segment_size)
            )

    def _is_of_line(self, timeline: int, address: int) -> bool:
        if self._history is not None:
            return timeline == self._history.timeline_at(address)
        return max(self._timeline, 1) <= timeline <= self._segment.timeline

    def _continuation(self, offset: int, length: int, info: int, remaining: int) -> None:
        continues = bool(info & _CONTINUES)
        begins_anew = bool(info & overwrites(self._magic))
        if continues is not (remaining > 0) or (continues and begins_anew):
            raise _damaged(self._segment, offset, _("the page contradicts itself"))
        if self._remaining is not None and not begins_anew and remaining != self._remaining:
            raise _damaged(self._segment, offset, _("a record does not go on here as it must"))
        room = length - (_LONG.size if offset == 0 else _SHORT.size)
        self._remaining = remaining - room if remaining > room else None


def _ends_by_switch(pages: list[memoryview]) -> bool:
    """Whether the last thing in these pages but zeros is a record that switches segments; it may be cut by a header."""
    if not pages:
        return False
    payload = b"".join(
        bytes(page[(_SHORT.unpack_from(page)[1] & _IS_LONG and _LONG.size) or _SHORT.size :]) for page in pages
    )
    end = len(payload.rstrip(b"\0"))
    # its checksum's last bytes may be zero
    for at in range(max((end - _RECORD_HEAD) & ~7, 0), len(payload) - _RECORD_HEAD + 1, 8):
        if at > end:
            break
        length, info, manager = _SWITCH.unpack_from(payload, at)
        if length == _RECORD_HEAD and manager == 0 and info & 0xF0 == _SWITCH_INFO:
            return not payload[at + _RECORD_HEAD :].strip(b"\0")
    return False


def _damaged(segment: Segment, offset: int, what: str) -> Damaged:
    return Damaged(
        _("WAL segment {name} is damaged at offset {offset}: {what}").format(
            name=segment.name, offset=offset, what=what
        )
    )
