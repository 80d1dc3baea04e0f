"""Restored copies of real clusters, really recovered: to their target, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from holdfast.clock import SystemClock
from holdfast.errors import AlreadyRunning, HoldfastError, Interrupted, Refused
from holdfast.postgres import restored
from holdfast.postgres.accounts import Account
from holdfast.postgres.datadir import parse_backup_label, read_control_file
from holdfast.postgres.instance import Instance, new_socket_dir
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.recovery import CONSISTENT, END_OF_WAL, RESTORE_COMMAND, WRAPPER, Target
from holdfast.postgres.restored import Recovered, start_restored
from tests.postgres.restoring import Folder, base_backup, read_backup
from tests.requirements import require
from tests.servers import (
    PASSWORD,
    Cluster,
    Servers,
    balance_holds,
    binaries,
    debian_cluster,
    every_version,
    give,
    give_all,
    run,
    wait_until,
)

Maker = Callable[..., Cluster]


def start(folder: Folder, **options: object) -> tuple[Instance, Recovered]:
    defaults: dict[str, object] = {"shared_buffers": "16MB", "settings": {"fsync": "off"}, "limit": 120}
    return start_restored(
        folder.data,
        binaries=folder.cluster.bin,
        clock=SystemClock(),
        **{**defaults, **options},  # type: ignore[arg-type]
    )


def as_cluster(folder: Folder, instance: Instance) -> Cluster:
    """The started copy, seen through what the tests have for clusters."""
    return Cluster(
        bin=folder.cluster.bin,
        major=folder.cluster.major,
        data_dir=folder.data,
        socket_dir=instance.socket_dir,
        port=instance.port,
        log=instance.log,
    )


@pytest.fixture
def socket_dirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No start leaves its socket's folder in /tmp."""
    made: list[Path] = []

    def recorded(account: Account) -> Path:
        made.append(new_socket_dir(account))
        return made[-1]

    monkeypatch.setattr(restored, "new_socket_dir", recorded)
    yield
    assert not any(path.exists() for path in made)


@every_version
@pytest.mark.parametrize("source", ["primary", "standby"])
def test_a_copy_taken_under_load_recovers_whole(
    servers: Servers, make_cluster: Maker, socket_dirs: None, major: int, source: str
) -> None:
    cluster = make_cluster(major, tablespace=True, conf="max_connections = 60\nmax_prepared_transactions = 5")
    cluster.pgbench_init()
    cluster.execute('create database "数据 库" tablespace ts1')
    cluster.execute("create table t as select generate_series(1, 1000) n", dbname="数据 库")
    amcheck = cluster.value("select count(*) from pg_available_extensions where name = 'amcheck'")
    if amcheck:
        cluster.execute("create extension amcheck")
    origin = servers.standby_of(cluster) if source == "standby" else cluster
    with cluster.load():
        folder = base_backup(servers, origin)
    assert (folder.data / "standby.signal").exists() == (source == "standby")
    label = parse_backup_label((folder.data / "backup_label").read_bytes())
    folder.prepare()
    instance, recovered = start(folder)
    with instance:
        copy = as_cluster(folder, instance)
        assert not copy.value("select pg_is_in_recovery()")
        assert recovered.timeline == label.timeline + 1
        assert label.start_lsn < recovered.end_lsn <= Lsn.parse(cluster.value("select pg_current_wal_lsn()::text"))
        assert recovered.system_identifier == int(cluster.control_data()["Database system identifier"])
        assert balance_holds(copy)
        assert (
            0
            < copy.value("select count(*) from pgbench_history")
            <= cluster.value("select count(*) from pgbench_history")
        )
        assert copy.value("select sum(n)::int from t", dbname="数据 库") == 500500
        ((location,),) = copy.execute("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'ts1'")
        assert location == str(folder.data.parent / "ts1")
        if amcheck:
            address = ("-h", copy.socket_dir, "-p", str(copy.port), "-U", "postgres", "-d", "postgres")
            run([copy.bin / "pg_amcheck", *address, "--heapallindexed", "--parent-check"])
        copy.execute("create table written_after (x int) tablespace ts1")
        with psycopg.connect(copy.tcp_dsn()) as session:
            assert session.info.password == PASSWORD
    assert not instance.is_running()
    if origin is not cluster:
        servers.remove(origin)


