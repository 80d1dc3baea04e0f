"""Which pack holds which chunk. The index is a copy of the packs' directories, never the only place of a fact.

An index object is one sealed part: zstd over, for each pack, ``u8 kind, 32 id, u64 size`` and the rows of its
directory. A pack that no index object names (a backup died before it wrote one, or an index object is lost) is
learned from its own directory.

In memory the index is a few mapped runs, a dictionary of what this process put last, and a byte of flags a pack:
whether it counts is told by listings, of index objects and of packs. A chunk may lie in several packs (two writers at
once); all places are found, so that a reader can turn to another.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from holdfast.clock import Clock
from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.compression import AS_IS, compress, decompress
from holdfast.repository.ids import ID_BYTES, ChunkId, ObjectId
from holdfast.repository.index_cache import IndexCache, Naming, StoredRun
from holdfast.repository.listing import Listing
from holdfast.repository.objects import PACK_KINDS, ObjectRef
from holdfast.repository.pack_table import Array, PackTable
from holdfast.repository.packing import Directory, Location, decode_rows, encode_rows, rows_length
from holdfast.repository.run_building import RunBuilder
from holdfast.repository.segments import Flag, FreshSegment, RunSegment, Segment, due_for_merging

_LENGTH = struct.Struct(">I")
_PACK = struct.Struct(f">B{ID_BYTES}sQ")
_PREFIX = struct.Struct(">Q")

MAX_INDEX_BYTES = 256 * 2**20
INDEX_PARTS = 1_000_000
"""Parts at which an index object is closed: 40 MB, far below what readers accept."""
FRESH_ROWS = 2**18
"""Rows in dictionaries, some 200 bytes each, before they become a run."""

_PACK_KINDS = {int(kind): kind for kind in PACK_KINDS}
_STATE = Flag.PRESENT | Flag.TWIN
_FITNESS = _STATE | Flag.MARKED


class Index:
    """Look-ups from any thread; changes from one at a time."""

    def __init__(
        self,
        cache: IndexCache,
        clock: Clock,
        *,
        segments: Iterable[RunSegment] = (),
        naming: Naming | None = None,
        noted: Mapping[ObjectRef, frozenset[int]] | None = None,
    ) -> None:
        """``naming`` is about the packs of ``segments``; ``noted``: the parts that a verification found damaged."""
        self._cache, self._clock = cache, clock
        self._fresh = FreshSegment()
        self._runs = tuple(segments)
        self._segments: tuple[Segment, ...] = self._runs
        """What look-ups ask; the dictionary only once something is in it."""
        self._naming = naming or Naming.empty()
        self._named: list[tuple[ObjectId, int, PackTable]] = []
        self.noted = noted or {}
        self._lock = threading.Lock()
        """Held for a moment: by look-ups that use what they find, and where flags and segments change."""
        self._changing = threading.RLock()
        for segment, number in (entry for pack in self.noted for entry in self._entries(pack)):
            segment.flags[number] |= Flag.NOTED

    def reuse(self, chunk_id: ChunkId) -> Location | None:
        """A place that a new snapshot may refer to: indexed, listed, unmarked, not known to be damaged.

        That the pack is used is remembered.
        """
        (prefix,) = _PREFIX.unpack_from(chunk_id)
        with self._lock:
            for segment in self._segments:
                for at in segment.find(prefix, chunk_id):
                    pack = segment.pack_of(at)
                    flags = segment.flags[pack]
                    if flags & _FITNESS == Flag.PRESENT:
                        place = segment.location(pack, at)
                        if not flags & Flag.NOTED or place.ordinal not in self.noted[place.pack]:
                            segment.flags[pack] = flags | Flag.USED
                            return place
        return None

    def places(self, chunk_id: ChunkId) -> Iterator[Location]:
        """Where a chunk may be read; what a verification found damaged comes last."""
        damaged: list[Location] = []
        for segment, pack, at in self._find(chunk_id):
            flags = segment.flags[pack]
            if flags & _STATE == Flag.PRESENT:
                place = segment.location(pack, at)
                if flags & Flag.NOTED and place.ordinal in self.noted[place.pack]:
                    damaged.append(place)
                else:
                    yield place
        yield from damaged

    def lost(self, chunk_id: ChunkId) -> Location | None:
        """Where the index says that a chunk is, in a pack that is not in the store, or has another size there."""
        return next(self.losses(chunk_id), None)

    def losses(self, chunk_id: ChunkId) -> Iterator[Location]:
        """All such places."""
        for segment, pack, at in self._find(chunk_id):
            if segment.flags[pack] & (_STATE | Flag.NAMED) == Flag.NAMED:
                yield segment.location(pack, at)

    def add(self, directory: Directory) -> None:
        """Takes a pack that this process has just put: it is there, and used."""
        with self._changing:
            with self._lock:
                known = [one for one in self._entries(directory.pack) if one[0].content.directory(one[1]) == directory]
                for segment, pack in known:
                    segment.flags[pack] |= Flag.PRESENT | Flag.USED
                if not known:
                    self._fresh.flags.append(Flag.PRESENT | Flag.USED)
                    self._fresh.times.append(self._clock.monotonic())
                    self._fresh.fresh.add(directory)
                    self._set(self._fresh, self._runs)
            if self._fresh.content.rows >= FRESH_ROWS:
                self._flush()
                self.merge()

    def named(self, index_object: ObjectRef, directories: Iterable[Directory]) -> None:
        """Takes note of an index object that this process wrote, so that the next one need not read it."""
        whole = list(directories)
        packs = PackTable.of([one.pack for one in whole], [one.size for one in whole])
        with self._changing:
            self._named.append((index_object.id, sum(map(len, whole)), packs))

    def directory(self, pack: ObjectRef) -> Directory:
        """``KeyError`` if it is not there."""
        for segment, number in self._entries(pack):
            if segment.flags[number] & _STATE == Flag.PRESENT:
                return segment.content.directory(number)
        raise KeyError(pack)

    def shows(self, pack: ObjectRef) -> bool:
        """Whether it was in the store when that was listed."""
        return any(segment.flags[number] & _STATE == Flag.PRESENT for segment, number in self._entries(pack))

    def directories(self) -> Iterator[Directory]:
        """Of all packs that are there, one at a time, in no order."""
        for segment in self._segments:
            for number in segment.there():
                yield segment.content.directory(int(number))

    def learned(self) -> Iterator[Directory]:
        """Of the packs that no index object named when the index was loaded."""
        for segment in self._segments:
            for number in segment.having(_STATE | Flag.LEARNED, Flag.PRESENT | Flag.LEARNED):
                yield segment.content.directory(int(number))

    def mark(self, packs: Iterable[ObjectRef]) -> None:
        """From now on none of them is reused; what is not known is ignored."""
        for ref in packs:
            with self._lock:
                for segment, number in self._entries(ref):
                    segment.flags[number] |= Flag.MARKED

    def marked(self, pack: ObjectRef) -> bool:
        return any(segment.flags[number] & Flag.MARKED for segment, number in self._entries(pack))

    def used(self, packs: Iterable[ObjectRef]) -> list[ObjectRef]:
        """Those of them that this process reused from, or put."""
        return [
            ref for ref in packs if any(segment.flags[number] & Flag.USED for segment, number in self._entries(ref))
        ]

    def check(self, listed: Listing) -> list[ObjectRef]:
        """Takes over which packs a fresh listing shows; the used packs that it does not show with their size.

        What was put after the listing began counts as there.
        """
        gone: list[ObjectRef] = []
        with self._changing:
            for segment in self._segments:
                identities = segment.content.identities
                shown = listed.match(identities, sized=True) >= 0
                if segment.added is not None:
                    shown |= np.array(segment.added) > listed.began  # at the same tick: a clock that stood still
                with self._lock:
                    missing = segment.show(shown)
                gone.extend(identities.refs(missing))
        return gone

    @property
    def count(self) -> int:
        """Chunks in the packs that are there, each as often as it is stored."""
        return sum(int(segment.content.lengths[segment.there()].sum()) for segment in self._segments)

    @property
    def pack_count(self) -> int:
        """Packs that are there."""
        return sum(len(segment.there()) for segment in self._segments)

    @property
    def packs(self) -> int:
        """Packs that are known, there or not."""
        return sum(segment.content.packs for segment in self._segments)

    @property
    def rows(self) -> int:
        """Chunks in the packs that are known."""
        return sum(segment.content.rows for segment in self._segments)

    def pack_number(self, pack: ObjectRef) -> int:
        """One number below :attr:`packs` for each pack that is there, until the index changes."""
        first = 0
        for segment in self._segments:
            for number in segment.content.numbers_of(pack):
                if segment.flags[number] & _STATE == Flag.PRESENT:
                    return first + number
            first += segment.content.packs
        raise KeyError(pack)

    def row_number(self, place: Location) -> int:
        """One number below :attr:`rows` for each place that may be read, until the index changes."""
        first = 0
        for segment in self._segments:
            for number in segment.content.numbers_of(place.pack):
                if segment.flags[number] & _STATE == Flag.PRESENT:
                    return first + segment.content.first(number) + place.ordinal
            first += segment.content.rows
        raise KeyError(place.pack)

    def close(self) -> None:
        """Keeps what was added and named for the next process; nothing may be asked any more."""
        with self._changing:
            if self._named or self._fresh.content.packs:
                with contextlib.suppress(OSError):
                    self._persist()
            self._runs, self._segments, self._fresh = (), (), FreshSegment()

    def _persist(self) -> None:
        self._flush()
        self.merge()
        for name, rows, packs in self._named:
            numbers = self._identities().match(packs, sized=True)
            if (numbers >= 0).all():
                self._naming = self._naming.extended(name, rows, numbers)
        self.publish()

    def publish(self) -> None:
        """Makes the local copy what this index knows."""
        self._cache.publish([segment.stored for segment in self._runs], self._naming)

    def merge(self) -> None:
        """Makes one of runs that are too many; drops packs that are neither in the store nor named."""
        chosen = due_for_merging([segment.run.rows for segment in self._runs])
        if not chosen:
            return
        parts = [(self._runs[place], _needed(self._runs[place])) for place in chosen]

        def fill(builder: RunBuilder) -> None:
            for segment, keep in parts:
                builder.add_run(segment.run, keep)

        stored = self._cache.build(fill)
        numbers = _renumbered(self._runs, dict(parts), stored)
        with self._lock:
            flags = b"".join(segment.states()[keep].tobytes() for segment, keep in parts)
            times = None
            if any(segment.added is not None for segment, _keep in parts):
                times = array("d", b"".join(np.array(segment.times())[keep].tobytes() for segment, keep in parts))
            others = (segment for segment in self._runs if segment not in dict(parts))
            self._set(self._fresh, (*others, RunSegment(stored, bytearray(flags), added=times)))
        self._naming = self._naming.renumbered(numbers)
        self.publish()

    def _flush(self) -> None:
        fresh = self._fresh
        if not fresh.content.packs:
            return

        def fill(builder: RunBuilder) -> None:
            for directory in fresh.fresh.directories:
                builder.add(directory)

        stored = self._cache.build(fill)
        with self._lock:
            self._set(FreshSegment(), (*self._runs, RunSegment(stored, bytearray(fresh.flags), added=fresh.times)))

    def _set(self, fresh: FreshSegment, runs: Sequence[RunSegment]) -> None:
        self._fresh, self._runs = fresh, tuple(runs)
        self._segments = (fresh, *self._runs) if fresh.content.packs else self._runs

    def _find(self, chunk_id: ChunkId) -> Iterator[tuple[Segment, int, int]]:
        (prefix,) = _PREFIX.unpack_from(chunk_id)
        for segment in self._segments:
            for at in segment.find(prefix, chunk_id):
                yield segment, segment.pack_of(at), at

    def _entries(self, pack: ObjectRef) -> Iterator[tuple[Segment, int]]:
        for segment in self._segments:
            for number in segment.content.numbers_of(pack):
                if not segment.flags[number] & Flag.TWIN:
                    yield segment, number

    def _identities(self) -> PackTable:
        return PackTable.joined([segment.run.identities for segment in self._runs])


def _needed(segment: RunSegment) -> Array:
    states = segment.states()
    needed: Array = (states & Flag.TWIN == 0) & (states & (Flag.PRESENT | Flag.NAMED | Flag.USED) != 0)
    return needed


def _renumbered(runs: Sequence[RunSegment], merged: Mapping[RunSegment, Array], stored: StoredRun) -> Array:
    """The new number of each pack when those of ``merged`` that are kept come last, in a run of their own."""
    keeps = [merged.get(segment) for segment in runs]
    others = np.concatenate([np.full(one.run.packs, keep is None) for one, keep in zip(runs, keeps, strict=True)])
    kept = np.concatenate(
        [np.zeros(one.run.packs, bool) if keep is None else keep for one, keep in zip(runs, keeps, strict=True)]
    )
    numbers = np.where(others, np.cumsum(others) - 1, -1)
    numbers[kept] = int(others.sum()) + np.arange(stored.run.packs)
    return numbers


def encode_index(directories: Iterable[Directory]) -> bytes:
    plain = b"".join(
        _PACK.pack(directory.pack.kind, directory.pack.id, directory.size) + encode_rows(directory.rows)
        for directory in directories
    )
    return _LENGTH.pack(len(plain)) + compress(plain)


def decode_index(data: bytes) -> Iterator[Directory]:
    """Raises ``Damaged``, possibly after some directories."""
    try:
        (size,) = _LENGTH.unpack_from(data)
        if size > MAX_INDEX_BYTES:
            raise Damaged(_("an index object is larger than any that Holdfast writes"))
        stored = memoryview(data)[_LENGTH.size :]
        as_is = stored[:1] == AS_IS and len(stored) == 1 + size  # ids don't shrink: no copy of 40 MB is made
        plain = stored[1:] if as_is else memoryview(decompress(stored, size=size))
        del data, stored
        at = 0
        while at < len(plain):
            kind, raw, pack_size = _PACK.unpack_from(plain, at)
            at += _PACK.size
            (count,) = _LENGTH.unpack_from(plain, at)
            rows = decode_rows(plain[at : at + rows_length(count)])
            at += rows_length(count)
            if kind not in _PACK_KINDS:
                raise ValueError(kind)
            yield Directory(ObjectRef(_PACK_KINDS[kind], ObjectId(raw)), pack_size, rows)
    except (struct.error, ValueError):
        raise Damaged(_("an index object cannot be read")) from None
