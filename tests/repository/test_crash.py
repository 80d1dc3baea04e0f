"""A backup killed, or failed, at any of its store calls: older snapshots stay whole, the next one reuses what came."""

from __future__ import annotations

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import Damaged, StoreBusy
from holdfast.repository.keys import SecretKind
from holdfast.repository.opening import create_repository, open_repository
from holdfast.repository.repository import Repository
from holdfast.repository.verify import verify_repository
from holdfast.repository.writer import SnapshotWriter
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind, FaultyStore, Killed
from holdfast.store.memory import MemoryStore
from tests.repository.making import SECRET, about, noise, readings, restore, sample, take

CLOCK = SystemClock()
BEFORE = sample()
AFTER = {**sample(), "base/5/large": noise(20 * 2**20, 9), "base/5/text": b"other " * 100_000}


def opened(store: MemoryStore | FaultyStore) -> Repository:
    return open_repository(store, SECRET, pin=None, clock=CLOCK)


def with_one_snapshot() -> MemoryStore:
    store = MemoryStore(clock=CLOCK)
    take(create_repository(store, [(SECRET, SecretKind.PASSPHRASE)], clock=CLOCK), BEFORE)
    return store


def attempt(store: FaultyStore) -> bool:
    """One backup with one worker, so that its calls come in one order; whether it claimed success."""
    try:
        with SnapshotWriter(opened(store), workers=1) as writer:
            for entry, content in readings(AFTER):
                writer.add(entry, content)
            writer.publish(about("two"))
    except (Killed, StoreBusy, Damaged):
        return False
    return True


def calls_of_a_backup() -> int:
    store = FaultyStore(with_one_snapshot(), clock=CLOCK)
    assert attempt(store)
    return len(store.calls)


@pytest.mark.parametrize(
    "kind", [FaultKind.KILL, FaultKind.KILL_AFTER, FaultKind.FAIL, FaultKind.LOSE_RESPONSE], ids=str
)
def test_every_call_position(kind: FaultKind) -> None:
    for position in range(1, calls_of_a_backup() + 1):
        store = with_one_snapshot()
        faulty = FaultyStore(store, Fault(kind=kind, first=position, times=1), clock=CLOCK)
        claimed = attempt(faulty)
        repository = opened(store)
        found = repository.records()
        labels = [snapshot.label for snapshot in found.snapshots]
        assert not found.problems, position
        assert "one" in labels, position
        assert not claimed or "two" in labels, (position, "claimed success")
        for snapshot in found.snapshots:
            assert restore(repository, snapshot) == (BEFORE if snapshot.label == "one" else AFTER), position
        assert not verify_repository(repository).touched, position


def test_what_was_uploaded_is_reused() -> None:
    """Killed before any index object was written: the packs tell by themselves what is in them."""
    store = with_one_snapshot()
    no_index = Fault(kind=FaultKind.KILL, operation=Operation.PUT, matches=lambda name: name.startswith("index/"))
    assert not attempt(FaultyStore(store, no_index, clock=CLOCK))
    repository = opened(store)
    assert [snapshot.label for snapshot in repository.records().snapshots] == ["one"]
    again = take(repository, AFTER, "three")
    assert again.totals.added_content == 0
    assert restore(repository, again) == AFTER


def test_the_record_is_put_last() -> None:
    store = FaultyStore(with_one_snapshot(), clock=CLOCK)
    assert attempt(store)
    puts = [call.name.partition("/")[0] for call in store.calls if call.operation == "put"]
    assert [put for put in puts if put != "leases"][-2:] == ["index", "snapshots"]
    assert puts[0] == "leases", "before anything is listed"
    assert puts[-3:] == ["leases", "snapshots", "leases"], "right before the record, and after it"
    assert set(puts) == {"leases", "data", "meta", "index", "snapshots"}
    assert not list(store.list("leases/")), "given up at the end"


def test_two_writers_at_once() -> None:
    store = with_one_snapshot()
    first, second = SnapshotWriter(opened(store), workers=2), SnapshotWriter(opened(store), workers=2)
    with first, second:
        for one, other in zip(readings(AFTER), readings(AFTER), strict=True):
            first.add(*one)
            second.add(*other)
        made = [first.publish(about("first")), second.publish(about("second"))]
    repository = opened(store)
    assert verify_repository(repository).good
    for snapshot in made:
        assert restore(repository, snapshot) == AFTER
