"""Prune, exactly as the rules have it: mark what nothing needs, and a day later delete what still nothing needs.

It is never right to delete on the strength of one look, or of one clock:

- Only the store's time counts, told by the listing of what was just written. Where this machine's clock is five
  minutes off, nothing is done: one of the two is wrong.
- Each look at the snapshots and at the marks is two listings, and what either shows is there.
- What cannot be read stops everything: a record, a removal, a live lease, a sealed mark. A mark that cannot be
  unsealed is nobody's word, and deletes nothing.
- A chunk counts as kept elsewhere only in a pack that is listed, unmarked, and not known to be damaged in that part.
- Marks are never taken back: what became needed again is copied to a new pack first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from holdfast.errors import Damaged, ObjectMissing, Refused
from holdfast.repository.damage import BadPart, decode_damage
from holdfast.repository.ids import ChunkId
from holdfast.repository.index import INDEX_PARTS, Index, decode_index, encode_index
from holdfast.repository.index_loading import LoadedIndex, load_index
from holdfast.repository.leases import DEAD_AFTER, Renewal, decode_renewal, leases, oldest_beginning
from holdfast.repository.marks import DELETED_AFTER, decode_mark, encode_mark
from holdfast.repository.objects import PACK_KINDS, Kind, ObjectRef, parse_name
from holdfast.repository.packing import Directory, Location, PackBuilder, Part, read_part
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.repository import Repository
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.trees import content_nodes, load_content, load_tree
from holdfast.repository.watch import Lease
from holdfast.store.port import Listed

T = TypeVar("T")

CLOCKS_DIFFER = timedelta(minutes=5)
YOUNG = timedelta(hours=24)
REPACK_BELOW = 0.5
"""A pack of whose bytes less than this is needed is written anew."""
_LOOKS = 3
_ROWS = 100_000
"""Packs named by one mark, at most."""


@dataclass(frozen=True, slots=True)
class Mark:
    ref: ObjectRef
    written: datetime
    """By the store."""
    packs: frozenset[ObjectRef]


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    packs: frozenset[ObjectRef]
    repacked: int
    """Of them, packs whose needed parts were copied first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    deleted: frozenset[ObjectRef]
    copied: int
    """Chunks that had become needed again."""
    marks: int
    """Mark objects that were removed, with all that they named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What one look shows; each part was read after those above it."""

    now: datetime
    """By the store, before anything else was read."""
    began: datetime
    """Since when somebody has been at work who still lives."""
    marks: tuple[Mark, ...]
    loaded: LoadedIndex
    written: Mapping[ObjectRef, datetime]
    """Packs in the store, and since when."""
    damaged: AbstractSet[BadPart]
    needed: AbstractSet[ChunkId]

    @property
    def marked(self) -> frozenset[ObjectRef]:
        return frozenset[ObjectRef]().union(*(mark.packs for mark in self.marks))


def mark_unneeded(repository: Repository, *, host: str = "", repack_below: float = REPACK_BELOW) -> Marked:
    """Marks what no snapshot needs; packs that are needed in small part are written anew, and marked.

    Raises ``Refused`` when anything is not as it should be.
    """
    with Lease(repository, work="prune", host=host) as lease:
        view = _look(repository, lease)
        directories = [one for one in view.loaded.index.directories() if _markable(one.pack, view)]
        directories.sort(key=lambda directory: (view.written[directory.pack], directory.pack.id))
        copies = _Copies(repository, view.loaded.index)
        leaving: set[ObjectRef] = set(view.marked)
        chosen: set[ObjectRef] = set()
        repacked: set[ObjectRef] = set()
        for directory in directories:
            only_here = _needed_of(directory, view, leaving)
            cost = sum(place.part.sealed_length for place in only_here)
            if only_here and (cost >= repack_below * directory.size or not copies.take(directory.pack, only_here)):
                continue
            leaving.add(directory.pack)
            chosen.add(directory.pack)
            repacked |= {directory.pack} if only_here else set()
        copies.finish()
        rows = sorted(chosen, key=lambda pack: pack.name)
        for start in range(0, len(rows), _ROWS):
            repository.put_object(Kind.MARK, encode_mark(rows[start : start + _ROWS]))
        return Marked(packs=frozenset(chosen), repacked=len(repacked))


