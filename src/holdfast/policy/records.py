"""What is known of the records in a stretch: transactions, and where records begin and end. Pure.

Facts of pieces tell which segments may hold what is looked for; only those are asked for their transactions. Positions
are compared as *borders*: where a record ends and the next one may begin, before any page header that lies between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from holdfast.policy.lines import Line, Step, Stretch
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.walfacts import Event, Transaction, WalFacts
from holdfast.repository.wal.held import HeldSegment

_PAGE = 8192
_SHORT_HEADER, _LONG_HEADER = 24, 40
"""``SizeOfXLogShortPHD`` and, on a segment's first page, ``SizeOfXLogLongPHD`` (``xlog_internal.h``)."""


class Part(NamedTuple):
    """Bytes of a held segment. Parts that are asked for together join to one run of WAL."""

    system_identifier: int
    repository: str
    segment: HeldSegment
    start: int
    """Offset in the segment."""
    stop: int

    def begins(self, segment_size: int) -> Lsn:
        return Lsn(self.segment.number * segment_size + self.start)


Transactions = Callable[[Sequence[Part]], Sequence[Transaction]]
"""Reads the commits and aborts that end in a run of WAL, in its order. The first part is the end of the segment before,
as a record may begin there. The only question that planning asks while it plans; it is asked of few segments."""

MayHold = Callable[[WalFacts], bool]
IsWanted = Callable[[Transaction], bool]


def border(lsn: int, segment_size: int) -> Lsn:
    """``lsn`` itself, or where the page header before it begins."""
    for unit, header in ((segment_size, _LONG_HEADER), (_PAGE, _SHORT_HEADER)):
        if 0 < lsn % unit <= header:
            return Lsn(lsn - lsn % unit)
    return Lsn(lsn)


class Records:
    """Of one line. Remembers what it has read."""

    def __init__(self, line: Line, transactions: Transactions) -> None:
        self._line = line
        self._ask = transactions
        self._size = line.wal.segment_size
        self._read: dict[int, tuple[Transaction, ...]] = {}

    def border(self, lsn: int) -> Lsn:
        return border(lsn, self._size)

    def facts(self, step: Step) -> list[WalFacts | None]:
        """Of each piece; None: not known, so that anything may be in it."""
        return [self._line.wal.facts(piece) for piece in step.segment.pieces if piece.stop > piece.start]

    def events(self, step: Step) -> list[Event]:
        return [event for facts in self.facts(step) if facts for event in facts.events if event.end <= step.stop]

    def is_end_known(self, step: Step) -> bool:
        """Whether no record ends in it, behind the last that is known to, which nobody has seen."""
        for facts in reversed(self.facts(step)):
            if facts is not None and facts.records_end is not None:
                return True
            if facts is None or facts.is_blind:
                return False
        return True

    def end(self, step: Step) -> Lsn | None:
        """Where the last whole record ends that ends in it; None: none is known to."""
        if step.stop < step.start + step.segment.stop:  # another branch goes on there: a timeline begins after a record
            return Lsn(step.stop)
        ends = [facts.records_end for facts in self.facts(step) if facts and facts.records_end]
        return max((Lsn(end) for end in ends if end <= step.stop), default=None)

    def transactions(self, step: Step) -> tuple[Transaction, ...]:
        """Those that end in it, in the order of WAL."""
        if step.number not in self._read:
            found = self._ask([*self._before(step), self._part(step)])
            self._read[step.number] = tuple(tx for tx in found if step.start < tx.end <= step.stop)
        return self._read[step.number]

    def _part(self, step: Step, start: int = 0) -> Part:
        return Part(self._line.wal.identifier, step.repository, step.segment, start, step.stop - step.start)

    def _before(self, step: Step) -> list[Part]:
        """From where a record ended for the last time before ``step``."""
        parts: list[Part] = []
        before = self._line.step(step.number - 1)
        while before is not None and before.stop == before.start + self._size:
            end = self.end(before)
            if end is not None and end < before.stop:
                return [self._part(before, end - before.start), *parts]
            if end is not None:
                return parts
            parts.insert(0, self._part(before))
            if any(facts is None for facts in self.facts(before)):
                return parts
            before = self._line.step(before.number - 1)
        return parts

    def may_hold(self, step: Step, test: MayHold) -> bool:
        return any(
            facts is None or facts.is_blind or (has_transactions(facts) and test(facts)) for facts in self.facts(step)
        )

    def first(
        self, stretch: Stretch, index: int, start: int, test: MayHold, wanted: IsWanted, *, stop: int | None = None
    ) -> Transaction | None:
        """The first wanted one that begins at or after ``start`` and, if given, before ``stop``."""
        for number in range(index, len(stretch.steps)):
            step = stretch.steps[number]
            if stop is not None and step.start >= stop:
                return None
            if self.may_hold(step, test):
                for tx in self.transactions(step):
                    if tx.lsn >= start and (stop is None or tx.lsn < stop) and wanted(tx):
                        return tx
        return None

    def last(self, steps: Sequence[Step], start: int, wanted: IsWanted) -> Transaction | None:
        """The last wanted one that begins at or after ``start``; only the newest segments are asked."""
        for step in reversed(steps):
            if step.stop <= start:
                return None
            if self.may_hold(step, lambda _facts: True):
                found = [tx for tx in self.transactions(step) if tx.lsn >= start and wanted(tx)]
                if found:
                    return found[-1]
        return None

    def stretch_end(self, stretch: Stretch, start: int) -> Lsn:
        """Where the last whole record ends; ``start`` if none is known to end after it."""
        for step in reversed(stretch.steps):
            if step.stop <= start:
                break
            end = self.end(step)
            if end is not None:
                return max(self.border(end), Lsn(start))
        return Lsn(start)


