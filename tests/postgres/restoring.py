"""A folder restored without Holdfast's own reader or writer: by ``pg_basebackup``, then made ready for recovery."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.postgres.basebackup import base_backup as read_base_backup
from holdfast.postgres.facts import BackupFacts
from holdfast.postgres.lsn import history_timeline, is_segment_name
from holdfast.postgres.recovery import CONSISTENT, LEFT_BEHIND, WAL_DIR, Recovery, Target, recovery_files
from tests.postgres.writing import write_readings
from tests.servers import Cluster, Servers, give, give_all, run


@dataclass(kw_only=True)
class Folder:
    """A copy of ``cluster`` in ``data``; ``planned`` WAL lies in ``holdfast-recovery/wal``."""

    cluster: Cluster
    data: Path
    tablespaces: dict[int, str] = field(default_factory=dict)

    @property
    def wal(self) -> Path:
        return self.data / WAL_DIR

    def planned(self) -> tuple[str, ...]:
        return tuple(sorted(path.name for path in self.wal.iterdir()))

    def add_wal(self, *sources: Path) -> None:
        """Bring the whole WAL files of other folders along too."""
        for source in sources:
            for path in sorted(source.iterdir()):
                if _is_wal(path.name):
                    shutil.copyfile(path, self.wal / path.name)

    def prepare(self, target: Target = CONSISTENT, planned: tuple[str, ...] | None = None) -> None:
        """Write the recovery's files, and hand everything to the servers' user."""
        recovery = Recovery(
            planned=self.planned() if planned is None else planned,
            wal_segment_size=int(self.cluster.control_data()["Bytes per WAL segment"]),
            target=target,
            tablespaces=self.tablespaces,
        )
        auto_conf = self.data / "postgresql.auto.conf"
        for name, content in recovery_files(recovery, auto_conf=auto_conf.read_bytes()).items():
            (self.data / name).write_bytes(content)
            give(self.data / name)
        for name in LEFT_BEHIND:
            (self.data / name).unlink(missing_ok=True)
        for path in (self.wal.parent, self.wal, *self.wal.iterdir()):
            give(path)


def base_backup(servers: Servers, cluster: Cluster, *, home: Path | None = None) -> Folder:
    """Taken now, its WAL moved out of ``pg_wal`` to where recovery looks for it."""
    home = home or servers.new_folder("r")
    data = home / "data"
    mapping = [f"-T{path}={home / name}" for name, path in cluster.tablespaces.items()]
    run(
        [
            *(cluster.bin / "pg_basebackup", "-D", data, "-X", "fetch", "-c", "fast", "--no-sync"),
            *("-d", cluster.dsn(), *mapping),
        ]
    )
    links = {int(link.name): os.readlink(link) for link in (data / "pg_tblspc").iterdir()}  # noqa: PTH115
    folder = Folder(cluster=cluster, data=data, tablespaces=links)
    folder.wal.mkdir(parents=True)
    for path in sorted((data / "pg_wal").iterdir()):
        if _is_wal(path.name):
            path.rename(folder.wal / path.name)
    shutil.rmtree(data / "pg_wal" / "archive_status", ignore_errors=True)
    return folder


def read_backup(servers: Servers, cluster: Cluster) -> tuple[Folder, BackupFacts]:
    """The same, but taken by Holdfast's own reader over the replication protocol."""
    home = servers.new_folder("r")
    data = home / "data"
    data.mkdir(mode=0o700)
    with read_base_backup(cluster.dsn(), label="tests") as backup:
        write_readings(backup.entries(), data)
        facts = backup.facts
    folder = Folder(cluster=cluster, data=data)
    for tablespace in facts.tablespaces:
        location = home / f"ts {tablespace.oid}"
        (data / "pg_tblspc" / str(tablespace.oid)).rename(location)
        folder.tablespaces[tablespace.oid] = str(location)
    folder.wal.mkdir(parents=True)
    for path in sorted((data / "pg_wal").iterdir()):
        if _is_wal(path.name):
            path.rename(folder.wal / path.name)
    give_all(home)
    return folder, facts


def _is_wal(name: str) -> bool:
    return is_segment_name(name) or history_timeline(name) is not None
