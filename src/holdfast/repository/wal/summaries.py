"""The summaries of one stream in the store: few large objects instead of many small ones. Needs no lock.

What is merged is read, written anew as one, and only then deleted; whoever dies on the way leaves spans that are told
twice, which harms nobody. Where nothing may be deleted, nothing is merged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice

from holdfast.errors import Damaged, ObjectMissing, PermissionRefused
from holdfast.repository.ids import new_object_id
from holdfast.repository.objects import Kind, StreamRef
from holdfast.repository.repository import Repository
from holdfast.repository.wal.held import HeldPiece
from holdfast.repository.wal.spans import Span, decode_spans, encode_spans

SMALL_SUMMARIES = 32
"""So many may be small, and so many spans make one large: what is large is not written again."""
MOST_SPANS = 256
"""In one object."""
Key = tuple[int, int]


class Summaries:
    """Reads all of them whenever it is asked: rarely, and nothing is kept in memory."""

    def __init__(self, repository: Repository, stream: str) -> None:
        self._repository, self._stream = repository, stream

    def tell(self, timeline: int, span: int, names: Collection[str]) -> bool:
        """Whether all these pieces of the span are in summaries."""
        return not self.untold({(timeline, span): names})

    def untold(self, spans: Mapping[Key, Collection[str]]) -> list[Key]:
        """Of these, the spans with pieces that no summary names."""
        told: dict[Key, set[str]] = {}
        for _name, summary in self._read():
            for span in summary:
                key = span.timeline, span.span
                told.setdefault(key, set()).update(piece.name for _number, piece in span.pieces)
        return [key for key, names in spans.items() if not told.get(key, set()).issuperset(names)]

    def put(self, spans: Iterable[Span]) -> None:
        remaining = iter(spans)
        while some := list(islice(remaining, MOST_SPANS)):
            self._repository.put_stream_object(Kind.SPAN, self._stream, encode_spans(self._stream, some))
        self._merge()

    def _merge(self) -> None:
        everything = self._read()
        small = [(name, spans) for name, spans in everything if len(spans) < SMALL_SUMMARIES]
        if len(small) <= SMALL_SUMMARIES:
            return
        large = _names(spans for _name, spans in everything if len(spans) >= SMALL_SUMMARIES)
        redundant = [name for name, spans in small if _names([spans]) <= large]
        rest = [(name, spans) for name, spans in small if name not in redundant]
        if not self._delete(redundant) or not self._may_delete() or len(rest) < 2:
            return
        merged = _united(spans for _name, spans in rest)
        for first in range(0, len(merged), MOST_SPANS):
            data = encode_spans(self._stream, merged[first : first + MOST_SPANS])
            self._repository.put_stream_object(Kind.SPAN, self._stream, data)
        self._delete([name for name, _spans in rest])

    def _delete(self, names: Iterable[str]) -> bool:
        """False once the store refuses."""
        for name in names:
            try:
                self._repository.store.delete(name)
            except PermissionRefused:
                return False
        return True

    def _may_delete(self) -> bool:
        """Asked with a name that nothing has, before anything is written."""
        return self._delete([StreamRef(Kind.SPAN, new_object_id(), self._stream).name])

    def _read(self) -> list[tuple[str, Sequence[Span]]]:
        found: list[tuple[str, Sequence[Span]]] = []
        for listed in list(self._repository.store.list(f"{Kind.SPAN.prefix}{self._stream}/")):
            try:
                spans = decode_spans(self._repository.ids, self._stream, self._repository.get_listed(listed))
            except (Damaged, ObjectMissing):
                continue  # merged meanwhile, or of no use: it is verified, not written, who tells
            found.append((listed.name, spans))
        return found


def _names(summaries: Iterable[Sequence[Span]]) -> set[str]:
    return {piece.name for spans in summaries for span in spans for _number, piece in span.pieces}


def _united(summaries: Iterable[Sequence[Span]]) -> list[Span]:
    """Each span once, with all pieces that any summary names."""
    pieces: dict[tuple[int, int, int], dict[str, tuple[int, HeldPiece]]] = {}
    for spans in summaries:
        for span in spans:
            known = pieces.setdefault((span.timeline, span.span, span.segment_size), {})
            known.update((item[1].name, item) for item in span.pieces)
    return [
        Span(
            timeline=timeline,
            span=span,
            segment_size=size,
            pieces=tuple(sorted(known.values(), key=lambda item: (item[0], item[1].start, item[1].name))),
        )
        for (timeline, span, size), known in sorted(pieces.items())
    ]
