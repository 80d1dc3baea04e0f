"""What the demo expects of a copy is computed in Python: here against the server that did the work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.demo import servers, tables
from holdfast.demo.load import Log, Writer, expected_after, transaction
from holdfast.errors import HoldfastError, ServerUnreachable
from holdfast.postgres.accounts import server_account
from holdfast.postgres.connection import Connection, connect
from holdfast.postgres.instance import Instance
from holdfast.postgres.lsn import Lsn

SMALL = 30


@pytest.fixture
def shape(server: Instance, binaries: Path) -> tables.Shape:
    return servers.fill(server, binaries=binaries, account=server_account(), megabytes=SMALL)


@pytest.fixture
def sql(server: Instance, shape: tables.Shape) -> Iterator[Connection]:
    with closing(connect(server.connection_string(database=tables.DATABASE))) as session:
        yield session


def wrong(expected: tables.Contents, sql: Connection) -> list[str]:
    return [compared.table for compared in tables.compare(expected, tables.measure(sql)) if not compared.same]


def write(server: Instance, shape: tables.Shape, folder: Path, count: int) -> Log:
    connection = server.connection_string(database=tables.DATABASE)
    writer = Writer(connection, shape, log=folder / "load.log", clock=SystemClock())
    writer.start()
    writer.wait_for(count, limit=60)
    return writer.stop()


DAMAGE = (
    ("update trades set price = price + 0.0001 where id = 1", "trades"),
    ("delete from trades where id = (select max(id) from trades)", "trades"),
    ("insert into trades select id + 10000000, day, symbol, side, quantity, price, note from trades limit 1", "trades"),
    ("update trades set note = '' where id in (select id from trades where note is null limit 1)", "trades"),
    ("update daily_blueprints set plan = plan || '{\"bias\": \"none\"}' where day = '2021-01-04'", "daily_blueprints"),
    ("update pgbench_accounts set abalance = abalance + 1 where aid = 99999", "pgbench_accounts"),
    (
        "update pgbench_history set mtime = mtime + interval '1 s' where mtime = '2025-11-17 09:30:01'",
        "pgbench_history",
    ),
    ("drop table pgbench_history", "pgbench_history"),
    ("create table unknown (n int)", "unknown"),
)


def test_the_load_is_what_python_says_and_any_damage_shows(
    server: Instance, shape: tables.Shape, sql: Connection, short_folder: Path
) -> None:
    assert servers.database_size(server) >= SMALL * 10**6
    base = tables.measure(sql)
    log = write(server, shape, short_folder, 300)
    count = tables.transactions_in(sql)
    assert count == len(log.positions) >= 300
    assert list(log.positions) == sorted(log.positions)
    lines = (short_folder / "load.log").read_text().splitlines()
    assert lines[-1] == f"{count} {log.positions[-1]}"

    expected = expected_after(count, base, shape)
    assert wrong(expected, sql) == []
    assert expected["trades"].rows == base["trades"].rows + count
    changed = {table for table in base if expected[table] != base[table]}
    assert changed == set(base), "every table is written to"
    assert set(wrong(expected_after(count - 1, base, shape), sql)) >= {"trades", "pgbench_history", "load_progress"}
    for damage, table in DAMAGE:
        sql.execute(b"begin")
        sql.execute(damage.encode())
        assert wrong(expected, sql) == [table], damage
        sql.execute(b"rollback")
    assert wrong(expected, sql) == []


def test_killed_under_load_the_log_ends_and_nothing_is_left(
    server: Instance, shape: tables.Shape, short_folder: Path
) -> None:
    connection = server.connection_string(database=tables.DATABASE)
    writer = Writer(connection, shape, log=short_folder / "load.log", clock=SystemClock())
    writer.start()
    writer.wait_for(20, limit=60)
    memory = servers._shared_memory(server.data_dir)
    servers.lose(server, clock=SystemClock())
    log = writer.stop()
    assert len(log.positions) >= 20
    assert not server.is_running()
    assert not server.data_dir.exists()
    assert memory is not None
    with pytest.raises(ServerUnreachable):
        writer.wait_for(10**9, limit=1)
    if Path("/proc/sysvipc/shm").exists():
        segments = [line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
        assert memory not in segments


def test_a_load_that_cannot_begin_says_why(short_folder: Path) -> None:
    shape = tables.Shape(branches=1, days=10, trades=0)
    writer = Writer(f"host={short_folder} port=1", shape, log=short_folder / "log", clock=SystemClock())
    writer.start()
    with pytest.raises(HoldfastError):
        writer.wait_for(1, limit=30)
    assert writer.stop().positions == ()


def test_a_row_is_written_as_postgresql_writes_it(server: Instance) -> None:
    texts = ["", " ", "a", 'say "x"', "back\\slash", "(a,b)", "new\nline", "期权", "tab\t", "\u00a0", "a'b", "null"]
    with closing(connect(server.connection_string())) as session:
        for text in texts:
            row = session.execute("select row(1, %s::text, null::text, date '2025-11-17')::text", [text]).fetchone()
            assert row is not None
            assert tables.row_text((1, text, None, date(2025, 11, 17))) == row[0]
            row = session.execute(f"select {tables.literal(text)}".encode()).fetchone()
            assert row == (text,)
        row = session.execute(b"select row(timestamp '2025-11-17 09:30:01', 1.2300::numeric(8,4))::text").fetchone()
        assert row == (tables.row_text((datetime(2025, 11, 17, 9, 30, 1), "1.2300")),)  # noqa: DTZ001  as the column
        # what the caller's environment says of dates does not change a checksum
        session.execute(b"create table dated (day date); insert into dated values ('2025-11-17')")
        for style in ("iso, mdy", "german", "sql, dmy"):
            session.execute(f"set datestyle = {style}".encode())
            assert tables.measure(session)["dated"].checksum == tables.row_checksum(date(2025, 11, 17))


def test_a_position_holds_what_was_noted_up_to_it() -> None:
    log = Log(positions=[Lsn(100), Lsn(200), Lsn(200), Lsn(300)])
    assert [log.held_at(Lsn(end)) for end in (0, 99, 100, 199, 200, 299, 300, 999)] == [0, 0, 1, 1, 3, 3, 4, 4]


def test_a_transaction_follows_from_its_number() -> None:
    shape = tables.Shape(branches=3, days=100, trades=1000)
    assert transaction(7, shape) == transaction(7, shape)
    assert transaction(7, shape) != replace(transaction(8, shape), number=7)
    assert {transaction(number, shape).trade[0] for number in range(1, 50)} == set(range(1001, 1050))


def test_the_segment_of_a_killed_server_is_named_in_its_file(short_folder: Path) -> None:
    file = short_folder / "postmaster.pid"
    assert servers._shared_memory(short_folder) is None
    file.write_text("12\n/d\n1\n5432\n/tmp/x\n\n 123   456\nready\n")
    assert servers._shared_memory(short_folder) == "456"
    assert servers._line(short_folder, 5) == "/tmp/x"
    file.write_text("12\n/d\n")
    assert servers._shared_memory(short_folder) is None


def test_bad_pages_are_noticed(server: Instance, binaries: Path, shape: tables.Shape) -> None:
    with closing(connect(server.connection_string(database=tables.DATABASE))) as session:
        row = session.execute(b"select pg_relation_filepath('trades')").fetchone()
    assert row is not None
    server.stop()
    servers.check_pages(server.data_dir, binaries=binaries, account=server_account())
    with (server.data_dir / row[0]).open("r+b") as file:
        file.seek(3 * 8192 + 5000)
        file.write(os.urandom(16))
    with pytest.raises(HoldfastError, match="checksums"):
        servers.check_pages(server.data_dir, binaries=binaries, account=server_account())


def test_the_image_path_is_the_missions() -> None:
    days = [tables.trading_day(number) for number in range(1200)]
    assert all(day.weekday() < 5 for day in days)
    assert days == sorted(set(days))
    images = {str(tables.blueprint(number, 0)[3]) for number in range(1300)}
    assert "blueprints/2025/11/20251117.jpg" in images
