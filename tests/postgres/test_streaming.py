from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import AlreadyRunning, Damaged, Interrupted, Refused, ServerUnreachable
from holdfast.postgres.lsn import Lsn, Segment, segments_between
from holdfast.postgres.streaming import Keepalive, TimelineEnds, WalData, WalGone, WalSession
from holdfast.postgres.timelines import parse_history
from holdfast.postgres.wal_messages import feedback, parse_stream
from tests.servers import Cluster, Servers, bare_environment, every_version, free_port, run, server_account, wait_until

SLOT = "holdfast_tests"
LIMIT = 60.0


@dataclass
class Tape:
    """What came of one timeline, without a hole."""

    start: Lsn
    content: bytearray = field(default_factory=bytearray)
    clock: datetime | None = None

    @property
    def end(self) -> Lsn:
        return Lsn(self.start + len(self.content))

    def add(self, data: WalData) -> None:
        assert data.start == self.end, "the server sends what was asked for, in order"
        assert data.server_end >= data.start + len(data.content)
        self.content += data.content
        self.clock = data.clock

    def between(self, start: int, stop: int) -> bytes:
        return bytes(self.content[start - self.start : stop - self.start])


def start_and_receive(session: WalSession, lsn: Lsn, timeline: int) -> None:
    """That WAL is not there the server says in the stream, in some versions before it."""
    session.start(SLOT, lsn, timeline)
    session.receive(5.0)


def take(
    session: WalSession, tape: Tape, until: Lsn | None = None, *, confirm: bool = True, wait: float = 1.0
) -> TimelineEnds | None:
    """Receive up to ``until``, or to the end of the timeline."""
    limit = time.monotonic() + LIMIT
    while until is None or tape.end < until:
        assert time.monotonic() < limit, f"only {tape.end} of {until} came"
        message = session.receive(wait)
        if isinstance(message, WalData):
            tape.add(message)
        if isinstance(message, TimelineEnds):
            return message
        if confirm and (message is None or (isinstance(message, Keepalive) and message.reply)):
            tell(session, tape.end)
    if confirm:
        tell(session, tape.end)
    return None


def tell(session: WalSession, lsn: Lsn, *, reply: bool = False) -> None:
    session.confirm(written=lsn, flushed=lsn, applied=lsn, clock=datetime.now(UTC), reply=reply)


def flushed(cluster: Cluster) -> Lsn:
    return Lsn.parse(cluster.value("select pg_current_wal_flush_lsn()::text"))


def switch_wal(cluster: Cluster) -> Lsn:
    """Where WAL goes on after it."""
    cluster.execute("create table if not exists filler(); drop table filler")
    cluster.execute("select pg_switch_wal()")
    return flushed(cluster)


