"""Windows and gaps: from snapshots and WAL held to the moments that can be reached. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import groupby, pairwise

from holdfast.policy.lines import Line, ServerWal, Stretch, servers
from holdfast.postgres.facts import BackupFacts
from holdfast.postgres.lsn import Lsn, history_name
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.wal.held import Held


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSnapshot:
    """A snapshot of a PostgreSQL source that can be read, and where it lies."""

    repository: str
    """The repository's name in the configuration."""
    snapshot: Snapshot
    facts: BackupFacts


class GapKind(StrEnum):
    MISSING = "missing"
    """WAL between two stretches is not held."""
    CONFLICT = "conflict"
    """Two contents stand beside each other."""
    HISTORY = "history"
    """The history file of a timeline is not held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    kind: GapKind
    system_identifier: int
    timeline: int
    start: Lsn
    """What is held before it ends here."""
    stop: Lsn
    """Held again from here on."""
    since: datetime | None
    """The last moment known to be reachable before it."""
    until: datetime | None
    """The first moment reachable after it, by a snapshot taken since; None: none yet, so it is open."""
    objects: tuple[str, ...] = ()
    """For a conflict: those that stand beside each other."""

    @property
    def is_open(self) -> bool:
        return self.until is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of one timeline's line to any moment of which recovery is possible."""

    system_identifier: int
    timeline: int
    """The newest of its line."""
    start: Lsn
    """The end of its first snapshot."""
    stop: Lsn
    """Everything up to here is held."""
    since: datetime
    until: datetime
    """Each commit up to here is held: the server's clock, not ours."""
    snapshots: tuple[str, ...]
    """Ids, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    windows: tuple[Window, ...]
    """Oldest first; the last is the present one."""
    gaps: tuple[Gap, ...]


def reach(snapshots: Sequence[KnownSnapshot], wal: Mapping[str, Sequence[Held]]) -> Reach:
    """``wal``: by the repository's name, what it holds of each stream of one source. A window may lean on several
    repositories: what one lacks another may have.

    A timeline that was left has windows of its own where its WAL goes on beyond the place where it was left."""
    windows: list[Window] = []
    gaps: list[Gap] = []
    found = servers(wal, (known.facts for known in snapshots))
    for server in sorted(found.values(), key=lambda server: newest_moment(server, snapshots)):
        own = backups_of(server, snapshots)
        server_windows, server_gaps = _of_server(server, own)
        windows += server_windows
        gaps += [gap for gap in server_gaps if gap not in gaps]
    return Reach(windows=tuple(windows), gaps=tuple(gaps))


def backups_of(server: ServerWal, snapshots: Iterable[KnownSnapshot]) -> list[KnownSnapshot]:
    """Those of one server, in the order of where they end."""
    key = (server.identifier, server.segment_size)
    own = [known for known in snapshots if (known.facts.system_identifier, known.facts.wal_segment_size) == key]
    return sorted(own, key=lambda known: (known.facts.stop_lsn, known.facts.ended_at))


def newest_moment(server: ServerWal, snapshots: Sequence[KnownSnapshot]) -> datetime:
    """The last sign of life of a server: which of several is the present one."""
    moments = [known.facts.ended_at for known in backups_of(server, snapshots)]
    moments += [begin.when for begin in server.begins]
    for timeline in server.timelines:
        line = server.line(timeline)
        if line and line.stretches and (until := line.until(line.stretches[-1])):
            moments.append(until)
    return max(moments, default=_LONG_AGO)


_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


def newest_timeline(server: ServerWal, snapshots: Iterable[KnownSnapshot]) -> int:
    """The highest number that WAL, a history file or a snapshot speaks of."""
    files = {*server.histories, *server.differing_histories}
    return max({*server.timelines, *files, *(known.facts.timeline for known in snapshots)}, default=1)


def _of_server(server: ServerWal, own: Sequence[KnownSnapshot]) -> tuple[list[Window], list[Gap]]:
    newest = newest_timeline(server, own)
    old: list[Window] = []
    present: list[Window] = []
    gaps: list[Gap] = []
    lines: list[Line] = []
    for timeline in sorted({newest, *server.timelines, *(known.facts.timeline for known in own)}, reverse=True):
        line = server.line(timeline)
        if line is None:
            if timeline in server.timelines or timeline in server.differing_histories:
                gaps.append(_without_history(server, timeline, own))
            continue
        left = max((_left(other, timeline) for other in lines), default=0)
        is_covered = any(other.history.holds(timeline) for other in lines) and server.end_of(timeline) <= left
        if not is_covered:
            found = windows_of(line, own)
            beyond = [window for window in found if window.stop > left]
            (old if lines else present).extend(beyond)
            gaps += [gap for gap in gaps_of(line, own, is_left=bool(lines)) if gap.stop > left]
        lines.append(line)
    gaps = sorted(set(gaps), key=lambda gap: (gap.timeline, gap.start, gap.stop))
    return sorted(old, key=lambda window: window.until) + present, gaps


def _left(line: Line, timeline: int) -> int:
    return next((int(item.stop or 0) for item in line.intervals if item.timeline == timeline), 0)


def _without_history(server: ServerWal, timeline: int, own: Sequence[KnownSnapshot]) -> Gap:
    numbers = sorted(server.numbers(timeline))
    start = Lsn(numbers[0] * server.segment_size) if numbers else Lsn(0)
    is_conflict = timeline in server.differing_histories
    later = [known.facts.ended_at for known in own if known.facts.timeline > timeline]
    return Gap(
        kind=GapKind.CONFLICT if is_conflict else GapKind.HISTORY,
        system_identifier=server.identifier,
        timeline=timeline,
        start=start,
        stop=Lsn(max(server.end_of(timeline), start)),
        since=None,
        until=min(later, default=None),
        objects=(history_name(timeline),),
    )


def windows_of(line: Line, snapshots: Sequence[KnownSnapshot]) -> list[Window]:
    """Of one line, oldest first. Snapshots of one stretch share a window."""
    found = []
    for known in snapshots:
        following = line.after(known.facts) if line.carries(known.facts) else None
        if following:
            found.append((following.stretch, known))
    found.sort(key=lambda item: (item[0].start, item[1].facts.stop_lsn, item[1].facts.ended_at))
    windows = []
    for _start, group in groupby(found, key=lambda item: item[0].start):
        members = list(group)
        windows.append(_window(line, members[0][0], [known for _stretch, known in members]))
    return windows


def _window(line: Line, stretch: Stretch, members: Sequence[KnownSnapshot]) -> Window:
    ended = [known.facts.ended_at for known in members]
    return Window(
        system_identifier=line.wal.identifier,
        timeline=line.timeline,
        start=members[0].facts.stop_lsn,
        stop=stretch.stop,
        since=min(ended),
        until=max([*ended, line.until(stretch) or ended[0]]),
        snapshots=tuple(dict.fromkeys(known.snapshot.id for known in members)),
    )


def gaps_of(line: Line, snapshots: Sequence[KnownSnapshot], *, is_left: bool = False) -> list[Gap]:
    """Of one line, from its first snapshot on. ``is_left``: the server is on another timeline by now, so that a
    snapshot of a newer one, taken since, closes a gap as well."""
    own = [known for known in snapshots if line.carries(known.facts)]
    if not own:
        return []
    first = min(known.facts.start_lsn for known in own)
    stretches = [stretch for stretch in line.stretches if stretch.stop > first]
    borders = [(one.stop, other.start) for one, other in pairwise(stretches)]
    if stretches:
        borders += _at_the_end(line, stretches[-1], own)
    followed = [(known, line.after(known.facts) is not None) for known in own]
    if stretches and not any(is_followed for _known, is_followed in followed):
        borders += _after_the_snapshots(stretches[-1], own)
    reachable = {stretch.stop: line.until(stretch) for stretch in stretches}
    gaps = []
    for start, stop in borders:
        since = reachable.get(start)
        closing = [
            known.facts.ended_at
            for known, is_followed in followed
            if known.facts.stop_lsn >= (start if is_followed else stop) and known.facts.stop_lsn > start
        ]
        if is_left:
            closing += [
                known.facts.ended_at
                for known in snapshots
                if known.facts.timeline > line.timeline and (since is None or known.facts.ended_at > since)
            ]
        objects = line.conflict_at(start)
        gaps.append(
            Gap(
                kind=GapKind.CONFLICT if objects else GapKind.MISSING,
                system_identifier=line.wal.identifier,
                timeline=line.history.timeline_at(start),
                start=start,
                stop=stop,
                since=since,
                until=min(closing, default=None),
                objects=objects,
            )
        )
    return gaps


def _after_the_snapshots(last: Stretch, own: Sequence[KnownSnapshot]) -> list[tuple[Lsn, Lsn]]:
    """From the newest snapshot to the WAL that is held, where no window begins at all."""
    end = max(known.facts.stop_lsn for known in own)
    return [(end, last.start)] if end < last.start else []


def _at_the_end(line: Line, last: Stretch, own: Sequence[KnownSnapshot]) -> list[tuple[Lsn, Lsn]]:
    """After the last WAL held: a snapshot that begins later, or the record of a receiver that goes on later."""
    later = [known.facts.start_lsn for known in own if known.facts.start_lsn > last.stop]
    later += [
        Lsn(begin.lsn)
        for begin in line.wal.begins
        if begin.why == "gap" and begin.timeline == line.timeline and begin.lsn > last.stop
    ]
    if not later and line.conflict_at(last.stop):
        later = [Lsn((last.stop // line.wal.segment_size + 1) * line.wal.segment_size)]
    return [(last.stop, min(later))] if later else []
