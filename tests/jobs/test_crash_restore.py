"""A restore met by a fault or a lie at each of its store calls: exactly the right files, or an error and a marker."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import HoldfastError
from holdfast.filesystem.root import MARKER
from holdfast.jobs.progress import Silent
from holdfast.jobs.restore import CONTROL_FILE, restore
from holdfast.jobs.restore_plan import plan_restore
from holdfast.postgres.facts import BackupFacts, RecoveryLimits
from holdfast.postgres.lsn import Lsn
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.repository import Repository
from holdfast.repository.writer import About, SnapshotWriter
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind, FaultyStore, Killed
from holdfast.store.memory import MemoryStore
from tests.repository.making import new_repository, noise, readings

CLOCK = SystemClock()
WAL = "pg_wal/000000010000000000000002"
FILES = {
    "PG_VERSION": b"15\n",
    "base/beside": b"so that the folder is there",
    "base/5/1259": noise(300_000, 1),
    "base/5/1260": noise(8192, 2),
    "base/5/empty": b"",
    CONTROL_FILE: noise(8192, 3),
    "postgresql.auto.conf": b"",
    WAL: b"",
}
RESTORED = {path: content for path, content in FILES.items() if path not in (WAL, "postgresql.auto.conf")}
thoroughly = pytest.mark.parametrize(
    "every", [pytest.param(3, id="sample"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)


def facts() -> BackupFacts:
    moment = datetime(2026, 11, 22, 2, tzinfo=UTC)
    return BackupFacts(
        label="made up", system_identifier=7, server_version_num=150008, server_version="15.8",
        platform="x86_64-pc-linux-gnu", pg_control_version=1300, catalog_version=202209061, timeline=1,
        start_lsn=Lsn.parse("0/2000028"), stop_lsn=Lsn.parse("0/2000100"), stop_timeline=1, started_at=moment,
        ended_at=moment, from_standby=False, wal_segment_size=16 * 2**20, block_size=8192, data_checksums=True,
        total_bytes=sum(map(len, FILES.values())), tablespaces=(), databases=(),
        limits=RecoveryLimits(max_connections=100, max_worker_processes=8, max_wal_senders=10,
                              max_prepared_transactions=0, max_locks_per_transaction=64),
        shared_preload_libraries=None, superuser="postgres", libc_version=None, icu_version=None, configuration=(),
        bad_pages=(), warnings=(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def repository() -> Repository:
    made = new_repository(MemoryStore(clock=CLOCK))
    with SnapshotWriter(made, workers=1) as writer:
        for entry, content in readings(FILES):
            writer.add(entry, content)
        writer.publish(
            About(
                label="one", source="tracker", source_type="postgres", started=datetime(2026, 11, 22, 2, tzinfo=UTC),
                host="db1", holdfast_version="0", warnings=(), facts=facts().to_json(),
            )
        )  # fmt: skip
    return made


def bring_back(repository: Repository, target: Path, *faults: Fault) -> tuple[FaultyStore, BaseException | None]:
    store = FaultyStore(repository.store, *faults, clock=CLOCK)
    through = Repository(store, repository.keys, clock=CLOCK)
    try:
        records = through.records()
        (snapshot,) = records.snapshots or (None,)
        if snapshot is None:
            return store, Killed("no snapshot is seen: nothing to restore")
        reader = SnapshotReader(through)
        plan = plan_restore(snapshot, reader, target, tablespaces={})
        restore(plan, reader, progress=Silent(), host="db1")
    except (HoldfastError, Killed) as error:
        return store, error
    return store, None


def files_in(target: Path) -> dict[str, bytes]:
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def judge(target: Path, error: BaseException | None, what: object) -> None:
    found = files_in(target)
    right = all(found.get(path) == content for path, content in RESTORED.items()) and MARKER not in found
    if error is None:
        assert right, (what, "claimed success")
        assert "recovery.signal" in found, what
    elif found and not right:
        assert MARKER in found, (what, "an unfinished folder that does not say so")


def faults(operation: Operation, position: int) -> Iterator[Fault]:
    times: dict[str, Any] = {"operation": operation, "first": position, "times": 1}
    for kind in (FaultKind.KILL, FaultKind.KILL_AFTER, FaultKind.FAIL, FaultKind.LOSE_RESPONSE):
        yield Fault(kind=kind, **times)
    if operation in (Operation.GET, Operation.LIST):
        yield Fault(kind=FaultKind.VANISH, **times)
        for keep in (0, 48, 1000):
            yield Fault(kind=FaultKind.TRUNCATE, keep=keep, **times)
    if operation is Operation.GET:
        for bit in (8 * 10, 8 * 70, 7_777_777 * position):
            yield Fault(kind=FaultKind.FLIP, bit=bit, **times)


@thoroughly
def test_a_fault_at_every_call(repository: Repository, tmp_path: Path, every: int) -> None:
    store, error = bring_back(repository, tmp_path / "whole")
    assert error is None
    judge(tmp_path / "whole", None, "undisturbed")
    ended = {True: 0, False: 0}
    number = 0
    for operation in (Operation.GET, Operation.LIST, Operation.PUT, Operation.DELETE):
        for position in range(1, sum(call.operation is operation for call in store.calls) + 1):
            for fault in faults(operation, position):
                number += 1
                if number % every:
                    continue
                target = tmp_path / str(number)
                _store, error = bring_back(repository, target, fault)
                judge(target, error, (operation, position, fault.kind))
                ended[error is None] += 1
    assert all(ended.values()), "some faults are survived, others are named"
    _store, error = bring_back(repository, tmp_path / "again")
    assert error is None
    judge(tmp_path / "again", None, "afterwards")
