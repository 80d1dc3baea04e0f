"""A store that lies at any one call: problems, ``Damaged``, or less than there is; never an exception of another kind
from a look at what is held, and never wrong bytes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import Damaged
from holdfast.repository.repository import Repository
from holdfast.repository.wal.reading import WalReader
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind, FaultyStore
from holdfast.store.memory import MemoryStore
from tests.repository.making import new_repository
from tests.repository.wal.making import STREAM, Streamer, segment

CLOCK = SystemClock()


@pytest.fixture(scope="module")
def repository() -> Repository:
    """A span that is summarised (not full, so that it is listed too), another span, tails, two timelines."""
    repository = new_repository()
    server, promoted = Streamer(repository), Streamer(repository, timeline=2)
    server.begin(254)
    for number in (254, 255, 256):
        server.whole(number)
    assert server.writer.summarise(1, 0, final=True)
    for start in range(0, 400, 100):
        server.tail(257, start, start + 100, seconds=start)
    server.tail(257, 0, 250)
    promoted.writer.put_file("00000002.history", b"1\t0/10100000\twhy\n")
    promoted.begin(257, why="timeline")
    promoted.whole(257)
    promoted.tail(258, 0, 10)
    return repository


def read_everything(repository: Repository) -> tuple[set[tuple[int, int]], bool]:
    """What is held, and whether anything was said to be wrong; asserts that no byte of it is wrong."""
    reader = WalReader(repository, workers=1)
    doubt = bool(reader.problems())
    found = set()
    for stream in reader.streams():
        assert stream == STREAM
        held = reader.held(stream)
        doubt |= bool(held.problems or held.conflicts)
        assert held.histories in ({}, {2: b"1\t0/10100000\twhy\n"})
        for one in held.segments:
            expected = segment(one.number, timeline=one.timeline)
            at = 0
            try:
                for block in reader.content(stream, one):
                    assert block == expected[at : at + len(block)]
                    at += len(block)
                assert at == one.stop
                found.add((one.timeline, one.number))
            except Damaged:
                doubt = True
        doubt |= 2 not in held.histories
    return found, doubt


def lies() -> Iterator[Fault]:
    for bit in (3, 70, 400, 500, 4000, 9001, 100_003):
        yield Fault(kind=FaultKind.FLIP, operation=Operation.GET, bit=bit)
    for keep in (0, 1, 47, 60, 300, 5000):
        yield Fault(kind=FaultKind.TRUNCATE, operation=Operation.GET, keep=keep)
    yield Fault(kind=FaultKind.VANISH, operation=Operation.GET)


@pytest.mark.parametrize("lie", list(lies()), ids=lambda lie: f"{lie.kind} {lie.bit or lie.keep}")
def test_gets(repository: Repository, lie: Fault) -> None:
    sound = FaultyStore(repository.store, clock=CLOCK)
    everything, doubt = read_everything(Repository(sound, repository.keys, clock=CLOCK))
    assert everything == {(1, 254), (1, 255), (1, 256), (1, 257), (2, 257), (2, 258)}
    assert not doubt
    names = {call.name for call in sound.calls if call.operation is Operation.GET}
    assert {name.partition("/")[0] for name in names} == {"wal", "tails", "spans", "streams", "walfiles"}
    for name in sorted(names):
        store = FaultyStore(repository.store, clock=CLOCK)
        store.add(
            Fault(kind=lie.kind, operation=lie.operation, matches={name}.__contains__, bit=lie.bit, keep=lie.keep)
        )
        found, doubt = read_everything(Repository(store, repository.keys, clock=CLOCK))
        assert found <= everything
        assert doubt or found == everything, name
        changed = store.get(name) != repository.store.get(name) if lie.kind is not FaultKind.VANISH else True
        assert doubt or not changed, name


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_listings_cut_short(repository: Repository, keep: int) -> None:
    sound = FaultyStore(repository.store, clock=CLOCK)
    everything, _doubt = read_everything(Repository(sound, repository.keys, clock=CLOCK))
    count = sum(call.operation is Operation.LIST for call in sound.calls)
    assert count > 10
    for position in range(1, count + 1):
        store = FaultyStore(repository.store, clock=CLOCK)
        store.add(Fault(kind=FaultKind.TRUNCATE, operation=Operation.LIST, keep=keep, first=position, times=1))
        found, _doubt = read_everything(Repository(store, repository.keys, clock=CLOCK))
        assert found <= everything


def test_a_store_that_fails_once_during_a_look_is_no_damage(repository: Repository) -> None:
    memory = repository.store
    assert isinstance(memory, MemoryStore)
    store = FaultyStore(memory, clock=CLOCK)
    gone = Fault(kind=FaultKind.VANISH, operation=Operation.GET, matches=lambda name: name[:6] == "tails/", times=1)
    store.add(gone)
    found, doubt = read_everything(Repository(store, repository.keys, clock=CLOCK))
    assert len(found) == 6
    assert not doubt, "looked for again, and there"
