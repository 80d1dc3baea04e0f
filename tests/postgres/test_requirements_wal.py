from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from holdfast.postgres.finding import Finding, Status
from holdfast.postgres.requirements import check_server, create_role
from holdfast.postgres.requirements_sync import parse_sync_names
from holdfast.postgres.requirements_wal import WantedWal
from holdfast.postgres.streaming import WalSession
from tests.servers import Cluster, Servers, every_version, wait_until

STREAM = WantedWal(source="tracker", via="stream", slot="holdfast_tracker", retain=16 * 10**9, synchronous=False)
SYNCHRONOUS = WantedWal(source="tracker", via="stream", slot="holdfast_tracker", retain=16 * 10**9, synchronous=True)
ARCHIVE = WantedWal(source="tracker", via="archive", slot="holdfast_tracker", retain=16 * 10**9, synchronous=False)
OFF = WantedWal(source="tracker", via="off", slot="holdfast_tracker", retain=16 * 10**9, synchronous=False)


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    made = make_cluster(15)
    create_role(made.dsn(), "holdfast", None)
    return made


def findings(cluster: Cluster, wal: WantedWal) -> dict[str, Finding]:
    found = check_server(cluster.dsn(user="holdfast"), wal)
    assert len({finding.name for finding in found}) == len(found)
    assert all(finding.remedy for finding in found if finding.status is not Status.OK)
    return {finding.name: finding for finding in found}


def not_ok(cluster: Cluster, wal: WantedWal) -> dict[str, str]:
    return {
        name: finding.status.value
        for name, finding in findings(cluster, wal).items()
        if finding.status is not Status.OK
    }


def mend(cluster: Cluster, finding: Finding) -> None:
    """What the finding says, line by line: SQL is run, a restart done."""
    for line in finding.remedy.splitlines():
        if line.startswith(("ALTER", "SELECT")):
            cluster.execute(line)
        elif "restart" in line:
            cluster.restart()


def set_to(cluster: Cluster, **settings: str) -> None:
    """And wait until a session sees it."""
    for name, value in settings.items():
        cluster.execute(f"alter system set {name} = '{value}'")
    cluster.execute("select pg_reload_conf()")
    for name, value in settings.items():
        wait_until(lambda n=name, v=value: cluster.value(f"select current_setting('{n}')") == v, f"{name} = {value}")  # type: ignore[misc]


@every_version
def test_a_stock_server_lets_a_slot_fill_its_disk(make_cluster: Callable[..., Cluster], major: int) -> None:
    cluster = make_cluster(major)
    create_role(cluster.dsn(), "holdfast", None)
    assert not_ok(cluster, STREAM) == {"max_slot_wal_keep_size": "warning"}
    mend(cluster, findings(cluster, STREAM)["max_slot_wal_keep_size"])
    wait_until(lambda: not_ok(cluster, STREAM) == {}, "the setting that the remedy makes is well")
    assert cluster.value("show max_slot_wal_keep_size") == "19GB"
    set_to(cluster, max_slot_wal_keep_size="1GB")  # below our own limit
    assert not_ok(cluster, STREAM) == {}
    set_to(cluster, max_slot_wal_keep_size="16MB")
    assert not_ok(cluster, STREAM) == {"max_slot_wal_keep_size": "warning"}
    assert not_ok(cluster, OFF) == {}


@every_version
def test_an_idle_slot_that_the_server_gives_up(make_cluster: Callable[..., Cluster], major: int) -> None:
    cluster = make_cluster(major, conf="max_slot_wal_keep_size = 1GB")
    create_role(cluster.dsn(), "holdfast", None)
    name = "idle_replication_slot_timeout"
    if major < 18:
        assert name not in findings(cluster, STREAM)
        return
    assert findings(cluster, STREAM)[name].status is Status.OK
    set_to(cluster, idle_replication_slot_timeout="1h")
    assert not_ok(cluster, STREAM) == {name: "warning"}
    mend(cluster, findings(cluster, STREAM)[name])
    wait_until(lambda: not_ok(cluster, STREAM) == {}, "the remedy is in force")


@pytest.mark.parametrize(("value", "said"), [("0", "never noticed"), ("2s", "ends the stream")])
def test_how_long_the_server_waits_for_a_receiver(cluster: Cluster, value: str, said: str) -> None:
    set_to(cluster, max_slot_wal_keep_size="1GB", wal_sender_timeout=value)
    assert not_ok(cluster, STREAM) == {"wal_sender_timeout": "warning"}
    finding = findings(cluster, STREAM)["wal_sender_timeout"]
    assert said in finding.what
    mend(cluster, finding)
    wait_until(lambda: not_ok(cluster, STREAM) == {}, "the remedy is in force")


