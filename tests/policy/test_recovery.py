"""Recovery plans: each is tried by a recovery that does what PostgreSQL does with just the files that were planned."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from holdfast.errors import Refused, UsageError
from holdfast.policy.recovery import Part, RecoveryPlan, plan_recovery
from holdfast.policy.targets import TargetKind, WantedTarget
from holdfast.policy.windows import KnownSnapshot
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.recovery import CONSISTENT, END_OF_WAL, Target
from holdfast.postgres.walfacts import EventKind, Outcome, Transaction
from holdfast.repository.wal.held import Begin, Conflict, Held
from tests.policy.histories import SIZE, Archive, Record, Recovered, World, at, in_repository, recover

LSN, TIME, XID, NAME = TargetKind.LSN, TargetKind.TIME, TargetKind.XID, TargetKind.NAME
LATEST, SNAPSHOT = TargetKind.LATEST, TargetKind.SNAPSHOT


def want(kind: TargetKind, value: object = "", **values: object) -> WantedTarget:
    if kind is TIME:
        assert isinstance(value, int | float)
        values["time"] = at(value)
    return WantedTarget(kind=kind, text=f"{kind}:{value}", value="" if kind is TIME else str(value), **values)  # type: ignore[arg-type]


@dataclass
class Case:
    world: World
    snapshots: Sequence[KnownSnapshot]
    wal: Mapping[str, Sequence[Held]]

    def plan(self, wanted: WantedTarget, *, chosen: str | None = None) -> RecoveryPlan:
        plan = plan_recovery(wanted, self.snapshots, self.wal, transactions=self.world.transactions, chosen=chosen)
        check(self.world, plan)
        return plan

    def refuse(self, wanted: WantedTarget) -> Refused:
        with pytest.raises(Refused) as caught:
            self.plan(wanted)
        return caught.value


def carry_out(world: World, plan: RecoveryPlan) -> Recovered:
    """With the planned files only, by the planned target."""
    facts = plan.known.facts
    assert all(not item.is_padded for item in plan.wal[:-1])
    assert [item.segment.number for item in plan.wal] == sorted({item.segment.number for item in plan.wal})
    files = {(item.segment.timeline, item.segment.number): item.stop for item in plan.wal}
    target = plan.target.value and Lsn.parse(plan.target.value)

    def reached(record: Record) -> bool:
        return target != "" and record.lsn >= target

    return recover(
        world,
        Archive(files=files),
        timeline=plan.timeline,
        start=facts.start_lsn,
        before=reached if not plan.target.inclusive else lambda _record: False,
        after=reached if plan.target.inclusive else lambda _record: False,
    )


def check(world: World, plan: RecoveryPlan) -> None:
    """That recovery does what the plan says."""
    if plan.end is None:
        assert plan.target == CONSISTENT
        assert plan.wal == ()
        return
    assert plan.end_at_most is not None
    done = carry_out(world, plan)
    assert done.has_stopped is (plan.target != END_OF_WAL)
    assert done.end >= plan.known.facts.stop_lsn
    assert plan.end <= done.end <= plan.end_at_most
    kept = [tx for item in done.replayed if (tx := item.transaction()) and tx.lsn >= plan.known.facts.stop_lsn]
    assert plan.last_kept == (kept[-1] if kept else None)
    if plan.first_left_out:
        assert plan.first_left_out.lsn >= done.end


@pytest.fixture
def case() -> Case:
    """A snapshot, commits at seconds 10, 20 … 50 with WAL between, everything held."""
    world = World()
    world.commit()
    one = world.take("one")
    for number in range(1, 6):
        world.now = number * 10 - 1
        world.commit()
        world.fill()
    return Case(world, [one], {"local": [world.held()]})


def commits(world: World, timeline: int = 1) -> dict[float | None, Record]:
    return {record.time: record for record in world.lines[timeline] if record.transaction()}


def test_latest_goes_to_the_end_of_what_is_held(case: Case) -> None:
    plan = case.plan(want(LATEST))
    assert plan.target == END_OF_WAL
    assert plan.end == plan.end_at_most == case.world.end(1)
    assert plan.last_kept is not None
    assert plan.last_kept.time == at(50)
    assert plan.first_left_out is None
    assert plan.timeline == 1
    assert {item.repository for item in plan.wal} == {"local"}


@pytest.mark.parametrize(
    ("second", "inclusive", "kept", "left_out"),
    [(35, True, 30, 40), (40, True, 40, 50), (40, False, 30, 40), (49.999999, True, 40, 50), (5, True, None, 10)],
)
def test_a_time_stops_before_the_first_commit_that_is_later(
    case: Case, second: float, inclusive: bool, kept: float | None, left_out: float
) -> None:
    plan = case.plan(want(TIME, second, inclusive=inclusive))
    left = commits(case.world)[left_out]
    assert plan.target == Target(setting="recovery_target_lsn", value=str(Lsn(left.lsn)), inclusive=False)
    assert (plan.last_kept and plan.last_kept.time) == (None if kept is None else at(kept))
    assert plan.first_left_out == left.transaction()
    assert plan.is_exact
    assert plan.until == at(second)


def test_an_idle_moment_is_the_end_of_wal_where_the_clock_is_known_to_have_passed_it(case: Case) -> None:
    world = case.world
    until = world.now + 300
    (held,) = case.wal["local"]
    last = held.segments[-1]
    assert last.stop == SIZE
    tick = replace_number(world, last.number + 1, clock=until)
    case.wal = {"local": [replace(held, segments=(*held.segments, tick))]}
    plan = case.plan(want(TIME, until))
    assert plan.target == END_OF_WAL
    assert plan.end == world.end(1)
    refused = case.refuse(want(TIME, until + 0.000001))
    assert "not beyond" in str(refused)
    assert f"lsn:{Lsn(world.end(1))}" in refused.hint


def replace_number(world: World, number: int, *, clock: float):  # type: ignore[no-untyped-def]
    """A segment of which nothing was written yet: only the clock went on."""
    segment = world.segment(1, number - 1)
    tick = replace_piece(segment.pieces[-1], clock)
    return segment._replace(number=number, pieces=(tick,))


def replace_piece(piece, clock: float):  # type: ignore[no-untyped-def]
    empty = {"s": piece.facts["e"], "e": piece.facts["e"]}
    return piece._replace(start=0, stop=0, clock=at(clock), facts=empty)


def test_a_time_before_the_first_snapshot_or_after_all_that_is_known_is_refused(case: Case) -> None:
    early = case.refuse(want(TIME, 0.5))
    assert "no snapshot" in str(early)
    assert f"snapshot:{case.snapshots[0].snapshot.short_id}" in early.hint
    assert "before it" not in early.hint
    late = case.refuse(want(TIME, 5000))
    assert f"lsn:{Lsn(case.world.end(1))}" in late.hint
    assert "after it" not in late.hint


def test_an_xid_stops_after_its_commit_or_before_it(case: Case) -> None:
    record = commits(case.world)[30]
    plan = case.plan(want(XID, record.xid))
    assert plan.last_kept == record.transaction()
    assert plan.end == record.end
    plan = case.plan(want(XID, record.xid, inclusive=False))
    assert plan.first_left_out == record.transaction()
    assert plan.last_kept == commits(case.world)[20].transaction()
    with pytest.raises(UsageError, match="no commit or abort of transaction 4711"):
        case.plan(want(XID, 4711))


def test_a_commit_record_across_two_segments_is_found() -> None:
    world = World()
    one = world.take("one")
    while world.end(1) % SIZE < SIZE - 100:
        world.write(1, min(100_000, SIZE - 64 - world.end(1) % SIZE))
    crossing = world.commit(1, 5000)
    assert crossing.lsn // SIZE < (crossing.end - 1) // SIZE
    after = world.commit()
    case = Case(world, [one], {"local": [world.held()]})
    assert case.plan(want(XID, crossing.xid)).last_kept == crossing.transaction()
    assert crossing.time is not None
    plan = case.plan(want(TIME, crossing.time, inclusive=False))
    assert plan.first_left_out == crossing.transaction()
    assert plan.wal[-1].segment.number == (crossing.end - 1) // SIZE
    assert case.plan(want(XID, after.xid, inclusive=False)).last_kept == crossing.transaction()


def test_a_name_is_the_first_restore_point_after_the_newest_snapshot_that_has_one(case: Case) -> None:
    world = case.world
    one = world.write(1, event=EventKind.RESTORE_POINT, detail="before", time=world.now)
    world.commit()
    two = world.write(1, event=EventKind.RESTORE_POINT, detail="before", time=world.now)
    world.commit()
    case.wal = {"local": [world.held()]}
    plan = case.plan(want(NAME, "before"))
    assert plan.end == one.end
    assert any(str(Lsn(one.lsn)) in text and str(Lsn(two.lsn)) in text for text in plan.warnings)
    later = world.take("later")
    three = world.write(1, event=EventKind.RESTORE_POINT, detail="before", time=world.now)
    world.commit()
    case = Case(world, [*case.snapshots, later], {"local": [world.held()]})
    assert case.plan(want(NAME, "before")).end == three.end
    assert case.plan(want(NAME, "before"), chosen=case.snapshots[0].snapshot.id).end == one.end
    with pytest.raises(UsageError, match="no restore point 'other'"):
        case.plan(want(NAME, "other"))


def test_lsn_in_the_middle_at_the_end_and_beyond(case: Case) -> None:
    record = commits(case.world)[30]
    plan = case.plan(want(LSN, Lsn(record.lsn)))
    assert plan.target == Target(setting="recovery_target_lsn", value=str(Lsn(record.lsn)), inclusive=True)
    assert plan.last_kept == record.transaction()
    assert plan.end == plan.end_at_most == record.end
    plan = case.plan(want(LSN, Lsn(record.lsn), inclusive=False))
    assert plan.first_left_out == record.transaction()
    assert plan.is_exact
    end = case.world.end(1)
    plan = case.plan(want(LSN, Lsn(end)))
    assert plan.target == END_OF_WAL
    assert plan.end == end
    refused = case.refuse(want(LSN, Lsn(end + 1)))
    assert f"lsn:{Lsn(end)}" in refused.hint
    refused = case.refuse(want(LSN, Lsn(case.snapshots[0].facts.start_lsn)))
    assert "no snapshot" in str(refused)


def test_lsn_in_the_last_record_is_the_end_of_wal() -> None:
    world = World()
    one = world.take("one")
    world.fill()
    last = world.commit(1, 4000)
    case = Case(world, [one], {"local": [world.held()]})
    assert case.plan(want(LSN, Lsn(last.lsn))).target != END_OF_WAL
    for lsn in (last.lsn + 1, last.end - 8, last.end):
        plan = case.plan(want(LSN, Lsn(lsn)))
        assert plan.target == END_OF_WAL
        assert plan.end == last.end


def test_recovery_begins_with_the_snapshot_that_leaves_the_least_to_replay(case: Case) -> None:
    two = case.world.take("two")
    after = case.world.commit()
    case.snapshots = [*case.snapshots, two]
    case.wal = {"local": [case.world.held()]}
    assert case.plan(want(LATEST)).known == two
    assert case.plan(want(XID, after.xid)).known == two
    assert case.plan(want(TIME, 35)).known == case.snapshots[0]
    assert case.plan(want(LATEST), chosen=case.snapshots[0].snapshot.id).known == case.snapshots[0]
    with pytest.raises(Refused, match="no snapshot that recovery could begin with"):
        case.plan(want(TIME, 35), chosen=two.snapshot.id)


def test_a_commit_during_the_backup_that_is_later_than_the_target_needs_an_older_snapshot() -> None:
    world = World()
    one = world.take("one")
    world.commit()
    begin = world.now
    inside: list[Record] = []
    two = world.take("two", between=lambda: inside.append(world.commit(seconds=10)))
    world.commit(seconds=10)
    case = Case(world, [one, two], {"local": [world.held()]})
    assert case.plan(want(TIME, begin + 5)).known == one
    assert case.plan(want(TIME, begin + 5)).first_left_out == inside[0].transaction()
    assert two.facts.ended_at > at(begin + 11.5)
    assert case.plan(want(TIME, begin + 11.5)).known == two, "nothing was committed from there to the backup's end"


def test_wal_before_a_snapshots_end_that_is_not_held_is_its_own() -> None:
    world = World()
    world.fill()
    one = world.take("one", between=lambda: world.fill(segments=2))
    world.commit()
    first, last = one.facts.start_lsn // SIZE, one.facts.stop_lsn // SIZE
    assert last - first == 2
    case = Case(world, [one], {"local": [world.held(lost=[(1, first), (1, first + 1)])]})
    plan = case.plan(want(LATEST))
    assert [(item.repository, item.held is None) for item in plan.wal] == [("", True), ("", True), ("local", False)]


def test_a_primarys_own_last_segment_leads_to_the_next() -> None:
    world = World()
    one = world.take("one")
    world.fill()
    world.commit()
    last = one.facts.stop_lsn // SIZE
    wal = {"local": [world.held(lost=[(1, last)])]}
    plan = Case(world, [one], wal).plan(want(LATEST))
    assert [item.repository for item in plan.wal] == ["", "local"]
    cut = {"local": [world.held(lost=[(1, last)], cut={(1, last + 1): 48})]}
    plan = Case(world, [one], cut).plan(want(LATEST))
    assert plan.end == (last + 1) * SIZE, "the switch of segments is replayed"
    standby = replace(one, facts=replace(one.facts, from_standby=True))
    refused = Case(world, [standby], wal).refuse(want(LATEST))
    assert "is missing" in str(refused)


def test_two_repositories_make_up_for_each_other(case: Case) -> None:
    numbers = case.world.numbers(1)
    odd, even = ([(1, number) for number in numbers if number % 2 == rest] for rest in (1, 0))
    case.wal = {"local": [case.world.held(lost=odd)], "remote": [case.world.held(lost=even)]}
    plan = case.plan(want(LATEST))
    assert {item.repository for item in plan.wal} == {"local", "remote"}
    case.wal = {"remote": case.wal["remote"]}
    case.refuse(want(LATEST))


def test_of_a_segment_held_partly_the_longest_is_taken(case: Case) -> None:
    world = case.world
    world.commit()
    world.commit()
    last = world.numbers(1)[-1]
    end = world.end(1) - last * SIZE
    case.wal = {
        "local": [world.held(cut={(1, last): end - 16})],
        "remote": [world.held()],
        "third": [world.held(cut={(1, last): 8})],
    }
    plan = case.plan(want(LATEST))
    assert plan.end == world.end(1)
    assert plan.wal[-1].repository == "remote"
    assert plan.wal[-1].is_padded
    assert plan.wal[-1].stop == end


@pytest.fixture
def gap() -> Case:
    """A snapshot, commits at 10 to 50; the segment after 20's is lost; no snapshot since."""
    world = World()
    one = world.take("one")
    for number in range(1, 6):
        world.now = number * 10 - 1
        world.commit()
        world.fill()
    lost = commits(world)[20].lsn // SIZE + 1
    return Case(world, [one], {"local": [world.held(lost=[(1, lost)])]})


