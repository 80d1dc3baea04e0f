"""A reader beside a receiver at work: whatever happens between any two of its calls, or in the middle of a listing,
what was durable before it began is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from holdfast.clock import SystemClock
from holdfast.repository.keys import Keys
from holdfast.repository.repository import Repository
from holdfast.repository.wal.checking import verify_wal
from holdfast.repository.wal.reading import WalReader
from holdfast.store.memory import MemoryStore
from holdfast.store.port import Listed
from tests.repository.making import new_repository
from tests.repository.wal.making import STREAM, Streamer, bytes_held, segment

CLOCK = SystemClock()
KEYS: Keys = new_repository().keys


class Meanwhile(MemoryStore):
    """Does something at one moment: before a call, or between two names of a listing. A listing is as bad as the port
    allows: it shows nothing that was put since it began, and nothing that is deleted before its turn."""

    def __init__(self) -> None:
        super().__init__(clock=CLOCK)
        self.moment = -1
        self.moments = 0
        self.action: Callable[[], object] = lambda: None

    def pass_(self) -> None:
        self.moments += 1
        if self.moments - 1 == self.moment:
            self.action()

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        self.pass_()
        return super().get(name, start, length)

    def list(self, prefix: str) -> Iterator[Listed]:
        self.pass_()
        for listed in sorted(super().list(prefix), key=lambda one: one.name, reverse=True):
            self.pass_()
            if any(one.name == listed.name for one in super().list(prefix)):
                yield listed


class Receiver:
    def __init__(self, store: MemoryStore) -> None:
        self.server = Streamer(Repository(store, KEYS, clock=CLOCK))
        self.server.begin()
        self.server.whole(0)
        self.tails = [self.server.tail(1, start, start + 100) for start in range(0, 500, 100)]

    def merge(self) -> None:
        merged = self.server.tail(1, 0, 500)
        self.server.writer.remove_tails(self.tails)
        self.tails = [merged]

    def finish(self) -> None:
        self.server.whole(1)
        self.server.writer.remove_tails(self.tails)
        self.server.tail(2, 0, 100)

    def both(self) -> None:
        self.merge()
        self.finish()

    def summarise(self) -> None:
        assert self.server.writer.summarise(1, 0, final=True)


@pytest.mark.parametrize("action", [Receiver.merge, Receiver.finish, Receiver.both, Receiver.summarise])
@pytest.mark.parametrize("known", [False, True])
def test_every_moment(action: Callable[[Receiver], None], known: bool) -> None:
    """``known``: by a reader that looked before, and remembers what tails say of themselves."""
    moment = moments = 0
    while moment <= moments:
        store = Meanwhile()
        receiver = Receiver(store)
        repository = Repository(store, KEYS, clock=CLOCK)
        reader = WalReader(repository, workers=1)
        if known:
            reader.held(STREAM)
        store.moments, store.moment, store.action = 0, moment, lambda now=receiver: action(now)  # type: ignore[misc]
        held = reader.held(STREAM)
        moments, store.moment = max(store.moments, moments), -1
        assert held.problems == ()
        assert held.conflicts == ()
        found = bytes_held(repository, held)
        assert found[1, 0] == segment(0), moment
        assert len(found.get((1, 1), b"")) >= 500, moment
        for (_timeline, number), content in found.items():
            assert content == segment(number)[: len(content)], moment
        moment += 1
    assert moments > 20


@pytest.mark.parametrize("action", [Receiver.merge, Receiver.finish, Receiver.both, Receiver.summarise])
def test_verifying_beside_it(action: Callable[[Receiver], None]) -> None:
    moment = moments = 0
    while moment <= moments:
        store = Meanwhile()
        receiver = Receiver(store)
        store.moments, store.moment, store.action = 0, moment, lambda now=receiver: action(now)  # type: ignore[misc]
        found = verify_wal(Repository(store, KEYS, clock=CLOCK), workers=1)
        moments = max(store.moments, moments)
        assert found.problems == (), moment
        assert found.segments >= 1
        moment += 1
    assert moments > 30
