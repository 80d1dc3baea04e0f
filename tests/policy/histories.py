"""A server's life made up: records on timelines, what repositories hold of them, and a recovery that does what
PostgreSQL does with it (``xlogrecovery.c``): which file it asks for, when it stops, where the new timeline begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import pairwise
from typing import Any

from holdfast.policy.records import Part
from holdfast.policy.windows import KnownSnapshot
from holdfast.postgres.facts import BackupFacts, RecoveryLimits
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.walfacts import Event, EventKind, Outcome, Transaction, WalFacts
from holdfast.repository.snapshots import Snapshot, Totals
from holdfast.repository.trees import Content
from holdfast.repository.wal.held import Begin, Conflict, Held, HeldPiece, HeldSegment
from holdfast.repository.wal.pieces import Stream

SIZE = 2**20
SYSTEM = 7_000_000_000_000_000_001
START = datetime(2026, 11, 22, 12, tzinfo=UTC)
PAGE = 8192
LIMITS = RecoveryLimits(
    max_connections=100,
    max_worker_processes=8,
    max_wal_senders=10,
    max_prepared_transactions=0,
    max_locks_per_transaction=64,
)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Record:
    lsn: int
    end: int
    clock: float
    """The server's, when it was written."""
    time: float | None = None
    """Of a commit or abort: earlier than the clock, if it waited."""
    xid: int = 0
    is_abort: bool = False
    event: EventKind | None = None
    detail: str = ""
    prev: int = 0

    def transaction(self) -> Transaction | None:
        if self.time is None or self.event is not None:
            return None
        outcome = Outcome.ABORT if self.is_abort else Outcome.COMMIT
        return Transaction(
            outcome=outcome,
            xid=self.xid,
            time=at(self.time),
            lsn=Lsn(self.lsn),
            end=Lsn(self.end),
            prev=Lsn(self.prev) if self.prev else None,
        )


def next_begin(end: int) -> int:
    """Where a record begins after one that ended at ``end``: after the page header, if one is due."""
    if end % SIZE == 0:
        return end + 40
    return end + 24 if end % PAGE == 0 else end