@pytest.mark.parametrize(
    ("text", "has", "needs", "counts"),
    [
        ("holdfast", True, True, True),
        ("HoldFast", True, True, True),
        ('"holdfast"', True, True, True),
        ("*", True, False, True),
        ("s1, holdfast", True, False, False),
        ("holdfast, s1", True, False, True),
        ("2 (s1, holdfast)", True, True, True),
        ("FIRST 1 (s1, holdfast)", True, False, False),
        ("ANY 1 (s1, holdfast)", True, False, False),
        ("any 2 (s1, holdfast)", True, True, True),
        ("ANY 1 (holdfast)", True, True, True),
        ("ANY 1 (*)", True, False, False),
        ("s1", False, False, False),
        ('"holdfast, s1"', False, False, False),
        ("first", False, False, False),
    ],
)
def test_whom_commits_wait_for(text: str, has: bool, needs: bool, counts: bool) -> None:
    named = parse_sync_names(text)
    assert named is not None
    assert (named.has("holdfast"), named.needs("holdfast"), named.counts("holdfast")) == (has, needs, counts)


def test_nobody_is_named() -> None:
    assert parse_sync_names("") is None
    assert parse_sync_names(" ") is None


def test_commits_that_should_wait_and_do_not(cluster: Cluster) -> None:
    set_to(cluster, max_slot_wal_keep_size="1GB")
    assert not_ok(cluster, STREAM) == {}
    assert not_ok(cluster, SYNCHRONOUS) == {"synchronous_standby_names": "warning"}
    remedy = findings(cluster, SYNCHRONOUS)["synchronous_standby_names"].remedy
    assert remedy.startswith("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (holdfast)';")
    set_to(cluster, synchronous_standby_names="ANY 1 (holdfast, s1)")
    assert not_ok(cluster, SYNCHRONOUS) == {}
    set_to(cluster, synchronous_commit="local")
    assert not_ok(cluster, SYNCHRONOUS) == {"synchronous_commit": "warning"}
    assert not_ok(cluster, STREAM) == {}


def test_commits_that_would_wait_for_holdfast_alone(cluster: Cluster) -> None:
    set_to(cluster, max_slot_wal_keep_size="1GB", synchronous_commit="local", synchronous_standby_names="holdfast")
    finding = findings(cluster, STREAM)["synchronous_standby_names"]
    assert finding.status is Status.WARNING
    assert "ANY 1 (holdfast, STANDBY)" in finding.remedy
    assert "ALTER SYSTEM SET synchronous_standby_names = ''" in finding.remedy


def test_a_standby_that_is_there_is_proposed(servers: Servers, cluster: Cluster) -> None:
    standby = servers.standby_of(cluster)
    try:
        set_to(cluster, synchronous_commit="local", synchronous_standby_names="holdfast")
        wait_until(
            lambda: cluster.value("select count(*) from pg_stat_replication where state = 'streaming'"), "it streams"
        )
        remedy = findings(cluster, STREAM)["synchronous_standby_names"].remedy
        mend(cluster, findings(cluster, STREAM)["synchronous_standby_names"])
        assert "ANY 1 (holdfast, walreceiver)" in remedy
        waited = findings(standby, SYNCHRONOUS)["synchronous_standby_names"]
        assert waited.status is Status.WARNING
        assert "primary" in waited.remedy
    finally:
        set_to(cluster, synchronous_standby_names="")
        servers.remove(standby)


def test_remote_apply_hangs_for_ever(cluster: Cluster) -> None:
    set_to(cluster, max_slot_wal_keep_size="1GB")
    cluster.execute("alter system set synchronous_standby_names = 'holdfast, s1'")
    cluster.execute("alter system set synchronous_commit = 'remote_apply'")
    cluster.execute("select pg_reload_conf()")
    wait_until(lambda: cluster.value("show synchronous_commit") == "remote_apply", "the setting is in force")
    finding = findings(cluster, STREAM)["synchronous_commit"]
    assert finding.status is Status.FAILED
    cluster.execute(finding.remedy.splitlines()[0])
    cluster.execute("select pg_reload_conf()")
    wait_until(lambda: not_ok(cluster, STREAM) == {}, "the remedy is in force")


def test_remote_apply_of_one_role(cluster: Cluster) -> None:
    set_to(cluster, max_slot_wal_keep_size="1GB")
    cluster.execute("alter role postgres set synchronous_commit = remote_apply")
    assert not_ok(cluster, STREAM) == {}  # nobody waits for us
    set_to(cluster, synchronous_standby_names="ANY 1 (holdfast, s1)")
    assert not_ok(cluster, STREAM) == {"synchronous_commit": "warning"}


def test_archive_command_where_wal_comes_by_it(cluster: Cluster) -> None:
    assert not_ok(cluster, ARCHIVE) == {
        "archive_mode": "failed",
        "archive_command": "failed",
        "archive_timeout": "warning",
    }
    for name in ("archive_command", "archive_timeout", "archive_mode"):  # the last one restarts
        mend(cluster, findings(cluster, ARCHIVE)[name])
    assert {name: status for name, status in not_ok(cluster, ARCHIVE).items() if name != "archiver"} == {}
    assert cluster.value("show archive_command") == "holdfast wal push --source tracker %p"


