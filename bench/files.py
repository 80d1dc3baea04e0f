"""One folder into a repository, or back: ``python -m bench.files SOURCE REPOSITORY backup|restore [TARGET]``."""

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


def backup(source: Path, store: Path) -> None:
    secret = MadeSecret.new(SecretKind.PASSPHRASE)
    repository = create_repository(
        FolderStore(store, clock=CLOCK, create=True), [(secret, SecretKind.PASSPHRASE)], clock=CLOCK
    )
    store.with_suffix(".secret").write_text(secret)
    with SnapshotWriter(repository) as writer:
        for entry, content in scan(source):
            writer.add(entry, content)
        writer.publish(
            About(
                label="files", source="files", source_type="files", started=datetime.now(UTC), host="bench",
                holdfast_version="0", warnings=(), facts={},
            )
        )  # fmt: skip


def restore(store: Path, target: Path) -> None:
    repository: Repository = open_repository(
        FolderStore(store, clock=CLOCK), store.with_suffix(".secret").read_text(), pin=None, clock=CLOCK
    )
    reader = SnapshotReader(repository)
    (snapshot,) = repository.records().snapshots
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
    if verb == "backup":
        backup(Path(here), Path(there))
    else:
        restore(Path(there), Path(rest[0]))
