from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from holdfast.errors import ConfigError, ServerUnreachable
from holdfast.postgres.connection import Server
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.slot_watch import Probe, SlotWatch, is_shutting_down, probe
from holdfast.postgres.streaming import WalData, WalSession
from tests.servers import Cluster, Servers, children_of, every_version, free_port, wait_until

SLOT = "holdfast_tests"


def _confirm(session: WalSession, lsn: Lsn) -> None:
    session.confirm(written=lsn, flushed=lsn, applied=lsn, clock=datetime.now(UTC))


def _stream(cluster: Cluster) -> tuple[WalSession, Lsn]:
    session = WalSession(cluster.dsn())
    start = session.create_slot(SLOT)
    session.start(SLOT, start, session.identify().timeline)
    _confirm(session, start)
    return session, start


def _confirm_all(session: WalSession, start: Lsn) -> None:
    while True:
        message = session.receive(0.1)
        if isinstance(message, WalData):
            start = Lsn(message.start + len(message.content))
        _confirm(session, start)


@every_version
def test_what_the_server_says(make_cluster: Callable[..., Cluster], major: int) -> None:
    cluster = make_cluster(major, conf="max_slot_wal_keep_size = 64MB")
    with SlotWatch(cluster.dsn(), SLOT) as watch:
        seen = watch.look()
        assert (seen.slot, seen.sync_state, seen.in_recovery, seen.synchronous_standby_names) == (None, None, False, "")
        assert seen.max_slot_wal_keep_size == 64 << 20
        assert abs(seen.clock - datetime.now(UTC)) < timedelta(minutes=1)
        assert str(seen.system_identifier) == cluster.control_data()["Database system identifier"]
        assert (seen.timeline, seen.data_directory) == (1, str(cluster.data_dir))
        session, start = _stream(cluster)
        with session:
            wait_until(lambda: watch.look().sync_state == "async", "our walsender is seen")
            cluster.execute("create table rows_written as select generate_series(1, 10000)")
            slot = watch.look().slot
            assert slot is not None
            assert (slot.is_physical, slot.restart_lsn, slot.active_pid) == (True, start, session.backend_pid)
            assert slot.wal_status == "reserved"
            seen = watch.look()
            assert seen.slot is not None
            assert seen.slot.retained == seen.end - start > 300_000
            assert seen.slot.safe_wal_size is not None
            cluster.execute("alter system set synchronous_standby_names = 'ANY 1 (holdfast, other)'")
            cluster.execute("alter system set max_slot_wal_keep_size = -1")
            cluster.execute("select pg_reload_conf()")
            wait_until(lambda: watch.look().max_slot_wal_keep_size is None, "the settings are read again")
            assert watch.look().synchronous_standby_names == "ANY 1 (holdfast, other)"
            wait_until(lambda: _answers(session, start) and watch.look().sync_state == "quorum", "it is synchronous")
        wait_until(lambda: (slot := watch.look().slot) is not None and slot.active_pid is None, "nobody streams")
        assert watch.look().sync_state is None


def _answers(session: WalSession, lsn: Lsn) -> bool:
    _confirm(session, lsn)
    return True


