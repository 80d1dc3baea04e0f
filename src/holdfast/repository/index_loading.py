"""Reading the index as it is in the store, beside a listing of the packs.

What the index names and the listing lacks (or shows with another size) is *lost*: never reused, and named when somebody
needs it. What is listed and in no index object is *learned* from the pack's own directory. So neither an interrupted
backup nor a lost or damaged index object costs more than time.

A pack's directory never changes, so what this machine has read once it keeps (``index_cache``): of the store only
listings, new index objects and unknown packs are read.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from holdfast.errors import Damaged, ObjectMissing
from holdfast.messages import _
from holdfast.repository.crew import each
from holdfast.repository.damage import decode_damage
from holdfast.repository.ids import ObjectId
from holdfast.repository.index import Index, decode_index
from holdfast.repository.index_cache import IndexCache, Naming, StoredRun
from holdfast.repository.index_fetching import fetch_directory, fetched
from holdfast.repository.listing import Listing, list_packs
from holdfast.repository.objects import Kind, ObjectRef, parse_name
from holdfast.repository.pack_table import Array, PackTable
from holdfast.repository.packing import Directory
from holdfast.repository.repository import DEFAULT_WORKERS, Problem, Repository
from holdfast.repository.run_building import RunBuilder
from holdfast.repository.sealing import unseal_object
from holdfast.repository.segments import Flag, RunSegment
from holdfast.store.port import Listed

__all__ = ["IndexObject", "LoadedIndex", "fetch_directory", "list_packs", "load_index"]

_ROUNDS = 5
"""How often the index objects are listed again because some that were listed are gone: another machine compacts."""
_BATCH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexObject:
    """An index object that is in the store and could be read."""

    ref: ObjectRef
    rows: int
    redundant: bool = False
    """Each pack that it names is named by a larger one too; of two equal ones, by that of the larger id."""
    mourns: bool = False
    """It names a pack that is missing, or has another size, and that nobody marked."""


@dataclass(frozen=True, slots=True)
class Learned(Collection[Directory]):
    """Directories of packs in the store that no index object names, told one at a time."""

    _index: Index
    _count: int

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Directory]:
        return self._index.learned()

    def __contains__(self, directory: object) -> bool:
        return any(one == directory for one in self)


@dataclass(frozen=True, slots=True)
class LoadedIndex:
    index: Index
    learned: Collection[Directory]
    """For the writer to index; valid until the index is changed."""
    problems: list[Problem] = field(default_factory=list)
    objects: tuple[IndexObject, ...] = ()
    missing: tuple[ObjectRef, ...] = ()
    """Packs that index objects name, that were not listed, and that are not marked. Each is a problem too."""


def load_index(repository: Repository, *, marked: Iterable[ObjectRef] = ()) -> LoadedIndex:
    """``marked``: packs that prune means to delete, or has deleted: not reused, and not missed."""
    return _Loading(repository, frozenset(marked)).load()


class _Loading:
    def __init__(self, repository: Repository, marked: frozenset[ObjectRef]) -> None:
        self._repository = repository
        self._marked = marked
        self._cache = IndexCache(repository)
        self._problems: list[Problem] = []
        self._missing: list[ObjectRef] = []
        self._runs, self._naming = self._cache.open()
        self._changed = False
        self._read: dict[ObjectId, tuple[int, Array]] = {}
        """Of index objects read just now: the rows, and the numbers of the packs that they name."""
        self._unreadable: dict[str, Problem] = {}

    def load(self) -> LoadedIndex:
        listing, names = self._read_objects()
        noted = _noted_damage(self._repository, self._problems)
        segments = [RunSegment(stored, bytearray(stored.run.packs)) for stored in self._runs]
        table = PackTable.joined([stored.run.identities for stored in self._runs])
        self._name(table, names)
        where = listing.match(table, sized=True)
        states = self._judge(table, where, listing)
        at = 0
        for segment in segments:
            segment.states()[:] = states[at : at + segment.run.packs]
            at += segment.run.packs
        objects = self._objects(names, table, states)
        segments += self._learn(table, states, where, listing)
        index = Index(self._cache, self._repository.clock, segments=segments, naming=self._naming, noted=noted)
        index.mark(self._marked)
        index.merge()
        if self._changed:
            index.publish()
        learned = Learned(index, sum(1 for _directory in index.learned()))
        return LoadedIndex(index, learned, self._problems, objects, tuple(self._missing))

    def _objects(self, names: dict[str, ObjectRef], table: PackTable, states: Array) -> tuple[IndexObject, ...]:
        """The index objects that are in the store, in the order of ``names``."""
        known = {ObjectId(name): (place, rows) for place, (name, rows) in enumerate(self._naming.objects)}
        lost = np.zeros(len(table), bool)
        lost[[int(number) for number in _lost_ones(states) if table[int(number)] not in self._marked]] = True
        mourning = set(self._naming.by[lost[self._naming.packs]].tolist())
        needed = _needed_objects(self._naming, len(table))
        found = ((ref, *known[ref.id]) for ref in names.values() if ref.id in known)
        return tuple(
            IndexObject(ref=ref, rows=rows, redundant=place not in needed, mourns=place in mourning)
            for ref, place, rows in found
        )

    def _read_objects(self) -> tuple[Listing, dict[str, ObjectRef]]:
        """Reads the index objects that are new here. Returns the packs, and the index objects by name."""
        for _attempt in range(_ROUNDS):
            # Index objects are listed before the packs: a pack is always older than the index object that names it.
            listed = list(self._repository.store.list(Kind.INDEX.prefix))
            listing = list_packs(self._repository)
            names = {item.name: ref for item in listed if (ref := parse_name(item.name)) is not None}
            known = {name for name, _rows in self._naming.objects} | self._read.keys()
            new = [item for item in listed if item.name in names and names[item.name].id not in known]
            gone = self._read_new([item for item in new if item.name not in self._unreadable])
            if not gone:
                break
        for item in listed:
            if item.name not in names:
                text = _("{name} has a name that Holdfast does not write").format(name=item.name)
                self._problems.append(Problem(item.name, text))
        self._problems.extend(self._unreadable[name] for name in names if name in self._unreadable)
        self._problems.extend(Problem(name, why) for name, why in gone.items())
        return listing, names

    def _read_new(self, new: list[Listed]) -> dict[str, str]:
        """Into a run of their own; those that are gone, and what the store said."""
        if not new:
            return {}
        gone: dict[str, str] = {}
        known = PackTable.joined([stored.run.identities for stored in self._runs])

        def fill(builder: RunBuilder) -> None:
            gone.clear()
            for item in new:  # what a run that ended for want of room was told counts for nothing
                self._unreadable.pop(item.name, None)
                if (ref := parse_name(item.name)) is not None:
                    self._read.pop(ref.id, None)
            for item, answer in fetched(self._repository, new):
                ref = parse_name(item.name)
                assert ref is not None
                if isinstance(answer, ObjectMissing):
                    gone[item.name] = str(answer)
                    continue
                try:
                    if isinstance(answer, Damaged):
                        raise answer
                    directories = decode_index(unseal_object(self._repository.master, ref, answer))
                    del answer  # as large as what follows
                    self._read[ref.id] = _take(directories, builder, known)
                except Damaged as error:
                    self._unreadable[item.name] = Problem(item.name, str(error))

        self._keep(self._cache.build(fill))
        self._changed = True
        return gone

    def _keep(self, stored: StoredRun) -> None:
        if stored.run.packs:
            self._runs.append(stored)

    def _name(self, table: PackTable, names: dict[str, ObjectRef]) -> None:
        """Which packs the index objects that are there name."""
        there = {ref.id for ref in names.values()}
        self._changed |= not all(name in there for name, _rows in self._naming.objects)
        naming = self._naming.only(there.__contains__)
        for name, (rows, packs) in self._read.items():
            if name in there:
                naming = naming.extended(name, rows, packs)
        firsts = np.arange(len(table))
        twins = table.twins()
        firsts[list(twins)] = list(twins.values())
        self._naming = naming.renumbered(firsts)

    def _judge(self, table: PackTable, where: Array, listing: Listing) -> Array:
        """The flags of each pack that is known, told from its place in the listing; what is lost is a problem."""
        states = np.zeros(len(table), np.uint8)
        states[self._naming.packs] = Flag.NAMED
        present = where >= 0
        states[present] |= Flag.PRESENT
        states[present & (states & Flag.NAMED == 0)] |= Flag.LEARNED
        states[list(table.twins())] = Flag.TWIN
        for number in _lost_ones(states):
            ref = table[int(number)]
            if ref not in self._marked:
                there = listing.get(ref)
                self._problems.append(_lost(ref, int(table.sizes[number]), there))
                if there is None:
                    self._missing.append(ref)
        return states

    def _learn(self, table: PackTable, states: Array, where: Array, listing: Listing) -> list[RunSegment]:
        """The packs that are listed and not known, read from themselves. Those of another size than named are lost."""
        open_ = np.ones(len(listing), bool)
        open_[where[where >= 0]] = False
        other = listing.match(PackTable.of(list(table.refs(_lost_ones(states)))), sized=False)
        open_[other[other >= 0]] = False
        open_[list(listing.twins())] = False  # a store may tell a name twice
        unknown = [number for number in np.flatnonzero(open_) if not _knows(table, listing, int(number))]
        if not unknown:
            return []
        lock = threading.Lock()
        problems: list[Problem] = []

        def fill(builder: RunBuilder) -> None:
            problems.clear()

            def read(number: int) -> None:
                pack = listing[number]
                try:
                    directory = fetch_directory(self._repository, pack, int(listing.sizes[number]))
                    with lock:
                        builder.add(directory)
                except (Damaged, ObjectMissing) as error:
                    problems.append(Problem(pack.name, str(error)))

            each(read, map(int, unknown), workers=DEFAULT_WORKERS)

        stored = self._cache.build(fill)
        self._problems.extend(problems)
        if not stored.run.packs:
            return []
        self._changed = True
        return [RunSegment(stored, bytearray([Flag.PRESENT | Flag.LEARNED]) * stored.run.packs)]


def _lost_ones(states: Array) -> Array:
    return np.flatnonzero(states & (Flag.NAMED | Flag.PRESENT | Flag.TWIN) == Flag.NAMED)


def _needed_objects(naming: Naming, packs: int) -> set[int]:
    """The places of those that are, for some pack, the largest that names it.

    The order is total, so that what two machines find redundant at the same time is never all that names a pack.
    """
    order = sorted(range(len(naming.objects)), key=lambda place: (naming.objects[place][1], naming.objects[place][0]))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    best = np.full(packs, -1, np.int64)
    np.maximum.at(best, naming.packs, ranks[naming.by])
    return set(naming.by[ranks[naming.by] == best[naming.packs]].tolist())


def _knows(table: PackTable, listing: Listing, number: int) -> bool:
    return any(table.sizes[known] == listing.sizes[number] for known in table.numbers(listing[number]))


def _take(directories: Iterator[Directory], builder: RunBuilder, known: PackTable) -> tuple[int, Array]:
    """Adds what an index object names and is not known; the number of its rows, and those of its packs.

    Packs are numbered on from those that are known. An object that turns out to be damaged names nothing.
    """
    rows, named = 0, [np.empty(0, np.int64)]
    while batch := list(islice(directories, _BATCH)):
        packs = PackTable.of([one.pack for one in batch], [one.size for one in batch])
        numbers = known.match(packs, sized=True)
        for place, directory in enumerate(batch):
            rows += len(directory)
            if numbers[place] < 0:
                numbers[place] = len(known) + builder.packs
                builder.add(directory)
        named.append(numbers)
    return rows, np.concatenate(named)


def _noted_damage(repository: Repository, problems: list[Problem]) -> dict[ObjectRef, frozenset[int]]:
    bad: dict[ObjectRef, frozenset[int]] = {}
    for listed in repository.store.list(Kind.DAMAGE.prefix):
        ref = parse_name(listed.name)
        try:
            for pack, ordinal in decode_damage(repository.get_object(ref)) if ref else ():
                bad[pack] = bad.get(pack, frozenset()) | {ordinal}
        except (Damaged, ObjectMissing) as error:
            problems.append(Problem(listed.name, str(error)))
    return bad


def _lost(pack: ObjectRef, size: int, listed_size: int | None) -> Problem:
    if listed_size is None:
        return Problem(pack.name, _("{name} is missing from the store").format(name=pack.name))
    return Problem(
        pack.name,
        _("{name} is {listed} bytes long instead of {size}").format(name=pack.name, listed=listed_size, size=size),
    )
