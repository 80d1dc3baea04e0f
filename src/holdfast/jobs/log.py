"""Who removed what, from the WAL that is held: line → records → transactions → names → what is shown.

The newest line of the source's newest cluster is read, from somewhat before the time that is asked for, as transactions
begin earlier than they end. Rows are counted; names come from the running server, if it can be asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Protocol

from holdfast.errors import UsageError
from holdfast.jobs.progress import Progress
from holdfast.jobs.recovery_inputs import RecoveryInputs
from holdfast.messages import _
from holdfast.policy.lines import Line, ServerWal, Step, Stretch, servers
from holdfast.policy.windows import Window, reach
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.relations import Named
from holdfast.postgres.timelines import History
from holdfast.postgres.walchanges import ChangeKind, Committed, committed, wanted
from holdfast.postgres.walrecords import Relation, records

RUN_UP_BYTES = 64 << 20
"""Of WAL before what is asked for: whatever began in it is counted wholly."""
_FIRST_OF_USERS = 16384
"""FirstNormalObjectId (``transam.h``): lower numbers are catalogues."""
_TABLES = ("r", "p")
_REMOVES = (ChangeKind.TRUNCATE, ChangeKind.DROP)


class Names(Protocol):
    """:class:`~holdfast.postgres.relations.RelationNames`."""

    @property
    def why(self) -> str: ...

    def database(self, oid: int, /) -> str | None: ...

    def of_file(self, relation: Relation, /) -> Named | None: ...

    def of_oid(self, database: int, oid: int, /) -> Named | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Nameless:
    """Where nobody can be asked."""

    why: str

    def database(self, _oid: int) -> str | None:
        return None

    def of_file(self, _relation: Relation) -> Named | None:
        return None

    def of_oid(self, _database: int, _oid: int) -> Named | None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    since: datetime
    until: datetime | None = None
    table: str | None = None
    """``schema.table``, ``table``, or numbers as they are shown: ``16384/16402``."""
    kinds: frozenset[ChangeKind] = frozenset(ChangeKind)
    limit: int = 1000
    """The newest so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One kind of change to one relation."""

    kind: ChangeKind
    rows: int | None
    """None: all that there were."""
    relation: str
    """Schema and name, or numbers: database/relfilenode."""
    is_named: bool
    database: str | None
    """Its name, or None: not known."""
    may_be_rewrite: bool = False
    """Whether it may have been VACUUM FULL, CLUSTER or ALTER TABLE, which leave the rows."""
    files: int = 1
    """How many files went: a table's own, its indexes', its TOAST table's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    xid: int
    time: datetime
    lsn: Lsn
    """Recovery to there, exclusively, is the moment just before."""
    timeline: int
    changes: tuple[Shown, ...]
    is_whole: bool
    """Whether no more rows can have been changed before the WAL that was read."""
    is_reachable: bool
    """Whether there is a snapshot from which WAL leads there without a gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    entries: tuple[Entry, ...]
    left_out: int
    """Older ones, beyond the limit."""
    start: Lsn | None
    stop: Lsn | None
    """What was read; None: nothing."""
    notes: tuple[str, ...]


def newest_server(inputs: RecoveryInputs) -> ServerWal:
    """That of which WAL was begun last. Raises ``UsageError`` where no WAL is held."""
    known = [server for server in servers(inputs.wal, ()).values() if server.timelines]
    if not known:
        raise UsageError(
            _("no WAL of {source} is held").format(source=inputs.source),
            hint=_("WAL is kept by `holdfast wal receive {source}`.").format(source=inputs.source),
        )
    return max(known, key=lambda server: max((begin.when.timestamp() for begin in server.begins), default=0.0))


def read_log(inputs: RecoveryInputs, server: ServerWal, names: Names, asked: Wanted, progress: Progress) -> Log:
    """Reads one line of WAL from end to end of what is asked for. Memory follows :attr:`Wanted.limit`.

    Raises what reading the store does, and ``Damaged``.
    """
    notes: list[str] = []
    line = _newest_line(server, notes)
    windows = [
        window
        for window in reach(inputs.snapshots, inputs.wal).windows
        if window.system_identifier == server.identifier and window.timeline == line.timeline
    ]
    runs = [run for run in (_asked(line, stretch, asked) for stretch in line.stretches) if run]
    progress.begin(_("Reading WAL"), sum(step.stop - step.start for run in runs for step in run))
    kept: deque[Entry] = deque(maxlen=asked.limit)
    count = 0
    for run in runs:
        for found in _committed(inputs, server, line, run, progress):
            entry = _entry(found, line, windows, names, asked)
            if entry is not None:
                kept.append(entry)
                count += 1
    if names.why:
        notes.append(_("names are missing: {why}").format(why=names.why))
    notes += _holes(line, asked)
    return Log(
        entries=tuple(kept),
        left_out=count - len(kept),
        start=Lsn(runs[0][0].start) if runs else None,
        stop=Lsn(runs[-1][-1].stop) if runs else None,
        notes=tuple(notes),
    )


def _holes(line: Line, asked: Wanted) -> Iterator[str]:
    """WAL that is not held, of the time that is asked for: what happened there, nobody can say."""
    for before, after in pairwise(line.stretches):
        ended, went_on = line.until(before), line.until(after)
        if (went_on is None or went_on >= asked.since) and (
            asked.until is None or ended is None or ended <= asked.until
        ):
            yield _("the WAL from {start} to {stop} is not held: what was committed there is not shown").format(
                start=before.stop, stop=after.start
            )


def _newest_line(server: ServerWal, notes: list[str]) -> Line:
    for timeline in sorted(server.timelines, reverse=True):
        line = server.line(timeline)
        if line is not None:
            return line
        notes.append(_("the history file of timeline {number} is not held").format(number=timeline))
    return Line(server, History(timeline=max(server.timelines)))


def _asked(line: Line, stretch: Stretch, asked: Wanted) -> Sequence[Step]:
    """The steps of a stretch in which something asked for may end, and those in which it may have begun."""
    inside = [index for index, step in enumerate(stretch.steps) if _may_hold(line, step, asked)]
    if not inside:
        return ()
    first, last = inside[0], inside[-1]
    run_up = -(-RUN_UP_BYTES // line.wal.segment_size)
    return stretch.steps[max(first - run_up, 0) : last + 1]


def _may_hold(line: Line, step: Step, asked: Wanted) -> bool:
    for piece in step.segment.pieces:
        if piece.stop == piece.start:
            continue
        facts = line.wal.facts(piece)
        if facts is None or facts.is_blind:
            return True
        if facts.first_time and facts.last_time and facts.last_time >= asked.since:
            return asked.until is None or facts.first_time <= asked.until
    return False


def _committed(
    inputs: RecoveryInputs, server: ServerWal, line: Line, run: Sequence[Step], progress: Progress
) -> Iterator[Committed]:
    def blocks() -> Iterator[bytes]:
        stream = inputs.stream(server.identifier)
        for step in run:
            reader = inputs.readers[step.repository]
            for block in reader.content(stream, step.segment, stop=step.stop - step.start):
                yield block
                progress.advance(len(block))

    found = records(
        blocks(), timeline=line.timeline, segment_size=server.segment_size, start=run[0].start, wanted=wanted
    )
    return committed(found)


def _entry(found: Committed, line: Line, windows: Sequence[Window], names: Names, asked: Wanted) -> Entry | None:
    if found.time < asked.since or (asked.until is not None and found.time > asked.until):
        return None
    changes = tuple(
        shown for shown in describe(found, names) if shown.kind in asked.kinds and _is_of(shown, asked.table)
    )
    if not changes:
        return None
    return Entry(
        xid=found.xid,
        time=found.time,
        lsn=found.lsn,
        timeline=line.history.timeline_at(found.lsn),
        changes=changes,
        is_whole=found.is_whole,
        is_reachable=any(window.start <= found.lsn < window.stop for window in windows),
    )


def _is_of(shown: Shown, table: str | None) -> bool:
    """What is removed and has no name any more may be of any table."""
    if table is None or (not shown.is_named and shown.kind in _REMOVES):
        return True
    return table in (shown.relation, shown.relation.partition(".")[2])


def describe(found: Committed, names: Names) -> Iterator[Shown]:
    """What a transaction did to tables of users; TOAST, indexes and catalogues are left out where they are known."""
    yield from _rows(found, names)
    yield from _truncated(found, names)
    yield from _dropped(found, names)


def _rows(found: Committed, names: Names) -> Iterator[Shown]:
    passing = found.changes.created & set(found.dropped)
    for (relation, kind), rows in sorted(found.changes.rows.items()):
        # a table's first file has the number of the table itself: so one that was truncated since has its name
        named = names.of_file(relation) or names.of_oid(relation.database, relation.number)
        if rows <= 0 or relation in passing or _is_hidden(relation, named):
            continue
        yield _shown(kind, relation, named, names, rows=rows)


def _is_hidden(relation: Relation, named: Named | None) -> bool:
    if named is None:
        return relation.number < _FIRST_OF_USERS
    return named.is_system or named.kind not in _TABLES


def _truncated(found: Committed, names: Names) -> Iterator[Shown]:
    """TRUNCATE gives a table new files. So do VACUUM FULL and its like, but they fill them page by page."""
    changes = found.changes
    for database, oid in sorted(changes.truncated):
        named = names.of_oid(database, oid)
        if named is None or not named.is_system:
            yield Shown(
                kind=ChangeKind.TRUNCATE,
                rows=None,
                relation=str(named) if named else f"{database}/{oid}",
                is_named=named is not None,
                database=names.database(database),
            )
    emptied = changes.created - set(found.dropped) - changes.filled
    old = [relation for relation in found.dropped if relation not in changes.created]
    if changes.truncated or not old or not emptied:
        return
    named_tables = [(relation, named) for relation in sorted(emptied) if (named := names.of_file(relation))]
    if not named_tables:
        yield _shown(ChangeKind.TRUNCATE, min(old), None, names, rows=None, may_be_rewrite=True, files=len(old))
    for relation, named in named_tables:
        if named.kind == "r" and not named.is_system:
            is_filled = changes.rows[relation, ChangeKind.INSERT] > 0
            yield _shown(ChangeKind.TRUNCATE, relation, named, names, rows=None, may_be_rewrite=is_filled)


def _dropped(found: Committed, names: Names) -> Iterator[Shown]:
    changes = found.changes
    old = [relation for relation in found.dropped if relation not in changes.created]
    survivors = changes.created - set(found.dropped)
    if len(old) > len(survivors):
        yield _shown(ChangeKind.DROP, min(old), None, names, rows=None, may_be_rewrite=bool(survivors), files=len(old))
    for oid in sorted(changes.dropped_databases):
        yield Shown(
            kind=ChangeKind.DROP, rows=None, relation=_("database {oid}").format(oid=oid), is_named=False, database=None
        )


def _shown(
    kind: ChangeKind,
    relation: Relation,
    named: Named | None,
    names: Names,
    *,
    rows: int | None,
    may_be_rewrite: bool = False,
    files: int = 1,
) -> Shown:
    return Shown(
        kind=kind,
        rows=rows,
        relation=str(named) if named else f"{relation.database}/{relation.number}",
        is_named=named is not None,
        database=names.database(relation.database),
        may_be_rewrite=may_be_rewrite,
        files=files,
    )
