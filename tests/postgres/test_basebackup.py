from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.entry import Entry, EntryKind
from holdfast.errors import Damaged, HoldfastError, Interrupted, PermissionRefused, ServerUnreachable, UsageError
from holdfast.postgres.basebackup import BaseBackup, base_backup
from holdfast.postgres.completeness import check_wal
from holdfast.postgres.datadir import parse_tablespace_map, read_control_file
from holdfast.postgres.facts import BackupFacts
from holdfast.postgres.lsn import Lsn, is_segment_name, segments_between
from holdfast.postgres.manifest import check_manifest, signature
from holdfast.postgres.protocol import NewArchive, Walsender
from holdfast.postgres.requirements import create_role
from tests.postgres.writing import write_readings
from tests.servers import Cluster, Servers, children_of, every_version, wait_until

SOME_ENTRIES = 20


@pytest.fixture(scope="module")
def clusters(servers: Servers) -> Callable[[int], Cluster]:
    """One cluster a version for the tests of this module that leave it as it was."""
    made: dict[int, Cluster] = {}

    def cluster(major: int) -> Cluster:
        if major not in made:
            made[major] = servers.make_cluster(major, tablespace=True)
            made[major].execute('create database "数据库 of ""tests"""')
            made[major].pgbench_init(2)
            made[major].execute("create table in_ts1 tablespace ts1 as select generate_series(1, 1000) as n")
        return made[major]

    return cluster


def _take(dsn: str, folder: Path) -> tuple[dict[str, Entry], BackupFacts]:
    with base_backup(dsn, label="it's 备份") as backup:
        entries = write_readings(backup.entries(), folder)
    return entries, backup.facts


