"""What is held, as a reader finds it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import Damaged, ObjectMissing, Refused
from holdfast.repository.objects import Kind
from holdfast.repository.repository import Repository
from holdfast.repository.wal.held import HeldSegment
from holdfast.repository.wal.pieces import Running, Stream
from holdfast.repository.wal.reading import WalReader
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind, FaultyStore
from holdfast.store.memory import MemoryStore
from tests.repository.making import new_repository
from tests.repository.wal.making import SIZE, STREAM, Streamer, begin, bytes_held, clock, segment

CLOCK = SystemClock()


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryStore(clock=CLOCK), clock=CLOCK)


@pytest.fixture
def repository(store: FaultyStore) -> Repository:
    return new_repository(store)


def reached(segment: HeldSegment) -> tuple[int, int, int]:
    return segment.timeline, segment.number, segment.stop


def test_nothing(repository: Repository) -> None:
    reader = WalReader(repository)
    assert reader.streams("tracker") == ()
    held = reader.held(STREAM)
    assert (held.segments, held.begins, held.problems) == ((), (), ())
    assert reader.whole(STREAM, 1, 3) is None
    assert reader.file(STREAM, "00000002.history") is None


def test_segments_and_a_tail(repository: Repository) -> None:
    server = Streamer(repository)
    server.begin(5)
    server.whole(5, seconds=1)
    server.tail(6, 0, 1000, seconds=2)
    server.tail(6, 1000, 5000, seconds=3)
    server.tail(6, 5000, 5000, seconds=60)
    server.tail(6, 5000, 5000, seconds=120)
    reader = WalReader(repository)
    assert reader.streams("tracker") == reader.streams() == (STREAM,)
    assert reader.streams("other") == ()
    held = reader.held(STREAM)
    assert held.segment_size == SIZE
    assert held.begins == (begin(5),)
    assert [reached(one) for one in held.segments] == [(1, 5, SIZE), (1, 6, 5000)]
    assert held.segments[1].pieces[-1].clock == clock(120), "the newest of those without bytes"
    assert [piece.stop for piece in held.segments[1].pieces] == [1000, 5000, 5000]
    assert held.segments[0].pieces[0].facts == {"s": 5 * SIZE, "e": 6 * SIZE}
    assert bytes_held(repository, held) == {(1, 5): segment(5), (1, 6): segment(6)[:5000]}
    assert (held.conflicts, held.problems) == ((), ())


def test_a_clock_alone_in_a_new_segment(repository: Repository) -> None:
    server = Streamer(repository)
    server.begin(0)
    server.whole(0)
    server.tail(1, 0, 0, seconds=9)
    held = WalReader(repository).held(STREAM)
    assert [reached(one) for one in held.segments] == [(1, 0, SIZE), (1, 1, 0)]
    assert held.segments[1].pieces[0].clock == clock(9)
    assert held.segments[1].digest == Running(repository.ids).digest()


def test_parts_of_a_segment(repository: Repository) -> None:
    server = Streamer(repository)
    server.begin()
    for start, stop in ((0, 10), (10, 5000), (5000, 9000)):
        server.tail(0, start, stop)
    reader = WalReader(repository)
    (held,) = reader.held(STREAM).segments
    content = segment(0)
    for start, stop in ((0, 9000), (0, 1), (9, 11), (10, 5000), (4999, 9000), (8999, 9000), (9000, 9000), (7, 7)):
        assert b"".join(reader.content(STREAM, held, start=start, stop=stop)) == content[start:stop], (start, stop)
    assert b"".join(reader.content(STREAM, held, start=5000, stop=SIZE)) == content[5000:9000], "nothing is padded"


def test_large_segments_are_several_pieces() -> None:
    size = 128 * 2**20
    repository = new_repository()
    server = Streamer(repository, size=size)
    server.begin()
    assert len(server.whole(0)) == 2
    reader = WalReader(repository)
    (held,) = reader.held(STREAM).segments
    assert [(piece.start, piece.stop) for piece in held.pieces] == [(0, size // 2), (size // 2, size)]
    running = Running(repository.ids)
    for block in reader.content(STREAM, held):
        running.feed(block)
    assert running.digest() == held.digest
    found = reader.whole(STREAM, 1, 0)
    assert found == held
    repository.store.delete(held.pieces[1].name)
    assert reader.whole(STREAM, 1, 0) is None
    assert [reached(one) for one in reader.held(STREAM).segments] == [(1, 0, size // 2)]
    server.tail(0, size // 2, size // 2 + 100)
    assert [reached(one) for one in reader.held(STREAM).segments] == [(1, 0, size // 2 + 100)]


def test_what_does_not_join_is_not_held(repository: Repository) -> None:
    server = Streamer(repository)
    server.begin()
    server.tail(0, 0, 100)
    server.tail(0, 200, 300)
    server.tail(1, 5, 10)
    assert [reached(one) for one in WalReader(repository).held(STREAM).segments] == [(1, 0, 100)]


def test_timelines_gaps_and_far_spans(repository: Repository) -> None:
    server, promoted = Streamer(repository), Streamer(repository, timeline=2)
    server.begin(255)
    for number in (255, 256):
        server.whole(number)
    server.begin(9000, why="gap")
    server.whole(9000)
    promoted.begin(9000, why="timeline")
    promoted.whole(9000)
    promoted.writer.put_file("00000002.history", b"1\t0/9000060\tno recovery target specified\n")
    promoted.writer.put_file("000000010000000000000003.00000028.backup", b"START WAL LOCATION")
    promoted.writer.put_file("000000010000000000000003.partial", b"partial")
    held = WalReader(repository).held(STREAM)
    assert [reached(one)[:2] for one in held.segments] == [(1, 255), (1, 256), (1, 9000), (2, 9000)]
    assert held.histories == {2: b"1\t0/9000060\tno recovery target specified\n"}
    assert [(file.file, file.size) for file in held.files] == [
        ("000000010000000000000003.partial", 7),
        ("00000002.history", 41),
    ]
    assert bytes_held(repository)[2, 9000] == segment(9000, timeline=2)


def test_streams_do_not_mix(repository: Repository) -> None:
    other = Stream(source="tracker", system_identifier=1)
    same_server = Stream(source="other", system_identifier=STREAM.system_identifier)
    for stream, seed in ((STREAM, 0), (other, 1), (same_server, 2)):
        server = Streamer(repository, stream=stream, seed=seed)
        server.begin()
        server.whole(0)
    reader = WalReader(repository)
    assert set(reader.streams("tracker")) == {STREAM, other}
    assert reader.streams("other") == (same_server,)
    for stream, seed in ((STREAM, 0), (other, 1), (same_server, 2)):
        assert bytes_held(repository, stream=stream) == {(1, 0): segment(0, seed=seed)}


def test_the_same_bytes_of_two_writers_are_one_object(repository: Repository, store: FaultyStore) -> None:
    one, two = Streamer(repository), Streamer(repository)
    one.begin()
    assert one.whole(0, seconds=1) == two.whole(0, seconds=2)
    assert one.tail(1, 0, 50, seconds=1) == two.tail(1, 0, 50, seconds=2)
    assert len(list(store.list("wal/"))) == len(list(store.list("tails/"))) == 1
    assert bytes_held(repository) == {(1, 0): segment(0), (1, 1): segment(1)[:50]}


def test_two_contents_of_a_segment_are_a_conflict(repository: Repository) -> None:
    server, clone = Streamer(repository), Streamer(repository, seed=1)
    server.begin()
    names = sorted([*server.whole(0), *clone.whole(0)])
    server.whole(1)
    reader = WalReader(repository)
    held = reader.held(STREAM)
    assert [reached(one)[1] for one in held.segments] == [1]
    assert [(one.number, list(one.names)) for one in held.conflicts] == [(0, names)]
    with pytest.raises(Refused) as refused:
        reader.whole(STREAM, 1, 0)
    assert all(name in str(refused.value) for name in names)


def test_two_tails_that_differ_are_a_conflict(repository: Repository) -> None:
    server, clone = Streamer(repository), Streamer(repository, seed=1)
    server.begin()
    server.tail(0, 0, 100)
    server.tail(0, 100, 300)
    clone.tail(0, 0, 250)
    held = WalReader(repository).held(STREAM)
    assert held.segments == ()
    assert [one.number for one in held.conflicts] == [0]


def test_tails_cut_otherwise_are_none(repository: Repository, store: FaultyStore) -> None:
    """Two receivers of one server: the bytes tell that the longer chain contains the shorter one."""
    server, other = Streamer(repository), Streamer(repository)
    server.begin()
    server.tail(0, 0, 100)
    server.tail(0, 100, 300)
    other.tail(0, 0, 250)
    reader = WalReader(repository)
    for _again in range(2):
        held = reader.held(STREAM)
        assert [reached(one) for one in held.segments] == [(1, 0, 300)]
        assert held.conflicts == ()
    whole = [call for call in store.calls if call.operation == "get" and call.size == -1 and call.name[:5] == "tails"]
    assert len(whole) == 2, "read once"


def test_two_contents_of_a_history_are_a_conflict(repository: Repository) -> None:
    server = Streamer(repository)
    server.begin()
    assert server.writer.put_file("00000002.history", b"one")
    assert not server.writer.put_file("00000002.history", b"one")
    with pytest.raises(Refused, match=r"00000002\.history") as refused:
        server.writer.put_file("00000002.history", b"two")
    assert str(refused.value).count("walfiles/") == 2
    assert WalReader(repository).held(STREAM).histories == {2: b"one"}
    elsewhere = new_repository()
    other = Streamer(elsewhere)
    other.writer.put_file("00000002.history", b"two")
    taken = Streamer(Repository(elsewhere.store, repository.keys, clock=CLOCK))
    taken.writer.put_file("00000002.history", b"two")
    for listed in list(elsewhere.store.list("walfiles/")):  # beside the first, as two machines at once would
        repository.store.put(listed.name, elsewhere.store.get(listed.name))
    held = WalReader(repository).held(STREAM)
    assert held.histories == {}
    assert [(one.timeline, one.file, len(one.names)) for one in held.conflicts] == [(2, "00000002.history", 2)]
    with pytest.raises(Refused):
        WalReader(repository).file(STREAM, "00000002.history")


def test_a_history_that_is_damaged_is_put_again(repository: Repository) -> None:
    server = Streamer(repository)
    server.begin()
    server.writer.put_file("00000002.history", b"one")
    (listed,) = repository.store.list("walfiles/")
    repository.store.put(listed.name, repository.store.get(listed.name)[:-1])
    assert WalReader(repository).held(STREAM).problems
    with pytest.raises(Damaged):
        WalReader(repository).file(STREAM, "00000002.history")
    assert server.writer.put_file("00000002.history", b"one")
    assert WalReader(repository).file(STREAM, "00000002.history") == b"one"


def test_known_pieces_are_not_opened_again(repository: Repository, store: FaultyStore) -> None:
    server = Streamer(repository)
    server.begin()
    for number in range(5):
        server.whole(number)
    server.tail(5, 0, 10)
    reader = WalReader(repository)
    first = reader.held(STREAM)
    opened = sum(1 for call in store.calls if call.operation == "get")
    assert reader.held(STREAM) == first
    server.tail(5, 10, 20)
    assert reader.held(STREAM).segments[-1].stop == 20
    assert sum(1 for call in store.calls if call.operation == "get") == opened + 1


def test_short_ranges_tell_what_a_piece_is(repository: Repository, store: FaultyStore) -> None:
    server = Streamer(repository)
    server.begin()
    server.whole(0)
    before = len(store.calls)
    WalReader(repository).held(STREAM)
    gets = [call.size for call in store.calls[before:] if call.operation == "get" and call.name.startswith("wal/")]
    assert gets == [8192]


def test_many_facts_take_a_second_range(repository: Repository) -> None:
    server = Streamer(repository)
    server.begin()
    facts = {"events": [[number, "name " + str(number * 7919)] for number in range(5000)]}
    server.writer.put(replace(server.piece(0, 0, 10), facts=facts), segment(0)[:10], tail=True)
    (held,) = WalReader(repository).held(STREAM).segments
    assert held.pieces[0].facts == facts


def test_a_tail_that_was_replaced_while_it_was_read(repository: Repository) -> None:
    """Merged first, then the whole segment: the reading goes on where it was."""
    server = Streamer(repository)
    server.begin()
    tails = [server.tail(0, start, start + 1000) for start in range(0, 5000, 1000)]
    reader = WalReader(repository)
    (held,) = reader.held(STREAM).segments
    reading = reader.content(STREAM, held)
    got = next(reading)
    server.tail(0, 0, 4000)
    server.writer.remove_tails(tails[:4])
    got += next(reading)
    server.whole(0)
    server.writer.remove_tails([tails[4], *(one.name for one in repository.store.list("tails/"))])
    got += b"".join(reading)
    assert got == segment(0)[:5000]
    assert not list(repository.store.list("tails/"))


def test_a_tail_that_went_and_was_replaced_by_other_bytes(repository: Repository) -> None:
    server, clone = Streamer(repository), Streamer(repository, seed=1)
    server.begin()
    tails = [server.tail(0, 0, 1000), server.tail(0, 1000, 2000)]
    reader = WalReader(repository)
    (held,) = reader.held(STREAM).segments
    server.writer.remove_tails(tails)
    with pytest.raises(ObjectMissing):
        list(reader.content(STREAM, held))
    clone.whole(0)
    with pytest.raises(Damaged, match="does not go on"):
        list(reader.content(STREAM, held))


def test_present(repository: Repository) -> None:
    server = Streamer(repository)
    server.begin()
    names = [name for number in range(3) for name in server.whole(number)]
    tail = server.tail(3, 0, 100)
    reader = WalReader(repository)
    held = reader.held(STREAM).segments
    assert reader.present(STREAM, held) == {(1, 0), (1, 1), (1, 2), (1, 3)}
    repository.store.delete(names[1])
    repository.store.delete(tail)
    assert reader.present(STREAM, held) == {(1, 0), (1, 2)}
    server.whole(3)
    assert reader.present(STREAM, held) == {(1, 0), (1, 2), (1, 3)}, "replaced by the whole segment"


def test_what_cannot_be_read_is_a_problem(repository: Repository, store: FaultyStore) -> None:
    server = Streamer(repository)
    server.begin()
    (name,) = server.whole(0)
    server.whole(1)
    tail = server.tail(2, 0, 10)
    for one in (name, tail):
        repository.store.put(one, store.get(one).replace(b"HOLDFAST", b"HOLDFASS"))
    held = WalReader(repository).held(STREAM)
    assert [one.number for one in held.segments] == [1]
    assert [problem.partition(":")[0] for problem in held.problems] == sorted([name, tail])
    server.whole(2)
    assert [problem.partition(":")[0] for problem in WalReader(repository).held(STREAM).problems] == [name], (
        "superseded"
    )


def test_an_object_under_the_name_of_another(repository: Repository, store: FaultyStore) -> None:
    server = Streamer(repository)
    server.begin()
    (one,), (two,) = server.whole(0), server.whole(1)
    store.put(one, store.get(two))
    held = WalReader(repository).held(STREAM)
    assert [segment.number for segment in held.segments] == [1]
    assert len(held.problems) == 1


def test_bytes_that_do_not_have_their_digest(repository: Repository) -> None:
    """Sealed by somebody with the key, and no care: neither a segment nor a tail is taken at its word."""
    server = Streamer(repository)
    server.begin()
    server.writer.put(server.piece(0, 0, SIZE), segment(1), tail=False)
    server.tail(1, 0, 10)
    server.writer.put(server.piece(1, 10, 60), segment(2)[10:60], tail=True)
    reader = WalReader(repository)
    whole, tails = reader.held(STREAM).segments
    with pytest.raises(Damaged, match="its digest"):
        list(reader.content(STREAM, whole))
    reading = reader.content(STREAM, tails)
    assert next(reading) == segment(1)[:10]
    with pytest.raises(Damaged, match="its digest"):
        next(reading)


def test_a_beginning_that_cannot_be_read(repository: Repository, store: FaultyStore) -> None:
    """Then everything is listed: what lies before the others is found all the same."""
    server = Streamer(repository)
    server.begin(3)
    (first,) = store.list(Kind.STREAM.prefix)
    server.whole(3)
    server.begin(9000, why="gap")
    server.whole(9000)
    store.put(first.name, store.get(first.name)[:-1])
    reader = WalReader(repository)
    held = reader.held(STREAM)
    assert [one.number for one in held.segments] == [3, 9000]
    assert [problem.partition(":")[0] for problem in held.problems] == [first.name]
    assert [problem.partition(":")[0] for problem in reader.problems()] == [first.name]


def test_a_listed_segment_that_is_gone(repository: Repository, store: FaultyStore) -> None:
    server = Streamer(repository)
    server.begin()
    server.whole(0)
    (name,) = server.whole(1)
    store.add(Fault(kind=FaultKind.VANISH, operation=Operation.GET, matches=lambda one: one == name))
    held = WalReader(repository).held(STREAM)
    assert [one.number for one in held.segments] == [0]
    assert [problem.partition(":")[0] for problem in held.problems] == [name]
