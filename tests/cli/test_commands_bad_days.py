"""The commands on bad days: each gives a clear error, its exit code, and what to do; and nothing whole is harmed."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import moved_away
from tests.cli.site import Site, at_terminal, failed, new_site, run
from tests.servers import Cluster, wait_until

SmallDisk = Callable[[int], Path]


def test_a_wrong_passphrase_or_none(site: Site, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("nonsense\n")
    failed(site("list", "--passphrase-file", wrong), 6, "wrong passphrase", "recovery key")
    failed(site.rewrite(passphrase='{ env = "NOT_SET" }')("list"), 2, "NOT_SET is not set")
    failed(site.rewrite(passphrase='{ file = "absent" }')("list"), 2, "absent does not exist")
    ended = site("list", "--passphrase-file", wrong, "--json")
    assert json.loads(ended.stdout)["error"]["class"] == "WrongPassphrase"


def test_another_repository_than_the_pinned_one(site: Site, tmp_path: Path, cluster: Cluster) -> None:
    another = new_site(tmp_path, cluster)
    swapped = site.rewrite(url=f'"file://{another.repository}"')
    for command in ("list", "backup", "verify"):
        failed(swapped(command), 6, "another repository or key than the one that is pinned", "do not use this store")


def test_an_unknown_key_is_met_with_the_near_one(site: Site) -> None:
    other = site.rewrite(timezone='"UTC"\ntimezoen = "UTC"')
    failed(other("list"), 2, "timezoen is not a setting", 'Did you mean "timezone"?')


def test_a_configuration_that_others_may_write(tmp_path: Path) -> None:
    path = tmp_path / "holdfast.toml"
    path.write_text("")
    path.chmod(0o666)
    failed(at_terminal("list", cwd=tmp_path), 2, "others may write to it", "chmod go-w")


def test_no_configuration_at_all(tmp_path: Path) -> None:
    failed(
        run("list", cwd=tmp_path, variables={"XDG_CONFIG_HOME": str(tmp_path)}),
        2,
        "there is no configuration",
        "holdfast init",
    )


def test_the_server_is_down(site: Site, tmp_path: Path) -> None:
    other = site.rewrite(connection=f'"host={tmp_path} port=1 user=postgres"')
    failed(other("backup"), 4, "cannot connect to PostgreSQL", "pg_isready")


def test_a_role_without_replication(site: Site, cluster: Cluster) -> None:
    role = f"plain_{os.getpid()}"
    cluster.execute(f"create role {role} login")
    other = site.rewrite(connection=f'"{cluster.dsn(user=role)}"')
    failed(other("backup"), 6, "lacks REPLICATION", f"ALTER ROLE {role} REPLICATION;")
    checked = other("check")
    assert checked.returncode == 1
    assert f"ALTER ROLE {role} REPLICATION;" in checked.stdout


def test_wal_level_minimal(site: Site, make_cluster: Callable[..., Cluster]) -> None:
    minimal = make_cluster(15, conf="wal_level = minimal\nmax_wal_senders = 0")
    other = site.rewrite(connection=f'"{minimal.dsn()}"')
    failed(other("backup"), 1, "wal_level = minimal", "ALTER SYSTEM SET wal_level = replica;")
    assert other("check").returncode == 1


def test_a_target_that_is_not_empty(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "data"
    target.mkdir()
    (target / "mine").write_text("precious")
    failed(site("restore", "--to", target), 6, "is not empty", "Nothing was changed")
    assert (target / "mine").read_text() == "precious"
    assert len(list(target.iterdir())) == 1


def test_a_target_that_is_too_small(site: Site, small_disk: SmallDisk) -> None:
    disk = small_disk(20)
    failed(site("restore", "--to", disk / "data"), 1, "are free", "Make room")
    assert not list(disk.iterdir())


def test_a_target_that_postgres_cannot_enter_is_refused_before_the_start(site: Site, tmp_path: Path) -> None:
    from tests.privileges import require_root

    require_root()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    failed(site("restore", "--to", closed / "data", "--start"), 6, "cannot enter")
    assert not list(closed.iterdir())


def test_the_disk_fills_during_a_restore(site: Site, small_disk: SmallDisk) -> None:
    disk = small_disk(120)
    disk.chmod(0o755)
    target, filler = disk / "data", disk / "filler"
    filled = threading.Event()

    def fill() -> None:
        wait_until((target / "holdfast-restore-incomplete").exists, "the restore has begun", 60)
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1 << 20)):
                    pass
            except OSError:
                filled.set()

    thread = threading.Thread(target=fill)
    thread.start()
    ended = site("restore", "--to", target)
    thread.join()
    assert filled.is_set()
    failed(ended, 1, "the disk is full", "remove the unfinished folder")
    assert (target / "holdfast-restore-incomplete").exists()
    assert not (target / "recovery.signal").exists()
    failed(site("restore", "--to", target), 6, "a restore that did not finish", "rm -r")


def test_the_disk_fills_during_a_backup(cluster: Cluster, small_disk: SmallDisk, tmp_path: Path) -> None:
    disk = small_disk(8)
    site = Site(folder=tmp_path, cluster=cluster)
    site.well("init", "--connection", cluster.dsn(), "--repository-url", disk / "repository", "--no-recovery-key")
    first = site.ask("backup")["snapshots"][0]["id"]
    cluster.execute("create table noise as select md5(random()::text) m from generate_series(1, 400000)")
    try:
        failed(site("backup"), 1, "bytes free", "Make room")
        assert site.ask("verify")["snapshots"] == 1
        assert [snapshot["id"] for snapshot in site.ask("list")["snapshots"]] == [first]
    finally:
        cluster.execute("drop table noise")
    site.well("backup")


def test_a_store_that_is_away_and_then_back(tmp_path: Path, cluster: Cluster) -> None:
    site = new_site(tmp_path, cluster)
    with moved_away(site.repository):
        for command in ("backup", "list", "verify"):
            failed(site(command), 4, "no store at", "Mount the disk")
        assert site("check").returncode == 4
    site.well("backup")


def test_an_unreadable_record_is_named_and_the_others_are_listed(tmp_path: Path, cluster: Cluster) -> None:
    site = new_site(tmp_path, cluster)
    for _time in range(2):
        site.well("backup")
    newest = site.ask("list")["snapshots"][-1]
    record = site.repository / "snapshots" / newest["id"]
    flip(record, record.stat().st_size // 2)
    ended = site("list")
    assert ended.returncode == 5
    assert newest["id"] in ended.stderr
    assert "may be the newest" in ended.stderr
    assert "main_" in ended.stdout
    record.unlink()
    assert site("list").returncode == 5  # the newest is nobody's predecessor, and this machine remembers it


def test_a_record_that_vanished_is_an_alarm(tmp_path: Path, cluster: Cluster) -> None:
    site = new_site(tmp_path, cluster)
    for _time in range(2):
        site.well("backup")
    oldest = site.ask("list")["snapshots"][0]["id"]
    (site.repository / "snapshots" / oldest).unlink()
    ended = site("list")
    assert ended.returncode == 5
    assert f"snapshot {oldest[:12]} is gone" in ended.stderr


@pytest.mark.parametrize("how", ["flip", *(pytest.param(how, marks=pytest.mark.slow) for how in ("cut", "lose"))])
def test_damage_is_found_named_and_never_restored(how: str, tmp_path: Path, cluster: Cluster) -> None:
    site = new_site(tmp_path, cluster)
    site.well("backup")
    pack = max(site.packs(), key=lambda path: path.stat().st_size)
    if how == "flip":
        flip(pack, pack.stat().st_size // 2)
    elif how == "cut":
        os.truncate(pack, pack.stat().st_size // 2)
    else:
        pack.unlink()
    name = str(pack.relative_to(site.repository))
    ended = site("verify")
    assert ended.returncode == 5
    assert name in ended.stdout
    assert "What this touches:" in ended.stdout
    assert "base/" in ended.stdout
    if how != "flip":
        assert "more" in ended.stdout  # hundreds of files; twenty are shown
    document = site.ask("verify", code=5)
    assert document["good"] is False
    assert {touched["snapshot"] for touched in document["touched"]} == {site.ask("list")["snapshots"][0]["id"]}
    target = tmp_path / "back"
    failed(site("restore", "--to", target), 5, name, "holdfast verify")
    assert not (target / "recovery.signal").exists()
    if target.exists():
        assert (target / "holdfast-restore-incomplete").exists()
        assert not (target / "global" / "pg_control").exists() or not (target / "global/pg_control").read_bytes().strip(
            b"\0"
        )


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
