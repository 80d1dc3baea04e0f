"""The bytes of a segment: pieces read one after the other, authenticated, and their digests computed again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.repository import Repository
from holdfast.repository.wal.held import HeldPiece
from holdfast.repository.wal.pieces import Running, open_piece


def read_piece(repository: Repository, held: HeldPiece) -> bytes:
    """Its bytes, which are those that ``held`` speaks of if their digest is right. Raises ``Damaged``."""
    piece, content = open_piece(repository, held.name, repository.store.get(held.name))
    if (piece.start, piece.stop, piece.before, piece.after) != (held.start, held.stop, held.before, held.after):
        raise Damaged(_("{name} is not what was known of it").format(name=held.name))
    return content


def read_chain(
    repository: Repository,
    pieces: Sequence[HeldPiece],
    *,
    start: int = 0,
    stop: int | None = None,
    marks: Mapping[int, bytes] | None = None,
) -> Iterator[bytes]:
    """Bytes ``[start, stop)`` of pieces that join. What lies wholly before ``start`` is not read, unless ``marks`` are
    given: digests that the segment must have had at some offsets; then all is read. Raises ``Damaged``."""
    running: Running | None = Running(repository.ids)
    for held in pieces:
        if held.start == held.stop:
            continue
        if held.stop <= start and not marks:
            running = None  # what follows is told by authenticated pieces that join, and by its own seal
            continue
        if stop is not None and held.start >= stop and not any(mark > held.start for mark in marks or ()):
            return
        content = read_piece(repository, held)
        if running is not None:
            for offset, digest in feed(running, held, content, marks or {}):
                if digest != (marks or {})[offset]:
                    raise Damaged(_("{name} does not go on with the bytes that were known").format(name=held.name))
            if running.digest() != held.after:
                raise Damaged(_("{name} is damaged: its bytes do not have its digest").format(name=held.name))
        first, last = max(start, held.start), min(held.stop, held.stop if stop is None else stop)
        if first < last:
            yield content if last - first == len(content) else content[first - held.start : last - held.start]


def feed(running: Running, held: HeldPiece, content: bytes, marks: Mapping[int, object]) -> Sequence[tuple[int, bytes]]:
    """Feeds a piece's bytes; the digests at those of ``marks`` that lie in it, its end too."""
    found = []
    at = held.start
    view = memoryview(content)
    for offset in sorted(mark for mark in marks if held.start < mark <= held.stop):
        running.feed(view[at - held.start : offset - held.start])
        found.append((offset, running.digest()))
        at = offset
    running.feed(view[at - held.start :])
    return found
