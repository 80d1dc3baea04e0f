"""Recoveries that others would lose rows, moments or the source's own folders by."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import UTC

import psycopg
import pytest

from holdfast.errors import Refused
from holdfast.postgres.lsn import Lsn
from tests.jobs.going import CLOCK, back_up, new_folder_repository
from tests.jobs.holding import Holding, archiving, inputs_of
from tests.jobs.recovering import bring, plan, recovered, started_by_hand
from tests.servers import Cluster, Servers, wait_until


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
            time.sleep(0.1)
        taking.join()
    Holding(cluster=cluster, archive=archive, repository=repository).catch_up()
    inputs = inputs_of(repository)
    (at,) = cluster.execute("select at from t order by at desc offset 3 limit 1")[0]
    with recovered(servers, cluster, inputs, at.isoformat()) as (copy, _started, recovery):
        print(recovery.known.facts.started_at, recovery.first_left_out, recovery.last_kept, at)
        assert copy.value("select max(at) from t") <= at


def test_delay(servers: Servers) -> None:
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


class _Cut(Holding):
    at = 0

    def _put(self, segment, content, clock):  # type: ignore
        if segment.number == self.at // self.size:
            content = content[: self.at % self.size]
        elif segment.number > self.at // self.size:
            return
        super()._put(segment, content, clock)


def test_cut_in_switch(servers: Servers) -> None:
    archive, conf = archiving(servers)
    cluster = servers.make_cluster(15, conf=conf)
    cluster.execute("create table t (n int)")
    repository = new_folder_repository(servers)
    back_up(cluster, repository)
    cluster.execute("insert into t values (1)")
    end = Lsn.parse(cluster.value("select pg_switch_wal()::text"))
    holding = _Cut(cluster=cluster, archive=archive, repository=repository)
    holding.at = (end // 131072 + 1) * 131072
    holding.catch_up()
    inputs = inputs_of(repository)
    with recovered(servers, cluster, inputs, "latest") as (copy, started, recovery):
        assert copy.value("select count(*) from t") == 1


def test_a_tablespace_made_just_before_a_standbys_snapshot(servers: Servers) -> None:
    primary = servers.make_cluster(15)
    standby = servers.standby_of(primary)
    servers.add_tablespace(primary, "ts9")
    primary.execute("checkpoint")
    goal = primary.value("select pg_current_wal_lsn()::text")
    wait_until(lambda: standby.value(f"select pg_last_wal_replay_lsn() >= '{goal}'"), "replayed")
    standby.execute("checkpoint")
    primary.execute("create table t(n int)")
    repository = new_folder_repository(servers)
    snapshot = back_up(standby, repository)
    inputs = inputs_of(repository)
    with recovered(servers, primary, inputs, f"snapshot:{snapshot.id}") as (copy, _started, _recovery):
        print(copy.execute("select 1"))
