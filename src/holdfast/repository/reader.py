"""Reading a snapshot: get → unpack → unseal → join. Every chunk is authenticated and its id computed again.

A restore asks for many files at once: their chunks are sorted by pack, each pack's parts are fetched in few ranges,
once, and delivered to every place that wants them, by several workers. If a place of a chunk is missing or damaged and
another is whole, the other serves.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from holdfast.errors import Damaged, HoldfastError, ObjectMissing
from holdfast.messages import _
from holdfast.repository.crew import each
from holdfast.repository.ids import ChunkId
from holdfast.repository.index import Location
from holdfast.repository.index_loading import LoadedIndex, load_index
from holdfast.repository.objects import ObjectRef
from holdfast.repository.packing import read_part
from holdfast.repository.repository import DEFAULT_WORKERS, Repository
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.trees import Content, StoredEntry, load_content, load_tree

BATCH_CHUNKS = 32 * 1024
"""Chunks whose whereabouts are held in memory at a time: 8 GiB of PostgreSQL files."""
RANGE_LIMIT = 8 * 2**20
RANGE_GAP = 256 * 1024
"""Bytes that are rather read than skipped with another request."""
CACHED_META_BYTES = 32 * 2**20
READ_AHEAD_BYTES = 2**20


class Sink(Protocol):
    """Where one file's content goes. Called from many threads, in any order, once for each piece."""

    @property
    def path(self) -> str: ...

    def write(self, offset: int, data: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class _Want:
    place: Location
    sink: Sink
    offset: int


class SnapshotReader:
    """Reads snapshots of one repository; the index is loaded once."""

    def __init__(self, repository: Repository, *, loaded: LoadedIndex | None = None) -> None:
        self._repository = repository
        self.loaded = loaded or load_index(repository)
        self._cache: OrderedDict[ChunkId, bytes] = OrderedDict()
        self._cached_bytes = 0

    def entries(self, snapshot: Snapshot) -> Iterator[StoredEntry]:
        return load_tree(snapshot.tree, self.load)

    def read(self, content: Content) -> bytes:
        """A small file's content, whole."""
        return b"".join(self.load(row.id) for row in load_content(content, self.load))

    def load(self, chunk_id: ChunkId) -> bytes:
        """A chunk of a tree. What follows it in its pack is read with it and kept a while: it is wanted next."""
        if chunk_id in self._cache:
            self._cache.move_to_end(chunk_id)
            return self._cache[chunk_id]
        failure: HoldfastError | None = None
        for place in self.places(chunk_id):
            try:
                return self._load_ahead(place)
            except Damaged as error:
                failure = error
        raise failure or self.absent(chunk_id)

    def places(self, chunk_id: ChunkId) -> Iterator[Location]:
        """Where a chunk may be read, the likeliest first."""
        yield from self.loaded.present.places(chunk_id)
        yield from self.loaded.damaged.places(chunk_id)

    def _load_ahead(self, first: Location) -> bytes:
        parts = self.loaded.present.directory(first.pack).parts
        start, end = first.part.offset, first.part.offset + max(READ_AHEAD_BYTES, first.part.sealed_length)
        stretch = memoryview(self._repository.store.get(first.pack.name, start, end - start))
        wanted = self._open(first, stretch[: first.part.sealed_length])
        for ordinal in range(first.ordinal + 1, len(parts)):
            part = parts[ordinal]
            sealed = stretch[part.offset - start :][: part.sealed_length]
            if len(sealed) < part.sealed_length:
                break
            try:
                self._remember(part.id, self._open(Location(first.pack, ordinal, part), sealed))
            except Damaged:
                break  # whoever needs that one finds out, or finds it elsewhere
        self._remember(first.part.id, wanted)
        return wanted

    def deliver(self, files: Iterable[tuple[Content, Sink]], *, workers: int = DEFAULT_WORKERS) -> None:
        """Writes the content of each file to its sink.

        Raises ``Damaged`` naming the object and the files it touches.
        """
        batch: dict[ObjectRef, list[_Want]] = defaultdict(list)
        chunks = 0
        for content, sink in files:
            offset = 0
            for row in load_content(content, self.load):
                place = next(self.places(row.id), None)
                if place is None:
                    raise self.absent(row.id, sink.path)
                batch[place.pack].append(_Want(place, sink, offset))
                offset += row.size
                chunks += 1
                if chunks == BATCH_CHUNKS:
                    each(self._deliver_range, _ranges(batch), workers=workers)
                    batch.clear()
                    chunks = 0
        each(self._deliver_range, _ranges(batch), workers=workers)

    def _deliver_range(self, wants: Sequence[_Want]) -> None:
        """Fetches one stretch of one pack and hands each chunk in it to all that want it."""
        pack, start = wants[0].place.pack, wants[0].place.part.offset
        end = max(want.place.part.offset + want.place.part.sealed_length for want in wants)
        try:
            stretch = memoryview(self._repository.store.get(pack.name, start, end - start))
        except ObjectMissing:
            stretch = memoryview(b"")
        for _ordinal, same in groupby(wants, key=lambda want: want.place.ordinal):
            together = list(same)
            place = together[0].place
            at = place.part.offset - start
            content = self._whole(place, stretch[at : at + place.part.sealed_length], together)
            for want in together:
                want.sink.write(want.offset, content)

    def _whole(self, place: Location, sealed: memoryview, wants: Sequence[_Want]) -> bytes:
        """The chunk from here, or from any other place that holds it."""
        try:
            return self._open(place, sealed)
        except Damaged as error:
            for other in self.places(place.part.id):
                if other.pack == place.pack:
                    continue
                try:
                    part = other.part
                    return self._open(
                        other, self._repository.store.get(other.pack.name, part.offset, part.sealed_length)
                    )
                except (Damaged, ObjectMissing):
                    continue
            raise _damaged(place.pack, error, {want.sink.path for want in wants}) from None

    def _open(self, place: Location, sealed: bytes | memoryview) -> bytes:
        cipher = self._repository.cipher(place.pack)
        return read_part(cipher, place.part, place.ordinal, sealed, self._repository.ids)

    def absent(self, chunk_id: ChunkId, path: str | None = None) -> Damaged:
        lost = self.loaded.lost.find(chunk_id)
        what = (
            _("{name} is missing from {url} or cut short").format(name=lost.pack.name, url=self._repository.url)
            if lost
            else _("no pack in {url} holds chunk {id}").format(url=self._repository.url, id=chunk_id.hex()[:12])
        )
        if path is not None:
            what = _("{what}; {path} needs it").format(what=what, path=path)
        return ObjectMissing(what, hint=_hint())

    def _remember(self, chunk_id: ChunkId, content: bytes) -> None:
        if chunk_id in self._cache:
            return
        self._cache[chunk_id] = content
        self._cached_bytes += len(content)
        while self._cached_bytes > CACHED_META_BYTES:
            _oldest, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= len(dropped)


def _ranges(batch: dict[ObjectRef, list[_Want]]) -> Iterator[list[_Want]]:
    """Stretches of packs, each worth one request: neighbours together, at most ``RANGE_LIMIT`` bytes."""
    for wants in batch.values():
        wants.sort(key=lambda want: want.place.ordinal)
        stretch: list[_Want] = []
        for want in wants:
            part = want.place.part
            if stretch:
                last, first = stretch[-1].place.part, stretch[0].place.part
                gap = part.offset - (last.offset + last.sealed_length)
                if gap > RANGE_GAP or part.offset + part.sealed_length - first.offset > RANGE_LIMIT:
                    yield stretch
                    stretch = []
            stretch.append(want)
        yield stretch


def _damaged(pack: ObjectRef, error: Damaged, paths: set[str]) -> Damaged:
    shown = sorted(paths)
    named = ", ".join(shown[:5]) + (_(" and {n} more").format(n=len(shown) - 5) if len(shown) > 5 else "")
    return Damaged(
        _("{name} is damaged ({why}); it touches {paths}").format(name=pack.name, why=error, paths=named),
        hint=_hint(),
    )


def _hint() -> str:
    return _("Run `holdfast verify` for all that this touches; another snapshot may be whole.")