def sweep(repository: Repository, *, host: str = "") -> Swept:
    """Deletes what was marked long enough ago and what nothing needs; raises ``Refused`` as marking does.

    Interrupted anywhere, it is done again: the mark goes last, after every pack that it names.
    """
    with Lease(repository, work="prune", host=host) as lease:
        view = _look(repository, lease)
        due = [mark for mark in view.marks if view.now - mark.written >= DELETED_AFTER]
        named = frozenset[ObjectRef]().union(*(mark.packs for mark in due))
        doomed: set[ObjectRef] = set()
        copies = _Copies(repository, view.loaded.index)
        for directory in view.loaded.index.directories():
            if directory.pack not in named:
                continue
            if copies.take(directory.pack, _needed_of(directory, view, view.marked)):
                doomed.add(directory.pack)
        copies.finish()
        _forget(repository, doomed, view.written)
        for pack in sorted(doomed, key=lambda pack: pack.name):
            repository.store.delete(pack.name)
        removed = 0
        for mark in due:
            if all(pack in doomed or _is_gone(repository, pack) for pack in mark.packs):
                repository.store.delete(mark.ref.name)
                removed += 1
        return Swept(deleted=frozenset(doomed), copied=copies.count, marks=removed)


def _look(repository: Repository, lease: Lease) -> _View:
    """The order is the argument: an age that is long enough now is so for all that is read afterwards."""
    began = repository.clock.now()
    lease.renew()
    now = lease.renewed
    assert now is not None
    if not began - CLOCKS_DIFFER <= now <= repository.clock.now() + CLOCKS_DIFFER:
        raise Refused(f"the clocks of this machine and of {repository.url} differ: {began} here, {now} there")
    alive = _oldest_live(repository, now)
    marks = _marks(repository)
    snapshots = _snapshots(repository)
    loaded = load_index(repository)
    written = {
        ref: item.modified
        for kind in PACK_KINDS
        for item in repository.store.list(kind.prefix)
        if (ref := parse_name(item.name)) is not None
    }
    return _View(
        now=now,
        began=min(alive or now, now),
        marks=marks,
        loaded=loaded,
        written=written,
        damaged=_known_damage(repository),
        needed=_needed(repository, snapshots, loaded),
    )


def _markable(pack: ObjectRef, view: _View) -> bool:
    written = view.written.get(pack)
    return written is not None and view.now - written >= YOUNG and written < view.began and pack not in view.marked


def _needed_of(directory: Directory, view: _View, leaving: AbstractSet[ObjectRef]) -> list[Location]:
    """What of a pack is needed and would be nowhere else, if it and those of ``leaving`` went."""

    def kept(chunk_id: ChunkId) -> bool:
        return any(
            place.pack != directory.pack and place.pack not in leaving and place[:2] not in view.damaged
            for place in view.loaded.index.places(chunk_id)
        )

    return [
        Location(directory.pack, ordinal, part)
        for ordinal, part in enumerate(directory.parts)
        if part.id in view.needed and not kept(part.id)
    ]


class _Copies:
    """Parts of packs that are to go, on their way to new packs, which are indexed before anything is deleted."""

    def __init__(self, repository: Repository, index: Index) -> None:
        self._repository, self._index = repository, index
        self._builders: dict[Kind, PackBuilder] = {}
        self._new: list[Directory] = []
        self._taken: set[ChunkId] = set()
        self.count = 0

    def take(self, pack: ObjectRef, places: Iterable[Location]) -> bool:
        """Whether all of ``places`` could be read: if not, their pack must stay."""
        cipher, store = self._repository.cipher(pack), self._repository.store
        contents: list[tuple[Part, bytes]] = []
        try:
            for place in places:
                part = place.part
                if part.id not in self._taken:
                    sealed = store.get(pack.name, part.offset, part.sealed_length)
                    contents.append((part, read_part(cipher, place, sealed, self._repository.ids)))
        except Damaged:
            return False
        for part, content in contents:
            if part.id in self._taken:
                continue  # twice in one pack
            builder = self._builders.setdefault(pack.kind, PackBuilder(self._repository.master, pack.kind))
            builder.add(part.id, content)
            self._taken.add(part.id)
            self.count += 1
            if builder.full:
                self._put(self._builders.pop(pack.kind))
        return True

    def finish(self) -> None:
        for builder in self._builders.values():
            self._put(builder)
        self._builders.clear()
        for some in _by_rows(self._new):
            self._repository.put_object(Kind.INDEX, encode_index(some))
        self._new.clear()

    def _put(self, builder: PackBuilder) -> None:
        data, directory = builder.finish()
        self._repository.store.put(directory.pack.name, data)
        self._index.add(directory)
        self._new.append(directory)


def _forget(repository: Repository, doomed: AbstractSet[ObjectRef], there: Mapping[ObjectRef, datetime]) -> None:
    """Writes the index objects that name what is about to go anew, without it and without what is gone already."""
    stale: list[str] = []
    remaining: dict[ObjectRef, Directory] = {}
    for listed in _listed(repository, Kind.INDEX):
        ref = parse_name(listed.name)
        try:
            directories = list(decode_index(repository.get_object(ref))) if ref else []
        except Damaged:
            continue  # or merged by another machine since it was listed
        if any(directory.pack in doomed for directory in directories):
            stale.append(listed.name)
            remaining |= {one.pack: one for one in directories if one.pack in there and one.pack not in doomed}
    for some in _by_rows(remaining.values()):
        repository.put_object(Kind.INDEX, encode_index(some))
    for name in stale:
        repository.store.delete(name)