@every_version
@pytest.mark.parametrize("source", ["primary", "standby"])
def test_what_our_own_reader_took_recovers_whole(
    servers: Servers, make_cluster: Maker, major: int, source: str
) -> None:
    cluster = make_cluster(major, tablespace=True, conf="max_connections = 60")
    cluster.pgbench_init()
    cluster.execute('create database "数据 库" tablespace ts1')
    cluster.execute("create table t as select generate_series(1, 1000) n", dbname="数据 库")
    origin = servers.standby_of(cluster) if source == "standby" else cluster
    with cluster.load():
        folder, facts = read_backup(servers, origin)
    assert facts.from_standby == (source == "standby")
    folder.prepare(END_OF_WAL if facts.from_standby else CONSISTENT)
    instance, recovered = start(folder, limits=facts.limits)
    with instance:
        copy = as_cluster(folder, instance)
        assert recovered.end_lsn >= facts.stop_lsn
        assert recovered.timeline == facts.timeline + 1
        assert balance_holds(copy)
        assert copy.value("select sum(n)::int from t", dbname="数据 库") == 500500
        assert copy.value("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'ts1'") in (
            folder.tablespaces.values()
        )
    if origin is not cluster:
        servers.remove(origin)


@pytest.fixture
def later(servers: Servers, make_cluster: Maker) -> tuple[Folder, int, Lsn]:
    """A backup, and three further segments in which 300 rows are committed; how many, and where the last ends."""
    cluster = make_cluster(15, conf="wal_keep_size = 1GB")
    cluster.execute("create table t (n int)")
    folder = base_backup(servers, cluster)
    for _segment in range(3):
        cluster.execute("insert into t select generate_series(1, 100)")
        cluster.execute("select pg_switch_wal()")
    cluster.execute("checkpoint")
    end = Lsn.parse(cluster.value("select pg_current_wal_insert_lsn()::text"))
    for path in sorted((cluster.data_dir / "pg_wal").glob("0*")):
        if path.name not in folder.planned() and path.name <= cluster.value(
            "select pg_walfile_name(pg_current_wal_insert_lsn())"
        ):
            shutil.copyfile(path, folder.wal / path.name)
    return folder, 300, end


def test_the_end_of_the_planned_wal_brings_every_row(later: tuple[Folder, int, Lsn]) -> None:
    folder, rows, end = later
    folder.prepare(END_OF_WAL)
    instance, recovered = start(folder)
    with instance:
        assert as_cluster(folder, instance).value("select count(*) from t") == rows
        assert recovered.end_lsn == end


def test_a_target_that_is_an_lsn_is_met(later: tuple[Folder, int, Lsn]) -> None:
    folder, _rows, _end = later
    third = folder.planned()[-2]
    target = Lsn(int(third[8:16], 16) << 32 | int(third[16:], 16) << 24)
    folder.prepare(Target(setting="recovery_target_lsn", value=str(target)))
    instance, recovered = start(folder)
    with instance:
        assert as_cluster(folder, instance).value("select count(*) from t") == 200
        assert target <= recovered.end_lsn < target + 8192


def _without_segment(folder: Folder) -> None:
    (folder.wal / folder.planned()[-2]).unlink()


def _segment_cut_short(folder: Folder) -> None:
    os.truncate(folder.wal / folder.planned()[-2], 8192 * 100)


def _without_wrapper(folder: Folder) -> None:
    (folder.data / WRAPPER).unlink()


def _plan_cut_short(folder: Folder) -> None:
    plan = folder.data / "holdfast-recovery" / "plan"
    plan.write_text(f"{folder.planned()[0]}\n{folder.planned()[1]}\n")


@pytest.mark.parametrize("damage", [_without_segment, _segment_cut_short, _without_wrapper, _plan_cut_short])
def test_wal_that_must_exist_and_does_not_stops_recovery_instead_of_promoting(
    later: tuple[Folder, int, Lsn], socket_dirs: None, damage: Callable[[Folder], None]
) -> None:
    folder, rows, _end = later
    folder.prepare(END_OF_WAL)
    spare = folder.data.with_name("spare")
    run(["cp", "-a", folder.data, spare])
    damage(folder)
    with pytest.raises(HoldfastError, match="ended instead of starting") as caught:
        start(folder)
    assert "could not restore file" in caught.value.hint
    assert not list((folder.data / "pg_wal").glob("*.history"))
    assert read_control_file(folder.data).timeline == 1
    assert (folder.data / "recovery.signal").exists()

    # The same folder goes on to the right end once its WAL is there again.
    shutil.rmtree(folder.data / "holdfast-recovery")
    shutil.copytree(spare / "holdfast-recovery", folder.data / "holdfast-recovery")
    give_all(folder.data / "holdfast-recovery")
    instance, _recovered = start(folder)
    with instance:
        assert as_cluster(folder, instance).value("select count(*) from t") == rows