def test_a_role_without_pg_monitor_sees_the_slot_and_no_state(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    cluster.execute("create role plain login")
    cluster.execute("revoke execute on function pg_control_system() from public")
    session, start = _stream(cluster)
    with session, SlotWatch(cluster.dsn(user="plain"), SLOT) as watch:
        seen = watch.look()
        assert seen.sync_state is None
        assert (seen.system_identifier, seen.timeline, seen.data_directory) == (None, 1, None)
        assert watch.look().slot == seen.slot
        assert seen.slot is not None
        assert (seen.slot.restart_lsn, seen.slot.active_pid) == (start, session.backend_pid)


def test_a_standby_says_what_it_has_received(servers: Servers) -> None:
    primary = servers.make_cluster(15)
    standby = servers.standby_of(primary)
    try:
        with SlotWatch(standby.dsn(), SLOT) as watch, SlotWatch(primary.dsn(), SLOT) as other:
            seen = watch.look()
            assert seen.in_recovery
            assert 0 < seen.end <= other.look().end
            assert (seen.timeline, seen.system_identifier) == (1, other.look().system_identifier)
    finally:
        servers.remove(standby)
        servers.remove(primary)


def test_it_connects_again_after_a_restart(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    with SlotWatch(cluster.dsn(), SLOT) as watch:
        before = watch.look()
        cluster.restart()
        assert watch.look().clock > before.clock
        cluster.stop()
        with pytest.raises(ServerUnreachable):
            watch.look()
        cluster.start()
        watch.look()


def test_of_several_hosts_the_one_of_the_stream_is_asked(make_cluster: Callable[..., Cluster]) -> None:
    first, second = make_cluster(15), make_cluster(15)
    hosts = f"host={first.socket_dir},{second.socket_dir} port={first.port},{second.port} user=postgres dbname=postgres"
    with WalSession(second.dsn()) as session, SlotWatch(hosts, SLOT, server=session.server) as watch:
        assert str(watch.look().server) == str(session.server)
    with SlotWatch(hosts, SLOT) as watch:
        assert watch.look().server.port == str(first.port)


def test_an_answer_that_does_not_come_is_not_waited_for(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    with SlotWatch(cluster.dsn(), SLOT, limit=1.0) as watch:
        watch.look()
        pid = cluster.value("select pid from pg_stat_activity where application_name = 'holdfast'")
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(ServerUnreachable, match="not answered within 1 seconds"):
                watch.look()
            assert time.monotonic() - began < 3
        finally:
            os.kill(pid, signal.SIGCONT)
        watch.look()


def test_the_slot_is_a_name_and_no_sql(make_cluster: Callable[..., Cluster]) -> None:
    with SlotWatch(make_cluster(15).dsn(), "it's; --") as watch:
        assert watch.look().slot is None


def test_a_connection_string_that_cannot_be_read() -> None:
    with pytest.raises(ConfigError):
        SlotWatch("host=x nonsense", SLOT)


@every_version
def test_a_server_that_shuts_down_is_told_apart(make_cluster: Callable[..., Cluster], major: int) -> None:
    cluster = make_cluster(major)
    session, start = _stream(cluster)
    over_tcp = Server(host="127.0.0.1", port=str(cluster.port), user="postgres")
    with session, SlotWatch(cluster.dsn(), SLOT) as watch:
        watch.look()
        assert [probe(session.server), probe(over_tcp)] == [Probe.UP, Probe.UP]
        assert not is_shutting_down(session.server)
        stopping = threading.Thread(target=cluster.stop)
        stopping.start()
        wait_until(lambda: is_shutting_down(session.server), "the server refuses with 57P03")
        assert probe(over_tcp) is Probe.SHUTTING_DOWN
        with pytest.raises(ServerUnreachable):
            watch.look()
        assert stopping.is_alive(), "it still streams to us"
        with pytest.raises(ServerUnreachable, match="shuts down"):
            _confirm_all(session, start)
        stopping.join()
        assert [probe(session.server), probe(over_tcp)] == [Probe.UNREACHABLE, Probe.UNREACHABLE]


def test_a_server_that_hangs_or_speaks_otherwise() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(host="127.0.0.1", port=str(listener.getsockname()[1]), user="postgres")
        began = time.monotonic()
        assert probe(server, limit=0.5) is Probe.UNREACHABLE
        assert time.monotonic() - began < 3
    assert probe(Server(host="127.0.0.1", port=str(free_port()), user="postgres")) is Probe.UNREACHABLE
    assert probe(Server(host="/nowhere", port="5432", user="postgres")) is Probe.UNREACHABLE
    assert probe(Server(host="127.0.0.1", port="", user="postgres")) is Probe.UNREACHABLE


def test_a_probe_leaves_nothing_running(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    pid = cluster.pid
    assert pid is not None
    before = len(children_of(pid))
    for _ in range(20):
        assert probe(Server(host=str(cluster.socket_dir), port=str(cluster.port), user="postgres")) is Probe.UP
    wait_until(lambda: len(children_of(pid)) <= before, "the server's processes are gone")
