"""There and back with the jobs, for the tests of this package."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path

from holdfast.clock import SystemClock
from holdfast.jobs.backup import PostgresSource, take_snapshot
from holdfast.jobs.progress import Progress, Silent
from holdfast.jobs.restore import restore
from holdfast.jobs.restore_plan import RestorePlan, plan_restore
from holdfast.postgres.accounts import Account, server_account
from holdfast.postgres.instance import Instance
from holdfast.postgres.restored import Recovered, start_restored
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.repository import Repository
from holdfast.repository.snapshots import Snapshot
from holdfast.store.folder import FolderStore
from tests.repository.making import new_repository
from tests.servers import Cluster, Servers

CLOCK = SystemClock()


def new_folder_repository(servers: Servers) -> Repository:
    return new_repository(FolderStore(servers.new_folder("r") / "repository", clock=CLOCK, create=True))


def back_up(
    cluster: Cluster, repository: Repository, progress: Progress | None = None, *, connection: str = ""
) -> Snapshot:
    return take_snapshot(
        PostgresSource(name="tracker", connection=connection or cluster.dsn()),
        repository,
        clock=CLOCK,
        zone=UTC,
        host="db1",
        progress=progress or Silent(),
        stopped=lambda: False,
    )


def bring_back(
    repository: Repository, snapshot: Snapshot, target: Path, tablespaces: dict[str, Path] | None = None
) -> RestorePlan:
    reader = SnapshotReader(repository)
    plan = plan_restore(snapshot, reader, target, tablespaces=tablespaces or {})
    restore(plan, reader, progress=Silent())
    return plan


def started(cluster: Cluster, target: Path) -> tuple[Instance, Recovered]:
    account: Account = server_account(target)
    return start_restored(target, binaries=cluster.bin, clock=CLOCK, account=account)