def test_a_command_that_only_copies_would_have_lost_rows(later: tuple[Folder, int, Lsn]) -> None:
    """Why the wrapper is what it is: with plain cp, as in PostgreSQL's manual, the same loses rows in silence."""
    folder, rows, _end = later
    folder.prepare(END_OF_WAL)
    _without_segment(folder)
    conf = folder.data / "postgresql.auto.conf"
    text = conf.read_text()
    assert RESTORE_COMMAND in text
    conf.write_text(text.replace(RESTORE_COMMAND, "cp holdfast-recovery/wal/%f %p"))
    instance, _recovered = start(folder)
    with instance:
        assert as_cluster(folder, instance).value("select count(*) from t") < rows


def test_history_files_that_are_planned_lead_onto_the_newest_timeline(servers: Servers, make_cluster: Maker) -> None:
    cluster = make_cluster(18, conf="wal_keep_size = 1GB")
    cluster.execute("create table t (n int)")
    folder = base_backup(servers, cluster)
    standby = servers.standby_of(cluster)
    cluster.execute("insert into t values (1)")
    goal = cluster.value("select pg_current_wal_lsn()::text")
    wait_until(lambda: standby.value(f"select pg_last_wal_replay_lsn() >= '{goal}'"), "the standby has the row")
    cluster.execute("select pg_switch_wal()")
    cluster.stop()
    standby.execute("select pg_promote()")
    standby.execute("insert into t values (2)")
    standby.stop()
    folder.add_wal(cluster.data_dir / "pg_wal", standby.data_dir / "pg_wal")
    assert "00000002.history" in folder.planned()
    folder.prepare(END_OF_WAL)
    instance, recovered = start(folder)
    with instance:
        assert as_cluster(folder, instance).execute("select n from t order by n") == [(1,), (2,)]
        assert recovered.timeline == 3
    servers.remove(standby)


HOSTILE = """
archive_mode = on
archive_command = 'touch {outside}/archived; true'
archive_cleanup_command = 'touch {outside}/cleaned'
recovery_end_command = 'touch {outside}/ended'
external_pid_file = '{outside}/source.pid'
synchronous_standby_names = 'nobody'
session_preload_libraries = ''
max_connections = 77
max_worker_processes = 12
max_wal_senders = 14
max_locks_per_transaction = 90
unix_socket_permissions = 0777
cluster_name = 'source'
"""


@every_version
def test_a_copy_keeps_its_hands_off_the_sources_surroundings(
    servers: Servers, make_cluster: Maker, socket_dirs: None, major: int
) -> None:
    outside = servers.new_folder("o")
    cluster = make_cluster(major, conf=HOSTILE.format(outside=outside), started=False)
    cluster.start("-c synchronous_standby_names=")
    pid_file = outside / "source.pid"
    source_pid = pid_file.read_text()
    cluster.execute("create table t as select generate_series(1, 10) n")
    folder = base_backup(servers, cluster)
    wait_until((outside / "archived").exists, "the source archives")
    with (folder.data / "postgresql.conf").open("a") as conf:
        # What the source's machine has and this one has not; and limits lowered since, which would pause recovery.
        conf.write("session_preload_libraries = 'no_such_library'\nlocal_preload_libraries = 'nor_this'\n")
        conf.write("shared_preload_libraries = 'pg_cron, pg_stat_statements'\n")
        conf.write("ssl = on\nssl_cert_file = '/nowhere'\n" if not servers_without_ssl(cluster) else "")
        conf.write("hba_file = '/nowhere/pg_hba.conf'\nhuge_pages = on\nshared_buffers = '4TB'\n")
        conf.write("max_connections = 20\nmax_worker_processes = 1\nmax_wal_senders = 1\nport = 1\n")
        conf.write("unix_socket_directories = '/nowhere'\nunix_socket_group = 'nobodys'\n")
        conf.write("event_triggers = on\n" if major >= 17 else "")
    folder.prepare()
    before = {path: path.stat().st_mtime_ns for path in outside.iterdir()}
    (outside / "archived").unlink()
    instance, _recovered = start(folder)
    with instance:
        copy = as_cluster(folder, instance)
        copy.execute("insert into t values (11)")
        copy.execute("select pg_switch_wal()")
        assert copy.value("select count(*) from t") == 11
        assert copy.value("show archive_mode") == "off"
        assert copy.value("show ssl") == "off"
        assert copy.value("show unix_socket_permissions") == "0700"
        assert copy.value("show max_connections") == "77"
        assert copy.value("show max_worker_processes") == "12"
        assert copy.value("show shared_preload_libraries") == ""
        assert copy.value("show max_logical_replication_workers") == "0"
        assert (instance.socket_dir.stat().st_mode & 0o777) == 0o700
    assert pid_file.read_text() == source_pid
    assert not (outside / "archived").exists()
    assert {path.name for path in before} - {"archived"} == {path.name for path in outside.iterdir()} == {"source.pid"}


