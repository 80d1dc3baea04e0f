"""Putting WAL into a repository: pieces, files, records of where WAL begins, summaries of spans.

Each name follows from what the object holds, so two writers of the same bytes leave one object, and a put that is done
again loses nothing. What is put is durable when the call returns; only then is anything that it replaces removed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress

from holdfast.errors import Damaged, ObjectMissing, PermissionRefused, Refused, StoreUnreachable
from holdfast.messages import _
from holdfast.repository.crew import each
from holdfast.repository.objects import SPAN_BITS, Kind, file_folder, parse_piece_name, span_folder
from holdfast.repository.repository import Repository
from holdfast.repository.wal.envelope import Bytes
from holdfast.repository.wal.files import name_file, open_file, seal_file
from holdfast.repository.wal.held import Begin, Held, HeldPiece
from holdfast.repository.wal.looking import Infos, held_piece, parse_listed
from holdfast.repository.wal.pieces import MARK_BYTES, Piece, Running, Stream, name_stream, seal_piece
from holdfast.repository.wal.spans import Span, is_full
from holdfast.repository.wal.streams import encode_begin
from holdfast.repository.wal.summaries import Summaries

_WORKERS = 8
_REMEMBERED = 4096
"""Pieces that this writer put and need not be opened for a summary."""


class WalWriter:
    """Puts the WAL of one stream. Thread-safe; each method raises what the store raises."""

    def __init__(self, repository: Repository, stream: Stream, segment_size: int) -> None:
        self._repository, self._stream, self._segment_size = repository, stream, segment_size
        self._name = name_stream(repository.ids, stream)
        self._summaries = Summaries(repository, self._name)
        self._put: dict[str, HeldPiece] = {}
        self._lock = threading.Lock()

    def running(self) -> Running:
        """A digest that has seen nothing yet: for a new segment."""
        return Running(self._repository.ids)

    def put(self, piece: Piece, content: Bytes, *, tail: bool) -> str:
        """Puts a piece; returns its object's name. Of the same name nothing is asked: it is put again.

        ``content`` is bytes ``[start, stop)``. ``tail=False`` is for what :attr:`Piece.is_segment` says stays.
        Raises ``ValueError`` for a piece that contradicts itself, its content or this writer."""
        if (piece.stream, piece.segment_size) != (self._stream, self._segment_size):
            raise ValueError("stream")
        name, sealed = seal_piece(self._repository, piece, content, tail=tail)
        self._repository.store.put(name, sealed)
        if not tail:
            with self._lock:
                self._put[name] = held_piece(name, piece)
                while len(self._put) > _REMEMBERED:
                    del self._put[next(iter(self._put))]
        return name

    def put_file(self, file: str, content: bytes) -> bool:
        """A history file, ``.backup`` or ``.partial`` under PostgreSQL's name, whole. True: it is new; False: the same
        was there, and could be read. Raises ``Refused``, both named, when other content stands there;
        ``UsageError`` for any other name."""
        name = name_file(self._repository, self._stream, file, content)
        there = {listed.name for listed in self._repository.store.list(file_folder(self._name, file))}
        other = sorted(there - {name.name})
        if other:
            raise Refused(
                _("{file} is held already with other content: {other}; now offered: {name}").format(
                    file=file, other=", ".join(other), name=name.name
                ),
                hint=_(
                    "Two servers gave one name to different WAL: a promoted copy, or an old primary that went on. "
                    "Stop the one that is not meant to go on; a cluster made from a copy needs a source of its own."
                ),
            )
        is_new = name.name not in there or not self._is_readable(name.name)
        if is_new:
            self._repository.store.put(name.name, seal_file(self._repository, self._stream, name, content))
        return is_new

    def begin(self, begin: Begin) -> None:
        """Records where WAL begins: readers look for it from there on, so it comes before the first piece."""
        if (begin.stream, begin.segment_size) != (self._stream, self._segment_size):
            raise ValueError("stream")
        self._repository.put_stream_object(Kind.STREAM, self._name, encode_begin(begin))

    def remove_tails(self, names: Iterable[str]) -> None:
        """Removes tails that something durable has replaced. A store that lets nothing be deleted, or does not answer,
        keeps them: they cost nothing to readers."""

        def remove(name: str) -> None:
            with suppress(PermissionRefused, StoreUnreachable):
                self._repository.store.delete(name)

        tails = list(names)
        for name in tails:
            parsed = parse_piece_name(name)
            if parsed is None or (parsed.kind, parsed.stream) != (Kind.TAIL, self._name):
                raise ValueError(name)
        each(remove, tails, workers=min(_WORKERS, max(len(tails), 1)))

    def summarise(self, timeline: int, span: int, *, final: bool = False) -> bool:
        """Puts a summary of the span (``number >> 8``) if all its 256 segments are whole; ``final``: of whatever is
        there, because nothing more is awaited (its timeline ended, or a gap lies in it). False: nothing to put (not all
        there, or summarised already). Merges summaries of the stream when there are many."""
        folder = span_folder(Kind.WAL, self._name, timeline, span)
        names = {name.name: name for name in parse_listed(self._repository, folder)}
        if not names or self._summaries.tell(timeline, span, names):
            return False
        with self._lock:
            pieces = {name: (names[name].number, self._put[name]) for name in names if name in self._put}
        infos = Infos(self._repository, workers=_WORKERS)
        fetched = infos.fetch([name for name in names.values() if name.name not in pieces], self._segment_size)
        pieces |= {name.name: (name.number, piece) for name, piece in fetched.pieces.items()}
        if not pieces or not (final or is_full(pieces.values(), self._segment_size)):
            return False
        self._summaries.put([self._span(timeline, span, pieces.values())])
        with self._lock:
            for name in names:
                self._put.pop(name, None)
        return True

    def summarise_held(self, held: Held) -> int:
        """Summaries of all full spans of what was found held, as far as none tells them; how many. Opens no piece."""
        spans: dict[tuple[int, int], dict[str, tuple[int, HeldPiece]]] = {}
        for segment in held.segments:
            pieces = spans.setdefault((segment.timeline, segment.number >> SPAN_BITS), {})
            pieces.update({piece.name: (segment.number, piece) for piece in segment.pieces if piece.stop > piece.start})
        full = {key: pieces for key, pieces in spans.items() if is_full(pieces.values(), self._segment_size)}
        full = {key: some for key, some in full.items() if all(name.startswith(Kind.WAL.prefix) for name in some)}
        untold = self._summaries.untold(full)
        if untold:
            self._summaries.put([self._span(*key, full[key].values()) for key in untold])
        return len(untold)

    def conflicting(self, timeline: int, number: int, content: Bytes) -> tuple[str, ...]:
        """Names of the objects (segments and tails) at this place that hold other bytes than ``content``, the
        segment's from its beginning on. Told from two listings; nothing is opened."""
        folders = (span_folder(kind, self._name, timeline, number >> SPAN_BITS) for kind in (Kind.TAIL, Kind.WAL))
        there = [
            name
            for folder in folders
            for name in parse_listed(self._repository, folder)
            if name.number == number and name.start < name.stop
        ]
        running, at, marks = self.running(), 0, dict[int, str]()
        for stop in sorted({name.stop for name in there if name.stop <= len(content)}):
            running.feed(memoryview(content)[at:stop])
            marks[stop], at = running.digest()[:MARK_BYTES].hex(), stop
        return tuple(sorted(name.name for name in there if marks.get(name.stop, name.mark) != name.mark))

    def _span(self, timeline: int, span: int, pieces: Iterable[tuple[int, HeldPiece]]) -> Span:
        ordered = tuple(sorted(pieces, key=lambda item: (item[0], item[1].start, item[1].name)))
        return Span(timeline=timeline, span=span, segment_size=self._segment_size, pieces=ordered)

    def _is_readable(self, name: str) -> bool:
        try:
            open_file(self._repository, name, self._repository.store.get(name))
        except ObjectMissing:
            return False
        except Damaged:
            return False  # by the same name only the same content comes: putting it again mends it
        return True
