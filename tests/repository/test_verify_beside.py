"""Verifying while prune is at work: no false alarm, no alarm swallowed, and no note of damage where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from holdfast.errors import PermissionRefused
from holdfast.repository.damage import decode_damage
from holdfast.repository.keys import SecretKind
from holdfast.repository.leases import decode_renewal
from holdfast.repository.objects import Kind, parse_name
from holdfast.repository.opening import create_repository, open_repository
from holdfast.repository.removing import remove_snapshot
from holdfast.repository.repository import Repository
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.verify import verify_repository
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind, FaultyStore
from holdfast.store.memory import MemoryStore
from holdfast.store.port import Listed, Store
from tests.repository.clocks import HandClock
from tests.repository.making import SECRET, noise, restore, take
from tests.repository.pruner import mark_unneeded, sweep
from tests.repository.test_index import put_index, put_pack

FILES = {f"f{number}": noise(60_000, number) for number in range(12)}
KEPT = {name: FILES[name] for name in ("f0", "f1", "f2")}
quick_or_whole = pytest.mark.parametrize("quick", [True, False], ids=["quick", "whole"])


class Ground:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.store = MemoryStore(clock=self.clock)
        create_repository(self.store, [(SECRET, SecretKind.PASSPHRASE)], clock=self.clock)

    def open(self, store: Store | None = None) -> Repository:
        return open_repository(store or self.store, SECRET, pin=None, clock=self.clock)

    def pass_(self, hours: float) -> None:
        self.clock.pass_(timedelta(hours=hours))

    def about_to_be_swept(self, repack_below: float) -> Snapshot:
        """Packs are marked and due; what the one snapshot that is left needs of them lies in others, or soon will."""
        former = take(self.open(), FILES, "former")
        self.pass_(30)
        left = take(self.open(), KEPT, "left")
        remove_snapshot(self.open(), former, host="h", why="retention")
        self.pass_(30)
        assert mark_unneeded(self.open(), repack_below=repack_below).packs
        self.pass_(25)
        return left

    def prefix(self, prefix: str) -> list[str]:
        return [listed.name for listed in self.store.list(prefix)]


class Before(FaultyStore):
    """Something happens just before a call."""

    def __init__(self, ground: Ground, position: int, act: Callable[[], object]) -> None:
        super().__init__(ground.store, clock=ground.clock)
        self._position, self._act = position, act
        self.count = 0

    def _here(self) -> None:
        self.count += 1
        if self.count == self._position:
            self._act()

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        self._here()
        return super().get(name, start, length)

    def list(self, prefix: str) -> Iterator[Listed]:
        self._here()
        yield from super().list(prefix)


@quick_or_whole
@pytest.mark.parametrize("repack_below", [0.9, 2.0])
def test_a_sweep_at_any_moment_is_no_alarm(repack_below: float, *, quick: bool) -> None:
    position, reached = 0, True
    while reached:
        position += 1
        ground = Ground()
        left = ground.about_to_be_swept(repack_below)
        store = Before(ground, position, lambda ground=ground: sweep(ground.open()))  # type: ignore[misc]
        repository = ground.open(store)
        found = verify_repository(repository, quick=quick, workers=1)
        reached = store.count >= position
        assert found.good, (position, found.problems, found.touched)
        assert not found.mended
        assert not ground.prefix("damage/"), position
        assert not ground.prefix("leases/"), position
        assert restore(ground.open(), left) == KEPT
    assert position > 15


@quick_or_whole
def test_a_snapshot_removed_meanwhile_is_not_missed(*, quick: bool) -> None:
    position, reached = 0, True
    while reached:
        position += 1
        ground = Ground()
        former = take(ground.open(), FILES, "former")
        take(ground.open(), {"other": noise(70_000, 99)}, "left")
        ground.pass_(1)  # before the verification's lease began, which may be renewed while time passes

        def expire(ground: Ground = ground, former: Snapshot = former) -> None:
            remove_snapshot(ground.open(), former, host="h", why="retention")
            ground.pass_(30)
            mark_unneeded(ground.open())
            ground.pass_(30)
            assert sweep(ground.open()).deleted

        store = Before(ground, position, expire)
        repository = ground.open(store)
        found = verify_repository(repository, quick=quick, workers=1)
        reached = store.count >= position
        assert found.good, (position, found.problems, found.touched)
        assert not ground.prefix("damage/"), position
    assert position > 15


@quick_or_whole
def test_a_loss_at_any_moment_is_an_alarm_or_came_too_late(*, quick: bool) -> None:
    """Once it is there to be seen: the next verification says so in any case."""
    position, reached, alarms = 0, True, 0
    while reached:
        position += 1
        ground = Ground()
        snapshot = take(ground.open(), FILES)
        (lost,) = ground.prefix("data/")
        store = Before(ground, position, lambda ground=ground, lost=lost: ground.store.delete(lost))  # type: ignore[misc]
        found = verify_repository(ground.open(store), quick=quick, workers=1)
        reached = store.count >= position
        alarms += not found.good
        if not found.good:
            assert lost in {problem.name for problem in found.problems}
            assert {touched.path for touched in found.touched} == set(FILES)
        assert not ground.prefix("damage/"), "what is not there is not damaged"
        if reached:
            again = verify_repository(ground.open(), quick=quick)
            assert lost in {problem.name for problem in again.problems}
            assert {touched.snapshot.id for touched in again.touched} == {snapshot.id}
    assert alarms > 3


def test_what_is_listed_and_never_read_is_damaged() -> None:
    ground = Ground()
    take(ground.open(), FILES)
    (name,) = ground.prefix("data/")
    hidden = Fault(kind=FaultKind.VANISH, operation=Operation.GET, matches=name.__eq__)
    found = verify_repository(ground.open(FaultyStore(ground.store, hidden, clock=ground.clock)))
    assert [problem.name for problem in found.problems] == [name]
    assert {touched.path for touched in found.touched} == set(FILES)
    (note,) = ground.prefix("damage/")
    ref = parse_name(note)
    assert ref is not None
    assert {pack.name for pack, _ordinal in decode_damage(ground.open().get_object(ref))} == {name}


def test_what_is_not_there_once_is_asked_for_again() -> None:
    ground = Ground()
    take(ground.open(), FILES)
    (name,) = ground.prefix("data/")
    hidden = Fault(kind=FaultKind.VANISH, operation=Operation.GET, matches=name.__eq__, times=1)
    found = verify_repository(ground.open(FaultyStore(ground.store, hidden, clock=ground.clock)))
    assert found.good
    assert not ground.prefix("damage/")


@quick_or_whole
def test_what_was_pruned_and_is_still_named_is_no_problem(*, quick: bool) -> None:
    """Two machines merged index objects at the same time; but what some snapshot may need is missed."""
    ground = Ground()
    snapshot = take(ground.open(), FILES)
    other = take(ground.open(), {"other": noise(70_000, 99)}, "other")
    pruned = put_pack(ground.open(), [b"nobody needs this"])
    put_index(ground.open(), [pruned])
    ground.store.delete(pruned.pack.name)
    assert verify_repository(ground.open(), quick=quick).good
    for only in (snapshot, other):
        found = verify_repository(ground.open(), quick=quick, only=lambda one, only=only: one.id == only.id)  # type: ignore[misc]
        assert [problem.name for problem in found.problems] == [pruned.pack.name]
        assert not found.touched
    ground.store.put(f"snapshots/{other.id}", b"unreadable")
    found = verify_repository(ground.open(), quick=quick)
    assert {problem.name for problem in found.problems} == {pruned.pack.name, f"snapshots/{other.id}"}


@quick_or_whole
def test_what_was_lost_and_stored_again_is_no_problem(*, quick: bool) -> None:
    ground = Ground()
    snapshot = take(ground.open(), FILES)
    (lost,) = ground.prefix("data/")
    ground.store.delete(lost)
    found = verify_repository(ground.open(), quick=quick)
    assert [problem.name for problem in found.problems] == [lost]
    assert len(found.touched) == len(FILES)
    take(ground.open(), FILES, "again")
    assert verify_repository(ground.open(), quick=quick).good
    assert restore(ground.open(), snapshot) == FILES


def test_a_lease_is_held_meanwhile() -> None:
    ground = Ground()
    take(ground.open(), FILES)
    held: list[str] = []

    def look() -> None:
        for name in ground.prefix("leases/"):
            ref = parse_name(name)
            assert ref is not None
            renewal = decode_renewal(ground.open().get_object(ref))
            held.append(f"{renewal.work} on {renewal.host}")

    store = Before(ground, 0, look)
    repository = ground.open(store)
    verify_repository(repository, progress=lambda _size: look(), host="db1")
    assert set(held) == {"verify on db1"}
    assert not ground.prefix("leases/")


def test_a_long_verification_renews_its_lease() -> None:
    ground = Ground()
    take(ground.open(), FILES)
    watched = FaultyStore(ground.store, clock=ground.clock)
    verify_repository(ground.open(watched), progress=lambda _size: ground.pass_(1), workers=1)
    written = [call.name for call in watched.calls if call.operation is Operation.PUT]
    assert len({name for name in written if name.startswith("leases/")}) > 1
    assert not ground.prefix("leases/")


@pytest.mark.parametrize("operation", [Operation.PUT, Operation.DELETE])
def test_no_lease_is_no_reason_not_to_verify(operation: Operation) -> None:
    ground = Ground()
    take(ground.open(), FILES)
    refuse = Fault(kind=FaultKind.FAIL, operation=operation, error=PermissionRefused)
    faulty = FaultyStore(ground.store, refuse, clock=ground.clock)
    assert verify_repository(ground.open(faulty)).good
    assert len([call for call in faulty.calls if call.operation is Operation.PUT]) == 1, "not asked for again and again"
    assert len(ground.prefix(Kind.LEASE.prefix)) == (operation is Operation.DELETE)
