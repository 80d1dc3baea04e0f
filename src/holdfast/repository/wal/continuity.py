"""Where WAL ends and begins again: facts, from what is held. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.repository.wal.held import Held


@dataclass(frozen=True, slots=True, kw_only=True)
class WalGap:
    """WAL of one timeline that lies between what is held of it."""

    timeline: int
    start: int
    """Positions (LSN): what is held before it ends here."""
    stop: int
    """Held again from here on."""
    is_recorded: bool
    """A receiver wrote down that WAL begins anew at ``stop``. Else it was held once, or was never sent."""


def gaps(held: Held) -> Iterator[WalGap]:
    """Between the segments of each timeline, and between its first beginning and its first segment."""
    size = held.segment_size
    begun = {(begin.timeline, begin.lsn // size) for begin in held.begins}
    first: dict[int, int] = {}
    for segment in held.segments:
        first.setdefault(segment.timeline, segment.number)
    for timeline, number in sorted(first.items()):
        earliest = min((at for begun_timeline, at in begun if begun_timeline == timeline), default=number)
        if earliest < number:
            yield WalGap(timeline=timeline, start=earliest * size, stop=number * size, is_recorded=False)
    for before, after in zip(held.segments, held.segments[1:], strict=False):
        start, stop = before.number * size + before.stop, after.number * size
        if before.timeline == after.timeline and start < stop:
            recorded = (after.timeline, after.number) in begun
            yield WalGap(timeline=after.timeline, start=start, stop=stop, is_recorded=recorded)