def test_a_gap_is_never_crossed_and_is_named(gap: Case) -> None:
    lost = commits(gap.world)[20].lsn // SIZE + 1
    for wanted in (want(LATEST), want(TIME, 45), want(LSN, Lsn(gap.world.end(1))), want(XID, gap.world.xid)):
        refused = gap.refuse(wanted)
        assert str(Lsn(lost * SIZE)) in str(refused)
        assert f"{lost:024X}"[-8:] in str(refused)
        assert f"lsn:{Lsn(lost * SIZE)}" in refused.hint
        assert gap.plan(want(LSN, Lsn(lost * SIZE))).end == lost * SIZE, "what the refusal names can be reached"
    assert gap.plan(want(TIME, 15)).last_kept == commits(gap.world)[10].transaction()


def test_after_a_gap_a_new_snapshot_reaches_again(gap: Case) -> None:
    two = gap.world.take("two")
    end = gap.world.commit()
    lost = commits(gap.world)[20].lsn // SIZE + 1
    gap.snapshots = [*gap.snapshots, two]
    gap.wal = {"local": [gap.world.held(lost=[(1, lost)])]}
    assert gap.plan(want(LATEST)).last_kept == end.transaction()
    refused = gap.refuse(want(TIME, 45))
    assert f"snapshot:{two.snapshot.short_id}" in refused.hint
    assert f"lsn:{Lsn(lost * SIZE)}" in refused.hint


