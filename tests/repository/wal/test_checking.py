"""What verifying finds in WAL, and what it leaves in peace."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import Damaged
from holdfast.repository.repository import Repository
from holdfast.repository.verify import verify_repository
from holdfast.repository.wal.checking import WalVerification, verify_wal
from holdfast.repository.wal.continuity import WalGap
from holdfast.repository.wal.held import Held, HeldSegment
from holdfast.store.memory import MemoryStore
from tests.repository.making import new_repository
from tests.repository.wal.making import SIZE, STREAM, Streamer, segment

CLOCK = SystemClock()


class World:
    """Two timelines, tails, a history and a ``.backup`` file, a summary."""

    def __init__(self) -> None:
        self.store = MemoryStore(clock=CLOCK)
        self.repository: Repository = new_repository(self.store)
        self.server, self.promoted = Streamer(self.repository), Streamer(self.repository, timeline=2)
        self.server.begin()
        self.segments = [name for number in range(3) for name in self.server.whole(number)]
        assert self.server.writer.summarise(1, 0, final=True)
        self.tails = [self.server.tail(3, start, start + 100) for start in range(0, 300, 100)]
        self.server.writer.put_file("000000010000000000000001.00000028.backup", b"START")
        self.promoted.writer.put_file("00000002.history", b"1\t0/300000\twhy\n")
        self.promoted.begin(3, why="timeline")
        self.promoted.whole(3)

    def verify(self, *, quick: bool = False) -> WalVerification:
        return verify_wal(self.repository, quick=quick)

    def wrong(self, *, quick: bool = False) -> list[str]:
        return [problem.name for problem in self.verify(quick=quick).problems]

    def spoil(self, name: str, at: int = -1) -> None:
        data = bytearray(self.store.get(name))
        data[at] ^= 1
        self.store.put(name, bytes(data))

    def the(self, prefix: str) -> str:
        return sorted(listed.name for listed in self.store.list(prefix))[0]


@pytest.fixture
def world() -> World:
    return World()


def test_all_is_well(world: World) -> None:
    found = world.verify()
    assert found.problems == ()
    assert found.segments == 4
    assert found.content == 4 * SIZE + 300
    everything = [one for prefix in ("wal/", "tails/", "walfiles/") for one in world.store.list(prefix)]
    assert found.read == sum(listed.size for listed in everything)
    assert found.objects == len(everything) + 3
    (stream,) = found.streams
    assert stream.gaps == ()
    quick = world.verify(quick=True)
    assert (quick.problems, quick.segments, quick.read) == ((), 4, 0)


def test_nothing() -> None:
    assert verify_wal(new_repository()) == WalVerification()


def test_each_object_counts(world: World) -> None:
    for prefix in ("wal/", "tails/", "walfiles/", "streams/", "spans/"):
        for listed in list(world.store.list(prefix)):
            sound = world.store.get(listed.name)
            for at in (5, 60, listed.size - 1):
                world.spoil(listed.name, at)
                assert listed.name in world.wrong(), (listed.name, at)
                world.store.put(listed.name, sound)
    assert world.wrong() == []


def test_what_is_missing_is_noticed(world: World) -> None:
    for quick in (False, True):
        for name in world.segments[:1] + world.tails[:1]:
            sound = world.store.get(name)
            world.store.delete(name)
            assert world.wrong(quick=quick), name
            world.store.put(name, sound)
    assert world.wrong() == []


def test_a_missing_history(world: World) -> None:
    world.store.delete(world.the("walfiles/" + world.the("wal/").split("/")[1] + "/00000002.history/"))
    for quick in (False, True):
        (problem,) = world.verify(quick=quick).problems
        assert "00000002.history" in problem.what


def test_a_damaged_tail_that_its_segment_replaced(world: World) -> None:
    sound = world.store.get(world.tails[1])
    world.spoil(world.tails[1])
    assert world.wrong() == [world.tails[1]]
    world.store.put(world.tails[1], sound)
    world.spoil(world.tails[1], 60)
    assert world.wrong() == [world.tails[1], world.tails[2]], "what follows it does not join any more"
    world.server.whole(3)
    assert world.wrong() == []


def test_a_tail_of_other_bytes_beside_its_segment(world: World) -> None:
    clone = Streamer(world.repository, seed=1)
    other = clone.tail(0, 0, 70)
    assert world.wrong(quick=True) == []
    assert world.wrong() == [other]


def test_two_contents(world: World) -> None:
    (other,) = Streamer(world.repository, seed=1).whole(1)
    assert world.wrong() == sorted([other, world.segments[1]])
    assert world.wrong(quick=True) == sorted([other, world.segments[1]])


def test_gaps_are_facts(world: World) -> None:
    world.server.begin(10, why="gap")
    world.server.whole(10)
    world.server.whole(12)
    found = world.verify()
    assert found.problems == ()
    assert found.streams[0].gaps == (
        WalGap(timeline=1, start=3 * SIZE + 300, stop=10 * SIZE, is_recorded=True),
        WalGap(timeline=1, start=11 * SIZE, stop=12 * SIZE, is_recorded=False),
    )


def test_a_first_segment_that_is_gone(world: World) -> None:
    """Of a timeline without a summary: where it begins is on record."""
    world.promoted.whole(4)
    world.store.delete(next(one.name for one in world.store.list("wal/") if "/00000002/" in one.name))
    found = world.verify()
    assert found.streams[0].gaps == (WalGap(timeline=2, start=3 * SIZE, stop=4 * SIZE, is_recorded=False),)


def test_each_piece_is_read_though_one_is_damaged(world: World) -> None:
    world.spoil(world.tails[0])
    world.spoil(world.tails[2])
    assert world.wrong() == [world.tails[0], world.tails[2]]


def test_wal_that_no_record_leads_to(world: World) -> None:
    (name,) = world.server.whole(5000)
    assert world.wrong() == world.wrong(quick=True) == [name]
    world.server.begin(5000, why="gap")
    assert world.wrong() == []


def test_a_stream_without_any_beginning(world: World) -> None:
    for listed in list(world.store.list("streams/")):
        world.store.delete(listed.name)
    (problem,) = world.verify().problems
    assert problem.name.startswith("streams/")


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name + "0",
        lambda name: name.replace("-0010", "-001f"),
        lambda name: name.replace("wal/", "wal/x"),
        lambda name: name.replace("/00000000000000/", "/00000000000001/"),
    ],
)
def test_strange_names(world: World, change: Callable[[str], str]) -> None:
    name = change(world.segments[0])
    assert name != world.segments[0]
    world.store.put(name, world.store.get(world.segments[0]))
    assert world.wrong() == [name]
    assert world.wrong(quick=True) == [name]


def test_pages_are_looked_at(world: World) -> None:
    seen = {}

    def look(held: Held, one: HeldSegment, blocks: Iterator[bytes]) -> None:
        assert held.stream == STREAM
        content = b"".join(blocks)
        seen[one.timeline, one.number] = content
        if one.number == 1:
            raise Damaged("page 7 is none")

    found = verify_wal(world.repository, check_pages=look)
    assert seen[1, 0] == segment(0)
    assert seen[1, 3] == segment(3)[:300]
    assert seen[2, 3] == segment(3, timeline=2)
    assert [(problem.name, problem.what) for problem in found.problems] == [(world.segments[1], "page 7 is none")]

    def look_away(_held: Held, _one: HeldSegment, blocks: Iterator[bytes]) -> None:
        next(blocks)
        raise Damaged("enough")

    world.spoil(world.segments[0])
    found = verify_wal(world.repository, check_pages=look_away)
    assert len([problem for problem in found.problems if problem.what == "enough"]) == 4
    assert len(found.problems) == 5, "a look that gave up hides no damage"


def test_it_is_part_of_verifying_a_repository(world: World) -> None:
    found = verify_repository(world.repository)
    assert found.good
    assert found.wal == world.verify()
    assert found.read == found.wal.read
    world.spoil(world.segments[0])
    found = verify_repository(world.repository)
    assert not found.good
    assert [problem.name for problem in found.problems] == [world.segments[0]]


def test_a_repository_of_wal_alone_is_none_to_init_over(world: World) -> None:
    from holdfast.errors import Refused
    from holdfast.repository.keys import SecretKind
    from holdfast.repository.opening import create_repository
    from tests.repository.making import SECRET

    bare = MemoryStore(clock=CLOCK)
    bare.put(world.tails[0], world.store.get(world.tails[0]))
    with pytest.raises(Refused, match="there is a repository"):
        create_repository(bare, [(SECRET, SecretKind.PASSPHRASE)], clock=CLOCK)
