"""Records are taken apart as pg_waldump takes them apart, and what is damaged is refused."""

from __future__ import annotations

import random
import re
import struct
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Damaged
from holdfast.postgres.walchanges import ChangeKind, Committed, committed, wanted
from holdfast.postgres.walpages import Layout
from holdfast.postgres.walrecords import (
    Manager,
    Relation,
    ending,
    microseconds,
    moment,
    records,
    take_apart,
)
from tests.postgres.wal_making import SEGMENT, TIME, Making, block, main, record
from tests.postgres.wal_servers import SIZE, Written, parts, write
from tests.servers import MAJORS, Servers

PLACE = Layout(SEGMENT).place(SEGMENT * 3 + 400)
TABLE = (1663, 5, 16402)


def apart(body: bytes, *, manager: int = 10, info: int = 0, major: int = 15) -> object:
    return take_apart(record(manager, info, body, xid=7, prev=0x300028), PLACE, Layout(SEGMENT), major)


def test_parts() -> None:
    body = (
        b"\xfd\x01\x00"  # origin
        b"\xfc\x05\x00\x00\x00"  # toplevel xid
        + block(0, TABLE, b"abc")
        + struct.pack("<BBH", 1, 0x80, 2)  # the same relation
        + struct.pack("<I", 9)
        + b"\xff\x04"
        + b"abc"
        + b"de"
        + b"data"
    )
    found = take_apart(record(10, 0x10, body, xid=7, prev=0x300028), PLACE, Layout(SEGMENT), 15)
    assert (found.xid, found.toplevel_xid, found.manager, found.info) == (7, 5, Manager.HEAP, 0x10)
    assert [(one.relation, one.fork, one.number) for one in found.blocks] == [(TABLE, 0, 7), (TABLE, 0, 9)]
    assert (found.data, found.lsn, found.prev) == (b"data", SEGMENT * 3 + 400, 0x300028)
    nothing = take_apart(record(10, 0, block(0, TABLE, b"abc") + b"abc", prev=0), PLACE, Layout(SEGMENT), 15)
    assert nothing.data == b""
    assert len(nothing.blocks) == 1


@given(st.binary(max_size=200), st.integers(0, 21), st.integers(0, 255), st.sampled_from([15, 18]))
def test_garbage_is_damaged(body: bytes, manager: int, info: int, major: int) -> None:
    raw = record(manager, info, body, prev=0)
    try:
        found = take_apart(raw, PLACE, Layout(SEGMENT), major)
        if manager == Manager.XACT:
            ending(found)
        list(committed([found] if wanted(manager, info) else []))
    except Damaged:
        pass


def test_moments() -> None:
    when = datetime(2026, 11, 22, 14, 3, 22, 123456, tzinfo=UTC)
    assert moment(microseconds(when)) == when
    assert moment(0) == datetime(2000, 1, 1, tzinfo=UTC)
    assert moment(2**63 - 1) > when > moment(-(2**63))


def test_zeros_end_it_and_a_record_may_be_cut_anywhere() -> None:
    making = Making()
    for xid in range(3, 900):
        making.commit(xid, more=bytes(xid % 70))
    wal = making.wal()
    whole = list(records([wal], timeline=1, segment_size=SEGMENT, start=making.start))
    assert [one.xid for one in whole] == list(range(3, 900))
    assert whole[-1].end == making.end
    assert [one.prev for one in whole[1:]] == [one.lsn for one in whole[:-1]]
    chance, at, blocks = random.Random(4), 0, []
    while at < len(wal):
        size = chance.randint(1, 400)
        blocks.append(wal[at : at + size])
        at += size
    assert list(records(blocks, timeline=1, segment_size=SEGMENT, start=making.start)) == whole
    some = records(blocks, timeline=1, segment_size=SEGMENT, start=making.start, wanted=lambda _m, _i: False)
    assert not list(some)


def heap(making: Making, info: int, data: bytes, *, xid: int, relation: tuple[int, int, int] = TABLE) -> None:
    making.append(10, info, block(0, relation) + main(data), xid=xid)


def told(making: Making) -> list[Committed]:
    found = records([making.wal()], timeline=1, segment_size=SEGMENT, start=making.start, wanted=wanted)
    return list(committed(found))


def running(making: Making, next_xid: int, oldest: int) -> None:
    making.append(8, 0x10, main(struct.pack("<iiBxxxIII", 0, 0, 0, next_xid, oldest, oldest - 1)))


