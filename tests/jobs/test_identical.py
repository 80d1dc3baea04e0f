"""What comes back is what was there: dumps equal to the letter, and every structural check that the version has."""

from __future__ import annotations

from collections.abc import Callable
from difflib import unified_diff

import pytest

from holdfast.jobs.start import account_of, plan_start, start
from holdfast.postgres.instance import Instance, stop_by_data_dir
from holdfast.repository.repository import Repository
from tests.jobs.going import CLOCK, back_up, bring_back, new_folder_repository, started
from tests.servers import Cluster, Servers, every_version, run

MakeCluster = Callable[..., Cluster]

OBJECTS = """
create table daily_blueprints (day date primary key, symbol text, plan jsonb, image text generated always as
  ('blueprints/' || extract(year from day)::text) stored);
insert into daily_blueprints select d, 'SPX', jsonb_build_object('n', n) from
  (select date '2025-01-01' + n as d, n from generate_series(0, 400) n) s;
create table trades (id bigserial primary key, day date references daily_blueprints, price numeric(12,2), note text)
  with (fillfactor = 70);
insert into trades (day, price, note) select date '2025-01-01' + n % 400, n * 1.25, repeat('期权 ', n % 50)
  from generate_series(1, 20000) n;
create index on trades (day, price);
create table parted (n int, at timestamptz) partition by range (n);
create table parted_1 partition of parted for values from (0) to (1000);
create table parted_2 partition of parted default;
insert into parted select n, '2026-01-01'::timestamptz from generate_series(1, 3000) n;
create materialized view per_day as select day, count(*) as n from trades group by day;
create sequence positions start 42; select nextval('positions'), nextval('positions');
create unlogged table scratch (n int); insert into scratch select generate_series(1, 10);
select lo_from_bytea(0, 'a large object'::bytea);
delete from trades where id % 7 = 0; vacuum trades;
"""


@pytest.fixture
def repository(servers: Servers) -> Repository:
    return new_folder_repository(servers)


def dumped(cluster: Cluster, socket_dir: object, port: int) -> dict[str, str]:
    where = ["-h", str(socket_dir), "-p", str(port), "-U", "postgres", "--restrict-key=x", "--no-unlogged-table-data"]
    if (cluster.bin / "pg_dumpall").exists():
        return {"all": run([cluster.bin / "pg_dumpall", *where]).stdout}
    return {name: run([cluster.bin / "pg_dump", *where, "-C", name]).stdout for name in ("postgres", "蓝图 db")}


def checked(cluster: Cluster, instance: Instance) -> None:
    """Everything that this version's contrib can look at; the wheel has none of it."""
    copy = Cluster(
        bin=cluster.bin,
        major=cluster.major,
        data_dir=cluster.data_dir,
        socket_dir=instance.socket_dir,
        port=instance.port,
        log=instance.log,
    )
    unordered = "set enable_indexonlyscan = off; set enable_indexscan = off; set enable_bitmapscan = off;"
    ordered = "set enable_seqscan = off;"
    count = "select count(*) from trades where day > '2000-01-01'"
    assert copy.psql(f"{unordered} {count}") == copy.psql(f"{ordered} {count}")
    if cluster.value("select count(*) from pg_available_extensions where name = 'pg_visibility'") == 0:
        return
    bad = "select count(*) from pg_class c, lateral {check}(c.oid) where c.relkind in ('r', 'm', 't')"
    for check in ("pg_check_visible", "pg_check_frozen"):
        assert copy.value(bad.format(check=check)) == 0
    run(
        [
            *(cluster.bin / "pg_amcheck", "--all", "--heapallindexed", "--rootdescend"),
            *("-h", instance.socket_dir, "-p", str(instance.port), "-U", "postgres"),
        ]
    )


@every_version
def test_identical(major: int, make_cluster: MakeCluster, servers: Servers, repository: Repository) -> None:
    cluster = make_cluster(major)
    cluster.execute('create database "蓝图 db" template template0 encoding utf8')
    cluster.execute("create role tracker login password 'x'; alter role tracker set work_mem = '8MB'")
    for name in ("postgres", "蓝图 db"):
        for statement in OBJECTS.split(";\n"):
            if statement.strip():
                cluster.execute(statement, dbname=name) if "vacuum" not in statement else None
        cluster.execute("delete from trades where id % 7 = 0", dbname=name)
        cluster.execute("vacuum trades", dbname=name)
    if cluster.value("select count(*) from pg_available_extensions where name = 'pg_visibility'"):
        cluster.execute("create extension pg_visibility; create extension amcheck")
    before = dumped(cluster, cluster.socket_dir, cluster.port)
    snapshot = back_up(cluster, repository)
    assert dumped(cluster, cluster.socket_dir, cluster.port) == before
    target = servers.new_folder("back") / "data"
    bring_back(repository, snapshot, target)
    instance, _recovered = started(cluster, target)
    try:
        after = dumped(cluster, instance.socket_dir, instance.port)
        assert not [line for name in before for line in unified_diff(before[name].split("\n"), after[name].split("\n"))]
        checked(cluster, instance)
    finally:
        instance.stop()
    run([cluster.bin / "pg_checksums", "--check", "-D", target])


def test_a_superuser_of_another_name_and_no_database_postgres(
    make_cluster: MakeCluster, servers: Servers, repository: Repository
) -> None:
    cluster = make_cluster(15)
    cluster.execute("create role helper login superuser")
    cluster.execute('alter role postgres rename to "管理 员"', user="helper")
    cluster.execute("drop database postgres", user="helper", dbname="template1")
    target = servers.new_folder("back") / "data"
    snapshot = back_up(cluster, repository, connection=cluster.dsn("template1", "helper"))
    plan = bring_back(repository, snapshot, target)
    assert plan.facts.superuser == "管理 员"
    running = start(plan, plan_start(plan, [cluster.bin]), clock=CLOCK, stopped=lambda: False)
    stop_by_data_dir(target, binaries=cluster.bin, account=account_of(plan))
    assert "template1" in running.connection


@every_version
def test_from_a_standby(major: int, make_cluster: MakeCluster, servers: Servers, repository: Repository) -> None:
    primary = make_cluster(major)
    primary.pgbench_init(1)
    standby = servers.standby_of(primary)
    try:
        snapshot = back_up(standby, repository)
        assert snapshot.facts["from_standby"]
        target = servers.new_folder("back") / "data"
        bring_back(repository, snapshot, target)
        assert not (target / "standby.signal").exists()
        instance, recovered = started(primary, target)
        try:
            assert recovered.timeline == 2
            copy = Cluster(
                bin=primary.bin, major=major, data_dir=target, socket_dir=instance.socket_dir, port=instance.port,
                log=instance.log,
            )  # fmt: skip
            assert copy.value("select count(*) from pgbench_accounts") == 100_000
            copy.execute("create table writable as select 1 as n")
        finally:
            instance.stop()
    finally:
        servers.remove(standby)
