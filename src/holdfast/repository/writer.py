"""Writing a snapshot: split → seal → pack → put, then the index, then the record.

The thread that feeds cuts content into slabs and keeps the books; workers hash, compress, seal and put, each slab
from beginning to end. All bookkeeping happens in the feeding thread: workers hand results back through a queue.

Crash safety is the order: until ``publish`` a chunk is named only by lists in this writer's memory; ``publish`` waits
for every pack, writes the index, and the record last. Until the record is there, nothing refers to any of it.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType
from typing import Self

from holdfast.entry import Block, Entry
from holdfast.errors import HoldfastError
from holdfast.messages import _
from holdfast.repository.chunking import Piece, Slab, Splitter
from holdfast.repository.crew import Crew
from holdfast.repository.ids import ChunkId
from holdfast.repository.index import encode_index
from holdfast.repository.index_loading import LoadedIndex, load_index
from holdfast.repository.keys import key_digests
from holdfast.repository.objects import Kind
from holdfast.repository.packing import Directory, PackBuilder
from holdfast.repository.repository import DEFAULT_WORKERS, Repository
from holdfast.repository.snapshots import Json, Snapshot, Totals, encode_snapshot, heads
from holdfast.repository.trees import Content, Row, StoredEntry, encode_entry, store_content, store_tree

INDEX_EVERY_SECONDS = 30.0
INDEX_PARTS = 1_000_000
"""Parts at which an index object is closed: 40 MB, far below what readers accept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the record says beside the tree."""

    label: str
    source: str
    source_type: str
    started: datetime
    host: str
    holdfast_version: str
    warnings: tuple[str, ...]
    facts: Json


class _File:
    """A file whose chunks are on their way."""

    __slots__ = ("entry", "missing", "rows")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.rows: dict[int, Row] = {}
        self.missing: int | None = None
        """Pieces whose ids are not back yet; ``None`` while the file is still being read."""


class SnapshotWriter:
    """``with SnapshotWriter(repository) as writer: writer.add(…) …; writer.publish(about)``.

    Leaving the scope without ``publish`` publishes nothing; packs that were put stay, and the next writer reuses them.
    """

    def __init__(self, repository: Repository, *, workers: int = DEFAULT_WORKERS) -> None:
        self._repository = repository
        self._loaded: LoadedIndex = load_index(repository)
        self._packs = _Packs(repository, self._loaded)
        self._results: queue.SimpleQueue[tuple[Slab, list[Row]]] = queue.SimpleQueue()
        self._idle = [Slab() for _number in range(workers + 2)]
        self._crew: Crew[Slab] = Crew(self._work, workers=workers)
        self._splitter = Splitter(self._take_slab, self._crew.submit)
        self._files: deque[_File] = deque()
        self._entries: list[tuple[str, bytes]] = []
        self.published = False
        self._count = Totals(files=0, content=0, chunks=0, added_content=0, added_stored=0)

    def add(self, entry: Entry, blocks: Iterable[Block] = ()) -> None:
        """Takes an entry and reads its content to the end."""
        file = _File(entry)
        self._files.append(file)
        size, pieces = self._splitter.split(file, blocks)
        if size != entry.size:
            raise HoldfastError(
                _("{path} is {entry} bytes long, but {read} bytes came").format(
                    path=entry.path, entry=entry.size, read=size
                )
            )
        file.missing = pieces - len(file.rows)
        self._settle()

    @property
    def uploaded(self) -> int:
        """Bytes of packs that are in the store by now, whatever happens next."""
        return self._packs.uploaded

    def publish(self, about: About) -> Snapshot:
        """Makes the snapshot: everything it needs is durable first. Returns the record."""
        self._splitter.flush()
        self._crew.finish()
        self._drain(wait=False)
        self._settle()
        if self._files:
            raise AssertionError("a file's chunks did not come back")
        self._entries.sort()
        self._refuse_twins()
        tree = store_tree(self._entries, self._packs.store_meta, self._repository.ids)
        self._packs.flush()
        snapshot = self._record(about, tree)
        self.published = True  # from here on the record may be there, whatever happens
        ref = self._repository.put_object(Kind.SNAPSHOT, encode_snapshot(snapshot))
        return replace(snapshot, id=ref.id.hex())

    def _record(self, about: About, tree: Content) -> Snapshot:
        return Snapshot(
            id="",
            label=about.label,
            source=about.source,
            source_type=about.source_type,
            started=about.started,
            ended=self._repository.clock.now(),
            host=about.host,
            holdfast_version=about.holdfast_version,
            tree=tree,
            totals=replace(self._count, added_content=self._packs.added_content, added_stored=self._packs.added_stored),
            predecessors=heads(self._repository.records().snapshots),
            warnings=(*about.warnings, *(problem.what for problem in self._loaded.problems)),
            facts=about.facts,
            keys=key_digests(self._repository.store),
        )

    def _refuse_twins(self) -> None:
        for (path, _encoded), (following, _also) in zip(self._entries, self._entries[1:], strict=False):
            if path == following:
                raise HoldfastError(_("{path} was read twice").format(path=path))

    def _take_slab(self) -> Slab:
        while not self._idle:
            self._drain(wait=True)
        return self._idle.pop()

    def _drain(self, *, wait: bool) -> None:
        while True:
            try:
                slab, rows = self._results.get(timeout=0.1) if wait else self._results.get_nowait()
            except queue.Empty:
                if not wait:
                    return
                self._crew.check()
                continue
            wait = False
            for piece, row in zip(slab.pieces, rows, strict=True):
                file = piece.owner
                assert isinstance(file, _File)
                file.rows[piece.position] = row
                if file.missing is not None:
                    file.missing -= 1
            slab.clear()
            self._idle.append(slab)

    def _settle(self) -> None:
        """Encodes the files whose chunks are all back, in the order in which they came."""
        self._drain(wait=False)
        self._crew.check()
        while self._files and self._files[0].missing == 0:
            file = self._files.popleft()
            rows = [file.rows[position] for position in range(len(file.rows))]
            content = store_content(rows, self._packs.store_meta)
            stored = StoredEntry(file.entry, content)
            self._entries.append((file.entry.path, encode_entry(stored)))
            self._count = replace(
                self._count,
                files=self._count.files + (file.entry.kind == "file"),
                content=self._count.content + content.size,
                chunks=self._count.chunks + len(rows),
            )

    def _work(self, slab: Slab) -> None:
        self._results.put((slab, self._packs.store_pieces(slab)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._crew.stop()


class _Packs:
    """Chunks into packs, packs into the store, directories into the index. Called from all threads."""

    def __init__(self, repository: Repository, loaded: LoadedIndex) -> None:
        self._repository = repository
        self._known = loaded.present
        self._new: set[ChunkId] = set()
        self._open: list[PackBuilder] = []
        self._meta: PackBuilder | None = None
        self._unindexed: list[Directory] = list(loaded.learned)
        self._indexed_at = repository.clock.monotonic()
        self._lock = threading.Lock()
        self.uploaded = 0
        self.added_content = 0
        self.added_stored = 0

    def store_pieces(self, slab: Slab) -> list[Row]:
        builder: PackBuilder | None = None
        rows = []
        for piece in slab.pieces:
            content = slab.content(piece)
            chunk_id = self._repository.ids.chunk_id(content)
            rows.append(Row(chunk_id, piece.length))
            if not self._claim(chunk_id, piece):
                continue
            builder = builder or self._borrow()
            builder.add(chunk_id, content)
            if builder.full:
                self._put(builder)
                builder = None
        if builder is not None:
            with self._lock:
                self._open.append(builder)
        return rows

    def store_meta(self, content: bytes) -> ChunkId:
        """For the feeding thread alone."""
        chunk_id = self._repository.ids.chunk_id(content)
        if chunk_id not in self._known and chunk_id not in self._new:
            self._new.add(chunk_id)
            self._meta = self._meta or PackBuilder(self._repository.master, Kind.META)
            self._meta.add(chunk_id, content)
            if self._meta.full:
                self._put(self._meta)
                self._meta = None
        return chunk_id

    def flush(self) -> None:
        """Puts every pack that is still open, then the index: after it, all that was stored is durable and found."""
        unfinished = [*self._open, *([self._meta] if self._meta else [])]
        self._open, self._meta = [], None
        for builder in unfinished:
            self._put(builder)
        with self._lock:
            self._write_index()

    def _claim(self, chunk_id: ChunkId, piece: Piece) -> bool:
        """Whether the caller is the one to store this chunk."""
        if chunk_id in self._known:
            return False
        with self._lock:
            if chunk_id in self._new:
                return False
            self._new.add(chunk_id)
            self.added_content += piece.length
            return True

    def _borrow(self) -> PackBuilder:
        with self._lock:
            if self._open:
                return self._open.pop()
        return PackBuilder(self._repository.master, Kind.DATA)

    def _put(self, builder: PackBuilder) -> None:
        data, directory = builder.finish()
        self._repository.store.put(directory.pack.name, data)
        now = self._repository.clock.monotonic()
        with self._lock:
            self.uploaded += directory.size
            self.added_stored += directory.size if directory.pack.kind is Kind.DATA else 0
            self._unindexed.append(directory)
            if now - self._indexed_at >= INDEX_EVERY_SECONDS:
                self._write_index()
                self._indexed_at = now

    def _write_index(self) -> None:
        """As many objects as it takes, so that none outgrows what readers accept."""
        while self._unindexed:
            some, parts = 0, 0
            while some < len(self._unindexed) and parts < INDEX_PARTS:
                parts += len(self._unindexed[some].parts)
                some += 1
            self._repository.put_object(Kind.INDEX, encode_index(self._unindexed[:some]))
            self._unindexed = self._unindexed[some:]
