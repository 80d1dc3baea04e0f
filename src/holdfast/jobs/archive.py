"""Receiving WAL: connect → ask who it is → go on where what is held ends → stream → cut → put → confirm.

One thread receives and decides; each repository has threads of its own that put; a watch asks the server beside the
stream. Nothing is confirmed that is not durable in every repository, and the server is never kept from going on: a slot
that holds back too much is given up, a server that shuts down is let go.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime

from holdfast.clock import Clock
from holdfast.errors import (
    AlreadyRunning,
    HoldfastError,
    Interrupted,
    NoSpace,
    NotReachable,
    PermissionRefused,
    Refused,
    TryLater,
    UsageError,
)
from holdfast.jobs.archive_beginning import Greeting, greet, release_slot, with_slot
from holdfast.jobs.archive_closing import Closing, Opening, SnapshotCommand
from holdfast.jobs.archive_course import Courses, Flow
from holdfast.jobs.archive_events import Listener
from holdfast.jobs.archive_guard import Guard
from holdfast.jobs.archive_lanes import Lanes, OpenNamed
from holdfast.jobs.archive_status import status_of
from holdfast.jobs.archive_streaming import Standing, Streaming
from holdfast.jobs.archive_telling import Telling
from holdfast.jobs.archive_waking import Waking
from holdfast.jobs.archive_watch import Watch
from holdfast.jobs.receiver_status import ReceiverStatus
from holdfast.jobs.wal_settings import WalSettings
from holdfast.messages import _
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.slot_watch import Observed
from holdfast.postgres.streaming import SlotLost, WalGone, WalSession

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0
"""Seconds between attempts to reach the server."""
BEHIND_SECONDS = 5.0
"""After so long without an advance it is asked whether the server waits for us in order to shut down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    adopt: int | None = None
    """The system identifier of a cluster that takes the other's place."""
    until_caught_up: bool = False
    """End when everything is durable that the server had when we began."""
    shutdown_seconds: float = 10.0
    """How long a server that shuts down, or whoever stops us, waits for what is not durable yet."""
    slot_seconds: float = 70.0
    """How long a slot that is in use may be in that of a connection of ours which the server has not given up yet."""


