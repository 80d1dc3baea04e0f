"""The receiver against real servers: what it keeps is what the server wrote, whatever happens to either."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.errors import AlreadyRunning, Refused
from holdfast.jobs import archive_streaming
from holdfast.jobs.archive import Options
from holdfast.postgres.lsn import Segment
from holdfast.store.opening import open_store
from holdfast.store.port import Store
from tests.jobs.receiving import CLOCK, Place, receiving, segment_names, settings, short_folder, write
from tests.object_servers import ObjectServer, moto_server, rclone_server
from tests.servers import Cluster, Servers, bare_environment, run, server_account, wait_until


@pytest.fixture
def state() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(folder=tmp_path / "repository")


@contextlib.contextmanager
def pg_receivewal(cluster: Cluster, folder: Path) -> Iterator[None]:
    account = server_account()
    identity = {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    command = [
        str(cluster.bin / "pg_receivewal"),
        "-D",
        str(folder),
        "-S",
        "other",
        "-d",
        cluster.dsn(),
        "--no-password",
    ]
    run([*command, "--create-slot"])
    with subprocess.Popen(command, env=bare_environment(), stderr=subprocess.DEVNULL, **identity) as process:  # type: ignore[call-overload]
        try:
            yield
        finally:
            process.terminate()


def resized(make_cluster: Callable[..., Cluster], megabytes: int) -> Cluster:
    if megabytes == 16:
        return make_cluster(15)
    cluster = make_cluster(15, started=False)
    run([cluster.bin / "pg_resetwal", f"--wal-segsize={megabytes}", cluster.data_dir])
    if megabytes > 16:
        with (cluster.data_dir / "postgresql.conf").open("a") as file:
            file.write("max_wal_size = 1GB\nmin_wal_size = 512MB\n")
    cluster.start()
    return cluster


@pytest.mark.parametrize("sizes", [(1, 6), (16, 40), (64, 90), (128, 150)])
def test_same_bytes_as_pg_receivewal(
    servers: Servers, make_cluster: Callable[..., Cluster], place: Place, state: Path, sizes: tuple[int, int]
) -> None:
    megabytes, load = sizes
    cluster = resized(make_cluster, megabytes)
    folder = servers.new_folder("w")
    places = {"local": place}
    with pg_receivewal(cluster, folder), receiving(settings(cluster, places, state), places) as going:
        going.heard("streaming")
        write(cluster, load)
        cluster.execute("select pg_switch_wal()")
        write(cluster, 1)
        going.caught_up(cluster)
        held = place.the_held()
        names = segment_names(held)
        assert len(names) >= load // megabytes
        wait_until((folder / names[-1]).exists, "pg_receivewal has it too")
        common = [name for name in names if (folder / name).exists()]
        assert len(common) >= len(names) - 1, "pg_receivewal began a segment later at most"
        for name in common:
            segment = Segment.parse(name, held.segment_size)
            assert place.content(1, segment.number) == (folder / name).read_bytes(), name


def test_the_tail_follows_and_an_idle_server_is_safe_to_now(
    make_cluster: Callable[..., Cluster], place: Place, state: Path
) -> None:
    cluster = make_cluster(15)
    places = {"local": place}
    with receiving(settings(cluster, places, state), places) as going:
        going.heard("streaming")
        cluster.execute("create table one (n int)")
        goal = going.caught_up(cluster, 5)
        last = place.the_held().segments[-1]
        assert last.number * place.the_held().segment_size + last.stop >= goal
        assert last.stop < place.the_held().segment_size
        now = cluster.value("select clock_timestamp()")
        wait_until(lambda: (going.status().safe_until or now) > now, "it is safe to now", 5)
        assert going.status().phase == "streaming"
        assert going.status().warnings == ()


def test_more_than_64_pieces_of_a_tail_are_merged(
    make_cluster: Callable[..., Cluster], place: Place, state: Path
) -> None:
    cluster = make_cluster(15)
    places = {"local": place}
    with receiving(settings(cluster, places, state, every=0.01), places) as going:
        going.heard("streaming")
        cluster.execute("create table one (n int)")
        for number in range(100):
            cluster.execute(f"insert into one values ({number})")
            going.caught_up(cluster)
        wait_until(lambda: len(tails(place)) < 64, "the first are merged")
        content = place.content(1, place.the_held().segments[-1].number)
        assert len(content) == place.the_held().segments[-1].stop
        cluster.execute("select pg_switch_wal()")
        cluster.execute("insert into one values (0)")
        going.caught_up(cluster)
        wait_until(lambda: len(tails(place)) < 10, "those of the whole segment are removed")


def tails(place: Place) -> list[Path]:
    return [path for path in (place.folder / "tails").rglob("*") if path.is_file()]


def test_goes_on_where_it_stopped(make_cluster: Callable[..., Cluster], place: Place, state: Path) -> None:
    cluster = make_cluster(15)
    places = {"local": place}
    wal = settings(cluster, places, state)
    for round_number in range(3):
        with receiving(wal, places) as going:
            going.heard("streaming")
            write(cluster, 7)
            if round_number == 1:
                going.caught_up(cluster)
            going.stop()
        write(cluster, 7)
    with receiving(wal, places) as going:
        going.caught_up(cluster)
        cluster.execute("select pg_switch_wal()")
        write(cluster, 1)
        going.caught_up(cluster)
    held = place.the_held()
    assert [begin.why for begin in held.begins] == ["first"]
    last = {piece.name for piece in held.segments[-1].pieces}
    left = {str(path.relative_to(place.folder)) for path in tails(place) if has_bytes(path)}
    assert left <= last, "tails of whole segments are removed, those of an earlier receiver too"
    check_contents(cluster, place)


def has_bytes(tail: Path) -> bool:
    """Whether it says more than that the clock went on."""
    _number, start, stop, _mark = tail.name.split("-")
    return start != stop


def check_contents(cluster: Cluster, place: Place, timeline: int = 1) -> int:
    """Every byte held is the server's, without a hole; how many segments the server still has of them."""
    held = place.the_held()
    numbers = [one.number for one in held.segments if one.timeline == timeline]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    compared = 0
    for one in held.segments:
        segment = Segment(timeline=one.timeline, number=one.number, size=held.segment_size)
        there = cluster.data_dir / "pg_wal" / segment.name
        if one.timeline == timeline and there.exists():
            assert place.content(timeline, one.number) == there.read_bytes()[: one.stop], segment.name
            compared += 1
    assert compared
    return compared


