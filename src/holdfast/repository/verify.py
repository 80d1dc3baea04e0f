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
from holdfast.repository.index import Index
from holdfast.repository.index_loading import load_index
from holdfast.repository.keyring import key_problems
from holdfast.repository.leases import decode_renewal
from holdfast.repository.marks import decode_mark
from holdfast.repository.objects import REPOSITORY_OBJECT, Kind, ObjectRef, parse_name
from holdfast.repository.packing import Directory, Location, directory_span, read_directory, read_part, trailer_span
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.repository import DEFAULT_WORKERS, Problem, Records, Repository
from holdfast.repository.sealing import HEAD
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.trees import Content, content_nodes, load_content
from holdfast.repository.versions import decode_writer
from holdfast.store.port import Listed


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
    index = loaded.index
    problems = [*_about_keys(repository, records), *records.problems, *loaded.problems, *records.missing]
    problems += _about_signals(repository)
    packs = _Packs(repository, progress)
    if not quick:
        each(packs.check, index.directories(), workers=workers)
        problems.extend(_note_damage(repository, index, packs.bad))
    state = _State(index, packs.bad, quick=quick)
    found, mended = state.judge(packs)
    snapshots = [snapshot for snapshot in records.snapshots if only(snapshot)]
    resolver = _Resolver(SnapshotReader(repository, loaded=loaded), index, state)
    touched = resolver.resolve(snapshots)
    return Verification(
        snapshots=len(snapshots),
        objects=index.pack_count + len(records.snapshots),
        read=packs.read,
        problems=tuple(sorted({*problems, *found}, key=lambda problem: (problem.name, problem.what))),
        mended=mended,
        touched=touched,
        unneeded=index.pack_count - resolver.used_packs if len(snapshots) == len(records.snapshots) else 0,
    )


def _about_keys(repository: Repository, records: Records) -> Iterator[Problem]:
    """The plain objects: a repository that opens with one secret may have lost the others."""
    try:
        repository.store.get(REPOSITORY_OBJECT)
    except ObjectMissing as error:
        yield Problem(REPOSITORY_OBJECT, str(error))
    yield from key_problems(repository, [snapshot.keys for snapshot in records.snapshots])


def _about_signals(repository: Repository) -> Iterator[Problem]:
    """Marks, leases and demands of a version. What cannot be unsealed was forged, or is damaged."""
    ignored = _("{name} is not of this repository, or damaged: it is ignored")
    unknown = _("{name} is not of this repository, or damaged: who is at work there is not known")
    decoders: tuple[tuple[Kind, Callable[[bytes], object], str], ...] = (
        (Kind.MARK, decode_mark, ignored),
        (Kind.LEASE, decode_renewal, unknown),
        (Kind.WRITERS, decode_writer, ignored),
    )
    for kind, decode, what in decoders:
        for listed in repository.store.list(kind.prefix):
            problem = _about_signal(repository, listed, decode, what)
            if problem is not None:
                yield problem


def _about_signal(
    repository: Repository, listed: Listed, decode: Callable[[bytes], object], what: str
) -> Problem | None:
    try:
        plain = repository.get_listed(listed)
    except ObjectMissing:
        return None  # a lease that was renewed, a mark whose packs are gone
    except Damaged as error:
        strange = parse_name(listed.name) is None
        return Problem(listed.name, str(error) if strange else what.format(name=listed.name))
    try:
        decode(plain)
    except Damaged as error:
        text = _("{name} is sealed and not understood ({why}): a newer version may have written it")
        return Problem(listed.name, text.format(name=listed.name, why=error))
    return None


def _note_damage(repository: Repository, index: Index, bad: dict[BadPart, str]) -> Iterator[Problem]:
    """A problem only if the note could not be made."""
    new = {(pack, ordinal) for pack, ordinal in bad if ordinal not in index.noted.get(pack, ())}
    if not new:
        return
    try:
        repository.put_object(Kind.DAMAGE, encode_damage(sorted(new, key=lambda part: (part[0].id, part[1]))))
    except (NoSpace, PermissionRefused, StoreUnreachable) as error:
        text = _("the damage could not be noted, so the next backup may reuse what is damaged: {why}")
        yield Problem(Kind.DAMAGE.prefix, text.format(why=error))


class _State:
    """Which places of chunks are whole, as far as was looked."""

    def __init__(self, index: Index, bad: dict[BadPart, str], *, quick: bool) -> None:
        self._index = index
        self._bad = bad
        self._quick = quick

    def places(self, chunk_id: ChunkId) -> Iterator[tuple[Location, str]]:
        """Each place of a chunk, and what is wrong with it, if anything."""
        for place in self._index.places(chunk_id):
            noted = self._quick and place.ordinal in self._index.noted.get(place.pack, ())
            why = _("{name} is damaged").format(name=place.pack.name) if noted else ""
            yield place, why or self._bad.get((place.pack, place.ordinal), "")

    def judge(self, packs: _Packs) -> tuple[list[Problem], tuple[Problem, ...]]:
        """Damaged packs: those that are a loss, and those whose chunks are all whole elsewhere."""
        problems = list(packs.problems)
        mended: list[Problem] = []
        for ref, what in packs.damaged.items():
            parts = self._index.directory(ref).parts
            ordinals = [ordinal for pack, ordinal in self._bad if pack == ref]
            whole = all(any(not why for _place, why in self.places(parts[ordinal].id)) for ordinal in ordinals)
            (mended if whole else problems).append(Problem(ref.name, what))
        return problems, tuple(mended)


class _Packs:
    """Reads packs back whole, from many threads."""

    def __init__(self, repository: Repository, progress: Callable[[int], None]) -> None:
        self._repository = repository
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
            return self._report(ref, str(error), range(len(directory)))
        bad = [
            ordinal
            for ordinal, part in enumerate(directory.parts)
            if not self._whole(Location(ref, ordinal, part), data[part.offset :][: part.sealed_length])
        ]
        if bad:
            self._report(ref, _("{name} is damaged: {n} of {all} chunks in it cannot be read").format(
                name=ref.name, n=len(bad), all=len(directory)), bad)  # fmt: skip
        else:
            self._check_frame(directory, data)
        with self._lock:
            self.read += len(data)
        self._progress(len(data))
        return None

    def _whole(self, place: Location, sealed: memoryview) -> bool:
        try:
            read_part(self._repository.cipher(place.pack), place, sealed, self._repository.ids)
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
    """Resolves every reference of snapshots; what was found whole once is not looked at again.

    What is remembered is a bit a row of the index, and a byte a pack.
    """

    def __init__(self, reader: SnapshotReader, index: Index, state: _State) -> None:
        self._reader = reader
        self._index = index
        self._state = state
        self._whole = bytearray(index.rows // 8 + 1)
        self._used = bytearray(index.packs)

    @property
    def used_packs(self) -> int:
        return sum(self._used)

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
            self._need_chunk(node.id)
        for row in load_content(content, self._reader.load):
            self._need_chunk(row.id)

    def _need_chunk(self, chunk_id: ChunkId) -> None:
        last = ""
        for place, why in self._state.places(chunk_id):
            number = self._index.row_number(place)
            byte, bit = number >> 3, 1 << (number & 7)
            if self._whole[byte] & bit:
                return
            self._used[self._index.pack_number(place.pack)] = 1
            if not why:
                self._whole[byte] |= bit
                return
            last = why
        raise Damaged(last) if last else self._reader.absent(chunk_id)
