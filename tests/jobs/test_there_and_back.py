"""A real cluster backed up under load, destroyed, restored, started, and compared: on every version."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

import pytest

from holdfast.errors import Refused
from holdfast.jobs.progress import Silent
from holdfast.jobs.verify import verify
from holdfast.repository.repository import Repository
from tests.jobs.going import back_up, bring_back, new_folder_repository, started
from tests.servers import Cluster, Servers, balance_holds, every_version, give, run

MakeCluster = Callable[..., Cluster]


@pytest.fixture
def repository(servers: Servers) -> Repository:
    return new_folder_repository(servers)


@every_version
def test_there_and_back(major: int, make_cluster: MakeCluster, servers: Servers, repository: Repository) -> None:
    cluster = make_cluster(major, tablespace=True)
    cluster.pgbench_init(2)
    cluster.execute("create table in_ts (n int) tablespace ts1")
    cluster.execute("insert into in_ts select generate_series(1, 9000)")
    with cluster.load():
        snapshot = back_up(cluster, repository)
        second = back_up(cluster, repository)
    assert second.totals.added_content < snapshot.totals.content
    servers.add_tablespace(cluster, "after")
    cluster.execute("create table in_after tablespace after as select 1 as n")
    assert verify(repository, only=(), quick=False, progress=Silent()).good
    cluster.execute("checkpoint")
    folders = cluster.tablespaces.values()
    there = {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    for taken in (snapshot, second):
        target = servers.new_folder("back") / "data"
        plan = bring_back(repository, taken, target)
        assert plan.files == taken.totals.files
        instance, recovered = started(cluster, target)
        try:
            assert recovered.timeline == 2
            assert recovered.end_lsn >= plan.facts.stop_lsn
            copy = Cluster(
                bin=cluster.bin, major=major, data_dir=target, socket_dir=instance.socket_dir, port=instance.port,
                log=target,
            )  # fmt: skip
            assert balance_holds(copy)
            assert copy.value("select count(*) from in_ts") == 9000
            copy.execute("insert into in_ts select generate_series(1, 1000)")
            assert b"restore_command" not in (target / "postgresql.auto.conf").read_bytes()
        finally:
            instance.stop()
        run([cluster.bin / "pg_checksums", "--check", "-D", target])
    assert {path: path.read_bytes() for path in there} == there, "the source's own tablespaces were written to"


class Meanwhile(Silent):
    """Does something once the server has begun the backup."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action: Callable[[], object] | None = action

    def advance(self, nbytes: int) -> None:  # noqa: ARG002
        action, self._action = self._action, None
        if action:
            action()


@every_version
def test_a_tablespace_created_while_the_snapshot_is_taken(
    major: int, make_cluster: MakeCluster, servers: Servers, repository: Repository
) -> None:
    """Its record lies in the snapshot's WAL: replayed on this host it would be written into."""
    cluster = make_cluster(major)
    snapshot = back_up(cluster, repository, Meanwhile(lambda: servers.add_tablespace(cluster, "late")))
    target = servers.new_folder("back") / "data"
    with pytest.raises(Refused, match=re.escape(str(cluster.tablespaces["late"]))):
        bring_back(repository, snapshot, target)
    assert not target.exists()
    bring_back(repository, back_up(cluster, repository), target)


def test_tablespaces_go_where_they_are_mapped(
    make_cluster: MakeCluster, servers: Servers, repository: Repository
) -> None:
    cluster = make_cluster(15, tablespace=True)
    cluster.execute("create table in_ts (n int) tablespace ts1")
    snapshot = back_up(cluster, repository)
    shutil.rmtree(cluster.tablespaces["ts1"])
    cluster.stop("immediate")
    folder = servers.new_folder("back")
    plan = bring_back(repository, snapshot, folder / "data", {"ts1": folder / "快 盘"})
    assert list(plan.tablespaces.values()) == [folder / "快 盘"]
    instance, _recovered = started(cluster, folder / "data")
    instance.stop()
    assert any((folder / "快 盘").iterdir())
    give(folder)
