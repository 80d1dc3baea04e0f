"""The receiver's parts that need no server: what is cut, merged, retried, watched and told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.clock import SystemClock
from holdfast.errors import Damaged, HoldfastError, Refused, StoreBusy
from holdfast.jobs import archive_carrier
from holdfast.jobs.archive_carrier import Carrier, Urgency
from holdfast.jobs.archive_cursor import Cursor
from holdfast.jobs.archive_guard import PATIENCE, Guard
from holdfast.jobs.archive_memory import joined
from holdfast.jobs.archive_portions import Intake, Portion
from holdfast.jobs.archive_tails import MERGED_AT, Tails, merged_piece
from holdfast.jobs.receiver_status import ReceiverStatus, RepositoryProgress
from holdfast.postgres.connection import Server
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.slot_watch import Observed, Slot
from holdfast.postgres.walscan import WalScanner
from holdfast.repository.wal.held import HeldPiece, HeldSegment
from holdfast.repository.wal.pieces import Piece, Stream
from holdfast.repository.wal.writing import WalWriter
from tests.repository.making import new_repository
from tests.servers import wait_until

SIZE = 1 << 20
MOMENT = datetime(2026, 11, 22, 14, 3, tzinfo=UTC)
STREAM = Stream(source="tracker", system_identifier=7)
WRITER = WalWriter(new_repository(), STREAM, SIZE)
CONTENT = bytes(range(256)) * (3 * SIZE // 256)
START = Lsn(5 * SIZE)


def new_intake(marks: tuple[Lsn, ...] = ()) -> Intake:
    scanner = WalScanner(timeline=1, segment_size=SIZE, start=START)
    return Intake(timeline=1, start=START, segment_size=SIZE, scanner=scanner, marks=marks)


def new_cursor(held: dict[int, HeldSegment] | None = None) -> Cursor:
    return Cursor(stream=STREAM, start=START, segment_size=SIZE, running=WRITER.running, held=held or {})


def as_held(piece: Piece, name: str = "tails/x") -> HeldPiece:
    return HeldPiece(name, piece.start, piece.stop, piece.before, piece.after, piece.clock, piece.facts)


def cut_up(sizes: list[int], cursor: Cursor, intake: Intake) -> tuple[list[Piece], list[Piece]]:
    """Everything in stretches of these sizes, a piece of the tail cut after each."""
    tails: list[Piece] = []
    whole: list[Piece] = []
    at = intake.received - START
    for size in sizes:
        stretch = CONTENT[at : at + size]
        full: list[Portion] = intake.add(Lsn(START + at), memoryview(stretch))
        at += len(stretch)
        for portion in full:
            sealed = cursor.whole(portion, None)
            if sealed is not None:
                whole.append(sealed)
        intake.scan()
        tail = cursor.tail(intake.portion, MOMENT)
        if tail is not None:
            tails.append(tail)
    return tails, whole


def check_piece(piece: Piece) -> None:
    """Its digests are those of the bytes that it says it holds."""
    piece.check()
    base = piece.number * SIZE - START
    for offset, digest in ((piece.start, piece.before), (piece.stop, piece.after)):
        running = WRITER.running()
        running.feed(CONTENT[base : base + offset])
        assert running.digest() == digest


@given(st.lists(st.integers(1, SIZE), min_size=1, max_size=12))
def test_pieces_join_and_leave_nothing_out(sizes: list[int]) -> None:
    tails, whole = cut_up(sizes, new_cursor(), new_intake())
    received = min(sum(sizes), len(CONTENT))
    for piece in tails + whole:
        check_piece(piece)
    assert [(piece.number, piece.start, piece.stop) for piece in whole] == [
        (5 + number, 0, SIZE) for number in range(received // SIZE)
    ]
    last = [piece for piece in tails if piece.number == 5 + received // SIZE]
    assert all(before.stop == after.start and before.after == after.before for before, after in pairwise(last))
    assert (last[-1].stop if last else 0) == received % SIZE


@given(st.integers(1, SIZE - 1), st.lists(st.integers(1, SIZE), min_size=1, max_size=12))
def test_goes_on_where_what_is_held_ends(known: int, sizes: list[int]) -> None:
    (before,), _none = cut_up([known], new_cursor(), new_intake())
    held = {5: HeldSegment(1, 5, (as_held(before),))}
    tails, whole = cut_up(sizes, new_cursor(held), new_intake((Lsn(START + known),)))
    for piece in tails + whole:
        check_piece(piece)
    first = [piece for piece in tails if piece.number == 5]
    assert not first or (first[0].start, first[0].before) == (known, before.after)


def test_other_bytes_are_not_continued() -> None:
    (before,), _none = cut_up([1000], new_cursor(), new_intake())
    held = {5: HeldSegment(1, 5, (as_held(before)._replace(after=bytes(32)),))}
    with pytest.raises(Refused, match="another server"):
        cut_up([500, 2000], new_cursor(held), new_intake((Lsn(START + 1000),)))


def test_what_is_sent_again_is_compared() -> None:
    intake = new_intake()
    intake.add(START, memoryview(CONTENT[: SIZE + 500]))
    assert intake.again() == START + SIZE
    intake.add(Lsn(START + SIZE), memoryview(CONTENT[SIZE : SIZE + 300]))
    intake.add(Lsn(START + SIZE + 300), memoryview(CONTENT[SIZE + 300 : SIZE + 900]))
    assert intake.received == START + SIZE + 900
    assert intake.portion.view(0, 900) == CONTENT[SIZE : SIZE + 900]
    intake.again()
    with pytest.raises(Refused):
        intake.add(Lsn(START + SIZE), memoryview(b"\xff" * 100))


def test_bytes_left_out_are_noticed() -> None:
    with pytest.raises(Damaged):
        new_intake().add(Lsn(START + 1), memoryview(b"x"))


def chain(count: int) -> list[Piece]:
    tails, _whole = cut_up([10] * count, new_cursor(), new_intake())
    return tails


@given(st.permutations(range(2 * MERGED_AT + 5)))
def test_tails_are_merged_once_in_whatever_order_they_arrive(order: list[int]) -> None:
    pieces = chain(2 * MERGED_AT + 5)
    tails = Tails()
    for piece in pieces:
        tails.cut(piece)
    claimed: list[list[Piece]] = []
    for number in order:
        tails.arrived(pieces[number], f"tails/{number}")
        claimed += [found] if (found := tails.claim()) else []
    claimed += [found] if (found := tails.claim()) else []
    assert [len(found) for found in claimed] == [MERGED_AT, MERGED_AT]
    gone: set[str] = set()
    for number, found in enumerate(claimed):
        piece = merged_piece(found)
        check_piece(piece)
        gone |= set(tails.merged(found, piece, f"tails/merged{number}"))
    assert len(gone) == 2 * MERGED_AT
    assert not gone & set(tails.names())
    assert len(tails.names()) == 2 + 5
    (rest,) = [tails.claim(ended=True)]
    last = merged_piece(rest)
    check_piece(last)
    assert (last.start, last.stop) == (0, pieces[-1].stop)


def test_the_longest_of_several_chains_is_remembered() -> None:
    pieces = [as_held(piece, f"tails/{number}") for number, piece in enumerate(chain(4))]
    longer = pieces[0]._replace(stop=pieces[1].stop, after=pieces[1].after, name="tails/merged")
    assert joined(pieces) == tuple(pieces)
    assert joined([*pieces, longer]) == (longer, *pieces[2:])
    assert joined(pieces[1:]) == ()


@pytest.fixture
def carrier(monkeypatch: pytest.MonkeyPatch) -> Carrier:
    monkeypatch.setattr(archive_carrier, "FIRST_PAUSE", 0.01)
    return Carrier(
        "test",
        workers=3,
        clock=SystemClock(),
        changed=lambda: None,
        is_fatal=lambda error: isinstance(error, Refused),
    )


def failing(times: int, done: threading.Event, error: type[HoldfastError] = StoreBusy) -> Callable[[], None]:
    left = [times]

    def work() -> None:
        if left[0]:
            left[0] -= 1
            raise error("away")
        done.set()

    return work


def test_work_is_tried_again_for_ever(carrier: Carrier) -> None:
    done = threading.Event()
    carrier.give(failing(6, done))
    wait_until(lambda: carrier.error is not None, "the trouble is seen")
    assert carrier.since is not None
    assert done.wait(10)
    wait_until(lambda: carrier.error is None and not carrier.outstanding, "it works again")
    carrier.close()


def test_what_comes_first_is_done_first_and_alone(carrier: Carrier) -> None:
    order: list[str] = []
    gate, begun = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        gate.wait(10)
        order.append("slow")

    carrier.give(slow)
    assert begun.wait(10)
    carrier.give(lambda: order.append("tidying"), Urgency.TIDYING)
    carrier.give(lambda: order.append("first"), Urgency.FIRST)
    carrier.give(lambda: order.append("data"))
    assert carrier.outstanding == 4
    gate.set()
    wait_until(lambda: not carrier.outstanding, "all is done")
    assert order[:2] == ["slow", "first"]
    carrier.close()


def test_what_does_not_pass_is_handed_over(carrier: Carrier) -> None:
    carrier.give(failing(1, threading.Event(), Refused))
    wait_until(lambda: isinstance(carrier.fatal, Refused), "it is told")
    carrier.close()


def test_tidying_is_no_trouble(carrier: Carrier) -> None:
    done = threading.Event()
    carrier.give(failing(3, done), Urgency.TIDYING)
    assert done.wait(10)
    assert carrier.error is None
    carrier.give(failing(1, done, Damaged), Urgency.TIDYING)
    wait_until(lambda: not carrier.outstanding, "it is given up")
    assert carrier.fatal is None
    carrier.close()


def test_what_is_abandoned_is_not_done(carrier: Carrier) -> None:
    done = threading.Event()
    carrier.give(failing(10**6, done))
    wait_until(lambda: carrier.error is not None, "it is tried")
    carrier.abandon()
    wait_until(lambda: not carrier.outstanding, "nobody tries any more")
    assert not done.is_set()
    carrier.close()


def observed(retained: int, sync_state: str | None = "async") -> Observed:
    return Observed(
        server=Server(host="h", port="5432", user="u"),
        in_recovery=False,
        clock=MOMENT,
        end=Lsn(7),
        slot=Slot(
            is_physical=True,
            restart_lsn=Lsn(1),
            active_pid=1,
            wal_status="reserved",
            safe_wal_size=None,
            retained=retained,
        ),
        sync_state=sync_state,
        synchronous_standby_names="",
        max_slot_wal_keep_size=None,
        system_identifier=7,
        timeline=1,
        data_directory=None,
    )


def kinds(guard: Guard, now: float, retained: int, sync_state: str | None = "async") -> list[str]:
    return [found.kind for found in guard.look(observed(retained, sync_state), now, streams=True)]


def gives_up(guard: Guard) -> bool:
    return guard.gives_up


def waited_for(guard: Guard) -> bool:
    return guard.waited_for


def test_the_slot_is_told_of_and_given_up() -> None:
    guard = Guard(retain=1000, synchronous=False)
    assert kinds(guard, 0, 499) == []
    assert kinds(guard, 1, 500) == ["slot"]
    assert kinds(guard, 2, 700) == []
    assert kinds(guard, 3, 800) == ["slot"]
    assert len(guard.standing()) == 1
    assert kinds(guard, 4, 1000) == []
    assert not gives_up(guard)
    kinds(guard, 4 + PATIENCE, 1000)
    assert gives_up(guard)
    guard.slot_is_gone()
    assert not gives_up(guard)
    assert guard.standing() == []


def test_a_slot_that_gets_less_is_kept() -> None:
    guard = Guard(retain=1000, synchronous=False)
    for now in range(60):
        kinds(guard, now, 5000 - now * 50)
        assert not guard.gives_up
    for now in range(60, 67):
        kinds(guard, now, 3000)
    assert guard.gives_up


def test_lost_synchrony_is_told_within_five_seconds() -> None:
    guard = Guard(retain=10**9, synchronous=False)
    assert kinds(guard, 0, 0, "async") == []
    assert not waited_for(guard)
    assert kinds(guard, 1, 0, "sync") == []
    assert waited_for(guard)
    told = [now for now in range(2, 8) if kinds(guard, now, 0, "async")]
    assert len(told) == 1
    assert told[0] <= 6
    assert not waited_for(guard)
    assert kinds(guard, 9, 0, "quorum") == ["synchronous"]


def test_wanted_synchrony_that_never_was_is_told() -> None:
    guard = Guard(retain=10**9, synchronous=True)
    assert guard.waited_for
    assert [kind for now in range(6) for kind in kinds(guard, now, 0, None)] == ["not synchronous"]


STATUS = ReceiverStatus(
    source="tracker",
    pid=7,
    host="db1",
    started=MOMENT,
    phase="streaming",
    server="h:5432",
    system_identifier=2**63 + 5,
    timeline=3,
    received=Lsn(2**40),
    confirmed=None,
    server_end=Lsn(5),
    safe_until=MOMENT + timedelta(microseconds=7),
    heard=None,
    repositories=(RepositoryProgress(repository="local", durable=Lsn(3), error="away", since=MOMENT),),
    sync_state=None,
    retained=5,
    warnings=("a", "二"),
    snapshot="failed: x",
)


def test_the_status_goes_there_and_back() -> None:
    document = STATUS.to_json()
    assert ReceiverStatus.from_json(document | {"later": 1}) == STATUS
    for name in document:
        for wrong in ({}, object()):
            with pytest.raises(Damaged):
                ReceiverStatus.from_json(document | {name: wrong})
        with pytest.raises(Damaged):
            ReceiverStatus.from_json({key: value for key, value in document.items() if key != name})