def test_rows_of_subtransactions_count_for_their_parent_and_those_rolled_back_do_not() -> None:
    making = Making()
    running(making, 10, 10)
    heap(making, 0x00, bytes(3), xid=10)
    heap(making, 0x10, bytes(8), xid=11)
    heap(making, 0x10, bytes(8), xid=12)
    making.append(1, 0xA0, main(struct.pack("<qI", TIME, 0)), xid=12)
    making.append(1, 0x80, main(struct.pack("<qIiI", TIME, 2, 1, 11)), xid=10)
    (found,) = told(making)
    assert (found.xid, found.is_whole) == (10, True)
    assert found.changes.rows == Counter(
        {(Relation(*TABLE), kind): 1 for kind in (ChangeKind.INSERT, ChangeKind.DELETE)}
    )


def test_an_insert_taken_back_is_none() -> None:
    """INSERT … ON CONFLICT inserts first, and deletes what was in vain with a flag of its own."""
    making = Making()
    heap(making, 0x00, bytes(3), xid=10)
    heap(making, 0x10, bytes(7) + b"\x08", xid=10)
    making.commit(10)
    (found,) = told(making)
    assert found.changes.rows == {(Relation(*TABLE), ChangeKind.INSERT): 0}


def test_what_began_before_is_marked_and_what_a_crash_left_is_forgotten() -> None:
    making = Making()
    heap(making, 0x10, bytes(8), xid=9)
    heap(making, 0x10, bytes(8), xid=8)
    running(making, 10, 9)
    making.commit(9)
    making.commit(8)
    making.commit(10)
    nine, eight, ten = told(making)
    assert (nine.is_whole, ten.is_whole) == (False, True)
    assert nine.changes.rows.total() == 1
    assert not eight.changes.rows


@pytest.mark.parametrize("major", [15, 18])
def test_a_prepared_transaction_ends_by_another(major: int) -> None:
    """What stands between differs: an item of dropped statistics has 12 bytes, from 18 on 16."""
    making = Making(major=major)
    heap(making, 0x10, bytes(8), xid=10)
    statistics = struct.pack("<i", 2) + bytes(2 * (16 if major >= 18 else 12))
    dropped = struct.pack("<i3I", 1, *TABLE)
    more = struct.pack("<I", 0x114) + dropped + statistics + struct.pack("<I", 10)
    making.append(1, 0xB0, main(struct.pack("<q", TIME) + more), xid=0)
    (found,) = told(making)
    assert (found.xid, found.dropped) == (10, (Relation(*TABLE),))
    assert found.changes.rows.total() == 1


@pytest.fixture(scope="module", params=MAJORS)
def written(servers: Servers, request: pytest.FixtureRequest) -> Iterator[Written]:
    made = write(servers, request.param)
    yield made
    servers.remove(made.cluster)


_NAMES = {
    "XLOG": 0,
    "Transaction": 1,
    "Storage": 2,
    "Database": 4,
    "Tablespace": 5,
    "Standby": 8,
    "Heap2": 9,
    "Heap": 10,
}
_BLOCK = re.compile(r"blkref #\d+: rel (\d+)/(\d+)/(\d+) (?:fork \S+ )?blk (\d+)")


def test_records_of_servers_are_those_of_pg_waldump(written: Written) -> None:
    wanted_records = []
    for line in written.dump():
        manager, xid, lsn, prev, text = parts(line)
        blocks = [tuple(map(int, found)) for found in _BLOCK.findall(text)]
        wanted_records.append((_NAMES.get(manager), xid, lsn, prev, blocks))
    found = list(records([written.content], timeline=1, segment_size=SIZE, start=written.start))
    known = set(_NAMES.values())
    assert [
        (
            one.manager if one.manager in known else None,
            one.xid,
            one.lsn,
            one.prev,
            [(*block.relation, block.number) for block in one.blocks],
        )
        for one in found
    ] == wanted_records
    assert all(one.end <= after.lsn < one.end + 41 for one, after in pairwise(found) if one.info != 0x40 or one.manager)


def test_changes_of_servers(written: Written) -> None:
    cluster = written.cluster
    chosen = records([written.content], timeline=1, segment_size=SIZE, start=written.start, wanted=wanted)
    found = list(committed(chosen))
    totals: Counter[tuple[int, ChangeKind]] = Counter()
    for one in found:
        for (relation, kind), rows in one.changes.rows.items():
            totals[relation.number, kind] += rows

    def file(table: str) -> int:
        return int(cluster.value(f"select pg_relation_filenode('{table}')"))

    assert totals[file("rows"), ChangeKind.INSERT] == 801
    assert totals[file("rows"), ChangeKind.UPDATE] == 0, "it was rolled back"
    assert totals[file("pgbench_history"), ChangeKind.INSERT] == 4 * 500 + 2 * 50
    assert totals[file("pgbench_accounts"), ChangeKind.UPDATE] == 4 * 500 + 2 * 50
    assert totals[file("pgbench_accounts"), ChangeKind.INSERT] == 100_000
    assert sum(len(one.changes.dropped_databases) for one in found) == 1