def has_transactions(facts: WalFacts) -> bool:
    return facts.commits + facts.aborts > 0


class Bounds(NamedTuple):
    """A border that is somewhere from ``least`` to ``most``."""

    least: Lsn
    most: Lsn


class Around(NamedTuple):
    """What recovery does at a position: where it stops before and after the record that begins there or next."""

    before: Bounds
    after: Bounds


def around(records: Records, stretch: Stretch, index: int, lsn: int) -> Around | None:
    """None: no record is known to begin at ``lsn`` or later, so that recovery might never get there."""
    position = records.border(lsn)
    marks: set[Lsn] = set()
    known: set[tuple[Lsn, Lsn]] = set()
    for step in stretch.steps[index:]:
        if step.stop <= position:
            continue
        for begin, end in _records(records, step):
            known.add((begin, end))
            marks |= {begin, end}
        marks |= {
            records.border(facts.records_end)
            for facts in records.facts(step)
            if facts and facts.records_end and facts.records_end <= step.stop
        }
        later = sorted(mark for mark in marks if mark >= position)
        if len(later) > 1:
            return _around(position, later[0], later[1], known)
    return None


def _records(records: Records, step: Step) -> Iterable[tuple[Lsn, Lsn]]:
    """Begin and end of those that are known one by one."""
    for event in records.events(step):
        yield records.border(event.lsn), records.border(event.end)
    for tx in records.transactions(step):
        yield records.border(tx.lsn), records.border(tx.end)
        if tx.prev:
            yield records.border(tx.prev), records.border(tx.lsn)


def _around(position: Lsn, one: Lsn, two: Lsn, known: Iterable[tuple[Lsn, Lsn]]) -> Around:
    """``one`` and ``two`` are the first borders known at ``position`` or later."""
    is_border = one == position or any(begin < position <= one == end for begin, end in known)
    first = one if is_border else position
    if is_border and (one, two) in known:
        return Around(Bounds(first, one), Bounds(two, two))
    return Around(Bounds(first, one), Bounds(Lsn(first + 1), two))
