"""What one repository still needs of the WAL that comes in: pieces of the tail, whole portions. Pure.

The running digest of the segment passes over every byte. Where what is held ends, it is compared: bytes that another
server wrote are never continued.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from holdfast.errors import Damaged
from holdfast.jobs.archive_portions import Portion, other_bytes
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.walfacts import WalFacts, join
from holdfast.repository.objects import Kind
from holdfast.repository.wal.held import HeldPiece, HeldSegment
from holdfast.repository.wal.pieces import Piece, Running, Stream


class Cursor:
    def __init__(
        self,
        *,
        stream: Stream,
        start: Lsn,
        segment_size: int,
        running: Callable[[], Running],
        held: Mapping[int, HeldSegment],
    ) -> None:
        """``start``: the beginning of a segment. ``held``: by number, what is held of segments from there on."""
        self._stream = stream
        self.segment_size = segment_size
        self._new_running = running
        self._held = dict(held)
        self._running = running()
        self._before = self._running.digest()
        """At the beginning of the portion."""
        self._at = start
        """The digest has passed over everything before."""
        self.position = _end_of(self._held, start, segment_size)
        """Everything before is cut into pieces, or held."""
        self.said: datetime | None = None
        """The clock of the newest piece."""

    def tail(self, portion: Portion, clock: datetime | None) -> Piece | None:
        """What is new of a portion; a piece of no length that only tells the clock if nothing is. None: more is held
        than has been sent again."""
        stop = portion.stop
        start = max(self.position - portion.segment.start, portion.start)
        before = self._pass(portion, min(start, stop))
        if start > stop or (start == stop and clock is None):
            return None
        after = self._pass(portion, stop)
        self.position = portion.lsn(stop)
        if clock is not None:
            self.said = clock
        return self._piece(portion, (start, stop), (before, after), clock, portion.facts(start, stop))

    def whole(self, portion: Portion, clock: datetime | None) -> Piece | None:
        """A full portion; None if it is held already, and the same."""
        after = self._pass(portion, portion.limit)
        self.position = max(self.position, portion.lsn(portion.limit))
        inside = self._held_in(portion)
        if portion.limit == portion.segment.size:
            self._held.pop(portion.segment.number, None)
            self._running = self._new_running()
        if any((piece.start, piece.stop) == (portion.start, portion.limit) and not is_tail(piece) for piece in inside):
            return None
        facts = _continued(inside, portion)
        return self._piece(portion, (portion.start, portion.limit), (self._before, after), clock, facts)

    def tails_held(self, portion: Portion) -> tuple[HeldPiece, ...]:
        """Pieces that were held of this portion's tail when we began."""
        return tuple(piece for piece in self._held_in(portion) if is_tail(piece))

    def _held_in(self, portion: Portion) -> list[HeldPiece]:
        held = self._held.get(portion.segment.number)
        pieces = () if held is None else held.pieces
        return [piece for piece in pieces if portion.start <= piece.start and piece.stop <= portion.limit]

    def _pass(self, portion: Portion, offset: int) -> bytes:
        """The digest at ``offset``, what is held compared on the way."""
        base = portion.segment.start
        held = self._held.get(portion.segment.number)
        if self._at == portion.lsn(portion.start):
            self._before = self._running.digest()
        stops = [offset]
        if held is not None and self._at - base < held.stop < offset:
            stops.insert(0, held.stop)
        for stop in stops:
            if stop > self._at - base:
                self._running.feed(portion.view(self._at - base, stop))
                self._at = portion.lsn(stop)
                if held is not None and stop == held.stop and self._running.digest() != held.digest:
                    raise other_bytes(portion.segment, self._at)
        return self._running.digest()

    def _piece(
        self,
        portion: Portion,
        stretch: tuple[int, int],
        digests: tuple[bytes, bytes],
        clock: datetime | None,
        facts: WalFacts,
    ) -> Piece:
        return Piece(
            stream=self._stream,
            timeline=portion.segment.timeline,
            number=portion.segment.number,
            segment_size=self.segment_size,
            start=stretch[0],
            stop=stretch[1],
            before=digests[0],
            after=digests[1],
            clock=clock,
            facts=facts.to_json(),
        )


def is_tail(piece: HeldPiece) -> bool:
    return piece.name.startswith(Kind.TAIL.prefix)


def _end_of(held: Mapping[int, HeldSegment], start: Lsn, size: int) -> Lsn:
    """Up to where ``held`` goes on without a hole from ``start``."""
    number = start // size
    while (segment := held.get(number)) is not None and segment.stop == size:
        number += 1
    return Lsn(number * size + (segment.stop if segment is not None else 0))


def _continued(inside: Sequence[HeldPiece], portion: Portion) -> WalFacts:
    """The facts of a full portion. Those of pieces that are held come first: whoever put them had read the WAL before
    the portion, and knows the record that crosses its beginning."""
    ours = portion.facts(portion.start, portion.limit)
    if not inside or inside[0].start != portion.start:
        return ours
    rest = portion.facts(inside[-1].stop, portion.limit)
    try:
        return join([*(WalFacts.from_json(piece.facts) for piece in inside), rest])
    except (Damaged, ValueError):
        return ours
