"""Where recovery to a target stops: which snapshot it begins with, and after which record it ends. Pure.

As PostgreSQL does (``recoveryStopsBefore`` and ``recoveryStopsAfter`` in ``xlogrecovery.c``): for a time, before the
first commit or abort in the order of WAL that is later (or as late, if exclusive); for an xid at its commit or abort;
for a name at the first restore point of that name; for a position at the record that begins there or next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from holdfast.errors import Refused, UsageError
from holdfast.messages import _
from holdfast.policy.lines import Following, Line, Step
from holdfast.policy.records import Bounds, IsWanted, Records, around
from holdfast.policy.refusals import Refusals, moment
from holdfast.policy.targets import TargetKind, WantedTarget
from holdfast.policy.windows import GapKind, KnownSnapshot, gaps_of
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.recovery import CONSISTENT, END_OF_WAL, Target
from holdfast.postgres.walfacts import Event, EventKind, Transaction, WalFacts

_SHOWN_POINTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    known: KnownSnapshot
    following: Following | None
    """None: the snapshot alone."""
    target: Target
    end: Bounds | None
    """The last replayed record's end; None: the snapshot's own."""
    read_to: Lsn
    """WAL must be there up to here."""
    is_kept: IsWanted
    """Of the transactions that begin after the snapshot's end."""
    until: datetime | None = None
    """None: as the last transaction kept says."""
    warnings: tuple[str, ...] = ()


