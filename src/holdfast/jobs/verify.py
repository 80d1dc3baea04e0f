"""Verifying a repository: every byte that a snapshot or a recovery needs, read back and authenticated."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from holdfast.errors import Damaged
from holdfast.jobs.progress import Progress
from holdfast.messages import _
from holdfast.postgres.facts import BackupFacts
from holdfast.postgres.lsn import Lsn, Segment
from holdfast.postgres.timelines import History, parse_history
from holdfast.postgres.walpages import check_pages
from holdfast.repository.objects import PACK_KINDS, Kind
from holdfast.repository.repository import Problem, Repository
from holdfast.repository.verify import Verification, verify_repository
from holdfast.repository.wal.checking import VerifiedStream
from holdfast.repository.wal.held import Held, HeldSegment

_READ_KINDS = (*PACK_KINDS, Kind.WAL, Kind.TAIL, Kind.WAL_FILE)


def verify(
    repository: Repository, *, only: Collection[str], quick: bool, progress: Progress, host: str = ""
) -> Verification:
    """``only``: ids of the snapshots whose files are resolved; all of them when empty. ``host``: for the lease."""
    sizes = (listed.size for kind in _READ_KINDS for listed in repository.store.list(kind.prefix))
    progress.begin(_("verifying {url}").format(url=repository.url), None if quick else sum(sizes))
    found = verify_repository(
        repository,
        quick=quick,
        only=lambda snapshot: not only or snapshot.id in only,
        progress=progress.advance,
        host=host,
        check_pages=look_at_pages,
    )
    holes = [hole for stream in found.wal.streams for hole in _holes(stream, _backups(repository))]
    return replace(found, problems=tuple(sorted({*found.problems, *holes}, key=lambda one: (one.name, one.what))))


def look_at_pages(held: Held, segment: HeldSegment, blocks: Iterator[bytes]) -> None:
    """Each page of a segment says that it lies where it is held. Raises ``Damaged``."""
    place = Segment(timeline=segment.timeline, number=segment.number, size=held.segment_size)
    check_pages(
        blocks, place, system_identifier=held.stream.system_identifier, history=_history(held, segment.timeline)
    )


def _history(held: Held, timeline: int) -> History | None:
    """None: there is none, or none that can be read."""
    try:
        return parse_history(timeline, held.histories[timeline]) if timeline in held.histories else None
    except Damaged:
        return None


def _backups(repository: Repository) -> Sequence[BackupFacts]:
    found = []
    for snapshot in repository.records().snapshots:
        if snapshot.source_type == "postgres":
            try:
                found.append(BackupFacts.from_json(snapshot.facts))
            except Damaged:
                continue  # told where it is to be restored
    return found


def _holes(stream: VerifiedStream, backups: Sequence[BackupFacts]) -> Iterator[Problem]:
    """Gaps that nobody recorded, where a snapshot lies before them from which recovery should lead on."""
    held = stream.held
    for gap in stream.gaps:
        before = [
            facts
            for facts in backups
            if facts.system_identifier == held.stream.system_identifier and facts.stop_lsn <= gap.start
        ]
        if before and not gap.is_recorded:
            text = _(
                "WAL of {source} from {start} to {stop} on timeline {timeline} is missing, and no gap was recorded: "
                "it was removed, lost, or never archived; recovery from a snapshot before it ends there"
            )
            first = Segment.holding(gap.start, timeline=gap.timeline, size=held.segment_size)
            what = text.format(
                source=held.stream.source, start=Lsn(gap.start), stop=Lsn(gap.stop), timeline=gap.timeline
            )
            yield Problem(first.name, what)
