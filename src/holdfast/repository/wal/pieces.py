"""A piece of WAL: bytes ``[start, stop)`` of one segment, and the object that holds them.

Its object has two parts (``envelope``): what the piece is (:class:`Piece`), then the bytes. Its name follows from what
it holds. Digests are of the segment's bytes from its beginning on, so pieces that join have one in common, and a
segment has one whatever pieces it was cut into; they are keyed for the owner, so that repositories can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.ids import IdKey
from holdfast.repository.moments import read_moment
from holdfast.repository.objects import Kind, PieceName, parse_piece_name
from holdfast.repository.repository import Repository
from holdfast.repository.wal.envelope import Bytes, fetch_info, open_content, open_info, seal

Json = dict[str, Any]

MAX_PIECE_BYTES = 64 * 2**20
"""Of content: a longer segment is several pieces, cut at multiples of this; no tail goes over such a place."""
DIGEST_BYTES = 32
MARK_BYTES = 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Whose WAL it is: two servers behind one connection, one after the other, are two streams."""

    source: str
    system_identifier: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What a piece is, without its bytes."""

    stream: Stream
    timeline: int
    number: int
    """Of the segment: what lies before it is ``number * segment_size`` bytes."""
    segment_size: int
    start: int
    """Offset in the segment."""
    stop: int
    """One past its last byte; equal to ``start`` for one that only says that the clock went on."""
    before: bytes
    """Digest of the segment's bytes ``[0, start)``: keyed BLAKE3, 32 bytes."""
    after: bytes
    """Digest of the segment's bytes ``[0, stop)``."""
    clock: datetime | None
    """The server's clock when nothing beyond ``stop`` had been written yet: each commit up to then lies before it.
    None: not known (WAL that was archived)."""
    facts: Json
    """What ``postgres`` found in it: :meth:`holdfast.postgres.walfacts.WalFacts.to_json`."""

    @property
    def is_segment(self) -> bool:
        """Whether it goes to stay: a whole segment, or one of the pieces that a large one is cut into."""
        return (
            self.start % MAX_PIECE_BYTES == 0
            and self.stop > self.start
            and self.stop == min(self.start + MAX_PIECE_BYTES, self.segment_size)
        )

    def check(self) -> None:
        """Raises ``ValueError`` for a piece that contradicts itself."""
        within = 0 <= self.start <= self.stop <= self.segment_size
        first, last = self.start // MAX_PIECE_BYTES, max(self.stop - 1, self.start) // MAX_PIECE_BYTES
        checks = {
            "timeline": 0 < self.timeline < 2**32,
            "system identifier": 0 <= self.stream.system_identifier < 2**64,
            "segment size": 2**20 <= self.segment_size <= 2**30 and self.segment_size.bit_count() == 1,
            "number": 0 <= self.number < 2**64 // max(self.segment_size, 1),
            "place": within and first == last,
            "digests": len(self.before) == len(self.after) == DIGEST_BYTES,
            "no bytes": self.stop > self.start or (self.clock is not None and self.before == self.after),
            "clock": self.clock is None or self.clock.tzinfo is not None,
        }
        for what, holds in checks.items():
            if not holds:
                raise ValueError(what)


class Running:
    """The digest of a segment's bytes so far. Feeding it releases the GIL."""

    def __init__(self, ids: IdKey) -> None:
        self._hasher = ids.wal_hasher()

    def feed(self, content: Bytes) -> None:
        self._hasher.update(content)

    def digest(self) -> bytes:
        """Of what it was fed; it can be fed on."""
        return self._hasher.digest()

    def copy(self) -> Self:
        other = object.__new__(type(self))
        other._hasher = self._hasher.copy()
        return other


def name_stream(ids: IdKey, stream: Stream) -> str:
    """32 hexadecimal digits, the same in all repositories of one owner."""
    return ids.wal_mark(stream.system_identifier.to_bytes(8, "big") + stream.source.encode()).hex()