def test_a_conflict_is_never_chosen_among(case: Case) -> None:
    number = commits(case.world)[30].lsn // SIZE
    names = ("wal/a", "wal/b")
    conflict = Conflict(timeline=1, number=number, names=names)
    case.wal = {
        "local": [case.world.held(lost=[(1, number)], conflicts=[conflict])],
        "remote": [case.world.held()],
    }
    refused = case.refuse(want(LATEST))
    assert "wal/a, wal/b" in str(refused)
    assert case.plan(want(TIME, 15)).last_kept == commits(case.world)[10].transaction()


@pytest.mark.parametrize("key", [b"of the repository", b"of another"])
def test_repositories_that_contradict_each_other_are_a_conflict(case: Case, key: bytes) -> None:
    other = World(key=key)
    other.commit()
    other.take("one")
    while other.end(1) < case.world.end(1):
        other.write(1, 777_777)
    number = case.world.numbers(1)[1]
    fake = other.held(lost=[(1, known) for known in other.numbers(1) if known != number])
    case.wal = {"local": [case.world.held()], "remote": [fake]}
    assert "two different contents" in str(case.refuse(want(LATEST)))
    case.world.key = b"of a third"
    case.wal = {**case.wal, "remote": [case.world.held(cuts=[700_000])]}
    assert case.plan(want(LATEST)).end == case.world.end(1), "the same bytes under another key"


