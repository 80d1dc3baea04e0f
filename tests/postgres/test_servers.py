"""The clusters that the other tests stand on."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.servers import Cluster, Servers, balance_holds, debian_cluster, every_version


@every_version
def test_a_cluster_answers_over_its_socket_and_over_tcp(make_cluster: Callable[..., Cluster], major: int) -> None:
    cluster = make_cluster(major, tablespace=True, conf="max_connections = 37")
    assert cluster.value("show max_connections") == "37"
    with psycopg.connect(cluster.tcp_dsn()) as connection:
        assert connection.info.server_version // 10000 == major == cluster.major
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(cluster.tcp_dsn(password="wrong"))
    cluster.execute("create table t tablespace ts1 as select 1")
    assert any(path.is_file() for path in cluster.tablespaces["ts1"].rglob("*"))
    assert cluster.control_data()["Data page checksum version"] == "1"
    pid = cluster.pid
    cluster.kill()
    assert cluster.pid is None
    cluster.start()
    assert cluster.pid != pid


@every_version
def test_a_standby_follows(servers: Servers, make_cluster: Callable[..., Cluster], major: int) -> None:
    primary = make_cluster(major, checksums=False, tablespace=True)
    assert primary.control_data()["Data page checksum version"] == "0"
    standby = servers.standby_of(primary)
    assert standby.value("select pg_is_in_recovery()")
    primary.execute("create table after_it (x int)")
    servers.remove(standby)


def test_load_keeps_the_invariant(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    cluster.pgbench_init()
    with cluster.load():
        assert balance_holds(cluster)
    cluster.execute("update pgbench_branches set bbalance = bbalance + 1")
    assert not balance_holds(cluster)


def test_a_debian_cluster_keeps_its_configuration_in_etc() -> None:
    with debian_cluster() as cluster:
        assert cluster.value("show config_file").startswith("/etc/postgresql/15/holdfast_")
        assert not (cluster.data_dir / "postgresql.conf").exists()
        with psycopg.connect(cluster.tcp_dsn()):
            pass
    assert not cluster.data_dir.exists()
