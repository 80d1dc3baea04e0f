"""Small repositories and made-up entries for the tests of this package."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from holdfast.clock import SystemClock
from holdfast.entry import Entry, EntryKind, Reading
from holdfast.repository.keys import MadeSecret, SecretKind
from holdfast.repository.objects import KEYS
from holdfast.repository.opening import create_repository
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.repository import Repository
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.writer import About, SnapshotWriter
from holdfast.store.memory import MemoryStore
from holdfast.store.port import Store

SECRET = MadeSecret.new(SecretKind.PASSPHRASE)


def new_repository(store: Store | None = None) -> Repository:
    store = MemoryStore(clock=SystemClock()) if store is None else store
    return create_repository(store, [(SECRET, SecretKind.PASSPHRASE)], clock=SystemClock())


def readings(files: Mapping[str, bytes]) -> Iterator[Reading]:
    folders = sorted({path.rpartition("/")[0] for path in files} - {""})
    for folder in folders:
        yield Entry(path=folder, kind=EntryKind.DIRECTORY, mode=0o700), ()
    for path, content in files.items():
        entry = Entry(path=path, kind=EntryKind.FILE, mode=0o600, size=len(content), mtime_ns=7)
        yield entry, blocks(content)


def blocks(content: bytes, size: int = 70_000) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def about(label: str = "tracker_20261122_020000", source: str = "tracker") -> About:
    return About(
        label=label,
        source=source,
        source_type="postgres",
        started=datetime(2026, 11, 22, 2, tzinfo=UTC),
        host="db1",
        holdfast_version="0",
        warnings=(),
        facts={"a": [1, "二"]},
    )


def take(
    repository: Repository, files: Mapping[str, bytes] | Iterable[Reading], label: str = "one", *, workers: int = 3
) -> Snapshot:
    with SnapshotWriter(repository, workers=workers) as writer:
        for entry, content in readings(files) if isinstance(files, Mapping) else files:
            writer.add(entry, content)
        return writer.publish(about(label))


class MemorySink:
    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.data = bytearray(size)
        self.written = 0
        self._lock = threading.Lock()

    def write(self, offset: int, data: bytes) -> None:
        with self._lock:
            self.data[offset : offset + len(data)] = data
            self.written += len(data)


def restore(repository: Repository, snapshot: Snapshot) -> dict[str, bytes]:
    return restore_with(SnapshotReader(repository), snapshot)


def restore_with(reader: SnapshotReader, snapshot: Snapshot) -> dict[str, bytes]:
    sinks: dict[str, MemorySink] = {}
    wanted = []
    for stored in reader.entries(snapshot):
        if stored.entry.kind is EntryKind.FILE:
            sinks[stored.entry.path] = MemorySink(stored.entry.path, stored.entry.size)
            wanted.append((stored.content, sinks[stored.entry.path]))
    reader.deliver(wanted, workers=3)
    assert all(sink.written == len(sink.data) for sink in sinks.values())
    return {path: bytes(sink.data) for path, sink in sinks.items()}


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def sample(seed: int = 0) -> dict[str, bytes]:
    """Files of every awkward size: empty, small, exactly a chunk, a chunk and a byte, several slabs."""
    chunk = 256 * 1024
    return {
        "empty": b"",
        "base/5/one": b"1",
        "base/5/exact": noise(chunk, seed + 1),
        "base/5/more": noise(chunk + 1, seed + 2),
        "base/5/zeros": bytes(3 * chunk),
        "base/5/text": b"daily_blueprints " * 50_000,
        "base/蓝图 1/large": noise(9 * 2**20 + 12345, seed + 3),
        "odd\udcff name": noise(500, seed + 4),
    }


def key_digests(store: Store) -> dict[str, str]:
    """Name and SHA-256 of every key object."""
    return {listed.name: hashlib.sha256(store.get(listed.name)).hexdigest() for listed in store.list(KEYS)}
