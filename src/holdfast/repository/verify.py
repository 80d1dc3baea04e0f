"""Verifying: is every byte that a snapshot needs still what was written?

*Whole*: every object is read back and authenticated, every chunk's id computed again, every reference resolved.
*Quick*: the packs are only listed, beside the index; records and trees are read, and every reference resolved.
Damage is reported by object, and by the snapshots and files that it touches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from holdfast.errors import Damaged, NoSpace, ObjectMissing, PermissionRefused, StoreUnreachable
from holdfast.messages import _
from holdfast.repository.crew import each
from holdfast.repository.damage import BadPart, encode_damage
from holdfast.repository.ids import ChunkId
from holdfast.repository.index import Location
from holdfast.repository.index_loading import LoadedIndex, load_index
from holdfast.repository.keys import key_digests
from holdfast.repository.objects import REPOSITORY_OBJECT, Kind, ObjectRef
from holdfast.repository.packing import Directory, directory_span, read_directory, read_part, trailer_span
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.repository import DEFAULT_WORKERS, Problem, Records, Repository
from holdfast.repository.sealing import HEAD
from holdfast.repository.snapshots import Snapshot, missing
from holdfast.repository.trees import Content, content_nodes, load_content


@dataclass(frozen=True, slots=True)
class Touched:
    """A file of a snapshot that cannot be restored, and why."""

    snapshot: Snapshot
    path: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    snapshots: int
    objects: int
    """Objects read or, when quick, listed."""
    read: int
    """Bytes read back from the store."""
    problems: tuple[Problem, ...]
    mended: tuple[Problem, ...]
    """Damaged packs whose every chunk is whole in another pack: nothing is lost."""
    touched: tuple[Touched, ...]
    unneeded: int
    """Packs that no snapshot needs: what an interrupted backup uploaded, or what a lost record named."""

    @property
    def good(self) -> bool:
        return not self.problems and not self.touched


def verify_repository(
    repository: Repository,
    *,
    quick: bool = False,
    only: Callable[[Snapshot], bool] = lambda _snapshot: True,
    progress: Callable[[int], None] = lambda _size: None,
    workers: int = DEFAULT_WORKERS,
) -> Verification:
    """``progress`` hears the bytes of each pack when done; ``only`` chooses the snapshots whose files are resolved.

    Damage that was not known is noted in the repository, so that the next backup does not reuse it.
    """
    records = repository.records()
    loaded = load_index(repository)
    problems = [*_about_keys(repository, records), *records.problems, *loaded.problems, *_gone(records)]
    packs = _Packs(repository, loaded, progress)
    if not quick:
        each(packs.check, loaded.present.packs.values(), workers=workers)
        problems.extend(_note_damage(repository, loaded, packs.bad))
    state = _State(loaded, packs.bad, quick=quick)
    found, mended = state.judge(packs)
    snapshots = [snapshot for snapshot in records.snapshots if only(snapshot)]
    resolver = _Resolver(SnapshotReader(repository, loaded=loaded), state)
    touched = resolver.resolve(snapshots)
    return Verification(
        snapshots=len(snapshots),
        objects=len(loaded.present.packs) + len(records.snapshots),
        read=packs.read,
        problems=tuple(sorted({*problems, *found}, key=lambda problem: (problem.name, problem.what))),
        mended=mended,
        touched=touched,
        unneeded=len(loaded.present.packs.keys() - resolver.used) if len(snapshots) == len(records.snapshots) else 0,
    )


def _gone(records: Records) -> Iterator[Problem]:
    unreadable = {problem.name for problem in records.problems}
    for snapshot_id in missing(records.snapshots):
        name = f"{Kind.SNAPSHOT.prefix}{snapshot_id}"
        if name not in unreadable:
            yield Problem(name, _("snapshot {id} is gone, and nobody removed it").format(id=snapshot_id[:12]))


def _about_keys(repository: Repository, records: Records) -> Iterator[Problem]:
    """The plain objects: a repository that opens with one secret may have lost the others."""
    try:
        repository.store.get(REPOSITORY_OBJECT)
    except ObjectMissing as error:
        yield Problem(REPOSITORY_OBJECT, str(error))
    now = key_digests(repository.store)
    then = records.snapshots[-1].keys if records.snapshots else {}
    for name in sorted({*then, *repository.damaged_keys}):
        if name not in now:
            yield Problem(name, _("key object {name} is missing: its secret opens nothing").format(name=name))
        elif now[name] != then.get(name):
            yield Problem(name, _("key object {name} is damaged: its secret opens nothing").format(name=name))


def _note_damage(repository: Repository, loaded: LoadedIndex, bad: dict[BadPart, str]) -> Iterator[Problem]:
    """A problem only if the note could not be made."""
    known = {
        (pack, place.ordinal)
        for pack, directory in loaded.damaged.packs.items()
        for part in directory.parts
        for place in loaded.damaged.places(part.id)
        if place.pack == pack
    }
    new = bad.keys() - known
    if not new:
        return
    try:
        repository.put_object(Kind.DAMAGE, encode_damage(sorted(new, key=lambda part: (part[0].id, part[1]))))
    except (NoSpace, PermissionRefused, StoreUnreachable) as error:
        text = _("the damage could not be noted, so the next backup may reuse what is damaged: {why}")
        yield Problem(Kind.DAMAGE.prefix, text.format(why=error))


class _State:
    """Which places of chunks are whole, as far as was looked."""

    def __init__(self, loaded: LoadedIndex, bad: dict[BadPart, str], *, quick: bool) -> None:
        self._loaded = loaded
        self._bad = bad
        self._quick = quick

    def places(self, chunk_id: ChunkId) -> Iterator[tuple[Location, str]]:
        """Each place of a chunk, and what is wrong with it, if anything."""
        for place in self._loaded.present.places(chunk_id):
            yield place, self._bad.get((place.pack, place.ordinal), "")
        for place in self._loaded.damaged.places(chunk_id):
            why = _("{name} is damaged").format(name=place.pack.name) if self._quick else ""
            yield place, why or self._bad.get((place.pack, place.ordinal), "")

    def judge(self, packs: _Packs) -> tuple[list[Problem], tuple[Problem, ...]]:
        """Damaged packs: those that are a loss, and those whose chunks are all whole elsewhere."""
        problems = list(packs.problems)
        mended: list[Problem] = []
        for ref, what in packs.damaged.items():
            parts = self._loaded.present.directory(ref).parts
            ordinals = [ordinal for pack, ordinal in self._bad if pack == ref]
            whole = all(any(not why for _place, why in self.places(parts[ordinal].id)) for ordinal in ordinals)
            (mended if whole else problems).append(Problem(ref.name, what))
        return problems, tuple(mended)


class _Packs:
    """Reads packs back whole, from many threads."""

    def __init__(self, repository: Repository, loaded: LoadedIndex, progress: Callable[[int], None]) -> None:
        self._repository = repository
        self._loaded = loaded
        self._progress = progress
        self._lock = threading.Lock()
        self.bad: dict[BadPart, str] = {}
        """Each part that cannot be read, and why."""
        self.damaged: dict[ObjectRef, str] = {}
        """Each pack with such a part."""
        self.problems: list[Problem] = []
        """Packs whose parts are whole and whose frame is not."""
        self.read = 0

    def check(self, directory: Directory) -> None:
        ref = directory.pack
        try:
            data = memoryview(self._repository.store.get(ref.name))
        except ObjectMissing as error:
            return self._report(ref, str(error), range(len(directory.parts)))
        bad = [
            ordinal
            for ordinal, part in enumerate(directory.parts)
            if not self._whole(ref, directory, ordinal, data[part.offset :][: part.sealed_length])
        ]
        if bad:
            self._report(ref, _("{name} is damaged: {n} of {all} chunks in it cannot be read").format(
                name=ref.name, n=len(bad), all=len(directory.parts)), bad)  # fmt: skip
        else:
            self._check_frame(directory, data)
        with self._lock:
            self.read += len(data)
        self._progress(len(data))
        return None

    def _whole(self, ref: ObjectRef, directory: Directory, ordinal: int, sealed: memoryview) -> bool:
        try:
            read_part(self._repository.cipher(ref), directory.parts[ordinal], ordinal, sealed, self._repository.ids)
        except Damaged:
            return False
        return True

    def _check_frame(self, directory: Directory, data: memoryview) -> None:
        """Head, trailer and the pack's own directory, which must say what the index says."""
        ref = directory.pack
        try:
            self._repository.cipher(ref).check_head(data[: HEAD.size])
            at, length = trailer_span(len(data))
            start, size = directory_span(len(data), bytes(data[at : at + length]))
            own = read_directory(self._repository.master, ref, len(data), data[start : start + size])
            if own != directory:
                raise Damaged(_("{name} holds other chunks than the index says").format(name=ref.name))
        except Damaged as error:
            self._report(ref, str(error), ())

    def _report(self, ref: ObjectRef, what: str, ordinals: Iterable[int]) -> None:
        with self._lock:
            found = {(ref, ordinal): what for ordinal in ordinals}
            self.bad.update(found)
            if found:
                self.damaged[ref] = what
            else:
                self.problems.append(Problem(ref.name, what))


