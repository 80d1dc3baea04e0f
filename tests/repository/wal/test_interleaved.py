"""Two writers of one server's WAL, each with cuts of its own, at the same time: all that was put is held, once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.clock import SystemClock
from holdfast.repository.keys import Keys
from holdfast.repository.repository import Repository
from holdfast.repository.wal.reading import WalReader
from holdfast.store.memory import MemoryStore
from tests.repository.making import new_repository
from tests.repository.wal.making import SIZE, STREAM, Streamer, bytes_held, segment

CLOCK = SystemClock()
KEYS: Keys = new_repository().keys


class Side:
    def __init__(self, repository: Repository) -> None:
        self.server = Streamer(repository)
        self.tails: dict[int, list[tuple[str, int, int]]] = {}
        self.whole: set[int] = set()

    def reach(self, number: int) -> int:
        return (
            SIZE
            if number in self.whole
            else max((stop for _name, _start, stop in self.tails.get(number, ())), default=0)
        )

    def tail(self, number: int, length: int) -> None:
        """The next bytes; with a length of 0 that the clock went on."""
        if number not in self.whole:
            start = self.reach(number)
            name = self.server.tail(number, start, start + length, seconds=start + number)
            self.tails.setdefault(number, []).append((name, start, start + length))

    def merge(self, number: int, _length: int) -> None:
        tails = self.tails.get(number, [])
        if number not in self.whole and self.reach(number):
            merged = self.server.tail(number, 0, self.reach(number))
            self.server.writer.remove_tails([name for name, _start, _stop in tails if name != merged])
            self.tails[number] = [(merged, 0, self.reach(number))]

    def segment(self, number: int, _length: int) -> None:
        self.server.whole(number)
        self.whole.add(number)
        self.server.writer.remove_tails([name for name, _start, _stop in self.tails.pop(number, [])])

    def summarise(self, _number: int, _length: int) -> None:
        self.server.writer.summarise(1, 0, final=True)


ACTIONS = {"tail": Side.tail, "merge": Side.merge, "segment": Side.segment, "summarise": Side.summarise}
STEPS = st.tuples(
    st.sampled_from(["tail", "tail", "tail", "tail", "merge", "segment", "summarise"]),
    st.integers(0, 1),
    st.integers(0, 2),
    st.integers(0, 40),
)


@settings(max_examples=60)
@given(st.lists(STEPS, max_size=30))
def test_all_that_was_put_is_held(steps: list[tuple[str, int, int, int]]) -> None:
    repository = Repository(MemoryStore(clock=CLOCK), KEYS, clock=CLOCK)
    sides = (Side(repository), Side(repository))
    sides[0].server.begin()
    watching = WalReader(repository)
    for action, side, number, length in steps:
        ACTIONS[action](sides[side], number, length)
        if action != "tail":
            assert not watching.held(STREAM).conflicts
    expected = {}
    for number in range(3):
        reach = max(side.reach(number) for side in sides)
        if reach or any(side.tails.get(number) for side in sides):
            expected[1, number] = segment(number)[:reach]
    for reader in (watching, WalReader(repository)):
        held = reader.held(STREAM)
        assert not held.conflicts
        assert not held.problems
        assert bytes_held(repository, held) == expected
