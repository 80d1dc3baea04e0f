"""Recovery planning: from snapshots, WAL held and a target to a plan, or to a refusal that names the gap. Pure.

Every target but ``latest`` and ``snapshot:`` becomes a position: PostgreSQL's own comparison of times stops at the
first commit or abort later than the target, which is found here, and named. Where nothing follows, the plan ends with
the WAL that is known now: a target that PostgreSQL would never see is FATAL there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from holdfast.errors import Refused, UsageError
from holdfast.messages import _
from holdfast.policy.lines import Line, ServerWal, servers
from holdfast.policy.records import Part, Records, Transactions
from holdfast.policy.refusals import Refusals, moment, without_history
from holdfast.policy.replaying import PlannedSegment, Replay
from holdfast.policy.searching import Search, Stop, alone
from holdfast.policy.targets import TargetKind, WantedTarget
from holdfast.policy.windows import KnownSnapshot, backups_of, newest_moment, newest_timeline
from holdfast.postgres.facts import RecoveryLimits
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.recovery import CONSISTENT, Target
from holdfast.postgres.walfacts import Event, Transaction
from holdfast.repository.snapshots import select
from holdfast.repository.wal.held import Held

__all__ = ["Part", "PlannedSegment", "RecoveryPlan", "Transactions", "plan_recovery"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPlan:
    known: KnownSnapshot
    timeline: int
    """The one that recovery follows to (``recovery_target_timeline``); it ends on a new one."""
    wal: tuple[PlannedSegment, ...]
    """In the order of replay. Empty where the snapshot's own WAL is all: then :attr:`target` is ``CONSISTENT``."""
    histories: Mapping[int, bytes]
    """All that are held, other branches' too: a new timeline's number must be nobody's."""
    target: Target
    end: Lsn | None
    """Where recovery will end: the end of the last record that is replayed, before any page header that follows. None:
    at the snapshot's end."""
    end_at_most: Lsn | None
    """Equal to :attr:`end`, unless it is not known where records begin: then recovery ends from there to here."""
    last_kept: Transaction | None
    """None: no transaction ends between the snapshot's end and the target."""
    first_left_out: Transaction | None
    """None: nothing more is held."""
    until: datetime | None
    """The server's clock at the end, as near as it is known: each commit up to then is kept."""
    limits: RecoveryLimits
    """At least the snapshot's and those of each parameter change in the replayed WAL."""
    created_tablespaces: tuple[Event, ...]
    """Creations that replay would carry out; those in the snapshot's own WAL are not known here."""
    warnings: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        return self.end == self.end_at_most


def plan_recovery(
    wanted: WantedTarget,
    snapshots: Sequence[KnownSnapshot],
    wal: Mapping[str, Sequence[Held]],
    *,
    transactions: Transactions,
    chosen: str | None = None,
) -> RecoveryPlan:
    """``chosen``: the id of a snapshot to start from, instead of the one with the least to replay.

    Raises :class:`~holdfast.errors.Refused` where the target cannot be reached, naming the gap and the nearest
    reachable moments before and after; :class:`~holdfast.errors.UsageError` for a target that means nothing here."""
    if not snapshots:
        raise Refused(
            _("{target} cannot be reached: there is no snapshot to begin with").format(target=wanted.text),
            hint=_("Take one: `holdfast backup`."),
        )
    found = servers(wal, (known.facts for known in snapshots))
    begin_with = snapshots if chosen is None else _named(snapshots, chosen)
    if wanted.kind is TargetKind.SNAPSHOT:
        (known, *_others) = _named(begin_with, wanted.value)
        server = found[known.facts.system_identifier, known.facts.wal_segment_size]
        return _snapshot_alone(server, alone(known))
    server = _server(wanted, list(found.values()), begin_with, chosen=chosen)
    own = backups_of(server, begin_with)
    refusal: Refused | None = None
    for timeline in _timelines(wanted, server, own):
        try:
            return _plan(wanted, server, timeline, own, transactions)
        except Refused as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal


def _named(snapshots: Sequence[KnownSnapshot], name: str) -> list[KnownSnapshot]:
    """The snapshot that ``name`` means, in each repository that has it."""
    by_id = {known.snapshot.id: known.snapshot for known in snapshots}
    meant = select(by_id.values(), name)
    return [known for known in snapshots if known.snapshot.id == meant.id]


def _server(
    wanted: WantedTarget, found: Sequence[ServerWal], snapshots: Sequence[KnownSnapshot], *, chosen: str | None
) -> ServerWal:
    """Whose WAL it is: the newest server's, or for a time, of the one that was there then."""
    newest_first = sorted(found, key=lambda server: newest_moment(server, snapshots), reverse=True)
    able = [server for server in newest_first if backups_of(server, snapshots)]
    if wanted.kind is TargetKind.TIME:
        assert wanted.time is not None
        for server in able:
            if any(known.facts.started_at <= wanted.time for known in backups_of(server, snapshots)):
                return server
    if wanted.kind is TargetKind.LATEST and chosen is None and able[0] is not newest_first[0]:
        raise Refused(
            _("{target} cannot be reached: of the newest server, system {newest}, there is no snapshot yet").format(
                target=wanted.text, newest=newest_first[0].identifier
            ),
            hint=_(
                "Take one: `holdfast backup`; or recover the one before, system {other}: --at TIME or --at snapshot:ID."
            ).format(other=able[0].identifier),
        )
    return able[0]