def _by_rows(directories: Iterable[Directory]) -> Iterator[list[Directory]]:
    some: list[Directory] = []
    rows = 0
    for directory in directories:
        some.append(directory)
        rows += len(directory)
        if rows >= INDEX_PARTS:
            yield some
            some, rows = [], 0
    if some:
        yield some


def _is_gone(repository: Repository, pack: ObjectRef) -> bool:
    """A listing may leave something out: only an answer about the object itself counts."""
    try:
        repository.store.get(pack.name, 0, 1)
    except ObjectMissing:
        return True
    return False


def _snapshots(repository: Repository) -> tuple[Snapshot, ...]:
    snapshots: dict[str, Snapshot] = {}
    for _look in range(2):
        records = repository.records()
        for problem in (*records.problems, *records.missing):
            raise Refused(f"prune refuses: {problem.name}: {problem.what}")
        snapshots |= {snapshot.id: snapshot for snapshot in records.snapshots}
    return tuple(snapshots.values())


def _needed(repository: Repository, snapshots: Iterable[Snapshot], loaded: LoadedIndex) -> set[ChunkId]:
    """Every chunk of every snapshot: nodes, leaves and data. The packs were listed after the records."""
    reader = SnapshotReader(repository, loaded=loaded)
    needed: set[ChunkId] = set()
    for snapshot in snapshots:
        try:
            needed.update(_chunks(snapshot, reader))
        except Damaged as error:
            raise Refused(f"prune refuses: snapshot {snapshot.label} cannot be read: {error}") from error
    for chunk_id in needed:
        if next(loaded.index.places(chunk_id), None) is None:
            raise Refused(f"prune refuses: {reader.absent(chunk_id)}")
    return needed


def _chunks(snapshot: Snapshot, reader: SnapshotReader) -> Iterator[ChunkId]:
    tree = snapshot.tree
    contents = [tree, *(stored.content for stored in load_tree(tree, reader.load))]
    for content in contents:
        yield from (row.id for row in content_nodes(content, reader.load))
        yield from (row.id for row in load_content(content, reader.load))


def _marks(repository: Repository) -> tuple[Mark, ...]:
    """Those that can be unsealed. ``Refused`` for one that says what this version does not understand."""
    found: dict[str, Mark] = {}
    for _look in range(2):
        for listed in _listed(repository, Kind.MARK):
            ref = parse_name(listed.name)
            if ref is None:
                continue
            try:
                plain = repository.get_object(ref)
            except Damaged:
                continue  # forged, damaged, or removed meanwhile with all that it named
            found[listed.name] = Mark(ref, listed.modified, _understood(listed.name, decode_mark, plain))
    return tuple(found.values())


def _oldest_live(repository: Repository, now: datetime) -> datetime | None:
    """When the oldest live lease began."""
    for _look in range(_LOOKS):
        try:
            renewals = [
                (_renewal(repository, listed), listed.modified)
                for listed in _listed(repository, Kind.LEASE)
                if now - listed.modified < DEAD_AFTER
            ]
        except ObjectMissing:
            continue  # renewed while we looked: the newer object was not listed yet
        return oldest_beginning(leases(renewals), now)
    raise Refused(f"prune refuses: the leases in {repository.url} change too fast to be read")


def _renewal(repository: Repository, listed: Listed) -> Renewal:
    ref = parse_name(listed.name)
    if ref is None:
        raise Refused(f"prune refuses: {listed.name} has a name that Holdfast does not write")
    try:
        plain = repository.get_object(ref)
    except ObjectMissing:
        raise
    except Damaged as error:
        raise Refused(f"prune refuses: somebody may be at work: {error}") from error
    return _understood(listed.name, decode_renewal, plain)


def _understood(name: str, decode: Callable[[bytes], T], plain: bytes) -> T:
    try:
        return decode(plain)
    except Damaged as error:
        raise Refused(f"prune refuses: {name} is sealed and not understood: {error}") from error


def _known_damage(repository: Repository) -> frozenset[BadPart]:
    bad: set[BadPart] = set()
    for listed in _listed(repository, Kind.DAMAGE):
        ref = parse_name(listed.name)
        if ref is not None:
            try:
                bad |= decode_damage(repository.get_object(ref))
            except Damaged as error:
                raise Refused(f"prune refuses: {error}") from error
    return frozenset(bad)


def _listed(repository: Repository, kind: Kind) -> list[Listed]:
    return list(repository.store.list(kind.prefix))
