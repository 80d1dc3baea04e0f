"""Retries, limits, and the faults that tests are made of."""

from __future__ import annotations

import random
import threading
from itertools import pairwise

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import Interrupted, NoSpace, ObjectExists, ObjectMissing, StoreBusy, StoreUnreachable
from holdfast.store.failures import Operation, exists
from holdfast.store.faulty import Call, Fault, FaultKind, FaultyStore, Killed
from holdfast.store.limited import LimitedStore
from holdfast.store.memory import MemoryStore
from holdfast.store.port import Bytes
from holdfast.store.retrying import Patience, RetryingStore
from tests.store.clocks import TestClock

WAIT_S = 20


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def memory(clock: TestClock) -> MemoryStore:
    return MemoryStore(clock=clock)


@pytest.fixture
def faulty(memory: MemoryStore, clock: TestClock) -> FaultyStore:
    return FaultyStore(memory, clock=clock)


@pytest.fixture
def retrying(faulty: FaultyStore, clock: TestClock) -> RetryingStore:
    return RetryingStore(faulty, clock=clock, jitter=random.Random(7))


# Retrying


def test_a_passing_fault_passes(retrying: RetryingStore, faulty: FaultyStore, clock: TestClock) -> None:
    for operation in Operation:
        faulty.add(Fault(kind=FaultKind.FAIL, operation=operation, times=3))
    retrying.put("a", b"1")
    assert retrying.get("a") == b"1"
    assert [listed.name for listed in retrying.list("")] == ["a"]
    assert retrying.exclusive_create()
    retrying.delete("a")
    assert [call.operation for call in faulty.calls] == [
        operation
        for operation in (Operation.PUT, Operation.GET, Operation.LIST, Operation.PROBE, Operation.DELETE)
        for _ in range(4)
    ]
    assert 5 * (0.125 + 0.25 + 0.5) <= clock.monotonic() <= 5 * (0.25 + 0.5 + 1.0)


def test_pauses_grow_and_differ(retrying: RetryingStore, faulty: FaultyStore, clock: TestClock) -> None:
    times: list[float] = []

    def note(_name: str) -> bool:
        times.append(clock.monotonic())
        return True

    faulty.add(Fault(kind=FaultKind.FAIL, matches=note, times=8))
    retrying.put("a", b"1")
    pauses = [later - earlier for earlier, later in pairwise(times)]
    for number, pause in enumerate(pauses):
        longest = min(20.0, 0.25 * 2**number)
        assert longest / 2 <= pause <= longest + 1e-6
    assert len({round(pause / 2**number, 6) for number, pause in enumerate(pauses)}) > 1


def test_the_time_runs_out(retrying: RetryingStore, faulty: FaultyStore, clock: TestClock) -> None:
    faulty.add(Fault(kind=FaultKind.FAIL))
    with pytest.raises(
        StoreUnreachable, match=r"cannot write packs/1 in memory://test: gave up after \d+ attempts.*told"
    ) as caught:
        retrying.put("packs/1", b"1")
    assert not isinstance(caught.value, StoreBusy)
    assert 90 < clock.monotonic() <= 120
    assert len(faulty.calls) > 5


def test_a_slow_failure_is_tried_again_all_the_same(
    retrying: RetryingStore, faulty: FaultyStore, clock: TestClock
) -> None:
    faulty.add(Fault(kind=FaultKind.DELAY, seconds=500))
    faulty.add(Fault(kind=FaultKind.FAIL, times=2))
    retrying.put("a", b"1")
    assert len(faulty.calls) == 3
    faulty.add(Fault(kind=FaultKind.FAIL))
    with pytest.raises(StoreUnreachable, match="3 attempts"):
        retrying.put("a", b"1")


@pytest.mark.parametrize("error", [StoreUnreachable, NoSpace, ObjectMissing])
def test_nothing_else_is_retried(retrying: RetryingStore, faulty: FaultyStore, error: type[Exception]) -> None:
    faulty.add(Fault(kind=FaultKind.FAIL, error=error))
    with pytest.raises(error):
        retrying.get("a")
    assert len(faulty.calls) == 1


def test_a_fault_in_the_middle_of_a_listing_starts_it_again(retrying: RetryingStore, faulty: FaultyStore) -> None:
    for number in range(5):
        retrying.put(f"a/{number}", b"1")
    faulty.add(Fault(kind=FaultKind.LOSE_RESPONSE, operation=Operation.LIST, times=1))
    assert sorted(listed.name for listed in retrying.list("a/")) == [f"a/{number}" for number in range(5)]


class _Strict(MemoryStore):
    """Refuses every second create, its own bytes or not, as many services do."""

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        if if_absent and [listed for listed in self.list("") if listed.name == name]:
            raise exists(name, self.url)
        super().put(name, data)


def test_a_lost_response_is_settled_by_reading_back(clock: TestClock) -> None:
    strict = _Strict(clock=clock)
    faulty = FaultyStore(strict, clock=clock)
    retrying = RetryingStore(faulty, clock=clock, jitter=random.Random(1))
    faulty.add(Fault(kind=FaultKind.LOSE_RESPONSE, operation=Operation.PUT, times=1))
    faulty.add(Fault(kind=FaultKind.FAIL, operation=Operation.GET, times=1))
    retrying.put("key", b"ours", if_absent=True)
    assert strict.get("key") == b"ours"
    faulty.heal()
    faulty.add(Fault(kind=FaultKind.FAIL, operation=Operation.PUT, times=1))
    with pytest.raises(ObjectExists):
        retrying.put("key", b"theirs", if_absent=True)
    assert strict.get("key") == b"ours"