def test_another_tools_archiving_beside_the_stream(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(
        15, conf="max_slot_wal_keep_size = 1GB\narchive_mode = on\narchive_command = 'false pgbackrest archive-push %p'"
    )
    create_role(cluster.dsn(), "holdfast", None)
    found = findings(cluster, STREAM)["archive_command"]
    assert found.status is Status.OK
    assert "pgbackrest" in found.what
    cluster.execute("select pg_switch_wal()")
    wait_until(lambda: cluster.value("select failed_count from pg_stat_archiver"), "archiving fails", 60)
    assert not_ok(cluster, STREAM) == {"archiver": "warning"}
    assert "archive_command" in {name for name, status in not_ok(cluster, ARCHIVE).items() if status == "failed"}


@pytest.fixture
def slot(cluster: Cluster) -> Iterator[WalSession]:
    """A session that may take the slot into use."""
    set_to(cluster, max_slot_wal_keep_size="1GB")
    with WalSession(cluster.dsn()) as session:
        session.create_slot("holdfast_tracker")
        yield session


def test_our_slot(cluster: Cluster, slot: WalSession) -> None:
    found = findings(cluster, STREAM)["slot"]
    assert found.status is Status.WARNING
    assert "holdfast wal receive tracker" in found.remedy
    for wal in (OFF, ARCHIVE):
        left = findings(cluster, wal)["slot"]
        assert left.status is Status.WARNING
        assert left.remedy == "SELECT pg_drop_replication_slot('holdfast_tracker');"
    begin = slot.slot("holdfast_tracker")
    assert begin is not None
    assert begin.restart_lsn is not None
    slot.start("holdfast_tracker", begin.restart_lsn, 1)
    wait_until(lambda: cluster.value("select active from pg_replication_slots"), "the slot is in use")
    assert not_ok(cluster, STREAM) == {}
    small = WantedWal(source="tracker", via="stream", slot="holdfast_tracker", retain=1000, synchronous=False)
    cluster.execute("select pg_switch_wal()")
    assert not_ok(cluster, small) == {"slot": "warning"}


def test_our_slot_that_is_lost(cluster: Cluster, slot: WalSession) -> None:
    set_to(cluster, max_slot_wal_keep_size="1MB", min_wal_size="32MB", max_wal_size="32MB")

    def lost() -> bool:
        cluster.psql(
            "select pg_logical_emit_message(false, 'x', repeat('x', 1000)); select pg_switch_wal(); checkpoint"
        )
        return bool(cluster.value("select wal_status from pg_replication_slots") == "lost")

    wait_until(lost, "the slot is lost")
    found = findings(cluster, STREAM)["slot"]
    assert found.status is Status.FAILED
    assert "holdfast wal receive tracker" in found.remedy


def test_a_logical_slot_with_our_name(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15, conf="wal_level = logical")
    create_role(cluster.dsn(), "holdfast", None)
    cluster.execute("select pg_create_logical_replication_slot('holdfast_tracker', 'test_decoding')")
    assert findings(cluster, STREAM)["slot"].status is Status.FAILED


def test_room_for_the_receiver_that_runs_is_not_asked_twice(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15, conf="max_replication_slots = 2\nmax_slot_wal_keep_size = 1GB")
    create_role(cluster.dsn(), "holdfast", None)
    assert not_ok(cluster, STREAM) == {}
    cluster.execute("select pg_create_physical_replication_slot('holdfast_tracker', true)")
    assert list(not_ok(cluster, STREAM)) == ["slot"]
    other = WantedWal(source="other", via="stream", slot="holdfast_other", retain=1000, synchronous=False)
    assert not_ok(cluster, other) == {"max_replication_slots": "warning"}


def test_patroni_is_known_by_its_sessions_or_its_command_line(
    make_cluster: Callable[..., Cluster], cluster: Cluster
) -> None:
    assert "patroni" not in findings(cluster, STREAM)
    with psycopg.connect(cluster.dsn() + " application_name='Patroni heartbeat'"):
        found = findings(cluster, STREAM)["patroni"]
        assert found.status is Status.WARNING
        assert found.remedy.splitlines()[-3:] == ["ignore_slots:", "  - name: holdfast_tracker", "    type: physical"]
        cluster.execute("select pg_create_physical_replication_slot('holdfast_tracker', true)")
        assert findings(cluster, STREAM)["patroni"].status is Status.OK
    cluster.stop()
    options = ("cluster_name=demo", "wal_log_hints=on", "max_connections=50", "wal_level=replica")
    cluster.start(*(f"--{option}" for option in options))
    assert "patroni" in findings(cluster, STREAM)
