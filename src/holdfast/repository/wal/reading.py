"""What is held of a stream, found with few requests, and its bytes, joined and checked.

- Records of where WAL begins say where to look; summaries tell whole spans without opening them. Spans that no summary
  tells wholly are listed, from each beginning on until one is empty, and what is new there is opened by short ranges.
- A receiver may be at work (``looking``): what is listed and gone was replaced, and is looked for again.
- What cannot be read is a problem, not an exception; two contents for one place are a conflict; nothing is chosen.

A reader remembers what pieces and files say of themselves, by name: asked again, it opens only what is new.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from holdfast.errors import Damaged, ObjectMissing
from holdfast.messages import _
from holdfast.repository.crew import each
from holdfast.repository.objects import SPAN_BITS, Kind, PieceName, file_folder, is_wal_file, span_folder
from holdfast.repository.repository import Repository
from holdfast.repository.wal.contents import read_chain
from holdfast.repository.wal.files import open_file
from holdfast.repository.wal.forks import Forks, Place, refused
from holdfast.repository.wal.held import Begin, Conflict, Held, HeldFile, HeldSegment
from holdfast.repository.wal.joining import join
from holdfast.repository.wal.looking import ROUNDS, Infos, SpanKey, list_span, parse_listed
from holdfast.repository.wal.pieces import Running, Stream, name_stream
from holdfast.repository.wal.records import StreamRecords
from holdfast.repository.wal.surveying import Look, Survey

UNKNOWN_SEGMENT_SIZE = 16 * 2**20


class WalReader:
    """Thread-safe."""

    def __init__(self, repository: Repository, *, workers: int = 8) -> None:
        self._repository, self._workers = repository, workers
        self._records = StreamRecords(repository, workers=workers)
        self._infos = Infos(repository, workers=workers)
        self._survey = Survey(repository, self._records, self._infos, workers=workers)
        self._forks = Forks(repository)

    def streams(self, source: str | None = None) -> tuple[Stream, ...]:
        """Those of which WAL was ever begun, in the order of their first beginnings; of every source without one."""
        return tuple(dict.fromkeys(begin.stream for begin in self.begins(source)))

    def begins(self, source: str | None = None) -> tuple[Begin, ...]:
        """Where WAL of ``source`` begins, oldest first; of every source without one."""
        begins = sorted(self._records.begins().by_name.values(), key=lambda begin: begin.when)
        return tuple(begin for begin in begins if source in (None, begin.stream.source))

    def held(self, stream: Stream) -> Held:
        """All that is held; of a stream that was never begun: nothing. Raises what the store raises when it cannot
        be reached."""
        name = name_stream(self._repository.ids, stream)
        records = self._records.begins(name)
        begins = tuple(sorted(records.by_name.values(), key=lambda begin: (begin.when, begin.timeline, begin.lsn)))
        segment_size = begins[-1].segment_size if begins else UNKNOWN_SEGMENT_SIZE
        for _again in range(ROUNDS):
            look = self._survey.look(name, segment_size, begins, everywhere=bool(records.problems))
            segments, conflicts = self._join(look)
            if not look.gone:
                break
        look.problems |= records.problems
        for lost in look.gone:
            look.problems[lost] = _("{name} is listed, and not there").format(name=lost)
        self._infos.forget_but(name, {piece.name for piece in look.all_pieces()})
        histories, files, contents = self._files(name, look.problems)
        return Held(
            stream=stream,
            segment_size=segment_size,
            segments=segments,
            histories=histories,
            begins=begins,
            files=files,
            conflicts=(*conflicts, *contents),
            problems=tuple(f"{where}: {what}" for where, what in sorted(look.problems.items())),
        )

    def content(
        self, stream: Stream, segment: HeldSegment, *, start: int = 0, stop: int | None = None
    ) -> Iterator[bytes]:
        """Bytes ``[start, stop)`` of a segment, at most up to :attr:`HeldSegment.stop`; nothing is padded. Each block
        is authenticated, and its digest is checked, before it is given. Tails that were replaced meanwhile are found
        again, if what replaced them has the same bytes. Raises ``Damaged`` (``ObjectMissing``)."""
        stop = segment.stop if stop is None else min(stop, segment.stop)
        at, pieces = start, segment.pieces
        for again in range(ROUNDS):
            try:
                if again:  # what was given must be a part of what stands there now
                    marks = {segment.stop: segment.digest}
                    for _block in read_chain(self._repository, pieces, stop=segment.stop, marks=marks):
                        pass
                for block in read_chain(self._repository, pieces, start=at, stop=stop):
                    yield block
                    at += len(block)
            except ObjectMissing:
                found = self._find_again(stream, segment)
                if found is None or again == ROUNDS - 1:
                    raise
                pieces = found.pieces
            else:
                return

    def present(self, stream: Stream, segments: Iterable[HeldSegment]) -> frozenset[Place]:
        """Of these, the (timeline, number) of those whose objects are listed now: a summary may speak of one that was
        deleted since. A few listings; nothing is opened."""
        name = name_stream(self._repository.ids, stream)
        asked: dict[SpanKey, list[HeldSegment]] = defaultdict(list)
        for segment in segments:
            asked[segment.timeline, segment.number >> SPAN_BITS].append(segment)
        found: set[Place] = set()

        def look(key: SpanKey) -> None:
            needed = {
                segment.number: {piece.name for piece in segment.pieces if piece.stop > piece.start}
                for segment in asked[key]
            }
            kinds = [Kind.TAIL, Kind.WAL]  # in this order: a tail that is gone was replaced by what is listed later
            if not any(piece.startswith(Kind.TAIL.prefix) for pieces in needed.values() for piece in pieces):
                kinds = [Kind.WAL]
            listed = {one for kind in kinds for one in parse_listed(self._repository, span_folder(kind, name, *key))}
            names = {one.name for one in listed}
            reach = _reach(listed)  # what was replaced stands in longer pieces now; reading compares their digests
            for segment in asked[key]:
                if names >= needed[segment.number] or reach.get(segment.number, 0) >= segment.stop:
                    found.add((segment.timeline, segment.number))

        each(look, sorted(asked), workers=self._workers)
        return frozenset(found)

    def whole(self, stream: Stream, timeline: int, number: int) -> HeldSegment | None:
        """A segment that is wholly held; None: not (yet). One listing, and a short range of each piece. Raises
        ``Refused`` when two contents stand there, ``Damaged`` when it is there and cannot be read."""
        folder = span_folder(Kind.WAL, name_stream(self._repository.ids, stream), timeline, number >> SPAN_BITS)
        names = [name for name in parse_listed(self._repository, folder) if name.number == number]
        if not names:
            return None
        size, pieces = self._infos.get_all(names)
        joined = join(pieces, self._empty)
        conflict = self._forks.conflict((timeline, number), joined)
        if conflict is not None:
            raise refused(conflict)
        return HeldSegment(timeline, number, joined.chain) if joined.stop == size else None

    def file(self, stream: Stream, file: str) -> bytes | None:
        """A history file, ``.backup`` or ``.partial`` by PostgreSQL's name; None: not held, or no such name. Raises
        ``Refused`` when two contents stand there, ``Damaged``."""
        if not is_wal_file(file):
            return None
        folder = file_folder(name_stream(self._repository.ids, stream), file)
        names = sorted(listed.name for listed in self._repository.store.list(folder))
        if len(names) > 1:
            raise refused(Conflict(timeline=0, number=0, names=tuple(names), file=file))
        return open_file(self._repository, names[0], self._repository.store.get(names[0]))[1] if names else None

    @property
    def _empty(self) -> bytes:
        return Running(self._repository.ids).digest()

    def summarised(self, stream: Stream) -> frozenset[str]:
        """Names of all pieces that summaries speak of; they were there once."""
        found = self._records.spans(name_stream(self._repository.ids, stream)).by_name.values()
        return frozenset(piece.name for spans in found for span in spans for _number, piece in span.pieces)

    def problems(self) -> tuple[str, ...]:
        """Records of where WAL begins that cannot be read, of every stream: which streams these are is not known."""
        found = self._records.begins().problems
        return tuple(f"{where}: {what}" for where, what in sorted(found.items()))

    def _join(self, look: Look) -> tuple[tuple[HeldSegment, ...], tuple[Conflict, ...]]:
        segments, conflicts = [], []
        empty = self._empty
        for place, pieces in sorted(look.pieces.items()):
            if len(pieces) == 1 and pieces[0].start == 0 and pieces[0].stop > 0:
                segments.append(HeldSegment(*place, tuple(pieces)))
                continue
            joined = join(pieces, empty)
            try:
                conflict = self._forks.conflict(place, joined)
            except Damaged as error:
                if isinstance(error, ObjectMissing):
                    look.gone.add(joined.chain[-1].name)
                names = (joined.chain[-1].name, *(fork.name for fork in joined.forks))
                look.problems[names[0]] = str(error)
                conflict = Conflict(timeline=place[0], number=place[1], names=names)
            if conflict is not None:
                conflicts.append(conflict)
            elif joined.chain:
                segments.append(HeldSegment(*place, joined.chain))
        return tuple(segments), tuple(conflicts)

    def _find_again(self, stream: Stream, segment: HeldSegment) -> HeldSegment | None:
        """What is held of a segment now, if it goes as far as it did."""
        name = name_stream(self._repository.ids, stream)
        for _again in range(ROUNDS):
            listing = list_span(self._repository, name, segment.timeline, segment.number >> SPAN_BITS)
            names = {one for one in (*listing.segments, *listing.tails) if one.number == segment.number}
            fetched = self._infos.fetch(names)
            if not fetched.gone:
                break
        chain = join(fetched.pieces.values(), self._empty).chain
        found = HeldSegment(segment.timeline, segment.number, chain)
        return found if found.stop >= segment.stop else None

    def _files(
        self, stream: str, problems: dict[str, str]
    ) -> tuple[Mapping[int, bytes], tuple[HeldFile, ...], tuple[Conflict, ...]]:
        found = self._records.files(stream)
        problems |= found.problems
        by_file: dict[str, list[tuple[HeldFile, bytes]]] = defaultdict(list)
        for file, content in found.by_name.values():
            by_file[file.file].append((file, content))
        histories, conflicts = {}, []
        for name, contents in sorted(by_file.items()):
            timeline = int(name[:8], 16)
            if len(contents) > 1:
                names = tuple(sorted(one.name for one, _content in contents))
                conflicts.append(Conflict(timeline=timeline, number=0, names=names, file=name))
            elif name.endswith(".history"):
                histories[timeline] = contents[0][1]
        files = sorted((one for contents in by_file.values() for one, _content in contents), key=lambda one: one.name)
        return histories, tuple(files), tuple(conflicts)


def _reach(names: Iterable[PieceName]) -> dict[int, int]:
    """How far the listed pieces of each number go without a hole; they may lie over each other."""
    ends: dict[int, set[int]] = defaultdict(lambda: {0})
    for name in sorted(names, key=lambda name: (name.number, name.start, name.stop)):
        if name.start in ends[name.number]:
            ends[name.number].add(name.stop)
    return {number: max(found) for number, found in ends.items()}
