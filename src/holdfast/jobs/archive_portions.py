"""What a server sends, cut into portions: each becomes one object of the repository when it is full. Pure.

A portion is a segment, or 64 MiB of a larger one, in memory until every repository has it. What the WAL in it says is
found once for all repositories, up to each place at which one of them ends a piece.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from holdfast.errors import Damaged, Refused
from holdfast.messages import _
from holdfast.postgres.lsn import Lsn, Segment
from holdfast.postgres.walfacts import WalFacts, join
from holdfast.postgres.walscan import WalScanner
from holdfast.repository.wal.pieces import MAX_PIECE_BYTES


class Portion:
    """Bytes ``[start, limit)`` of a segment; ``[start, stop)`` have come. Written by one thread, read by others."""

    def __init__(self, segment: Segment, start: int) -> None:
        self.segment = segment
        self.start = start
        """Offset in the segment."""
        self.limit = min(start + MAX_PIECE_BYTES, segment.size)
        self.stop = start
        self._content = bytearray(self.limit - start)
        self._facts: list[WalFacts] = []

    @property
    def is_full(self) -> bool:
        return self.stop == self.limit

    @property
    def size(self) -> int:
        return self.limit - self.start

    def lsn(self, offset: int) -> Lsn:
        return Lsn(self.segment.start + offset)

    def view(self, start: int, stop: int) -> memoryview:
        """Bytes ``[start, stop)``, by offsets in the segment."""
        return memoryview(self._content)[start - self.start : stop - self.start]

    def append(self, content: memoryview) -> None:
        self._content[self.stop - self.start : self.stop - self.start + len(content)] = content
        self.stop += len(content)

    def found(self, facts: WalFacts) -> None:
        self._facts.append(facts)

    def facts(self, start: int, stop: int) -> WalFacts:
        """Of the records that end in ``[start, stop)``: both are places at which scanning has stopped."""
        first, last = self.lsn(start), self.lsn(stop)
        if start == stop:
            return WalFacts(start=first, stop=last)
        at = bisect_left(self._facts, first, key=lambda facts: facts.start)
        end = bisect_right(self._facts, last, lo=at, key=lambda facts: facts.stop)
        return join(self._facts[at:end])


class Intake:
    """Where the bytes of one timeline go, from the beginning of a segment on."""

    def __init__(
        self, *, timeline: int, start: Lsn, segment_size: int, scanner: WalScanner, marks: Iterable[Lsn] = ()
    ) -> None:
        """``marks``: places at which pieces that are held already end."""
        self.timeline = timeline
        self.received = start
        """Up to here WAL has come."""
        self._size = segment_size
        self._scanner = scanner
        self._scanned = start
        self._marks = sorted({mark for mark in marks if mark > start}, reverse=True)
        self._again: Lsn | None = None
        """Of bytes that are sent once more, the next one that is due."""
        self.portion = Portion(Segment.holding(start, timeline=timeline, size=segment_size), start % segment_size)

    def add(self, start: Lsn, content: memoryview) -> list[Portion]:
        """Takes what was sent; the portions that it filled. Raises ``Damaged`` where bytes are left out, ``Refused``
        where bytes that are sent again are others."""
        expected = self.received if self._again is None else self._again
        if start != expected:
            raise Damaged(
                _("the server sent WAL from {lsn} on where {expected} was due").format(lsn=start, expected=expected)
            )
        content = self._compared(content)
        full = []
        while content:
            room = self.portion.limit - self.portion.stop
            if self._marks:
                room = min(room, self._marks[-1] - self.received)
            taken, content = content[:room], content[room:]
            self.portion.append(taken)
            self.received = Lsn(self.received + len(taken))
            if self._marks and self._marks[-1] == self.received:
                self._marks.pop()
                self.scan()
            if self.portion.is_full:
                self.scan()
                full.append(self.portion)
                self.portion = self._next()
        return full

    def scan(self) -> None:
        """Finds what the WAL says up to here: a piece may end here."""
        if self._scanned < self.received:
            base = self.portion.segment.start
            view = self.portion.view(self._scanned - base, self.received - base)
            self.portion.found(self._scanner.feed(view))
            self._scanned = self.received

    def again(self) -> Lsn:
        """From where WAL is to be sent after a lost connection: what is in memory is compared, not believed."""
        self._again = self.portion.lsn(self.portion.start)
        return self._again

    def _compared(self, content: memoryview) -> memoryview:
        """What is new of ``content``."""
        if self._again is None:
            return content
        known = min(len(content), self.received - self._again)
        offset = self._again - self.portion.segment.start
        if content[:known] != self.portion.view(offset, offset + known):
            raise other_bytes(self.portion.segment, self._again)
        self._again = Lsn(self._again + known)
        if self._again == self.received:
            self._again = None
        return content[known:]

    def _next(self) -> Portion:
        full = self.portion
        if full.limit < full.segment.size:
            return Portion(full.segment, full.limit)
        return Portion(full.segment.following(), 0)


def other_bytes(segment: Segment, lsn: Lsn) -> Refused:
    return Refused(
        _("the server's WAL at {lsn}, segment {segment}, is not what it was: another server wrote what is held").format(
            lsn=lsn, segment=segment.name
        ),
        hint=_(
            "See whether the connection leads to the right server. If this one is to be protected from now on although "
            "its history differs, give it a source of its own name."
        ),
    )
