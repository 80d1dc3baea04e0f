"""Pages of WAL: what they are is read, what cannot be is refused, and the payload is whole however it comes."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Damaged
from holdfast.postgres.lsn import Lsn, Segment
from holdfast.postgres.timelines import Branch, History
from holdfast.postgres.walpages import Layout, Payload, check_pages, identify
from tests.postgres.wal_making import SEGMENT, SYSTEM, Making
from tests.servers import MAJORS, Servers, every_version

PAGE = 8192


def made(*, major: int = 15, timeline: int = 1, bytes_: int = 100_000, seed: int = 1) -> Making:
    chance = random.Random(seed)
    making = Making(major=major, timeline=timeline)
    while making.end < making.start + bytes_:
        making.filler(chance.randbytes(chance.choice([8, 300, 9000, 20000])))
    return making


@given(st.integers(0, 1 << 40), st.sampled_from([1 << 20, 1 << 24, 1 << 30]), st.sampled_from([1024, 8192, 65536]))
def test_places_and_positions(place: int, segment_size: int, page_size: int) -> None:
    layout = Layout(segment_size, page_size)
    lsn = layout.lsn(place)
    assert layout.place(lsn) == place
    assert lsn % page_size >= 24
    assert layout.place(lsn // page_size * page_size) <= place
    end = layout.end_lsn(place)
    assert layout.place(end) == place
    assert end == 0 or layout.lsn(place - 1) == end - 1


@given(st.integers(0, 1000), st.integers(1, 70_000), st.sampled_from([15, 19]))
def test_the_payload_is_the_same_however_it_comes(seed: int, longest: int, major: int) -> None:
    making = made(seed=seed, major=major, bytes_=40_000)
    wal, chance = making.wal(), random.Random(seed)
    payload = Payload(timeline=1, segment_size=SEGMENT, start=making.start)
    found, at = bytearray(), 0
    begins: list[int] = []
    while at < len(wal):
        size = chance.randint(1, longest)
        for run in payload.feed(wal[at : at + size]):
            assert run.fresh is (not begins)
            assert run.place == making.layout.place(making.start) + len(found)
            found += run.content
            begins += run.begins
        at += size
    assert bytes(found).rstrip(b"\0") == making.payload().rstrip(b"\0")
    assert payload.stop == making.start + len(wal)
    starts = {place for place, _raw in making.records} | {making.place}
    assert set(begins) <= starts | set(range(making.place, making.place + PAGE))
    assert len(begins) == len(wal) // PAGE


def test_a_start_in_mid_page_waits_for_the_next_page() -> None:
    wal = made().wal()
    payload = Payload(timeline=1, segment_size=SEGMENT, start=3 * SEGMENT + 100)
    (run,) = payload.feed(wal[100:])
    assert run.fresh
    assert run.place == payload.layout.place(3 * SEGMENT + PAGE)


def test_what_a_recycled_file_held_before_is_passed_over() -> None:
    making = made()
    wal = bytearray(making.wal())
    stale = Making(number=1)
    while stale.end < stale.start + len(wal):
        stale.filler(bytes(500))
    wal[5 * PAGE :] = stale.wal()[5 * PAGE : len(wal)]
    (run,) = Payload(timeline=1, segment_size=SEGMENT, start=making.start).feed(wal)
    assert run.stop == making.layout.place(making.start + 5 * PAGE)


@pytest.mark.parametrize("major", [15, 16, 17, 18, 19])
def test_what_a_first_page_says(major: int) -> None:
    found = identify(made(major=major).wal()[:40])
    assert (found.system_identifier, found.segment_size, found.page_size) == (SYSTEM, SEGMENT, PAGE)
    assert (found.major, found.timeline, found.start, found.continues) == (major, 1, 3 * SEGMENT, False)


@given(st.integers(0, 39), st.integers(1, 255))
def test_garbage_is_no_first_page(at: int, change: int) -> None:
    head = bytearray(made().wal()[:40])
    head[at] ^= change
    try:
        found = identify(head)
    except Damaged:
        return
    assert at in {2, 4, 5, 6, 7, 11, 10, 12, 13, 14, 15, *range(16, 32), 34, 35}  # what may be of another segment
    assert found.start % found.segment_size == 0


def test_too_short() -> None:
    with pytest.raises(Damaged, match="too few"):
        identify(b"\x10\xd1")


def damaged(wal: bytes | bytearray, match: str, *, block: int = 5000, **options: object) -> None:
    segment = Segment(timeline=1, number=3, size=SEGMENT)
    arguments = {"system_identifier": SYSTEM, **options}
    blocks = (wal[at : at + block] for at in range(0, len(wal), block))
    with pytest.raises(Damaged, match=match):
        check_pages(blocks, segment, **arguments)  # type: ignore[arg-type]


def well(wal: bytes | bytearray, *, timeline: int = 1, block: int = 5000, history: History | None = None) -> None:
    segment = Segment(timeline=timeline, number=3, size=SEGMENT)
    blocks = (wal[at : at + block] for at in range(0, len(wal), block))
    check_pages(blocks, segment, system_identifier=SYSTEM, history=history)


def test_good_pages_whole_or_begun() -> None:
    wal = made().wal()
    well(wal)
    for size in (0, 30, 40, 41, PAGE, PAGE + 3, PAGE + 24, 3 * PAGE - 1):
        well(wal[:size], block=1000)
    full = made(bytes_=SEGMENT - 30_000)
    full.switch()
    well(full.wal().ljust(SEGMENT, b"\0"))


def test_each_damage_is_named() -> None:
    wal = made().wal()
    changes = {
        "does not begin as pages": (3 * PAGE, b"\x11"),
        "timeline 2": (3 * PAGE + 4, b"\x02"),
        "lies at": (3 * PAGE + 9, b"\xff"),
        "contradicts": (3 * PAGE + 16, b"\0\0\0\0" if wal[3 * PAGE + 16 : 3 * PAGE + 20] != bytes(4) else b"\x01"),
        "offset 32768": (4 * PAGE + 8, b"\xff"),
    }
    for match, (at, new) in changes.items():
        damaged(wal[:at] + new + wal[at + len(new) :], match)
    damaged(wal, "written by the cluster", system_identifier=5)
    damaged(wal.ljust(SEGMENT, b"\0") + b"x", "longer than a segment|no header")
    other = Making(segment_size=2 * SEGMENT, number=1)
    other.filler(b"x")
    damaged(other.wal(), "segments have 2097152")


def test_a_record_must_go_on_where_it_must() -> None:
    making = Making()
    making.filler(bytes(30_000))
    wal = bytearray(making.wal())
    at = 2 * PAGE + 16
    (remaining,) = struct.unpack_from("<I", wal, at)
    struct.pack_into("<I", wal, at, remaining - 8)
    damaged(wal, "does not go on")


@pytest.mark.parametrize("into", [0, 8, 16, 24, 400])
def test_zeros_are_right_only_behind_a_switch(into: int) -> None:
    """The record that switches ends so many bytes into a page, or at a page's end."""
    making = Making()
    making.filler(bytes(3000))
    room = making.layout.place(making.start + 3 * PAGE) - making.place
    making.filler(bytes(room - 24 - 5 - 24 + into))
    making.switch()
    wal = making.wal().ljust(SEGMENT, b"\0")
    well(wal)
    found = wal.rstrip(b"\0")
    lost = -(-len(found) // PAGE) * PAGE
    damaged(wal[: lost + PAGE + 50] + b"x" + wal[lost + PAGE + 51 :], "behind the switch")
    plain = made().wal().ljust(SEGMENT, b"\0")
    damaged(plain, "no header")
    damaged(wal[:PAGE] + bytes(PAGE) + wal[2 * PAGE :], "no header")


def test_pages_of_an_ancestor() -> None:
    old, new = made(timeline=1).wal(), made(timeline=2).wal()
    switch = 4 * PAGE + 500
    wal = old[: 5 * PAGE] + new[5 * PAGE :]
    history = History(timeline=2, ancestors=(Branch(timeline=1, switch=Lsn(3 * SEGMENT + switch)),))
    well(wal, timeline=2)
    well(wal, timeline=2, history=history)
    segment = Segment(timeline=2, number=3, size=SEGMENT)
    for bad in (old[: 6 * PAGE] + new[6 * PAGE :], old[: 4 * PAGE] + new[4 * PAGE :]):
        with pytest.raises(Damaged, match="of timeline"):
            check_pages([bad], segment, system_identifier=SYSTEM, history=history)
    with pytest.raises(Damaged, match="of timeline 1"):
        check_pages([new[: 5 * PAGE] + old[5 * PAGE :]], segment, system_identifier=SYSTEM)
    damaged(new, "of timeline 2")


def test_all_versions_are_known() -> None:
    assert {15, 16, 17, 18, 19} >= set(MAJORS)


@every_version
def test_what_servers_write_is_good(servers: Servers, major: int) -> None:
    cluster = servers.make_cluster(major, fresh=True)
    try:
        cluster.pgbench_init(1)
        cluster.execute("select pg_switch_wal()")
        cluster.pgbench("-t", "100")
        last = cluster.value("select pg_walfile_name(pg_switch_wal())")
        folder = cluster.data_dir / "pg_wal"
        files = sorted(path for path in folder.iterdir() if len(path.name) == 24 and path.name <= last)
        assert len(files) > 1
        system = int(cluster.control_data()["Database system identifier"])
        for path in files:
            segment = Segment.parse(path.name, 1 << 24)
            content = path.read_bytes()
            found = identify(content)
            assert (found.system_identifier, found.major, found.start) == (system, major, segment.start)
            check_pages([content], segment, system_identifier=system, history=History(timeline=1))
        assert b"\0" * (64 * PAGE) in Path(folder / last).read_bytes()
    finally:
        servers.remove(cluster)