@dataclass
class World:
    """Timelines with all their records, ancestors' first."""

    lines: dict[int, list[Record]] = field(default_factory=lambda: {1: []})
    ancestors: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: {1: []})
    """By timeline: which were left where."""
    now: float = 0.0
    xid: int = 700
    origin: int = 2 * SIZE
    key: bytes = b"of the repository"

    def end(self, timeline: int) -> int:
        return self.lines[timeline][-1].end if self.lines[timeline] else self.origin

    def write(self, timeline: int = 1, size: int = 64, *, seconds: float = 1.0, **values: Any) -> Record:
        self.now += seconds
        begin = next_begin(self.end(timeline))
        end = begin + -(-size // 8) * 8
        if 0 < end % PAGE <= 40:
            end += 48 - end % PAGE
        prev = self.lines[timeline][-1].lsn if self.lines[timeline] else 0
        record = Record(lsn=begin, end=end, clock=self.now, prev=prev, **values)
        self.lines[timeline].append(record)
        return record

    def commit(self, timeline: int = 1, size: int = 64, *, waited: float = 0.0, **values: Any) -> Record:
        self.xid += 1
        seconds = values.pop("seconds", 1.0)
        return self.write(timeline, size, seconds=seconds, time=self.now + seconds - waited, xid=self.xid, **values)

    def fill(self, timeline: int = 1, *, segments: int = 1) -> None:
        """Records without a commit, up to the end of a segment."""
        target = (self.end(timeline) // SIZE + segments) * SIZE
        while self.end(timeline) < target:
            begin = next_begin(self.end(timeline))
            self.write(timeline, min(200_000, target - begin), seconds=0.1)

    def branch(self, timeline: int, number: int, *, keep: int | None = None) -> None:
        """``number`` begins where ``timeline`` is, or after its ``keep``-th record."""
        kept = self.lines[timeline][: len(self.lines[timeline]) if keep is None else keep]
        self.lines[number] = list(kept)
        self.ancestors[number] = [*self.ancestors[timeline], (timeline, self.end(number))]

    def history(self, timeline: int) -> bytes:
        rows = (f"{tl}\t{Lsn(switch)}\tno recovery target specified\n" for tl, switch in self.ancestors[timeline])
        return "".join(rows).encode()

    def begin_of(self, timeline: int) -> int:
        return self.ancestors[timeline][-1][1] if self.ancestors[timeline] else 0

    def ending(self, timeline: int, start: int, stop: int) -> list[Record]:
        return [record for record in self.lines[timeline] if start < record.end <= stop]

    def facts(self, timeline: int, start: int, stop: int) -> WalFacts:
        ending = self.ending(timeline, start, stop)
        found = [tx for record in ending if (tx := record.transaction())]
        return WalFacts(
            start=Lsn(start),
            stop=Lsn(stop),
            records_end=Lsn(ending[-1].end) if ending else None,
            commits=sum(tx.outcome is Outcome.COMMIT for tx in found),
            aborts=sum(tx.outcome is Outcome.ABORT for tx in found),
            first_time=min((tx.time for tx in found), default=None),
            last_time=max((tx.time for tx in found), default=None),
            min_xid=min((tx.xid for tx in found), default=None),
            max_xid=max((tx.xid for tx in found), default=None),
            events=tuple(
                Event(
                    kind=record.event,
                    lsn=Lsn(record.lsn),
                    end=Lsn(record.end),
                    time=None if record.time is None else at(record.time),
                    detail=record.detail,
                )
                for record in ending
                if record.event
            ),
        )

    def clock(self, timeline: int, lsn: int) -> float:
        return max((record.clock for record in self.lines[timeline] if record.lsn < lsn), default=0.0)

    def piece(self, timeline: int, number: int, start: int, stop: int, *, clock: float | None = None) -> HeldPiece:
        begin = number * SIZE
        known = self.clock(timeline, begin + stop) if clock is None else clock
        return HeldPiece(
            name=f"wal/{timeline}/{number}-{start}-{stop}",
            start=start,
            stop=stop,
            before=self.digest(timeline, begin, begin + start),
            after=self.digest(timeline, begin, begin + stop),
            clock=None if known < 0 else at(known),
            facts=self.facts(timeline, begin + start, begin + stop).to_json(),
        )

    def digest(self, timeline: int, start: int, stop: int) -> bytes:
        content = [
            (record.lsn, record.end, record.xid, stop)
            for record in self.lines[timeline]
            if start < record.end and record.lsn < stop
        ]
        return blake2b(repr(content if start < stop else []).encode(), key=self.key, digest_size=32).digest()

    def segment(self, timeline: int, number: int, *, stop: int | None = None, cuts: Sequence[int] = ()) -> HeldSegment:
        """Held to ``stop`` (offset), or as far as it was written; in pieces that are cut at ``cuts``."""
        end = min(self.end(timeline) - number * SIZE, SIZE) if stop is None else stop
        borders = [0, *sorted(cut for cut in set(cuts) if 0 < cut < end), end]
        pieces = (self.piece(timeline, number, *pair) for pair in pairwise(borders))
        return HeldSegment(timeline, number, tuple(pieces))

    def numbers(self, timeline: int) -> range:
        first = max(self.begin_of(timeline), self.origin) // SIZE
        return range(first, (self.end(timeline) - 1) // SIZE + 1)

    def held(
        self,
        *,
        lost: Sequence[tuple[int, int]] = (),
        cut: Mapping[tuple[int, int], int] | None = None,
        timelines: Sequence[int] | None = None,
        begins: Sequence[Begin] = (),
        conflicts: Sequence[Conflict] = (),
        histories: Sequence[int] | None = None,
        cuts: Sequence[int] = (300_000,),
        system: int = SYSTEM,
    ) -> Held:
        """All that was written, but for the ``lost`` segments, and no more than to the offset of those ``cut``."""
        cut = cut or {}
        segments = [
            self.segment(timeline, number, stop=cut.get((timeline, number)), cuts=cuts)
            for timeline in sorted(self.lines if timelines is None else timelines)
            for number in self.numbers(timeline)
            if (timeline, number) not in lost
        ]
        known = self.lines if histories is None else histories
        return Held(
            stream=Stream(source="tracker", system_identifier=system),
            segment_size=SIZE,
            segments=tuple(segment for segment in segments if segment.pieces),
            histories={timeline: self.history(timeline) for timeline in known if timeline > 1},
            begins=tuple(begins),
            conflicts=tuple(conflicts),
        )

    def transactions(self, parts: Sequence[Part]) -> list[Transaction]:
        """What a scanner sees that begins where the first part does: whole records only."""
        assert all(one.stop == SIZE for one in parts[:-1])
        begin = parts[0].begins(SIZE)
        found = []
        for part in parts:
            start = part.segment.number * SIZE
            for record in self.ending(part.segment.timeline, start + part.start, start + part.stop):
                tx = record.transaction()
                if tx and tx.lsn >= begin:
                    found.append(tx)
        return found

    def snapshot(
        self, name: str, timeline: int = 1, *, start: int, stop: int, from_standby: bool = False, system: int = SYSTEM
    ) -> KnownSnapshot:
        """From one position to another, which are ends of records."""
        facts = backup_facts(
            timeline=timeline,
            start_lsn=Lsn(start),
            stop_lsn=Lsn(stop),
            started_at=at(self.clock(timeline, start)),
            ended_at=at(self.clock(timeline, stop)),
            from_standby=from_standby,
            system_identifier=system,
        )
        return known(name, facts)

    def take(self, name: str, timeline: int = 1, *, between: Callable[[], object] | None = None) -> KnownSnapshot:
        """A snapshot now: a checkpoint, what happens meanwhile, the end of the backup."""
        start = self.write(timeline, 120)
        if between:
            between()
        stop = self.write(timeline, 40)
        return self.snapshot(name, timeline, start=start.lsn, stop=stop.end)


def backup_facts(**values: Any) -> BackupFacts:
    usual: dict[str, Any] = {
        "label": "made up", "system_identifier": SYSTEM, "server_version_num": 170002, "server_version": "17.2",
        "platform": "x86_64-pc-linux-gnu", "pg_control_version": 1300, "catalog_version": 202209061, "timeline": 1,
        "from_standby": False, "wal_segment_size": SIZE, "block_size": 8192, "data_checksums": True, "total_bytes": 1,
        "tablespaces": (), "databases": (), "limits": LIMITS, "shared_preload_libraries": None,
        "superuser": "postgres", "libc_version": None, "icu_version": None, "configuration": (), "bad_pages": (),
        "warnings": (),
    }  # fmt: skip
    values.setdefault("stop_timeline", values.get("timeline", 1))
    return BackupFacts(**usual | values)


def known(name: str, facts: BackupFacts, *, repository: str = "local") -> KnownSnapshot:
    snapshot = Snapshot(
        id=name.encode().hex().ljust(64, "0")[:64],
        label=name,
        source="tracker",
        source_type="postgres",
        started=facts.started_at,
        ended=facts.ended_at,
        host="db1",
        holdfast_version="0",
        tree=Content(0, 0, ()),
        totals=Totals(files=0, content=0, chunks=0, added_content=0, added_stored=0),
        predecessors=(),
        warnings=(),
        facts={},
        keys={},
    )
    return KnownSnapshot(repository=repository, snapshot=snapshot, facts=facts)


def in_repository(snapshot: KnownSnapshot, repository: str) -> KnownSnapshot:
    return replace(snapshot, repository=repository)


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What ``restore_command`` gives: bytes of each file."""

    files: Mapping[tuple[int, int], int]
    """(timeline in its name, number) to how many bytes of it are not padding."""


@dataclass(frozen=True, kw_only=True)
class Recovered:
    end: int
    """Of the last record replayed: where the new timeline branches off."""
    replayed: tuple[Record, ...]
    has_stopped: bool
    """At its target; False: the WAL ended, which is FATAL for a target."""


StopsAt = Callable[[Record], bool]


class Reader:
    """Records along the line of a timeline, out of the files that there are."""

    def __init__(self, world: World, archive: Archive, timeline: int) -> None:
        self._world = world
        self._archive = archive
        rows = world.ancestors[timeline]
        begins = [0, *(switch for _timeline, switch in rows)]
        timelines = [*(ancestor for ancestor, _switch in rows), timeline]
        self._order = list(reversed(list(zip(timelines, begins, strict=True))))
        self._newest = 0
        self._chosen: dict[int, int] = {}

    def file(self, number: int) -> int | None:
        """``XLogFileReadAnyTLI``: from the newest on, none before its timeline began, none older than the last read."""
        if number not in self._chosen:
            for timeline, begin in self._order:
                if timeline >= self._newest and number >= begin // SIZE and (timeline, number) in self._archive.files:
                    self._newest = self._chosen[number] = timeline
                    break
        return self._chosen.get(number)

    def record_at(self, position: int) -> Record | None:
        """The record that begins there, or after the page header there; None: the WAL ends."""
        source = self.file(next_begin(position) // SIZE)
        lines = self._world.lines
        record = None if source is None else next((item for item in lines[source] if item.lsn >= position), None)
        if record is None or record.lsn not in (position, next_begin(position)):
            return None
        for number in range(record.lsn // SIZE, (record.end - 1) // SIZE + 1):
            source = self.file(number)
            if source is None or record not in lines[source]:
                return None
            if self._archive.files[source, number] < min(record.end - number * SIZE, SIZE):
                return None
        return record


def recover(
    world: World,
    archive: Archive,
    *,
    timeline: int,
    start: int,
    before: StopsAt = lambda _record: False,
    after: StopsAt = lambda _record: False,
) -> Recovered:
    """Replay from ``start`` along the line of ``timeline``."""
    reader = Reader(world, archive, timeline)
    position, replayed = start, list[Record]()
    while (record := reader.record_at(position)) is not None:
        if before(record):
            return Recovered(end=position, replayed=tuple(replayed), has_stopped=True)
        replayed.append(record)
        position = record.end
        if after(record):
            return Recovered(end=position, replayed=tuple(replayed), has_stopped=True)
    return Recovered(end=position, replayed=tuple(replayed), has_stopped=False)
