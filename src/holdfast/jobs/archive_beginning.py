"""What is asked of a server before it streams: who it is, its history, our slot; what is recorded where WAL begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from holdfast.clock import Clock
from holdfast.errors import AlreadyRunning
from holdfast.policy.resuming import Resume, Resumed, ServerSays, Why
from holdfast.postgres.streaming import SlotState, WalSession
from holdfast.postgres.timelines import parse_history
from holdfast.repository.wal.held import Begin
from holdfast.repository.wal.pieces import Stream

RELEASE_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What a server said of itself."""

    says: ServerSays
    histories: Mapping[int, bytes]
    """The history files of its timeline and of that one's ancestors, as far as it has them."""
    slot: SlotState | None
    """Ours, as it is; None: there is none."""

    @property
    def slot_is_lost(self) -> bool:
        """It is there and keeps nothing any more."""
        return self.slot is not None and self.slot.restart_lsn is None

    def without_slot(self) -> Greeting:
        """The same of a server that has given our slot up, although it still shows where that stood."""
        slot = None if self.slot is None else replace(self.slot, restart_lsn=None)
        return replace(self, slot=slot, says=replace(self.says, oldest=None))


def greet(session: WalSession, slot: str) -> Greeting:
    """Who the server is. Nothing is changed there: it may be another than the one that is meant."""
    identity = session.identify()
    histories = histories_of(session, identity.timeline)
    state = session.slot(slot)
    says = ServerSays(
        system_identifier=identity.system_identifier,
        timeline=identity.timeline,
        flushed=identity.flushed,
        segment_size=session.segment_size(),
        history=parse_history(identity.timeline, histories.get(identity.timeline, b"")),
        oldest=None if state is None else state.restart_lsn,
        in_recovery=identity.in_recovery,
    )
    return Greeting(says=says, histories=histories, slot=state)


def with_slot(session: WalSession, slot: str, greeting: Greeting) -> Greeting:
    """The same once our slot is there and keeps WAL: made, or made anew if it is lost."""
    if greeting.says.oldest is not None:
        return greeting
    if greeting.slot_is_lost:
        session.drop_slot(slot)
    return replace(greeting, says=replace(greeting.says, oldest=session.create_slot(slot)))


def release_slot(connection: str, slot: str, *, clock: Clock, wait: Callable[[float], None]) -> None:
    """Drops our slot. Raises :class:`~holdfast.errors.AlreadyRunning` if somebody else goes on streaming from it."""
    end = clock.monotonic() + RELEASE_SECONDS
    while True:
        try:
            with WalSession(connection, clock=clock) as session:
                session.drop_slot(slot)
            return
        except AlreadyRunning:  # our own walsender, perhaps, which has not noticed yet that we are gone
            if clock.monotonic() > end:
                raise
            wait(0.25)


def histories_of(session: WalSession, timeline: int) -> dict[int, bytes]:
    """The history files of ``timeline`` and its ancestors. Timeline 1 has none."""
    if timeline == 1:
        return {}
    found = {timeline: session.history(timeline)}
    line = parse_history(timeline, found[timeline] or b"")
    for branch in line.ancestors:
        if branch.timeline > 1:
            found[branch.timeline] = session.history(branch.timeline)
    return {number: content for number, content in found.items() if content is not None}


def beginning(
    resumed: Resumed, resume: Resume, *, stream: Stream, segment_size: int, when: datetime, host: str
) -> Begin | None:
    """What is recorded in one repository; None: it goes on from what it holds."""
    if resumed.why is Why.ON:
        return None
    return Begin(
        stream=stream,
        segment_size=segment_size,
        timeline=resume.timeline,
        lsn=resume.lsn,
        when=when,
        host=host,
        why=resumed.why.value,
        after=resumed.after,
        after_timeline=resumed.after_timeline,
    )