def servers_without_ssl(cluster: Cluster) -> bool:
    return "ssl" not in run([cluster.bin / "pg_config", "--configure"]).stdout


def test_prepared_transactions_survive_a_configuration_that_forbids_them(servers: Servers, make_cluster: Maker) -> None:
    cluster = make_cluster(16, conf="max_prepared_transactions = 3")
    cluster.psql("create table t (n int)")
    cluster.psql("begin; insert into t values (1); prepare transaction 'held'")
    folder = base_backup(servers, cluster)
    with (folder.data / "postgresql.conf").open("a") as conf:
        conf.write("max_prepared_transactions = 0\n")
    folder.prepare()
    instance, _recovered = start(folder)
    with instance:
        copy = as_cluster(folder, instance)
        copy.execute("commit prepared 'held'")
        assert copy.value("select n from t") == 1
    cluster.execute("rollback prepared 'held'")


def test_a_debian_cluster_starts_with_its_configuration_from_etc_and_leaves_the_live_one_alone(
    servers: Servers,
) -> None:
    with debian_cluster() as cluster:
        cluster.execute("create table t as select 1 n")
        cluster.execute("alter system set work_mem = '7MB'")
        live = cluster.pid
        folder = base_backup(servers, cluster)
        assert not (folder.data / "postgresql.conf").exists()
        etc = folder.data / "holdfast-etc"
        shutil.copytree(Path(cluster.value("show config_file")).parent, etc)
        with (etc / "postgresql.conf").open("a") as conf:
            conf.write("idle_in_transaction_session_timeout = '4711s'\n")
        give_all(etc)
        give(etc)
        folder.prepare()
        assert str(cluster.data_dir) in (etc / "postgresql.conf").read_text()
        pid_file = Path(cluster.value("show external_pid_file"))
        said = pid_file.read_text()
        instance, recovered = start(folder)
        with instance:
            copy = as_cluster(folder, instance)
            assert copy.value("show data_directory") == str(folder.data)
            assert copy.value("show idle_in_transaction_session_timeout") == "4711s"
            assert copy.value("show work_mem") == "7MB"
            assert recovered.config_file == etc / "postgresql.conf"
            copy.execute("insert into t values (2)")
        assert cluster.pid == live
        assert pid_file.read_text() == said
        assert cluster.value("select count(*) from t") == 1

        bare = base_backup(servers, cluster)
        bare.prepare()
        instance, recovered = start(bare)
        with instance:
            assert as_cluster(bare, instance).value("select count(*) from t") == 1
            assert recovered.config_file.is_relative_to(bare.data / "holdfast-recovery")


def test_a_long_path_does_not_reach_the_socket(servers: Servers, make_cluster: Maker) -> None:
    cluster = make_cluster(15)
    home = servers.new_folder("l") / ("long " * 20) / ("路" * 30)
    home.mkdir(parents=True)
    for folder in (home, home.parent):
        give(folder)
    folder_ = base_backup(servers, cluster, home=home)
    folder_.prepare()
    instance, _recovered = start(folder_, listen=False)
    with instance:
        copy = as_cluster(folder_, instance)
        assert copy.value("show listen_addresses") == ""
        assert len(str(instance.socket_dir)) < 40


@pytest.fixture
def small(servers: Servers, make_cluster: Maker) -> Folder:
    folder = base_backup(servers, make_cluster(15))
    folder.prepare()
    return folder


def test_what_the_server_says_is_shown(small: Folder, socket_dirs: None) -> None:
    with pytest.raises(HoldfastError, match=r"unrecognized configuration parameter \"no_such\"") as caught:
        start(small, settings={"no_such": "1"})
    assert "server.log" in caught.value.hint
    with (small.data / "postgresql.conf").open("a") as conf:
        conf.write("include '/no/such/file.conf'\n")
    with pytest.raises(HoldfastError, match="cannot read the configuration") as caught:
        start(small)
    assert "/no/such/file.conf" in caught.value.hint


