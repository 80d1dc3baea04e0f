"""Snapshots that say what no cluster's would, and clusters that hold what an earlier restore has left."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.entry import Entry, EntryKind, Reading
from holdfast.errors import Damaged, HoldfastError, Refused, UsageError
from holdfast.filesystem.root import MARKER
from holdfast.jobs.progress import Silent
from holdfast.jobs.restore import restore
from holdfast.jobs.restore_plan import plan_restore
from holdfast.postgres.basebackup import UNFINISHED_RESTORE
from holdfast.postgres.facts import BackupFacts
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.repository import Repository
from holdfast.repository.snapshots import Snapshot
from tests.jobs.going import back_up, bring_back, new_folder_repository, started
from tests.repository.making import readings, take
from tests.servers import Cluster, Servers

SEGMENT = "pg_wal/000000010000000000000002"


@pytest.fixture(scope="module")
def cluster(servers: Servers) -> Cluster:
    return servers.make_cluster(15, tablespace=True)


@pytest.fixture(scope="module")
def repository(servers: Servers) -> Repository:
    return new_folder_repository(servers)


@pytest.fixture(scope="module")
def snapshot(cluster: Cluster, repository: Repository) -> Snapshot:
    return back_up(cluster, repository)


def test_the_marker_has_one_name() -> None:
    assert UNFINISHED_RESTORE == MARKER


def test_a_cluster_with_an_earlier_restores_marker_can_be_restored(
    make_cluster: Callable[..., Cluster], servers: Servers, repository: Repository
) -> None:
    cluster = make_cluster(15)
    (cluster.data_dir / MARKER).write_text("it crashed before this was removed")
    (cluster.data_dir / MARKER).chmod(0o644)
    snapshot = back_up(cluster, repository)
    reader = SnapshotReader(repository)
    assert MARKER not in {stored.entry.path for stored in reader.entries(snapshot)}
    target = servers.new_folder("back") / "data"
    bring_back(repository, snapshot, target)
    assert not (target / MARKER).exists()
    instance, _recovered = started(cluster, target)
    instance.stop()


def made_up(repository: Repository, snapshot: Snapshot, more: list[Reading]) -> Snapshot:
    """A snapshot with the facts of a true one."""
    files = {"global/pg_control": b"x" * 8192, SEGMENT: b"", "postgresql.auto.conf": b""}
    taken = take(repository, [*more, *readings(files)], "made up")
    facts = dict(snapshot.facts) | {"tablespaces": []}
    return replace(taken, facts=facts)


def test_a_marker_in_an_older_snapshot_is_passed_over(
    repository: Repository, snapshot: Snapshot, tmp_path: Path
) -> None:
    marker = Entry(path=MARKER, kind=EntryKind.FILE, mode=0o600, size=1)
    bring_back(repository, made_up(repository, snapshot, [(marker, [b"x"])]), tmp_path / "data")
    assert not (tmp_path / "data" / MARKER).exists()


def test_a_snapshot_with_a_link_is_not_restored(repository: Repository, snapshot: Snapshot, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    link = Entry(path="x", kind=EntryKind.SYMLINK, mode=0o777, link_target=str(victim))
    planted = Entry(path="x/planted", kind=EntryKind.FILE, mode=0o4755, size=1)
    hostile = made_up(repository, snapshot, [(link, ()), (planted, [b"x"])])
    with pytest.raises(Damaged, match="symbolic link, x"):
        bring_back(repository, hostile, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert not list(victim.iterdir())


def test_what_fails_in_the_middle_says_how_to_remove_it(
    repository: Repository, snapshot: Snapshot, tmp_path: Path
) -> None:
    planted = Entry(path="x/planted", kind=EntryKind.FILE, mode=0o600, size=1)  # in a folder that is not there
    target = tmp_path / "pg backup"
    hostile = made_up(repository, snapshot, [(planted, [b"x"])])
    with pytest.raises(Damaged, match="x/planted") as failed:
        bring_back(repository, hostile, target)
    assert f"rm -r -- '{target}'" in failed.value.hint
    other = made_up(repository, snapshot, [])
    reader = SnapshotReader(repository)
    plan = plan_restore(other, reader, tmp_path / "full", tablespaces={})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_bytes(b"")
    with pytest.raises(Refused, match="not empty") as refused:
        restore(plan, reader, progress=Silent())
    assert "rm" not in refused.value.hint.split()


@pytest.mark.parametrize("folder", ["/", "/.", "//"])
def test_the_root_of_all_folders(repository: Repository, snapshot: Snapshot, folder: str) -> None:
    assert snapshot.facts["tablespaces"]
    with pytest.raises(UsageError, match="cannot be restored into"):
        plan_restore(snapshot, SnapshotReader(repository), Path(folder), tablespaces={})


def test_a_server_on_what_was_left_unfinished(repository: Repository, snapshot: Snapshot, tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text("")
    (tmp_path / "postmaster.pid").write_text("1")
    with pytest.raises(Refused, match="runs on") as refused:
        plan_restore(snapshot, SnapshotReader(repository), tmp_path, tablespaces={})
    assert "rm" not in refused.value.hint.split()


def test_names_that_no_folder_can_have(repository: Repository, snapshot: Snapshot, tmp_path: Path) -> None:
    reader = SnapshotReader(repository)
    with pytest.raises(HoldfastError, match="cannot restore into"):
        plan_restore(snapshot, reader, tmp_path / ("x" * 256), tablespaces={})
    with pytest.raises(HoldfastError, match="cannot restore into"):
        plan_restore(snapshot, reader, tmp_path / "data", tablespaces={"ts1": tmp_path / ("x" * 256)})


@pytest.mark.parametrize("oid", ["/tmp/x", "16384", 0, -1, 1 << 32, True, None, 1.5])
def test_an_oid_that_is_none(repository: Repository, snapshot: Snapshot, tmp_path: Path, oid: object) -> None:
    facts = json.loads(json.dumps(snapshot.facts))
    facts["tablespaces"][0]["oid"] = oid
    with pytest.raises(Damaged, match="facts of a base backup"):
        plan_restore(replace(snapshot, facts=facts), SnapshotReader(repository), tmp_path / "data", tablespaces={})


def test_facts_of_other_types_are_damaged(snapshot: Snapshot) -> None:
    whole: dict[str, Any] = json.loads(json.dumps(snapshot.facts))
    assert BackupFacts.from_json(whole)
    wrong: list[object] = [[], {}, 7.5, {"a": 1}, [7], "nonsense"]
    for name, value in whole.items():
        for other in wrong:
            if isinstance(value, type(other)) or (value is None and other == "nonsense"):
                continue
            with pytest.raises(Damaged):
                BackupFacts.from_json(whole | {name: other})
    for size in (0, -1, 3 << 20, 1 << 31):
        with pytest.raises(Damaged):
            BackupFacts.from_json(whole | {"wal_segment_size": size})
    for name in ("bad_pages", "warnings"):
        with pytest.raises(Damaged):
            BackupFacts.from_json(whole | {name: [1]})
    for name, value in whole["databases"][0].items():
        changed = whole["databases"][0] | {name: 1 if isinstance(value, str) else "x" if name in INTEGERS else []}
        with pytest.raises(Damaged):
            BackupFacts.from_json(whole | {"databases": [changed]})


INTEGERS = ("oid", "tablespace_oid", "size_bytes")
