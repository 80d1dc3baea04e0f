"""Resolving every reference of snapshots: is each chunk that they need whole somewhere?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from holdfast.errors import Damaged, ObjectMissing
from holdfast.repository.ids import ChunkId
from holdfast.repository.objects import ObjectRef
from holdfast.repository.pack_checks import Wholeness
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.trees import Content, StoredEntry, content_nodes, load_content


@dataclass(frozen=True, slots=True)
class Touched:
    """A file of a snapshot that cannot be restored, and why."""

    snapshot: Snapshot
    path: str
    why: str


class Resolver:
    """What was found whole once is not looked at again; what is remembered is a bit a row of the index."""

    def __init__(self, reader: SnapshotReader, wholeness: Wholeness, beat: Callable[[], None]) -> None:
        """``beat`` is called now and then."""
        self._reader = reader
        self._index = wholeness.index
        self._wholeness = wholeness
        self._beat = beat
        self._whole = bytearray(self._index.rows // 8 + 1)
        self._used = bytearray(self._index.packs)
        self.touched: list[Touched] = []
        self.lost: set[ObjectRef] = set()
        """Packs that are not there and had what is needed and whole nowhere."""
        self.missed: set[tuple[str, str]] = set()
        """Snapshots and paths that are touched because something is not there."""
        self.complete = True
        """Whether all lists could be read: else nobody knows what else is needed."""

    @property
    def used_packs(self) -> int:
        return sum(self._used)

    def resolve(self, snapshots: Iterable[Snapshot]) -> None:
        for snapshot in snapshots:
            if self._touch(snapshot, "", self._first_wrong(snapshot.tree)):
                self.complete = False
                continue
            for stored in self._entries(snapshot):
                self._beat()
                self._touch(snapshot, stored.entry.path, self._first_wrong(stored.content))

    def _entries(self, snapshot: Snapshot) -> Iterator[StoredEntry]:
        try:
            yield from self._reader.entries(snapshot)
        except Damaged as error:
            self.complete = False
            self._touch(snapshot, "", error)

    def _touch(self, snapshot: Snapshot, path: str, error: Damaged | None) -> bool:
        if error is None:
            return False
        if isinstance(error, ObjectMissing):
            self.missed.add((snapshot.id, path))
        self.touched.append(Touched(snapshot, path, str(error)))
        return True

    def _first_wrong(self, content: Content) -> Damaged | None:
        """What is wrong with the first chunk that is not whole; all of them are looked for."""
        first: Damaged | None = None
        try:
            for node in content_nodes(content, self._reader.load):
                error = self._look_for(node.id)
                first = first or error
            for row in load_content(content, self._reader.load):
                error = self._look_for(row.id)
                first = first or error
        except Damaged as unread:
            self.complete = False
            return first or unread
        return first

    def _look_for(self, chunk_id: ChunkId) -> Damaged | None:
        last = ""
        for place, why in self._wholeness.places(chunk_id):
            number = self._index.row_number(place)
            byte, bit = number >> 3, 1 << (number & 7)
            if self._whole[byte] & bit:
                return None
            self._used[self._index.pack_number(place.pack)] = 1
            if not why:
                self._whole[byte] |= bit
                return None
            last = why
        self.lost.update(self._wholeness.lost(chunk_id))
        return Damaged(last) if last else self._reader.absent(chunk_id)
