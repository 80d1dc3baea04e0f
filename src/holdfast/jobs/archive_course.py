"""Where WAL is asked for: decided anew with each server that answers, from what is held and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.clock import Clock
from holdfast.errors import HoldfastError
from holdfast.jobs.archive_beginning import Greeting, beginning, histories_of
from holdfast.jobs.archive_lane import Lane
from holdfast.jobs.archive_portions import Intake
from holdfast.jobs.archive_putting import Course
from holdfast.policy.resuming import Resume, Why, resume
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.streaming import TimelineEnds, WalSession
from holdfast.postgres.walscan import WalScanner
from holdfast.repository.wal.held import Begin
from holdfast.repository.wal.pieces import Stream

_RUN_UP_BYTES = 4 * 2**20
"""Of the segment before: the record that crosses into the first one begins there, as a rule."""


@dataclass(slots=True)
class Flow:
    """What goes on from one connection to the next."""

    course: Course
    intake: Intake

    def goes_on(self, greeting: Greeting, decided: Resume, lanes: Sequence[Lane]) -> bool:
        """Whether a server that answers is to send what follows on what is in memory."""
        left = greeting.says.history.switch_from(self.course.timeline)
        portion = self.intake.portion
        return (
            all(lane.is_going for lane in lanes)
            and decided.why is Why.ON
            and decided.timeline == self.course.timeline
            and greeting.says.system_identifier == self.course.stream.system_identifier
            and (left is None or portion.lsn(portion.start) < left)
        )


class Courses:
    """Makes them, and counts them."""

    def __init__(self, source: str, *, clock: Clock, host: str, adopt: int | None) -> None:
        self._source = source
        self._clock = clock
        self._host = host
        self._adopt = adopt
        self._count = 0

    def decide(self, greeting: Greeting, lanes: Sequence[Lane], *, gone: Lsn | None) -> Resume:
        """Raises what :func:`~holdfast.policy.resuming.resume` raises."""
        held = {lane.name: lane.memory.held() for lane in lanes if lane.memory is not None}
        return resume(held, greeting.says, adopt=self._adopt, gone=gone)

    def begin(self, greeting: Greeting, decided: Resume, lanes: Sequence[Lane]) -> Flow:
        says = greeting.says
        stream = Stream(source=self._source, system_identifier=says.system_identifier)
        course = self._next(stream, says.segment_size, decided.timeline, decided.lsn)
        scanner = _scanner(course, lanes)
        marks: list[Lsn] = []
        for lane in lanes:
            begin = beginning(
                decided.repositories[lane.name],
                decided,
                stream=stream,
                segment_size=says.segment_size,
                when=self._clock.now(),
                host=self._host,
            )
            marks += lane.begin(course, begin=begin, histories=greeting.histories)
        return Flow(course, _intake(course, scanner, marks))

    def follow(self, session: WalSession, ends: TimelineEnds, flow: Flow, lanes: Sequence[Lane]) -> Flow:
        """The next timeline, from the beginning of the segment in which the last one was left."""
        left = flow.course
        lanes = [lane for lane in lanes if lane.is_going]
        stop = Lsn(min(ends.switch, flow.intake.received))
        flow.intake.scan()
        for lane in lanes:
            lane.end(flow.intake.portion, stop)
        histories = histories_of(session, ends.next_timeline)
        start = Lsn(ends.switch // left.segment_size * left.segment_size)
        course = self._next(left.stream, left.segment_size, ends.next_timeline, start)
        begin = Begin(
            stream=left.stream,
            segment_size=left.segment_size,
            timeline=course.timeline,
            lsn=start,
            when=self._clock.now(),
            host=self._host,
            why=Why.TIMELINE.value,
            after=ends.switch,
            after_timeline=left.timeline,
        )
        marks = [mark for lane in lanes for mark in lane.begin(course, begin=begin, histories=histories)]
        scanner = WalScanner(timeline=course.timeline, segment_size=course.segment_size, start=start)
        return Flow(course, _intake(course, scanner, marks))

    def _next(self, stream: Stream, segment_size: int, timeline: int, start: Lsn) -> Course:
        self._count += 1
        return Course(number=self._count, stream=stream, segment_size=segment_size, timeline=timeline, start=start)


def _intake(course: Course, scanner: WalScanner, marks: Sequence[Lsn]) -> Intake:
    return Intake(
        timeline=course.timeline, start=course.start, segment_size=course.segment_size, scanner=scanner, marks=marks
    )


def _scanner(course: Course, lanes: Sequence[Lane]) -> WalScanner:
    """One that has read the end of the segment before, if that is held: it knows the record that goes on."""
    size = course.segment_size
    for lane in lanes:
        memory = lane.memory
        before = None if memory is None else memory.segment(course.stream, course.timeline, course.start // size - 1)
        if memory is None or before is None or before.stop != size:
            continue
        run_up = min(size, _RUN_UP_BYTES)
        scanner = WalScanner(timeline=course.timeline, segment_size=size, start=Lsn(course.start - run_up))
        try:
            for block in memory.reader.content(course.stream, before, start=size - run_up):
                scanner.feed(block)
        except HoldfastError:
            continue  # what it says is wanted, not needed
        return scanner
    return WalScanner(timeline=course.timeline, segment_size=size, start=course.start)
