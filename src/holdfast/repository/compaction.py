"""Few large index objects instead of many small ones. Needs no lock: at any moment, every pack is named by some object.

What is merged is read, written anew as one, and only then deleted. Whoever dies on the way, or does the same at the
same time, leaves packs that are named twice. A reader that listed the old objects and finds them gone lists again. What
is written names only packs that were listed just now; should prune delete one at that moment, the index names a pack
that is not there, which everybody tells from a listing.

An object that names a pack that is not there stays as it is, unless the pack is marked: it may be the only one that
still says what was lost.

Where nothing may be deleted, nothing is written either. A store with retention refuses only to delete what is there, so
that is found out by writing once: from then on there are objects whose packs are all named by larger ones, and as long
as one of these cannot be deleted, nothing is merged.
"""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.errors import Damaged, PermissionRefused
from holdfast.repository.ids import ObjectId, new_object_id
from holdfast.repository.index import INDEX_PARTS, Index, decode_index, encode_index
from holdfast.repository.index_loading import IndexObject, LoadedIndex, list_packs
from holdfast.repository.objects import Kind, ObjectRef
from holdfast.repository.packing import Directory
from holdfast.repository.repository import Repository

SMALL_OBJECTS = 32
"""So many may be small: each costs a request when the index is read for the first time."""


def compact_index(repository: Repository, loaded: LoadedIndex) -> int:
    """Merges the small index objects if there are many; how many are gone. Raises what the store raises.

    Where the store does not let this writer delete, all stay as they are.
    """
    small = due_for_compaction(loaded.objects)
    redundant = [one.ref for one in small if one.redundant]
    gone = _delete(repository, redundant)
    remaining = [one.ref for one in small if not one.redundant]
    if gone < len(redundant) or len(remaining) < 2 or not (gone or _may_delete(repository)):
        return gone
    merging = _Merging(repository, loaded.index)
    merged = [ref for ref in remaining if merging.take(ref)]
    merging.write()
    return gone + _delete(repository, merged)


def _delete(repository: Repository, refs: Sequence[ObjectRef]) -> int:
    """Until the store refuses; how many are gone."""
    for gone, ref in enumerate(refs):
        try:
            repository.store.delete(ref.name)
        except PermissionRefused:
            return gone
    return len(refs)


def _may_delete(repository: Repository) -> bool:
    """Asked with a name that nothing has, before anything is written."""
    try:
        repository.store.delete(ObjectRef(Kind.INDEX, new_object_id()).name)
    except PermissionRefused:
        return False
    return True


def due_for_compaction(objects: Sequence[IndexObject]) -> list[IndexObject]:
    small = [one for one in objects if one.rows < INDEX_PARTS // 2 and not one.mourns]
    return small if len(small) > SMALL_OBJECTS else []


class _Merging:
    """Takes index objects one by one and writes what they name, each pack once."""

    def __init__(self, repository: Repository, index: Index) -> None:
        self._repository, self._index = repository, index
        self._listing = list_packs(repository)
        self._seen: set[ObjectId] = set()
        self._waiting: list[Directory] = []
        self._rows = 0

    def take(self, ref: ObjectRef) -> bool:
        """False if it stays: another machine has merged it, it is damaged, or it names what is lost."""
        try:
            directories = list(decode_index(self._repository.get_object(ref)))
        except Damaged:
            return False
        there = [one for one in directories if self._listing.get(one.pack) == one.size]
        if len(there) < len(directories) and any(self._mourned(one) for one in directories):
            return False
        for directory in there:
            if directory.pack.id not in self._seen:
                self._seen.add(directory.pack.id)
                self._waiting.append(directory)
                self._rows += len(directory)
                if self._rows >= INDEX_PARTS:
                    self.write()
        return True

    def _mourned(self, directory: Directory) -> bool:
        return self._listing.get(directory.pack) != directory.size and not self._index.marked(directory.pack)

    def write(self) -> None:
        if self._waiting:
            ref = self._repository.put_object(Kind.INDEX, encode_index(self._waiting))
            self._index.named(ref, self._waiting)
        self._waiting, self._rows = [], 0
