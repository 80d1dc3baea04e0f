from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.policy.windows import GapKind, Reach, reach
from holdfast.postgres.lsn import Lsn
from holdfast.repository.wal.held import Begin, Conflict
from tests.policy.histories import SIZE, SYSTEM, World, at, in_repository


def begin(world: World, lsn: int, after: int, *, timeline: int = 1) -> Begin:
    stream = world.held().stream
    return Begin(
        stream=stream,
        segment_size=SIZE,
        timeline=timeline,
        lsn=lsn,
        when=at(world.now),
        host="h",
        why="gap",
        after=after,
    )


@pytest.fixture
def world() -> World:
    world = World()
    world.commit()
    return world


def ids(found: Reach) -> list[list[str]]:
    return [[bytes.fromhex(name).rstrip(b"\0").decode() for name in window.snapshots] for window in found.windows]


def test_a_window_goes_from_a_snapshots_end_to_the_end_of_what_is_held(world: World) -> None:
    one = world.take("one")
    world.fill()
    last = world.commit(seconds=50)
    found = reach([one], {"local": [world.held()]})
    (window,) = found.windows
    assert (window.system_identifier, window.timeline) == (SYSTEM, 1)
    assert (window.start, window.stop) == (one.facts.stop_lsn, last.end)
    assert (window.since, window.until) == (one.facts.ended_at, at(last.clock))
    assert found.gaps == ()


def test_snapshots_of_one_stretch_share_a_window_wherever_they_lie(world: World) -> None:
    one = world.take("one")
    world.fill()
    two = world.take("two")
    world.commit()
    found = reach([two, in_repository(two, "remote"), one], {"local": [world.held()]})
    assert ids(found) == [["one", "two"]]


def test_a_snapshot_without_wal_after_it_is_a_moment_and_no_window(world: World) -> None:
    one = world.take("one")
    assert reach([one], {"local": [world.held()]}) == Reach(windows=(), gaps=())
    assert reach([one], {}) == Reach(windows=(), gaps=())
    assert reach([], {"local": [world.held()]}) == Reach(windows=(), gaps=())


def test_wal_that_begins_after_the_only_snapshot_is_a_gap_until_the_next(world: World) -> None:
    one = world.take("one")
    world.fill(segments=3)
    world.commit()
    lost = [(1, number) for number in world.numbers(1)[:2]]
    found = reach([one], {"local": [world.held(lost=lost)]})
    assert found.windows == ()
    assert [(gap.start, gap.stop, gap.is_open) for gap in found.gaps] == [
        (one.facts.stop_lsn, (lost[-1][1] + 1) * SIZE, True)
    ]
    two = world.take("two")
    world.commit()
    assert ids(reach([one, two], {"local": [world.held(lost=lost)]})) == [["two"]]


def test_a_gap_divides_and_a_snapshot_closes_it(world: World) -> None:
    one = world.take("one")
    world.fill(segments=2)
    world.commit()
    lost = one.facts.stop_lsn // SIZE + 1
    world.fill(segments=2)
    wal = {"local": [world.held(lost=[(1, lost)])]}
    found = reach([one], wal)
    (gap,) = found.gaps
    assert gap.is_open
    assert (gap.kind, gap.start, gap.stop) == (GapKind.MISSING, lost * SIZE, (lost + 1) * SIZE)
    assert found.windows[0].stop == gap.start
    assert gap.since == found.windows[0].until
    two = world.take("two")
    world.commit()
    found = reach([one, two], {"local": [world.held(lost=[(1, lost)])]})
    assert ids(found) == [["one"], ["two"]]
    assert [gap.until for gap in found.gaps] == [two.facts.ended_at]
    other = {"local": [world.held(lost=[(1, lost)])], "remote": [world.held()]}
    assert ids(reach([one, two], other)) == [["one", "two"]], "another repository has what one lacks"
    assert reach([one, two], other).gaps == ()


def test_wal_before_the_first_snapshot_has_no_gaps(world: World) -> None:
    world.fill(segments=4)
    one = world.take("one")
    world.commit()
    lost = world.numbers(1)[1]
    assert reach([one], {"local": [world.held(lost=[(1, lost)])]}).gaps == ()


def test_a_snapshot_later_than_all_wal_shows_a_gap_before_it(world: World) -> None:
    one = world.take("one")
    world.commit()
    end = world.end(1)
    before = world.held()
    world.fill(segments=3)
    two = world.take("two")
    (gap,) = reach([one, two], {"local": [before]}).gaps
    assert (gap.start, gap.stop, gap.until) == (end, two.facts.start_lsn, two.facts.ended_at)


def test_a_gap_that_was_recorded_is_open_before_any_wal_follows(world: World) -> None:
    one = world.take("one")
    world.commit()
    end = world.end(1)
    found = reach([one], {"local": [world.held(begins=[begin(world, 9 * SIZE, end)])]})
    (gap,) = found.gaps
    assert gap.is_open
    assert (gap.start, gap.stop) == (end, 9 * SIZE)
    assert len(found.windows) == 1


