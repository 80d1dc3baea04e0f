"""Index objects are merged beside whatever else happens, and whenever it dies: every pack stays named and found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import HoldfastError, PermissionRefused, StoreBusy
from holdfast.repository import compaction
from holdfast.repository.compaction import SMALL_OBJECTS, compact_index, due_for_compaction
from holdfast.repository.ids import ObjectId
from holdfast.repository.index import INDEX_PARTS
from holdfast.repository.index_loading import IndexObject, LoadedIndex, load_index
from holdfast.repository.keys import SecretKind
from holdfast.repository.marks import decode_mark, encode_mark
from holdfast.repository.objects import Kind, ObjectRef
from holdfast.repository.opening import create_repository, open_repository
from holdfast.repository.packing import Directory
from holdfast.repository.repository import Repository
from holdfast.repository.verify import verify_repository
from holdfast.repository.writer import SnapshotWriter
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind, FaultyStore, Killed
from holdfast.store.memory import MemoryStore
from holdfast.store.port import Bytes, Listed, Store
from tests.repository.making import SECRET, about, noise, readings, restore, sample, take
from tests.repository.test_index import put_index, put_pack

CLOCK = SystemClock()
PACKS = 5


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "SMALL_OBJECTS", 2)


def opened(store: Store) -> Repository:
    return open_repository(store, SECRET, pin=None, clock=CLOCK)


def with_small_objects() -> tuple[MemoryStore, set[ObjectRef]]:
    """An index object a pack, and one that names a pack again, and one that is gone."""
    store = MemoryStore(clock=CLOCK)
    repository = create_repository(store, [(SECRET, SecretKind.PASSPHRASE)], clock=CLOCK)
    whole = whole_packs(repository)
    for directory in whole:
        put_index(repository, [directory])
    deleted = put_pack(repository, [b"pruned"])
    put_index(repository, [whole[0], deleted])
    store.delete(deleted.pack.name)
    repository.put_object(Kind.MARK, encode_mark([deleted.pack]))
    return store, {directory.pack for directory in whole}


def whole_packs(repository: Repository) -> list[Directory]:
    return [put_pack(repository, [noise(30, 10 * pack + row) for row in range(pack + 1)]) for pack in range(PACKS)]


def index_names(store: Store) -> set[str]:
    return {listed.name for listed in store.list(Kind.INDEX.prefix)}


def nothing_is_lost(store: Store, packs: set[ObjectRef]) -> None:
    """Everything is named by index objects: no pack had to be asked."""
    loaded = load_index(opened(store))
    assert {directory.pack for directory in loaded.index.directories()} == packs
    assert not loaded.learned


def loaded_beside_marks(repository: Repository) -> LoadedIndex:
    """As a writer loads it."""
    marks = [decode_mark(repository.get_listed(listed)) for listed in repository.store.list(Kind.MARK.prefix)]
    return load_index(repository, marked=[pack for mark in marks for pack in mark])


def compact(store: Store) -> int:
    repository = opened(store)
    loaded = loaded_beside_marks(repository)
    try:
        return compact_index(repository, loaded)
    finally:
        loaded.index.close()


def test_many_small_ones_become_one() -> None:
    store, packs = with_small_objects()
    before = index_names(store)
    assert compact(store) == len(before) == PACKS + 1
    assert len(index_names(store)) == 1
    assert not index_names(store) & before
    nothing_is_lost(store, packs)
    assert not load_index(opened(store)).problems, "what prune deleted is named no more"
    assert compact(store) == 0


def test_what_is_due() -> None:
    def objects(*rows: int) -> list[IndexObject]:
        return [
            IndexObject(ref=ObjectRef(Kind.INDEX, ObjectId(bytes([place] * 32))), rows=count)
            for place, count in enumerate(rows)
        ]

    half = INDEX_PARTS // 2
    assert compaction.SMALL_OBJECTS == 2
    assert SMALL_OBJECTS == 32
    assert due_for_compaction(objects(5, half, half + 7, half)) == []
    assert due_for_compaction(objects(5, half, 6)) == []
    assert due_for_compaction(objects(5, half, 6, half - 1)) == [
        one for one in objects(5, half, 6, half - 1) if one.rows < half
    ]


def test_what_is_written_is_closed_at_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    store, packs = with_small_objects()
    repository = opened(store)
    loaded = loaded_beside_marks(repository)
    monkeypatch.setattr(compaction, "INDEX_PARTS", 6)
    monkeypatch.setattr(compaction, "due_for_compaction", list)
    assert compact_index(repository, loaded) == PACKS + 1
    assert len(index_names(store)) in (2, 3), "15 rows, in objects of 6 and a pack's more"
    nothing_is_lost(store, packs)


@pytest.mark.parametrize(
    "kind", [FaultKind.KILL, FaultKind.KILL_AFTER, FaultKind.FAIL, FaultKind.LOSE_RESPONSE], ids=str
)
def test_every_call_position(kind: FaultKind) -> None:
    store, _packs = with_small_objects()
    counting = FaultyStore(store, clock=CLOCK)
    repository = opened(counting)
    loaded = loaded_beside_marks(repository)
    before = len(counting.calls)
    compact_index(repository, loaded)
    calls = counting.calls[before:]
    assert [call.operation for call in calls if call.operation is not Operation.DELETE][-1] is Operation.PUT
    for position in range(1, len(calls) + 1):
        store, packs = with_small_objects()
        faulty = FaultyStore(store, clock=CLOCK)
        repository = opened(faulty)
        loaded = loaded_beside_marks(repository)
        faulty.add(Fault(kind=kind, first=position, times=1))
        with pytest.raises((Killed, StoreBusy)):
            compact_index(repository, loaded)
        nothing_is_lost(store, packs)
        compact(store)
        nothing_is_lost(store, packs)
        assert len(index_names(store)) <= 2, position


class Between(FaultyStore):
    """Lets somebody else do something just before a call."""

    def __init__(self, inner: Store, act: Callable[[], None]) -> None:
        super().__init__(inner, clock=CLOCK)
        self._act = act
        self.countdown = 0
        """After so many calls; 0: never."""

    def _here(self) -> None:
        self.countdown -= 1
        if self.countdown == 0:
            self._act()

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        self._here()
        super().put(name, data, if_absent=if_absent)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        self._here()
        return super().get(name, start, length)

    def list(self, prefix: str) -> Iterator[Listed]:
        self._here()
        yield from super().list(prefix)

    def delete(self, name: str) -> None:
        self._here()
        super().delete(name)


def test_another_compaction_at_any_moment() -> None:
    position, reached = 0, True
    while reached:
        position += 1
        store, packs = with_small_objects()
        done: list[int] = []

        def other(store: MemoryStore = store, done: list[int] = done) -> None:
            done.append(compact(store))

        between = Between(store, other)
        between.countdown = position
        compact(between)
        reached = bool(done)
        nothing_is_lost(store, packs)
        compact(store)
        nothing_is_lost(store, packs)
    assert position > 15, "it was tried before each call of loading and of merging"


def test_a_backup_beside_a_compaction_at_any_moment() -> None:
    """A writer that has listed what is merged a moment later; and one that writes while another merges."""
    files = {"one": noise(1000, 1), "two": noise(400_000, 2)}
    position, reached, merged = 0, True, 0
    while reached:
        position += 1
        store, _packs = with_small_objects()
        take(opened(store), files)
        for directory in load_index(opened(store)).index.directories():
            put_index(opened(store), [directory])  # that backup merged what there was
        done: list[int] = []

        def other(store: MemoryStore = store, done: list[int] = done) -> None:
            done.append(compact(store))

        between = Between(store, other)
        repository = opened(between)
        between.countdown = position
        with SnapshotWriter(repository, workers=1) as writer:
            for entry, content in readings({**files, "three": noise(500_000, 3)}):
                writer.add(entry, content)
            second = writer.publish(about("two"))
        reached = bool(done)
        merged += sum(done)
        assert second.totals.added_content == 500_000, position
        assert not second.warnings, position
        assert restore(opened(store), second)["two"] == files["two"]
        assert verify_repository(opened(store)).good, position
    assert position > 15
    assert merged > 5 * PACKS


def test_a_compaction_beside_a_backup_at_any_moment() -> None:
    position, reached = 0, True
    while reached:
        position += 1
        store, packs = with_small_objects()
        made: list[object] = []

        def backup(store: MemoryStore = store, made: list[object] = made) -> None:
            made.append(take(opened(store), sample()))

        between = Between(store, backup)
        between.countdown = position
        compact(between)
        reached = bool(made)
        found = {directory.pack for directory in load_index(opened(store)).index.directories()}
        assert found >= packs
        assert not load_index(opened(store)).learned, position
        assert verify_repository(opened(store), quick=True).good, position
        if position > 40:
            break
    assert position > 10


def test_objects_that_keep_vanishing_end_as_a_problem() -> None:
    store, packs = with_small_objects()
    name = min(index_names(store))
    hidden = Fault(kind=FaultKind.VANISH, operation=Operation.GET, matches=lambda wanted: wanted == name)
    loaded = load_index(opened(FaultyStore(store, hidden, clock=CLOCK)))
    assert name in {problem.name for problem in loaded.problems}
    assert {directory.pack for directory in loaded.index.directories()} == packs, "learned from the pack"


def test_where_nobody_may_delete_nothing_is_merged() -> None:
    store, packs = with_small_objects()
    before = index_names(store)
    refuse = Fault(kind=FaultKind.FAIL, operation=Operation.DELETE, error=PermissionRefused)
    assert compact(FaultyStore(store, refuse, clock=CLOCK)) == 0
    assert index_names(store) == before
    later = Fault(kind=FaultKind.FAIL, operation=Operation.DELETE, first=4, error=PermissionRefused)
    assert compact(FaultyStore(store, later, clock=CLOCK)) == 3
    nothing_is_lost(store, packs)


class Retaining(MemoryStore):
    """Refuses to delete what is there, as stores with retention do; of what is not there it says nothing."""

    def delete(self, name: str) -> None:
        if any(listed.name == name for listed in self.list("")):
            raise PermissionRefused(f"{name} is retained")


def test_where_objects_are_retained_no_backup_writes_more_than_its_own() -> None:
    store = Retaining(clock=CLOCK)
    create_repository(store, [(SECRET, SecretKind.PASSPHRASE)], clock=CLOCK)
    for number in range(12):
        take(opened(store), {"x": noise(1000, number)}, f"s{number}")
    assert len(index_names(store)) == 12 + 1, "one that was merged, when that was tried for the first time"
    released = MemoryStore(clock=CLOCK)
    for listed in store.list(""):
        released.put(listed.name, store.get(listed.name))
    packs = {directory.pack for directory in load_index(opened(released)).index.directories()}
    while compact(released):
        nothing_is_lost(released, packs)
    assert len(index_names(released)) <= compaction.SMALL_OBJECTS
    assert verify_repository(opened(released)).good


def test_what_larger_ones_name_is_deleted_without_merging() -> None:
    """… and two machines that look at the same moment do not each delete what the other one relies on."""
    store = MemoryStore(clock=CLOCK)
    repository = create_repository(store, [(SECRET, SecretKind.PASSPHRASE)], clock=CLOCK)
    whole = whole_packs(repository)
    copies = [put_index(repository, whole) for _copy in range(4)]
    put_index(repository, whole[:2])
    objects = load_index(repository).objects
    assert [one.ref for one in objects if not one.redundant] == [max(copies, key=lambda ref: ref.id)]
    assert compact(store) == 4
    nothing_is_lost(store, {directory.pack for directory in whole})


@pytest.mark.parametrize("harm", ["lose", "cut"])
def test_what_names_a_lost_pack_is_not_merged(harm: str) -> None:
    """The alarm goes on: else nobody would know what was there."""
    store, packs = with_small_objects()
    lost = max(packs, key=lambda pack: pack.id)
    content = store.get(lost.name)
    store.delete(lost.name)
    if harm == "cut":
        store.put(lost.name, content[: len(content) // 2])
    assert lost.name in {problem.name for problem in load_index(opened(store)).problems}
    for _time in range(3):
        compact(store)
        found = load_index(opened(store))
        assert lost.name in {problem.name for problem in found.problems}
        assert found.missing.count(lost) == (harm == "lose")
    assert len(index_names(store)) <= 1 + 2
    assert {directory.pack for directory in load_index(opened(store)).index.directories()} == packs - {lost}


def test_a_pack_that_is_lost_while_the_index_is_merged() -> None:
    store, packs = with_small_objects()
    repository = opened(store)
    loaded = loaded_beside_marks(repository)
    lost = max(packs, key=lambda pack: pack.id)
    store.delete(lost.name)
    compact_index(repository, loaded)
    assert lost in load_index(opened(store)).missing


def test_stuck_objects_are_not_merged_again_and_again() -> None:
    store, _packs = with_small_objects()
    for listed in list(store.list("data/")):
        store.delete(listed.name)
    before = index_names(store)
    counting = FaultyStore(store, clock=CLOCK)
    assert compact(counting) == 0
    assert index_names(store) == before
    assert not [call for call in counting.calls if call.operation is Operation.PUT]


def test_a_damaged_object_stays_as_it_is() -> None:
    store, packs = with_small_objects()
    repository = opened(store)
    loaded = loaded_beside_marks(repository)
    name = min(index_names(store))
    store.put(name, store.get(name)[:-1])
    assert compact_index(repository, loaded) == PACKS
    assert name in index_names(store)
    found = load_index(repository)
    assert {directory.pack for directory in found.index.directories()} == packs
    assert name in {problem.name for problem in found.problems}


def test_the_local_copy_knows_what_this_process_merged(tmp_path: Path) -> None:
    store, packs = with_small_objects()
    counting = FaultyStore(store, clock=CLOCK)
    repository = open_repository(counting, SECRET, pin=None, clock=CLOCK, state=tmp_path)
    loaded = loaded_beside_marks(repository)
    compact_index(repository, loaded)
    loaded.index.close()
    before = len(counting.calls)
    again = load_index(repository)
    assert {directory.pack for directory in again.index.directories()} == packs
    assert not again.learned
    assert not [call for call in counting.calls[before:] if call.operation is Operation.GET]


def test_a_store_that_fails_says_so_in_its_own_words() -> None:
    store, packs = with_small_objects()
    faulty = FaultyStore(store, clock=CLOCK)
    repository = opened(faulty)
    loaded = loaded_beside_marks(repository)
    faulty.add(Fault(kind=FaultKind.FAIL, operation=Operation.PUT))
    with pytest.raises(HoldfastError):
        compact_index(repository, loaded)
    nothing_is_lost(store, packs)
