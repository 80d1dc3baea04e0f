"""Inits that race for one place, in every order of their store calls: never two master keys."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.clock import SystemClock
from holdfast.errors import Refused
from holdfast.repository.keys import MadeSecret, SecretKind
from holdfast.repository.opening import create_repository, open_repository
from holdfast.store.memory import MemoryStore
from holdfast.store.port import Bytes, Listed

CLOCK = SystemClock()
SECRETS = [MadeSecret.new(SecretKind.PASSPHRASE) for _number in range(6)]
RECOVERY = MadeSecret.new(SecretKind.RECOVERY)
CALLS = 7
"""Store calls of an init that wins: list, probe, two keys, list, header; and one to spare."""


class Turns:
    """Lets several threads go one store call at a time, in the order of a schedule; then in that of their numbers."""

    def __init__(self, number: int, schedule: Sequence[int]) -> None:
        self._waiting = [*schedule, *(one for one in range(number) for _call in range(100))]
        self._ended: set[int] = set()
        self._change = threading.Condition()
        self.own = threading.local()

    def take(self) -> None:
        """Returns when it is the calling thread's turn, which then ends with its next call, or its end."""
        with self._change:
            assert self._change.wait_for(self._is_mine, timeout=30), "nobody goes on"
            self._waiting.pop(0)
            self._change.notify_all()

    def end(self) -> None:
        with self._change:
            self._ended.add(self.own.number)
            self._change.notify_all()

    def _is_mine(self) -> bool:
        while self._waiting[0] in self._ended:
            self._waiting.pop(0)
        return bool(self._waiting[0] == self.own.number)


class Stepped(MemoryStore):
    """A store that takes one call at a time; without ``exclusive`` it ignores create-if-absent, as rclone's S3 does."""

    def __init__(self, turns: Turns, *, exclusive: bool) -> None:
        super().__init__(clock=CLOCK)
        self._turns = turns
        self._exclusive = exclusive
        self._one = threading.Lock()

    def _step(self) -> None:
        if hasattr(self._turns.own, "number"):
            self._turns.take()

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        self._step()
        super().put(name, data, if_absent=if_absent and self._exclusive)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        self._step()
        return super().get(name, start, length)

    def list(self, prefix: str) -> Iterator[Listed]:
        self._step()
        return super().list(prefix)

    def delete(self, name: str) -> None:
        self._step()
        super().delete(name)

    def exclusive_create(self) -> bool:
        self._step()
        return self._exclusive


def race(number: int, schedule: Sequence[int], *, exclusive: bool) -> int:
    """How many inits won; everything that must hold afterwards is asserted."""
    turns = Turns(number, schedule)
    store = Stepped(turns, exclusive=exclusive)
    won: dict[int, str] = {}
    lost: list[Refused] = []
    failed: list[BaseException] = []

    def init(me: int) -> None:
        turns.own.number = me
        try:
            secrets = [(SECRETS[me], SecretKind.PASSPHRASE), (RECOVERY, SecretKind.RECOVERY)]
            won[me] = create_repository(store, secrets, clock=CLOCK).key_id
        except Refused as error:
            lost.append(error)
        except BaseException as error:  # noqa: BLE001  shown by the test's own thread
            failed.append(error)
        finally:
            turns.end()

    threads = [threading.Thread(target=init, args=(me,)) for me in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    assert len(won) <= 1, "never two master keys"
    assert len(lost) == number - len(won)
    for error in lost:
        assert error.exit_code == 6
        assert "memory://test" in str(error)
        assert "init" in error.hint or "its own passphrase" in error.hint
    if won:
        ((winner, key),) = won.items()
        for secret in (SECRETS[winner], RECOVERY):
            assert open_repository(store, secret, pin=None, clock=CLOCK).key_id == key
        assert len(list(store.list("keys/"))) == 2, "whoever withdrew took its keys along"
    else:
        assert not exclusive, "where the store decides, somebody wins"
        assert not list(store.list("")), "whoever withdrew took its keys along, so that the next init goes through"
    return len(won)


@pytest.mark.parametrize("exclusive", [False, True])
def test_two_in_every_order(*, exclusive: bool) -> None:
    outcomes = {
        race(2, [0 if call in zeros else 1 for call in range(2 * CALLS)], exclusive=exclusive)
        for zeros in combinations(range(2 * CALLS), CALLS)
    }
    assert outcomes == ({1} if exclusive else {0, 1})


@pytest.mark.parametrize("exclusive", [False, True])
@settings(max_examples=300)
@given(schedule=st.lists(st.integers(0, 5), max_size=6 * CALLS), number=st.integers(3, 6))
def test_many_in_any_order(*, exclusive: bool, schedule: list[int], number: int) -> None:
    race(number, [one % number for one in schedule], exclusive=exclusive)
