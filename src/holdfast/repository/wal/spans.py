"""A summary of spans: what the segments of 256 numbers of one timeline say of themselves, without their bytes.

An object is one sealed part: ``u32 length ‖ stored form`` of JSON. Summaries of a stream are merged when there are
many: the union is put first, then the merged ones go. Only pieces that stay are summarised, and a summary only
saves opening them: what it says was true when it was written.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.compression import compress, decompress
from holdfast.repository.ids import IdKey
from holdfast.repository.moments import read_moment
from holdfast.repository.objects import SPAN_BITS, Kind, PieceName
from holdfast.repository.wal.envelope import no_number
from holdfast.repository.wal.held import HeldPiece
from holdfast.repository.wal.pieces import DIGEST_BYTES, MARK_BYTES, Json, Running, whole

SPAN_SEGMENTS = 1 << SPAN_BITS
MAX_SUMMARY_BYTES = 256 * 2**20
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What stands in one span."""

    timeline: int
    span: int
    segment_size: int
    pieces: tuple[tuple[int, HeldPiece], ...]
    """The segment's number, and one piece of it; in order of number and start."""


def is_full(pieces: Iterable[tuple[int, HeldPiece]], segment_size: int) -> bool:
    """Whether all 256 segments are whole, each held once."""
    at: dict[int, tuple[int, bytes | None]] = {}
    for number, piece in sorted(pieces, key=lambda item: (item[0], item[1].start)):
        stop, digest = at.get(number, (0, None))
        if piece.start != stop or (digest is not None and piece.before != digest):
            return False
        at[number] = piece.stop, piece.after
    return len(at) == SPAN_SEGMENTS and all(stop == segment_size for stop, _digest in at.values())


def encode_spans(stream: str, spans: Iterable[Span]) -> bytes:
    fields = {
        "stream": stream,
        "spans": [
            {
                "timeline": one.timeline,
                "span": one.span,
                "segment_size": one.segment_size,
                "pieces": [_encode(*item) for item in one.pieces],
            }
            for one in spans
        ],
    }
    plain = json.dumps(fields, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()
    if len(plain) > MAX_SUMMARY_BYTES:
        raise ValueError("size")
    return _LENGTH.pack(len(plain)) + compress(plain)


def decode_spans(ids: IdKey, stream: str, data: bytes) -> tuple[Span, ...]:
    """Raises ``Damaged``, for another stream's too."""
    try:
        (size,) = _LENGTH.unpack_from(data)
        if size > MAX_SUMMARY_BYTES:
            raise ValueError("size")
        fields = json.loads(decompress(memoryview(data)[_LENGTH.size :], size=size), parse_constant=no_number)
        if fields["stream"] != stream:
            raise ValueError("stream")
        reading = _Reading(stream=stream, empty=Running(ids).digest())
        return tuple(reading.span(one) for one in fields["spans"])
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, Damaged):
        raise Damaged(_("a summary of WAL cannot be read")) from None


def _encode(number: int, piece: HeldPiece) -> Sequence[object]:
    """What lies before a piece is said where there is something before it."""
    clock = None if piece.clock is None else piece.clock.astimezone(UTC).isoformat()
    before = piece.before.hex() if piece.start else None
    return [number, piece.start, piece.stop, before, piece.after.hex(), clock, piece.facts]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    stream: str
    empty: bytes
    """Digest of no bytes: what lies before a segment's first piece."""

    def span(self, fields: Json) -> Span:
        timeline, span, size = (whole(fields[name]) for name in ("timeline", "span", "segment_size"))
        if not 0 < timeline < 2**32 or not 0 <= span < 2**56 or not 2**20 <= size <= 2**30:
            raise ValueError("span")
        pieces = tuple(self._piece(timeline, size, one) for one in fields["pieces"])
        if any(number >> SPAN_BITS != span for number, _piece in pieces):
            raise ValueError("number")
        return Span(timeline=timeline, span=span, segment_size=size, pieces=pieces)

    def _piece(self, timeline: int, segment_size: int, fields: Sequence[object]) -> tuple[int, HeldPiece]:
        *numbers, before_text, after_text, clock_text, facts = fields
        number, start, stop = map(whole, numbers)
        if not isinstance(facts, dict):
            raise ValueError("facts")
        before = bytes.fromhex(str(before_text)) if start else self.empty
        after = bytes.fromhex(str(after_text))
        if not 0 <= start < stop <= segment_size or {len(before), len(after)} != {DIGEST_BYTES}:
            raise ValueError("piece")
        clock = None if clock_text is None else read_moment(str(clock_text))
        name = PieceName(Kind.WAL, self.stream, timeline, number, start, stop, after[:MARK_BYTES].hex()).name
        return number, HeldPiece(name, start, stop, before, after, clock, facts)
