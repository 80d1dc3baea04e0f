from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from holdfast.errors import PermissionRefused
from holdfast.postgres.connection import connect
from holdfast.postgres.finding import Finding, Status
from holdfast.postgres.requirements import check_server, create_role, hba_lines, role_sql
from tests.servers import Cluster, Servers, every_version

ROLE = "Holdfast 备份"


@pytest.fixture(scope="module")
def cluster(servers: Servers) -> Iterator[Cluster]:
    made = servers.make_cluster(15)
    yield made
    servers.remove(made)


def _by_name(findings: list[Finding]) -> dict[str, Finding]:
    assert len({finding.name for finding in findings}) == len(findings)
    return {finding.name: finding for finding in findings}


def _not_ok(findings: list[Finding]) -> dict[str, Finding]:
    found = {name: finding for name, finding in _by_name(findings).items() if finding.status is not Status.OK}
    assert all(finding.remedy for finding in found.values())
    return found


@every_version
def test_a_stock_server_with_the_role_has_nothing_to_mend(make_cluster: Callable[..., Cluster], major: int) -> None:
    cluster = make_cluster(major)
    ran = create_role(cluster.dsn(), ROLE, "geheim 密码")
    assert "geheim" not in "".join(ran)
    findings = check_server(cluster.tcp_dsn(user=ROLE, password="geheim 密码"))
    assert not _not_ok(findings)
    assert len(findings) > 10
    assert _by_name(findings)["version"].what.startswith(f"PostgreSQL {major}.")
    # May be repeated, keeps the password, and does not make it a superuser.
    create_role(cluster.dsn(), ROLE, None)
    connect(cluster.tcp_dsn(user=ROLE, password="geheim 密码")).close()
    assert not cluster.value(f"select rolsuper or rolcreaterole or rolbypassrls from pg_roles where rolname = '{ROLE}'")


@every_version
def test_the_printed_sql_makes_the_same_role(make_cluster: Callable[..., Cluster], major: int) -> None:
    cluster = make_cluster(major)
    script = cluster.data_dir.parent / "role.sql"
    script.write_text(role_sql(ROLE, "postgres"))
    from tests.servers import run

    for _time in range(2):
        run([cluster.bin / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", cluster.dsn(), "-f", script])
    assert not _not_ok(check_server(cluster.dsn(user=ROLE)))
    with_function = cluster.value(
        f"select has_function_privilege('{ROLE}', 'pg_backup_start(text, boolean)', 'execute')"
    )
    assert with_function


def test_a_role_that_may_only_log_in(cluster: Cluster) -> None:
    cluster.execute("create role plain login")
    findings = _not_ok(check_server(cluster.dsn(user="plain")))
    assert list(findings) == ["role"]
    cluster.execute(findings["role"].remedy)
    findings = _not_ok(check_server(cluster.dsn(user="plain")))
    assert list(findings) == ["pg_monitor", "configuration"]
    assert {finding.status for finding in findings.values()} == {Status.WARNING}
    cluster.execute(findings["pg_monitor"].remedy)
    cluster.psql(findings["configuration"].remedy)
    assert not _not_ok(check_server(cluster.dsn(user="plain")))


def test_a_superuser_is_a_warning(cluster: Cluster) -> None:
    assert list(_not_ok(check_server(cluster.dsn()))) == ["role"]


def test_replication_that_pg_hba_conf_forbids(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    create_role(cluster.dsn(), "holdfast", None)
    hba = cluster.data_dir / "pg_hba.conf"
    hba.write_text("local all all trust\n")
    cluster.restart()
    (finding,) = _not_ok(check_server(cluster.dsn(user="holdfast"))).values()
    assert (finding.name, finding.status) == ("replication", Status.FAILED)
    assert "pg_reload_conf" in finding.remedy
    line = finding.remedy.splitlines()[-1]
    assert line == hba_lines("holdfast")[0] == "local replication holdfast scram-sha-256"
    hba.write_text(f"{line.replace('scram-sha-256', 'trust')}\n{hba.read_text()}")
    cluster.restart()
    assert not _not_ok(check_server(cluster.dsn(user="holdfast")))


def test_settings_that_forbid_or_endanger_backups(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(
        15,
        checksums=False,
        conf="wal_level = minimal\nmax_wal_senders = 0\nmax_replication_slots = 1\nfull_page_writes = off",
    )
    create_role(cluster.dsn(), "holdfast", None)
    found = _not_ok(check_server(cluster.dsn(user="holdfast")))
    assert {name: finding.status.value for name, finding in found.items()} == {
        "replication": "failed",
        "wal_level": "failed",
        "max_wal_senders": "failed",
        "max_replication_slots": "warning",
        "full_page_writes": "failed",
        "data_checksums": "warning",
    }
    for name in ("wal_level", "max_wal_senders", "max_replication_slots", "full_page_writes"):
        for line in found[name].remedy.splitlines():
            if line.startswith(("ALTER", "SELECT")):
                cluster.execute(line)
    cluster.restart()
    assert list(_not_ok(check_server(cluster.dsn(user="holdfast")))) == ["data_checksums"]


def test_a_server_that_is_down_is_one_finding(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    cluster.stop()
    (finding,) = check_server(cluster.dsn())
    assert (finding.name, finding.status) == ("connection", Status.FAILED)
    assert "pg_isready" in finding.remedy


def test_a_standby_says_so(servers: Servers, cluster: Cluster) -> None:
    standby = servers.standby_of(cluster)
    try:
        findings = _by_name(check_server(standby.dsn()))
        assert findings["recovery"].what == "a standby"
        assert _by_name(check_server(cluster.dsn()))["recovery"].what == "a primary"
    finally:
        servers.remove(standby)


def test_only_a_superuser_makes_the_role(cluster: Cluster) -> None:
    cluster.execute("create role small login createrole")
    with pytest.raises(PermissionRefused):
        create_role(cluster.dsn(user="small"), "another", None)
    assert cluster.value("select count(*) from pg_roles where rolname = 'another'") == 0


def test_hba_lines_for_another_machine() -> None:
    assert hba_lines("holdfast", address="10.0.0.7", database="app") == [
        "host replication holdfast 10.0.0.7/32 scram-sha-256",
        "host app holdfast 10.0.0.7/32 scram-sha-256",
    ]
