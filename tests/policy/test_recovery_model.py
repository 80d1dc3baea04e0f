"""Lives made up at random: timelines, clocks that jitter, snapshots, lost segments, two repositories. For each target,
what the plan says must be what a recovery from all that is held would do, by PostgreSQL's own comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from holdfast.errors import HoldfastError, Refused, UsageError
from holdfast.policy.recovery import RecoveryPlan, plan_recovery
from holdfast.policy.targets import TargetKind, WantedTarget
from holdfast.policy.windows import KnownSnapshot, reach
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.walfacts import EventKind, Transaction
from tests.policy.histories import SIZE, Archive, Record, Recovered, World, at, next_begin, recover
from tests.policy.test_recovery import check

SIZES = st.sampled_from([48, 64, 120, 4000, 8168, 8192, 100_000, 300_000, 524_288, 1_500_000])


@dataclass
class Life:
    world: World
    snapshots: list[KnownSnapshot]
    held: dict[str, dict[tuple[int, int], int]]
    """By repository: how many bytes of each segment."""

    @cached_property
    def union(self) -> dict[tuple[int, int], int]:
        places = {place for files in self.held.values() for place in files}
        return {place: max(files.get(place, 0) for files in self.held.values()) for place in places}

    @cached_property
    def wal(self):  # type: ignore[no-untyped-def]
        found = {}
        for repository, files in self.held.items():
            lost = [
                (timeline, number)
                for timeline in self.world.lines
                for number in self.world.numbers(timeline)
                if not files.get((timeline, number))
            ]
            found[repository] = [self.world.held(lost=lost, cut=files)]
        return found

    def line(self, timeline: int) -> Line:
        return Line(self, timeline)


class Line:
    """What recovery along a timeline could have: by comparing what was written, not by switch points."""

    def __init__(self, life: Life, timeline: int) -> None:
        self.life = life
        self.timeline = timeline
        self.records = life.world.lines[timeline]
        self.others = [timeline, *(ancestor for ancestor, _switch in reversed(life.world.ancestors[timeline]))]

    def agrees(self, timeline: int) -> int:
        """Up to where another timeline has the same records."""
        if timeline == self.timeline:
            return 1 << 60
        end = 0
        for one, other in zip(self.records, self.life.world.lines[timeline], strict=False):
            if one != other:
                break
            end = one.end
        return end

    @cached_property
    def files(self) -> dict[int, tuple[int, int]]:
        """By number: timeline of the file that serves furthest, and how many bytes."""
        found: dict[int, tuple[int, int]] = {}
        for timeline in self.others:
            for (held, number), stop in self.life.union.items():
                usable = min(stop, self.agrees(timeline) - number * SIZE)
                if held == timeline and usable > 0 and usable > found.get(number, (0, 0))[1]:
                    found[number] = (timeline, usable)
        return found

    def snapshots(self) -> list[KnownSnapshot]:
        own = [
            known
            for known in self.life.snapshots
            if known.facts.timeline in self.others and known.facts.stop_lsn <= self.agrees(known.facts.timeline)
        ]
        return sorted(own, key=lambda known: known.facts.stop_lsn)

    def archive(self, known: KnownSnapshot) -> dict[int, tuple[int, int]]:
        """With the snapshot's own WAL for what is not wholly held up to its end."""
        facts, found = known.facts, dict(self.files)
        for number in range(facts.start_lsn // SIZE, (facts.stop_lsn - 1) // SIZE + 1):
            stop = min(SIZE, facts.stop_lsn - number * SIZE) if facts.from_standby else SIZE
            usable = min(stop, self.agrees(facts.timeline) - number * SIZE)
            if found.get(number, (0, 0))[1] < usable:
                found[number] = (facts.timeline, usable)
        return found

    def run(self, known: KnownSnapshot, **stops: Callable[[Record], bool]) -> Recovered:
        files = {(timeline, number): stop for number, (timeline, stop) in self.archive(known).items()}
        return recover(
            self.life.world, Archive(files=files), timeline=self.timeline, start=known.facts.start_lsn, **stops
        )

    def bytes_from(self, known: KnownSnapshot) -> int:
        """Up to where WAL is there without a hole."""
        files, number = self.archive(known), known.facts.start_lsn // SIZE
        while files.get(number, (0, 0))[1] == SIZE:
            number += 1
        last = (known.facts.stop_lsn - 1) // SIZE
        if number == last + 1 and number not in files:  # its own last segment has nothing but a switch after its end
            return max(known.facts.stop_lsn, last * SIZE + self.files.get(last, (0, 0))[1])
        return number * SIZE + files.get(number, (0, 0))[1]

    def has_start(self, known: KnownSnapshot) -> bool:
        """Whether all that was replayed before the snapshot's end is held, its own WAL aside."""
        facts = known.facts
        return all(
            self.files.get(number, (0, 0))[1] >= min(SIZE, facts.stop_lsn - number * SIZE)
            for number in range(facts.start_lsn // SIZE, (facts.stop_lsn - 1) // SIZE + 1)
        )


@st.composite
def lives(draw: st.DrawFn) -> Life:
    world, snapshots, newest = World(), list[KnownSnapshot](), 1
    world.commit()
    for index in range(draw(st.integers(4, 30))):
        timeline = newest if draw(st.integers(0, 4)) else draw(st.sampled_from(sorted(world.lines)))
        match draw(st.sampled_from("cccwwpssb" if index else "s")):
            case "c":
                waited = draw(st.sampled_from([0.0, 0.0, 0.5, 3.0]))
                world.commit(timeline, draw(SIZES), waited=waited, is_abort=draw(st.booleans()))
            case "w":
                world.write(timeline, draw(SIZES))
            case "p":
                name = draw(st.sampled_from("ab"))
                world.write(timeline, draw(SIZES), event=EventKind.RESTORE_POINT, detail=name, time=world.now)
            case "s":
                inside = draw(st.integers(0, 2))
                sizes = [draw(SIZES) for _number in range(inside)]
                taken = world.take(
                    f"s{index}",
                    timeline,
                    between=lambda: [world.commit(timeline, size, waited=0.5) for size in sizes],  # noqa: B023
                )
                if draw(st.booleans()):
                    facts = replace(taken.facts, from_standby=True)
                    taken = replace(taken, facts=facts)
                else:
                    begin = next_begin(world.end(timeline))
                    world.write(timeline, SIZE - begin % SIZE)  # the switch of segments
                snapshots.append(taken)
            case _:
                if len(world.lines) < 4 and len(world.lines[newest]) > 2:
                    back = draw(st.sampled_from([0, 0, 1, 2]))
                    world.branch(newest, newest + 1, keep=len(world.lines[newest]) - back)
                    newest += 1
                    world.write(newest, draw(SIZES))
    held: dict[str, dict[tuple[int, int], int]] = {}
    for repository in ("local", "remote"):
        files = held[repository] = {}
        loses = draw(st.booleans())
        for timeline in world.lines:
            for number in world.numbers(timeline):
                written = min(world.end(timeline) - number * SIZE, SIZE)
                kept = draw(st.sampled_from([1.0, 1.0, 1.0, 0.0, 0.6])) if loses else 1.0
                files[timeline, number] = int(written * kept) // 8 * 8
    return Life(world, snapshots, held)


@st.composite
def targets(draw: st.DrawFn, life: Life) -> WantedTarget:
    timeline = draw(st.sampled_from([None, *life.world.lines]))
    record = draw(st.sampled_from([record for line in life.world.lines.values() for record in line]))
    inclusive = draw(st.booleans())
    kind = draw(st.sampled_from([TargetKind.TIME, TargetKind.TIME, TargetKind.LSN, TargetKind.LSN, TargetKind.XID,
                                 TargetKind.NAME, TargetKind.LATEST]))  # fmt: skip
    common = {"kind": kind, "text": str(kind), "timeline": timeline}
    match kind:
        case TargetKind.TIME:
            moment = draw(st.sampled_from([record.clock, record.time or record.clock])) + draw(
                st.sampled_from([0.0, -0.000001, 0.000001, 0.3])
            )
            return WantedTarget(**common, time=at(moment), inclusive=inclusive)  # type: ignore[arg-type]
        case TargetKind.LSN:
            lsn = draw(st.sampled_from([record.lsn, record.lsn + 8, record.end - 8, record.end]))
            return WantedTarget(**common, value=str(Lsn(lsn)), inclusive=inclusive)  # type: ignore[arg-type]
        case TargetKind.XID:
            return WantedTarget(**common, value=str(record.xid), inclusive=inclusive)  # type: ignore[arg-type]
        case TargetKind.NAME:
            return WantedTarget(**common, value=draw(st.sampled_from("abc")))  # type: ignore[arg-type]
        case _:
            return WantedTarget(**common)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Expected:
    known: KnownSnapshot
    done: Recovered | None
    """None: the snapshot alone."""
    may_refuse: bool = False
    """The clock at the end is not noted: only pieces note it, and another branch goes on in the last one."""


def expected(life: Life, wanted: WantedTarget) -> Expected | None:
    """None: refused."""
    line = life.line(max(life.world.lines) if wanted.timeline is None else wanted.timeline)
    snapshots = line.snapshots()
    if not snapshots:
        return None
    match wanted.kind:
        case TargetKind.LATEST:
            return _latest(line, snapshots[-1])
        case TargetKind.TIME:
            return _time(line, snapshots, wanted)
        case TargetKind.LSN:
            return _lsn(line, snapshots, wanted)
        case TargetKind.XID:
            return _record(line, snapshots, lambda record: bool(record.xid) and str(record.xid) == wanted.value, wanted)
        case _:
            return _record(line, snapshots, lambda record: record.detail == wanted.value, wanted)


def _latest(line: Line, known: KnownSnapshot) -> Expected | None:
    reached = line.bytes_from(known)
    if any(number * SIZE + stop > reached for number, (_timeline, stop) in line.files.items()):
        return None
    return Expected(known, line.run(known) if reached > known.facts.stop_lsn else None)


def _time(line: Line, snapshots: Sequence[KnownSnapshot], wanted: WantedTarget) -> Expected | None:
    time = wanted.time
    assert time is not None

    def later(record: Record) -> bool:
        tx = record.transaction()
        return tx is not None and (tx.time > time if wanted.inclusive else tx.time >= time)

    for known in reversed(snapshots):
        facts = known.facts
        if facts.started_at > time:
            continue
        done = line.run(known, before=later)
        if done.has_stopped and done.end < facts.stop_lsn:
            continue
        if facts.ended_at > time and not line.has_start(known):
            continue
        if done.has_stopped:
            return Expected(known, done)
        reached = line.bytes_from(known)
        if reached <= facts.stop_lsn:
            return Expected(known, None) if facts.ended_at >= time else None
        clock = max(at(line.life.world.clock(line.timeline, reached)), facts.ended_at)
        timeline, stop = line.files.get((reached - 1) // SIZE, (0, 0))
        is_cut = line.life.union.get((timeline, (reached - 1) // SIZE), 0) > stop
        return Expected(known, done, may_refuse=is_cut) if clock >= time else None
    return None


def _lsn(line: Line, snapshots: Sequence[KnownSnapshot], wanted: WantedTarget) -> Expected | None:
    lsn = Lsn.parse(wanted.value)
    known = next((known for known in reversed(snapshots) if known.facts.stop_lsn <= lsn), None)
    if known is None or lsn > max(line.bytes_from(known), known.facts.stop_lsn):
        return None
    stop = "after" if wanted.inclusive else "before"
    if line.bytes_from(known) <= known.facts.stop_lsn:
        return Expected(known, None)
    return Expected(known, line.run(known, **{stop: lambda record: record.lsn >= lsn}))


def _record(
    line: Line, snapshots: Sequence[KnownSnapshot], is_it: Callable[[Record], bool], wanted: WantedTarget
) -> Expected | None:
    stop = "after" if wanted.inclusive else "before"
    for known in reversed(snapshots):
        begin = known.facts.stop_lsn
        done = line.run(known, **{stop: lambda record: record.lsn >= begin and is_it(record)})  # noqa: B023
        if done.has_stopped:
            return Expected(known, done)
    return None


def kept(done: Recovered, since: int) -> list[Transaction]:
    return [tx for record in done.replayed if (tx := record.transaction()) and tx.lsn >= since]


def compare(life: Life, wanted: WantedTarget) -> None:
    note(f"{wanted}")
    right = expected(life, wanted)
    try:
        plan = plan_recovery(wanted, life.snapshots, life.wal, transactions=life.world.transactions)
    except HoldfastError as error:
        note(f"{type(error).__name__}: {error} | {error.hint}")
        assert isinstance(error, Refused | UsageError)  # noqa: PT017  what is drawn decides whether it raises
        assert right is None or right.may_refuse, right
        can_be_typed(life, wanted, error)
        return
    note(f"{plan.known.snapshot.label} {plan.target} {plan.end}-{plan.end_at_most} {plan.last_kept}")
    check(life.world, plan)
    assert right is not None
    assert plan.known == right.known
    assert (plan.end is None) is (right.done is None)
    if right.done is not None and plan.end is not None:
        agree(life, plan, right.done)


def agree(life: Life, plan: RecoveryPlan, done: Recovered) -> None:
    assert plan.end is not None
    assert plan.end_at_most is not None
    since = plan.known.facts.stop_lsn
    right = kept(done, since)
    assert plan.last_kept == (right[-1] if right else None)
    if plan.target.setting:
        assert plan.end <= done.end <= plan.end_at_most
    left_out = [
        tx
        for record in life.world.lines[plan.timeline]
        if record.lsn >= done.end and (tx := record.transaction()) and tx.lsn >= since
    ]
    if plan.first_left_out is not None:
        assert plan.first_left_out == left_out[0]
    elif left_out:
        reached = life.line(plan.timeline).bytes_from(plan.known)
        assert left_out[0].end > reached, "it is held, and the plan does not say so"


def can_be_typed(life: Life, wanted: WantedTarget, error: HoldfastError) -> None:
    """The moments that a refusal offers can be reached."""
    for part in error.hint.split("--at ")[1:]:
        text = part.split()[0].rstrip(".")
        kind, _colon, value = text.partition(":")
        if kind in ("lsn", "snapshot") and "ID" not in value:
            offered = WantedTarget(kind=TargetKind(kind), text=text, value=value, timeline=wanted.timeline)
            check(life.world, plan_recovery(offered, life.snapshots, life.wal, transactions=life.world.transactions))


def windows_hold(life: Life) -> None:
    """Both ends of each window, and the middle, can be reached."""
    found = reach(life.snapshots, life.wal)
    for window in found.windows:
        for lsn in (window.start, Lsn((window.start + window.stop) // 2), window.stop):
            wanted = WantedTarget(kind=TargetKind.LSN, text="lsn", value=str(lsn), timeline=window.timeline)
            compare(life, wanted)
        for moment in (window.since, window.since + (window.until - window.since) / 2, window.until):
            wanted = WantedTarget(kind=TargetKind.TIME, text="time", time=moment, timeline=window.timeline)
            plan_recovery(wanted, life.snapshots, life.wal, transactions=life.world.transactions)


def go(data: st.DataObject, number: int) -> None:
    life = data.draw(lives())
    for _number in range(number):
        compare(life, data.draw(targets(life)))
    windows_hold(life)


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_plans_do_what_a_recovery_from_all_that_is_held_would_do(data: st.DataObject) -> None:
    go(data, 8)


@pytest.mark.slow
@given(st.data())
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
def test_many_more_plans(data: st.DataObject) -> None:
    go(data, 25)
