"""Where a receiver goes on, from what is held and what the server says. Pure.

What is held of the server's *line* (its timeline and the ancestors, each up to where it was left) is walked from the
newest record of a beginning that lies on it, to the first hole. The least of these positions over all repositories
decides: from the beginning of its segment on, WAL is asked for again, and compared with what is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from holdfast.policy.same_server import ServerSays, check_cluster, check_server
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.timelines import History
from holdfast.repository.wal.held import Begin, Held

__all__ = ["Resume", "Resumed", "ServerSays", "Why", "resume"]


class Why(StrEnum):
    """A :class:`~holdfast.repository.wal.held.Begin` is recorded for all but ``ON``."""

    ON = "on"
    TIMELINE = "timeline"
    """Nothing is missing; a timeline begins of which nothing is held."""
    FIRST = "first"
    """Nothing of this line is held."""
    ADOPTED = "adopted"
    GAP = "gap"
    """What lies between ``after`` and where it begins is lost."""


_GRAVITY = tuple(Why)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """For one repository."""

    why: Why
    held: Lsn
    """Of the timeline that is asked for it holds everything from :attr:`Resume.lsn` up to here."""
    after: Lsn | None = None
    """Where what it holds of the line ended; None: nothing is held of it."""
    after_timeline: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    timeline: int
    """The server's, or an ancestor of it, which ends where it was left: then ask again for the next."""
    lsn: Lsn
    """The beginning of a segment: from here the server is asked for WAL."""
    durable: Lsn
    """Held contiguously up to here in every repository, to be confirmed at once. More than ``lsn`` also where of
    ``timeline`` nothing is held, but of its parent everything."""
    repositories: Mapping[str, Resumed]

    @property
    def why(self) -> Why:
        """The gravest."""
        return max((one.why for one in self.repositories.values()), key=_GRAVITY.index, default=Why.FIRST)


def resume(
    held: Mapping[str, Sequence[Held]],
    server: ServerSays,
    *,
    adopt: int | None = None,
    gone: Lsn | None = None,
) -> Resume:
    """``held``: by each repository of ``wal.to``, what it holds of each stream of the source; empty for a new one.

    ``adopt``: a system identifier that the operator takes over in so many words. ``gone``: WAL from here on was asked
    for, as this function had said, and the server no longer had it: goes on at the oldest that it has, with a gap.

    Raises :class:`~holdfast.errors.Refused`, both servers named: another system identifier; a timeline older than what
    is held; the same timeline with another history; a server that is behind what it once had sent (set back). A standby
    that is only behind is :class:`~holdfast.errors.TryLater`.
    """
    adopted = check_cluster([one for streams in held.values() for one in streams], server, adopt)
    ours = {name: _of_server(streams, server) for name, streams in held.items()}
    check_server([one for one in ours.values() if one is not None], server)
    ends = {name: _held_end(one, server.history) if one is not None else None for name, one in ours.items()}
    timeline, lsn = _where(ends.values(), server, gone)
    repositories = {
        name: _resumed(ours[name], end, server.history, timeline=timeline, lsn=lsn, adopted=adopted)
        for name, end in ends.items()
    }
    durable = min((end.durable if end is not None and end.durable > lsn else lsn for end in ends.values()), default=lsn)
    return Resume(timeline=timeline, lsn=lsn, durable=Lsn(durable), repositories=repositories)


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """Where what is held of a line ends."""

    timeline: int
    """Whose WAL is missing from ``next`` on."""
    next: Lsn
    durable: Lsn
    """``next``, or where the parent was left, if that is more."""
    parent: int | None
    """The timeline before, if nothing of ``timeline`` is held."""


def _held_end(held: Held, history: History) -> _End | None:
    """None: no beginning on this line is held."""
    begin = _newest_beginning(held.begins, history)
    if begin is None:
        return None
    size = held.segment_size
    stops = {(segment.timeline, segment.number): segment.stop for segment in held.segments}
    timeline, number, parent, left_parent = begin.timeline, begin.lsn // size, None, Lsn(0)
    while True:
        left = history.switch_from(timeline)
        end = number * size
        while (stop := stops.get((timeline, end // size), 0)) == size and (left is None or end + size < left):
            end += size
        end += stop
        if left is None or end < left:
            return _End(
                timeline=timeline,
                next=Lsn(end),
                durable=Lsn(max(end, left_parent)),
                parent=parent if end == number * size else None,
            )
        parent, left_parent = timeline, left
        timeline, number = history.timeline_at(left), left // size


def _newest_beginning(begins: Iterable[Begin], history: History) -> Begin | None:
    """The beginning of a timeline continues what was held before, and so is none."""

    def is_on_line(begin: Begin) -> bool:
        left = history.switch_from(begin.timeline)
        return history.holds(begin.timeline) and (left is None or begin.lsn < left)

    found = [begin for begin in begins if begin.why != Why.TIMELINE and is_on_line(begin)]
    return max(found, key=lambda begin: (begin.when, begin.lsn), default=None)


def _where(ends: Iterable[_End | None], server: ServerSays, gone: Lsn | None) -> tuple[int, Lsn]:
    size = server.segment_size
    known = [end for end in ends if end is not None]
    if known and gone is None:
        least = min(known, key=lambda end: (end.durable, end.timeline))
        return least.timeline, Lsn(least.next // size * size)
    oldest = server.oldest
    later = [end for end in known if gone is not None and end.next // size * size > gone]
    if later:  # one that was behind must not cost the others what they can still have
        least = min(later, key=lambda end: (end.durable, end.timeline))
        if oldest is None or least.next // size < oldest // size:
            return least.timeline, Lsn(least.next // size * size)
    if oldest is None or (gone is not None and oldest // size * size <= gone):
        oldest = server.flushed
    return server.history.timeline_at(oldest), Lsn(oldest // size * size)


def _resumed(
    held: Held | None, end: _End | None, history: History, *, timeline: int, lsn: Lsn, adopted: bool
) -> Resumed:
    if held is None or end is None:
        return Resumed(why=Why.ADOPTED if adopted else Why.FIRST, held=lsn)
    further = history.timelines.index(end.timeline) - history.timelines.index(timeline)
    left = history.switch_from(timeline)
    joined = end.next if further == 0 else left if further > 0 and left is not None else lsn
    has_some = further > 0 or (further == 0 and end.parent is None)
    is_known = has_some or any(begin.timeline == timeline for begin in held.begins)
    if end.durable < lsn:
        why = Why.GAP
    elif adopted:
        why = Why.ADOPTED
    else:
        why = Why.ON if is_known else Why.TIMELINE
    return Resumed(
        why=why,
        held=max(joined, lsn),
        after=end.durable,
        after_timeline=end.parent or end.timeline,
    )


def _of_server(streams: Sequence[Held], server: ServerSays) -> Held | None:
    return next((one for one in streams if one.stream.system_identifier == server.system_identifier), None)