def test_a_conflict_is_a_gap_that_names_its_objects(world: World) -> None:
    one = world.take("one")
    world.fill(segments=3)
    number = one.facts.stop_lsn // SIZE + 1
    conflict = Conflict(timeline=1, number=number, names=("wal/a", "wal/b"))
    held = world.held(lost=[(1, number)], conflicts=[conflict])
    (gap,) = reach([one], {"local": [held], "remote": [world.held()]}).gaps
    assert (gap.kind, gap.objects, gap.start) == (GapKind.CONFLICT, ("wal/a", "wal/b"), number * SIZE)


def test_the_clock_goes_on_where_nothing_is_written(world: World) -> None:
    one = world.take("one")
    world.commit()
    held = world.held()
    last = held.segments[-1]
    tick = last.pieces[-1]._replace(start=last.stop, clock=at(900), facts={"s": 0, "e": 0})
    ticking = replace(held, segments=(*held.segments[:-1], last._replace(pieces=(*last.pieces, tick))))
    assert reach([one], {"local": [ticking], "remote": [held]}).windows[0].until == at(900)


def test_archived_wal_without_a_clock_is_known_up_to_its_last_commit(world: World) -> None:
    one = world.take("one")
    last = world.commit(seconds=30)
    world.fill(segments=2)
    held = world.held()
    silent = tuple(
        segment._replace(pieces=tuple(piece._replace(clock=None) for piece in segment.pieces))
        for segment in held.segments
    )
    assert last.time is not None
    assert reach([one], {"local": [replace(held, segments=silent)]}).windows[0].until == at(last.time)


@pytest.fixture
def promoted(world: World) -> World:
    world.fill()
    world.commit()
    return world


def test_a_branch_that_was_left_has_a_window_up_to_its_own_end(promoted: World) -> None:
    one = promoted.take("one")
    promoted.fill()
    promoted.commit()
    promoted.branch(1, 2)
    promoted.commit(1, 5000, seconds=100)
    dead = promoted.end(1)
    promoted.commit(2, seconds=5)
    promoted.fill(2)
    found = reach([one], {"local": [promoted.held()]})
    assert [(window.timeline, window.stop) for window in found.windows] == [(1, dead), (2, promoted.end(2))]
    assert found.gaps == ()


def test_a_clean_promotion_leaves_one_window(promoted: World) -> None:
    one = promoted.take("one")
    promoted.fill()
    promoted.commit()
    promoted.branch(1, 2)
    promoted.commit(2)
    two = promoted.take("two", 2)
    promoted.commit(2)
    found = reach([one, two], {"local": [promoted.held()]})
    assert [window.timeline for window in found.windows] == [2]
    assert ids(found) == [["one", "two"]]


def test_a_missing_history_file_is_a_gap(promoted: World) -> None:
    one = promoted.take("one")
    promoted.commit()
    promoted.branch(1, 2)
    promoted.commit(2)
    found = reach([one], {"local": [promoted.held(histories=[])]})
    (gap,) = found.gaps
    assert (gap.kind, gap.timeline, gap.objects) == (GapKind.HISTORY, 2, ("00000002.history",))
    assert gap.is_open
    assert [window.timeline for window in found.windows] == [1]


def test_two_history_files_of_one_name_are_a_conflict(promoted: World) -> None:
    one = promoted.take("one")
    promoted.commit()
    promoted.branch(1, 2)
    promoted.commit(2)
    file = Conflict(timeline=2, number=0, names=("a", "b"), file="00000002.history")
    found = reach([one], {"local": [promoted.held(histories=[], conflicts=[file])]})
    assert [(gap.kind, gap.objects) for gap in found.gaps] == [(GapKind.CONFLICT, ("00000002.history",))]


def test_a_gap_on_a_branch_that_was_left_is_closed_by_a_newer_timelines_snapshot(promoted: World) -> None:
    one = promoted.take("one")
    promoted.fill()
    promoted.branch(1, 2)
    promoted.fill(1, segments=4)
    lost = promoted.numbers(1)[-2]
    promoted.commit(2)
    two = promoted.take("two", 2)
    promoted.commit(2)
    found = reach([one, two], {"local": [promoted.held(lost=[(1, lost)])]})
    (gap,) = found.gaps
    assert (gap.timeline, gap.start) == (1, Lsn(lost * SIZE))
    assert gap.until == two.facts.ended_at
    assert found.windows[-1].timeline == 2


def test_servers_are_never_mixed_and_the_present_one_is_last(world: World) -> None:
    one = world.take("one")
    world.commit()
    other = World(now=500)
    other.commit()
    two = other.take("two")
    two = replace(two, facts=replace(two.facts, system_identifier=8))
    other.commit()
    for wal in ([world.held(), other.held(system=8)], [other.held(system=8), world.held()]):
        found = reach([two, one], {"local": wal})
        assert [window.system_identifier for window in found.windows] == [SYSTEM, 8]
        assert found.gaps == ()
