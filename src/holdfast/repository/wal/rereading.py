"""One segment read back as a verification reads it: each piece once, and compared with what is left of its tails."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.objects import PieceName
from holdfast.repository.repository import Repository
from holdfast.repository.wal.contents import feed
from holdfast.repository.wal.held import HeldPiece, HeldSegment
from holdfast.repository.wal.pieces import MARK_BYTES, Running, Stream
from holdfast.repository.wal.reading import WalReader


class Rereading:
    def __init__(
        self,
        repository: Repository,
        reader: WalReader,
        stream: Stream,
        segment: HeldSegment,
        tails: Iterable[PieceName],
    ) -> None:
        self._repository, self._reader, self._stream, self._segment = repository, reader, stream, segment
        self._tails: Mapping[int, list[PieceName]] = defaultdict(list)
        for tail in tails:
            self._tails[tail.stop].append(tail)
        self.at = segment.pieces[0].name
        """The piece that is being read."""
        self._done: set[str] = set()
        self.other: dict[str, str] = {}
        """Tails that hold other bytes, and what is wrong with them."""

    def blocks(self) -> Iterator[bytes]:
        running = Running(self._repository.ids)
        for piece in self._segment.pieces:
            content = self.read(piece)
            for stop, digest in feed(running, piece, content, self._tails):
                self._compare(stop, digest)
            if running.digest() != piece.after:
                raise Damaged(_("{name} is damaged: its bytes do not have its digest").format(name=piece.name))
            yield content

    def read(self, piece: HeldPiece) -> bytes:
        """Its bytes; nothing if they were read before."""
        if piece.start == piece.stop or piece.name in self._done:
            return b""
        self._done.add(piece.name)
        self.at = piece.name
        return b"".join(self._reader.content(self._stream, self._segment, start=piece.start, stop=piece.stop))

    def _compare(self, stop: int, digest: bytes) -> None:
        for tail in self._tails[stop]:
            if tail.mark != digest[:MARK_BYTES].hex():
                text = _("{name}: another content of the same WAL stands beside it, {others}: two servers wrote it")
                self.other[tail.name] = text.format(name=tail.name, others=self.at)
