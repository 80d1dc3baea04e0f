"""What a writer puts, refuses, removes and summarises."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import PermissionRefused, StoreUnreachable, UsageError
from holdfast.repository.objects import Kind
from holdfast.repository.repository import Repository
from holdfast.repository.wal.held import Held
from holdfast.repository.wal.pieces import Stream
from holdfast.repository.wal.reading import WalReader
from holdfast.repository.wal.summaries import SMALL_SUMMARIES
from holdfast.repository.wal.writing import WalWriter
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind, FaultyStore
from holdfast.store.memory import MemoryStore
from tests.repository.making import new_repository
from tests.repository.wal.making import SIZE, STREAM, Streamer, begin, segment

CLOCK = SystemClock()


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryStore(clock=CLOCK), clock=CLOCK)


@pytest.fixture
def repository(store: FaultyStore) -> Repository:
    return new_repository(store)


def summaries(store: FaultyStore) -> list[str]:
    return [listed.name for listed in store.list(Kind.SPAN.prefix)]


def told(repository: Repository) -> Held:
    return WalReader(repository).held(STREAM)


def opened(store: FaultyStore, since: int) -> list[str]:
    return [call.name for call in store.calls[since:] if call.operation is Operation.GET and call.name[:4] == "wal/"]


def test_a_writer_is_of_one_stream(repository: Repository) -> None:
    writer = WalWriter(repository, Stream(source="other", system_identifier=1), SIZE)
    piece = Streamer(repository).piece(0, 0, 10)
    with pytest.raises(ValueError, match="stream"):
        writer.put(piece, segment(0)[:10], tail=True)
    with pytest.raises(ValueError, match="stream"):
        writer.begin(begin())
    with pytest.raises(ValueError, match="stream"):
        WalWriter(repository, STREAM, 2 * SIZE).put(piece, segment(0)[:10], tail=True)


@pytest.mark.parametrize(
    "file", ["", "000000010000000000000003", "00000002.history.gz", "../00000002.history", "x.history"]
)
def test_only_what_postgresql_archives(repository: Repository, file: str) -> None:
    with pytest.raises(UsageError):
        Streamer(repository).writer.put_file(file, b"1")
    assert WalReader(repository).file(STREAM, file) is None


def test_only_tails_of_this_stream_are_removed(repository: Repository) -> None:
    server = Streamer(repository)
    (whole,) = server.whole(0)
    other = Streamer(repository, stream=replace(STREAM, source="other"))
    for name in (whole, other.tail(0, 0, 10), "tails/", "repository.json"):
        with pytest.raises(ValueError, match=name):
            server.writer.remove_tails([name])
    assert len(list(repository.store.list("wal/"))) == 1


@pytest.mark.parametrize("error", [PermissionRefused, StoreUnreachable])
def test_a_store_that_keeps_its_tails(repository: Repository, store: FaultyStore, error: type[Exception]) -> None:
    server = Streamer(repository)
    server.begin()
    tails = [server.tail(0, start, start + 100) for start in range(0, 1000, 100)]
    store.add(Fault(kind=FaultKind.FAIL, operation=Operation.DELETE, error=error))
    server.tail(0, 0, 1000)
    server.writer.remove_tails(tails)
    (held,) = told(repository).segments
    assert [(piece.start, piece.stop) for piece in held.pieces] == [(0, 1000)]
    server.whole(0)
    (held,) = told(repository).segments
    assert held.stop == SIZE


def test_conflicting(repository: Repository, store: FaultyStore) -> None:
    server = Streamer(repository)
    other = segment(0, seed=1)
    assert server.writer.conflicting(1, 0, other) == ()
    tail = server.tail(0, 0, 100)
    server.tail(0, 100, 100, seconds=1)
    (whole,) = server.whole(0)
    server.whole(1)
    before = len(store.calls)
    assert server.writer.conflicting(1, 0, segment(0)) == ()
    assert server.writer.conflicting(1, 0, other) == tuple(sorted([tail, whole]))
    assert server.writer.conflicting(1, 0, segment(0)[:100] + other[100:]) == (whole,)
    assert server.writer.conflicting(1, 0, segment(0)[:5000]) == (), "what is shorter contradicts no more than it has"
    assert server.writer.conflicting(2, 0, other) == ()
    assert {call.operation for call in store.calls[before:]} == {Operation.LIST}


def test_a_full_span_is_told_by_its_summary_alone(repository: Repository, store: FaultyStore) -> None:
    server = Streamer(repository)
    server.begin(256)
    for number in range(256, 511):
        server.whole(number, seconds=number)
    assert not server.writer.summarise(1, 1), "one is lacking"
    assert not server.writer.summarise(1, 2), "nothing there"
    server.whole(511, seconds=511)
    server.tail(512, 0, 100)
    former = told(repository)
    before = len(store.calls)
    assert server.writer.summarise(1, 1)
    assert opened(store, before) == [], "what this writer put it knows"
    assert not server.writer.summarise(1, 1), "it is there"
    assert len(summaries(store)) == 1
    before = len(store.calls)
    held = told(repository)
    assert held == former
    calls = [call for call in store.calls[before:] if call.operation is not Operation.LIST]
    assert {call.name.partition("/")[0] for call in calls} == {"streams", "spans", "tails"}
    assert len(calls) == 3
    folders = {call.name for call in store.calls[before:] if call.operation is Operation.LIST}
    assert not [name for name in folders if name.endswith("/00000000000001/")], "the span itself is not listed"


def test_another_writer_opens_what_it_did_not_put(repository: Repository, store: FaultyStore) -> None:
    server = Streamer(repository)
    server.begin()
    for number in range(256):
        server.whole(number)
    before = len(store.calls)
    other = Streamer(repository)
    assert other.writer.summarise(1, 0)
    assert len(opened(store, before)) == 256


def test_missing_summaries_are_made_up(repository: Repository, store: FaultyStore) -> None:
    server = Streamer(repository)
    server.begin()
    for number in range(520):
        server.whole(number)
    held = told(repository)
    before = len(store.calls)
    writer = WalWriter(repository, STREAM, SIZE)
    assert writer.summarise_held(held) == 2
    assert opened(store, before) == []
    assert writer.summarise_held(held) == 0
    assert told(repository) == held


def test_a_final_summary_saves_opening_and_hides_nothing(repository: Repository, store: FaultyStore) -> None:
    """Of a span that will not become full: it is listed all the same, so what comes later is found."""
    server = Streamer(repository)
    server.begin(3)
    for number in (3, 4, 9):
        server.whole(number)
    server.tail(10, 0, 50)
    assert not server.writer.summarise(1, 0)
    assert server.writer.summarise(1, 0, final=True)
    assert not server.writer.summarise(1, 0, final=True)
    before = len(store.calls)
    former = told(repository)
    assert opened(store, before) == []
    assert [segment.number for segment in former.segments] == [3, 4, 9, 10]
    server.whole(5)
    assert [segment.number for segment in told(repository).segments] == [3, 4, 5, 9, 10]
    assert server.writer.summarise(1, 0, final=True)


def test_a_conflict_in_a_span_stays_one_when_it_is_summarised(repository: Repository) -> None:
    server, clone = Streamer(repository), Streamer(repository, seed=1)
    server.begin()
    for number in range(256):
        server.whole(number)
    assert server.writer.summarise(1, 0)
    clone.whole(7)
    assert not clone.writer.summarise(1, 0)
    assert clone.writer.summarise(1, 0, final=True)
    held = told(repository)
    assert [conflict.number for conflict in held.conflicts] == [7]
    assert len(held.segments) == 255


def partial_summaries(repository: Repository, count: int, *, first: int = 0) -> Streamer:
    server = Streamer(repository)
    for span in range(first, first + count):
        server.begin(span << 8, why="gap")
        server.whole(span << 8)
        assert server.writer.summarise(1, span, final=True)
    return server


def test_many_summaries_are_merged(repository: Repository, store: FaultyStore) -> None:
    partial_summaries(repository, SMALL_SUMMARIES)
    assert len(summaries(store)) == SMALL_SUMMARIES
    former = told(repository)
    partial_summaries(repository, 1, first=SMALL_SUMMARIES)
    (merged,) = summaries(store)
    before = len(store.calls)
    held = told(repository)
    assert opened(store, before) == []
    assert held.segments[:-1] == former.segments
    assert held.segments[-1].number == SMALL_SUMMARIES << 8
    partial_summaries(repository, SMALL_SUMMARIES, first=100)
    assert merged in summaries(store), "large: not written again"
    partial_summaries(repository, 1, first=200)
    assert len(summaries(store)) == 2


def test_where_nothing_may_be_deleted_nothing_is_merged(repository: Repository, store: FaultyStore) -> None:
    refused = Fault(kind=FaultKind.FAIL, operation=Operation.DELETE, error=PermissionRefused)
    store.add(refused)
    partial_summaries(repository, SMALL_SUMMARIES + 2)
    assert len(summaries(store)) == SMALL_SUMMARIES + 2
    assert len(told(repository).segments) == SMALL_SUMMARIES + 2


def test_a_summary_that_cannot_be_read_costs_requests_alone(repository: Repository, store: FaultyStore) -> None:
    server = Streamer(repository)
    server.begin()
    for number in range(256):
        server.whole(number)
    assert server.writer.summarise(1, 0)
    (name,) = summaries(store)
    store.put(name, store.get(name)[:-1])
    held = told(repository)
    assert len(held.segments) == 256
    assert [problem.partition(":")[0] for problem in held.problems] == [name]
    assert Streamer(repository).writer.summarise(1, 0), "who comes next makes a new one"
