"""What WAL says is found as pg_waldump finds it, however the WAL comes, and nothing else is ever found."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.errors import Damaged
from holdfast.postgres.crc32c import crc32c
from holdfast.postgres.facts import RecoveryLimits
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.walcrc import record_checksums
from holdfast.postgres.walfacts import EventKind, Outcome, Transaction, WalFacts, join
from holdfast.postgres.walscan import WalScanner, transactions
from tests.postgres.wal_making import SEGMENT, TIME, Making, main, record
from tests.postgres.wal_servers import SIZE, Written, endings, write
from tests.servers import MAJORS, Servers

SINCE_2000 = datetime(2000, 1, 1, tzinfo=UTC)


def scanner(making: Making, start: int | None = None) -> WalScanner:
    return WalScanner(timeline=1, segment_size=SEGMENT, start=making.start if start is None else start)


def cut(scan: WalScanner, wal: bytes, seed: int, longest: int) -> WalFacts:
    """``wal`` fed in blocks of any size; each one's facts lie where its block does."""
    chance, at, found = random.Random(seed), 0, []
    while at < len(wal):
        size = chance.randint(1, longest)
        found.append(scan.feed(wal[at : at + size]))
        assert found[-1].stop - found[-1].start == len(wal[at : at + size])
        assert WalFacts.from_json(found[-1].to_json()) == found[-1]
        at += size
    return join(found)


def story(seed: int, bytes_: int = 60_000, major: int = 15) -> tuple[Making, list[Transaction]]:
    """WAL with commits and aborts among records of all sizes, whose bodies hold copies of commits."""
    chance = random.Random(seed)
    making = Making(major=major)
    ends: list[Transaction] = []
    while making.end < making.start + bytes_:
        kind = chance.random()
        if kind < 0.4:
            abort, time, xid = chance.random() < 0.3, TIME + chance.randint(-(10**9), 10**9), chance.randint(3, 1 << 31)
            prev = (making.records and making.layout.lsn(making.records[-1][0])) or making.start - 64
            lsn = making.commit(xid, time=time, abort=abort, more=bytes(chance.choice([0, 0, 12, 250, 5000])))
            ends.append(
                Transaction(
                    outcome=Outcome.ABORT if abort else Outcome.COMMIT,
                    xid=xid,
                    time=SINCE_2000 + timedelta(microseconds=time),
                    lsn=lsn,
                    end=making.end,
                    prev=Lsn(prev),
                )
            )
        elif kind < 0.7:
            making.filler(chance.randbytes(chance.choice([8, 100, 9000, 20000])))
        elif kind < 0.72:
            making.switch()
        else:  # a perfect commit record, at a place and with an xl_prev as good as any, inside of a row
            inside = making.layout.lsn(making.place) + 26
            fake = record(1, 0, main(struct.pack("<q", TIME)), xid=66, prev=making.layout.lsn(making.place))
            making.filler(bytes(-inside % 8) + fake + record(0, 0x40, prev=inside) + bytes(chance.randint(0, 40)))
    return making, ends


@given(st.integers(0, 10**6), st.integers(1, 40_000), st.sampled_from([15, 18, 19]))
@settings(max_examples=60)
def test_facts_are_the_same_however_wal_comes(seed: int, longest: int, major: int) -> None:
    making, ends = story(seed, major=major)
    wal = making.wal()
    whole = scanner(making).feed(wal)
    assert cut(scanner(making), wal, seed, max(longest, 50)) == whole
    times, xids = [end.time for end in ends], [end.xid for end in ends]
    assert whole == WalFacts(
        start=making.start,
        stop=Lsn(making.start + len(wal)),
        records_end=making.end,
        commits=sum(end.outcome is Outcome.COMMIT for end in ends),
        aborts=sum(end.outcome is Outcome.ABORT for end in ends),
        first_time=min(times, default=None),
        last_time=max(times, default=None),
        min_xid=min(xids, default=None),
        max_xid=max(xids, default=None),
    )
    assert transactions([wal[:5000], wal[5000:]], timeline=1, segment_size=SEGMENT, start=making.start) == ends


