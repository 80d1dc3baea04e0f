"""Chunks into packs, packs into the store, directories into the index: what one writer stores, and what it reuses.

A chunk is stored unless the index has it in a pack that is listed, unmarked and not known to be damaged there, or
unless this writer has stored it. Data is stored from many threads, list nodes and leaves by the feeding thread alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from holdfast.errors import Damaged, TryLater
from holdfast.messages import _
from holdfast.repository.chunking import Slab
from holdfast.repository.hints import Places, attach
from holdfast.repository.ids import ChunkId
from holdfast.repository.index import INDEX_PARTS, encode_index
from holdfast.repository.index_loading import LoadedIndex
from holdfast.repository.objects import Kind, ObjectRef
from holdfast.repository.packing import Directory, Location, PackBuilder, read_part
from holdfast.repository.repository import Repository
from holdfast.repository.trees import Row

INDEX_EVERY_SECONDS = 30.0


class Packs:
    def __init__(self, repository: Repository, loaded: LoadedIndex) -> None:
        self._repository = repository
        self._index = loaded.index
        self._new: dict[ChunkId, Location | None] = {}
        """Chunks of packs that are not in the index yet; no place while one is being sealed."""
        self._open: list[PackBuilder] = []
        self._meta: PackBuilder | None = None
        self._unindexed: list[Directory] = []
        self._indexed_at = repository.clock.monotonic()
        self.saved: set[ObjectRef] = set()
        """Packs that nothing of this writer's needs any more: what it used of them was copied out."""
        self._lock = threading.Lock()
        self.uploaded = 0
        """Bytes of packs that are in the store."""
        self.added_content = 0
        self.added_stored = 0
        self._write_index(loaded.learned)

    def store_pieces(self, slab: Slab) -> list[Row]:
        builder: PackBuilder | None = None
        rows = []
        for piece in slab.pieces:
            content = slab.content(piece)
            chunk_id = self._repository.ids.chunk_id(content)
            mine, place = self._claim(chunk_id, piece.length)
            if mine:
                builder = builder or self._borrow()
                place = self._new[chunk_id] = builder.add(chunk_id, content)
                if builder.full:
                    self._put(builder)
                    builder = None
            rows.append(Row(chunk_id, piece.length, place))
        if builder is not None:
            with self._lock:
                self._open.append(builder)
        return rows

    def store_node(self, named: bytes, places: Places, covers: int) -> Row:
        """A list node or a leaf. For the feeding thread alone."""
        chunk_id = self._repository.ids.list_id(named)
        mine, place = self._claim(chunk_id, 0)
        if mine:
            place = self._add_node(chunk_id, attach(named, places))
        return Row(chunk_id, covers, place)

    def flush(self) -> None:
        """Puts every pack that is still open, then the index: after it, all that was stored is durable and found."""
        with self._lock:
            unfinished, self._open = self._open, []
        unfinished += [self._meta] if self._meta else []
        self._meta = None
        for builder in unfinished:
            self._put(builder)
        with self._lock:
            self._index_what_is_new()

    def save(self, marked: Iterable[ObjectRef]) -> bool:
        """Copies what this writer uses of ``marked`` packs to new ones; whether there was anything to copy.

        For the feeding thread. Raises ``TryLater`` if a pack is gone already.
        """
        self._index.mark(marked)
        endangered = [pack for pack in self._index.used(marked) if pack not in self.saved]
        for pack in endangered:
            self._copy_out(self._index.directory(pack))
            self.saved.add(pack)
        if endangered:
            self.flush()
        return bool(endangered)

    def _copy_out(self, directory: Directory) -> None:
        pack, cipher = directory.pack, self._repository.cipher(directory.pack)
        try:
            data = memoryview(self._repository.store.get(pack.name))
            for ordinal, part in enumerate(directory.parts):
                mine, _place = self._claim(part.id, 0)
                if not mine:
                    continue
                sealed = data[part.offset : part.offset + part.sealed_length]
                content = read_part(cipher, Location(pack, ordinal, part), sealed, self._repository.ids)
                if pack.kind is Kind.META:
                    self._add_node(part.id, content)
                    continue
                builder = self._borrow()
                builder.add(part.id, content)
                if builder.full:
                    self._put(builder)
                else:
                    with self._lock:
                        self._open.append(builder)
        except Damaged as error:
            raise TryLater(
                _("what this snapshot needs of {name}, which prune is about to delete, cannot be copied: {why}").format(
                    name=pack.name, why=error
                ),
                hint=_("Run the same command again: it stores that content anew."),
            ) from error

    def _claim(self, chunk_id: ChunkId, length: int) -> tuple[bool, Location | None]:
        """Whether the caller is the one to store this chunk; if not, where it lies, if that is known yet."""
        place = self._index.reuse(chunk_id)
        if place is not None:
            return False, place
        with self._lock:
            if chunk_id in self._new:
                return False, self._new[chunk_id]
            place = self._index.reuse(chunk_id)  # again: its pack may have been put since
            if place is not None:
                return False, place
            self._new[chunk_id] = None
            self.added_content += length
            return True, None

    def _borrow(self) -> PackBuilder:
        with self._lock:
            if self._open:
                return self._open.pop()
        return PackBuilder(self._repository.master, Kind.DATA)

    def _add_node(self, chunk_id: ChunkId, content: bytes) -> Location:
        self._meta = self._meta or PackBuilder(self._repository.master, Kind.META)
        place = self._new[chunk_id] = self._meta.add(chunk_id, content)  # until its pack is put, which may be now
        if self._meta.full:
            full, self._meta = self._meta, None
            self._put(full)
        return place

    def _put(self, builder: PackBuilder) -> None:
        data, directory = builder.finish()
        self._repository.store.put(directory.pack.name, data)
        now = self._repository.clock.monotonic()
        with self._lock:
            self._index.add(directory)
            for part in directory.parts:
                self._new.pop(part.id, None)
            self.uploaded += directory.size
            self.added_stored += directory.size if directory.pack.kind is Kind.DATA else 0
            self._unindexed.append(directory)
            if now - self._indexed_at >= INDEX_EVERY_SECONDS:
                self._index_what_is_new()
                self._indexed_at = now

    def _index_what_is_new(self) -> None:
        new, self._unindexed = self._unindexed, []
        self._write_index(new)

    def _write_index(self, directories: Iterable[Directory]) -> None:
        """As many objects as it takes, so that none outgrows what readers accept."""
        some: list[Directory] = []
        parts = 0
        for directory in directories:
            some.append(directory)
            parts += len(directory)
            if parts >= INDEX_PARTS:
                self._put_index(some)
                some, parts = [], 0
        if some:
            self._put_index(some)

    def _put_index(self, directories: list[Directory]) -> None:
        self._index.named(self._repository.put_object(Kind.INDEX, encode_index(directories)), directories)