def test_a_restarted_server_is_followed(make_cluster: Callable[..., Cluster], place: Place, state: Path) -> None:
    cluster = make_cluster(15)
    places = {"local": place}
    with receiving(settings(cluster, places, state), places) as going:
        going.heard("streaming")
        write(cluster, 3)
        cluster.restart()
        write(cluster, 20)
        going.caught_up(cluster)
        cluster.kill()
        cluster.start()
        write(cluster, 20)
        going.caught_up(cluster)
        assert going.kinds().count("streaming") >= 3
    held = place.the_held()
    assert [begin.why for begin in held.begins] == ["first"]
    check_contents(cluster, place)


def test_a_promotion_is_followed(
    servers: Servers, make_cluster: Callable[..., Cluster], place: Place, state: Path
) -> None:
    """By both: connected to the standby that is promoted, and to a new primary with the old timeline asked first."""
    primary = make_cluster(15)
    standby = servers.standby_of(primary)
    places = {"local": place}
    wal = settings(standby, places, state)
    with receiving(wal, places) as going:
        going.heard("streaming")
        write(primary, 20)
        goal = primary.value("select pg_current_wal_lsn()::text")
        wait_until(lambda: str(going.status().confirmed) >= goal, "the standby's WAL is kept")
        standby.execute("select pg_promote()")
        wait_until(lambda: not standby.value("select pg_is_in_recovery()"), "it is promoted")
        write(standby, 20)
        going.caught_up(standby)
        assert going.status().timeline == 2
    held = place.the_held()
    assert [begin.why for begin in held.begins] == ["first", "timeline"]
    assert held.histories[2] == (standby.data_dir / "pg_wal" / "00000002.history").read_bytes()
    assert len([one for one in held.segments if one.timeline == 1][-1].pieces) == 1, "the old tail is one piece"
    check_contents(standby, place, timeline=2)
    with receiving(wal, places) as going:
        write(standby, 3)
        going.caught_up(standby)
    assert len(place.the_held().begins) == 2
    servers.remove(standby)


def test_the_old_timeline_is_finished_on_the_new_primary(
    servers: Servers, make_cluster: Callable[..., Cluster], place: Place, state: Path
) -> None:
    primary = make_cluster(15)
    standby = servers.standby_of(primary)
    places = {"local": place}
    with receiving(settings(primary, places, state), places) as going:
        write(primary, 5)
        going.caught_up(primary)
    standby.execute("select pg_create_physical_replication_slot('holdfast_tracker', true)")
    write(primary, 20)
    goal = primary.value("select pg_current_wal_lsn()::text")
    wait_until(lambda: standby.value(f"select pg_last_wal_replay_lsn() >= '{goal}'"), "the standby has it all")
    primary.stop()
    standby.execute("select pg_promote()")
    wait_until(lambda: not standby.value("select pg_is_in_recovery()"), "it is promoted")
    write(standby, 20)
    with receiving(settings(standby, places, state), places) as going:
        going.caught_up(standby)
    held = place.the_held()
    assert [begin.why for begin in held.begins] == ["first", "timeline"]
    check_contents(standby, place, timeline=2)
    check_contents(primary, place, timeline=1)
    servers.remove(standby)


