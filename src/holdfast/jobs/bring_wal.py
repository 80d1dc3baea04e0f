"""Bringing planned WAL beside a restored data directory: get → unseal → join → check → write, segments in parallel.

What recovery is planned to need is looked for in a listing made now, before a byte is restored: a summary may speak of
what was deleted since. Each segment is authenticated, its digests and page headers are checked on the way, and it is
whole; only the plan's last one ends in zeros, where nothing was held.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from holdfast.entry import Entry, EntryKind
from holdfast.errors import Damaged, HoldfastError
from holdfast.filesystem.write import FileSink, FolderWriter
from holdfast.jobs.recovery_inputs import RecoveryInputs
from holdfast.messages import _
from holdfast.policy.recovery import PlannedSegment, RecoveryPlan
from holdfast.postgres.lsn import history_name
from holdfast.postgres.recovery import WAL_DIR
from holdfast.postgres.timelines import History, parse_history
from holdfast.postgres.walpages import check_pages
from holdfast.repository.crew import each
from holdfast.repository.wal.held import HeldSegment

WORKERS = 4
"""Each holds a piece of a segment, 64 MiB at most, and the stored form of it."""

Place = tuple[int, int]
"""Timeline and number of a segment."""


def missing(plan: RecoveryPlan, inputs: RecoveryInputs) -> Mapping[str, frozenset[Place]]:
    """By repository, the planned segments of which an object is not listed there now."""
    wanted: dict[str, list[HeldSegment]] = defaultdict(list)
    for planned in plan.wal:
        if planned.held is not None:
            wanted[planned.repository].append(planned.held)
    stream = inputs.stream(plan.known.facts.system_identifier)
    found = {}
    for name, segments in wanted.items():
        present = inputs.readers[name].present(stream, segments)
        if gone := frozenset((one.timeline, one.number) for one in segments) - present:
            found[name] = gone
    return found


def brought(plan: RecoveryPlan) -> tuple[PlannedSegment, ...]:
    """What comes from repositories, and not with the snapshot."""
    return tuple(planned for planned in plan.wal if planned.held is not None)


def entries(plan: RecoveryPlan) -> Iterator[Entry]:
    """The files that :func:`bring` fills."""
    for planned in brought(plan):
        yield Entry(
            path=f"{WAL_DIR}/{planned.segment.name}", kind=EntryKind.FILE, mode=0o600, size=planned.segment.size
        )


def bring(plan: RecoveryPlan, inputs: RecoveryInputs, folder: FolderWriter) -> None:
    """Fills ``holdfast-recovery/wal/`` with the segments that repositories hold; ``folder`` makes them durable.

    Raises ``Damaged`` (``ObjectMissing``) that names the segment, and where it lies.
    """
    system = plan.known.facts.system_identifier
    stream = inputs.stream(system)
    histories = dict(_histories(plan.histories, {planned.segment.timeline for planned in plan.wal}))
    files = {entry.path: folder.file(entry) for entry in entries(plan)}

    def bring_one(planned: PlannedSegment) -> None:
        held, segment = planned.held, planned.segment
        assert held is not None
        sink = files[f"{WAL_DIR}/{segment.name}"]
        blocks = inputs.readers[planned.repository].content(stream, held, stop=planned.stop)
        counted = _Counted(blocks, sink)
        try:
            check_pages(counted, segment, system_identifier=system, history=histories.get(segment.timeline))
            _check_length(planned, counted.length)
        except HoldfastError as error:
            raise type(error)(
                _("{segment} in repository {name}: {error}").format(
                    segment=segment.name, name=planned.repository, error=error
                ),
                hint=error.hint,
            ) from error

    each(bring_one, brought(plan), workers=WORKERS)


class _Counted:
    """Blocks on their way: written as they pass, and counted."""

    def __init__(self, blocks: Iterable[bytes], sink: FileSink) -> None:
        self._blocks = blocks
        self._sink = sink
        self.length = 0

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            self._sink.write(self.length, block)
            self.length += len(block)
            yield block


def _check_length(planned: PlannedSegment, length: int) -> None:
    """A segment that is shorter than planned would be taken for the end of all WAL."""
    if length != planned.stop:
        raise Damaged(
            _("{length} bytes are held of {size}").format(length=length, size=planned.stop),
            hint=_("Look for what is missing with: holdfast verify"),
        )


def _histories(contents: Mapping[int, bytes], timelines: Iterable[int]) -> Iterator[tuple[int, History]]:
    for timeline in timelines:
        if timeline == 1:
            yield 1, History(timeline=1)
        elif timeline in contents:
            yield timeline, parse_history(timeline, contents[timeline])


def history_files(held: Mapping[int, bytes], *, timeline: int, taken: Iterable[int]) -> Mapping[str, bytes]:
    """History files to lay beside the WAL, by name, so that recovery along ``timeline`` ends on one that is nobody's.

    PostgreSQL takes the first number after its target's for which no history file is found (``findNewestTimeLine`` in
    ``timeline.c``, which reads none of them). A number that is taken and whose file is not held gets one that says so.
    """
    files = {history_name(number): content for number, content in held.items()}
    for number in range(timeline + 1, max((*held, *taken), default=timeline) + 1):
        files.setdefault(history_name(number), _TAKEN)
    return files


_TAKEN = b"# Holdfast knows of this timeline, or of later ones, and does not hold its history file.\n"
