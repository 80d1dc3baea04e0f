"""A bit flipped in, a byte cut from, and the loss of each kind of object: named, never restored from, never hidden."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import Damaged
from holdfast.repository import packs as packs_module
from holdfast.repository.keys import MadeSecret, SecretKind
from holdfast.repository.objects import Kind
from holdfast.repository.opening import create_repository, open_repository
from holdfast.repository.packing import Location, PackBuilder, read_part
from holdfast.repository.repository import Repository
from holdfast.repository.verify import Verification, verify_repository
from holdfast.store.memory import MemoryStore
from holdfast.store.port import Store
from tests.repository.making import SECRET, new_repository, noise, restore, sample, take

Harm = Callable[[Store, str], None]


def flip(store: Store, name: str) -> None:
    data = bytearray(store.get(name))
    data[len(data) // 3] ^= 0x10
    store.put(name, data)


def cut(store: Store, name: str) -> None:
    store.put(name, store.get(name)[: len(store.get(name)) // 8])


def lose(store: Store, name: str) -> None:
    store.delete(name)


harms = pytest.mark.parametrize("harm", [flip, cut, lose])
FILES = sample()


def one(repository: Repository, prefix: str) -> str:
    return min(listed.name for listed in repository.store.list(prefix))


def verify(repository: Repository, *, quick: bool = False) -> Verification:
    return verify_repository(repository, quick=quick, workers=2)


def test_a_whole_repository_is_found_whole() -> None:
    repository = new_repository()
    take(repository, FILES)
    take(repository, {**FILES, "more": noise(5)}, "two")
    for quick in (False, True):
        found = verify(repository, quick=quick)
        assert found.good, found
        assert found.snapshots == 2
    whole = verify(repository)
    packs = [listed.size for prefix in ("data/", "meta/") for listed in repository.store.list(prefix)]
    assert whole.read == sum(packs)


@harms
def test_a_pack_of_data(harm: Harm) -> None:
    repository = new_repository()
    snapshot = take(repository, FILES)
    name = one(repository, "data/")
    harm(repository.store, name)
    with pytest.raises(Damaged, match=name) as stopped:
        restore(repository, snapshot)
    assert stopped.value.exit_code == 5
    assert any(path in str(stopped.value) for path in FILES)
    found = verify(repository)
    assert name in {problem.name for problem in found.problems}
    assert found.touched
    assert all(touched.path in FILES for touched in found.touched)
    healed = take(repository, FILES, "two")
    assert restore(repository, healed) == FILES, "what was found damaged is not reused"
    assert restore(repository, snapshot) == FILES, "and what was stored again serves the older snapshot too"
    again = verify(repository)
    assert not again.touched
    assert [problem.name for problem in again.mended] == ([name] if harm is flip else [])


@pytest.mark.parametrize("prefix", ["data/", "meta/"])
def test_a_pack_whose_end_alone_is_cut_off(prefix: str) -> None:
    """Its parts are whole, and lists say where they lie: nothing is lost, and verify says what is wrong."""
    repository = new_repository()
    snapshot = take(repository, FILES)
    name = one(repository, prefix)
    repository.store.put(name, repository.store.get(name)[:-1])
    assert restore(repository, snapshot) == FILES
    assert name in {problem.name for problem in verify(repository).problems}


@harms
def test_a_pack_of_trees(harm: Harm) -> None:
    repository = new_repository()
    snapshot = take(repository, FILES)
    name = one(repository, "meta/")
    harm(repository.store, name)
    with pytest.raises(Damaged, match="meta/"):
        restore(repository, snapshot)
    for quick in (False, True):
        found = verify(repository, quick=quick)
        assert not found.good
        assert any(name in problem.name for problem in found.problems) or any(
            name in touched.why for touched in found.touched
        )


@harms
def test_the_index_can_be_lost(harm: Harm) -> None:
    """It is a copy: restores go on, verify says so, the next backup reuses everything and writes it anew."""
    repository = new_repository()
    snapshot = take(repository, FILES)
    name = one(repository, "index/")
    harm(repository.store, name)
    assert restore(repository, snapshot) == FILES
    found = verify(repository)
    if harm is lose:
        assert found.good
    else:
        assert name in {problem.name for problem in found.problems}
    assert not found.touched
    again = take(repository, FILES, "two")
    assert again.totals.added_content == 0
    assert len(list(repository.store.list("index/"))) == (1 if harm is lose else 2)


@harms
def test_a_snapshot_record(harm: Harm) -> None:
    repository = new_repository()
    first = take(repository, FILES)
    second = take(repository, FILES, "two")
    harm(repository.store, f"snapshots/{first.id}")
    assert restore(repository, second) == FILES
    assert [snapshot.id for snapshot in repository.records().snapshots] == [second.id]
    for quick in (False, True):
        found = verify(repository, quick=quick)
        assert [problem.name for problem in found.problems] == [f"snapshots/{first.id}"]


def test_an_object_that_stands_under_another_name() -> None:
    """A store that mixes objects up, or a thief who swaps them: the seal names its object."""
    repository = new_repository()
    first, second = take(repository, FILES), take(repository, {"a": b"b"}, "two")
    store = repository.store
    store.put(f"snapshots/{first.id}", store.get(f"snapshots/{second.id}"))
    assert [problem.name for problem in repository.records().problems] == [f"snapshots/{first.id}"]


def test_a_damaged_place_of_a_chunk_is_no_loss_while_another_is_whole() -> None:
    repository = new_repository()
    snapshot = take(repository, FILES)
    index, data = one(repository, "index/"), {item.name for item in repository.store.list("data/")}
    kept = {name: repository.store.get(name) for name in {*data, index}}
    for name in kept:
        repository.store.delete(name)
    take(repository, FILES, "two")
    other = {item.name for item in repository.store.list("data/")}
    kept |= {name: repository.store.get(name) for name in other}
    for damaged in (data, other):
        for name, content in kept.items():
            repository.store.put(name, content)
        for name in damaged:
            flip(repository.store, name)
        assert restore(repository, snapshot) == FILES
        found = verify(repository)
        assert {problem.name for problem in found.problems} <= damaged
        assert not found.touched


def test_a_chunk_whose_content_has_another_id() -> None:
    """Sealed by somebody who has the key, or by a bug: the id is computed again."""
    repository = new_repository()
    builder = PackBuilder(repository.master, Kind.DATA)
    builder.add(repository.ids.chunk_id(b"right"), b"wrong")
    data, directory = builder.finish()
    part = directory.parts[0]
    sealed = bytes(data[part.offset : part.offset + part.sealed_length])
    with pytest.raises(Damaged, match="does not have the id"):
        read_part(repository.cipher(directory.pack), Location(directory.pack, 0, part), sealed, repository.ids)


def test_a_lost_pack_is_stored_again_by_the_next_backup() -> None:
    repository = new_repository()
    snapshot = take(repository, FILES)
    repository.store.delete(one(repository, "data/"))
    take(repository, FILES, "two")
    assert restore(repository, snapshot) == FILES, "the same content serves the older snapshot too"


def test_records_that_are_all_gone_leave_packs_that_nobody_needs() -> None:
    repository = new_repository()
    snapshot = take(repository, FILES)
    assert verify(repository).unneeded == 0
    repository.store.delete(f"snapshots/{snapshot.id}")
    found = verify(repository)
    assert (found.snapshots, found.unneeded) == (0, len(packs_of(repository)))


@harms
def test_a_key_object_is_missed_though_another_opens(harm: Harm) -> None:
    recovery = MadeSecret.new(SecretKind.RECOVERY)
    store = MemoryStore(clock=SystemClock())
    secrets = [(SECRET, SecretKind.PASSPHRASE), (recovery, SecretKind.RECOVERY)]
    repository = create_repository(store, secrets, clock=SystemClock())
    take(repository, FILES)
    assert verify(repository).good
    for listed in list(store.list("keys/")):
        if b"recovery" in store.get(listed.name):
            harm(store, listed.name)
            assert [problem.name for problem in verify(repository, quick=True).problems] == [listed.name]


def test_the_header_is_missed() -> None:
    repository = new_repository()
    take(repository, FILES)
    repository.store.delete("repository.json")
    assert [problem.name for problem in verify(repository).problems] == ["repository.json"]


def test_a_large_index_is_written_in_objects_that_readers_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs_module, "INDEX_PARTS", 1)
    repository = new_repository()
    snapshot = take(repository, FILES)
    assert len(list(repository.store.list("index/"))) == len(packs_of(repository))
    assert restore(repository, snapshot) == FILES


@pytest.mark.parametrize("planted", [b"[" * 100_000, b"{" * 3_000_000, b"[]", b""])
def test_planted_keys_stop_nothing(planted: bytes) -> None:
    repository = new_repository()
    repository.store.put("keys/" + "0" * 32, planted)
    open_repository(repository.store, SECRET, pin=None, clock=SystemClock())
    repository.store.put("repository.json", planted)
    with pytest.raises(Damaged):
        open_repository(repository.store, SECRET, pin=None, clock=SystemClock())


def packs_of(repository: Repository) -> list[str]:
    return [listed.name for prefix in ("data/", "meta/") for listed in repository.store.list(prefix)]