@pytest.fixture
def promoted() -> Case:
    """Commits at 10, 20, 30; a standby is promoted then; it commits at 40, 50; the old primary at 45, 55."""
    world = World()
    one = world.take("one")
    for second in (10, 20, 30):
        world.now = second - 1
        world.commit()
        world.fill()
    world.commit(seconds=1)
    world.branch(1, 2)
    for second, timeline in ((40, 2), (45, 1), (50, 2), (55, 1)):
        world.now = second - 1
        world.commit(timeline)
        world.write(timeline, 300_000)
    return Case(world, [one], {"local": [world.held()]})


def test_both_branches_of_a_promotion_can_be_reached(promoted: Case) -> None:
    world = promoted.world
    plan = promoted.plan(want(LATEST))
    assert plan.timeline == 2
    assert plan.last_kept == commits(world, 2)[50].transaction()
    border = world.begin_of(2) // SIZE
    assert [item.segment.timeline for item in plan.wal if item.segment.number >= border] == [2] * len(
        [item for item in plan.wal if item.segment.number >= border]
    )
    plan = promoted.plan(want(LATEST, timeline=1))
    assert plan.timeline == 1
    assert plan.last_kept == commits(world, 1)[55].transaction()
    assert promoted.plan(want(TIME, 47)).last_kept == commits(world, 2)[40].transaction()
    assert promoted.plan(want(TIME, 47, timeline=1)).last_kept == commits(world, 1)[45].transaction()
    assert promoted.plan(want(LATEST, current=True)).timeline == 1, "that of the snapshot"
    assert promoted.plan(want(TIME, 15)).last_kept == commits(world, 1)[10].transaction()
    with pytest.raises(UsageError, match="nothing is held of timeline 3"):
        promoted.plan(want(LATEST, timeline=3))