def begin(session: WalSession, *, slot: str = SLOT) -> Tape:
    size = session.segment_size()
    start = Lsn(session.create_slot(slot) // size * size)
    session.start(slot, start, session.identify().timeline)
    return Tape(start=start)


def write_some(cluster: Cluster, rows: int = 20_000) -> None:
    cluster.execute("create table if not exists rows_written (n int, t text)")
    cluster.execute(f"insert into rows_written select n, repeat('x', 100) from generate_series(1, {rows}) n")


@contextlib.contextmanager
def pg_receivewal(cluster: Cluster, folder: Path, slot: str) -> Iterator[None]:
    account = server_account()
    command = [str(cluster.bin / "pg_receivewal"), "-D", str(folder), "-S", slot, "-d", cluster.dsn(), "--no-password"]
    run([*command, "--create-slot"])
    owner = {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=bare_environment(), cwd="/", **owner)  # type: ignore[call-overload]
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def test_messages_are_read() -> None:
    clock = datetime(2026, 11, 22, 14, 3, 22, 5, tzinfo=UTC)
    sent = (clock - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    head = (0x3000060).to_bytes(8, "big") + (0x4000000).to_bytes(8, "big")
    data = parse_stream(memoryview(b"w" + head + sent.to_bytes(8, "big") + b"content"))
    assert data == WalData(start=Lsn(0x3000060), content=memoryview(b"content"), server_end=Lsn(0x4000000), clock=clock)
    alive = parse_stream(memoryview(b"k" + head[8:] + sent.to_bytes(8, "big") + b"\1"))
    assert alive == Keepalive(server_end=Lsn(0x4000000), clock=clock, reply=True)
    answer = feedback(written=Lsn(3), flushed=Lsn(2), applied=Lsn(1), clock=clock, reply=True)
    numbers = b"".join(number.to_bytes(8, "big") for number in (3, 2, 1, sent))
    assert answer == b"r" + numbers + b"\1"


@given(st.binary(max_size=40))
def test_garbage_is_a_message_or_damage(data: bytes) -> None:
    with contextlib.suppress(Damaged, OverflowError):
        parse_stream(memoryview(data))


@every_version
def test_bytes_are_those_of_pg_receivewal(servers: Servers, make_cluster: Callable[..., Cluster], major: int) -> None:
    cluster = make_cluster(major)
    folder = servers.new_folder("r")
    with WalSession(cluster.tcp_dsn()) as session, pg_receivewal(cluster, folder, "other"):
        identity = session.identify()
        assert str(identity.system_identifier) == cluster.control_data()["Database system identifier"]
        assert (identity.timeline, identity.in_recovery, session.segment_size()) == (1, False, 16 << 20)
        assert session.history(1) is None
        tape = begin(session)
        cluster.pgbench_init(1)
        with cluster.load():
            take(session, tape, Lsn(flushed(cluster) + (1 << 20)))
        end = switch_wal(cluster)
        write_some(cluster, 10)
        take(session, tape, end)
        segments = list(segments_between(tape.start, end, timeline=1, size=16 << 20))
        wait_until((folder / segments[-1].name).exists, "pg_receivewal has them too")
        for segment in segments:
            content = tape.between(segment.start, segment.end)
            assert content == (folder / segment.name).read_bytes()
            assert content == (cluster.data_dir / "pg_wal" / segment.name).read_bytes()
        assert tape.clock is not None
        assert abs(datetime.now(UTC) - tape.clock) < timedelta(minutes=1)


@pytest.mark.parametrize("size", [1, 64])
def test_other_segment_sizes(make_cluster: Callable[..., Cluster], size: int) -> None:
    cluster = make_cluster(15, started=False, conf="min_wal_size = 256MB\nmax_wal_size = 512MB")
    run([cluster.bin / "pg_resetwal", f"--wal-segsize={size}", cluster.data_dir])
    cluster.start()
    with WalSession(cluster.dsn()) as session:
        assert session.segment_size() == size << 20
        tape = begin(session)
        write_some(cluster)
        end = switch_wal(cluster)
        take(session, tape, end)
        for segment in segments_between(tape.start, end, timeline=1, size=size << 20):
            stored = (cluster.data_dir / "pg_wal" / segment.name).read_bytes()
            assert tape.between(segment.start, segment.end) == stored


def test_a_restart_in_mid_stream_is_survived(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    with WalSession(cluster.dsn()) as session:
        tape = begin(session)
        write_some(cluster)
        take(session, tape, Lsn(tape.start + 100_000))
        stopping = threading.Thread(target=cluster.stop)
        stopping.start()
        with pytest.raises(ServerUnreachable, match="shuts down"):
            take(session, tape)
        stopping.join()
    cluster.start()
    write_some(cluster)
    cluster.kill()
    cluster.start()
    end = switch_wal(cluster)
    again = Tape(start=Lsn(tape.end // (16 << 20) * (16 << 20)))
    with WalSession(cluster.dsn()) as session:
        session.start(SLOT, again.start, 1)
        take(session, again, end)
    overlap = again.start, tape.end
    assert again.between(*overlap) == tape.between(*overlap)
    for segment in segments_between(again.start, end, timeline=1, size=16 << 20):
        assert again.between(segment.start, segment.end) == (cluster.data_dir / "pg_wal" / segment.name).read_bytes()


def test_a_killed_server_is_a_lost_connection(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    with WalSession(cluster.dsn()) as session:
        tape = begin(session)
        cluster.kill()
        with pytest.raises(ServerUnreachable, match="was lost"):
            take(session, tape)


def _promote(standby: Cluster) -> None:
    run([standby.bin / "pg_ctl", "promote", "-w", "-D", standby.data_dir])


@every_version
def test_a_standby_that_is_promoted_is_followed(servers: Servers, major: int) -> None:
    primary = servers.make_cluster(major)
    standby = servers.standby_of(primary)
    try:
        with WalSession(standby.dsn()) as session:
            assert session.identify().in_recovery
            tape = begin(session)
            write_some(primary)
            take(session, tape, flushed(primary))
            primary.stop()
            _promote(standby)
            ends = take(session, tape)
            assert ends is not None
            assert (ends.next_timeline, tape.end >= ends.switch) == (2, True)
            assert session.receive(0) is None
            tell(session, tape.end)  # nothing streams: nothing is sent
            content = session.history(2)
            assert content == (standby.data_dir / "pg_wal" / "00000002.history").read_bytes()
            assert parse_history(2, content or b"").switch_from(1) == ends.switch
            identity = session.identify()
            assert (identity.timeline, identity.in_recovery) == (2, False)
            switched = Segment.holding(ends.switch, timeline=2, size=16 << 20)
            newer = Tape(start=switched.start)
            session.start(SLOT, newer.start, 2)
            end = switch_wal(standby)
            take(session, newer, end)
            stored = (standby.data_dir / "pg_wal" / switched.name).read_bytes()
            assert newer.between(switched.start, switched.end) == stored
            assert newer.between(switched.start, ends.switch) == tape.between(switched.start, ends.switch)
    finally:
        servers.remove(standby)
        servers.remove(primary)


@every_version
def test_a_new_primary_is_asked_for_the_old_timeline_first(servers: Servers, major: int) -> None:
    primary = servers.make_cluster(major)
    standby = servers.standby_of(primary)
    try:
        standby.execute(f"select pg_create_physical_replication_slot('{SLOT}', true)")
        write_some(primary)
        end = flushed(primary)
        primary.stop()
        wait_until(lambda: standby.value(f"select pg_last_wal_replay_lsn() > '{end}'"), "the standby has it all")
        _promote(standby)
        with WalSession(standby.dsn()) as session:
            slot = session.slot(SLOT)
            assert slot is not None
            assert slot.restart_lsn is not None
            tape = Tape(start=Lsn(slot.restart_lsn // (16 << 20) * (16 << 20)))
            session.start(SLOT, tape.start, 1)
            ends = take(session, tape)
            assert ends == TimelineEnds(next_timeline=2, switch=tape.end)
            session.start(SLOT, ends.switch, 1)
            assert session.receive(5.0) == ends  # nothing is left of it: no stream, the same answer
            for segment in segments_between(tape.start, end - (16 << 20), timeline=1, size=16 << 20):
                stored = (standby.data_dir / "pg_wal" / segment.name).read_bytes()
                assert tape.between(segment.start, segment.end) == stored
            with pytest.raises(Refused, match="not in this server's history"):
                session.start(SLOT, Lsn(ends.switch + (64 << 20)), 1)
            with pytest.raises(Refused, match="ahead of the WAL flush position"):
                start_and_receive(session, Lsn(ends.switch + (1 << 30)), 2)
    finally:
        servers.remove(standby)
        servers.remove(primary)


def test_a_fast_stop_waits_for_what_is_not_confirmed_and_ends_at_once_when_it_is(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(15)
    with WalSession(cluster.dsn()) as session:
        tape = begin(session)
        write_some(cluster, 100)
        take(session, tape, flushed(cluster), confirm=False)
        tell(session, tape.start)
        stopping = threading.Thread(target=cluster.stop)
        stopping.start()
        quiet = time.monotonic() + 1
        while time.monotonic() < quiet:
            message = session.receive(0.1)
            if isinstance(message, WalData):
                tape.add(message)
        assert stopping.is_alive()
        began = time.monotonic()
        with pytest.raises(ServerUnreachable, match="shuts down"):
            take(session, tape, wait=0.1)
        stopping.join()
        assert time.monotonic() - began < 10


def test_a_commit_returns_when_it_is_confirmed(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15, conf="synchronous_standby_names = 'holdfast'")
    with WalSession(cluster.dsn()) as session:
        tape = begin(session)
        tell(session, tape.start)
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            committed = threading.Event()

            def commit() -> None:
                connection.execute("create table kept (n int)")
                committed.set()

            committing = threading.Thread(target=commit)
            committing.start()
            quiet = time.monotonic() + 1
            while time.monotonic() < quiet:
                message = session.receive(0.05)
                if isinstance(message, WalData):
                    tape.add(message)
            assert not committed.is_set()
            tell(session, tape.end, reply=True)
            assert committed.wait(10)
            committing.join()
            message = session.receive(5.0)
            while isinstance(message, WalData):
                message = session.receive(5.0)
            assert isinstance(message, Keepalive), "an answer was asked for"
    name = make_name(cluster, f"{cluster.dsn()} application_name=named")
    assert (make_name(cluster, cluster.dsn()), name) == ("holdfast", "named")


def make_name(cluster: Cluster, dsn: str) -> str:
    with WalSession(dsn) as session:
        query = f"select application_name from pg_stat_activity where pid = {session.backend_pid}"
        return str(cluster.value(query))


def test_slots(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15, conf="wal_level = logical")
    cluster.execute("select pg_create_logical_replication_slot('logical', 'pgoutput')")
    with WalSession(cluster.dsn()) as session, WalSession(cluster.dsn()) as other:
        assert session.slot(SLOT) is None
        tape = begin(session)
        with pytest.raises(AlreadyRunning, match=f"active for PID {session.backend_pid}"):
            other.start(SLOT, tape.start, 1)
        with pytest.raises(AlreadyRunning, match="active for PID"):
            other.drop_slot(SLOT)
        with pytest.raises(Refused, match=r"slot logical at .* is a logical one"):
            other.slot("logical")
        with pytest.raises(Refused, match="is a logical one"):
            other.start("logical", tape.start, 1)
        session.close()
        wait_until(
            lambda: not cluster.value("select active from pg_replication_slots where slot_name = 'holdfast_tests'"),
            "the slot is free",
        )
        other.start(SLOT, tape.start, 1)  # the session that was refused goes on
        write_some(cluster, 1)
        take(other, tape, flushed(cluster))
    with WalSession(cluster.dsn()) as session:
        wait_until(lambda: not cluster.value("select bool_or(active) from pg_replication_slots"), "the slot is free")
        session.drop_slot(SLOT)
        session.drop_slot(SLOT)
        assert session.slot(SLOT) is None


@every_version
def test_wal_that_is_gone_is_told_apart(make_cluster: Callable[..., Cluster], major: int) -> None:
    cluster = make_cluster(major, conf="max_slot_wal_keep_size = 1MB\nmin_wal_size = 32MB\nmax_wal_size = 32MB")
    with WalSession(cluster.dsn()) as session:
        start = Lsn(session.create_slot(SLOT) // (16 << 20) * (16 << 20))
    query = f"select wal_status from pg_replication_slots where slot_name = '{SLOT}'"
    for _ in range(6):
        switch_wal(cluster)
        cluster.execute("checkpoint")
    assert cluster.value(query) == "lost"
    assert not (cluster.data_dir / "pg_wal" / Segment.holding(start, timeline=1, size=16 << 20).name).exists()
    with WalSession(cluster.dsn()) as session:
        slot = session.slot(SLOT)
        assert slot is not None
        assert slot.restart_lsn is None
        with pytest.raises(WalGone):
            start_and_receive(session, start, 1)
        session.drop_slot(SLOT)
        tape = begin(session)
        write_some(cluster, 1)
        take(session, tape, flushed(cluster))


def test_several_hosts_and_the_session_says_which(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    hosts = f"postgresql://postgres@127.0.0.1:{free_port()},127.0.0.1:{cluster.port}/postgres"
    with WalSession(f"{hosts}?password=p%C3%A4ssword%20'of'%20tests&target_session_attrs=read-write") as session:
        assert str(session.server) == f"127.0.0.1:{cluster.port}"
        assert session.identify().timeline == 1
        assert _option(session, b"tcp_user_timeout") == b"60000"
    with WalSession(f"{cluster.dsn()} tcp_user_timeout=5000") as session:
        assert _option(session, b"tcp_user_timeout") == b"5000"


def _option(session: WalSession, name: bytes) -> bytes | None:
    return next(option.val for option in session._pgconn.info if option.keyword == name)


def test_receive_returns_when_it_is_woken_or_nothing_came(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    reading, writing = os.pipe()
    try:
        with WalSession(cluster.dsn(), wake=reading) as session:
            os.write(writing, b"x")
            tape = begin(session)  # a descriptor that can be read stands in no command's way
            take_all(session, tape, cluster)
            began = time.monotonic()
            assert not isinstance(session.receive(30), WalData)
            assert time.monotonic() - began < 10
            os.read(reading, 1)
            take_all(session, tape, cluster)
            began = time.monotonic()
            assert session.receive(0.6) is None
            assert 0.5 < time.monotonic() - began < 5
    finally:
        os.close(reading)
        os.close(writing)


def take_all(session: WalSession, tape: Tape, cluster: Cluster) -> None:
    """Until nothing more comes."""
    take(session, tape, flushed(cluster))
    quiet = time.monotonic() + 0.3
    while time.monotonic() < quiet:
        message = session.receive(0)
        if isinstance(message, WalData):
            tape.add(message)
        if message is None:
            time.sleep(0.01)
        else:
            quiet = time.monotonic() + 0.3


def test_a_stop_is_noticed_while_nothing_comes(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    stop = threading.Event()
    with WalSession(cluster.dsn(), stopped=stop.is_set) as session:
        tape = begin(session)
        take_all(session, tape, cluster)
        threading.Timer(0.3, stop.set).start()
        began = time.monotonic()
        with pytest.raises(Interrupted):
            session.receive(60)
        assert time.monotonic() - began < 10


def test_feedback_never_blocks_though_nobody_reads_it(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    with WalSession(cluster.dsn()) as session:
        tape = begin(session)
        take_all(session, tape, cluster)
        os.kill(session.backend_pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            for _ in range(100_000):
                tell(session, tape.start)
            session.receive(0.1)
            assert time.monotonic() - began < 30
            assert session._pgconn.flush() == 1, "the server takes nothing in any more"
        finally:
            os.kill(session.backend_pid, signal.SIGCONT)
        tell(session, tape.end, reply=True)
        query = f"select restart_lsn = '{tape.end}' from pg_replication_slots where slot_name = '{SLOT}'"

        def has_arrived() -> bool:
            session.receive(0.05)
            return bool(cluster.value(query))

        wait_until(has_arrived, "the newest feedback arrives in the end")


def test_a_stream_of_something_else_is_damage(make_cluster: Callable[..., Cluster]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        port = listener.getsockname()[1]

        def serve() -> None:
            channel, _address = listener.accept()
            with channel:
                channel.recv(4096)
                channel.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        serving = threading.Thread(target=serve)
        serving.start()
        with pytest.raises(ServerUnreachable):
            WalSession(f"host=127.0.0.1 port={port} user=u gssencmode=disable sslmode=disable connect_timeout=3")
        serving.join()
