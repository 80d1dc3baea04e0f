"""``archive_command``: one file of PostgreSQL's into every repository that keeps the source's WAL.

:meth:`WalPusher.push` returns when the file is durable in all of them. The same bytes again are done; other bytes under
the same name, or another server's, are refused, and nothing is replaced.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.clock import Clock
from holdfast.errors import HoldfastError, Refused
from holdfast.jobs.wal_files import RUN_UP_BYTES, WalFile, other_system
from holdfast.messages import _
from holdfast.postgres.lsn import Lsn, Segment
from holdfast.postgres.walscan import WalScanner
from holdfast.repository.crew import each
from holdfast.repository.repository import Repository
from holdfast.repository.wal.held import Begin, Held
from holdfast.repository.wal.pieces import MAX_PIECE_BYTES, Piece, Stream
from holdfast.repository.wal.reading import WalReader
from holdfast.repository.wal.writing import WalWriter

Json = dict[str, Any]

_ANY_SIZE = 16 * 2**20
"""For a writer of files, to which no segment size matters."""
_SPAN = 256


class WalPusher:
    """Pushes files of one source; kept as long as its repositories are, since it remembers what it has seen.

    Thread-safe. ``repositories``: all of the source's ``wal.to``, by name. ``begins``: whether to record where WAL
    begins; not while a receiver streams the same WAL, which does so itself.
    """

    def __init__(
        self, source: str, repositories: Mapping[str, Repository], *, clock: Clock, host: str, begins: bool = True
    ) -> None:
        self._source = source
        self._places = tuple(_Place(repository, clock, host, begins=begins) for repository in repositories.values())
        self._lock = threading.Lock()
        self._scanned: tuple[Stream, Segment, WalScanner] | None = None

    def push(self, file: WalFile) -> None:
        """Returns when ``file`` is durable in every repository.

        Every repository is tried, also when another fails; none takes what one of them refuses. Raises ``Refused``
        where other bytes stand under the same name (all named), or when the source's WAL is another system's; else
        what the stores raise.
        """
        stream = Stream(source=self._source, system_identifier=file.system_identifier)
        self._at_each(lambda place: place.refuse_stranger(stream, file), only=Refused)
        facts = self._facts(stream, file)
        self._at_each(lambda place: place.put(stream, file, facts))

    def _at_each(self, do: Callable[[_Place], None], *, only: type[HoldfastError] = HoldfastError) -> None:
        """Raises the first refusal, in the order of the repositories, else the first of the ``only`` errors."""
        failures: dict[_Place, HoldfastError] = {}

        def one(place: _Place) -> None:
            try:
                do(place)
            except HoldfastError as error:
                failures[place] = error

        each(one, self._places, workers=len(self._places))
        told = [failures[place] for place in self._places if isinstance(failures.get(place), only)]
        if told:
            raise max(told, key=lambda error: isinstance(error, Refused))

    def _facts(self, stream: Stream, file: WalFile) -> tuple[Json, ...]:
        """What is found in each of its pieces: none for other files than segments."""
        segment = file.segment
        if segment is None:
            return ()
        with self._lock:
            scanner = self._scanner(stream, file, segment)
            found = tuple(
                scanner.feed(file.content[start : start + MAX_PIECE_BYTES]).to_json()
                for start in range(0, segment.size, MAX_PIECE_BYTES)
            )
            self._scanned = stream, segment, scanner
        return found

    def _scanner(self, stream: Stream, file: WalFile, segment: Segment) -> WalScanner:
        """One that stands at the segment's beginning and, where it can be, knows the record that goes on there."""
        if self._scanned is not None:
            seen, last, scanner = self._scanned
            if seen == stream and last.following() == segment:
                return scanner
        before = file.previous
        if file.continues and not before:
            before = next((found for place in self._places if (found := place.end_before(stream, segment))), b"")
        scanner = WalScanner(
            timeline=segment.timeline, segment_size=segment.size, start=Lsn(segment.start - len(before))
        )
        if before:
            scanner.feed(before)
        return scanner


