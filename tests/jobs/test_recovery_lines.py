"""Recovery across promotions, with other sizes of segments, and of what changed in mid-WAL."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.errors import Refused
from holdfast.postgres.configured import configured
from tests.jobs.going import back_up, new_folder_repository
from tests.jobs.holding import Holding, archiving, inputs_of
from tests.jobs.recovering import bring, plan, recovered, started_by_hand
from tests.servers import Cluster, Servers, run, wait_until

MakeCluster = Callable[..., Cluster]


def test_across_a_promotion_and_both_branches(servers: Servers, make_cluster: MakeCluster) -> None:
    archive, conf = archiving(servers)
    cluster = make_cluster(15, conf=conf)
    cluster.execute("create table t (n int)")
    repository = new_folder_repository(servers)
    back_up(cluster, repository)
    holding = Holding(cluster=cluster, archive=archive, repository=repository)
    standby = servers.standby_of(cluster)
    new_archive, new_conf = archiving(servers)
    with (standby.data_dir / "postgresql.conf").open("a") as file:
        file.write(new_conf)
    standby.restart()
    cluster.execute("insert into t values (1)")
    goal = cluster.value("select pg_current_wal_lsn()::text")
    wait_until(lambda: standby.value(f"select pg_last_wal_replay_lsn() >= '{goal}'"), "the standby has the row")
    standby.execute("select pg_promote()")
    cluster.execute("insert into t values (2)")  # the old primary writes on
    holding.catch_up()
    standby.execute("insert into t values (3)")
    standby.execute("select pg_switch_wal()")
    standby.execute("insert into t values (4)")
    on_new = Holding(cluster=standby, archive=new_archive, repository=repository, timeline=2)
    on_new.catch_up()
    inputs = inputs_of(repository)
    with recovered(servers, cluster, inputs, "latest") as (copy, started, recovery):
        assert copy.execute("select n from t order by n") == [(1,), (3,), (4,)]
        assert recovery.timeline == 2
        assert started.recovered.timeline == 3
    for timeline in ("1", "current"):
        with recovered(servers, cluster, inputs, "latest", timeline=timeline) as (copy, started, recovery):
            assert copy.execute("select n from t order by n") == [(1,), (2,)]
            assert recovery.timeline == 1
            assert started.recovered.timeline == 3, "2 is somebody's"
    servers.remove(standby)

    # Without the history file nobody knows where timeline 2 branched off.
    (history,) = (path for path in _files(repository.url) if "/00000002.history" in str(path))
    history.unlink()
    with pytest.raises(Refused, match="timeline 2"):
        plan(inputs_of(repository), "latest")
    with recovered(servers, cluster, inputs_of(repository), "latest", timeline="1") as (copy, started, _plan):
        assert copy.execute("select n from t order by n") == [(1,), (2,)]
        assert started.recovered.timeline == 3, "2 is somebody's, though its history is lost"


def _files(url: str) -> list[Path]:
    return [path for path in Path(url.removeprefix("file://")).rglob("*") if path.is_file()]


@pytest.mark.parametrize("mebibytes", [1, 64])
def test_segments_of_other_sizes(servers: Servers, make_cluster: MakeCluster, mebibytes: int) -> None:
    archive, conf = archiving(servers)
    cluster = make_cluster(15, conf=f"{conf}min_wal_size = '256MB'\nmax_wal_size = '512MB'", started=False)
    run([cluster.bin / "pg_resetwal", f"--wal-segsize={mebibytes}", "-D", cluster.data_dir])
    cluster.start()
    cluster.execute("create table t (n int, filler text)")
    repository = new_folder_repository(servers)
    back_up(cluster, repository)
    for _round in range(3):
        cluster.execute("insert into t select n, repeat(md5(n::text), 10) from generate_series(1, 3000) n")
        cluster.execute("select pg_switch_wal()")
    cluster.execute("insert into t values (0)")
    Holding(cluster=cluster, archive=archive, repository=repository).catch_up()
    with recovered(servers, cluster, inputs_of(repository), "latest") as (copy, _started, recovery):
        assert copy.value("select count(*) from t") == 9001
        assert {planned.segment.size for planned in recovery.wal} == {mebibytes << 20}


def test_limits_raised_in_mid_wal_and_standbys_that_do_not_come(servers: Servers, make_cluster: MakeCluster) -> None:
    """Started by hand, with the configuration of the snapshot: recovery does not pause, and a write does not wait."""
    archive, conf = archiving(servers)
    cluster = make_cluster(15, conf=f"{conf}max_connections = 40\nmax_locks_per_transaction = 30")
    cluster.execute("create table t (n int)")
    cluster.execute("alter system set synchronous_standby_names = 'ANY 1 (holdfast)'")
    cluster.execute("alter system set synchronous_commit = 'local'")
    cluster.execute("select pg_reload_conf()")
    repository = new_folder_repository(servers)
    back_up(cluster, repository)
    cluster.stop()
    with (cluster.data_dir / "postgresql.conf").open("a") as file:
        file.write("max_connections = 140\nmax_locks_per_transaction = 99\n")
    cluster.start()
    cluster.execute("insert into t values (1)")
    Holding(cluster=cluster, archive=archive, repository=repository).catch_up()
    inputs = inputs_of(repository)
    recovery = plan(inputs, "latest")
    assert recovery.limits.max_connections == 140
    planned, restored = bring(inputs, recovery, servers.new_folder("back") / "data")
    assert set(restored.raised) == {"max_connections", "max_locks_per_transaction"}
    assert restored.synchronous == "ANY 1 (holdfast)"
    auto_conf = (planned.target / "postgresql.auto.conf").read_bytes()
    assert configured(planned.target, auto_conf)["max_connections"] == "140"
    with started_by_hand(servers, cluster, planned) as copy:
        assert copy.value("show max_connections") == "140"
        assert copy.value("show synchronous_standby_names") == ""
        copy.psql("set synchronous_commit = on; set statement_timeout = '20s'; insert into t values (2)")
        assert copy.value("select count(*) from t") == 2
    with recovered(servers, cluster, inputs, "latest") as (copy, _started, _plan):
        copy.psql("set synchronous_commit = on; set statement_timeout = '20s'; insert into t values (2)")


def test_a_tablespace_created_in_the_replayed_wal(servers: Servers, make_cluster: MakeCluster) -> None:
    archive, conf = archiving(servers)
    cluster = make_cluster(15, conf=conf)
    cluster.execute("create table t as select 1 as n")
    repository = new_folder_repository(servers)
    back_up(cluster, repository)
    cluster.execute("insert into t values (2)")
    cluster.execute("select pg_switch_wal()")
    place = servers.add_tablespace(cluster, "late")
    cluster.execute("create table in_late tablespace late as select generate_series(1, 900) n")
    cluster.execute("checkpoint")
    Holding(cluster=cluster, archive=archive, repository=repository).catch_up()
    inputs = inputs_of(repository)
    recovery = plan(inputs, "latest")
    with pytest.raises(Refused, match="late") as caught:
        bring(inputs, recovery, servers.new_folder("back") / "data")
    before = caught.value.hint.partition("--at ")[2].partition(" ")[0]
    assert "--exclusive" in caught.value.hint
    there = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with recovered(servers, cluster, inputs, before, inclusive=False) as (copy, _started, _plan):
        assert copy.value("select count(*) from t") == 2
    assert {path: path.read_bytes() for path in there} == there
    for mapped in (servers.new_folder("elsewhere"), place):  # cannot be sent elsewhere; is a live server's
        with pytest.raises(Refused):
            bring(inputs, recovery, servers.new_folder("back") / "data", {str(place): mapped})
    cluster.stop("immediate")
    shutil.rmtree(place)
    planned, _restored = bring(inputs, recovery, servers.new_folder("back") / "data", {str(place): place})
    with started_by_hand(servers, cluster, planned) as copy:
        assert copy.value("select count(*) from in_late") == 900