def test_current_looks_on_the_line_of_each_snapshot(promoted: Case) -> None:
    two = promoted.world.take("two", 2)
    promoted.world.commit(2)
    promoted.snapshots = [*promoted.snapshots, two]
    promoted.wal = {"local": [promoted.world.held()]}
    assert promoted.plan(want(LATEST, current=True)).timeline == 2
    assert promoted.plan(want(TIME, 47, current=True)).timeline == 1


def test_without_the_newer_timelines_segment_the_older_one_serves_up_to_the_switch(promoted: Case) -> None:
    world = promoted.world
    switch = world.begin_of(2)
    border = switch // SIZE
    promoted.wal = {"local": [world.held(lost=[(2, border)])]}
    inside = next(record for record in world.lines[1] if record.transaction() and border * SIZE < record.lsn < switch)
    plan = promoted.plan(want(XID, inside.xid))
    assert plan.wal[-1].segment.timeline == 1
    assert plan.wal[-1].stop == switch - border * SIZE, "not what the old branch wrote afterwards"
    plan = promoted.plan(want(LSN, Lsn(switch)))
    assert plan.end == switch
    assert plan.target == END_OF_WAL
    refused = promoted.refuse(want(TIME, 47))
    assert str(Lsn(switch)) in str(refused) or "not beyond" in str(refused)