def test_another_cluster_is_refused_and_adopted(servers: Servers, place: Place, state: Path) -> None:
    first, second = servers.make_cluster(15, fresh=True), servers.make_cluster(15, fresh=True)
    places = {"local": place}
    with receiving(settings(first, places, state), places) as going:
        write(first, 3)
        going.caught_up(first)
    before = place.the_held()
    with receiving(settings(second, places, state), places) as going:
        going.thread.join(20)
        (failure,) = going.failure
        assert isinstance(failure, Refused)
        assert str(before.stream.system_identifier) in str(failure)
    assert place.the_held() == before
    assert second.value("select count(*) from pg_replication_slots") == 0, "a server that is not ours is left as it is"
    identifier = int(second.control_data()["Database system identifier"])
    with receiving(settings(second, places, state), places, options=Options(adopt=identifier)) as going:
        write(second, 3)
        going.caught_up(second)
        going.heard("adopted")
    old, new = place.held()
    assert old == before
    assert new.stream.system_identifier == identifier
    assert [begin.why for begin in new.begins] == ["adopted"]
    for cluster in (first, second):
        servers.remove(cluster)


def test_a_server_set_back_is_refused(servers: Servers, place: Place, state: Path) -> None:
    """A copy of the data directory from before writes other WAL at the same places."""
    cluster = servers.make_cluster(15)
    copy = cluster.data_dir.with_name("copy")
    cluster.stop()
    run(["cp", "-a", cluster.data_dir, copy])
    cluster.start()
    places = {"local": place}
    with receiving(settings(cluster, places, state), places) as going:
        write(cluster, 5)
        going.caught_up(cluster)
    cluster.stop()
    run(["rm", "-rf", cluster.data_dir])
    run(["mv", copy, cluster.data_dir])
    cluster.start()
    with receiving(settings(cluster, places, state), places) as going:
        going.thread.join(20)
        assert isinstance(going.failure[0], Refused)
    write(cluster, 10)  # further than what is held, but other bytes
    before = place.the_held()
    with receiving(settings(cluster, places, state), places) as going:
        going.thread.join(20)
        assert isinstance(going.failure[0], Refused)
        assert "another server" in str(going.failure[0])
    assert place.the_held().segments == before.segments
    servers.remove(cluster)


def test_a_second_receiver(make_cluster: Callable[..., Cluster], place: Place, state: Path) -> None:
    cluster = make_cluster(15)
    places = {"local": place}
    wal = settings(cluster, places, state)
    with receiving(wal, places) as going, short_folder() as elsewhere:
        going.heard("streaming")
        with receiving(wal, places) as second:
            second.thread.join(10)
            assert isinstance(second.failure[0], AlreadyRunning)
        with receiving(
            settings(cluster, places, elsewhere), places, options=Options(slot_seconds=2, shutdown_seconds=2)
        ) as third:
            third.heard("in use")
            third.thread.join(20)
            assert isinstance(third.failure[0], AlreadyRunning)
            pid = cluster.value("select active_pid from pg_replication_slots")
            assert str(pid) in str(third.failure[0])
        write(cluster, 3)
        going.caught_up(cluster)
    check_contents(cluster, place)


def test_until_caught_up(make_cluster: Callable[..., Cluster], place: Place, state: Path) -> None:
    cluster = make_cluster(15)
    places = {"local": place}
    write(cluster, 20)
    for _again in range(2):
        with receiving(settings(cluster, places, state), places, options=Options(until_caught_up=True)) as going:
            going.thread.join(30)
            assert not going.thread.is_alive()
            assert not going.failure
        check_contents(cluster, place)


def test_many_small_messages(
    make_cluster: Callable[..., Cluster], place: Place, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than are taken in at once, again and again."""
    monkeypatch.setattr(archive_streaming, "_BATCH", 3)
    cluster = make_cluster(15)
    cluster.pgbench_init(1)
    places = {"local": place}
    with receiving(settings(cluster, places, state), places) as going:
        going.heard("streaming")
        cluster.pgbench("-n", "-c", "8", "-t", "300")
        going.caught_up(cluster)
        assert going.kinds().count("streaming") == 1
    check_contents(cluster, place)


@pytest.mark.parametrize("serving", [moto_server, rclone_server])
def test_into_an_object_store(
    make_cluster: Callable[..., Cluster],
    tmp_path: Path,
    state: Path,
    serving: Callable[[], contextlib.AbstractContextManager[ObjectServer]],
) -> None:
    cluster = make_cluster(15)
    with serving() as server:
        server.create_bucket("holdfast")

        def reached() -> Store:
            return open_store("s3://holdfast/repository", server.options, clock=CLOCK)

        places = {"remote": Place(folder=tmp_path, make_store=reached), "local": Place(folder=tmp_path / "local")}
        wal = settings(cluster, places, state)
        for _again in range(2):
            with receiving(wal, places) as going:
                going.heard("streaming")
                write(cluster, 20)
                going.caught_up(cluster, 60)
        for place in places.values():
            assert [begin.why for begin in place.the_held().begins] == ["first"]
            check_contents(cluster, place)
