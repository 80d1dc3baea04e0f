"""The stream of one timeline: receive, cut, confirm, in one thread that never waits for a store.

What is confirmed is durable in every repository, contiguously. When too much waits for the stores nothing more is read,
but feedback goes on: the server keeps what we do not take.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from holdfast.clock import Clock
from holdfast.jobs.archive_lane import Lane
from holdfast.jobs.archive_portions import Intake
from holdfast.jobs.archive_waking import Waking
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.streaming import Keepalive, Message, TimelineEnds, WalData, WalSession

FEEDBACK_SECONDS = 10.0
ANSWER_SECONDS = 0.1
"""A server that shuts down answers each feedback that does not satisfy it by asking again, at once."""
TICK_SECONDS = 0.5
_BATCH = 64
_MARKS = 1000


@dataclass(kw_only=True)
class Standing:
    """What is known of the stream: written by the receiving thread, read by whoever asks for the status."""

    confirmed: Lsn = field(default_factory=Lsn)
    """What the server was told; never less than before."""
    slot: Lsn | None = None
    """Where our slot stood when we came. It goes back to what is confirmed, so a position before it is told only when
    WAL comes from there: else a slot made anew would hold on to what is gone, and let go what is there."""
    server_end: Lsn = field(default_factory=Lsn)
    clock: datetime | None = None
    """The server's, when nothing beyond what had been received had been written."""
    safe_until: datetime | None = None
    heard: datetime | None = None
    """By our clock."""
    advanced: float = 0.0
    """When the confirmed position last went on, or nothing was behind; on the monotonic clock."""
    marks: deque[tuple[Lsn, datetime]] = field(default_factory=deque)
    """Positions with the server's clock there, not confirmed yet."""

    def begin(self, now: float) -> None:
        """A stream begins: clocks of another server are worth nothing. ``now``: monotonic."""
        self.clock, self.advanced = None, now
        self.marks.clear()

    def caught_up(self, lsn: Lsn, clock: datetime) -> None:
        """At ``clock`` the server had written nothing beyond ``lsn``, which has been received."""
        if self.clock is not None and clock <= self.clock:
            return
        self.clock = clock
        if self.marks and (self.marks[-1][0] == lsn or len(self.marks) >= _MARKS):
            self.marks.pop()
        self.marks.append((lsn, clock))

    def settle(self) -> None:
        while self.marks and self.marks[0][0] <= self.confirmed:
            self.safe_until = self.marks.popleft()[1]


class Streaming:
    def __init__(
        self,
        session: WalSession,
        intake: Intake,
        lanes: Sequence[Lane],
        standing: Standing,
        *,
        waking: Waking,
        clock: Clock,
        at_once: Callable[[], bool],
        seen: Callable[[], tuple[Lsn, datetime] | None],
        ended: Callable[[], bool],
    ) -> None:
        """``at_once``: whether commits wait for us. ``seen``: how far the server had written at a moment of its clock,
        as it said beside the stream. ``ended``: asked at least every half second, and whenever anything has changed;
        true ends :meth:`run`."""
        self._session = session
        self._intake = intake
        self._lanes = lanes
        self._standing = standing
        self._waking = waking
        self._clock = clock
        self._at_once = at_once
        self._seen = seen
        self._ended = ended
        self._fed_back = float("-inf")
        self._told = Lsn(0)
        self._answer = False
        self._has_come = False
        """Whether any WAL has come."""
        self._is_live = False
        """Whether what came last was all that the server had."""

    def run(self) -> TimelineEnds | None:
        """Until the timeline ends, or ``ended``: then None. Raises what the session raises, ``Refused`` for bytes that
        are not what they were."""
        self._feed_back()
        while not self._ended():
            ends = self._take_in()
            seen = self._seen()
            if seen is not None and seen[0] <= self._intake.received:
                self._standing.caught_up(self._intake.received, seen[1])
            self._cut()
            self._feed_back()
            if ends is not None:
                return ends
        return None

    def finish(self, limit: float) -> None:
        """What was received becomes durable, and is confirmed, if that takes no longer than ``limit`` seconds."""
        self._intake.scan()
        for lane in self._lanes:
            lane.offer(self._intake.portion, self._standing.clock)
        until = self._clock.monotonic() + limit
        while self._standing.confirmed < self._intake.received and self._clock.monotonic() < until:
            self._waking.wait(ANSWER_SECONDS)
            self._feed_back()
        self._session.receive(0)  # sends what waits

    def has_room(self) -> bool:
        return not any(lane.is_full for lane in self._lanes)

    def _take_in(self) -> TimelineEnds | None:
        if not self.has_room():
            self._waking.wait(self._patience())
            return None
        timeout = self._patience()
        for _number in range(_BATCH):
            message = self._session.receive(timeout)
            if isinstance(message, TimelineEnds):
                return message
            if message is None:
                break
            self._take(message)
            if not self.has_room():
                break
            timeout = 0
        self._waking.clear()  # whatever woke us is looked at after this
        return None

    def _take(self, message: Message) -> None:
        standing, intake = self._standing, self._intake
        standing.heard = self._clock.now()
        if isinstance(message, WalData):
            self._has_come = True
            for portion in intake.add(message.start, message.content):
                for lane in self._lanes:
                    lane.seal(portion, standing.clock)
            standing.server_end = max(standing.server_end, message.server_end)
            self._is_live = intake.received == message.server_end
            if self._is_live:
                standing.caught_up(intake.received, message.clock)
        elif isinstance(message, Keepalive):
            standing.server_end = max(standing.server_end, message.server_end)
            self._answer = self._answer or message.reply
            if self._is_live and message.server_end == intake.received:
                standing.caught_up(intake.received, message.clock)

    def _cut(self) -> None:
        portion = self._intake.portion
        at_once = self._at_once()
        due = [lane for lane in self._lanes if lane.is_due(portion, at_once=at_once)]
        due += [lane for lane in self._lanes if lane.clock_is_due(portion, self._standing.clock)]
        if due:
            self._intake.scan()
        for lane in due:
            lane.offer(portion, self._standing.clock)

    def _confirmed(self) -> Lsn:
        reached = [lane.durable for lane in self._lanes]
        least = min((one for one in reached if one is not None), default=None)
        if least is None or None in reached:
            return self._standing.confirmed
        return max(self._standing.confirmed, least[1])

    def _feed_back(self) -> None:
        """At every advance, every ten seconds, and when the server wants it, but not as often as it likes."""
        standing = self._standing
        confirmed = self._confirmed()
        now = self._clock.monotonic()
        if confirmed > standing.confirmed or confirmed >= self._intake.received:
            standing.advanced = now
        standing.confirmed = confirmed
        standing.settle()
        if not self._has_come and standing.slot is not None and confirmed < standing.slot:
            return
        since = now - self._fed_back
        if confirmed == self._told and since < (ANSWER_SECONDS if self._answer else FEEDBACK_SECONDS):
            return
        asks = since >= FEEDBACK_SECONDS and not self._answer
        self._session.confirm(written=confirmed, flushed=confirmed, applied=Lsn(0), clock=self._clock.now(), reply=asks)
        self._told, self._fed_back, self._answer = confirmed, now, False

    def _patience(self) -> float:
        """How long nothing need be done unless something comes."""
        if self._answer:
            return ANSWER_SECONDS
        portion = self._intake.portion
        waits = [lane.seconds_left for lane in self._lanes if lane.is_due(portion, at_once=True)]
        return min([TICK_SECONDS, *(max(0.0, wait) for wait in waits)])