def test_a_stop_ends_the_waiting_at_once(faulty: FaultyStore, clock: TestClock) -> None:
    faulty.add(Fault(kind=FaultKind.FAIL))
    retrying = RetryingStore(faulty, clock=clock, jitter=random.Random(1), stopped=lambda: clock.monotonic() > 30)
    with pytest.raises(Interrupted, match="a"):
        retrying.put("a", b"1")
    assert 30 < clock.monotonic() < 30.5


def test_patience_is_what_it_was_told(faulty: FaultyStore, clock: TestClock) -> None:
    faulty.add(Fault(kind=FaultKind.FAIL))
    patience = Patience(budget_s=0, least_attempts=2)
    with pytest.raises(StoreUnreachable, match="2 attempts"):
        RetryingStore(faulty, clock=clock, jitter=random.Random(1), patience=patience).get("a")


# Limited


class _Held(MemoryStore):
    """Counts who is inside, and lets nobody out before the gate opens."""

    def __init__(self) -> None:
        super().__init__(clock=SystemClock())
        self.gate = threading.Event()
        self.change = threading.Condition()
        self.inside = 0
        self.most = 0

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        with self.change:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.change.notify_all()
        assert self.gate.wait(WAIT_S)
        super().put(name, data, if_absent=if_absent)
        with self.change:
            self.inside -= 1

    def wait_inside(self, count: int) -> None:
        with self.change:
            assert self.change.wait_for(lambda: self.inside == count, WAIT_S)


@pytest.mark.parametrize(
    ("calls", "in_flight_bytes", "size", "together"), [(3, 1 << 20, 10, 3), (8, 100, 40, 2), (8, 100, 1000, 1)]
)
def test_no_more_than_the_limit_are_inside(calls: int, in_flight_bytes: int, size: int, together: int) -> None:
    held = _Held()
    limited = LimitedStore(held, calls=calls, in_flight_bytes=in_flight_bytes)
    threads = [
        threading.Thread(target=limited.put, args=(f"a/{number}", bytes(size)), daemon=True) for number in range(20)
    ]
    for thread in threads:
        thread.start()
    held.wait_inside(together)
    held.gate.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert held.most == together
    assert len([*limited.list("a/")]) == 20


def test_a_failed_call_gives_its_turn_back(faulty: FaultyStore) -> None:
    limited = LimitedStore(faulty, calls=1, in_flight_bytes=10)
    faulty.add(Fault(kind=FaultKind.KILL, times=1))
    with pytest.raises(Killed):
        limited.put("a", bytes(10))
    limited.put("a", bytes(10))


def test_reading_while_listing_does_not_wait_for_itself(memory: MemoryStore) -> None:
    limited = LimitedStore(memory, calls=1, in_flight_bytes=1)
    for number in range(3):
        limited.put(f"{number}", b"1")
    assert [limited.get(listed.name) for listed in limited.list("")] == [b"1"] * 3


# Faulty


def test_faults_come_when_they_are_due(faulty: FaultyStore) -> None:
    faulty.add(
        Fault(
            kind=FaultKind.FAIL, operation=Operation.PUT, matches=lambda name: name.startswith("p/"), first=2, times=2
        )
    )
    outcomes = []
    for name in ("p/1", "q/1", "p/2", "p/3", "q/2", "p/4"):
        try:
            faulty.put(name, b"12", if_absent=True)
            outcomes.append(name)
        except StoreBusy:
            pass
    assert outcomes == ["p/1", "q/1", "q/2", "p/4"]
    assert faulty.calls[2] == Call(operation=Operation.PUT, name="p/2", size=2)
    assert {listed.name for listed in faulty.list("")} == set(outcomes)


def test_each_kind_of_fault(faulty: FaultyStore, memory: MemoryStore, clock: TestClock) -> None:
    def fails(kind: FaultKind, error: type[BaseException], *, done: bool) -> None:
        faulty.add(Fault(kind=kind, times=1))
        with pytest.raises(error):
            faulty.put(kind.value, b"1")
        assert (kind.value in {listed.name for listed in memory.list("")}) is done

    fails(FaultKind.FAIL, StoreBusy, done=False)
    fails(FaultKind.LOSE_RESPONSE, StoreBusy, done=True)
    fails(FaultKind.KILL, Killed, done=False)
    fails(FaultKind.KILL_AFTER, Killed, done=True)
    faulty.heal()

    faulty.add(Fault(kind=FaultKind.DELAY, seconds=9, times=1))
    faulty.put("whole", b"\0\0\0")
    assert clock.monotonic() == 9
    for fault, seen in (
        (Fault(kind=FaultKind.TRUNCATE, keep=2, times=1), b"\0\0"),
        (Fault(kind=FaultKind.FLIP, bit=9, times=1), b"\0\2\0"),
    ):
        faulty.add(fault)
        assert faulty.get("whole") == seen
        assert faulty.get("whole") == b"\0\0\0"
        faulty.heal()
        faulty.add(fault)
        faulty.put("spoilt", b"\0\0\0")
        assert memory.get("spoilt") == seen
    faulty.heal()

    faulty.add(Fault(kind=FaultKind.VANISH, matches=lambda name: name == "whole"))
    with pytest.raises(ObjectMissing):
        faulty.get("whole")
    names = {listed.name for listed in memory.list("")}
    assert {listed.name for listed in faulty.list("")} == names - {"whole"}
    faulty.delete("whole")
    faulty.put("whole", b"new")
    assert memory.get("whole") == b"\0\0\0"
    faulty.heal()
    faulty.add(Fault(kind=FaultKind.TRUNCATE, operation=Operation.LIST, keep=1))
    assert len([*faulty.list("")]) == 1


def test_a_kill_is_not_caught_as_an_exception() -> None:
    assert not issubclass(Killed, Exception)
