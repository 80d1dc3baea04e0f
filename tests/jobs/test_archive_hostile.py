"""What a receiver must bear: hands that end its sessions, slots that came anew, stores that hang, seas of records."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from holdfast.errors import Damaged
from holdfast.jobs import wal_socket
from holdfast.jobs.archive_memory import Memory
from holdfast.jobs.archive_watch import Watch
from holdfast.jobs.receiver_client import ask_status
from holdfast.jobs.wal_socket import WalSocket
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.slot_watch import SlotWatch
from holdfast.postgres.walfacts import MOST_RESTORE_POINTS, Event, EventKind, WalFacts
from holdfast.repository.wal.pieces import Piece, Stream
from holdfast.repository.wal.reading import WalReader
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind
from tests.jobs.receiving import CLOCK, Place, receiving, settings, short_folder, write
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
            going.heard("commits hang", 5)
            assert time.monotonic() - began < 5
            assert any("hang" in text for text in going.status().warnings)
        finally:
            place.comes_back()
            committing.join()
        going.heard("commits")
    place.goes_away()
    with receiving(settings(cluster, places, state, synchronous=True), places) as going:
        going.heard("commits hang", 6)  # nothing streams at all: there is nowhere to stream to
        synchronous(cluster, "")
        going.heard("commits")


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
        assert "gap" not in going.kinds()
    assert [begin.why for begin in place.the_held().begins] == ["first"]


def test_a_sea_of_restore_points(make_cluster: Callable[..., Cluster], place: Place, state: Path) -> None:
    cluster = make_cluster(15)
    places = {"local": place}
    with receiving(settings(cluster, places, state), places) as going:
        going.heard("streaming")
        cluster.execute(
            "select count(pg_create_restore_point(repeat('x', 50) || n % 99999)) from generate_series(1, 400000) n"
        )
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

        wait_until(lambda: end() >= goal, "the one that works gets everything", 15)
        assert cluster.value("select count(*) from pg_replication_slots") == 0
        for _number in range(4):
            write(cluster, 16)
            goal = int(cluster.value("select pg_current_wal_flush_lsn() - '0/0'"))
            wait_until(lambda goal=goal: end() >= goal, "the one that works gets everything", 15)  # type: ignore[misc]
            cluster.execute("checkpoint")
        other.comes_back()
        going.heard("gap", 60)
        write(cluster, 1)
        going.caught_up(cluster, 60)
        assert cluster.value("select count(*) from pg_replication_slots") == 1
        assert not going.status().warnings
    assert [begin.why for begin in place.the_held().begins] == ["first"], "its WAL has no gap"
    assert [begin.why for begin in other.the_held().begins] == ["first", "gap"]
    check_contents(cluster, place)


def test_what_watches_beside_the_stream_does_not_die_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(_watch: SlotWatch) -> None:
        raise RuntimeError("an answer that nobody thought of")

    monkeypatch.setattr(SlotWatch, "look", break_down)
    looked = threading.Event()
    with Watch("host=/nowhere", "one", clock=CLOCK, changed=looked.set) as watch:
        assert looked.wait(10)
        assert watch.observed is None
        assert "nobody thought of" in str(watch.error)


def test_a_socket_that_runs_out_of_descriptors_goes_on(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real, failures = state / "one.sock", socket.socket.accept, [errno.EMFILE, errno.ECONNABORTED]

    def accept(listening: socket.socket) -> object:
        if failures:
            raise OSError(failures.pop(), "for a while")
        return real(listening)

    monkeypatch.setattr(socket.socket, "accept", accept)
    monkeypatch.setattr(wal_socket, "_PAUSE_SECONDS", 0.01)
    with (
        WalSocket(path, push=lambda *_file: None, status=dict),
        pytest.raises(Damaged),  # an answer, such as it is
    ):
        ask_status(path)


def test_a_piece_costs_the_same_however_many_there_are(place: Place) -> None:
    """Of a server that writes little, one segment has a piece for each second of a day."""
    stream, size = Stream(source="tracker", system_identifier=7), 16 << 20
    memory = Memory(WalReader(place.open()), ())

    def seconds(first: int, count: int) -> float:
        began = time.perf_counter()
        for number in range(first, first + count):
            before, after = (at.to_bytes(32, "big") for at in (number * 100, number * 100 + 100))
            piece = Piece(
                stream=stream,
                timeline=1,
                number=1,
                segment_size=size,
                start=number * 100,
                stop=number * 100 + 100,
                before=before,
                after=after,
                clock=None,
                facts={},
            )
            memory.put(piece, f"tails/{number}")
        return time.perf_counter() - began

    few = seconds(0, 200)
    seconds(200, 10_000)
    assert seconds(10_200, 200) < few * 30  # joining them all anew takes a hundred times as long
    assert memory.segments_from(stream, 1, 1)[1].stop == 10_400 * 100


def test_what_is_written_of_a_piece_stays_small() -> None:
    def point(number: int, name: str) -> Event:
        return Event(kind=EventKind.RESTORE_POINT, lsn=Lsn(number * 8 + 8), end=Lsn(number * 8 + 16), detail=name)

    tablespace = Event(kind=EventKind.TABLESPACE, lsn=Lsn(8), end=Lsn(16), detail="1 /srv")
    sea = [point(number, f"n{number % 30_000}") for number in range(60_000)]
    facts = WalFacts(start=Lsn(0), stop=Lsn(1 << 20), events=(*sea, tablespace))
    written = WalFacts.from_json(facts.to_json())
    assert written.events == (*sea[:MOST_RESTORE_POINTS], tablespace)
    assert written.is_blind
    again = WalFacts(start=Lsn(0), stop=Lsn(1 << 20), events=tuple(point(number, "n") for number in range(60_000)))
    written = WalFacts.from_json(again.to_json())
    assert written.events == again.events[:1]
    assert not written.is_blind
