"""What cannot be reached, why, and what can: errors name the gap and the nearest moments, ready to be typed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from holdfast.errors import Refused
from holdfast.messages import _
from holdfast.policy.lines import Line
from holdfast.policy.records import Records
from holdfast.policy.targets import WantedTarget
from holdfast.policy.windows import Gap, GapKind, KnownSnapshot, gaps_of
from holdfast.postgres.lsn import Lsn, Segment, history_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Reachable:
    """A moment that can be reached, and how it is written."""

    lsn: Lsn
    time: datetime | None
    target: str


def reachable(line: Line, records: Records, snapshots: Sequence[KnownSnapshot]) -> Iterator[Reachable]:
    """The ends of each snapshot and of each window of a line."""
    for known in snapshots:
        if line.carries(known.facts):
            facts = known.facts
            yield Reachable(lsn=facts.stop_lsn, time=facts.ended_at, target=f"snapshot:{known.snapshot.short_id}")
            if following := line.after(facts):
                stretch = following.stretch
                end = records.stretch_end(stretch, following.begins(facts))
                yield Reachable(lsn=end, time=line.until(stretch), target=f"lsn:{end}")


def moment(when: datetime, zone: tzinfo) -> str:
    """As TARGET takes it."""
    local = when.astimezone(zone)
    return local.isoformat(sep=" ", timespec="microseconds" if local.microsecond else "seconds")


class Refusals:
    """For one target on one line."""

    def __init__(self, wanted: WantedTarget, line: Line, records: Records, snapshots: Sequence[KnownSnapshot]) -> None:
        self._wanted = wanted
        self._line = line
        self._records = records
        self._snapshots = snapshots

    def at(self, lsn: int | None, reason: str) -> Refused:
        """``lsn``: where the target lies, or the end of what is held before it; by time if it has one, without."""
        return Refused(
            _("{target} cannot be reached: {reason}").format(target=self._wanted.text, reason=reason),
            hint=self._nearest(lsn),
        )

    def too_early(self, lsn: int | None) -> Refused:
        return self.at(lsn, _("no snapshot that recovery could begin with ends before it"))

    def beyond(self, start: Lsn) -> Refused:
        """What is held ends at ``start``: a gap, or the end of all."""
        gap = self._gap(start)
        if gap is None:
            last = max((item.time for item in self._moments() if item.time), default=None)
            until = f" ({moment(last, self._wanted.zone)})" if last else ""
            return self.at(start, _("WAL is held up to {lsn}{until} and not beyond").format(lsn=start, until=until))
        return self.at(start, self._about(gap))

    def between(self, start: Lsn, stop: Lsn) -> Refused:
        """Nothing is held from ``start`` to ``stop``, with which the WAL held since could be reached."""
        gap = next((gap for gap in gaps_of(self._line, self._snapshots) if gap.start <= start < gap.stop), None) or Gap(
            kind=GapKind.MISSING,
            system_identifier=self._line.wal.identifier,
            timeline=self._line.history.timeline_at(start),
            start=start,
            stop=stop,
            since=None,
            until=None,
        )
        return self.at(start, self._about(gap))

    def _gap(self, start: Lsn) -> Gap | None:
        gaps = gaps_of(self._line, self._snapshots)
        return next((gap for gap in gaps if gap.start == start), None)

    def _about(self, gap: Gap) -> str:
        size = self._line.wal.segment_size
        if gap.kind is GapKind.CONFLICT:
            segment = Segment.holding(gap.start, timeline=gap.timeline, size=size).name
            return _("two different contents are held of WAL segment {segment}: {objects}").format(
                segment=segment, objects=", ".join(gap.objects)
            )
        since, until = (f" ({moment(when, self._wanted.zone)})" if when else "" for when in (gap.since, gap.until))
        return _(
            "WAL from {start}{since} to {stop}{until} on timeline {timeline} is missing, from segment {segment} on"
        ).format(
            start=gap.start,
            since=since,
            stop=gap.stop,
            until=until,
            timeline=gap.timeline,
            segment=Segment.holding(gap.start, timeline=self._line.file_of(gap.start), size=size).name,
        )

    def _moments(self) -> list[Reachable]:
        return list(reachable(self._line, self._records, self._snapshots))

    def _nearest(self, lsn: int | None) -> str:
        found = self._moments()
        if not found:
            return _("No snapshot is on this timeline: `holdfast list` shows those that there are.")
        time = self._wanted.time
        if time is not None:
            before = [item for item in found if item.time is not None and item.time <= time]
            after = [item for item in found if item.time is not None and item.time > time]
        elif lsn is not None:
            before = [item for item in found if item.lsn <= lsn]
            after = [item for item in found if item.lsn > lsn]
        else:
            before, after = found, []
        parts = []
        if before:
            parts.append(
                _("The nearest moment before it is --at {target}.").format(
                    target=self._typed(max(before, key=lambda item: (item.lsn, item.target)))
                )
            )
        if after:
            parts.append(
                _("The nearest moment after it is --at {target}.").format(
                    target=self._typed(min(after, key=lambda item: (item.lsn, item.target)))
                )
            )
        return " ".join(parts)

    def _typed(self, item: Reachable) -> str:
        timeline = "" if self._wanted.timeline is None else f" --timeline {self._wanted.timeline}"
        when = "" if item.time is None else f" ({moment(item.time, self._wanted.zone)})"
        return f"{item.target}{timeline}{when}"


def without_history(wanted: WantedTarget, timeline: int, *, is_conflict: bool) -> Refused:
    name = history_name(timeline)
    reason = (
        _("two different contents are held of history file {name}").format(name=name)
        if is_conflict
        else _("history file {name} is not held, so nobody knows where timeline {timeline} began").format(
            name=name, timeline=timeline
        )
    )
    return Refused(
        _("{target} cannot be reached: {reason}").format(target=wanted.text, reason=reason),
        hint=_(
            "Give it to `holdfast wal push` from the server's pg_wal or from a standby; or recover on an older "
            "timeline, --timeline NUMBER; or to a snapshot, --at snapshot:ID."
        ),
    )
