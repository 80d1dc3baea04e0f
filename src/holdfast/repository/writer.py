"""Writing a snapshot: split → seal → pack → put, then the index, then the record.

The thread that feeds cuts content into slabs and keeps the books; workers hash, compress, seal and put, each slab
from beginning to end. All bookkeeping happens in the feeding thread: workers hand results back through a queue.

Crash safety is the order: until ``publish`` a chunk is named only by lists in this writer's memory; ``publish`` waits
for every pack, writes the index, and the record last. Until the record is there, nothing refers to any of it.

Prune may be at work at the same time. A writer holds a lease, reuses only what is indexed, listed and unmarked, reads
the marks again at least hourly and right before the record, and first copies out what it reused of packs that have
been marked since. One that slept too long lists the packs again; if something that it needs is gone, it publishes
nothing.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from types import TracebackType
from typing import Self

from holdfast import __version__
from holdfast.entry import Block, Entry
from holdfast.errors import Damaged, HoldfastError, NoSpace, NotReachable, Refused, TryLater
from holdfast.messages import _
from holdfast.repository.chunking import Slab, Splitter
from holdfast.repository.compaction import compact_index
from holdfast.repository.crew import Crew
from holdfast.repository.index_loading import LoadedIndex, list_packs, load_index
from holdfast.repository.keyring import own_key_digests
from holdfast.repository.packs import Packs
from holdfast.repository.removing import remove_snapshot
from holdfast.repository.repository import DEFAULT_WORKERS, Problem, Records, Repository
from holdfast.repository.snapshots import Json, Snapshot, Totals, heads
from holdfast.repository.trees import (
    Content,
    EncodedEntry,
    Row,
    StoredEntry,
    encode_entry,
    store_content,
    store_tree,
)
from holdfast.repository.versions import require_writer
from holdfast.repository.watch import Watch

_ROUNDS = 5
"""Readings of the marks before a snapshot is published, while each finds more to copy out."""


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

    def __init__(self, repository: Repository, *, workers: int = DEFAULT_WORKERS, host: str = "") -> None:
        """``host`` is named in the lease. Raises ``Refused`` if this version may not write to the repository."""
        require_writer(repository, __version__)
        self._repository = repository
        self._watch = Watch(repository, work="backup", host=host)
        self._watch.renew()  # before anything is listed: what is marked later is seen at a later reading
        try:
            self._loaded: LoadedIndex = load_index(repository, marked=self._watch.marked)
            self._packs = Packs(repository, self._loaded)
        except BaseException:
            self._watch.end()
            raise
        self._results: queue.SimpleQueue[tuple[Slab, list[Row]]] = queue.SimpleQueue()
        self._idle = [Slab() for _number in range(workers + 2)]
        self._crew: Crew[Slab] = Crew(self._work, workers=workers)
        self._splitter = Splitter(self._take_slab, self._crew.submit)
        self._files: deque[_File] = deque()
        self._entries: list[EncodedEntry] = []
        self.published = False
        self._count_files = self._count_content = self._count_chunks = 0

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
        self._entries.sort(key=lambda entry: entry.path.encode("utf-8", "surrogateescape"))
        self._refuse_twins()
        tree = store_tree(self._entries, self._packs.store_node, self._repository.ids)
        self._packs.flush()
        records = self._secure()
        snapshot = self._record(about, tree, records)
        self.published = True  # from here on the record may be there, whatever happens
        snapshot = self._repository.put_record(snapshot)
        self._confirm(snapshot, about.host)
        with suppress(NotReachable, Refused, Damaged, NoSpace):  # the snapshot is made; the next one tidies as well
            compact_index(self._repository, self._loaded)
        return snapshot

    def _secure(self) -> Records:
        """Sees to it that prune is after nothing that the snapshot needs, as of now."""
        for _round in range(_ROUNDS):
            records = self._repository.records()
            if not self._read_marks():
                return records
        raise _pruned(self._repository)

    def _read_marks(self) -> bool:
        """Copies out what is used of packs that are marked by now; whether there was any."""
        self._watch.renew()
        if self._watch.slept:
            self._look_again()
        return self._packs.save(self._watch.marked)

    def _confirm(self, snapshot: Snapshot, host: str) -> None:
        """If this machine slept between the last reading and the record: is everything still there, and will it stay?

        A sweep that looked before the record came deletes what was marked, so that is copied out even now. Nothing is
        claimed if this cannot be found out: both of this machine's clocks may have stood still.
        """
        try:
            self._read_marks()
        except TryLater:
            self._withdraw(snapshot, host)
            raise
        except HoldfastError as error:
            made = _("Snapshot {label} is written, and nobody could ask whether prune spares what it needs.").format(
                label=snapshot.label
            )
            see = _("See whether it is whole: holdfast verify --quick")
            error.hint = " ".join(filter(None, (error.hint, made, see)))
            raise

    def _withdraw(self, snapshot: Snapshot, host: str) -> None:
        """A record that came too late. Where its removal cannot be recorded, that is said: it looks like a snapshot."""
        try:
            remove_snapshot(self._repository, snapshot, host=host, why="pruned while it was being written")
        except HoldfastError as error:
            raise Damaged(
                _("snapshot {label} is listed and cannot be restored: prune took what it needs: {why}").format(
                    label=snapshot.label, why=error
                ),
                hint=_("Run the same command again: it stores what is missing, which mends this snapshot too."),
            ) from error

    def _look_again(self) -> None:
        """After a sleep: lists the packs anew. Raises ``TryLater`` if one that is needed is gone."""
        gone = self._loaded.index.check(list_packs(self._repository))
        if any(pack not in self._packs.saved for pack in gone):
            raise _pruned(self._repository)
        self._watch.slept = False

    def _record(self, about: About, tree: Content, records: Records) -> Snapshot:
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
            totals=Totals(
                files=self._count_files,
                content=self._count_content,
                chunks=self._count_chunks,
                added_content=self._packs.added_content,
                added_stored=self._packs.added_stored,
            ),
            predecessors=heads(records.snapshots),
            warnings=(*about.warnings, *map(_of_the_repository, (*self._loaded.problems, *self._watch.problems))),
            facts=about.facts,
            keys=own_key_digests(self._repository),
        )

    def _refuse_twins(self) -> None:
        for entry, following in pairwise(self._entries):
            if entry.path == following.path:
                raise HoldfastError(_("{path} was read twice").format(path=entry.path))

    def _take_slab(self) -> Slab:
        if self._watch.due:
            self._read_marks()
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
            content = store_content(rows, self._packs.store_node)
            self._entries.append(encode_entry(StoredEntry(file.entry, content)))
            self._count_files += file.entry.kind == "file"
            self._count_content += content.size
            self._count_chunks += len(rows)

    def _work(self, slab: Slab) -> None:
        self._results.put((slab, self._packs.store_pieces(slab)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._crew.stop()
        if not isinstance(error, NotReachable):  # else it would be waited for once more
            self._watch.end()
        self._loaded.index.close()


def _of_the_repository(problem: Problem) -> str:
    """Of a snapshot that is complete: what it does not use is meant."""
    return _("elsewhere in the repository: {what}").format(what=problem.what)


def _pruned(repository: Repository) -> TryLater:
    return TryLater(
        _("packs in {url} that this snapshot needs were pruned while it was being written").format(url=repository.url),
        hint=_("Run the same command again. No snapshot was made, and none was harmed."),
    )
