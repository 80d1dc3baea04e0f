"""Reading a snapshot: get → unpack → unseal → join. Every chunk is authenticated and its id computed again.

Lists say where their chunks lie, so no index is loaded for a snapshot that is whole; where a hint is stale or what it
names is damaged, the index is asked for other places, and another serves.

A restore asks for many files at once: their chunks are sorted by pack, each pack's parts are fetched in few ranges,
once, and delivered to every place that wants them, by several workers.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from holdfast.errors import Damaged, HoldfastError, NoSpace, NotReachable, ObjectMissing, Refused
from holdfast.messages import _
from holdfast.repository.crew import Crew
from holdfast.repository.ids import ChunkId
from holdfast.repository.index import Index
from holdfast.repository.index_loading import LoadedIndex, load_index
from holdfast.repository.objects import ObjectRef
from holdfast.repository.packing import Location, read_part
from holdfast.repository.repository import DEFAULT_WORKERS, Repository
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.trees import Content, Row, StoredEntry, load_content, load_tree
from holdfast.repository.watch import Lease

BATCH_CHUNKS = 32 * 1024
"""Chunks whose whereabouts are held in memory at a time: 8 GiB of PostgreSQL files."""
RANGE_LIMIT = 8 * 2**20
RANGE_GAP = 256 * 1024
"""Bytes that are rather read than skipped with another request."""
CACHED_BYTES = 32 * 2**20
READ_AHEAD_BYTES = 2**20
_ROUNDS = 4
"""So often packs may turn out to be gone under a restore, and what lay in them be found elsewhere."""
_NO_LEASE = (NotReachable, Refused, NoSpace)
"""Why a lease may not be had: none of it keeps anybody from reading."""


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
    """Reads snapshots of one repository; the index is loaded only if it is needed.

    It is loaded anew when a pack that it shows is gone: what was there has been copied elsewhere before.
    """

    def __init__(self, repository: Repository, *, loaded: LoadedIndex | None = None) -> None:
        self._repository = repository
        self._loaded = loaded
        self._given = loaded is not None
        self._loading = threading.Lock()
        self._gone: set[ObjectRef] = set()
        """Packs that the store said it does not have, since the index was loaded."""
        self._lease: Lease | None = None
        self._missed: list[_Want] = []
        self._cache: OrderedDict[ChunkId, bytes] = OrderedDict()
        self._cached_bytes = 0

    @property
    def index(self) -> Index:
        with self._loading:
            if self._loaded is None:
                self._loaded = load_index(self._repository)
            return self._loaded.index

    @contextmanager
    def leased(self, *, work: str, host: str) -> Iterator[None]:
        """Holds a lease meanwhile, so that prune knows of a long restore. Where none can be written, none is held."""
        lease = Lease(self._repository, work=work, host=host)
        try:
            with suppress(*_NO_LEASE):
                lease.renew()
                self._lease = lease
            yield
        except NotReachable:
            raise  # without waiting for that store once more
        except BaseException:
            lease.end()
            raise
        else:
            lease.end()
        finally:
            self._lease = None

    def _beat(self) -> None:
        if self._lease is not None:
            with suppress(*_NO_LEASE):
                self._lease.beat()

    def entries(self, snapshot: Snapshot) -> Iterator[StoredEntry]:
        return load_tree(snapshot.tree, self.load)

    def read(self, content: Content) -> bytes:
        """A small file's content, whole."""
        return b"".join(self.load(list(load_content(content, self.load))))

    def load(self, rows: Sequence[Row]) -> Iterator[bytes]:
        """The chunks of ``rows``, in order. What lies close behind one of them is fetched with it."""
        for position, row in enumerate(rows):
            if row.id in self._cache:
                self._cache.move_to_end(row.id)
                yield self._cache[row.id]
            else:
                yield self._load_ahead(rows[position:])

    def _load_ahead(self, rows: Sequence[Row]) -> bytes:
        first = rows[0]
        failure: HoldfastError | None = None
        for place in self._places(first.id, first.place):
            near = [place, *_following(place, rows[1:])]
            start, last = place.part.offset, near[-1].part
            try:
                length = last.offset + last.sealed_length - start
                stretch = memoryview(self._get(place.pack, start, length))
                wanted = self._open(place, stretch[: place.part.sealed_length])
            except Damaged as error:
                failure = error
                continue
            self._remember(first.id, wanted)
            self._keep(near[1:], start, stretch)
            return wanted
        raise failure or self.absent(first.id)

    def _keep(self, places: Sequence[Location], start: int, stretch: memoryview) -> None:
        for place in places:
            try:
                sealed = stretch[place.part.offset - start :][: place.part.sealed_length]
                self._remember(place.part.id, self._open(place, sealed))
            except Damaged:
                return  # whoever needs that one finds out, or finds it elsewhere

    def _places(self, chunk_id: ChunkId, hint: Location | None) -> Iterator[Location]:
        """Where a chunk may be read, the likeliest first."""
        stale = hint is not None and self._is_stale(hint)
        tried: set[Location | None] = set()
        if hint is not None and not stale:
            yield hint
            tried.add(hint)
        for newer in (False, True):
            for place in (self._newer() if newer else self.index).places(chunk_id):
                if place not in tried:
                    tried.add(place)
                    yield place
        if hint is not None and hint not in tried:
            yield hint

    def _is_stale(self, hint: Location) -> bool:
        loaded = self._loaded
        return hint.pack in self._gone or (loaded is not None and not loaded.index.shows(hint.pack))

    def _newer(self) -> Index:
        """The index, loaded anew if what was found to be gone shows that it is out of date."""
        index = self.index
        with self._loading:
            assert self._loaded is not None
            if self._loaded.index is index and not self._given and any(map(index.shows, tuple(self._gone))):
                self._gone.clear()
                self._loaded = load_index(self._repository)
            return self._loaded.index

    def _get(self, pack: ObjectRef, start: int, length: int) -> bytes:
        try:
            return self._repository.store.get(pack.name, start, length)
        except ObjectMissing:
            self._gone.add(pack)
            raise

    def deliver(self, files: Iterable[tuple[Content, Sink]], *, workers: int = DEFAULT_WORKERS) -> None:
        """Writes the content of each file to its sink.

        Raises ``Damaged`` naming the object and the files it touches.
        """
        batch: dict[ObjectRef, list[_Want]] = defaultdict(list)
        chunks = 0
        for content, sink in files:
            offset = 0
            for row in load_content(content, self.load):
                place = next(self._places(row.id, row.place), None)
                if place is None:
                    raise self.absent(row.id, sink.path)
                batch[place.pack].append(_Want(place, sink, offset))
                offset += row.size
                chunks += 1
                if chunks == BATCH_CHUNKS:
                    self._deliver_batch(batch, workers)
                    batch.clear()
                    chunks = 0
        self._deliver_batch(batch, workers)

    def _deliver_batch(self, batch: dict[ObjectRef, list[_Want]], workers: int) -> None:
        for _round in range(_ROUNDS):
            with Crew(self._deliver_range, workers=workers) as crew:
                for stretch in _ranges(batch):
                    self._beat()
                    crew.submit(stretch)
            batch = self._placed_anew()
            if not batch:
                return
        want = next(iter(batch.values()))[0]
        raise self.absent(want.place.part.id, want.sink.path)

    def _placed_anew(self) -> dict[ObjectRef, list[_Want]]:
        """What was wanted of packs that turned out to be gone, at other places."""
        missed, self._missed = self._missed, []
        batch: dict[ObjectRef, list[_Want]] = defaultdict(list)
        for want in missed:
            chunk_id = want.place.part.id
            place = next((place for place in self._places(chunk_id, None) if place.pack not in self._gone), None)
            if place is None:
                raise self.absent(chunk_id, want.sink.path)
            batch[place.pack].append(_Want(place, want.sink, want.offset))
        return batch

    def _deliver_range(self, wants: Sequence[_Want]) -> None:
        """Fetches one stretch of one pack and hands each chunk in it to all that want it."""
        pack, start = wants[0].place.pack, wants[0].place.part.offset
        end = max(want.place.part.offset + want.place.part.sealed_length for want in wants)
        try:
            stretch = memoryview(self._get(pack, start, end - start))
        except ObjectMissing:
            self._missed.extend(wants)
            return
        for _place, same in groupby(wants, key=_order):
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
            for other in self._places(place.part.id, place):
                if other == place:
                    continue
                try:
                    return self._open(other, self._get(other.pack, other.part.offset, other.part.sealed_length))
                except Damaged:
                    continue
            raise self._lost_or_damaged(place, error, {want.sink.path for want in wants}) from None

    def _open(self, place: Location, sealed: bytes | memoryview) -> bytes:
        return read_part(self._repository.cipher(place.pack), place, sealed, self._repository.ids)

    def _lost_or_damaged(self, place: Location, error: Damaged, paths: set[str]) -> Damaged:
        if next(self.index.places(place.part.id), None) is None:
            return self.absent(place.part.id, min(paths))
        return _damaged(place.pack, error, paths)

    def absent(self, chunk_id: ChunkId, path: str | None = None) -> Damaged:
        lost = self.index.lost(chunk_id)
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
        while self._cached_bytes > CACHED_BYTES:
            _oldest, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= len(dropped)


def _order(want: _Want) -> tuple[int, ChunkId]:
    """By place; the id tells a stale hint from a true one."""
    return want.place.ordinal, want.place.part.id


def _following(first: Location, rows: Iterable[Row]) -> Iterator[Location]:
    """Those of ``rows`` that lie behind ``first`` in its pack, in order, and near."""
    end = first.part.offset + first.part.sealed_length
    for row in rows:
        place = row.place
        if place is None or place.pack != first.pack or place.part.offset < end:
            return
        end = place.part.offset + place.part.sealed_length
        if end - first.part.offset > READ_AHEAD_BYTES:
            return
        yield place


def _ranges(batch: dict[ObjectRef, list[_Want]]) -> Iterator[list[_Want]]:
    """Stretches of packs, each worth one request: neighbours together, at most ``RANGE_LIMIT`` bytes."""
    for wants in batch.values():
        wants.sort(key=_order)
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
