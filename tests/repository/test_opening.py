"""Making and opening repositories: keys, pins, and two inits at once."""

from __future__ import annotations

import json
import threading

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import Damaged, Refused, UsageError, WrongPassphrase
from holdfast.repository import keys as keys_module
from holdfast.repository.keys import MadeSecret, SecretKind, new_keys, unwrap, wrap
from holdfast.repository.opening import Pin, create_repository, open_repository
from holdfast.store.memory import MemoryStore
from holdfast.store.port import Bytes, Store
from tests.repository.making import SECRET, new_repository, restore, sample, take

CLOCK = SystemClock()


def memory() -> MemoryStore:
    return MemoryStore(clock=CLOCK)


class Inclusive(MemoryStore):
    """A store that ignores create-if-absent, as some do."""

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:  # noqa: ARG002  ignored, that is it
        super().put(name, data)

    def exclusive_create(self) -> bool:
        return False


def test_opens_with_each_secret_and_with_no_other() -> None:
    store = memory()
    recovery = MadeSecret.new(SecretKind.RECOVERY)
    made = create_repository(store, [(SECRET, SecretKind.PASSPHRASE), (recovery, SecretKind.RECOVERY)], clock=CLOCK)
    pin = Pin(repository=made.id, key=made.key_id)
    for secret in (SECRET, recovery, recovery.upper().replace("-", " ").replace(" ", "-", 1)):
        opened = open_repository(store, secret, pin=pin, clock=CLOCK)
        assert (opened.id, opened.key_id) == (made.id, made.key_id)
    with pytest.raises(WrongPassphrase, match="wrong passphrase for memory://"):
        open_repository(store, MadeSecret.new(SecretKind.PASSPHRASE), pin=pin, clock=CLOCK)
    slip = SECRET[:-1] + ("b" if SECRET[-1] == "a" else "a")
    with pytest.raises(UsageError, match="slip"):
        open_repository(store, slip, pin=pin, clock=CLOCK)


def test_a_passphrase_that_a_person_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "ARGON2_MEMORY_KIB", 64 * 1024)
    keys = new_keys()
    wrapped = wrap(keys, "期权交易 2026!", SecretKind.PASSPHRASE)
    assert unwrap(wrapped, "期权交易 2026!") == keys
    assert unwrap(wrapped, "期权交易 2026") is None
    assert b"argon2id" in wrapped


@pytest.mark.parametrize(
    ("name", "value"),
    [("memory_kib", 1024), ("memory_kib", 2**21), ("passes", 0), ("passes", 1000), ("lanes", 99), ("kind", "none")],
)
def test_stored_argon2_parameters_outside_sane_bounds_are_refused(name: str, value: object) -> None:
    header = json.loads(wrap(new_keys(), SECRET, SecretKind.PASSPHRASE))
    derivation = {"kind": "argon2id", "salt": "00" * 16, "memory_kib": 65536, "passes": 3, "lanes": 4, name: value}
    with pytest.raises(Damaged):
        unwrap(json.dumps({**header, "derivation": derivation}).encode(), "chosen")


def test_a_changed_key_object_gives_no_other_keys() -> None:
    keys = new_keys()
    wrapped = wrap(keys, SECRET, SecretKind.PASSPHRASE)
    for at in range(len(wrapped)):
        changed = wrapped[:at] + bytes([wrapped[at] ^ 2]) + wrapped[at + 1 :]
        try:
            assert unwrap(changed, SECRET) in (None, keys), "white space may change, the keys may not"
        except Damaged:
            continue


def test_a_second_init_is_refused() -> None:
    store = memory()
    create_repository(store, [(SECRET, SecretKind.PASSPHRASE)], clock=CLOCK)
    with pytest.raises(Refused, match="already"):
        create_repository(store, [(SECRET, SecretKind.PASSPHRASE)], clock=CLOCK)
    other = memory()
    other.put("holiday.jpg", b"x")
    with pytest.raises(Refused, match=r"not empty: it holds holiday\.jpg"):
        create_repository(other, [(SECRET, SecretKind.PASSPHRASE)], clock=CLOCK)