@given(st.integers(0, 10**6), st.integers(0, 60_000))
def test_it_may_start_anywhere(seed: int, skipped: int) -> None:
    making, ends = story(seed)
    wal = making.wal()
    start = making.start + min(skipped, len(wal) - 1)
    found = transactions([wal[start - making.start :]], timeline=1, segment_size=SEGMENT, start=start)
    page = -(-start // 8192) * 8192
    assert found == [end for end in ends if end.lsn >= page]


@given(seed=st.integers(0, 1000), skipped=st.integers(0, 60_000), longest=st.sampled_from([50, 5000, 70_000]))
@settings(max_examples=60, deadline=None)
def test_it_says_when_it_may_have_missed_an_ending(seed: int, skipped: int, longest: int) -> None:
    making, ends = story(seed)
    wal = making.wal()
    start = making.start + min(skipped, len(wal) - 1)
    scan = scanner(making, start)
    facts = cut(scan, wal[start - making.start :], seed, longest)
    held = [end for end in ends if end.end > start]
    assert facts.is_blind or facts.commits + facts.aborts == len(held)
    assert not cut(scanner(making), wal, seed, longest).is_blind, "it saw everything from the beginning"


@pytest.mark.parametrize("at", [4, 8, 16, 17, 21, 26, 30])
def test_a_damaged_record_is_not_believed(at: int) -> None:
    making = Making()
    making.commit(7)
    making.commit(8)
    making.commit(9)
    wal = bytearray(making.wal())
    begin = making.layout.lsn(making.records[1][0]) - making.start
    wal[begin + at] ^= 0x14
    found = transactions([wal], timeline=1, segment_size=SEGMENT, start=making.start)
    assert [end.xid for end in found if end.lsn - making.start == begin] == []
    assert found[0].xid == 7


def test_a_record_that_does_not_follow_the_one_before_is_not_believed() -> None:
    making = Making()
    for xid in (6, 7):
        making.commit(xid)
    lsn = making.append(1, 0, main(struct.pack("<q", TIME)), xid=8, prev=making.layout.lsn(making.records[0][0]))
    wal, at = making.wal(), lsn - making.start
    for blocks in ([wal], [wal[:at], wal[at:]]):
        found = transactions(blocks, timeline=1, segment_size=SEGMENT, start=making.start)
        assert [end.xid for end in found] == [6, 7]


def test_what_a_crash_left_unfinished_is_begun_anew() -> None:
    for major in (15, 18, 19):
        making = Making(major=major)
        making.commit(7)
        lost = making.place
        making.filler(bytes(30_000))
        page = (making.layout.lsn(lost) // 8192 + 2) * 8192
        making.records[-1] = (lost, making.records[-1][1][: making.layout.place(page) - lost])
        making.place = making.layout.place(page)
        making.overwritten.add(page)
        previous = making.layout.lsn(making.records[0][0])
        making.append(0, 0xD0, main(struct.pack("<Qq", making.layout.lsn(lost), TIME)), prev=previous)
        making.commit(8)
        wal = making.wal()
        for longest in (len(wal), 3000, 100):
            facts = cut(scanner(making), wal, 5, longest)
            assert (facts.commits, facts.records_end) == (2, making.end), (major, longest)


def test_zeros_end_it_and_a_switch_reaches_the_next_segment() -> None:
    making = Making()
    making.commit(7)
    end = making.end
    wal = making.wal()
    assert scanner(making).feed(wal + bytes(50_000)).records_end == end
    making.switch()
    wal = making.wal().ljust(SEGMENT, b"\0")
    assert scanner(making).feed(wal[:-1]).records_end == end + 24
    assert cut(scanner(making), wal, 1, 100_000).records_end == making.start + SEGMENT
    making.commit(8)
    both = scanner(making).feed(making.wal())
    assert (both.commits, both.records_end) == (2, making.end)


@given(st.binary(max_size=3000), st.integers(0, 2000))
@example(b"", 0)
def test_garbage_is_no_wal(garbage: bytes, at: int) -> None:
    making = Making()
    for xid in range(3, 60):
        making.commit(xid)
    wal = bytearray(making.wal())
    wal[40 + at : 40 + at + len(garbage)] = garbage
    for content in (garbage, bytes(wal)):
        try:
            facts = scanner(making).feed(content)
        except Damaged:
            continue
        assert facts.commits <= 57


def test_events() -> None:
    making = Making()
    making.append(0, 0x70, main(struct.pack("<q", TIME) + "前".encode() + bytes(61)))
    making.append(0, 0x60, main(struct.pack("<6i??", 150, 8, 10, 2, 64, 1, False, False) + bytes(2)))
    making.append(5, 0x00, main(struct.pack("<I", 16400) + b"/data/x\0"))
    making.append(5, 0x10, main(struct.pack("<I", 16400)))
    making.append(4, 0x00, main(struct.pack("<4I", 16500, 1663, 1, 1663)))
    making.append(4, 0x11, main(struct.pack("<2I", 16501, 1663)))
    making.append(4, 0x20, main(struct.pack("<3I", 16501, 1, 1663)))
    making.append(0, 0x90, main(struct.pack("<q2Ii", TIME, 4, 3, 1)))
    making.append(0, 0x80, main(b"\1"))
    checkpoint = bytearray(88)
    struct.pack_into("<q", checkpoint, 64, 946_684_800 + 5)
    making.append(0, 0x00, main(bytes(checkpoint)))
    when = SINCE_2000 + timedelta(microseconds=TIME)
    limits = {
        "max_connections": 150,
        "max_worker_processes": 8,
        "max_wal_senders": 10,
        "max_prepared_transactions": 2,
        "max_locks_per_transaction": 64,
        "wal_level": "replica",
    }
    facts = scanner(making).feed(making.wal())
    assert [(event.kind, event.time, event.detail) for event in facts.events] == [
        (EventKind.RESTORE_POINT, when, "前"),
        (EventKind.PARAMETERS, None, json.dumps(limits)),
        (EventKind.TABLESPACE, None, "16400 /data/x"),
        (EventKind.TABLESPACE_DROPPED, None, "16400"),
        (EventKind.DATABASE, None, "16500"),
        (EventKind.DATABASE, None, "16501"),
        (EventKind.DATABASE_DROPPED, None, "16501"),
        (EventKind.END_OF_RECOVERY, when, "4 3"),
        (EventKind.FULL_PAGE_WRITES, None, "on"),
        (EventKind.SHUTDOWN, SINCE_2000 + timedelta(seconds=5), ""),
    ]
    assert [event.lsn for event in facts.events] == [making.layout.lsn(at) for at, _raw in making.records]
    assert facts.events[-1].end == making.end
    del limits["wal_level"]
    assert RecoveryLimits(**limits)  # type: ignore[arg-type]


@given(st.lists(st.integers(24, 60) | st.integers(4000, 13_000), max_size=12), st.integers(0, 1 << 32))
def test_checksums_of_many_at_once(lengths: list[int], seed: int) -> None:
    content = random.Random(seed).randbytes(sum(lengths))
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    found = record_checksums(np.frombuffer(content, dtype=np.uint8), np.array(starts, int), np.array(lengths, int))
    assert found.tolist() == [
        crc32c(content[at : at + 20], crc32c(content[at + 24 : at + length]))
        for at, length in zip(starts, lengths, strict=True)
    ]


@pytest.fixture(scope="module", params=MAJORS)
def written(servers: Servers, request: pytest.FixtureRequest) -> Iterator[Written]:
    made = write(servers, request.param, wal_level="logical" if request.param % 2 else "replica")
    yield made
    servers.remove(made.cluster)


def test_transactions_of_servers_are_those_of_pg_waldump(written: Written) -> None:
    wanted = endings(written)
    content = written.content
    found = transactions([content], timeline=1, segment_size=SIZE, start=written.start)
    assert len(found) > 2500
    assert [(end.outcome.value, end.xid, end.lsn, end.prev, end.time) for end in found] == wanted
    facts = WalScanner(timeline=1, segment_size=SIZE, start=written.start).feed(content)
    assert facts.commits == sum(outcome == "commit" for outcome, *_others in wanted)
    assert facts.aborts == len(wanted) - facts.commits > 0
    assert facts.records_end == written.start + len(content)
    assert cut(WalScanner(timeline=1, segment_size=SIZE, start=written.start), content, 3, 300_000) == facts


def test_events_of_servers(written: Written) -> None:
    facts = WalScanner(timeline=1, segment_size=SIZE, start=written.start).feed(written.content)
    details: dict[EventKind, list[str]] = {kind: [] for kind in EventKind}
    for event in facts.events:
        details[event.kind].append(event.detail)
        assert event.time is None or abs(event.time - datetime.now(UTC)) < timedelta(hours=1), event
    assert details[EventKind.RESTORE_POINT] == ["before the change 之前"]
    levels = [
        (value["max_connections"], value["wal_level"]) for value in map(json.loads, details[EventKind.PARAMETERS])
    ]
    assert levels[-2:] == [(100, "logical" if written.major % 2 else "replica"), (150, levels[-2][1])]
    (oid,) = details[EventKind.TABLESPACE_DROPPED]
    assert details[EventKind.TABLESPACE] == [f"{oid} {written.cluster.tablespaces['fast']}"]
    assert details[EventKind.DATABASE][-1:] == details[EventKind.DATABASE_DROPPED]
    assert (
        str(written.cluster.value("select oid from pg_database where datname = 'one'")) in details[EventKind.DATABASE]
    )
    assert len(details[EventKind.SHUTDOWN]) >= 2
