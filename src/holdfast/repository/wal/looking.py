"""Finding pieces: which are listed, and what they say of themselves.

A receiver may be at work: it removes tails once what replaces them is durable. So tails are listed before segments, and
again after them: if none went in between, what replaced older ones is in one of the listings; else all is listed again.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from holdfast.errors import Damaged, ObjectMissing
from holdfast.messages import _
from holdfast.repository.crew import each
from holdfast.repository.objects import Kind, PieceName, parse_piece_name, span_folder
from holdfast.repository.repository import Repository
from holdfast.repository.wal.held import HeldPiece
from holdfast.repository.wal.pieces import Piece, fetch_piece

ROUNDS = 5
"""How often something is listed again because what was listed is gone."""
SpanKey = tuple[int, int]
"""Timeline and span."""


@dataclass(frozen=True, slots=True)
class SpanListing:
    segments: frozenset[PieceName]
    tails: frozenset[PieceName]

    @property
    def is_empty(self) -> bool:
        return not self.segments and not self.tails


def list_span(repository: Repository, stream: str, timeline: int, span: int) -> SpanListing:
    """Names that are none of ours are left out."""
    tails = _list(repository, Kind.TAIL, stream, timeline, span)
    for _again in range(ROUNDS):
        segments = _list(repository, Kind.WAL, stream, timeline, span)
        before, tails = tails, _list(repository, Kind.TAIL, stream, timeline, span)
        if before <= tails:
            break
    return SpanListing(segments, tails)


def walk(
    repository: Repository, stream: str, starts: Iterable[SpanKey], *, known: Collection[SpanKey], workers: int
) -> dict[SpanKey, SpanListing]:
    """From each start on, the listings of all spans but the ``known`` ones, up to one in which nothing stands."""
    found: dict[SpanKey, SpanListing] = {}
    seen: set[SpanKey] = set()
    lock = threading.Lock()

    def follow(start: SpanKey) -> None:
        timeline, first = start
        for span in count(first):
            if (timeline, span) in known:
                continue
            with lock:
                if (timeline, span) in seen:
                    return  # whoever came first goes on from there
                seen.add((timeline, span))
            listing = list_span(repository, stream, timeline, span)
            if listing.is_empty:
                return
            found[timeline, span] = listing

    each(follow, sorted(set(starts)), workers=workers)
    return found


class Infos:
    """What pieces say of themselves, each opened once. Thread-safe."""

    def __init__(self, repository: Repository, *, workers: int) -> None:
        self._repository, self._workers = repository, workers
        self._known: dict[str, tuple[Piece, HeldPiece]] = {}

    def fetch(self, names: Collection[PieceName], segment_size: int | None = None) -> Fetched:
        """``segment_size``: that of the stream; pieces of another are bad. None: any."""
        fetched = Fetched({}, {}, set())

        def read(name: PieceName) -> None:
            try:
                piece, held = self._get(name)
                if segment_size not in (None, piece.segment_size):
                    text = _("{name} is of a segment of {size} bytes, its stream's have {expected}")
                    sizes = {"size": piece.segment_size, "expected": segment_size}
                    fetched.bad[name.name] = text.format(name=name.name, **sizes)
                else:
                    fetched.pieces[name] = held
            except ObjectMissing:
                fetched.gone.add(name)
            except Damaged as error:
                fetched.bad[name.name] = str(error)

        new = [name for name in names if name.name not in self._known]
        each(read, new, workers=min(self._workers, max(len(new), 1)))
        for name in set(names) - set(new):
            read(name)
        return fetched

    def get_all(self, names: Collection[PieceName]) -> tuple[int, tuple[HeldPiece, ...]]:
        """The segment size, and the pieces of one segment. Raises ``Damaged`` for any that cannot be read."""
        read = [self._get(name) for name in names]
        return max(piece.segment_size for piece, _held in read), tuple(held for _piece, held in read)

    def _get(self, name: PieceName) -> tuple[Piece, HeldPiece]:
        known = self._known.get(name.name)
        if known is None:
            piece = fetch_piece(self._repository, name)
            known = self._known[name.name] = piece, held_piece(name.name, piece)
        return known

    def forget_but(self, stream: str, names: Collection[str]) -> None:
        """Of that stream, all that is not asked for any more."""
        folders = tuple(f"{kind.prefix}{stream}/" for kind in (Kind.WAL, Kind.TAIL))
        for name in [one for one in list(self._known) if one.startswith(folders) and one not in names]:
            self._known.pop(name, None)


@dataclass(frozen=True, slots=True)
class Fetched:
    pieces: dict[PieceName, HeldPiece]
    bad: dict[str, str]
    """Names of those that cannot be read, and why."""
    gone: set[PieceName]
    """Those that were listed and are not there."""


def held_piece(name: str, piece: Piece) -> HeldPiece:
    return HeldPiece(name, piece.start, piece.stop, piece.before, piece.after, piece.clock, piece.facts)


def _list(repository: Repository, kind: Kind, stream: str, timeline: int, span: int) -> frozenset[PieceName]:
    return frozenset(parse_listed(repository, span_folder(kind, stream, timeline, span)))


def parse_listed(repository: Repository, folder: str) -> Iterator[PieceName]:
    """The pieces in the folder of a span, or in any above it; names that are none of ours are left out."""
    for listed in repository.store.list(folder):
        name = parse_piece_name(listed.name)
        if name is not None:
            yield name
