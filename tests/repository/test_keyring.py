"""Several secrets for one repository: what is acknowledged opens, what is removed does not, what is lost is missed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import Damaged, HoldfastError, Refused, StoreBusy, UsageError, WrongPassphrase
from holdfast.repository import keys as keys_module
from holdfast.repository.keyring import (
    Change,
    Keyring,
    KeyState,
    RingKey,
    decode_change,
    encode_change,
    key_problems,
    opened_by,
    own_key_digests,
    read_keyring,
    select_key,
)
from holdfast.repository.keyring_changes import add_key, refuse_removal, remove_key
from holdfast.repository.keys import MadeSecret, Origin, SecretKind, new_keys, wrap
from holdfast.repository.objects import Kind
from holdfast.repository.opening import create_repository, open_repository
from holdfast.repository.repository import Repository
from holdfast.repository.verify import verify_repository
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind, FaultyStore, Killed
from holdfast.store.memory import MemoryStore
from holdfast.store.port import Bytes, Store
from tests.repository.making import key_digests, take

CLOCK = SystemClock()
NOW = datetime(2026, 11, 22, 14, tzinfo=UTC)
ORIGIN = Origin(created=NOW, host="db1", user="postgres", note="纸条, in the safe")
SECRET = MadeSecret.new(SecretKind.PASSPHRASE)
RECOVERY = MadeSecret.new(SecretKind.RECOVERY)
OTHER = MadeSecret.new(SecretKind.PASSPHRASE)
CHOSEN = "correct horse battery"


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen passphrases at the least cost that is accepted: what is tested here is not how slow they are."""
    monkeypatch.setattr(keys_module, "ARGON2_MEMORY_KIB", 64 * 1024)
    monkeypatch.setattr(keys_module, "ARGON2_PASSES", 1)


def made(store: Store | None = None, *secrets: str) -> Repository:
    store = MemoryStore(clock=CLOCK) if store is None else store
    kinds = [(secret, keys_module.kind_of(secret)) for secret in secrets or (SECRET, RECOVERY)]
    create_repository(store, kinds, clock=CLOCK)
    return opened(store, kinds[0][0])


def opened(store: Store, secret: str = SECRET) -> Repository:
    return open_repository(store, secret, pin=None, clock=CLOCK)


def opens(store: Store, secret: str) -> bool:
    try:
        opened(store, secret)
    except WrongPassphrase:
        return False
    return True


def ring_of(repository: Repository) -> Keyring:
    return read_keyring(repository)


def key_of(repository: Repository, secret: str) -> RingKey:
    ring = ring_of(repository)
    (name,) = opened_by(repository, ring, secret)
    return next(key for key in ring.keys if key.name == name)


def remove(repository: Repository, secret: str, **options: bool) -> None:
    """As the command line does it: what opened this session stays."""
    ring, key = ring_of(repository), key_of(repository, secret)
    in_use = [frozenset(one.name for one in ring.keys if one.opened)]
    refuse_removal(ring, key, in_use, **options)
    remove_key(repository, key, in_use, when=NOW, host="db1")


def problems(repository: Repository, then: dict[str, str]) -> list[tuple[str, str]]:
    return [(problem.name, problem.what) for problem in key_problems(repository, [then])]


@pytest.mark.parametrize(
    "secret",
    [OTHER, MadeSecret.new(SecretKind.RECOVERY), CHOSEN, "期权交易二号"],
    ids=["made", "recovery", "chosen", "wide"],
)
def test_an_added_secret_opens_the_same_repository(secret: str) -> None:
    repository = made()
    key = add_key(repository, secret, ORIGIN)
    again = opened(repository.store, secret)
    assert again.keys == repository.keys
    shown = next(one for one in ring_of(again).keys if one.name == key.name)
    assert shown.header is not None
    assert shown.header == key.header
    assert (shown.state, shown.opened, shown.header.origin) == (KeyState.GOOD, True, ORIGIN)
    assert shown.header.kind is (SecretKind.RECOVERY if secret.startswith("hfrec") else SecretKind.PASSPHRASE)
    assert shown.header.made is secret.startswith("hf")
    assert [one.opened for one in ring_of(repository).keys].count(True) == 1
    assert opens(repository.store, SECRET)
    assert opens(repository.store, RECOVERY)


