"""WAL that no server wrote, put as a receiver puts it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from holdfast.repository.repository import Repository
from holdfast.repository.wal.held import Begin, Held
from holdfast.repository.wal.pieces import MAX_PIECE_BYTES, Piece, Stream
from holdfast.repository.wal.reading import WalReader
from holdfast.repository.wal.writing import WalWriter
from tests.repository.making import noise

STREAM = Stream(source="tracker", system_identifier=7_398_214_999_999_999_999)
SIZE = 2**20
MOMENT = datetime(2026, 11, 22, 14, 3, 22, 123_456, tzinfo=UTC)


def segment(number: int, *, timeline: int = 1, size: int = SIZE, seed: int = 0) -> bytes:
    """Its bytes: the same for the same arguments; quickly made and packed."""
    return noise(64, number * 1_000 + timeline * 10 + seed).ljust(4096, b"\0") * (size // 4096)


def clock(seconds: float) -> datetime:
    return MOMENT + timedelta(seconds=seconds)


def begin(
    number: int = 0, *, timeline: int = 1, why: str = "first", stream: Stream = STREAM, size: int = SIZE
) -> Begin:
    return Begin(
        stream=stream, segment_size=size, timeline=timeline, lsn=number * size, when=MOMENT, host="db1", why=why
    )


@dataclass(slots=True)
class Streamer:
    """Puts stretches of segments, with their digests."""

    repository: Repository
    stream: Stream = STREAM
    timeline: int = 1
    size: int = SIZE
    seed: int = 0
    writer: WalWriter = field(init=False)

    def __post_init__(self) -> None:
        self.writer = WalWriter(self.repository, self.stream, self.size)

    def begin(self, number: int = 0, *, why: str = "first") -> None:
        self.writer.begin(begin(number, timeline=self.timeline, why=why, stream=self.stream, size=self.size))

    def content(self, number: int) -> bytes:
        return segment(number, timeline=self.timeline, size=self.size, seed=self.seed)

    def piece(self, number: int, start: int, stop: int, *, seconds: float | None = None) -> Piece:
        running = self.writer.running()
        running.feed(self.content(number)[:start])
        before = running.digest()
        running.feed(self.content(number)[start:stop])
        return Piece(
            stream=self.stream,
            timeline=self.timeline,
            number=number,
            segment_size=self.size,
            start=start,
            stop=stop,
            before=before,
            after=running.digest(),
            clock=None if seconds is None else clock(seconds),
            facts={"s": number * self.size + start, "e": number * self.size + stop},
        )

    def tail(self, number: int, start: int, stop: int, *, seconds: float | None = None) -> str:
        piece = self.piece(number, start, stop, seconds=seconds)
        return self.writer.put(piece, self.content(number)[start:stop], tail=True)

    def whole(self, number: int, *, seconds: float | None = None) -> list[str]:
        content = self.content(number)
        names = []
        for start in range(0, self.size, MAX_PIECE_BYTES):
            stop = min(start + MAX_PIECE_BYTES, self.size)
            piece = self.piece(number, start, stop, seconds=seconds)
            names.append(self.writer.put(piece, content[start:stop], tail=False))
        return names


def bytes_held(
    repository: Repository, held: Held | None = None, stream: Stream = STREAM
) -> dict[tuple[int, int], bytes]:
    """Everything that is held, by timeline and number."""
    reader = WalReader(repository)
    held = reader.held(stream) if held is None else held
    return {(segment.timeline, segment.number): b"".join(reader.content(stream, segment)) for segment in held.segments}
