"""Lines: what several repositories hold of one server's WAL, joined the way recovery would read it. Pure.

A *line* is a timeline with the ancestors that its history names. A segment in which a timeline begins is read from the
newest timeline that begins in it or before: its file has the older one's bytes too (``XLogFileReadAnyTLI`` in
``xlogrecovery.c`` asks for it first). Where that one is not held, an older one's serves as far as the switch point.
A *stretch* is a part of a line without a hole.

Digests are keyed: two repositories that share the key have the same one of no bytes, and then their contents are
compared by digests. Of others, what the pieces say of themselves is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

from holdfast.errors import Damaged
from holdfast.postgres.facts import BackupFacts
from holdfast.postgres.lsn import Lsn, history_timeline
from holdfast.postgres.timelines import History, parse_history
from holdfast.postgres.walfacts import WalFacts
from holdfast.repository.wal.held import Begin, Held, HeldPiece, HeldSegment


class Place(NamedTuple):
    repository: str
    segment: HeldSegment


class Step(NamedTuple):
    """A segment of a line: which file recovery reads, and how far it serves."""

    number: int
    timeline: int
    """In the file's name."""
    repository: str
    segment: HeldSegment
    start: int
    """LSN of its first byte."""
    stop: int
    """LSN up to which it is of this line and held."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stretch:
    """Steps without a hole: each but the last is whole."""

    steps: Sequence[Step]

    @property
    def start(self) -> Lsn:
        return Lsn(self.steps[0].start)

    @property
    def stop(self) -> Lsn:
        return Lsn(self.steps[-1].stop)


class Following(NamedTuple):
    """The WAL that goes on from a snapshot's end."""

    stretch: Stretch
    first: int
    """Index of the step that holds the snapshot's end, or, where its own WAL reaches so far, of the one after."""

    def begins(self, facts: BackupFacts) -> int:
        """The backup's end, or the end of its own last segment, which a switch of segments ends."""
        return max(facts.stop_lsn, self.stretch.steps[self.first].start)


class Interval(NamedTuple):
    """The positions of a line that were written on one timeline."""

    timeline: int
    begin: int
    """Where it branched off: files of this name begin with that position's segment."""
    stop: int | None
    """Where it was left; None for the newest."""