def test_a_secret_that_opens_already_is_not_added_twice() -> None:
    repository = made()
    for secret in (SECRET, RECOVERY, RECOVERY.upper()):
        with pytest.raises(Refused, match="opens memory://test already: key"):
            add_key(repository, secret, ORIGIN)
    add_key(repository, CHOSEN, ORIGIN)
    with pytest.raises(Refused, match="already"):
        add_key(repository, CHOSEN, ORIGIN)
    assert len(ring_of(repository).keys) == 3


@pytest.mark.parametrize("secret", ["", "short", "           \t     ", "a b c d e f g", "五个字的词", "\ud800" * 20])
def test_a_chosen_passphrase_that_is_too_short_is_refused(secret: str) -> None:
    repository = made()
    before = key_digests(repository.store)
    with pytest.raises(UsageError):
        add_key(repository, secret, ORIGIN)
    with pytest.raises(UsageError):
        create_repository(MemoryStore(clock=CLOCK), [(secret, SecretKind.PASSPHRASE)], clock=CLOCK)
    assert key_digests(repository.store) == before


def test_a_removed_secret_opens_nothing_and_no_alarm_is_raised() -> None:
    repository = made()
    add_key(repository, OTHER, ORIGIN)
    then = key_digests(repository.store)
    remove(repository, OTHER)
    assert not opens(repository.store, OTHER)
    assert opens(repository.store, SECRET)
    assert problems(repository, then) == []
    assert {key.state for key in ring_of(repository).keys} == {KeyState.GOOD}
    (change,) = [change for change in ring_of(repository).changes if change.removed]
    assert (change.when, change.host) == (NOW, "db1")
    with pytest.raises(UsageError, match="was removed already"):
        select_key(ring_of(repository), change.removed[0].removeprefix("keys/")[:8])


def test_without_a_record_a_lost_key_is_missed() -> None:
    """Whether a snapshot or only the keyring knows of it."""
    repository = made()
    key = add_key(repository, OTHER, ORIGIN)
    then = own_key_digests(repository)
    assert then == key_digests(repository.store)
    repository.store.delete(key.name)
    for recorded in (then, {}):
        assert problems(repository, recorded) == [
            (key.name, f"key object {key.name} is missing: its secret opens nothing")
        ]
    (missing,) = [one for one in ring_of(repository).keys if one.state is KeyState.MISSING]
    remove_key(repository, missing, [], when=NOW, host="db1")  # an operator who knows why it is gone says so
    assert problems(repository, then) == []


def test_verify_tells_lost_keys_from_removed_ones() -> None:
    """Though snapshots from before name a key that is removed, and do not name one that came later."""
    repository = made()
    take(repository, {"a": b"b"})
    first = add_key(repository, OTHER, ORIGIN)
    assert verify_repository(repository).good
    take(repository, {"a": b"b"}, "two")
    remove(repository, OTHER)
    assert verify_repository(repository).good
    take(repository, {"a": b"b"}, "three")
    assert verify_repository(repository).good
    second = add_key(repository, OTHER, ORIGIN)
    repository.store.delete(second.name)
    assert [problem.name for problem in verify_repository(repository, quick=True).problems] == [second.name]
    assert first.name != second.name


def test_a_key_that_was_lost_before_the_newest_snapshot_is_still_missed() -> None:
    repository = made()
    take(repository, {"a": b"b"})
    name = key_of(repository, RECOVERY).name
    repository.store.delete(name)
    take(repository, {"a": b"b"}, "two")
    assert [problem.name for problem in verify_repository(repository).problems] == [name]


@pytest.mark.parametrize("harm", ["flip", "cut", "empty"])
def test_a_damaged_key_is_named_at_every_byte(harm: str) -> None:
    repository = made()
    key = add_key(repository, OTHER, ORIGIN)
    then, whole = key_digests(repository.store), repository.store.get(key.name)
    for at in range(0, len(whole), 7):
        changed = {
            "flip": whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
            "cut": whole[:at],
            "empty": b"",
        }[harm]
        repository.store.put(key.name, changed)
        if json_or_none(changed) == json.loads(whole):
            continue  # white space
        for recorded in (then, {}):
            assert [name for name, _what in problems(repository, recorded)] == [key.name], changed
        assert own_key_digests(repository).keys() == then.keys() - {key.name}


