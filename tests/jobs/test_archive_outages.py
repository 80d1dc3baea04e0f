"""Stores that are away: the database goes on, nothing is lost that need not be, and what is lost is said."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from holdfast.jobs import archive_lane
from holdfast.jobs.archive import Options
from holdfast.repository.wal.held import Held
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind
from tests.jobs.receiving import Place, Snapshots, receiving, settings, short_folder, write
from tests.jobs.test_archive import check_contents, resized
from tests.servers import Cluster, wait_until


@pytest.fixture
def state() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(folder=tmp_path / "repository")


@pytest.fixture
def other(tmp_path: Path) -> Place:
    return Place(folder=tmp_path / "other")


def end_of(held: Held) -> int:
    last = held.segments[-1]
    return last.number * held.segment_size + last.stop


def test_an_outage_under_load_leaves_no_gap(make_cluster: Callable[..., Cluster], place: Place, state: Path) -> None:
    cluster = make_cluster(15)
    cluster.pgbench_init(1)
    places = {"local": place}
    with receiving(settings(cluster, places, state), places) as going:
        going.heard("streaming")
        with cluster.load():
            going.caught_up(cluster)
            place.goes_away()
            going.heard("repository")
            confirmed = going.status().confirmed
            assert going.status().repositories[0].error
            time.sleep(3)
            assert going.status().confirmed == confirmed, "nothing is confirmed that is not durable"
            place.comes_back()
            going.caught_up(cluster, 60)
        wait_until(lambda: not going.status().repositories[0].error, "it works again")
    assert [begin.why for begin in place.the_held().begins] == ["first"]
    check_contents(cluster, place)


def test_a_fault_at_every_other_put(make_cluster: Callable[..., Cluster], place: Place, state: Path) -> None:
    cluster = make_cluster(15)
    places = {"local": place}
    for kind in (FaultKind.FAIL, FaultKind.LOSE_RESPONSE):
        for first in range(1, 40, 3):
            place.store.add(Fault(kind=kind, operation=Operation.PUT, first=first, times=1))
    with receiving(settings(cluster, places, state, every=0.05), places) as going:
        for _number in range(10):
            write(cluster, 1)
            time.sleep(0.1)
        write(cluster, 20)
        going.caught_up(cluster, 60)
    check_contents(cluster, place)


def test_one_of_two_repositories_is_away_and_returns(
    make_cluster: Callable[..., Cluster], place: Place, other: Place, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_lane, "ROOM_BYTES", 4 << 20)
    cluster = resized(make_cluster, 1)
    places = {"local": place, "other": other}
    with receiving(settings(cluster, places, state), places) as going:
        going.heard("streaming")
        write(cluster, 2)
        going.caught_up(cluster)
        other.goes_away()
        confirmed = going.status().confirmed
        write(cluster, 12)
        goal = int(cluster.value("select pg_current_wal_flush_lsn() - '0/0'"))
        wait_until(lambda: end_of(place.the_held()) >= goal, "the one that works gets everything")
        assert going.status().confirmed == confirmed or int(going.status().confirmed or 0) < goal
        assert "left behind" in going.kinds()
        other.comes_back()
        going.caught_up(cluster, 60)
    for one in (place, other):
        assert [begin.why for begin in one.the_held().begins] == ["first"]
        check_contents(cluster, one)


def test_nothing_is_confirmed_that_one_of_two_lacks(
    make_cluster: Callable[..., Cluster], place: Place, other: Place, state: Path
) -> None:
    """So little that neither is left behind: both are going, and the slower one decides."""
    cluster = make_cluster(15)
    places = {"local": place, "other": other}
    for slow, quick in ((other, place), (place, other)):
        with receiving(settings(cluster, places, state, every=0.1), places) as going:
            going.caught_up(cluster)
            slow.goes_away()
            cluster.execute("create table if not exists t (n int); insert into t values (1)")
            goal = int(cluster.value("select pg_current_wal_flush_lsn() - '0/0'"))
            wait_until(lambda one=quick, to=goal: end_of(one.the_held()) >= to, "one has it")  # type: ignore[misc]
            going.heard("repository")
            time.sleep(1)  # long enough to confirm it wrongly
            assert "left behind" not in going.kinds()
            assert int(going.status().confirmed or 0) < goal
            assert cluster.value(f"select restart_lsn - '0/0' < {goal} from pg_replication_slots")
            slow.comes_back()
            going.caught_up(cluster, 60)


def test_a_repository_that_is_away_at_the_start(
    make_cluster: Callable[..., Cluster], place: Place, other: Place, state: Path
) -> None:
    cluster = make_cluster(15)
    places = {"local": place, "other": other}
    with receiving(settings(cluster, places, state), places) as going:
        write(cluster, 2)
        going.caught_up(cluster)
    other.goes_away()
    with receiving(settings(cluster, places, state), places) as going:
        write(cluster, 20)
        goal = int(cluster.value("select pg_current_wal_flush_lsn() - '0/0'"))
        wait_until(lambda: end_of(place.the_held()) >= goal, "the one that works gets everything")
        assert int(going.status().confirmed or 0) < goal
        other.comes_back()
        going.caught_up(cluster, 60)
    for one in (place, other):
        assert [begin.why for begin in one.the_held().begins] == ["first"]
        check_contents(cluster, one)


def test_a_new_repository_is_added(
    make_cluster: Callable[..., Cluster], place: Place, other: Place, state: Path
) -> None:
    cluster = make_cluster(15)
    with receiving(settings(cluster, {"local": place}, state), {"local": place}) as going:
        write(cluster, 20)
        going.caught_up(cluster)
    places = {"local": place, "other": other}
    with receiving(settings(cluster, places, state), places) as going:
        write(cluster, 3)
        going.caught_up(cluster)
    assert [begin.why for begin in place.the_held().begins] == ["first"]
    assert [begin.why for begin in other.the_held().begins] == ["first"]
    check_contents(cluster, other)


def test_a_server_can_be_shut_down_in_an_outage(
    make_cluster: Callable[..., Cluster], place: Place, state: Path
) -> None:
    cluster = make_cluster(15)
    places = {"local": place}
    with receiving(settings(cluster, places, state), places, options=Options(shutdown_seconds=3)) as going:
        going.heard("streaming")
        place.goes_away()
        write(cluster, 3)
        wait_until(lambda: going.status().received != going.status().confirmed, "something is not durable")
        began = time.monotonic()
        cluster.stop("fast")
        took = time.monotonic() - began
        assert took < 20, took
        going.heard("let go")
        cluster.start()
        place.comes_back()
        write(cluster, 3)
        going.caught_up(cluster, 60)
    assert [begin.why for begin in place.the_held().begins] == ["first"]
    check_contents(cluster, place)


def test_a_slot_that_holds_back_too_much_is_given_up(
    make_cluster: Callable[..., Cluster], place: Place, state: Path
) -> None:
    cluster = make_cluster(15, conf="min_wal_size = 32MB\nmax_wal_size = 32MB\n")
    places = {"local": place}
    taken = Snapshots(cluster.dsn(), places)
    wal = settings(cluster, places, state, retain=60 << 20)
    with receiving(wal, places, snapshot=taken) as going:
        going.caught_up(cluster)
        wait_until(lambda: len(taken.wanted) == 1 and not going.status().snapshot, "the first snapshot is taken", 60)
        place.goes_away()
        for _number in range(6):
            write(cluster, 16)
        going.heard("slot given up", 60)
        assert "slot" in going.kinds(), "it was told beforehand"
        assert cluster.value("select count(*) from pg_replication_slots where slot_name = 'holdfast_tracker'") == 0
        assert any("given up" in text for text in going.status().warnings)
        for _number in range(6):  # what was not durable goes
            write(cluster, 16)
            cluster.execute("checkpoint")
        place.comes_back()
        going.heard("gap", 60)
        wait_until(lambda: len(taken.wanted) == 2 and not going.status().snapshot, "a snapshot closes the gap", 60)
        write(cluster, 1)
        going.caught_up(cluster, 60)
        assert not going.status().warnings
    held = place.the_held()
    assert [begin.why for begin in held.begins] == ["first", "gap"]
    snapshots = place.beside().records().snapshots
    assert len(snapshots) == 2
    assert held.begins[1].after is not None
    assert held.begins[1].after < held.begins[1].lsn
    numbers = [one.number for one in held.segments]
    assert sum(after != before + 1 for before, after in itertools.pairwise(numbers)) == 1


def test_a_slot_that_the_server_gave_up(make_cluster: Callable[..., Cluster], place: Place, state: Path) -> None:
    conf = "max_slot_wal_keep_size = 16MB\nmin_wal_size = 32MB\nmax_wal_size = 32MB\n"
    cluster = make_cluster(15, conf=conf)
    places = {"local": place}
    with receiving(settings(cluster, places, state), places) as going:
        write(cluster, 3)
        going.caught_up(cluster)
    for _number in range(6):
        write(cluster, 16)
        cluster.execute("checkpoint")
    assert cluster.value("select wal_status from pg_replication_slots") == "lost"
    with receiving(settings(cluster, places, state), places) as going:
        going.heard("gap")
        write(cluster, 3)
        going.caught_up(cluster)
    held = place.the_held()
    assert [begin.why for begin in held.begins] == ["first", "gap"]


def test_commits_that_wait_for_us(make_cluster: Callable[..., Cluster], place: Place, state: Path) -> None:
    cluster = make_cluster(15)
    cluster.execute("create table one (n int)")
    places = {"local": place}
    with receiving(settings(cluster, places, state, every=60), places) as going:
        going.heard("streaming")
        synchronous(cluster, "holdfast")
        wait_until(lambda: going.status().sync_state == "sync", "the receiver knows")
        took = []
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            for number in range(40):
                began = time.monotonic()
                connection.execute("insert into one values (%s)", (number,))
                took.append(time.monotonic() - began)
                end = int(connection.execute("select pg_current_wal_insert_lsn() - '0/0'").fetchone()[0])  # type: ignore[index]
                assert end_of(place.the_held()) >= end - 8192 if number % 10 == 0 else True
        assert statistics.median(took) < 0.25, took
        place.goes_away()
        done = threading.Event()

        def commit() -> None:
            cluster.execute("insert into one values (-1)")
            done.set()

        committing = threading.Thread(target=commit)
        committing.start()
        going.heard("repository")
        assert not done.wait(1), "it returned, and is not durable"
        place.comes_back()
        assert done.wait(20)
        committing.join()
        synchronous(cluster, "")
        began = time.monotonic()
        going.heard("not synchronous")
        assert time.monotonic() - began < 5
        assert any("do not wait" in text for text in going.status().warnings)
        synchronous(cluster, "holdfast")
        going.heard("synchronous")


def synchronous(cluster: Cluster, names: str) -> None:
    cluster.execute(f"alter system set synchronous_standby_names = '{names}'")
    cluster.execute("select pg_reload_conf()")


def test_many_commits_that_wait(make_cluster: Callable[..., Cluster], place: Place, state: Path) -> None:
    """Pieces of the tail are put side by side, merged side by side, and replaced by the whole segment."""
    cluster = make_cluster(15)
    cluster.pgbench_init(1)
    places = {"local": place}
    with receiving(settings(cluster, places, state), places) as going:
        going.heard("streaming")
        synchronous(cluster, "holdfast")
        wait_until(lambda: going.status().sync_state == "sync", "the receiver knows")
        cluster.pgbench("-n", "-c", "8", "-t", "150")
        going.caught_up(cluster)
        check_contents(cluster, place)
        cluster.execute("select pg_switch_wal()")
        cluster.pgbench("-n", "-c", "8", "-t", "20")
        going.caught_up(cluster)
        assert going.kinds().count("streaming") == 1
    check_contents(cluster, place)


def test_an_idle_server_s_clock_is_kept(make_cluster: Callable[..., Cluster], place: Place, state: Path) -> None:
    """Also exactly at a segment's beginning."""
    cluster = make_cluster(15, conf="bgwriter_delay = 10s\ncheckpoint_timeout = 1d\n")
    places = {"local": place}
    with receiving(settings(cluster, places, state), places) as going:
        going.heard("streaming")
        for lane in going.serving.receiver.lanes:
            lane.says_clock_every = 0.5
        cluster.execute("create table one (n int)")
        for statement in ("insert into one values (1)", "select pg_switch_wal()"):
            cluster.execute(statement)
            going.caught_up(cluster)
            now = cluster.value("select clock_timestamp()")
            wait_until(lambda now=now: newest_clock(place) > now, "the clock goes on")  # type: ignore[misc]


def newest_clock(place: Place) -> datetime:
    pieces = [piece for segment in place.the_held().segments[-2:] for piece in segment.pieces]
    return max((piece.clock for piece in pieces if piece.clock is not None), default=datetime.min.replace(tzinfo=UTC))