def _timelines(wanted: WantedTarget, server: ServerWal, own: Sequence[KnownSnapshot]) -> list[int]:
    """On which lines to look for the target, in this order."""
    if wanted.current:
        return sorted({known.facts.timeline for known in own}, reverse=True)
    known = {*server.timelines, *server.histories, *(known.facts.timeline for known in own)}
    if wanted.timeline is not None and wanted.timeline not in known:
        raise UsageError(
            _("nothing is held of timeline {timeline}").format(timeline=wanted.timeline),
            hint=_("There are: {known}.").format(known=", ".join(map(str, sorted(known)))),
        )
    return [newest_timeline(server, own) if wanted.timeline is None else wanted.timeline]


def _plan(
    wanted: WantedTarget, server: ServerWal, timeline: int, own: Sequence[KnownSnapshot], transactions: Transactions
) -> RecoveryPlan:
    line = server.line(timeline)
    if line is None:
        there = [known for known in own if known.facts.timeline == timeline]
        if wanted.kind is TargetKind.LATEST and there and timeline not in server.timelines:
            return _snapshot_alone(server, alone(there[-1]))
        raise without_history(wanted, timeline, is_conflict=timeline in server.differing_histories)
    candidates = [
        known for known in own if line.carries(known.facts) and (not wanted.current or known.facts.timeline == timeline)
    ]
    if not candidates:
        raise Refused(
            _("{target} cannot be reached: no snapshot is on the way to timeline {timeline}").format(
                target=wanted.text, timeline=timeline
            ),
            hint=_("Those that there are: {snapshots}.").format(
                snapshots=", ".join(
                    f"snapshot:{known.snapshot.short_id} (--timeline {known.facts.timeline})" for known in own[-5:]
                )
            ),
        )
    records = Records(line, transactions)
    search = Search(wanted, line, records, candidates)
    stop = search.stop()
    if wanted.kind is TargetKind.LATEST:
        stop = replace(stop, warnings=(*stop.warnings, *_gone_on(wanted, server, line, stop)))
    if stop.following is None:
        return _snapshot_alone(server, stop)
    return _replayed(server, line, records, stop, search.refusals)


def _gone_on(wanted: WantedTarget, server: ServerWal, line: Line, stop: Stop) -> Iterator[str]:
    """Other timelines that are held to a later moment: the newest may be a restored copy's, and not the server's."""
    for timeline in sorted(server.timelines):
        other = server.line(timeline)
        if timeline == line.timeline or other is None or not other.stretches:
            continue
        left, newest = line.history.switch_from(timeline), other.stretches[-1]
        until = other.until(newest)
        if until and (stop.until is None or until > stop.until) and (left is None or newest.stop > left):
            yield _(
                "timeline {other} is held to a later moment ({until}) than timeline {timeline}, the newest: if the "
                "server is on that one, recover with --timeline {other}"
            ).format(other=timeline, until=moment(until, wanted.zone), timeline=line.timeline)


def _snapshot_alone(server: ServerWal, stop: Stop) -> RecoveryPlan:
    return RecoveryPlan(
        known=stop.known,
        timeline=stop.known.facts.timeline,
        wal=(),
        histories=server.histories,
        target=CONSISTENT,
        end=None,
        end_at_most=None,
        last_kept=None,
        first_left_out=None,
        until=stop.until,
        limits=stop.known.facts.limits,
        created_tablespaces=(),
        warnings=(*stop.warnings, *server.problems),
    )


def _replayed(server: ServerWal, line: Line, records: Records, stop: Stop, refusals: Refusals) -> RecoveryPlan:
    facts, following = stop.known.facts, stop.following
    assert following is not None
    assert stop.end is not None
    replay = Replay(line, records, facts, following, stop.read_to)
    changes = replay.changes(stop.end.most, refusals)
    last_kept = replay.last_kept(stop.is_kept)
    first_left_out = replay.first_left_out(stop.end.least, stop.is_kept)
    return RecoveryPlan(
        known=stop.known,
        timeline=line.timeline,
        wal=replay.files(),
        histories=server.histories,
        target=stop.target,
        end=stop.end.least,
        end_at_most=stop.end.most,
        last_kept=last_kept,
        first_left_out=first_left_out,
        until=stop.until or replay.until(stop.end.least, last_kept, first_left_out),
        limits=changes.limits,
        created_tablespaces=changes.created_tablespaces,
        warnings=(*stop.warnings, *changes.warnings, *server.problems),
    )