class ServerWal:
    """The WAL of one server (system identifier and segment size), whichever repository holds it."""

    def __init__(self, identifier: int, segment_size: int, held: Iterable[tuple[str, Held]] = ()) -> None:
        self.identifier = identifier
        self.segment_size = segment_size
        self.histories: dict[int, bytes] = {}
        self.differing_histories: set[int] = set()
        self.begins: list[Begin] = []
        self.problems: list[str] = []
        self._places: dict[int, dict[int, list[Place]]] = {}
        self._conflicts: dict[tuple[int, int], tuple[str, ...]] = {}
        self._facts: dict[int, WalFacts | None] = {}
        self._lines: dict[int, Line | None] = {}
        for repository, one in held:
            self._add(repository, one)

    def _add(self, repository: str, held: Held) -> None:
        for timeline, content in held.histories.items():
            if self.histories.setdefault(timeline, content) != content:
                self.differing_histories.add(timeline)
        self.begins.extend(held.begins)
        self.problems.extend(f"{repository}: {problem}" for problem in held.problems)
        for conflict in held.conflicts:
            if conflict.file:
                if (number := history_timeline(conflict.file)) is not None:
                    self.differing_histories.add(number)
                continue
            place = (conflict.timeline, conflict.number)
            self._conflicts[place] = (*self._conflicts.get(place, ()), *conflict.names)
        for segment in held.segments:
            numbers = self._places.setdefault(segment.timeline, {})
            numbers.setdefault(segment.number, []).append(Place(repository, segment))

    @property
    def timelines(self) -> frozenset[int]:
        """Those of which WAL is held."""
        return frozenset(self._places)

    def numbers(self, timeline: int) -> Iterable[int]:
        return self._places.get(timeline, {}).keys()

    def end_of(self, timeline: int) -> int:
        """The greatest LSN that is held of a timeline; 0: none."""
        numbers = self._places.get(timeline)
        if not numbers:
            return 0
        last = max(numbers)
        return last * self.segment_size + max(place.segment.stop for place in numbers[last])

    def best(self, timeline: int, number: int) -> Place | None:
        """The longest that is held of a segment, of the first repository that has it; None: nothing, or a conflict."""
        places = self._places.get(timeline, {}).get(number)
        if not places or self.conflict(timeline, number):
            return None
        return places[0] if len(places) == 1 else max(places, key=lambda place: place.segment.stop)

    def conflict(self, timeline: int, number: int) -> tuple[str, ...]:
        """The objects that stand beside each other for one segment; empty: there is one content."""
        if found := self._conflicts.get((timeline, number)):
            return found
        places = self._places.get(timeline, {}).get(number, ())
        if len(places) < 2:
            return ()
        first, *others = places
        for other in others:
            if pair := self._differing(first.segment, other.segment):
                repositories = (first.repository, other.repository)
                return tuple(f"{name}: {piece.name}" for name, piece in zip(repositories, pair, strict=True))
        return ()

    def _differing(self, one: HeldSegment, other: HeldSegment) -> tuple[HeldPiece, HeldPiece] | None:
        """Two pieces that end at the same place and cannot both be of one segment."""
        have_one_key = one.pieces[:1] and other.pieces[:1] and one.pieces[0].before == other.pieces[0].before
        by_stop = {piece.stop: piece for piece in one.pieces}
        for piece in other.pieces:
            same = by_stop.get(piece.stop)
            if same is None:
                continue
            if same.after != piece.after if have_one_key else self._contradict(same, piece):
                return same, piece
        return None

    def _contradict(self, one: HeldPiece, other: HeldPiece) -> bool:
        if one.start != other.start or one.facts == other.facts:
            return False
        ends = [facts.records_end if (facts := self.facts(piece)) else None for piece in (one, other)]
        return None not in ends and ends[0] != ends[1]

    def facts(self, piece: HeldPiece) -> WalFacts | None:
        """What a piece says of itself; None: nothing that can be read."""
        known = id(piece)  # pieces live as long as what was read of the repositories
        if known not in self._facts:
            try:
                self._facts[known] = WalFacts.from_json(piece.facts)
            except Damaged:
                self._facts[known] = None
        return self._facts[known]

    def places(self, timeline: int, number: int) -> Sequence[Place]:
        return self._places.get(timeline, {}).get(number, ())

    def has_history(self, timeline: int) -> bool:
        return timeline == 1 or (timeline in self.histories and timeline not in self.differing_histories)

    def line(self, timeline: int) -> Line | None:
        """None where no history file, or two different ones, or a damaged one, is held."""
        if timeline not in self._lines:
            self._lines[timeline] = self._line(timeline)
        return self._lines[timeline]

    def _line(self, timeline: int) -> Line | None:
        if not self.has_history(timeline):
            return None
        try:
            content = self.histories.get(timeline)
            history = History(timeline=1) if content is None else parse_history(timeline, content)
        except Damaged:
            return None
        return Line(self, history)


