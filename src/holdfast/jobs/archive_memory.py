"""What is held of a source's WAL in one repository, as it was read once and as we have added to it since.

So that a lost connection costs no reading. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace

from holdfast.repository.wal.held import Begin, Held, HeldPiece, HeldSegment
from holdfast.repository.wal.pieces import Piece, Stream
from holdfast.repository.wal.reading import WalReader

Place = tuple[int, int]
"""Timeline and number of a segment."""


class Memory:
    def __init__(self, reader: WalReader, held: Iterable[Held]) -> None:
        self.reader = reader
        self._lock = threading.Lock()
        self._streams = {one.stream: _Stream(one) for one in held}

    def held(self) -> list[Held]:
        with self._lock:
            return [stream.held() for stream in self._streams.values()]

    def begun(self, begin: Begin) -> None:
        """A beginning was recorded."""
        with self._lock:
            self._of(begin.stream, begin.segment_size).begins.append(begin)

    def history(self, stream: Stream, segment_size: int, timeline: int, content: bytes) -> None:
        with self._lock:
            self._of(stream, segment_size).histories[timeline] = content

    def put(self, piece: Piece, name: str) -> None:
        """A piece is durable, in any order."""
        added = HeldPiece(
            name=name,
            start=piece.start,
            stop=piece.stop,
            before=piece.before,
            after=piece.after,
            clock=piece.clock,
            facts=piece.facts,
        )
        with self._lock:
            stream = self._of(piece.stream, piece.segment_size)
            stream.add((piece.timeline, piece.number), added, whole=piece.is_segment)

    def segments_from(self, stream: Stream, timeline: int, number: int) -> dict[int, HeldSegment]:
        """What is held of segments of that timeline from ``number`` on, by number."""
        with self._lock:
            known = self._streams.get(stream)
            if known is None:
                return {}
            return {
                place[1]: segment
                for place, segment in known.segments.items()
                if place[0] == timeline and place[1] >= number and segment.stop > 0
            }

    def segment(self, stream: Stream, timeline: int, number: int) -> HeldSegment | None:
        with self._lock:
            known = self._streams.get(stream)
            return None if known is None else known.segments.get((timeline, number))

    def _of(self, stream: Stream, segment_size: int) -> _Stream:
        if stream not in self._streams:
            empty = Held(stream=stream, segment_size=segment_size, segments=(), histories={}, begins=())
            self._streams[stream] = _Stream(empty)
        return self._streams[stream]


class _Stream:
    def __init__(self, base: Held) -> None:
        self.base = base
        self.segments: dict[Place, HeldSegment] = {
            (segment.timeline, segment.number): segment for segment in base.segments
        }
        self.begins = list(base.begins)
        self.histories = dict(base.histories)
        self._apart: dict[Place, list[HeldPiece]] = {}
        """Pieces that we have put and that do not join yet."""

    def held(self) -> Held:
        segments = tuple(self.segments[place] for place in sorted(self.segments))
        return replace(self.base, segments=segments, begins=tuple(self.begins), histories=dict(self.histories))

    def add(self, place: Place, piece: HeldPiece, *, whole: bool) -> None:
        """Of one that goes on from the last the cost does not grow with their number: commits wait meanwhile."""
        if piece.start == piece.stop:
            return  # it tells a clock, which nobody asks of us
        if whole:
            piece = piece._replace(facts={})  # nobody asks it of us any more, and there are many
        before = self.segments.get(place)
        chain = () if before is None else tuple(one for one in before.pieces[-1:] if one.start < one.stop)
        chain = () if before is None else (*before.pieces[:-1], *chain)
        stop, apart = (chain[-1].stop if chain else 0), self._apart.setdefault(place, [])
        if piece.start > stop:
            apart.append(piece)
            return
        if piece.start < stop or (chain and chain[-1].after != piece.before):
            # What it covers it takes the place of: else they would be ever more, until the segment is whole.
            apart += [one for one in chain if not (piece.start <= one.start and one.stop <= piece.stop)]
            chain = ()
        chain = joined([*chain, piece, *apart]) if apart else (*chain, piece)
        stop = chain[-1].stop if chain else 0
        apart[:] = [one for one in apart if one.stop > stop]
        if not apart:
            del self._apart[place]
        self.segments[place] = HeldSegment(place[0], place[1], chain)


def joined(pieces: Sequence[HeldPiece]) -> tuple[HeldPiece, ...]:
    """The chain of them from the segment's beginning; of several that go on from one place the longest."""
    by_start: dict[int, list[HeldPiece]] = {}
    for piece in pieces:
        by_start.setdefault(piece.start, []).append(piece)
    chain: list[HeldPiece] = []
    at = 0
    while True:
        going = [
            piece
            for piece in by_start.get(at, ())
            if piece.stop > at and (not chain or piece.before == chain[-1].after)
        ]
        if not going:
            return tuple(chain)
        chain.append(max(going, key=lambda piece: piece.stop))
        at = chain[-1].stop
