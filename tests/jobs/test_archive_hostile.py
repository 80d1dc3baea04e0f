"""What a receiver must bear: hands that end its sessions, slots that came anew, stores that hang, seas of records."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind
from tests.jobs.receiving import Place, receiving, settings, short_folder, write
from tests.jobs.test_archive import check_contents
from tests.jobs.test_archive_outages import synchronous
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


@pytest.mark.parametrize("function", ["pg_terminate_backend", "pg_cancel_backend"])
def test_a_session_that_somebody_ends_is_made_anew(
    make_cluster: Callable[..., Cluster], place: Place, state: Path, function: str
) -> None:
    cluster = make_cluster(15)
    places = {"local": place}
    with receiving(settings(cluster, places, state), places) as going:
        going.heard("streaming")
        write(cluster, 2)
        going.caught_up(cluster)
        cluster.execute(
            f"select {function}(pid) from pg_stat_activity where pid <> pg_backend_pid() and "
            "backend_type in ('walsender', 'client backend')"
        )
        write(cluster, 2)
        going.caught_up(cluster)
        assert not going.failure
    check_contents(cluster, place)


def test_a_new_slot_confirms_nothing_that_is_not_durable(
    make_cluster: Callable[..., Cluster], place: Place, state: Path
) -> None:
    cluster = make_cluster(15)
    cluster.execute("create table one (n int)")
    places = {"local": place}
    with receiving(settings(cluster, places, state), places) as going:
        going.heard("streaming")
        going.caught_up(cluster)
    synchronous(cluster, "holdfast")
    done = threading.Event()

    def commit() -> None:
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            connection.execute("insert into one values (1)")
        done.set()

    committing = threading.Thread(target=commit, daemon=True)
    committing.start()
    wait_until(lambda: cluster.value("select count(*) from pg_stat_activity where wait_event = 'SyncRep'"), "it waits")
    cluster.execute("select pg_drop_replication_slot('holdfast_tracker')")
    cluster.execute("checkpoint")
    place.store.add(Fault(kind=FaultKind.FAIL, operation=Operation.PUT))
    with receiving(settings(cluster, places, state, synchronous=True), places) as going:
        going.heard("streaming")
        assert not done.wait(13), "it returned, and is not durable"
        place.comes_back()
        assert done.wait(30)
    check_contents(cluster, place)


def test_commits_that_hang_are_an_alarm(make_cluster: Callable[..., Cluster], place: Place, state: Path) -> None:
    cluster = make_cluster(15)
    cluster.execute("create table one (n int)")
    places = {"local": place}
    with receiving(settings(cluster, places, state, synchronous=True), places) as going:
        going.heard("streaming")
        synchronous(cluster, "holdfast")
        wait_until(lambda: going.status().sync_state == "sync", "the receiver knows")
        going.caught_up(cluster)
        place.store.add(Fault(kind=FaultKind.DELAY, operation=Operation.PUT, seconds=12))
        committing = threading.Thread(target=lambda: cluster.execute("insert into one values (1)"))
        began = time.monotonic()
        committing.start()
        try:
            wait_until(lambda: any(event.weight.value == "alarm" for event in going.events), "an alarm", 5)
        finally:
            print(time.monotonic() - began, going.events, going.status())
            place.comes_back()
            committing.join()


def test_a_slot_that_was_idle_for_too_long(make_cluster: Callable[..., Cluster], place: Place, state: Path) -> None:
    cluster = make_cluster(18)
    places = {"local": place}
    with receiving(settings(cluster, places, state), places) as going:
        write(cluster, 3)
        going.caught_up(cluster)
    cluster.execute("alter system set idle_replication_slot_timeout = '1s'")
    cluster.execute("select pg_reload_conf()")
    time.sleep(1.5)
    cluster.execute("checkpoint")
    assert cluster.value("select invalidation_reason from pg_replication_slots") == "idle_timeout"
    with receiving(settings(cluster, places, state), places) as going:
        going.heard("streaming")
        write(cluster, 3)
        going.caught_up(cluster)
        print(going.events)
    assert [begin.why for begin in place.the_held().begins] == ["first"]


def test_a_sea_of_restore_points(make_cluster: Callable[..., Cluster], place: Place, state: Path) -> None:
    cluster = make_cluster(15)
    places = {"local": place}
    with receiving(settings(cluster, places, state), places) as going:
        going.heard("streaming")
        cluster.execute("select count(pg_create_restore_point(repeat('x', 60))) from generate_series(1, 400000)")
        going.caught_up(cluster, 60)
        assert not going.failure
    check_contents(cluster, place)


def test_one_that_works_is_not_kept_waiting_by_one_that_is_away(
    make_cluster: Callable[..., Cluster], place: Place, other: Place, state: Path
) -> None:
    cluster = make_cluster(15, conf="min_wal_size = 32MB\nmax_wal_size = 32MB\n")
    places = {"local": place, "other": other}
    with receiving(settings(cluster, places, state, retain=40 << 20), places) as going:
        going.heard("streaming")
        write(cluster, 1)
        going.caught_up(cluster)
        other.goes_away()
        for _number in range(4):
            write(cluster, 16)
        going.heard("slot given up", 30)
        write(cluster, 3)
        goal = int(cluster.value("select pg_current_wal_flush_lsn() - '0/0'"))

        def end() -> int:
            held = place.the_held()
            return held.segments[-1].number * held.segment_size + held.segments[-1].stop

        wait_until(lambda: end() >= goal, f"the one that works gets everything {going.events}", 15)
