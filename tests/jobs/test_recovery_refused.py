"""What cannot be recovered is refused before a byte is restored; what one repository lacks another gives."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast.errors import Damaged, Refused
from holdfast.postgres.lsn import Segment
from holdfast.repository.repository import Repository
from tests.jobs.going import back_up, new_folder_repository
from tests.jobs.holding import Holding, archiving, inputs_of
from tests.jobs.recovering import bring, plan, recovered
from tests.servers import Cluster, Servers

MakeCluster = Callable[..., Cluster]


@dataclass(frozen=True, kw_only=True)
class Ground:
    cluster: Cluster
    archive: Path
    middle: str
    """The second of four segments that follow the snapshot."""
    middle_start: str


def prepare(servers: Servers, make_cluster: MakeCluster, *repositories: Repository) -> Ground:
    """A snapshot in each, and 40 rows since, ten in each segment."""
    archive, conf = archiving(servers)
    cluster = make_cluster(15, conf=conf)
    cluster.execute("create table t (n int)")
    for repository in repositories:
        back_up(cluster, repository)
    names = []
    for _segment in range(4):
        cluster.execute("select pg_switch_wal()")
        cluster.execute("insert into t select generate_series(1, 10)")
        names.append(cluster.value("select pg_walfile_name(pg_current_wal_lsn())"))
    segment = Segment.parse(names[1], 16 << 20)
    return Ground(cluster=cluster, archive=archive, middle=names[1], middle_start=str(segment.start))


def objects_of(repository: Repository, segment: str) -> list[Path]:
    folder = Path(repository.url.removeprefix("file://"))
    number = Segment.parse(segment, 16 << 20).number
    return [path for path in folder.rglob(f"{number:016x}-*") if path.is_file()]


def test_a_gap_is_not_crossed(servers: Servers, make_cluster: MakeCluster) -> None:
    repository = new_folder_repository(servers)
    ground = prepare(servers, make_cluster, repository)
    holding = Holding(cluster=ground.cluster, archive=ground.archive, repository=repository)
    end = holding.catch_up(less=frozenset({ground.middle}))
    inputs = inputs_of(repository)
    for target in ("latest", f"lsn:{end}"):
        with pytest.raises(Refused) as refused:
            plan(inputs, target)
        assert ground.middle_start in f"{refused.value} {refused.value.hint}"
        assert refused.value.exit_code == 6
    with recovered(servers, ground.cluster, inputs, f"lsn:{ground.middle_start}", inclusive=False) as (copy, _s, _p):
        assert copy.value("select count(*) from t") == 10


def test_a_segment_that_was_removed_from_the_store(servers: Servers, make_cluster: MakeCluster) -> None:
    first, second = new_folder_repository(servers), new_folder_repository(servers)
    ground = prepare(servers, make_cluster, first, second)
    for repository in (first, second):
        Holding(cluster=ground.cluster, archive=ground.archive, repository=repository).catch_up()
    both, alone = inputs_of(first, second), inputs_of(first)
    (path,) = objects_of(first, ground.middle)
    content = path.read_bytes()
    path.unlink()  # after it was listed
    target = servers.new_folder("back") / "data"
    with pytest.raises(Refused, match=ground.middle):
        plan(alone, "latest")
    with pytest.raises(Refused) as refused:
        plan(inputs_of(first), "latest")
    assert ground.middle_start in f"{refused.value} {refused.value.hint}"
    assert not target.exists()
    with recovered(servers, ground.cluster, both, "latest") as (copy, _started, recovery):
        assert copy.value("select count(*) from t") == 40
        assert {p.repository for p in recovery.wal if p.segment.name == ground.middle} == {"r1"}

    # Gone, or changed, between the plan and the reading of it: nothing that looks complete is left.
    path.write_bytes(content)
    planned = plan(alone, "latest")
    for damaged in (None, content[:-100] + bytes(100)):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        target = servers.new_folder("back") / "data"
        with pytest.raises(Damaged, match=ground.middle):
            bring(alone, planned, target)
        assert (target / "holdfast-restore-incomplete").exists()
        assert not (target / "recovery.signal").exists()
        assert not (target / "global/pg_control").read_bytes().strip(b"\0")
        path.write_bytes(content)


def test_one_store_is_lost(servers: Servers, make_cluster: MakeCluster) -> None:
    """Snapshots in a folder, WAL in another store: each gives what it has, and the refusal says what is missing."""
    here, away = new_folder_repository(servers), new_folder_repository(servers)
    ground = prepare(servers, make_cluster, here, away)
    Holding(cluster=ground.cluster, archive=ground.archive, repository=away).catch_up()
    with recovered(servers, ground.cluster, inputs_of(away), "latest") as (copy, _started, _plan):
        assert copy.value("select count(*) from t") == 40
    inputs = inputs_of(here, warnings=("repository away (s3://lost) cannot be asked: it does not answer",))
    now = ground.cluster.value("select clock_timestamp()").isoformat()
    with pytest.raises(Refused) as refused:
        plan(inputs, now)
    assert "s3://lost" in refused.value.hint
    with recovered(servers, ground.cluster, inputs, "latest") as (copy, _started, recovery):
        assert recovery.wal == ()
        assert copy.value("select count(*) from t") == 0
    shutil.rmtree(here.url.removeprefix("file://"))
