"""One repository and the WAL on its way there: pieces cut when they are due, carried side by side, confirmed in order.

The thread that receives calls :meth:`Lane.offer`, :meth:`Lane.seal` and :meth:`Lane.end`; threads of the carrier put.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial

from holdfast.clock import Clock
from holdfast.errors import HoldfastError, NotReachable, PermissionRefused, Refused, TryLater
from holdfast.jobs.archive_carrier import Carrier, Urgency
from holdfast.jobs.archive_cursor import Cursor
from holdfast.jobs.archive_memory import Memory
from holdfast.jobs.archive_portions import Portion
from holdfast.jobs.archive_putting import Course, Going, Putting
from holdfast.jobs.archive_tails import Tails
from holdfast.policy.durable import Durable
from holdfast.policy.resuming import Why
from holdfast.postgres.lsn import Lsn, history_name
from holdfast.repository.repository import Repository
from holdfast.repository.wal.held import Begin
from holdfast.repository.wal.pieces import MAX_PIECE_BYTES, Stream
from holdfast.repository.wal.reading import WalReader
from holdfast.repository.wal.writing import WalWriter

WORKERS = 4
TAILS_ON_THE_WAY = 3
"""While so many are not durable, new bytes wait and go together."""
ROOM_BYTES = 96 * 2**20
"""Of full portions in memory; at least three are allowed."""

Trouble = Callable[[HoldfastError], None]
OpenRepository = Callable[[Trouble], Repository]
"""Opens it; while its store makes trouble and tries again by itself, it says so."""


class Lane:
    def __init__(
        self,
        name: str,
        *,
        source: str,
        open_repository: OpenRepository,
        every: timedelta,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self.name = name
        self._source = source
        self._open_repository = open_repository
        self._every = every.total_seconds()
        self.says_clock_every = 60.0 if self._every < 5 else 300.0
        self._clock = clock
        self.carrier = Carrier(f"wal {name}", workers=WORKERS, clock=clock, changed=changed, is_fatal=self._is_fatal)
        self._lock = threading.Lock()
        self.repository: Repository | None = None
        self._putting = Putting(name, self.carrier, self._lock, clock)
        self._writer: WalWriter | None = None
        self._writes: Stream | None = None
        self._cursor: Cursor | None = None
        self._going: deque[Going] = deque()
        self._tails: dict[tuple[int, int, int], Tails] = {}
        self._cut_at = clock.monotonic()
        self._drops = 0
        """How often it was left behind, and nothing was put in between."""

    def _is_fatal(self, error: HoldfastError) -> bool:
        """Whether trying again is of no use: what stands in the way does not pass."""
        if self.repository is None:
            return not isinstance(error, NotReachable | TryLater)
        return isinstance(error, Refused) and not isinstance(error, PermissionRefused)

    # --- opening, and giving up for a while

    def open(self) -> None:
        """Opens the repository and reads what is held, in the background; :attr:`memory` is there then."""
        self.carrier.give(self._open, Urgency.FIRST)

    def drop(self) -> None:
        """Gives up what is on its way, so that others can go on, and begins anew in the background."""
        self.carrier.abandon()
        with self._lock:
            self._cursor = None
            self._going.clear()
            self._tails.clear()
            self._drops = 1 if self._putting.put_since else self._drops + 1
            self._putting.put_since = False
            self._putting.forget()
        self.open()

    def _open(self) -> None:
        if self._drops:
            self._clock.sleep(min(2.0**self._drops, 60.0))  # what can be read may still not be written to
        if self.repository is None:
            self.repository = self._open_repository(self.carrier.trouble)
        reader = WalReader(self.repository)
        held = [reader.held(stream) for stream in reader.streams(self._source)]
        with self._lock:
            self._putting.memory = Memory(reader, held)
        for one in held:  # summaries that an earlier receiver did not come to
            writer = WalWriter(self.repository, one.stream, one.segment_size)
            self.carrier.give(partial(writer.summarise_held, one), Urgency.TIDYING)

    # --- one course after the other

    def begin(self, course: Course, *, begin: Begin | None, histories: Mapping[int, bytes]) -> tuple[Lsn, ...]:
        """Goes on with ``course``; history files and the record of the beginning are put before anything else.

        Returns places at which pieces that are held end."""
        assert self.repository is not None
        assert self._putting.memory is not None
        if self._writer is None or self._writes != course.stream:
            self._writer, self._writes = WalWriter(self.repository, course.stream, course.segment_size), course.stream
        writer = self._writer
        held = self._putting.memory.segments_from(course.stream, course.timeline, course.start // course.segment_size)
        cursor = Cursor(
            stream=course.stream,
            start=course.start,
            segment_size=course.segment_size,
            running=writer.running,
            held=held,
        )
        durable = Durable((self.name,), start=course.start)
        durable.add(self.name, course.start, cursor.position)
        with self._lock:
            self._cursor = cursor
            # One that did not end was drained, or was broken off by a gap: nothing of it is awaited.
            self._going = deque(going for going in self._going if going.stop is not None)
            self._going.append(Going(course, durable))
            self._tails.clear()
        for timeline, content in histories.items():
            self._putting.memory.history(course.stream, course.segment_size, timeline, content)
        if begin is not None:
            self._putting.memory.begun(begin)
        self.carrier.give(partial(_prepare, writer, begin, dict(histories)), Urgency.FIRST)
        return tuple(Lsn(number * course.segment_size + segment.stop) for number, segment in held.items())

    def beginnings(self, stream: Stream) -> list[Begin]:
        """Where WAL begins that does not go on from what was held before."""
        held = [] if self._putting.memory is None else self._putting.memory.held()
        return [begin for one in held if one.stream == stream for begin in one.begins if begin.why != Why.TIMELINE]

    @property
    def memory(self) -> Memory | None:
        """What is held there; None: not read yet, or not to be believed any more."""
        return self._putting.memory

    @property
    def is_open(self) -> bool:
        with self._lock:
            return self._putting.memory is not None

    @property
    def is_full(self) -> bool:
        """Whether so much waits in memory that no more may come."""
        portion = min(self._cursor.segment_size, MAX_PIECE_BYTES) if self._cursor is not None else 0
        return self._putting.waiting_bytes >= max(ROOM_BYTES, 3 * portion)

    @property
    def is_going(self) -> bool:
        with self._lock:
            return self._cursor is not None

    # --- what the receiving thread says

    def is_due(self, portion: Portion, *, at_once: bool) -> bool:
        """Whether a piece of the tail is to be cut now."""
        with self._lock:
            cursor = self._cursor
            if cursor is None or portion.lsn(portion.stop) <= cursor.position:
                return False
            if self._putting.tails_on_the_way >= TAILS_ON_THE_WAY:
                return False
        return at_once or self.seconds_left <= 0

    def clock_is_due(self, portion: Portion, clock: datetime | None) -> bool:
        """Whether nothing is new but the clock, and for a while it was not told."""
        cursor = self._cursor
        if cursor is None or clock is None or portion.lsn(portion.stop) != cursor.position:
            return False
        if self.carrier.outstanding:
            return False
        return cursor.said is None or (clock - cursor.said).total_seconds() >= self.says_clock_every

    @property
    def seconds_left(self) -> float:
        """Until the next piece of the tail may be cut."""
        return self._cut_at + self._every - self._clock.monotonic()

    def offer(self, portion: Portion, clock: datetime | None) -> None:
        """Cuts a piece of the tail. Raises ``Refused`` where what is held is not what has come."""
        cursor = self._cursor
        if cursor is None:
            return
        self._cut_at = self._clock.monotonic()
        tails = self._tails_of(portion)
        piece = cursor.tail(portion, clock)
        if piece is None:
            return
        with self._lock:
            tails.cut(piece)
            self._putting.tails_on_the_way += 1
        self.carrier.give(partial(self._putting.tail, self._going[-1], self._writer_, portion, tails, piece))

    def seal(self, portion: Portion, clock: datetime | None) -> None:
        """A portion is full. Raises ``Refused`` as :meth:`offer` does."""
        cursor = self._cursor
        if cursor is None:
            return
        tails = self._tails_of(portion)
        piece = cursor.whole(portion, clock)
        with self._lock:
            self._tails.pop(_key(portion), None)
            if piece is not None:
                self._putting.waiting_bytes += portion.size
        if piece is not None:
            self.carrier.give(partial(self._putting.whole, self._going[-1], self._writer_, portion, tails, piece))

    def end(self, portion: Portion, stop: Lsn) -> None:
        """The timeline is over at ``stop``: the last portion stays a tail, of one piece."""
        if self._cursor is None:
            return
        self.offer(portion, None)
        with self._lock:
            self._going[-1].stop = stop
            self._cursor = None
            tails = self._tails.get(_key(portion))
        if tails is not None:
            self.carrier.give(partial(self._putting.join_last, self._writer_, portion, tails), Urgency.TIDYING)

    def stop(self) -> None:
        self.carrier.close()

    # --- what is durable

    @property
    def durable(self) -> tuple[int, Lsn] | None:
        """The number of the course that is not finished, and up to where it is durable here; None: nothing is going."""
        with self._lock:
            while len(self._going) > 1 and self._going[0].is_over:
                self._going.popleft()
            if not self._going:
                return None
            return self._going[0].course.number, self._going[0].durable.of(self.name)

    @property
    def _writer_(self) -> WalWriter:
        assert self._writer is not None
        return self._writer

    def _tails_of(self, portion: Portion) -> Tails:
        with self._lock:
            tails = self._tails.get(_key(portion))
            if tails is None:
                held = () if self._cursor is None else self._cursor.tails_held(portion)
                tails = self._tails[_key(portion)] = Tails(held)
            return tails


def _key(portion: Portion) -> tuple[int, int, int]:
    return portion.segment.timeline, portion.segment.number, portion.start


def _prepare(writer: WalWriter, begin: Begin | None, histories: Mapping[int, bytes]) -> None:
    for timeline, content in sorted(histories.items()):
        writer.put_file(history_name(timeline), content)
    if begin is not None:
        writer.begin(begin)