class Search:
    """For one target on one line. Raises :class:`~holdfast.errors.Refused` for what cannot be reached."""

    def __init__(self, wanted: WantedTarget, line: Line, records: Records, snapshots: Sequence[KnownSnapshot]) -> None:
        """``snapshots``: those that recovery may begin with, all of this line, in the order of where they end."""
        self._wanted = wanted
        self._line = line
        self._records = records
        self._snapshots = snapshots
        self.refusals = Refusals(wanted, line, records, snapshots)

    def stop(self) -> Stop:
        match self._wanted.kind:
            case TargetKind.TIME:
                return self._time()
            case TargetKind.LSN:
                return self._lsn()
            case TargetKind.XID:
                return self._xid()
            case TargetKind.NAME:
                return self._name()
            case _:
                return self._latest()

    def _latest(self) -> Stop:
        known = self._snapshots[-1]
        following = self._line.after(known.facts)
        if following is None:
            later = [stretch for stretch in self._line.stretches if stretch.stop > known.facts.stop_lsn]
            if later:
                raise self.refusals.between(known.facts.stop_lsn, later[0].start)
            return alone(known, warnings=(_without_wal(known),))
        end = following.stretch.stop
        warnings: tuple[str, ...] = ()
        for gap in gaps_of(self._line, self._snapshots):
            if gap.start == end and (following.stretch is not self._line.stretches[-1] or gap.kind is GapKind.CONFLICT):
                raise self.refusals.beyond(end)
            if gap.start == end:
                warnings = (_("WAL from {start} to {stop} is lost").format(start=gap.start, stop=gap.stop),)
        return self._end_of_wal(known, following, warnings=warnings)

    def _time(self) -> Stop:
        time = self._wanted.time
        assert time is not None
        for known in reversed(self._snapshots):
            if not self._is_before(known, time):
                continue
            following = self._line.after(known.facts)
            if following is None:
                if known.facts.ended_at >= time:
                    return alone(known)
                raise self.refusals.beyond(known.facts.stop_lsn)
            found = self._records.first(*following, known.facts.stop_lsn, self._may_be_later, self._is_later)
            if found:
                return self._at(known, following, found, inclusive=False, until=time)
            until = self._line.until(following.stretch)
            if max(until or time, known.facts.ended_at) < time or (until is None and known.facts.ended_at < time):
                raise self.refusals.beyond(following.stretch.stop)
            return self._end_of_wal(known, following, until=time)
        raise self.refusals.too_early(None)

    def _is_later(self, tx: Transaction) -> bool:
        assert self._wanted.time is not None
        return tx.time > self._wanted.time if self._wanted.inclusive else tx.time >= self._wanted.time

    def _may_be_later(self, facts: WalFacts) -> bool:
        assert self._wanted.time is not None
        last = facts.last_time
        return last is None or (last > self._wanted.time if self._wanted.inclusive else last >= self._wanted.time)

    def _is_before(self, known: KnownSnapshot, time: datetime) -> bool:
        """Whether nothing that the snapshot holds is later than ``time``: PostgreSQL would stop there, too early."""
        facts = known.facts
        if facts.started_at > time:
            return False
        size = facts.wal_segment_size
        is_known = True
        for number in range(facts.start_lsn // size, (facts.stop_lsn - 1) // size + 1):
            step = self._line.step(number)
            if step is None or step.stop < min(facts.stop_lsn, (number + 1) * size):
                is_known = False
            if step is not None and self._records.may_hold(step, self._may_be_later):
                inside = (tx for tx in self._records.transactions(step) if facts.start_lsn <= tx.lsn < facts.stop_lsn)
                if any(map(self._is_later, inside)):
                    return False
        return is_known or facts.ended_at <= time

    def _lsn(self) -> Stop:
        lsn = Lsn.parse(self._wanted.value)
        known = next((known for known in reversed(self._snapshots) if known.facts.stop_lsn <= lsn), None)
        if known is None:
            raise self.refusals.too_early(lsn)
        following = self._line.after(known.facts)
        if following is None:
            if lsn == known.facts.stop_lsn:
                return alone(known)
            raise self.refusals.beyond(known.facts.stop_lsn)
        if lsn > following.stretch.stop:
            raise self.refusals.beyond(following.stretch.stop)
        found = around(self._records, *following, lsn)
        if found is None:
            return self._end_of_wal(known, following)
        position = self._records.border(lsn)
        end = found.after if self._wanted.inclusive else found.before
        is_exact = end.least == end.most

        def is_kept(tx: Transaction) -> bool:
            if self._records.border(tx.lsn) < position:
                return True
            return self._wanted.inclusive and is_exact and self._records.border(tx.end) <= end.most

        return Stop(
            known=known,
            following=following,
            target=_to_lsn(lsn, inclusive=self._wanted.inclusive),
            end=end,
            read_to=found.after.most,
            is_kept=is_kept,
        )

    def _xid(self) -> Stop:
        xid = int(self._wanted.value)

        def may_be(facts: WalFacts) -> bool:
            return facts.min_xid is None or facts.max_xid is None or facts.min_xid <= xid <= facts.max_xid

        found = [
            tx
            for stretch in self._line.stretches
            for step in stretch.steps
            if self._records.may_hold(step, may_be)
            for tx in self._records.transactions(step)
            if tx.xid == xid
        ]
        if not found:
            raise self._unheard_of(
                _("no commit or abort of transaction {xid} is held on timeline {timeline}").format(
                    xid=xid, timeline=self._line.timeline
                )
            )
        return self._first_of_newest(found)

    def _name(self) -> Stop:
        points = [
            event
            for stretch in self._line.stretches
            for step in stretch.steps
            for event in self._records.events(step)
            if event.kind is EventKind.RESTORE_POINT
        ]
        found = [event for event in points if event.detail == self._wanted.value]
        if not found:
            known = ", ".join(dict.fromkeys(event.detail for event in points[-_SHOWN_POINTS:])) or _("none")
            raise UsageError(
                _("no restore point {name!r} is held on timeline {timeline}").format(
                    name=self._wanted.value, timeline=self._line.timeline
                ),
                hint=_("Those that are: {names}. Another timeline is named by --timeline NUMBER.").format(names=known),
            )
        return self._first_of_newest(found)

    def _unheard_of(self, reason: str) -> UsageError:
        return UsageError(
            reason, hint=_("See what there is with `holdfast log`; another timeline is named by --timeline NUMBER.")
        )

    def _first_of_newest(self, found: Sequence[Transaction] | Sequence[Event]) -> Stop:
        """Of several, the first that recovery meets from the newest snapshot that has any after it."""
        for known in reversed(self._snapshots):
            for record in found:
                following = self._line.after(known.facts)
                if following and known.facts.stop_lsn <= record.lsn and record.end <= following.stretch.stop:
                    warnings = (self._several(found, record),) if len(found) > 1 else ()
                    return self._at(known, following, record, inclusive=self._wanted.inclusive, warnings=warnings)
        raise self._out_of_reach(found[-1])

    def _out_of_reach(self, record: Transaction | Event) -> Refused:
        before = [known for known in self._snapshots if known.facts.stop_lsn <= record.lsn]
        if not before:
            return self.refusals.too_early(record.lsn)
        following = self._line.after(before[-1].facts)
        return self.refusals.beyond(following.stretch.stop if following else before[-1].facts.stop_lsn)

    def _several(self, found: Sequence[Transaction] | Sequence[Event], chosen: Transaction | Event) -> str:
        places = ", ".join(
            f"{record.lsn} ({moment(record.time, self._wanted.zone)})" if record.time else str(record.lsn)
            for record in found
        )
        return _("{target} is there {number} times, at {places}: recovery goes to {lsn}").format(
            target=self._wanted.text, number=len(found), places=places, lsn=chosen.lsn
        )

    def _at(
        self,
        known: KnownSnapshot,
        following: Following,
        record: Transaction | Event,
        *,
        inclusive: bool,
        until: datetime | None = None,
        warnings: tuple[str, ...] = (),
    ) -> Stop:
        end = self._records.border(record.end if inclusive else record.lsn)
        return Stop(
            known=known,
            following=following,
            target=_to_lsn(record.lsn, inclusive=inclusive),
            end=Bounds(end, end),
            read_to=record.end,
            is_kept=lambda tx: tx.lsn <= record.lsn if inclusive else tx.lsn < record.lsn,
            until=until,
            warnings=warnings,
        )

    def _end_of_wal(
        self,
        known: KnownSnapshot,
        following: Following,
        *,
        until: datetime | None = None,
        warnings: tuple[str, ...] = (),
    ) -> Stop:
        stretch = following.stretch
        least = self._records.stretch_end(stretch, following.begins(known.facts))
        is_known = all(map(self._records.is_end_known, self._tail(following, least)))
        return Stop(
            known=known,
            following=following,
            target=END_OF_WAL,
            end=Bounds(least, least if is_known else stretch.stop),
            read_to=stretch.stop,
            is_kept=lambda _tx: True,
            until=until or self._line.until(stretch),
            warnings=warnings,
        )

    def _tail(self, following: Following, least: Lsn) -> Iterator[Step]:
        return (step for step in reversed(following.stretch.steps) if step.stop > least)


def alone(known: KnownSnapshot, *, warnings: tuple[str, ...] = ()) -> Stop:
    """The state at a snapshot's end."""
    return Stop(
        known=known,
        following=None,
        target=CONSISTENT,
        end=None,
        read_to=known.facts.stop_lsn,
        is_kept=lambda _tx: False,
        until=known.facts.ended_at,
        warnings=warnings,
    )


def _to_lsn(lsn: Lsn, *, inclusive: bool) -> Target:
    return Target(setting="recovery_target_lsn", value=str(lsn), inclusive=inclusive)


def _without_wal(known: KnownSnapshot) -> str:
    return _("no WAL is held from the end of snapshot {label} on: recovery ends with the snapshot").format(
        label=known.snapshot.label
    )
