"""A writer killed, or failed, at any of its store calls: what was acknowledged is there for every reader."""

from __future__ import annotations

from contextlib import suppress

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import StoreBusy
from holdfast.repository.keys import Keys
from holdfast.repository.repository import Repository
from holdfast.repository.wal import summaries
from holdfast.repository.wal.checking import verify_wal
from holdfast.store.faulty import Fault, FaultKind, FaultyStore, Killed
from holdfast.store.memory import MemoryStore
from tests.repository.making import new_repository
from tests.repository.wal.making import SIZE, Streamer, bytes_held, segment

CLOCK = SystemClock()
HISTORY = b"1\t0/300000\tno recovery target specified\n"
KEYS: Keys = new_repository().keys


class Receiver:
    """Does what a receiver does, and notes what it may have told the server."""

    def __init__(self, repository: Repository) -> None:
        self.server = Streamer(repository)
        self.promoted = Streamer(repository, timeline=2)
        self.acknowledged: dict[tuple[int, int], int] = {}
        self.has_history = False

    def run(self) -> None:
        self.server.begin()
        for number in range(3):
            self.stream(self.server, number)
            self.summarise(self.server)
        self.has_history = self.promoted.writer.put_file("00000002.history", HISTORY)
        self.promoted.begin(2, why="timeline")
        self.stream(self.promoted, 2)
        self.summarise(self.promoted)
        self.tail(self.promoted, 3, 0, 500)

    def stream(self, server: Streamer, number: int) -> None:
        """Tails, merged on the way; then the whole segment in their place; then they go."""
        tails = [self.tail(server, number, start, start + 100) for start in range(0, 400, 100)]
        merged = self.tail(server, number, 0, 400)
        server.writer.remove_tails(tails)
        tails = [merged, self.tail(server, number, 400, 900), self.tail(server, number, 900, 900)]
        server.whole(number)
        self.acknowledged[server.timeline, number] = SIZE
        server.writer.remove_tails(tails)

    def tail(self, server: Streamer, number: int, start: int, stop: int) -> str:
        name = server.tail(number, start, stop, seconds=number * 10 + stop)
        place = server.timeline, number
        self.acknowledged[place] = max(self.acknowledged.get(place, 0), stop)
        return name

    def summarise(self, server: Streamer) -> None:
        server.writer.summarise(server.timeline, 0, final=True)


def calls() -> int:
    store = FaultyStore(MemoryStore(clock=CLOCK), clock=CLOCK)
    Receiver(Repository(store, KEYS, clock=CLOCK)).run()
    return len(store.calls)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merging begins with the third summary."""
    monkeypatch.setattr(summaries, "SMALL_SUMMARIES", 2)


@pytest.mark.parametrize(
    "kind", [FaultKind.KILL, FaultKind.KILL_AFTER, FaultKind.FAIL, FaultKind.LOSE_RESPONSE], ids=str
)
def test_every_call_position(kind: FaultKind) -> None:
    merged = False
    for position in range(1, calls() + 1):
        store = MemoryStore(clock=CLOCK)
        faulty = FaultyStore(store, Fault(kind=kind, first=position, times=1), clock=CLOCK)
        receiver = Receiver(Repository(faulty, KEYS, clock=CLOCK))
        with suppress(Killed, StoreBusy):
            receiver.run()
        merged |= any(call.operation == "delete" and call.name.startswith("spans/") for call in faulty.calls)
        check(Repository(store, KEYS, clock=CLOCK), receiver, f"{kind} at {position}")
        again = Receiver(Repository(store, KEYS, clock=CLOCK))
        again.run()
        check(Repository(store, KEYS, clock=CLOCK), again, f"{kind} at {position}, and done again")
    assert merged, "merging of summaries is among what was interrupted"


def check(repository: Repository, receiver: Receiver, where: str) -> None:
    held = bytes_held(repository)
    for (timeline, number), stop in receiver.acknowledged.items():
        assert held.get((timeline, number), b"")[:stop] == segment(number, timeline=timeline)[:stop], where
    for (timeline, number), content in held.items():
        assert content == segment(number, timeline=timeline)[: len(content)], where
    found = verify_wal(repository)
    wrong = [problem for problem in found.problems if receiver.has_history or "history" not in problem.what]
    assert not wrong, where
