"""What a recovery replays: which files it finds, what they change, and which transactions lie around its end. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from holdfast.messages import _
from holdfast.policy.lines import Following, Line, Step
from holdfast.policy.records import IsWanted, Records
from holdfast.policy.refusals import Refusals
from holdfast.postgres.facts import BackupFacts, RecoveryLimits
from holdfast.postgres.lsn import Lsn, Segment
from holdfast.postgres.walfacts import Event, EventKind, Transaction
from holdfast.repository.wal.held import HeldSegment


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSegment:
    """One WAL file that recovery will find."""

    segment: Segment
    repository: str
    """Where its bytes come from; empty: the snapshot's own WAL."""
    held: HeldSegment | None
    """None for the snapshot's own."""
    stop: int
    """Bytes that are brought of it: fewer than the segment's size only of the last one; zeros follow."""

    @property
    def is_padded(self) -> bool:
        return self.stop < self.segment.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    limits: RecoveryLimits
    created_tablespaces: tuple[Event, ...]
    warnings: tuple[str, ...]


class Replay:
    """From a backup's start to ``read_to``."""

    def __init__(self, line: Line, records: Records, facts: BackupFacts, following: Following, read_to: Lsn) -> None:
        self._line = line
        self._records = records
        self._facts = facts
        self._following = following
        self._read_to = read_to

    def files(self) -> tuple[PlannedSegment, ...]:
        """Each whole but the last. Until the backup's end its own WAL stands in for what is not wholly held."""
        size = self._facts.wal_segment_size
        first = self._following.stretch.steps[self._following.first].number
        planned = []
        for number in range(self._facts.start_lsn // size, max(first, (self._read_to - 1) // size) + 1):
            step = self._line.step(number)
            if step is not None and (number >= first or step.stop == (number + 1) * size):
                segment = Segment(timeline=step.timeline, number=number, size=size)
                stop = step.stop - step.start
                planned.append(
                    PlannedSegment(segment=segment, repository=step.repository, held=step.segment, stop=stop)
                )
            else:
                segment = Segment(timeline=self._facts.timeline, number=number, size=size)
                planned.append(PlannedSegment(segment=segment, repository="", held=None, stop=size))
        return tuple(planned)

    def changes(self, end: Lsn, refusals: Refusals) -> Changes:
        """By records that are replayed if recovery ends at ``end``. Refuses what PostgreSQL would not replay."""
        limits, tablespaces, warnings = self._facts.limits, [], []
        for step in self._steps():
            known = self._records.facts(step)
            if None in known:
                name = Segment(timeline=step.timeline, number=step.number, size=self._facts.wal_segment_size).name
                warnings.append(
                    _("nobody knows whether WAL segment {name} creates tablespaces or changes limits").format(name=name)
                )
            for event in (event for facts in known if facts for event in facts.events):
                if event.end > step.stop or event.lsn < self._facts.start_lsn or self._records.border(event.end) > end:
                    continue
                if event.kind is EventKind.TABLESPACE:
                    tablespaces.append(event)
                elif event.kind is EventKind.PARAMETERS:
                    limits = limits.at_least(_limits(event, limits, refusals))
        return Changes(limits=limits, created_tablespaces=tuple(tablespaces), warnings=tuple(warnings))

    def _steps(self) -> Iterator[Step]:
        size = self._facts.wal_segment_size
        for number in range(self._facts.start_lsn // size, (self._read_to - 1) // size + 1):
            if step := self._line.step(number):
                yield step

    def last_kept(self, is_kept: IsWanted) -> Transaction | None:
        return self._records.last(self._replayed(), self._facts.stop_lsn, is_kept)

    def first_left_out(self, end: Lsn, is_kept: IsWanted) -> Transaction | None:
        """The first that is held and not kept; ``end``: where recovery ends."""
        steps = self._following.stretch.steps
        index = max(self._following.first, min(end // self._facts.wal_segment_size - steps[0].number, len(steps) - 1))
        return self._records.first(
            self._following.stretch, index, self._facts.stop_lsn, lambda _facts: True, lambda tx: not is_kept(tx)
        )

    def _replayed(self) -> Sequence[Step]:
        steps = self._following.stretch.steps
        beyond = (self._read_to - 1) // self._facts.wal_segment_size - steps[0].number + 1
        return steps[self._following.first : max(beyond, self._following.first + 1)]

    def until(self, end: Lsn, last_kept: Transaction | None, first_left_out: Transaction | None) -> datetime:
        """What is known of the server's clock at ``end``; no later than the first transaction left out."""
        times = [self._facts.ended_at, *([last_kept.time] if last_kept else [])]
        for step in reversed(self._replayed()):
            clocks = [
                piece.clock
                for piece in step.segment.pieces
                if piece.clock is not None and step.start + piece.stop <= end
            ]
            times += clocks
            if clocks:
                break
        return min(max(times), *([first_left_out.time] if first_left_out else [max(times)]))


def _limits(event: Event, before: RecoveryLimits, refusals: Refusals) -> RecoveryLimits:
    """Those that a parameter change names; ``before`` for what it does not."""
    try:
        found = json.loads(event.detail)
        numbers = {name: int(found.get(name, getattr(before, name))) for name in RecoveryLimits.__slots__}
        wal_level = str(found.get("wal_level", ""))
    except (ValueError, TypeError, AttributeError):
        return before
    if wal_level == "minimal":
        raise refusals.at(
            event.lsn,
            _("the server ran with wal_level = minimal from {lsn} on, which recovery cannot cross").format(
                lsn=event.lsn
            ),
        )
    return RecoveryLimits(**numbers)
