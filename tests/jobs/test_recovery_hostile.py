"""Moments, settings and clusters that a recovery is easily wrong about."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime

import psycopg

from holdfast.jobs.bring_wal import missing
from holdfast.postgres.lsn import Lsn, Segment
from tests.jobs.going import back_up, new_folder_repository
from tests.jobs.holding import Holding, archiving, inputs_of
from tests.jobs.recovering import bring, plan, recovered, started_by_hand
from tests.servers import Servers, run, wait_until


def test_a_moment_between_asking_for_a_backup_and_its_beginning(servers: Servers) -> None:
    archive, conf = archiving(servers)
    cluster = servers.make_cluster(15, conf=conf + "post_auth_delay = 2\n")
    cluster.execute("create table t (at timestamptz)")
    repository = new_folder_repository(servers)
    back_up(cluster, repository)
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        taking = threading.Thread(target=back_up, args=(cluster, repository))
        taking.start()
        while not connection.execute("select 1 from pg_stat_activity where backend_type = 'walsender'").fetchone():
            connection.execute("insert into t values (clock_timestamp())")
            time.sleep(0.1)  # rows some time apart
        taking.join()
    Holding(cluster=cluster, archive=archive, repository=repository).catch_up()
    inputs = inputs_of(repository)
    (at,) = cluster.execute("select at from t order by at desc offset 3 limit 1")[0]
    with recovered(servers, cluster, inputs, at.isoformat()) as (copy, _started, _recovery):
        assert copy.value("select max(at) from t") <= at


def test_a_delayed_standbys_setting_holds_nothing_back(servers: Servers) -> None:
    archive, conf = archiving(servers)
    cluster = servers.make_cluster(15, conf=conf + "recovery_min_apply_delay = '1d'\n")
    cluster.execute("create table t (n int)")
    repository = new_folder_repository(servers)
    back_up(cluster, repository)
    cluster.execute("insert into t values (1)")
    cluster.execute("insert into t values (2)")
    Holding(cluster=cluster, archive=archive, repository=repository).catch_up()
    inputs = inputs_of(repository)
    planned, _restored = bring(inputs, plan(inputs, "latest"), servers.new_folder("back") / "data")
    with started_by_hand(servers, cluster, planned) as copy:
        assert copy.value("select count(*) from t") == 2


@dataclass(kw_only=True)
class _Cut(Holding):
    at: Lsn
    """Nothing behind it arrives."""

    def _put(self, segment: Segment, content: bytes, clock: datetime | None) -> None:
        if segment.start < self.at:
            super()._put(segment, content[: self.at - segment.start], clock)


def test_wal_that_was_lost_amid_the_zeros_behind_a_switch_of_segments(servers: Servers) -> None:
    archive, conf = archiving(servers)
    cluster = servers.make_cluster(15, conf=conf)
    cluster.execute("create table t (n int)")
    repository = new_folder_repository(servers)
    back_up(cluster, repository)
    cluster.execute("insert into t values (1)")
    end = Lsn.parse(cluster.value("select pg_switch_wal()::text"))
    cut = Lsn((end // 131072 + 1) * 131072)
    _Cut(cluster=cluster, archive=archive, repository=repository, at=cut).catch_up()
    with recovered(servers, cluster, inputs_of(repository), "latest") as (copy, started, _recovery):
        assert copy.value("select count(*) from t") == 1
        assert started.recovered.end_lsn % (16 << 20) == 0


def test_wal_that_ends_with_a_record_of_which_only_the_end_was_looked_at(servers: Servers) -> None:
    archive, conf = archiving(servers)
    cluster = servers.make_cluster(15, conf=conf, started=False)
    run([cluster.bin / "pg_resetwal", "-D", cluster.data_dir, "--wal-segsize=1"])
    cluster.start()
    repository = new_folder_repository(servers)
    back_up(cluster, repository)
    end = Lsn.parse(cluster.value("select pg_logical_emit_message(false, 'x', repeat('a', 2500000))::text"))
    cluster.execute("create table t (n int)")
    _Cut(cluster=cluster, archive=archive, repository=repository, at=end).catch_up()
    with recovered(servers, cluster, inputs_of(repository), "latest") as (_copy, started, recovery):
        assert not recovery.is_exact
        assert started.recovered.end_lsn == end


def test_a_tablespace_made_just_before_a_standbys_snapshot(servers: Servers) -> None:
    primary = servers.make_cluster(15)
    standby = servers.standby_of(primary)
    servers.add_tablespace(primary, "ts9")
    primary.execute("checkpoint")
    goal = primary.value("select pg_current_wal_lsn()::text")
    wait_until(lambda: standby.value(f"select pg_last_wal_replay_lsn() >= '{goal}'"), "the tablespace is replayed")
    standby.execute("checkpoint")
    primary.execute("create table t(n int)")
    repository = new_folder_repository(servers)
    snapshot = back_up(standby, repository)
    inputs = inputs_of(repository)
    (known,) = inputs.snapshots
    with recovered(servers, primary, inputs, f"snapshot:{snapshot.id}") as (_copy, started, _recovery):
        assert started.recovered.end_lsn >= known.facts.stop_lsn


def test_the_latest_tells_of_a_timeline_that_went_on_for_longer(servers: Servers) -> None:
    archive, conf = archiving(servers)
    cluster = servers.make_cluster(15, conf=conf)
    cluster.execute("create table t (n int)")
    repository = new_folder_repository(servers)
    back_up(cluster, repository)
    holding = Holding(cluster=cluster, archive=archive, repository=repository)
    cluster.execute("insert into t values (1)")
    holding.catch_up()
    with recovered(servers, cluster, inputs_of(repository), "latest") as (copy, _started, _recovery):
        copy.execute("insert into t values (100)")
        copy.execute("select pg_switch_wal()")
        archived = servers.new_folder("a")
        for path in (copy.data_dir / "pg_wal").glob("00000002*"):
            (archived / path.name).write_bytes(path.read_bytes())
        Holding(cluster=copy, archive=archived, repository=repository, timeline=2).catch_up()
    assert "timeline" not in "".join(plan(inputs_of(repository), "latest").warnings)
    for number in range(5):
        cluster.execute(f"insert into t values ({number})")
    cluster.execute("select pg_switch_wal()")
    holding.catch_up()
    found = plan(inputs_of(repository), "latest")
    assert found.timeline == 2
    assert any("--timeline 1" in warning for warning in found.warnings)
    with recovered(servers, cluster, inputs_of(repository), "latest", timeline="1") as (copy, _started, recovery):
        assert copy.value("select count(*) from t") == 6
        assert not recovery.warnings


def test_tails_that_are_joined_between_the_plan_and_its_carrying_out(servers: Servers) -> None:
    archive, conf = archiving(servers)
    cluster = servers.make_cluster(15, conf=conf)
    cluster.execute("create table t (n int)")
    repository = new_folder_repository(servers)
    back_up(cluster, repository)
    holding = Holding(cluster=cluster, archive=archive, repository=repository)
    cluster.execute("insert into t values (1)")
    end = holding.catch_up()
    inputs = inputs_of(repository)
    found = plan(inputs, "latest")
    (last,) = [one for one in inputs.wal["r0"][0].segments if one.number == end // holding.size]
    small = [piece.name for piece in last.pieces]
    cluster.execute("insert into t values (2)")
    holding.catch_up()  # one longer piece from the segment's beginning, as joining makes it
    holding.writer.remove_tails(small)
    assert not missing(found, inputs)
    planned, _restored = bring(inputs, found, servers.new_folder("back") / "data")
    with started_by_hand(servers, cluster, planned) as copy:
        assert copy.value("select count(*) from t") == 1
