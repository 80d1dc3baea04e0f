"""Verifying WAL: is every byte of it still what was written, does it join, and do the records agree with it?

*Whole*: every piece and file is read back and authenticated, every digest computed again, pages looked at by whoever
knows them. *Quick*: what is listed, beside what pieces say of themselves. A receiver may be at work: everything is
listed first, so what is found later may be more, and what of it is gone was replaced.

Where WAL ends and begins again is told, not judged: whether that lies in a window, snapshots decide.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from holdfast.errors import Damaged, ObjectMissing
from holdfast.messages import _
from holdfast.repository.crew import each
from holdfast.repository.objects import (
    NAMED_BY_CONTENT,
    OF_A_STREAM,
    FileName,
    Kind,
    PieceName,
    file_folder,
    parse_file_name,
    parse_piece_name,
    parse_stream_name,
)
from holdfast.repository.repository import Problem, Repository
from holdfast.repository.wal.continuity import WalGap, gaps
from holdfast.repository.wal.files import fetch_file, open_file
from holdfast.repository.wal.held import Held, HeldSegment
from holdfast.repository.wal.pieces import Stream, name_stream
from holdfast.repository.wal.reading import WalReader
from holdfast.repository.wal.rereading import Rereading

T = TypeVar("T")
CheckPages = Callable[[Held, HeldSegment, Iterator[bytes]], None]
"""Looks at the bytes of a segment, from its first on. Raises ``Damaged`` for what is wrong with them."""


def no_pages(_held: Held, _segment: HeldSegment, _blocks: Iterator[bytes]) -> None:
    """Looks at none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedStream:
    held: Held
    segments: int
    """Those that are whole."""
    content: int
    """Bytes of WAL held."""
    gaps: tuple[WalGap, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WalVerification:
    streams: tuple[VerifiedStream, ...] = ()
    objects: int = 0
    """Listed."""
    read: int = 0
    """Bytes read back from the store."""
    problems: tuple[Problem, ...] = ()

    @property
    def segments(self) -> int:
        return sum(stream.segments for stream in self.streams)

    @property
    def content(self) -> int:
        return sum(stream.content for stream in self.streams)


def verify_wal(
    repository: Repository,
    *,
    quick: bool = False,
    check_pages: CheckPages = no_pages,
    progress: Callable[[int], None] = lambda _size: None,
    beat: Callable[[], None] = lambda: None,
    workers: int = 4,
) -> WalVerification:
    """``progress`` hears the bytes of each object when read; ``beat`` is called now and then, in this thread."""
    listing = _list(repository)
    checks = _Checks(repository, listing, check_pages, progress, beat, quick=quick, workers=workers)
    return checks.run()


@dataclass(slots=True)
class _Listing:
    sizes: dict[str, int] = field(default_factory=dict)
    pieces: dict[str, list[PieceName]] = field(default_factory=lambda: defaultdict(list))
    """By stream."""
    files: dict[str, list[FileName]] = field(default_factory=lambda: defaultdict(list))
    strange: list[Problem] = field(default_factory=list)


def _list(repository: Repository) -> _Listing:
    listing = _Listing()
    for kind in (*OF_A_STREAM, *NAMED_BY_CONTENT):
        for listed in repository.store.list(kind.prefix):
            listing.sizes[listed.name] = listed.size
            piece, file = parse_piece_name(listed.name), parse_file_name(listed.name)
            if piece is not None:
                listing.pieces[piece.stream].append(piece)
            elif file is not None:
                listing.files[file.stream].append(file)
            elif parse_stream_name(listed.name) is None:
                text = _("{name} has a name that Holdfast does not write").format(name=listed.name)
                listing.strange.append(Problem(listed.name, text))
    return listing


class _Checks:
    def __init__(
        self,
        repository: Repository,
        listing: _Listing,
        check_pages: CheckPages,
        progress: Callable[[int], None],
        beat: Callable[[], None],
        *,
        quick: bool,
        workers: int,
    ) -> None:
        self._repository, self._listing, self._check_pages = repository, listing, check_pages
        self._progress, self._beat, self._quick, self._workers = progress, beat, quick, workers
        self._reader = WalReader(repository)
        self._problems: set[Problem] = set(listing.strange)
        self._read = 0
        self._lock = threading.Lock()

    def run(self) -> WalVerification:
        self._problems |= set(_parted(self._reader.problems()))
        known = {name_stream(self._repository.ids, stream): stream for stream in self._reader.streams()}
        for name in sorted((self._listing.pieces.keys() | self._listing.files.keys()) - known.keys()):
            text = _("nothing that can be read says whose WAL lies in {name}: no recovery will find it")
            self._problems.add(Problem(f"{Kind.STREAM.prefix}{name}/", text.format(name=f"{Kind.WAL.prefix}{name}/")))
        return WalVerification(
            streams=tuple(self._check(name, stream) for name, stream in sorted(known.items())),
            objects=len(self._listing.sizes),
            read=self._read,
            problems=tuple(sorted(self._problems, key=lambda problem: (problem.name, problem.what))),
        )

    def _check(self, name: str, stream: Stream) -> VerifiedStream:
        held = self._reader.held(stream)
        self._problems |= set(_parted(held.problems))
        self._check_conflicts(held)
        self._check_histories(name, held)
        self._check_names(name, held)
        tails: dict[tuple[int, int], list[PieceName]] = defaultdict(list)
        for piece in self._listing.pieces[name]:
            if piece.kind is Kind.TAIL and piece.start < piece.stop:
                tails[piece.timeline, piece.number].append(piece)
        if not self._quick:
            each(self._check_file, self._beaten(self._listing.files[name]), workers=self._workers)
            each(
                lambda segment: self._check_segment(held, segment, tails[segment.timeline, segment.number]),
                self._beaten(held.segments),
                workers=self._workers,
            )
        return VerifiedStream(
            held=held,
            segments=sum(segment.stop == held.segment_size for segment in held.segments),
            content=sum(segment.stop for segment in held.segments),
            gaps=tuple(gaps(held)),
        )

    def _beaten(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            self._beat()
            yield item

    def _check_conflicts(self, held: Held) -> None:
        text = _("{name}: another content of the same WAL stands beside it, {others}: two servers wrote it")
        for conflict in held.conflicts:
            for name in conflict.names:
                others = ", ".join(other for other in conflict.names if other != name)
                self._problems.add(Problem(name, text.format(name=name, others=others)))

    def _check_histories(self, name: str, held: Held) -> None:
        doubtful = {conflict.file for conflict in held.conflicts} | {
            parsed.file for problem in self._problems if (parsed := parse_file_name(problem.name)) is not None
        }
        for timeline in sorted({segment.timeline for segment in held.segments} - held.histories.keys()):
            file = f"{timeline:08X}.history"
            if timeline > 1 and file not in doubtful:
                text = _(
                    "{file}, the history of timeline {timeline} of {source}, is not held: no recovery can get there"
                )
                what = text.format(file=file, timeline=timeline, source=held.stream.source)
                self._problems.add(Problem(file_folder(name, file), what))

    def _check_names(self, name: str, held: Held) -> None:
        """What records speak of is there; what is there is found by its records, and joins."""
        named = {piece.name for segment in held.segments for piece in segment.pieces}
        for told in sorted(self._reader.summarised(held.stream) - self._listing.sizes.keys()):
            if not self._is_there(told):
                self._problems.add(Problem(told, _("{name} is missing from the store").format(name=told)))
        named |= {one for conflict in held.conflicts for one in conflict.names}
        named |= {problem.name for problem in self._problems}
        reached = {(segment.timeline, segment.number): segment.stop for segment in held.segments}
        loose = [
            piece
            for piece in self._listing.pieces[name]
            if piece.name not in named and piece.stop > reached.get((piece.timeline, piece.number), 0)
        ]
        if loose:  # pieces go up in any order: look once more whether they join by now
            now = self._reader.held(held.stream)
            reached = {(segment.timeline, segment.number): segment.stop for segment in now.segments}
            doubtful = {(conflict.timeline, conflict.number) for conflict in (*held.conflicts, *now.conflicts)}
            for one in loose:
                place = one.timeline, one.number
                if one.stop > reached.get(place, 0) and place not in doubtful and self._is_there(one.name):
                    text = _("{name} does not join what is held: something before it is missing")
                    self._problems.add(Problem(one.name, text.format(name=one.name)))

    def _is_there(self, name: str) -> bool:
        try:
            self._repository.store.get(name, 0, 1)
        except ObjectMissing:
            return False
        return True

    def _check_file(self, name: FileName) -> None:
        try:
            if self._quick:
                fetch_file(self._repository, name)
            else:
                open_file(self._repository, name.name, self._repository.store.get(name.name))
        except Damaged as error:
            self._report(name.name, str(error))
        self._count(name.name)

    def _check_segment(self, held: Held, segment: HeldSegment, tails: Iterable[PieceName]) -> None:
        reading = Rereading(self._repository, self._reader, held.stream, segment, tails)
        blocks = reading.blocks()
        looks: list[Callable[[], object]] = [lambda: self._check_pages(held, segment, blocks), lambda: deque(blocks, 0)]
        looks += [lambda piece=piece: reading.read(piece) for piece in segment.pieces]  # type: ignore[misc]
        for look in looks:
            try:
                look()
            except Damaged as error:
                self._report(reading.at, str(error))
        for tail, what in reading.other.items():
            self._report(tail, what)
        for piece in segment.pieces:
            self._count(piece.name)

    def _report(self, name: str, what: str) -> None:
        with self._lock:
            self._problems.add(Problem(name, what))

    def _count(self, name: str) -> None:
        size = self._listing.sizes.get(name, 0)
        with self._lock:
            self._read += size
            self._progress(size)


def _parted(problems: Iterable[str]) -> Iterator[Problem]:
    """Names have no colon."""
    for problem in problems:
        name, _colon, what = problem.partition(": ")
        yield Problem(name, what)
