"""One folder into a repository, or back: ``python -m bench.files SOURCE REPOSITORY backup|again|restore [TARGET]``.

The state of this machine, the index's cache with it, lies beside the repository.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from holdfast.clock import SystemClock
from holdfast.entry import EntryKind
from holdfast.filesystem.scan import scan
from holdfast.filesystem.write import FileSink, FolderWriter
from holdfast.repository.keys import MadeSecret, SecretKind
from holdfast.repository.opening import create_repository, open_repository
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.repository import Repository
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.trees import Content
from holdfast.repository.writer import About, SnapshotWriter
from holdfast.store.folder import FolderStore

CLOCK = SystemClock()


def made(store: Path) -> Repository:
    secret = MadeSecret.new(SecretKind.PASSPHRASE)
    repository = create_repository(
        FolderStore(store, clock=CLOCK, create=True),
        [(secret, SecretKind.PASSPHRASE)],
        clock=CLOCK,
        state=store.with_suffix(".state"),
    )
    store.with_suffix(".secret").write_text(secret)
    return repository


def opened(store: Path) -> Repository:
    secret = store.with_suffix(".secret").read_text()
    return open_repository(
        FolderStore(store, clock=CLOCK), secret, pin=None, clock=CLOCK, state=store.with_suffix(".state")
    )


def backup(source: Path, repository: Repository) -> None:
    with SnapshotWriter(repository) as writer:
        for entry, content in scan(source):
            writer.add(entry, content)
        writer.publish(
            About(
                label="files", source="files", source_type="files", started=datetime.now(UTC), host="bench",
                holdfast_version="0", warnings=(), facts={},
            )
        )  # fmt: skip


def restore(repository: Repository, target: Path) -> None:
    reader = SnapshotReader(repository)
    snapshot = repository.records().snapshots[-1]
    folder = FolderWriter(target)
    folder.begin()
    reader.deliver(_lay_out(reader, snapshot, folder))
    folder.settle(stored.entry for stored in reader.entries(snapshot))
    folder.finish()


def _lay_out(reader: SnapshotReader, snapshot: Snapshot, folder: FolderWriter) -> Iterator[tuple[Content, FileSink]]:
    for stored in reader.entries(snapshot):
        if stored.entry.kind is EntryKind.DIRECTORY:
            folder.directory(stored.entry)
        else:
            yield stored.content, folder.file(stored.entry)


if __name__ == "__main__":
    here, there, verb, *rest = sys.argv[1:]
    if verb == "restore":
        restore(opened(Path(there)), Path(rest[0]))
    else:
        backup(Path(here), made(Path(there)) if verb == "backup" else opened(Path(there)))