def test_a_timeline_of_which_only_the_history_is_held_ends_at_its_switch(promoted: Case) -> None:
    world = promoted.world
    promoted.wal = {"local": [replace(world.held(timelines=[1]), histories={2: world.history(2)})]}
    plan = promoted.plan(want(LATEST))
    assert (plan.timeline, plan.end) == (2, world.begin_of(2))
    assert plan.last_kept is not None
    assert plan.last_kept.lsn < world.begin_of(2)


def test_a_missing_history_file_refuses_its_timeline_and_no_other(promoted: Case) -> None:
    promoted.wal = {"local": [promoted.world.held(histories=[])]}
    refused = promoted.refuse(want(LATEST))
    assert "00000002.history" in str(refused)
    assert promoted.plan(want(LATEST, timeline=1)).timeline == 1
    other = promoted.world.held(histories=[])
    other = replace(other, histories={2: b"1\t0/100\tanother\n"})
    promoted.wal = {"local": [promoted.world.held()], "remote": [other]}
    assert "two different contents" in str(promoted.refuse(want(LATEST)))


def test_a_snapshot_that_ended_after_its_timeline_was_left_leads_nowhere_else(promoted: Case) -> None:
    dead = promoted.world.take("dead", 1)
    promoted.world.commit(1)
    promoted.snapshots = [dead]
    promoted.wal = {"local": [promoted.world.held()]}
    refused = promoted.refuse(want(LATEST))
    assert "--timeline 1" in refused.hint
    assert promoted.plan(want(LATEST, timeline=1)).known == dead


def test_a_branch_below_the_beginning_of_its_parent() -> None:
    """Recovery along timeline 2 to before the place where 2 began: 3 covers what 2 was."""
    world = World()
    one = world.take("one")
    world.commit()
    world.fill()
    kept = len(world.lines[1])
    world.commit()
    world.fill(segments=2)
    world.branch(1, 2)
    world.commit(2)
    world.branch(2, 3, keep=kept)
    last = world.commit(3)
    case = Case(world, [one], {"local": [world.held()]})
    plan = case.plan(want(LATEST))
    assert plan.timeline == 3
    assert plan.last_kept == last.transaction()


def test_nothing_held_after_the_newest_snapshot_is_the_snapshot_and_says_so(case: Case) -> None:
    for wal in ({}, {"local": ()}):
        case.wal = wal
        plan = case.plan(want(LATEST))
        assert plan.target == CONSISTENT
        assert plan.end is None
        assert "no WAL is held" in plan.warnings[0]
    refused = case.refuse(want(TIME, 35))
    assert f"snapshot:{case.snapshots[0].snapshot.short_id}" in refused.hint