def json_or_none(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return None


def planted_by_others(repository: Repository) -> dict[str, bytes]:
    """Whoever may write to the store, but has no secret, can make these."""
    header = json.loads(wrap(new_keys(), OTHER, SecretKind.RECOVERY, origin=ORIGIN))
    ours = {"repository": repository.id, "key": repository.key_id}
    return {
        "leftover of another init": json.dumps(header).encode(),
        "with our ids": json.dumps({**header, **ours}).encode(),
        "without a witness": json.dumps({k: v for k, v in (header | ours).items() if k != "witness"}).encode(),
        "words of another": json.dumps({**header, **ours, "note": "\x1b[2J"}).encode(),
    }


def test_a_planted_key_is_harmless_and_shown_as_foreign() -> None:
    repository = made()
    before = own_key_digests(repository)
    for number, content in enumerate(planted_by_others(repository).values()):
        repository.store.put(f"keys/{number:032x}", content)
    ring = ring_of(repository)
    foreign = [key for key in ring.keys if key.state is KeyState.FOREIGN]
    assert [int(key.id, 16) for key in foreign] == [0, 1, 2, 3]
    assert all(key.header is None for key in foreign), "nobody else's words are shown"
    assert opened(repository.store).keys == repository.keys
    assert not opens(repository.store, OTHER)
    assert own_key_digests(repository) == before
    for then in (before, key_digests(repository.store)):
        assert problems(repository, then) == []
    for key in foreign:
        refuse_removal(ring, key, [])
        remove_key(repository, key, [], when=NOW, host="db1")
    assert len(ring_of(repository).keys) == 2
    assert problems(repository, before) == []


def test_a_key_object_of_another_repository_of_the_same_owner_is_foreign() -> None:
    first = made()
    store = MemoryStore(clock=CLOCK)
    create_repository(store, [(SECRET, SecretKind.PASSPHRASE)], clock=CLOCK, first=first)
    for name in key_digests(store):
        first.store.put(name, store.get(name))
    assert sorted(key.state for key in ring_of(first).keys) == [KeyState.FOREIGN, KeyState.GOOD, KeyState.GOOD]
    assert opened(first.store).key_id == first.key_id


def test_what_must_stay() -> None:
    store = MemoryStore(clock=CLOCK)
    repository = made(store, SECRET)
    with pytest.raises(Refused, match="the only one"):
        remove(repository, SECRET)
    add_key(repository, RECOVERY, ORIGIN)
    with pytest.raises(Refused, match="is in use"):
        remove(repository, SECRET)
    with pytest.raises(Refused, match="the last recovery key"):
        remove(repository, RECOVERY)
    ring, key = ring_of(repository), key_of(repository, SECRET)
    both = [frozenset({key_of(repository, RECOVERY).name}), frozenset({key.name})]
    with pytest.raises(Refused, match="is in use"):  # of the configuration, while the session opened with another
        refuse_removal(ring, key, both)
    with pytest.raises(Refused, match="is in use"):  # nothing is known to stay
        refuse_removal(ring, key, [])
    assert sorted(ring_of(repository).keys, key=str) == sorted(ring.keys, key=str)
    remove(opened(store, RECOVERY), SECRET)
    assert (opens(store, SECRET), opens(store, RECOVERY)) == (False, True)
    with pytest.raises(Refused, match="the only one"):
        remove(opened(store, RECOVERY), RECOVERY, last_recovery_key=True)


def test_of_two_recovery_keys_one_may_go_and_the_last_when_it_is_said() -> None:
    repository = made()
    second = MadeSecret.new(SecretKind.RECOVERY)
    add_key(repository, second, ORIGIN)
    remove(repository, RECOVERY)
    with pytest.raises(Refused, match="last recovery key"):
        remove(repository, second)
    remove(repository, second, last_recovery_key=True)
    assert [key.opened for key in ring_of(repository).keys] == [True]


def test_a_damaged_recovery_key_is_none() -> None:
    """It does not make the whole one dispensable."""
    repository = made()
    second = MadeSecret.new(SecretKind.RECOVERY)
    name = add_key(repository, second, ORIGIN).name
    repository.store.put(name, repository.store.get(name)[:-30])
    with pytest.raises(Refused, match="last recovery key"):
        remove(repository, RECOVERY)


def test_an_id_that_means_two_is_refused() -> None:
    repository = made()
    content = repository.store.get(min(key_digests(repository.store)))
    for digits in ("abcdef01", "abcdef02"):
        repository.store.put("keys/" + digits.ljust(32, "0"), content)
    ring = ring_of(repository)
    with pytest.raises(UsageError, match="more than one key: abcdef010"):
        select_key(ring, "abcd")
    for wanted in ("abcdef01", "ABCDEF010", "keys/abcdef01", "abcdef01".ljust(32, "0")):
        assert select_key(ring, wanted).short_id == "abcdef01"
    for wanted in ("", "abc", "keys/", "ffff", "zzzz"):
        with pytest.raises(UsageError, match="there is no key"):
            select_key(ring, wanted)


def test_a_store_that_keeps_what_is_deleted_is_told() -> None:
    repository = made()
    key = add_key(repository, OTHER, ORIGIN)
    keeps = Fault(kind=FaultKind.VANISH, operation=Operation.DELETE)
    faulty = opened(FaultyStore(repository.store, keeps, clock=CLOCK))
    with pytest.raises(Refused, match="did not delete keys/"):
        remove(faulty, OTHER)
    (still,) = [one for one in ring_of(repository).keys if one.state is KeyState.REMOVED]
    assert still.name == key.name
    assert "still there" in still.what
    assert problems(repository, {}) == []
    remove_key(repository, still, [], when=NOW, host="db1")
    assert not opens(repository.store, OTHER)


def test_a_key_object_that_is_put_back_is_told() -> None:
    repository = made()
    key = add_key(repository, OTHER, ORIGIN)
    kept = repository.store.get(key.name)
    remove(repository, OTHER)
    repository.store.put(key.name, kept)
    assert opens(repository.store, OTHER)
    assert [one.name for one in ring_of(repository).keys if one.state is KeyState.REMOVED] == [key.name]


def test_a_damaged_record_of_the_keyring_is_a_problem() -> None:
    repository = made()
    records = {listed.name for listed in repository.store.list("keyring/")}
    add_key(repository, OTHER, ORIGIN)
    (record,) = (listed for listed in repository.store.list("keyring/") if listed.name not in records)
    repository.store.put(record.name, repository.store.get(record.name)[:-1])
    repository.store.put("keyring/nonsense", b"x")
    assert [name for name, _what in problems(repository, {})] == sorted([record.name, "keyring/nonsense"])


def test_a_store_that_gives_back_something_else_is_not_trusted() -> None:
    repository = made()
    flips = Fault(kind=FaultKind.FLIP, operation=Operation.PUT, matches=lambda name: name.startswith("keys/"), bit=3000)
    with pytest.raises(Damaged, match="gave back another key object"):
        add_key(opened(FaultyStore(repository.store, flips, clock=CLOCK)), OTHER, ORIGIN)
    assert opens(repository.store, SECRET)


Sessions = list[tuple[Repository, str]]
"""An open repository, and the secret that is to be removed there."""


class Meeting(MemoryStore):
    """Lets two removals meet between their records and what follows."""

    def __init__(self) -> None:
        super().__init__(clock=CLOCK)
        self.arrive: Callable[[], object] = lambda: None

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        super().put(name, data, if_absent=if_absent)
        if name.startswith("keyring/"):
            self.arrive()


def meet(store: Meeting, barrier: threading.Barrier) -> None:
    barrier.wait(10)
    store.arrive = lambda: None  # what is recorded afterwards waits for nobody


@pytest.mark.parametrize("together", [True, False])
def test_two_who_remove_each_others_key_leave_at_least_one(*, together: bool) -> None:
    """Each has seen that the other key is there; where their records meet, one takes its own back, or both do."""
    for _round in range(10):
        store = Meeting()
        made(store, SECRET, OTHER)
        sessions = [(opened(store, SECRET), OTHER), (opened(store, OTHER), SECRET)]
        goes = [key_of(repository, other) for repository, other in sessions]
        barrier = threading.Barrier(2)
        if together:
            store.arrive = partial(meet, store, barrier)
        done: list[str] = []

        def one(number: int, sessions: Sessions = sessions, goes: list[RingKey] = goes, done: list[str] = done) -> None:
            repository, other = sessions[number]
            ring = ring_of(repository)
            stays = [frozenset(key.name for key in ring.keys if key.opened)]
            try:
                remove_key(repository, goes[number], stays, when=NOW, host="db1")
                done.append(other)
            except Refused:
                pass

        threads = [threading.Thread(target=one, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) <= 1
        assert opens(store, SECRET) or opens(store, OTHER)
        assert not any(opens(store, gone) for gone in done)
        ring = ring_of(opened(store, OTHER if SECRET in done else SECRET))
        assert {key.state for key in ring.keys} == {KeyState.GOOD}
        assert len(ring.keys) == 2 - len(done)


def test_what_was_refused_is_watched_as_before() -> None:
    """The second does all of its removal between the first's record and what the first does next."""
    store = Meeting()
    made(store, SECRET, OTHER)
    first, second = opened(store, SECRET), opened(store, OTHER)
    goes = {secret: key_of(first, secret) for secret in (SECRET, OTHER)}

    def second_goes() -> None:
        store.arrive = lambda: None
        with pytest.raises(Refused, match="stays"):
            remove_key(second, goes[SECRET], [frozenset({goes[OTHER].name})], when=NOW, host="db2")

    store.arrive = second_goes
    remove_key(first, goes[OTHER], [frozenset({goes[SECRET].name})], when=NOW, host="db1")
    left = ring_of(first)
    assert [(key.name, key.state) for key in left.keys] == [(goes[SECRET].name, KeyState.GOOD)]
    assert left.removed == {goes[OTHER].name}
    then = own_key_digests(first)
    add_key(first, RECOVERY, ORIGIN)
    store.delete(goes[SECRET].name)
    ((name, what),) = problems(opened(store, RECOVERY), then)
    assert name == goes[SECRET].name
    assert "is missing" in what


def test_where_none_but_removed_ones_are_left_that_is_a_problem() -> None:
    """Both were cut short after recording: nothing is watched any more, and that is said."""
    store = Meeting()
    repository = made(store, SECRET, OTHER)
    names = sorted(key.name for key in ring_of(repository).keys)
    for secret in (SECRET, OTHER):
        cut = Fault(kind=FaultKind.KILL, operation=Operation.DELETE)
        with pytest.raises(Killed):
            remove_key(
                opened(FaultyStore(store, cut, clock=CLOCK)), key_of_any(store, secret), [], when=NOW, host="db1"
            )
    found = problems(repository, {})
    assert [name for name, _what in found] == names
    assert all("was removed and is still there" in what for _name, what in found)
    add_key(repository, RECOVERY, ORIGIN)
    assert problems(repository, {}) == []


def key_of_any(store: Store, secret: str) -> RingKey:
    return next(key for key in ring_of(opened(store, secret)).keys if key.opened)


def test_a_withdrawal_takes_back_its_own_record_alone_and_in_any_order() -> None:
    store = MemoryStore(clock=CLOCK)
    repository = made(store, SECRET, OTHER)
    (name,) = (key.name for key in ring_of(repository).keys if not key.opened)
    removal = Change(added={}, removed=(name,), when=NOW, host="db1")
    ids = [repository.put_object(Kind.KEYRING, encode_change(removal)).id.hex() for _time in range(2)]
    for known, number in ((KeyState.REMOVED, 0), (KeyState.GOOD, 1)):
        earlier = NOW - timedelta(days=1)  # by a clock that is behind
        back = Change(added={}, removed=(), when=earlier, host="db1", withdrawn=(ids[number],))
        assert decode_change(encode_change(back)) == back
        repository.put_object(Kind.KEYRING, encode_change(back))
        assert next(key for key in ring_of(repository).keys if key.name == name).state is known
    assert ring_of(repository).removed == frozenset()


@pytest.mark.parametrize("strange", [{"withdrawn": "ab"}, {"withdrawn": 1}, {"withdrawn": {}}, {"removed": "keys/ab"}])
def test_a_record_of_another_form_is_not_read(strange: dict[str, object]) -> None:
    plain = {"added": {}, "removed": [], "when": NOW.isoformat(), "host": "db1"}
    assert decode_change(json.dumps(plain).encode()).withdrawn == ()
    with pytest.raises(Damaged):
        decode_change(json.dumps(plain | strange).encode())


# A crash at every call

KINDS = [FaultKind.KILL, FaultKind.KILL_AFTER, FaultKind.FAIL, FaultKind.LOSE_RESPONSE]


def interrupted(work: Callable[[Repository], object], kind: FaultKind, position: int, store: Store) -> bool | None:
    """Whether ``work`` claimed success; ``None`` if it makes less than ``position`` calls."""
    faulty = FaultyStore(store, clock=CLOCK)
    repository = opened(faulty, SECRET)
    before = len(faulty.calls)
    faulty.add(Fault(kind=kind, first=position, times=1))
    try:
        work(repository)
    except (Killed, HoldfastError):
        return False
    return None if len(faulty.calls) < before + position else True


def states(store: Store) -> set[KeyState]:
    return {key.state for key in ring_of(opened(store)).keys}


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("secret", [OTHER, CHOSEN], ids=["made", "chosen"])
def test_adding_killed_at_every_call(kind: FaultKind, secret: str) -> None:
    position = 0
    while True:
        position += 1
        store = MemoryStore(clock=CLOCK)
        then = own_key_digests(made(store))
        claimed = interrupted(lambda repository: add_key(repository, secret, ORIGIN), kind, position, store)
        if claimed is None:
            break
        assert opens(store, SECRET), position
        assert opens(store, RECOVERY), position
        assert not claimed or opens(store, secret), (position, "claimed success")
        assert problems(opened(store), then) == [], (position, "a false alarm")
        if not opens(store, secret):
            add_key(opened(store), secret, ORIGIN)  # the same again goes through
            assert opens(store, secret)
    assert position > 8


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_removing_killed_at_every_call(kind: FaultKind) -> None:
    position, outcomes = 0, set()
    while True:
        position += 1
        store = MemoryStore(clock=CLOCK)
        repository = made(store)
        add_key(repository, OTHER, ORIGIN)
        then = own_key_digests(repository)
        claimed = interrupted(lambda repository: remove(repository, OTHER), kind, position, store)
        if claimed is None:
            break
        gone = not opens(store, OTHER)
        assert opens(store, SECRET), position
        assert opens(store, RECOVERY), position
        assert not claimed or gone, (position, "claimed success")
        assert problems(opened(store), then) == [], (position, "a false alarm")
        outcomes.add((claimed, gone, frozenset(states(store))))
        if not gone:
            ring = ring_of(opened(store))
            other = next(key for key in ring.keys if key.name in opened_by_any(store, OTHER))
            remove_key(opened(store), other, [], when=NOW, host="db1")  # the same again goes through
            assert not opens(store, OTHER), position
    good, begun = frozenset({KeyState.GOOD}), frozenset({KeyState.GOOD, KeyState.REMOVED})
    assert {(False, False, good), (False, False, begun), (False, True, good)} <= outcomes, "the sweep met every stage"


def opened_by_any(store: Store, secret: str) -> set[str]:
    found = opened(store, secret)
    return {key.name for key in ring_of(found).keys if key.opened}


def test_busy_is_no_wrong_passphrase() -> None:
    store = MemoryStore(clock=CLOCK)
    made(store)
    for position in range(1, 4):
        faulty = FaultyStore(store, Fault(kind=FaultKind.FAIL, first=position, times=1), clock=CLOCK)
        with pytest.raises(StoreBusy):
            opened(faulty, OTHER)


def test_opening_with_a_made_secret_never_stretches_a_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many chosen ones there are, the recovery key opens at once and needs no memory."""
    repository = made()
    add_key(repository, CHOSEN, ORIGIN)

    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("stretched")

    monkeypatch.setattr(keys_module, "Argon2id", refuse)
    assert opens(repository.store, RECOVERY)
    assert not opens(repository.store, OTHER)


def test_memory_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    repository = made(None, SECRET)
    add_key(repository, CHOSEN, ORIGIN)

    class Greedy:
        def __init__(self, **_options: object) -> None:
            pass

        def derive(self, _secret: bytes) -> bytes:
            raise MemoryError

    monkeypatch.setattr(keys_module, "Argon2id", Greedy)
    with pytest.raises(HoldfastError, match="takes 64 MiB of memory"):
        opened(repository.store, CHOSEN)
    name = key_of(repository, SECRET).name
    header = json.loads(repository.store.get(next(n for n in key_digests(repository.store) if n != name)))
    header["derivation"]["memory_kib"] = 2**20
    repository.store.put("keys/" + "0" * 32, json.dumps(header).encode())
    with pytest.raises(HoldfastError, match="takes 64 MiB of memory"):
        opened(repository.store, CHOSEN)  # what was planted with a greater demand is passed by


def test_key_objects_from_before_there_was_an_origin_open_and_are_shown() -> None:
    repository = made()
    assert all(key.header and key.header.origin is None for key in ring_of(repository).keys)
