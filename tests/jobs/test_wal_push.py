"""What a pusher leaves in its repositories."""

from __future__ import annotations

import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import Refused, StoreBusy
from holdfast.jobs.wal_files import WalFile, read_wal_file, wal_file
from holdfast.jobs.wal_push import WalPusher
from holdfast.postgres.lsn import Segment
from holdfast.postgres.walfacts import WalFacts
from holdfast.repository.objects import Kind
from holdfast.repository.repository import Repository
from holdfast.repository.wal.held import Held
from holdfast.repository.wal.pieces import Stream
from holdfast.repository.wal.reading import WalReader
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind, FaultyStore
from holdfast.store.memory import MemoryStore
from tests.repository.making import new_repository
from tests.servers import Cluster, wait_until

SIZE = 2**20
OWNER = 7_398_214_999_999_999_999
STREAM = Stream(source="tracker", system_identifier=OWNER)


def segment(number: int, *, timeline: int = 1, size: int = SIZE, filling: bytes = b"", owner: int = OWNER) -> WalFile:
    head = struct.pack("=HHIQI4xQII", 0xD110, 0x0002, timeline, number * size, 0, owner, size, 8192)
    name = Segment(timeline=timeline, number=number, size=size).name
    return wal_file(name, (head + filling).ljust(size, b"\0"), system_identifier=owner)


def pusher(*repositories: Repository, begins: bool = True) -> WalPusher:
    named = {str(number): repository for number, repository in enumerate(repositories)}
    return WalPusher("tracker", named, clock=SystemClock(), host="db1", begins=begins)


def held(repository: Repository) -> Held:
    found = WalReader(repository).held(STREAM)
    assert not found.problems
    return found


def places(repository: Repository) -> list[tuple[int, int]]:
    return [
        (one.timeline, one.number) for one in held(repository).segments if one.stop == held(repository).segment_size
    ]


def test_what_is_pushed_leads_a_reader_to_it() -> None:
    repository = new_repository()
    for number in (3, 4):
        pusher(repository).push(segment(number))  # each in a process of its own
    one = pusher(repository)
    for number, timeline in ((5, 1), (6, 1), (600, 1), (601, 1), (600, 2), (601, 2), (2, 1)):
        one.push(segment(number, timeline=timeline))
    assert places(repository) == [(1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (1, 600), (1, 601), (2, 600), (2, 601)]
    begins = [(begin.why, begin.timeline, begin.lsn // SIZE, begin.after) for begin in held(repository).begins]
    assert begins == [
        ("first", 1, 3, None),
        ("gap", 1, 600, 7 * SIZE),
        ("timeline", 2, 600, None),
        ("first", 1, 2, None),
    ]
    for number in (2, 3, 600, 601):
        pusher(repository).push(segment(number))
    assert len(held(repository).begins) == 4


def test_beginnings_are_left_to_a_receiver_that_is_at_work() -> None:
    repository = new_repository()
    pusher(repository, begins=False).push(segment(3))
    assert WalReader(repository).streams() == ()


def test_a_span_that_is_full_is_summarised() -> None:
    repository = new_repository()
    one = pusher(repository)
    for number in range(255, 514):
        one.push(segment(number))
    assert len(list(repository.store.list(Kind.SPAN.prefix))) == 1
    assert places(repository) == [(1, number) for number in range(255, 514)]


def test_a_segment_of_128_mebibytes_is_two_pieces() -> None:
    repository = new_repository()
    file = segment(1, size=128 * 2**20, filling=b"x" * (100 * 2**20))
    pusher(repository).push(file)
    (found,) = held(repository).segments
    assert [piece.stop for piece in found.pieces] == [64 * 2**20, 128 * 2**20]
    assert b"".join(WalReader(repository).content(STREAM, found)) == file.content
    pusher(repository).push(file)
    assert file.segment is not None
    with pytest.raises(Refused, match=file.segment.name):
        pusher(repository).push(segment(1, size=128 * 2**20, filling=b"y"))


def test_another_repository_is_tried_when_one_fails() -> None:
    store = MemoryStore(clock=SystemClock())
    broken = new_repository(store)
    broken.store = FaultyStore(store, Fault(kind=FaultKind.FAIL, operation=Operation.PUT), clock=SystemClock())
    well = new_repository()
    for repositories in ((broken, well), (well, broken)):
        with pytest.raises(StoreBusy):
            pusher(*repositories).push(segment(3))
    assert places(well) == [(1, 3)]
    broken.store = store
    pusher(broken, well).push(segment(3))
    assert places(broken) == [(1, 3)]


def test_another_system_and_other_bytes_are_refused_in_one_repository_of_two() -> None:
    first, second = new_repository(), new_repository()
    pusher(first).push(segment(3))
    with pytest.raises(Refused, match=f"system {OWNER + 1}.*{OWNER}"):
        pusher(first, second).push(segment(3, owner=OWNER + 1))
    assert not WalReader(second).streams(), "nobody takes what one of them refuses"
    with pytest.raises(Refused, match="other bytes"):
        pusher(first, second).push(segment(3, filling=b"other"))
    (found,) = held(first).segments
    assert b"".join(WalReader(first).content(STREAM, found)) == segment(3).content


def test_many_at_once() -> None:
    repository = new_repository()
    one = pusher(repository)
    files = [segment(number) for number in (3, 3, 4, 4, 5, 6, 7, 7)]
    with ThreadPoolExecutor(8) as crew:
        list(crew.map(one.push, files))
    assert places(repository) == [(1, number) for number in range(3, 8)]


def test_the_facts_are_the_same_whoever_pushes(make_cluster: Callable[..., Cluster]) -> None:
    """In one process or in one for each segment, with the segment before at hand or held: no record is missed."""
    cluster = make_cluster(15, conf="wal_keep_size = 1GB")
    cluster.pgbench_init(1)
    start = Segment.parse(cluster.value("select pg_walfile_name(pg_current_wal_lsn())"), 16 * 2**20)
    last = start.following().following().following()
    with cluster.load(clients=4):
        cluster.execute("insert into pgbench_history (delta) select 0 from generate_series(1, 1000000)")
        wait_until(
            lambda: cluster.value("select pg_walfile_name(pg_current_wal_lsn())") > last.name,
            "some segments are full",
            120,
        )
    owner = int(cluster.control_data()["Database system identifier"])
    paths = [cluster.data_dir / "pg_wal" / Segment(timeline=1, number=n, size=start.size).name
             for n in range(start.number, last.number)]  # fmt: skip
    together, apart, without = new_repository(), new_repository(), new_repository()
    one = pusher(together)
    for path in paths:
        file = read_wal_file(path)
        one.push(file)
        pusher(apart).push(file)
        pusher(without).push(wal_file(path.name, file.content, system_identifier=owner))
    found = [facts(repository, owner) for repository in (together, apart, without)]
    assert found[0] == found[1]
    assert [fact.is_blind for fact in found[2][1:]] == [False] * (len(paths) - 1), (
        "only before the first is nothing held"
    )
    assert found[0] == [replace(fact, is_blind=False) for fact in found[2]]
    assert sum(fact.commits for fact in found[0]) > 100
    assert any(read_wal_file(path).continues for path in paths[1:])


def facts(repository: Repository, owner: int) -> list[WalFacts]:
    stream = Stream(source="tracker", system_identifier=owner)
    segments = WalReader(repository).held(stream).segments
    return [WalFacts.from_json(piece.facts) for segment in segments for piece in segment.pieces]
