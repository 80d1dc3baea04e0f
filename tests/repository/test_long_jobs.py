"""Jobs that go on for days beside prune, and stores that refuse what a job can do without."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta

import pytest

from holdfast.clock import Clock
from holdfast.errors import Damaged, PermissionRefused
from holdfast.repository import packing
from holdfast.repository.opening import open_repository
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.removing import remove_snapshot
from holdfast.repository.repository import Repository
from holdfast.repository.verify import verify_repository
from holdfast.repository.writer import SnapshotWriter
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind, FaultyStore
from holdfast.store.memory import MemoryStore
from holdfast.store.port import Bytes, Listed, Store, Traits
from holdfast.store.retrying import RetryingStore
from tests.repository.clocks import HandClock
from tests.repository.making import SECRET, about, new_repository, noise, readings, restore, restore_with, take
from tests.repository.pruner import mark_unneeded, sweep


def opened(store: Store, clock: Clock) -> Repository:
    return open_repository(store, SECRET, pin=None, clock=clock)


class Sleepy:
    """A store before whose record the machine sleeps, and other things happen meanwhile; ``refused`` are prefixes."""

    def __init__(self, inner: Store, meanwhile: Iterator[None], *, refused: tuple[str, ...] = ()) -> None:
        self._inner, self._meanwhile, self._refused = inner, meanwhile, refused

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        if self._refused and name.startswith(self._refused):
            raise PermissionRefused(f"cannot write {name}: AccessDenied")
        if name.startswith("snapshots/"):
            next(self._meanwhile, None)
        self._inner.put(name, data, if_absent=if_absent)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        return self._inner.get(name, start, length)

    def list(self, prefix: str) -> Iterator[Listed]:
        return self._inner.list(prefix)

    def delete(self, name: str) -> None:
        self._inner.delete(name)

    def exclusive_create(self) -> bool:
        return self._inner.exclusive_create()

    def traits(self, name: str) -> Traits:
        return self._inner.traits(name)


def with_something_unneeded(clock: HandClock, files: dict[str, bytes]) -> MemoryStore:
    """A repository whose only snapshot, of ``files``, was removed a day after it was taken."""
    store = MemoryStore(clock=clock)
    repository = new_repository(store)
    snapshot = take(opened(store, clock), files, "removed")
    clock.pass_(timedelta(hours=30))
    remove_snapshot(opened(store, clock), snapshot, host="db1", why="expired")
    clock.pass_(timedelta(hours=1))
    assert repository.key_id
    return store


def test_an_awake_backup_of_thirty_hours_is_not_caught_up_by_prune() -> None:
    """What it reused is repacked at hour 2 and deleted at hour 27: it was copied out long before."""
    clock = HandClock()
    old = {f"f{number}": noise(200_000, number) for number in range(20)}
    store = with_something_unneeded(clock, old)
    kept = take(opened(store, clock), {"f0": old["f0"]}, "kept")
    clock.pass_(timedelta(hours=30))
    taken = {"f0": old["f0"]}
    with SnapshotWriter(opened(store, clock), workers=1) as writer:
        for entry in readings(taken):
            writer.add(*entry)
        for hour in range(30):
            more = {f"h{hour}": noise(5_000_000, 100 + hour)}
            for entry in readings(more):
                writer.add(*entry)
            taken |= more
            clock.pass_(timedelta(hours=1))
            if hour == 2:
                assert mark_unneeded(opened(store, clock), repack_below=0.5).packs
            if hour == 27:
                assert sweep(opened(store, clock)).deleted
        snapshot = writer.publish(about("long"))
    assert restore(opened(store, clock), snapshot) == taken
    assert restore(opened(store, clock), kept) == {"f0": old["f0"]}


def test_what_was_copied_out_is_not_missed_after_a_sleep() -> None:
    clock = HandClock()
    old = {"a": noise(500_000, 1)}
    store = with_something_unneeded(clock, old)
    taken = {**old, "b": b"new"}

    def meanwhile() -> Iterator[None]:
        clock.pass_(timedelta(hours=25))
        assert sweep(opened(store, clock)).deleted
        yield

    with SnapshotWriter(opened(Sleepy(store, meanwhile()), clock), workers=1) as writer:
        for entry in readings(taken):
            writer.add(*entry)
        assert mark_unneeded(opened(store, clock)).packs
        snapshot = writer.publish(about("good"))
    repository = opened(store, clock)
    assert [one.label for one in repository.records().snapshots] == ["good"]
    assert restore(repository, snapshot) == taken


def test_a_record_that_came_too_late_and_cannot_be_withdrawn_is_told() -> None:
    clock = HandClock()
    old = {"a": noise(500_000, 1)}
    store = with_something_unneeded(clock, old)

    def meanwhile() -> Iterator[None]:
        clock.pass_(timedelta(hours=26))
        assert mark_unneeded(opened(store, clock)).packs
        clock.pass_(timedelta(hours=25))
        assert sweep(opened(store, clock)).deleted
        yield

    with pytest.raises(Damaged, match="late is listed and cannot be restored") as told:
        take(opened(Sleepy(store, meanwhile(), refused=("removed/",)), clock), old, "late")
    assert told.value.hint
    again = take(opened(store, clock), old, "again")
    repository = opened(store, clock)
    for snapshot in (again, *repository.records().snapshots):
        assert restore(repository, snapshot) == old, "as the hint says: it was stored again"
    assert not verify_repository(repository).touched


def test_a_lease_that_cannot_be_renewed_costs_a_restore_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PACK_TARGET", 64 * 1024)
    clock = HandClock()
    store = MemoryStore(clock=clock)
    new_repository(store)
    files = {f"f{number}": noise(70_000, number) for number in range(100)}
    snapshot = take(opened(store, clock), files)
    busy = FaultyStore(store, Fault(kind=FaultKind.FAIL, operation=Operation.PUT, first=2), clock=clock)
    reader = SnapshotReader(opened(RetryingStore(busy, clock=clock, jitter=random.Random(1)), clock))
    with reader.leased(work="restore", host="db2"):
        clock.pass_(timedelta(minutes=31))
        began = clock.monotonic()
        assert restore_with(reader, snapshot) == files
    assert clock.monotonic() - began < 300


def test_leases_that_may_not_be_deleted_are_left_alone_at_once() -> None:
    clock = HandClock()
    store = MemoryStore(clock=clock)
    new_repository(store)
    keeps = FaultyStore(
        store,
        Fault(kind=FaultKind.FAIL, operation=Operation.DELETE, error=PermissionRefused),
        clock=clock,
    )
    for number in range(30):
        snapshot = take(opened(keeps, clock), {"a": noise(1000, number)})
        clock.pass_(timedelta(days=1))
    before = [call for call in keeps.calls if call.operation is Operation.DELETE]
    assert len(before) <= 2 * 30
    reader = SnapshotReader(opened(keeps, clock))
    with reader.leased(work="restore", host="db2"):
        assert len([call for call in keeps.calls if call.operation is Operation.DELETE]) == len(before)
        assert restore_with(reader, snapshot) == {"a": noise(1000, 29)}


def test_after_a_repack_a_restore_fetches_in_long_stretches_still() -> None:
    clock = HandClock()
    store = MemoryStore(clock=clock)
    new_repository(store)
    files = {f"f{number}": noise(250_000, number) for number in range(120)}
    snapshot = take(opened(store, clock), files)
    clock.pass_(timedelta(hours=50))

    def fetches() -> int:
        counting = FaultyStore(store, clock=clock)
        assert restore(opened(counting, clock), snapshot) == files
        return sum(call.operation is Operation.GET and call.name.startswith("data/") for call in counting.calls)

    fresh = fetches()
    assert mark_unneeded(opened(store, clock), repack_below=2).packs
    clock.pass_(timedelta(hours=25))
    assert sweep(opened(store, clock)).deleted
    assert fetches() <= 3 * fresh