@pytest.mark.parametrize("kind", [MemoryStore, Inclusive])
def test_two_inits_at_once_leave_one_repository(kind: type[MemoryStore]) -> None:
    for _round in range(20):
        store = kind(clock=CLOCK)
        won: list[str] = []
        lost: list[BaseException] = []
        barrier = threading.Barrier(4)

        def init(
            store: Store = store,
            barrier: threading.Barrier = barrier,
            won: list[str] = won,
            lost: list[BaseException] = lost,
        ) -> None:
            barrier.wait()
            try:
                won.append(create_repository(store, [(SECRET, SecretKind.PASSPHRASE)], clock=CLOCK).key_id)
            except Refused as error:
                lost.append(error)

        threads = [threading.Thread(target=init) for _number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) <= 1, "never two master keys"
        if kind is MemoryStore:
            assert len(won) == 1
        if won:
            assert open_repository(store, SECRET, pin=None, clock=CLOCK).key_id == won[0]


def test_an_interrupted_init_can_be_repeated() -> None:
    store = memory()
    store.put("keys/" + "0" * 32, wrap(new_keys(), SECRET, SecretKind.PASSPHRASE))
    made = create_repository(store, [(SECRET, SecretKind.PASSPHRASE)], clock=CLOCK)
    assert open_repository(store, SECRET, pin=None, clock=CLOCK).key_id == made.key_id


def test_another_repository_or_key_than_the_pinned_one_is_refused() -> None:
    mine, planted = new_repository(), new_repository()
    pin = Pin(repository=mine.id, key=mine.key_id)
    with pytest.raises(Refused, match="another repository or key") as refused:
        open_repository(planted.store, SECRET, pin=pin, clock=CLOCK)
    assert mine.id in refused.value.hint
    assert planted.id in refused.value.hint


def test_a_planted_key_object_is_never_used() -> None:
    mine = new_repository()
    store = mine.store
    header = json.loads(wrap(new_keys(), SECRET, SecretKind.PASSPHRASE))
    store.put("keys/" + "0" * 32, json.dumps({**header, "repository": mine.id, "key": mine.key_id}).encode())
    opened = open_repository(store, SECRET, pin=Pin(repository=mine.id, key=mine.key_id), clock=CLOCK)
    assert opened.master == mine.master


def test_repositories_of_one_owner_share_the_id_key_and_nothing_else() -> None:
    first = new_repository()
    second = create_repository(memory(), [(SECRET, SecretKind.PASSPHRASE)], clock=CLOCK, first=first)
    assert second.ids.chunk_id(b"x") == first.ids.chunk_id(b"x") != new_repository().ids.chunk_id(b"x")
    assert second.master.secret != first.master.secret
    assert second.id != first.id


def test_no_repository_there() -> None:
    with pytest.raises(UsageError, match="there is no repository"):
        open_repository(memory(), SECRET, pin=None, clock=CLOCK)


def test_a_newer_format_is_refused() -> None:
    repository = new_repository()
    header = json.loads(repository.store.get("repository.json"))
    repository.store.put("repository.json", json.dumps({**header, "holdfast": 2}).encode())
    with pytest.raises(Refused, match="format 2"):
        open_repository(repository.store, SECRET, pin=None, clock=CLOCK)


def test_without_its_header_a_repository_still_opens() -> None:
    repository = new_repository()
    snapshot = take(repository, sample())
    repository.store.delete("repository.json")
    for pin in (None, Pin(repository=repository.id, key=repository.key_id)):
        opened = open_repository(repository.store, SECRET, pin=pin, clock=CLOCK)
        assert restore(opened, snapshot) == sample()


def test_without_any_key_nothing_opens_and_it_is_said() -> None:
    repository = new_repository()
    for listed in list(repository.store.list("keys/")):
        repository.store.delete(listed.name)
    with pytest.raises(WrongPassphrase):
        open_repository(repository.store, SECRET, pin=None, clock=CLOCK)
    repository = new_repository()
    (listed,) = repository.store.list("keys/")
    repository.store.put(listed.name, repository.store.get(listed.name)[:-40])
    with pytest.raises(Damaged, match="damaged: keys/"):
        open_repository(repository.store, SECRET, pin=None, clock=CLOCK)