class _Place:
    """One repository, and what was seen of it."""

    def __init__(self, repository: Repository, clock: Clock, host: str, *, begins: bool) -> None:
        self._repository = repository
        self._clock = clock
        self._host = host
        self._begins = begins
        self._reader = WalReader(repository)
        self._lock = threading.Lock()
        self._led_to: set[tuple[Stream, Segment]] = set()
        """Segments that a reader finds."""

    def refuse_stranger(self, stream: Stream, file: WalFile) -> None:
        known = self._reader.streams(stream.source)
        if known and stream not in known:
            raise other_system(file.name, stream.system_identifier, tuple(other.system_identifier for other in known))

    def put(self, stream: Stream, file: WalFile, facts: tuple[Json, ...]) -> None:
        self.refuse_stranger(stream, file)
        if file.segment is None:
            self._writer(stream, _ANY_SIZE).put_file(file.name, file.content)
            return
        self._put_segment(stream, file.segment, file.content, facts)

    def end_before(self, stream: Stream, segment: Segment) -> bytes:
        """The end of the segment before, if it is held."""
        if segment.number == 0:
            return b""
        try:
            before = self._reader.whole(stream, segment.timeline, segment.number - 1)
            if before is None:
                return b""
            return b"".join(self._reader.content(stream, before, start=segment.size - RUN_UP_BYTES))
        except HoldfastError:  # without it, at most one record is not described
            return b""

    def _put_segment(self, stream: Stream, segment: Segment, content: bytes, facts: tuple[Json, ...]) -> None:
        writer = self._writer(stream, segment.size)
        others = writer.conflicting(segment.timeline, segment.number, content)
        if others:
            raise Refused(
                _("{name} stands in {url} with other bytes: {objects}").format(
                    name=segment.name, url=self._repository.url, objects=", ".join(others)
                ),
                hint=_(
                    "Two servers write WAL of one name: a copy that was promoted, or an old primary that goes on. "
                    "Nothing was replaced. Stop the one that is not the source, or give it a source of its own."
                ),
            )
        with self._lock:
            if self._begins and (stream, segment) not in self._led_to:
                self._lead_to(stream, segment, writer)
        running = writer.running()
        for start, found in zip(range(0, segment.size, MAX_PIECE_BYTES), facts, strict=True):
            block = content[start : start + MAX_PIECE_BYTES]
            before = running.digest()
            running.feed(block)
            piece = Piece(
                stream=stream,
                timeline=segment.timeline,
                number=segment.number,
                segment_size=segment.size,
                start=start,
                stop=start + len(block),
                before=before,
                after=running.digest(),
                clock=None,
                facts=found,
            )
            writer.put(piece, block, tail=False)
        self._led_to = {(stream, segment), (stream, segment.following())}
        if segment.number % _SPAN == _SPAN - 1:
            writer.summarise(segment.timeline, segment.number // _SPAN)

    def _lead_to(self, stream: Stream, segment: Segment, writer: WalWriter) -> None:
        """Records that WAL begins with this segment, unless a reader comes to it from the one before."""
        if segment.number and self._reader.whole(stream, segment.timeline, segment.number - 1) is not None:
            return
        known = stream in self._reader.streams(stream.source)
        begin = _beginning(segment, self._reader.held(stream) if known else None)
        if begin is not None:
            why, after = begin
            writer.begin(
                Begin(
                    stream=stream,
                    segment_size=segment.size,
                    timeline=segment.timeline,
                    lsn=segment.start,
                    when=self._clock.now(),
                    host=self._host,
                    why=why,
                    after=after,
                    after_timeline=segment.timeline if after is not None else None,
                )
            )

    def _writer(self, stream: Stream, segment_size: int) -> WalWriter:
        return WalWriter(self._repository, stream, segment_size)


def _beginning(segment: Segment, held: Held | None) -> tuple[str, int | None] | None:
    """Why WAL begins with ``segment``, and where what was held before it ended; None: it does not begin there."""
    if held is None or not held.begins:
        return "first", None
    if any((begin.timeline, begin.lsn) == (segment.timeline, segment.start) for begin in held.begins):
        return None
    here = [found for found in held.segments if found.timeline == segment.timeline]
    if any(found.number in (segment.number, segment.number - 1) for found in here):
        return None  # a receiver is at work there
    if not any(begin.timeline == segment.timeline for begin in held.begins):
        return "timeline", None
    earlier = max(
        (found for found in here if found.number < segment.number), key=lambda found: found.number, default=None
    )
    if earlier is None:
        return "first", None
    return "gap", earlier.number * segment.size + earlier.stop