def test_a_snapshot_newer_than_all_wal_is_the_latest(case: Case) -> None:
    case.world.fill(segments=3)
    before = case.wal
    two = case.world.take("two")
    case = Case(case.world, [*case.snapshots, two], before)
    assert case.plan(want(LATEST)).known == two
    assert case.plan(want(LATEST)).target == CONSISTENT
    assert case.plan(want(TIME, 35)).known == case.snapshots[0]


def test_wal_that_begins_after_the_only_snapshot_is_not_reached_silently() -> None:
    world = World()
    one = world.take("one")
    world.fill(segments=3)
    world.commit()
    numbers = world.numbers(1)
    refused = Case(world, [one], {"local": [world.held(lost=[(1, number) for number in numbers[:2]])]}).refuse(
        want(LATEST)
    )
    assert "is missing" in str(refused)
    assert f"snapshot:{one.snapshot.short_id}" in refused.hint


def test_snapshot_targets_take_the_snapshot_alone(case: Case) -> None:
    two = case.world.take("two")
    case.snapshots = [*case.snapshots, two, in_repository(two, "remote")]
    assert case.plan(want(SNAPSHOT, "latest")).known == two
    assert case.plan(want(SNAPSHOT, "one")).known.snapshot.label == "one"
    assert case.plan(want(SNAPSHOT, two.snapshot.short_id)).known.repository == "local"
    assert case.plan(want(SNAPSHOT, "one")).histories == {}
    with pytest.raises(UsageError, match="no snapshot three"):
        case.plan(want(SNAPSHOT, "three"))


def test_without_a_snapshot_there_is_nothing_to_begin_with(case: Case) -> None:
    case.snapshots = []
    assert "holdfast backup" in case.refuse(want(LATEST)).hint


def test_limits_and_tablespaces_of_the_replayed_range_only() -> None:
    world = World()
    raised = {"max_connections": 500, "max_worker_processes": 4, "wal_level": "replica"}
    world.write(1, event=EventKind.PARAMETERS, detail=json.dumps({"max_connections": 9000}))
    one = world.take("one")
    world.write(1, event=EventKind.PARAMETERS, detail=json.dumps(raised))
    world.write(1, event=EventKind.TABLESPACE, detail="16400 /srv/fast")
    stop = world.commit()
    world.write(1, event=EventKind.PARAMETERS, detail=json.dumps({"max_connections": 7000}))
    world.write(1, event=EventKind.TABLESPACE, detail="16401 /srv/slow")
    world.commit()
    case = Case(world, [one], {"local": [world.held()]})
    plan = case.plan(want(XID, stop.xid))
    assert (plan.limits.max_connections, plan.limits.max_worker_processes) == (500, 8)
    assert [event.detail for event in plan.created_tablespaces] == ["16400 /srv/fast"]
    plan = case.plan(want(LATEST))
    assert plan.limits.max_connections == 7000
    assert len(plan.created_tablespaces) == 2


def test_wal_level_minimal_is_refused_before_postgresql_does() -> None:
    world = World()
    one = world.take("one")
    before = world.commit()
    world.write(1, event=EventKind.PARAMETERS, detail=json.dumps({"wal_level": "minimal"}))
    world.commit()
    case = Case(world, [one], {"local": [world.held()]})
    assert "minimal" in str(case.refuse(want(LATEST)))
    assert case.plan(want(XID, before.xid)).last_kept == before.transaction()


def test_two_servers_are_never_mixed(case: Case) -> None:
    """An initdb under the same connection: other positions, another identifier."""
    other = World(now=1000, xid=5000)
    other.commit()
    two = other.take("two")
    two = replace(two, facts=replace(two.facts, system_identifier=8))
    last = other.commit()
    other.fill(segments=4)
    both = {"local": [case.world.held(), other.held(system=8)]}

    def plan(wanted: WantedTarget, snapshots: Sequence[KnownSnapshot], world: World) -> RecoveryPlan:
        found = plan_recovery(wanted, snapshots, both, transactions=world.transactions)
        check(world, found)
        return found

    assert plan(want(LATEST), [*case.snapshots, two], other).last_kept == last.transaction()
    assert plan(want(TIME, 35), [*case.snapshots, two], case.world).known == case.snapshots[0]
    with pytest.raises(Refused, match="system 8"):
        plan(want(LATEST), case.snapshots, case.world)
    assert plan(want(TIME, 35), case.snapshots, case.world).known == case.snapshots[0]