def test_a_role_that_the_copy_does_not_have_is_an_error_and_nothing_runs_on(small: Folder, socket_dirs: None) -> None:
    with pytest.raises(HoldfastError, match="nobody_here"):
        start(small, role="nobody_here")
    assert not (small.data / "postmaster.pid").exists()


def test_an_interrupted_start_leaves_nothing_running(small: Folder, socket_dirs: None) -> None:
    answers = iter([False, True])
    with pytest.raises(Interrupted):
        start(small, stopped=lambda: next(answers))
    assert not (small.data / "postmaster.pid").exists()


def test_a_start_that_takes_too_long_is_ended(small: Folder, socket_dirs: None) -> None:
    with pytest.raises(HoldfastError, match="not ready after 0 s"):
        start(small, limit=0)
    left = small.data / "postmaster.pid"  # one that was ended before it heeded signals leaves its file, and no more
    if left.exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int(left.read_text().split()[0]), 0)


def test_a_folder_that_is_not_prepared_is_refused(small: Folder, socket_dirs: None) -> None:
    (small.data / "postmaster.pid").write_text("1\n")
    with pytest.raises(AlreadyRunning):
        start(small)
    (small.data / "postmaster.pid").unlink()
    (small.data / "standby.signal").touch()
    with pytest.raises(HoldfastError, match=r"no standby\.signal"):
        start(small)
    (small.data / "standby.signal").unlink()
    (small.data / "recovery.signal").unlink()
    with pytest.raises(HoldfastError, match=r"must have recovery\.signal"):
        start(small)


def test_a_folder_that_the_servers_user_cannot_use_is_refused(small: Folder, socket_dirs: None) -> None:
    require(os.geteuid() == 0, "only root runs servers as somebody else")
    small.data.parent.chmod(0o700)
    os.chown(small.data.parent, 0, 0)
    with pytest.raises(Refused, match=f"cannot enter {small.data.parent}"):
        start(small)
    small.data.parent.chmod(0o755)
    os.chown(small.data, 0, 0)
    with pytest.raises(Refused, match="does not belong to") as caught:
        start(small)
    assert "chown -R" in caught.value.hint
    give(small.data)


def test_locales_that_this_machine_lacks_do_not_stop_a_start(small: Folder, socket_dirs: None) -> None:
    with (small.data / "postgresql.conf").open("a") as conf:
        for name in ("lc_messages", "lc_monetary", "lc_numeric", "lc_time"):
            conf.write(f"{name} = 'xx_XX.UTF-8'\n")
    instance, _recovered = start(small)
    with instance:
        copy = as_cluster(small, instance)
        assert {copy.value(f"show {name}") for name in ("lc_monetary", "lc_numeric", "lc_time")} == {"C"}


@pytest.mark.parametrize(
    "name",
    [
        *("postgresql.auto.conf", "postgresql.auto.conf.new", "postgresql.auto.conf.holdfast"),
        *(f"holdfast-recovery/run/{name}" for name in ("pg_hba.conf", "pg_ident.conf", "postgresql.conf")),
        "holdfast-recovery/run/pg_ident.conf.new",
        "holdfast-recovery/run/server.log",
    ],
)
def test_root_follows_no_link_that_the_servers_user_laid(
    servers: Servers, small: Folder, socket_dirs: None, name: str
) -> None:
    require(os.geteuid() == 0, "only root runs servers as somebody else")
    victim = servers.folder / f"victim-{name.replace('/', '-')}"
    victim.write_text("root's own\n")
    victim.chmod(0o600)
    run_folder = small.data / "holdfast-recovery" / "run"
    run_folder.mkdir(exist_ok=True)
    give(run_folder)
    (small.data / name).unlink(missing_ok=True)
    (small.data / name).symlink_to(victim)
    os.chown(small.data / name, *_ids(small.data), follow_symlinks=False)
    with contextlib.suppress(HoldfastError):  # where the server itself needs what the link hides
        instance, _recovered = start(small)
        instance.stop()
    found = victim.stat()
    assert (victim.read_text(), found.st_uid, found.st_mode & 0o777) == ("root's own\n", 0, 0o600)
    content = (small.data / name).read_bytes() if not (small.data / name).is_symlink() else b""
    assert b"root's own" not in content
    victim.unlink()


def _ids(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid


def test_binaries_of_another_version_are_refused_by_the_server(small: Folder, socket_dirs: None) -> None:
    with pytest.raises(HoldfastError, match=r"cannot read the configuration|incompatible"):
        start_restored(small.data, binaries=binaries(18), clock=SystemClock(), limit=60)
