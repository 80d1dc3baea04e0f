"""Verifying: is every byte that a snapshot needs still what was written?

*Whole*: every object is read back and authenticated, every chunk's id computed again, every reference resolved.
*Quick*: the packs are only listed, beside the index; records and trees are read, and every reference resolved.
Damage is reported by object, and by the snapshots and files that it touches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from holdfast.errors import Damaged, ObjectMissing
from holdfast.messages import _
from holdfast.repository.crew import each
from holdfast.repository.ids import ChunkId
from holdfast.repository.index_loading import LoadedIndex, load_index
from holdfast.repository.objects import Kind, ObjectRef
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
    touched: tuple[Touched, ...]

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
    """``progress`` hears the bytes of each pack when done; ``only`` chooses the snapshots whose files are resolved."""
    records = repository.records()
    loaded = load_index(repository)
    problems = [
        *(Problem(name, _("key object {name} is damaged").format(name=name)) for name in repository.damaged_keys),
        *records.problems,
        *loaded.problems,
        *_gone(records),
    ]
    packs = _Packs(repository, loaded, progress)
    if not quick:
        each(packs.check, loaded.present.packs.values(), workers=workers)
        problems.extend(packs.problems)
    snapshots = [snapshot for snapshot in records.snapshots if only(snapshot)]
    touched = _Resolver(SnapshotReader(repository, loaded=loaded), packs.bad).resolve(snapshots)
    return Verification(
        snapshots=len(snapshots),
        objects=len(loaded.present.packs) + len(records.snapshots),
        read=packs.read,
        problems=tuple(sorted(set(problems), key=lambda problem: (problem.name, problem.what))),
        touched=touched,
    )


def _gone(records: Records) -> Iterator[Problem]:
    unreadable = {problem.name for problem in records.problems}
    for snapshot_id in missing(records.snapshots):
        name = f"{Kind.SNAPSHOT.prefix}{snapshot_id}"
        if name not in unreadable:
            yield Problem(name, _("snapshot {id} is gone, and nobody removed it").format(id=snapshot_id[:12]))


class _Packs:
    """Reads packs back whole, from many threads."""

    def __init__(self, repository: Repository, loaded: LoadedIndex, progress: Callable[[int], None]) -> None:
        self._repository = repository
        self._loaded = loaded
        self._progress = progress
        self._lock = threading.Lock()
        self.bad: dict[tuple[ObjectRef, int], str] = {}
        """Pack and ordinal of each part that cannot be read, and why."""
        self.problems: list[Problem] = []
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
            self.problems.append(Problem(ref.name, what))
            self.bad.update({(ref, ordinal): what for ordinal in ordinals})


class _Resolver:
    """Resolves every reference of snapshots; what was found whole once is not looked at again."""

    def __init__(self, reader: SnapshotReader, bad: dict[tuple[ObjectRef, int], str]) -> None:
        self._reader = reader
        self._bad = bad
        self._whole: set[ChunkId] = set()

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
        why = ""
        for place in self._reader.loaded.present.places(chunk_id):
            why = self._bad.get((place.pack, place.ordinal), "")
            if not why:
                self._whole.add(chunk_id)
                return
        raise Damaged(why) if why else self._reader.absent(chunk_id)