def test_a_lost_slot_that_is_recorded_is_told_with_the_latest(case: Case) -> None:
    end = case.world.end(1)
    stream = case.wal["local"][0].stream
    lost = Begin(
        stream=stream, segment_size=SIZE, timeline=1, lsn=end + 5 * SIZE, when=at(100), host="h", why="gap", after=end
    )
    case.wal = {"local": [case.world.held(begins=[lost])]}
    plan = case.plan(want(LATEST))
    assert plan.end == end
    assert any("is lost" in text for text in plan.warnings)


def test_pieces_whose_facts_cannot_be_read_are_asked(case: Case) -> None:
    (held,) = case.wal["local"]
    spoilt = tuple(
        segment._replace(pieces=tuple(piece._replace(facts={}) for piece in segment.pieces))
        for segment in held.segments
    )
    case.wal = {"local": [replace(held, segments=spoilt)]}
    plan = case.plan(want(TIME, 35))
    assert plan.last_kept == commits(case.world)[30].transaction()
    assert any("nobody knows" in text for text in plan.warnings)
    plan = case.plan(want(LATEST))
    assert plan.end_at_most == case.world.end(1)


def test_refusals_speak_the_zone_of_whoever_asked(case: Case) -> None:
    from zoneinfo import ZoneInfo

    refused = case.refuse(want(TIME, 5000, zone=ZoneInfo("Asia/Shanghai")))
    assert "+08:00" in refused.hint


def test_only_few_segments_are_asked_for_their_transactions(case: Case) -> None:
    asked = []
    real = case.world.transactions
    world = case.world
    for _number in range(50):
        world.commit()
        world.fill()
    plan = plan_recovery(
        want(TIME, 35),
        case.snapshots,
        {"local": [world.held()]},
        transactions=lambda parts: asked.append(parts[-1].segment.number) or real(parts),  # type: ignore[func-returns-value]
    )
    assert plan.first_left_out == commits(world)[40].transaction()
    assert len(asked) <= 3


def test_a_hundred_thousand_segments_are_planned_in_seconds() -> None:
    from holdfast.repository.wal.held import HeldPiece, HeldSegment

    world = World()
    one = world.take("one")
    world.fill()
    (held,) = [world.held()]
    moment = datetime(2026, 11, 22, 13, tzinfo=UTC)
    first = held.segments[-1].number + 1
    extra = []
    for number in range(first, first + 100_000):
        last = int((moment + timedelta(seconds=number)).timestamp()) * 10**6
        facts = {
            "s": number * SIZE,
            "e": (number + 1) * SIZE,
            "r": (number + 1) * SIZE,
            "c": 5,
            "f": last - 5,
            "l": last,
        }
        facts |= {"x": number, "y": number + 5}
        clock = moment + timedelta(seconds=number)
        extra.append(HeldSegment(1, number, (HeldPiece(f"wal/{number}", 0, SIZE, b"", b"", clock, facts),)))
    wal = {"local": [replace(held, segments=(*held.segments, *extra))]}
    made = []

    def transactions(parts: Sequence[Part]) -> list[Transaction]:
        end = Lsn(parts[-1].begins(SIZE) + 800)
        tx = Transaction(outcome=Outcome.COMMIT, xid=4711, time=moment, lsn=Lsn(end - 64), end=end)
        made.append(tx)
        return [tx]

    began = time.process_time()
    plan = plan_recovery(want(LATEST), [one], wal, transactions=transactions)
    assert len(plan.wal) > 100_000
    assert [plan.last_kept] == made
    assert time.process_time() - began < 10, "two seconds where nothing else runs"
