"""The summaries of one stream in the store: few large objects instead of many small ones. Needs no lock.

What is merged is read, written anew as one, and only then deleted; whoever dies on the way leaves spans that are told
twice, which harms nobody. Where nothing may be deleted, nothing is merged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice

from holdfast.errors import Damaged, ObjectMissing, PermissionRefused
from holdfast.repository.ids import new_object_id
from holdfast.repository.objects import Kind, StreamRef, parse_stream_name
from holdfast.repository.repository import Repository
from holdfast.repository.wal.held import HeldPiece
from holdfast.repository.wal.spans import Span, decode_spans, encode_spans

SMALL_SUMMARIES = 32
"""So many may be small, and so many spans make one large: what is large is not written again."""
MOST_SPANS = 256
"""In one object."""
Key = tuple[int, int]
"""Timeline and span."""
Fingerprint = bytes
"""Of names."""


class Summaries:
    """Thread-safe. Remembers of each object only which spans it tells, and a fingerprint of what it says there."""

    def __init__(self, repository: Repository, stream: str) -> None:
        self._repository, self._stream = repository, stream
        self._known: dict[str, Mapping[Key, Fingerprint]] = {}

    def tell(self, timeline: int, span: int, names: Collection[str]) -> bool:
        """Whether some summary of the span names these pieces, and no others."""
        return not self.untold({(timeline, span): names})

    def untold(self, spans: Mapping[Key, Collection[str]]) -> list[Key]:
        """Of these, the spans of which no summary names these pieces, and no others."""
        told = {item for summary in self._look().values() for item in summary.items()}
        return [key for key, names in spans.items() if (key, _fingerprint(names)) not in told]

    def put(self, spans: Iterable[Span]) -> None:
        remaining = iter(spans)
        while some := list(islice(remaining, MOST_SPANS)):
            self._repository.put_stream_object(Kind.SPAN, self._stream, encode_spans(self._stream, some))
        self._merge()

    def _merge(self) -> None:
        everything = self._look()
        small = {name: spans for name, spans in everything.items() if len(spans) < SMALL_SUMMARIES}
        if len(small) <= SMALL_SUMMARIES:
            return
        large = {item for name, spans in everything.items() if name not in small for item in spans.items()}
        redundant = [name for name, spans in small.items() if spans.items() <= large]
        rest = [name for name in small if name not in redundant]
        if not self._delete(redundant) or not self._may_delete() or len(rest) < 2:
            return
        read = {name: spans for name in rest if (spans := self._read(name)) is not None}
        merged = _united(read.values())
        for first in range(0, len(merged), MOST_SPANS):
            data = encode_spans(self._stream, merged[first : first + MOST_SPANS])
            self._repository.put_stream_object(Kind.SPAN, self._stream, data)
        self._delete(read)

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

    def _look(self) -> Mapping[str, Mapping[Key, Fingerprint]]:
        """What each object that is there and can be read tells. Those that are new are read, one after the other."""
        found = {}
        for listed in list(self._repository.store.list(f"{Kind.SPAN.prefix}{self._stream}/")):
            known = self._known.get(listed.name)
            if known is None:
                spans = self._read(listed.name)
                if spans is None:
                    continue
                known = {
                    (one.timeline, one.span): _fingerprint(piece.name for _number, piece in one.pieces) for one in spans
                }
            found[listed.name] = known
        self._known = found
        return found

    def _read(self, name: str) -> Sequence[Span] | None:
        """None: merged meanwhile, or of no use: whoever verifies tells."""
        ref = parse_stream_name(name)
        try:
            data = None if ref is None else self._repository.get_object(ref)
            return None if data is None else decode_spans(self._repository.ids, self._stream, data)
        except (Damaged, ObjectMissing):
            return None


def _fingerprint(names: Iterable[str]) -> Fingerprint:
    return hashlib.sha256("\n".join(sorted(set(names))).encode()).digest()


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