def name_piece(ids: IdKey, piece: Piece, *, tail: bool) -> PieceName:
    mark = piece.after[:MARK_BYTES]
    if piece.start == piece.stop:
        assert piece.clock is not None
        microseconds = (piece.clock - _EPOCH) // timedelta(microseconds=1)
        mark = ids.wal_mark(piece.after + microseconds.to_bytes(8, "big", signed=True))
    return PieceName(
        Kind.TAIL if tail else Kind.WAL,
        name_stream(ids, piece.stream),
        piece.timeline,
        piece.number,
        piece.start,
        piece.stop,
        mark.hex(),
    )


def seal_piece(repository: Repository, piece: Piece, content: Bytes, *, tail: bool) -> tuple[str, bytes]:
    """A piece's name and object. Raises ``ValueError`` for a piece that contradicts itself or its content."""
    piece.check()
    if len(content) != piece.stop - piece.start or not (tail or piece.is_segment):
        raise ValueError("content")
    name = name_piece(repository.ids, piece, tail=tail)
    return name.name, seal(repository.master, name.kind, name.name, _encode(piece), content)


def fetch_piece(repository: Repository, name: PieceName) -> Piece:
    """What the piece under that name is, its bytes unread. Raises ``Damaged``, and what the store raises."""
    opened = fetch_info(repository.store, repository.master, name.kind, name.name)
    return _decode(repository.ids, name, opened.info)


def open_piece(repository: Repository, name: str, data: bytes) -> tuple[Piece, bytes]:
    """A piece and its bytes, from its whole object; its digests are not computed again. Raises ``Damaged``."""
    parsed = parse_piece_name(name)
    if parsed is None:
        raise Damaged(_("{name} has a name that Holdfast does not write").format(name=name))
    opened = open_info(repository.master, parsed.kind, name, data)
    piece = _decode(repository.ids, parsed, opened.info)
    return piece, open_content(opened, data, size=piece.stop - piece.start)


def _encode(piece: Piece) -> Json:
    return {
        "source": piece.stream.source,
        "system_identifier": piece.stream.system_identifier,
        "timeline": piece.timeline,
        "number": piece.number,
        "segment_size": piece.segment_size,
        "start": piece.start,
        "stop": piece.stop,
        "before": piece.before.hex(),
        "after": piece.after.hex(),
        "clock": None if piece.clock is None else piece.clock.astimezone(UTC).isoformat(),
        "facts": piece.facts,
    }


def _decode(ids: IdKey, name: PieceName, info: Json) -> Piece:
    try:
        piece = Piece(
            stream=Stream(source=_text(info["source"]), system_identifier=whole(info["system_identifier"])),
            timeline=whole(info["timeline"]),
            number=whole(info["number"]),
            segment_size=whole(info["segment_size"]),
            start=whole(info["start"]),
            stop=whole(info["stop"]),
            before=bytes.fromhex(info["before"]),
            after=bytes.fromhex(info["after"]),
            clock=None if info["clock"] is None else read_moment(info["clock"]),
            facts=dict(info["facts"]),
        )
        piece.check()
        if not isinstance(info["facts"], dict) or (piece.start == 0 and piece.before != Running(ids).digest()):
            raise ValueError("before")
        tail = name.kind is Kind.TAIL
        if name_piece(ids, piece, tail=tail) != name or not (tail or piece.is_segment):
            raise ValueError("name")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise Damaged(
            _("what {name} says of itself cannot be read, or it is another object").format(name=name.name),
            hint=_("It may have been written by a newer version of Holdfast."),
        ) from None
    return piece


def whole(number: Any) -> int:
    """Raises ``ValueError`` for what JSON does not show as a whole number."""
    if type(number) is not int:
        raise ValueError("number")
    return number


def _text(text: Any) -> str:
    if type(text) is not str:
        raise ValueError("text")
    return text