class Receiver:
    """:meth:`run` in one thread; :meth:`stop` and :meth:`status` may be asked from any."""

    def __init__(
        self,
        settings: WalSettings,
        open_repository: OpenNamed,
        *,
        clock: Clock,
        host: str,
        listener: Listener,
        snapshot: SnapshotCommand | None,
        options: Options,
    ) -> None:
        """``snapshot``: what closes a gap; None: nobody does."""
        self.settings = settings
        self.started = clock.now()
        self.phase = "connecting"
        self.server = ""
        self.gave_up = False
        """Whether the slot was given up, and is not made anew before the repositories work. Those that do work take
        meanwhile what the server sends without one."""
        self._goes_without = False
        """Whether WAL has streamed without a slot since."""
        self.telling = Telling(listener, clock)
        self.guard = Guard(retain=settings.retain, synchronous=settings.synchronous)
        self.standing = Standing()
        self.flow: Flow | None = None
        self._options = options
        self._clock = clock
        self._host = host
        self._stopping = threading.Event()
        self._waking = Waking()
        wake = self._waking.wake
        self.lanes = Lanes(settings, open_repository, clock=clock, waking=self._waking, stopping=self._stopping.is_set)
        self.watch = Watch(settings.connection, settings.slot, clock=clock, changed=wake)
        self.closing = Closing(
            settings.source,
            snapshot,
            lambda: self.lanes.repositories,
            clock=clock,
            listener=listener,
            changed=wake,
        )
        self._courses = Courses(settings.source, clock=clock, host=host, adopt=options.adopt)
        self._gone: Lsn | None = None
        """The server no longer has the WAL from here on."""
        self._slot_is_lost = False
        """Whether the server has given our slot up, whatever it shows."""
        self._goal: Lsn | None = None
        self._has_streamed = False
        self._streamed_at = clock.monotonic()
        self._shutdown_at: float | None = None
        self._looked_at: Observed | None = None
        self._in_use_since: float | None = None
        self._in_trouble: set[str] = set()

    def stop(self) -> None:
        """Ends :meth:`run` soon, what was received made durable first, if that takes no longer than it may."""
        self._stopping.set()
        self._waking.wake()

    def status(self) -> ReceiverStatus:
        return status_of(self, host=self._host)

    # --- the straight line

    def run(self) -> None:
        """Returns when it was stopped, or has caught up and was to end then. Raises what trying again does not mend."""
        self.lanes.start()
        try:
            with self.watch:
                self.lanes.await_opening(lambda: self._look(streams=False))
                self._keep_streaming()
        finally:
            self.phase = "stopping"
            self.closing.stop()
            self.lanes.stop()
        if self.flow is not None:
            self.telling.stopped(self.flow.intake.received - self.standing.confirmed)

    def run_without_streaming(self) -> None:
        """Opens the repositories for what others bring, until stopped."""
        self.phase = "serving"
        self.lanes.start()
        try:
            while not self._stopping.is_set():
                self._look(streams=False)
                self._waking.wait(1.0)
        finally:
            self.phase = "stopping"
            self.lanes.stop()

    def _keep_streaming(self) -> None:
        pause = FIRST_PAUSE
        while not self._is_done:
            self._look(streams=False)
            try:
                if self.guard.gives_up:
                    self._give_up_slot()
                if self._may_stream():
                    self._stream_once()
                    pause = FIRST_PAUSE
            except SlotLost:
                self._slot_is_lost = True
            except WalGone as error:
                self._lose_wal(error)
            except AlreadyRunning as error:
                self._wait_for_slot(error)
            except HoldfastError as error:
                self._lose_server(error)
                pause = FIRST_PAUSE if self.phase == "streaming" else min(pause * 2, LONGEST_PAUSE)
                self.phase = "waiting"
            if not self._is_done:
                self._waking.wait(pause)

    def _stream_once(self) -> None:
        """One connection: from its making until it is lost, or ends for our own reasons."""
        self.phase = "connecting"
        with WalSession(self.settings.connection, wake=self._waking.descriptor, clock=self._clock) as session:
            self.server = str(session.server)
            self.watch.follow(session.server)
            greeting = greet(session, self.settings.slot)
            flow = self._begin(session, greeting)
            if flow is None:
                return
            start = flow.intake.again()
            slot = None if self.gave_up else self.settings.slot
            session.start(slot, start, flow.course.timeline)
            self._goes_without = self.gave_up
            self.phase, self._has_streamed, self._in_use_since = "streaming", True, None
            self.telling.streams(self.server, flow.course.timeline, start)
            streaming = self._streaming(session, flow)
            while (ends := streaming.run()) is not None:
                flow = self.flow = self._courses.follow(session, ends, flow, self.lanes.open)
                session.start(slot, flow.course.start, flow.course.timeline)
                self.telling.timeline(flow.course.timeline, flow.course.start)
                streaming = self._streaming(session, flow)
            if self._stopping.is_set():
                self.phase = "stopping"
                streaming.finish(self._options.shutdown_seconds)

    def _begin(self, session: WalSession, greeting: Greeting) -> Flow | None:
        """Where it goes on; None: what is on its way must become durable first, and we were stopped meanwhile."""
        self._courses.decide(greeting, self.lanes.open, gone=self._gone)  # another server is refused, and left as it is
        if self._slot_is_lost:
            greeting = greeting.without_slot()
        if greeting.slot_is_lost:
            self.telling.slot_lost(self.settings.slot)
        if not self.gave_up:
            greeting = with_slot(session, self.settings.slot, greeting)
        self._slot_is_lost = False
        self._goal = self._goal or greeting.says.flushed
        decided = self._courses.decide(greeting, self.lanes.open, gone=self._gone)
        if self.flow is not None:
            if self._gone is None and self.flow.goes_on(greeting, decided, self.lanes.open):
                self.standing.slot = greeting.says.oldest
                return self.flow
            if not self.lanes.drain(self.flow.intake):
                return None
            decided = self._courses.decide(greeting, self.lanes.open, gone=self._gone)
        if self.flow is None or self.flow.course.stream.system_identifier != greeting.says.system_identifier:
            self.standing = Standing()
        # Not where the slot stands: one that was made anew knows nothing of what is durable.
        self.standing.confirmed = max(self.standing.confirmed, decided.durable)
        self.standing.slot = greeting.says.oldest
        flow = self.flow = self._courses.begin(greeting, decided, self.lanes.open)
        self._gone = None
        self.telling.begins(decided)
        began = self.lanes.began(flow.course.stream)
        if began is not None:
            self.closing.want(Opening(system_identifier=flow.course.stream.system_identifier, lsn=began))
        return flow

    def _streaming(self, session: WalSession, flow: Flow) -> Streaming:
        self._shutdown_at = None
        self.standing.begin(self._clock.monotonic())
        return Streaming(
            session,
            flow.intake,
            tuple(self.lanes),
            self.standing,
            waking=self._waking,
            clock=self._clock,
            at_once=lambda: self.guard.waited_for,
            seen=self._seen_beside,
            ended=self._ended,
        )

    # --- what ends a stream

    def _ended(self) -> bool:
        self._look(streams=True)
        for name in self.lanes.leave_behind():
            self.telling.left_behind(name)
        returns = self.lanes.one_returns or (self.gave_up and self.lanes.none_is_away)
        return self._is_done or self.guard.gives_up or returns or self._lets_go()

    @property
    def _is_done(self) -> bool:
        if self._stopping.is_set():
            return True
        caught_up = self._has_streamed and self._goal is not None and self.standing.confirmed >= self._goal
        return self._options.until_caught_up and caught_up and not self.closing.is_at_work

    def _lets_go(self) -> bool:
        """Whether the server waits for us in order to shut down, and has waited long enough."""
        now = self._clock.monotonic()
        self.watch.suspects = now - self.standing.advanced > BEHIND_SECONDS
        if not self.watch.shuts_down:
            return False
        if self._shutdown_at is None:
            self._shutdown_at = now
            self.telling.shuts_down()
        if now - self._shutdown_at < self._options.shutdown_seconds:
            return False
        self.telling.lets_go()
        return True

    def _look(self, *, streams: bool) -> None:
        """At what the watch saw, and at the repositories. Raises what trying again does not mend."""
        self.lanes.check()
        for lane in self.lanes:
            error = lane.carrier.error
            if (error is not None) != (lane.name in self._in_trouble):
                self._in_trouble ^= {lane.name}
                self.telling.repository(lane.name, error)
        observed = self.watch.observed
        if observed is not None and observed is not self._looked_at:
            self._looked_at = observed
            for finding in self.guard.look(observed, self._clock.monotonic(), streams=streams):
                self.telling.found(finding)
        if streams:
            self._streamed_at = self._clock.monotonic()
        since = self.standing.advanced if streams else self._streamed_at
        for finding in self.guard.commits(observed, self._clock.monotonic() - since, streams=streams):
            self.telling.found(finding)

    def _seen_beside(self) -> tuple[Lsn, datetime] | None:
        observed = self.watch.observed
        if observed is None or str(observed.server) != self.server:  # of several hosts, the one before
            return None
        return observed.end, observed.clock

    # --- what stands in the way of one

    def _may_stream(self) -> bool:
        """Whether there is a repository to stream to; after the slot was given up, whether all of them work, or some
        that need not wait for the others."""
        if self.gave_up and (self.lanes.all_work or (self._goes_without and self.lanes.none_is_away)):
            self.gave_up = self._goes_without = False
        if (self.gave_up and not self.lanes.some_work) or not self.lanes.open:
            self.phase = "waiting"
            return False
        return True

    def _give_up_slot(self) -> None:
        """So that the server's disk is spared."""
        release_slot(self.settings.connection, self.settings.slot, clock=self._clock, wait=self._waking.wait)
        self.guard.slot_is_gone()
        self.gave_up = True
        self.telling.gave_up(self.settings.slot, self.settings.retain)
        for name in self.lanes.leave_those_away():
            self.telling.left_behind(name)

    def _lose_wal(self, error: WalGone) -> None:
        if self.flow is not None:
            self._gone = max(self._gone or Lsn(0), self.flow.intake.portion.segment.start)
        self.telling.gone(error)

    def _lose_server(self, error: HoldfastError) -> None:
        """Raises what trying again does not mend; to a server that has streamed, any error may be of the moment."""
        if isinstance(error, Refused | UsageError | Interrupted) and not isinstance(error, PermissionRefused):
            raise error
        passes = isinstance(error, NotReachable | TryLater | NoSpace) and not self._options.until_caught_up
        if not passes and not self._has_streamed:
            raise error
        self.telling.lost(error)

    def _wait_for_slot(self, error: AlreadyRunning) -> None:
        observed = self.watch.observed
        pid = observed.slot.active_pid if observed is not None and observed.slot is not None else None
        if pid is not None:
            text = _("{error} (by process {pid} of the server)").format(error=error, pid=pid)
            error = AlreadyRunning(text, hint=error.hint)
        now = self._clock.monotonic()
        self._in_use_since = self._in_use_since or now
        if now - self._in_use_since > self._options.slot_seconds:
            raise error
        self.telling.in_use(error)