class Line:
    """One timeline with its ancestors."""

    def __init__(self, wal: ServerWal, history: History) -> None:
        self.wal = wal
        self.history = history
        self.timeline = history.timeline
        self.intervals = _intervals(history)

    @cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        """Oldest first."""
        found: list[Stretch] = []
        steps: list[Step] = []
        for step in self._steps:
            if steps and not self._joins(steps[-1], step):
                found.append(Stretch(steps=steps))
                steps = []
            steps.append(step)
        return (*found, Stretch(steps=steps)) if steps else ()

    def _joins(self, before: Step, after: Step) -> bool:
        return after.number == before.number + 1 and before.stop == after.start

    @cached_property
    def _steps(self) -> list[Step]:
        """In order, one for each number; those of which nothing is held are left out."""
        size = self.wal.segment_size
        borders = {interval.stop // size for interval in self.intervals if interval.stop is not None}
        found: dict[int, Step] = {}
        for timeline, begin, stop in self.intervals:
            first, beyond = begin // size, None if stop is None else stop // size
            for number in self.wal.numbers(timeline):
                if number < first or (beyond is not None and number >= beyond) or number in borders:
                    continue
                place = self.wal.best(timeline, number)
                if place is not None and place.segment.stop:
                    start = number * size
                    found[number] = Step(
                        number, timeline, place.repository, place.segment, start, start + place.segment.stop
                    )
        for number in borders:
            if step := self._border(number):
                found[number] = step
        return [found[number] for number in sorted(found)]

    def _border(self, number: int) -> Step | None:
        """Of a segment in which a timeline was left: the newest's if it reaches as far as any."""
        start = number * self.wal.segment_size
        found: Step | None = None
        for timeline, _begin, stop in self._files(number):
            place = self.wal.best(timeline, number)
            if place is None:
                continue
            held = start + place.segment.stop
            usable = held if stop is None else min(held, stop)
            if usable > start and (found is None or usable > found.stop):
                found = Step(number, timeline, place.repository, place.segment, start, usable)
        return found

    def _files(self, number: int) -> list[Interval]:
        """Whose files hold bytes of this segment for this line, the newest first."""
        size = self.wal.segment_size
        return [
            interval
            for interval in reversed(self.intervals)
            if interval.begin // size <= number and (interval.stop is None or interval.stop > number * size)
        ]

    def file_of(self, lsn: int) -> int:
        """The timeline whose file recovery asks for first for the segment that holds ``lsn``."""
        return self._files(lsn // self.wal.segment_size)[0].timeline

    @cached_property
    def _where(self) -> dict[int, tuple[Stretch, int]]:
        return {step.number: (stretch, index) for stretch in self.stretches for index, step in enumerate(stretch.steps)}

    def step(self, number: int) -> Step | None:
        found = self._where.get(number)
        return found[0].steps[found[1]] if found else None

    def conflict_at(self, lsn: int) -> tuple[str, ...]:
        number = lsn // self.wal.segment_size
        return next(
            (names for interval in self._files(number) if (names := self.wal.conflict(interval.timeline, number))), ()
        )

    def carries(self, facts: BackupFacts) -> bool:
        """Whether recovery from a backup can follow this line: it ended before its timeline was left."""
        return any(
            timeline == facts.timeline and begin <= facts.start_lsn and (stop is None or facts.stop_lsn <= stop)
            for timeline, begin, stop in self.intervals
        )

    def after(self, facts: BackupFacts) -> Following | None:
        """What is held from the backup's end on; None: nothing more than the backup itself carries."""
        size = self.wal.segment_size
        number, inside = divmod(facts.stop_lsn, size)
        found, following = self._where.get(number), self._where.get(number + 1)
        step = found[0].steps[found[1]] if found else None
        if following and inside and not facts.from_standby and (step is None or step.stop < (number + 1) * size):
            # A primary ends the segment with the backup: its copy in the backup is whole.
            is_own_file = any(
                interval.timeline == facts.timeline and (interval.stop is None or interval.stop >= (number + 1) * size)
                for interval in self.intervals
            )
            if is_own_file and self.file_of(facts.stop_lsn) == facts.timeline:
                return Following(*following)
        return Following(*found) if found and step and step.stop > facts.stop_lsn else None

    def until(self, stretch: Stretch) -> datetime | None:
        """Each commit up to then is in it: the server's clock where it was noted, else the last commit's time."""
        times: list[datetime] = []
        for step in reversed(stretch.steps):
            clocks = list(self._clocks(step))
            if step is stretch.steps[-1]:
                clocks += self._clocks_beyond(step)
            times += clocks
            if step.stop == step.start + step.segment.stop:
                known = (self.wal.facts(piece) for piece in step.segment.pieces)
                times += [facts.last_time for facts in known if facts and facts.last_time]
            if clocks:
                break
        return max(times, default=None)

    def _clocks(self, step: Step) -> Iterable[datetime]:
        for place in self.wal.places(step.timeline, step.number):
            for piece in place.segment.pieces:
                if piece.clock is not None and step.start + piece.stop <= step.stop:
                    yield piece.clock

    def _clocks_beyond(self, step: Step) -> Iterable[datetime]:
        """Of the empty tail of the next segment: the clock went on when nothing was written."""
        if step.stop == step.start + self.wal.segment_size:
            for place in self.wal.places(self.file_of(step.stop), step.number + 1):
                if place.segment.stop == 0:
                    yield from (piece.clock for piece in place.segment.pieces if piece.clock is not None)


def _intervals(history: History) -> tuple[Interval, ...]:
    """Oldest first. Switch points may go down: what a newer timeline covers is no older one's any more."""
    found: list[Interval] = []
    stop: int | None = None
    for timeline in reversed(history.timelines):
        begin = int(history.begin_of(timeline) or 0)
        if stop is None or begin < stop:
            found.append(Interval(timeline, begin, stop))
            stop = begin
    return tuple(reversed(found))


def servers(wal: Mapping[str, Sequence[Held]], backups: Iterable[BackupFacts]) -> dict[tuple[int, int], ServerWal]:
    """By system identifier and segment size: two servers' WAL is never mixed."""
    held: dict[tuple[int, int], list[tuple[str, Held]]] = {
        (facts.system_identifier, facts.wal_segment_size): [] for facts in backups
    }
    for repository, streams in wal.items():
        for one in streams:
            held.setdefault((one.stream.system_identifier, one.segment_size), []).append((repository, one))
    return {key: ServerWal(*key, found) for key, found in held.items()}
