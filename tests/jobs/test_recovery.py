"""Recovery of real clusters to each kind of moment, from snapshots and WAL in repositories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pytest

from holdfast.errors import Damaged
from holdfast.jobs.progress import Silent
from holdfast.jobs.start import StartPlan, account_of, start
from holdfast.postgres import restored
from holdfast.postgres.lsn import Lsn
from holdfast.repository.repository import Repository
from tests.jobs.going import CLOCK, back_up, new_folder_repository
from tests.jobs.holding import Holding, archiving, inputs_of
from tests.jobs.recovering import bring, plan, recovered, started_by_hand
from tests.servers import MAJORS, Cluster, Servers, wait_until


@dataclass(frozen=True, kw_only=True)
class Story:
    """A hundred rows, a restore point, a DELETE that nobody wanted, one more row, then silence."""

    cluster: Cluster
    repository: Repository
    before: datetime
    bad_lsn: str
    bad_xid: int
    idle: datetime
    end: Lsn


def tell_story(servers: Servers, major: int) -> Story:
    archive, conf = archiving(servers)
    cluster = servers.make_cluster(major, conf=conf)
    cluster.execute("create table t (n int)")
    repository = new_folder_repository(servers)
    back_up(cluster, repository)
    holding = Holding(cluster=cluster, archive=archive, repository=repository)
    for number in range(4):
        cluster.execute(f"insert into t select generate_series({number * 25}, {number * 25 + 24})")
        cluster.execute("select pg_switch_wal()")
    cluster.execute("select pg_create_restore_point('before_migration')")
    before = cluster.value("select clock_timestamp()")
    bad_lsn = cluster.value("select pg_current_wal_insert_lsn()::text")
    bad_xid = int(cluster.psql("begin; delete from t; select pg_current_xact_id()::text; commit"))
    cluster.execute("insert into t values (1000)")
    cluster.execute("select pg_switch_wal()")
    end = holding.catch_up()
    wait_until(lambda: cluster.value("select clock_timestamp()") > before, "the clock goes on")
    idle = cluster.value("select clock_timestamp()")
    end = holding.catch_up()
    return Story(
        cluster=cluster, repository=repository, before=before, bad_lsn=bad_lsn, bad_xid=bad_xid, idle=idle, end=end
    )


@pytest.fixture(scope="module", params=[pytest.param(m, marks=[] if m == 15 else pytest.mark.slow) for m in MAJORS])
def story(servers: Servers, request: pytest.FixtureRequest) -> Iterator[Story]:
    made = tell_story(servers, request.param)
    yield made
    servers.remove(made.cluster)


@pytest.mark.parametrize(
    ("target", "inclusive", "rows"),
    [
        ("time:before", True, 100),
        ("name:before_migration", True, 100),
        ("lsn:bad", False, 100),
        ("xid:bad", False, 100),
        ("xid:bad", True, 0),
        ("time:idle", True, 1),
        ("lsn:end", True, 1),
        ("latest", True, 1),
    ],
)
def test_every_kind_of_moment_around_a_bad_delete(
    servers: Servers, story: Story, target: str, inclusive: bool, rows: int
) -> None:
    texts = {
        "time:before": story.before.isoformat(),
        "time:idle": story.idle.isoformat(),
        "lsn:bad": f"lsn:{story.bad_lsn}",
        "lsn:end": f"lsn:{story.end}",
        "xid:bad": f"xid:{story.bad_xid}",
    }
    text = texts.get(target, target)
    inputs = inputs_of(story.repository)
    with recovered(servers, story.cluster, inputs, text, inclusive=inclusive) as (copy, started, recovery):
        assert copy.value("select count(*) from t") == rows
        assert recovery.is_exact
        assert started.recovered.timeline == 2
        assert recovery.last_kept is not None
        if recovery.target.setting == "" or not recovery.target.inclusive:  # else PostgreSQL does not count the last
            assert started.recovered.last_transaction == recovery.last_kept.time
        if rows == 100:
            assert recovery.first_left_out is not None
            assert recovery.first_left_out.xid == story.bad_xid
        elif rows == 0:
            assert recovery.last_kept.xid == story.bad_xid
        else:
            assert recovery.first_left_out is None
        copy.execute("insert into t values (-1)")


def test_a_snapshot_alone_ends_on_a_timeline_that_is_nobodys(servers: Servers, story: Story) -> None:
    inputs = inputs_of(story.repository)
    (known,) = inputs.snapshots
    with recovered(servers, story.cluster, inputs, f"snapshot:{known.snapshot.id}") as (copy, started, recovery):
        assert recovery.wal == ()
        assert copy.value("select count(*) from t") == 0
        assert started.recovered.timeline == 2


def test_it_starts_by_hand_with_an_empty_environment(servers: Servers, story: Story) -> None:
    inputs = inputs_of(story.repository)
    planned, _restored = bring(inputs, plan(inputs, "latest"), servers.new_folder("back") / "data")
    with started_by_hand(servers, story.cluster, planned) as copy:
        assert copy.value("select count(*) from t") == 1


def test_two_at_once_and_one_after_the_other_never_collide(servers: Servers, story: Story) -> None:
    inputs = inputs_of(story.repository)
    with (
        recovered(servers, story.cluster, inputs, "latest") as (one, first, _plan),
        recovered(servers, story.cluster, inputs, "latest") as (other, second, _other_plan),
    ):
        assert first.instance.port != second.instance.port
        one.execute("insert into t values (7)")
        assert other.value("select count(*) from t") == 1
        history = (one.data_dir / "pg_wal" / "00000002.history").read_bytes()
    holding = Holding(cluster=story.cluster, archive=Path("/nonexistent"), repository=story.repository)
    assert holding.writer.put_file("00000002.history", history)
    inputs = inputs_of(story.repository)
    with recovered(servers, story.cluster, inputs, "latest", timeline="1") as (copy, third, _plan):
        assert third.recovered.timeline == 3
        assert copy.value("select count(*) from t") == 1


def test_an_end_that_was_not_planned_is_damage_and_nothing_runs_on(servers: Servers, story: Story) -> None:
    inputs = inputs_of(story.repository)
    recovery = plan(inputs, f"xid:{story.bad_xid}")
    assert recovery.end is not None
    planned, _restored = bring(inputs, recovery, servers.new_folder("back") / "data")
    elsewhere = replace(recovery, end=Lsn(recovery.end + 8), end_at_most=Lsn(recovery.end + 800))
    with pytest.raises(Damaged, match="as planned"):
        start(
            replace(planned, recovery=elsewhere),
            StartPlan(binaries=story.cluster.bin, account=account_of(planned)),
            clock=CLOCK,
            stopped=lambda: False,
        )
    assert not (planned.target / "postmaster.pid").exists()


class Heard(Silent):
    def __init__(self) -> None:
        self.steps: list[tuple[str, int | None]] = []
        self.done = 0

    def begin(self, what: str, total_bytes: int | None = None) -> None:
        self.steps.append((what, total_bytes))

    def advance(self, nbytes: int) -> None:
        self.done += nbytes


def test_how_far_replay_has_come_is_told(servers: Servers, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restored, "_LOOK_SECONDS", 0)
    inputs = inputs_of(story.repository)
    planned, _restored = bring(inputs, plan(inputs, "latest"), servers.new_folder("back") / "data")
    heard = Heard()
    start_plan = StartPlan(binaries=story.cluster.bin, account=account_of(planned))
    started = start(planned, start_plan, clock=CLOCK, stopped=lambda: False, progress=heard)
    started.instance.stop()
    ((what, total),) = heard.steps
    assert what == "replaying WAL"
    assert total is not None
    assert total % (16 << 20) == 0
    assert heard.done < total