class _Resolver:
    """Resolves every reference of snapshots; what was found whole once is not looked at again."""

    def __init__(self, reader: SnapshotReader, state: _State) -> None:
        self._reader = reader
        self._state = state
        self._whole: set[ChunkId] = set()
        self.used: set[ObjectRef] = set()

    def resolve(self, snapshots: Iterable[Snapshot]) -> tuple[Touched, ...]:
        touched: list[Touched] = []
        for snapshot in snapshots:
            try:
                self._need(snapshot.tree)
                for stored in self._reader.entries(snapshot):
                    try:
                        self._need(stored.content)
                    except Damaged as error:
                        touched.append(Touched(snapshot, stored.entry.path, str(error)))
            except Damaged as error:
                touched.append(Touched(snapshot, "", str(error)))
        return tuple(touched)

    def _need(self, content: Content) -> None:
        for node in content_nodes(content, self._reader.load):
            self._need_chunk(node)
        for row in load_content(content, self._reader.load):
            self._need_chunk(row.id)

    def _need_chunk(self, chunk_id: ChunkId) -> None:
        if chunk_id in self._whole:
            return
        last = ""
        for place, why in self._state.places(chunk_id):
            self.used.add(place.pack)
            if not why:
                self._whole.add(chunk_id)
                return
            last = why
        raise Damaged(last) if last else self._reader.absent(chunk_id)