def _verify(cluster: Cluster, folder: Path, facts: BackupFacts) -> None:
    """PostgreSQL's own tools: every file against the manifest, the WAL by reading it."""
    tool = cluster.bin / "pg_verifybackup"
    if subprocess.run([tool, "--version"], check=False, capture_output=True).returncode == 0:
        done = subprocess.run([tool, "--exit-on-error", folder], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return
    # The wheel's pg_verifybackup 18 crashes whatever it is asked.
    for item in json.loads((folder / "backup_manifest").read_bytes())["Files"]:
        content = (folder / item["Path"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (item["Size"], item["Checksum"])
    waldump: list[str | Path] = [
        cluster.bin / "pg_waldump",
        "--quiet",
        "--path",
        folder / "pg_wal",
        "--timeline",
        str(facts.timeline),
    ]
    subprocess.run([*waldump, "--start", str(facts.start_lsn), "--end", str(facts.stop_lsn)], check=True)


@contextlib.contextmanager
def _begun(dsn: str, entries: int = SOME_ENTRIES) -> Iterator[tuple[BaseBackup, Iterator[object]]]:
    """A base backup of which some entries have been read, the server still having most of it to send."""
    with base_backup(dsn, label="begun") as backup:
        readings = backup.entries()
        for _number in range(entries):
            _entry, content = next(readings)
            for _block in content:
                pass
        yield backup, readings


@every_version
def test_a_base_backup_under_load_is_what_pg_verifybackup_accepts(
    clusters: Callable[[int], Cluster], major: int, tmp_path: Path
) -> None:
    cluster = clusters(major)
    before = Lsn.parse(cluster.value("select pg_current_wal_lsn()::text"))
    with cluster.load():
        entries, facts = _take(cluster.dsn(), tmp_path)
    _verify(cluster, tmp_path, facts)

    paths = list(entries)
    (oid,) = [tablespace.oid for tablespace in facts.tablespaces]
    assert paths[0] == f"pg_tblspc/{oid}"
    assert entries[f"pg_tblspc/{oid}"].kind is EntryKind.DIRECTORY
    assert paths[-1] == "backup_manifest"
    after_control = paths[paths.index("global/pg_control") + 1 : -1]
    assert all(path.startswith("pg_wal/") for path in after_control)
    needed = segments_between(facts.start_lsn, facts.stop_lsn, timeline=1, size=facts.wal_segment_size)
    assert {f"pg_wal/{segment.name}" for segment in needed} <= set(after_control)

    (link,) = parse_tablespace_map((tmp_path / "tablespace_map").read_bytes())
    assert (link.oid, link.location) == (oid, str(cluster.tablespaces["ts1"]))
    assert facts.tablespaces[0].location == link.location
    assert facts.tablespaces[0].name == "ts1"
    assert before <= facts.start_lsn < facts.stop_lsn
    assert facts.server_version_num // 10000 == major
    assert facts.system_identifier == read_control_file(cluster.data_dir).system_identifier
    assert '数据库 of "tests"' in {database.name for database in facts.databases}
    assert all(database.size_bytes for database in facts.databases)
    assert facts.data_checksums
    assert not facts.from_standby
    assert not facts.configuration
    assert not facts.bad_pages
    assert facts.started_at < facts.ended_at
    assert facts.platform
    assert BackupFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


@every_version
def test_a_standby_gives_a_base_backup_too(servers: Servers, major: int, tmp_path: Path) -> None:
    primary = servers.make_cluster(major)
    primary.pgbench_init(1)
    standby = servers.standby_of(primary)
    try:
        with primary.load():
            _entries, facts = _take(standby.dsn(), tmp_path)
        assert facts.from_standby
        _verify(standby, tmp_path, facts)
    finally:
        servers.remove(standby)
        servers.remove(primary)


def test_a_standby_promoted_meanwhile_voids_it(servers: Servers) -> None:
    primary = servers.make_cluster(15)
    primary.pgbench_init(3)
    standby = servers.standby_of(primary)
    try:
        with _begun(standby.dsn()) as (backup, readings):
            standby.execute("select pg_promote()")
            with pytest.raises(HoldfastError, match="promoted"):
                _exhaust(readings)
            assert not backup.is_complete
            with pytest.raises(RuntimeError):
                _ = backup.facts
    finally:
        servers.remove(standby)
        servers.remove(primary)


def _exhaust(readings: Iterator[object]) -> None:
    for _reading in readings:
        pass  # the reader skips what is not read


def test_content_that_nobody_reads_is_still_compared(clusters: Callable[[int], Cluster]) -> None:
    with base_backup(clusters(15).dsn(), label="unread") as backup:
        _exhaust(backup.entries())
    assert backup.facts.total_bytes > 20_000_000
    assert backup.estimated_bytes > 20_000_000


def test_progress_is_told(clusters: Callable[[int], Cluster]) -> None:
    told: list[tuple[int, int]] = []
    with base_backup(clusters(15).dsn(), label="told", progress=lambda *numbers: told.append(numbers)) as backup:
        _exhaust(backup.entries())
    assert told
    assert told == sorted(told)
    assert all(estimated == backup.estimated_bytes for _done, estimated in told)


def test_a_killed_walsender_is_an_error(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    cluster.pgbench_init(3)
    with _begun(cluster.dsn()) as (_backup, readings):
        pid = cluster.value("select pid from pg_stat_replication where state = 'backup'")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ServerUnreachable, match="was lost"):
            _exhaust(readings)


def test_a_terminated_walsender_is_an_error(clusters: Callable[[int], Cluster]) -> None:
    cluster = clusters(15)
    with _begun(cluster.dsn()) as (_backup, readings):
        cluster.execute("select pg_terminate_backend(pid) from pg_stat_replication")
        with pytest.raises(ServerUnreachable, match="was lost"):
            _exhaust(readings)


def test_a_stop_interrupts_within_half_a_second(clusters: Callable[[int], Cluster]) -> None:
    stop = threading.Event()
    with base_backup(clusters(15).dsn(), label="stopped", stopped=stop.is_set) as backup:
        readings = backup.entries()
        next(readings)
        stop.set()
        started = time.monotonic()
        with pytest.raises(Interrupted):
            _exhaust(readings)
        assert time.monotonic() - started < 0.5


def test_a_stop_interrupts_a_server_that_is_silent(clusters: Callable[[int], Cluster]) -> None:
    """A walsender that is frozen sends nothing: the wait itself must end."""
    cluster = clusters(15)
    stop = threading.Event()
    with base_backup(cluster.dsn(), label="silent", stopped=stop.is_set) as backup:
        pid = cluster.value("select pid from pg_stat_replication where state = 'backup'")
        assert pid in children_of(cluster.pid or 0)
        os.kill(pid, signal.SIGSTOP)
        try:
            timer = threading.Timer(0.3, stop.set)
            timer.start()
            started = time.monotonic()
            with pytest.raises(Interrupted):
                _exhaust(backup.entries())
            assert 0.25 < time.monotonic() - started < 0.3 + 0.5
            timer.join()
        finally:
            os.kill(pid, signal.SIGCONT)


def test_leaving_early_ends_it_on_the_server(clusters: Callable[[int], Cluster]) -> None:
    cluster = clusters(15)
    with _begun(cluster.dsn()):
        assert cluster.value("select count(*) from pg_stat_replication") == 1
        assert cluster.value("select count(*) from pg_replication_slots where temporary") == 1
    wait_until(lambda: cluster.value("select count(*) from pg_stat_replication") == 0, "the walsender is gone", 10)
    wait_until(lambda: cluster.value("select count(*) from pg_replication_slots") == 0, "the slot is gone", 10)


def test_a_stop_during_the_checkpoint_ends_it_on_the_server(make_cluster: Callable[..., Cluster]) -> None:
    """The server writes nothing to us then: only a cancel request reaches it."""
    cluster = make_cluster(15, conf="checkpoint_timeout = 1h\nshared_buffers = 64MB")
    cluster.pgbench_init(2)
    stop = threading.Event()
    timer = threading.Timer(0.5, stop.set)
    timer.start()
    with (
        pytest.raises(Interrupted),
        base_backup(cluster.dsn(), label="spread", checkpoint="spread", stopped=stop.is_set),
    ):
        pass
    timer.join()
    wait_until(lambda: cluster.value("select count(*) from pg_stat_replication") == 0, "the walsender is gone", 5)


@pytest.mark.parametrize("fault", ["flip", "drop", "cut"])
def test_an_altered_stream_is_damage(
    clusters: Callable[[int], Cluster], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    honest = Walsender.copy_data

    def altered(self: Walsender) -> Iterator[memoryview]:
        whole = 0
        for data in honest(self):
            is_content = len(data) == 32769
            whole += is_content
            if whole == 50 and is_content:
                if fault == "flip":
                    changed = bytearray(data)
                    changed[20_000] ^= 1
                    yield memoryview(changed)
                    continue
                if fault == "drop":
                    continue
                return
            yield data

    monkeypatch.setattr(Walsender, "copy_data", altered)
    with base_backup(clusters(15).dsn(), label="altered") as backup, pytest.raises(Damaged) as caught:
        _exhaust(backup.entries())
    assert caught.value.hint
    if fault == "flip":
        assert "differs from its manifest: not what the server read: base/" in str(caught.value)


def _signatures(folder: Path, entries: Container[str]) -> dict[str, bytes]:
    """What the manifest must find: every file that came, WAL and the manifest itself not counted."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        is_wal = name.startswith("pg_wal/") and is_segment_name(path.name)
        if path.is_file() and name in entries and name != "backup_manifest" and not is_wal:
            content = path.read_bytes()
            found[name] = signature(len(content), hashlib.sha256(content).digest())
    return found


def test_wal_with_a_hole_is_damage(clusters: Callable[[int], Cluster], tmp_path: Path) -> None:
    cluster = clusters(15)
    with base_backup(cluster.dsn(), label="switching") as backup:
        readings = backup.entries()
        first = next(readings)
        for _number in range(2):
            cluster.execute("select pg_switch_wal()")
            cluster.execute("create table if not exists switched (n int); drop table switched")
        entries = write_readings(itertools.chain([first], readings), tmp_path)
    names = {path.removeprefix("pg_wal/") for path in entries if is_segment_name(path.removeprefix("pg_wal/"))}
    with (tmp_path / "backup_manifest").open("rb") as file:
        manifest = check_manifest(file, _signatures(tmp_path, entries))
    assert len(names) >= 3
    check_wal(names, backup.facts, manifest)
    for name in names:
        with pytest.raises(Damaged, match=f"lacks WAL segment {name}"):
            check_wal(names - {name}, backup.facts, manifest)
    with pytest.raises(Damaged, match="different WAL positions"):
        check_wal(names, replace(backup.facts, stop_lsn=Lsn(backup.facts.stop_lsn + 8)), manifest)


@every_version
def test_bad_pages_are_facts_and_the_backup_is_whole(
    make_cluster: Callable[..., Cluster], major: int, tmp_path: Path
) -> None:
    cluster = make_cluster(major)
    cluster.pgbench_init(1)
    path = cluster.data_dir / cluster.value("select pg_relation_filepath('pgbench_accounts')")
    cluster.stop()
    with path.open("r+b") as file:
        for page in (3, 7):
            file.seek(page * 8192 + 4000)
            file.write(b"\xde\xad\xbe\xef")
    cluster.start()
    _entries, facts = _take(cluster.dsn(), tmp_path)
    assert len([page for page in facts.bad_pages if path.name in page and "block" in page]) == 2
    assert "block 7" in "".join(facts.bad_pages)
    _verify(cluster, tmp_path, facts)


@pytest.mark.parametrize("major", [15, 18])
@pytest.mark.parametrize("what", ["version folder", "everything"])
def test_an_unmounted_tablespace_is_fatal(make_cluster: Callable[..., Cluster], major: int, what: str) -> None:
    cluster = make_cluster(major, tablespace=True)
    cluster.execute("create table in_ts1 tablespace ts1 as select generate_series(1, 1000) as n")
    cluster.execute("checkpoint")
    location = cluster.tablespaces["ts1"]
    moved = next(location.iterdir()) if what == "version folder" else location
    aside = location.parent / "aside"
    moved.rename(aside)
    try:
        with base_backup(cluster.dsn(), label="unmounted") as backup:
            with pytest.raises(HoldfastError, match=f"tablespace ts1 is not there on the server: {location}") as caught:
                _exhaust(backup.entries())
            assert "Mount" in caught.value.hint
    finally:
        aside.rename(moved)


def test_a_tablespaces_missing_link_is_fatal(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15, tablespace=True)
    (link,) = (cluster.data_dir / "pg_tblspc").iterdir()
    link.unlink()
    with (
        pytest.raises(HoldfastError, match="tablespace ts1 is not there"),
        base_backup(cluster.dsn(), label="unlinked"),
    ):
        pass


def test_a_missing_database_folder_is_fatal(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    cluster.execute("create database lost")
    cluster.execute("checkpoint")
    oid = cluster.value("select oid from pg_database where datname = 'lost'")
    shutil.rmtree(cluster.data_dir / "base" / str(oid))
    with (
        base_backup(cluster.dsn(), label="lost") as backup,
        pytest.raises(HoldfastError, match=f"the folder of database lost \\(oid {oid}\\)"),
    ):
        _exhaust(backup.entries())


def test_what_an_earlier_restore_left_is_not_read(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = make_cluster(15)
    for folder in ("holdfast-recovery", "holdfast-etc"):
        (cluster.data_dir / folder).mkdir()
        (cluster.data_dir / folder / "plan").write_text("old")
        (cluster.data_dir / folder / "plan").chmod(0o644)
        (cluster.data_dir / folder).chmod(0o755)
    entries, _facts = _take(cluster.dsn(), tmp_path)
    assert not [path for path in entries if path.startswith("holdfast-")]


def test_a_role_of_its_own_over_tcp(clusters: Callable[[int], Cluster], tmp_path: Path) -> None:
    cluster = clusters(15)
    create_role(cluster.dsn(), "holdfast", "geheim 密码")
    _entries, facts = _take(cluster.tcp_dsn(user="holdfast", password="geheim 密码"), tmp_path)
    assert facts.shared_preload_libraries == ""
    assert not facts.configuration
    _verify(cluster, tmp_path, facts)


def test_a_role_without_replication_is_refused(clusters: Callable[[int], Cluster]) -> None:
    cluster = clusters(15)
    cluster.execute('create role "Plain Role" login')
    with (
        pytest.raises(PermissionRefused, match="lacks REPLICATION") as caught,
        base_backup(cluster.dsn(user="Plain Role"), label="x"),
    ):
        pass
    assert caught.value.hint.endswith('ALTER ROLE "Plain Role" REPLICATION;')


def test_wal_level_minimal_is_refused(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15, conf="wal_level = minimal\nmax_wal_senders = 0")
    with pytest.raises(HoldfastError, match="minimal") as caught, base_backup(cluster.dsn(), label="x"):
        pass
    assert "ALTER SYSTEM SET wal_level = replica" in caught.value.hint


@pytest.mark.parametrize(("label", "checkpoint"), [("two\nlines", "fast"), ("x", "slow"), ("x" * 1001, "fast")])
def test_a_label_is_one_line_and_a_checkpoint_fast_or_spread(label: str, checkpoint: str) -> None:
    with pytest.raises(UsageError), base_backup("host=/nowhere", label=label, checkpoint=checkpoint):
        pass


def test_an_archive_of_an_unknown_name_is_damaged() -> None:
    backup = BaseBackup(
        connection="", walsender=None, observed=None, configuration=None, label="",  # type: ignore[arg-type]
        progress=lambda _done, _estimated: None, elapsed=timedelta,
        now=lambda: datetime.now(UTC),
    )  # fmt: skip
    for name in ("x.tar", "", "-1.tar", "²"):
        with pytest.raises(Damaged, match="archive of an unknown name"):
            next(backup._archive(NewArchive(name=name, location="")))


def test_a_server_that_sends_a_link(clusters: Callable[[int], Cluster], monkeypatch: pytest.MonkeyPatch) -> None:
    """With TABLESPACE_MAP no server does: it would lead a restore elsewhere."""
    honest = Walsender.copy_data

    def altered(self: Walsender) -> Iterator[memoryview]:
        begun = False
        for data in honest(self):
            yield data
            if not begun and bytes(data[:1]) == b"n":
                begun = True
                link = tarfile.TarInfo("x")
                link.type, link.linkname = tarfile.SYMTYPE, "/etc"
                yield memoryview(b"d" + link.tobuf(tarfile.USTAR_FORMAT))

    monkeypatch.setattr(Walsender, "copy_data", altered)
    with (
        base_backup(clusters(15).dsn(), label="link") as backup,
        pytest.raises(Damaged, match="holds a symbolic link"),
    ):
        _exhaust(backup.entries())
