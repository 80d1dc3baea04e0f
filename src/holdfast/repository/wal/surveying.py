"""One look at all pieces of a stream: which stand there, and what they say of themselves; as few requests as can be.

Records of where WAL begins say where to look; summaries tell whole spans, which are not even listed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from holdfast.repository.objects import SPAN_BITS, Kind, PieceName
from holdfast.repository.repository import Repository
from holdfast.repository.wal.forks import Place
from holdfast.repository.wal.held import Begin, HeldPiece
from holdfast.repository.wal.joining import join
from holdfast.repository.wal.looking import Infos, SpanKey, parse_listed, walk
from holdfast.repository.wal.pieces import Running
from holdfast.repository.wal.records import StreamRecords
from holdfast.repository.wal.spans import is_full


@dataclass(slots=True)
class Look:
    """What is found once."""

    stream: str
    segment_size: int
    full: set[SpanKey] = field(default_factory=set)
    """Spans that summaries tell wholly."""
    pieces: dict[Place, list[HeldPiece]] = field(default_factory=lambda: defaultdict(list))
    problems: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    """What was listed, and was not there when it was read."""

    def take(self, found: Iterable[tuple[int, int, HeldPiece]]) -> None:
        for timeline, number, piece in found:
            self.pieces[timeline, number].append(piece)

    def all_pieces(self) -> Iterator[HeldPiece]:
        return (piece for pieces in self.pieces.values() for piece in pieces)


class Survey:
    def __init__(self, repository: Repository, records: StreamRecords, infos: Infos, *, workers: int) -> None:
        self._repository, self._records, self._infos, self._workers = repository, records, infos, workers
        self._empty = Running(repository.ids).digest()

    def look(self, stream: str, segment_size: int, begins: Iterable[Begin], *, everywhere: bool) -> Look:
        """``everywhere``: some beginning is not known, so everything is listed."""
        look = Look(stream, segment_size)
        told = self._told(look)
        begun = [(begin.timeline, (begin.lsn // segment_size) >> SPAN_BITS) for begin in begins]
        after = [(timeline, span + 1) for timeline, span in look.full]
        starts = {*begun, *after, *(key for key in told if key not in look.full)} - look.full
        starts |= {key for key in begun if key in look.full}
        if everywhere:
            folders = (f"{kind.prefix}{stream}/" for kind in (Kind.TAIL, Kind.WAL))
            listed = (name for folder in folders for name in parse_listed(self._repository, folder))
            starts |= {(name.timeline, name.number >> SPAN_BITS) for name in listed}
        listings = walk(self._repository, stream, starts, known=look.full, workers=self._workers)
        known = {name: item for pieces in told.values() for name, item in pieces.items()}
        for key in sorted(look.full):  # in the order in which they are joined
            look.take((key[0], number, piece) for number, piece in told[key].values())
        segments = {name for listing in listings.values() for name in listing.segments}
        look.take((name.timeline, *known[name.name]) for name in segments if name.name in known)
        self._fetch(look, {name for name in segments if name.name not in known})
        tails = {name for listing in listings.values() for name in listing.tails}
        self._fetch(look, {name for name in tails if not self._is_whole(look, (name.timeline, name.number))})
        return look

    def _told(self, look: Look) -> dict[SpanKey, dict[str, tuple[int, HeldPiece]]]:
        """What summaries name, and which spans they tell wholly."""
        found = self._records.spans(look.stream)
        look.problems |= found.problems
        told: dict[SpanKey, dict[str, tuple[int, HeldPiece]]] = defaultdict(dict)
        for summary in found.by_name.values():
            for span in summary:
                if span.segment_size == look.segment_size:
                    told[span.timeline, span.span].update((item[1].name, item) for item in span.pieces)
        look.full |= {key for key, pieces in told.items() if is_full(pieces.values(), look.segment_size)}
        return told

    def _fetch(self, look: Look, names: set[PieceName]) -> None:
        fetched = self._infos.fetch(names, look.segment_size)
        look.take((name.timeline, name.number, piece) for name, piece in fetched.pieces.items())
        look.problems |= fetched.bad
        look.gone |= {name.name for name in fetched.gone}

    def _is_whole(self, look: Look, place: Place) -> bool:
        joined = join(look.pieces.get(place, ()), self._empty)
        return joined.stop == look.segment_size and not joined.forks
