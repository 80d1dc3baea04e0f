"""What the threads of one repository's carrier do: put pieces, and tidy up behind them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial

from holdfast.clock import Clock
from holdfast.jobs.archive_carrier import Carrier, Urgency
from holdfast.jobs.archive_memory import Memory
from holdfast.jobs.archive_portions import Portion
from holdfast.jobs.archive_tails import Tails, merged_piece
from holdfast.policy.durable import Durable
from holdfast.postgres.lsn import Lsn
from holdfast.repository.wal.pieces import Piece, Stream
from holdfast.repository.wal.writing import WalWriter

SPAN_BITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A stretch of streaming: one timeline, from the beginning of a segment on."""

    number: int
    """They are counted."""
    stream: Stream
    segment_size: int
    timeline: int
    start: Lsn


@dataclass(slots=True)
class Going:
    course: Course
    durable: Durable
    stop: Lsn | None = None
    """Where it ended; None: it goes on."""

    @property
    def is_over(self) -> bool:
        return self.stop is not None and self.durable.confirmed >= self.stop


class Putting:
    """Counts what is on its way. ``lock`` is held for whatever several threads look at."""

    def __init__(self, name: str, carrier: Carrier, lock: threading.Lock, clock: Clock) -> None:
        self._name = name
        self._carrier = carrier
        self._lock = lock
        self._clock = clock
        self.memory: Memory | None = None
        """What is held; None: not read yet, or not to be believed any more."""
        self.tails_on_the_way = 0
        self.waiting_bytes = 0
        """Of full portions that are not durable yet: they hold memory."""
        self.put_since = False
        """Whether something was put since the repository was left behind."""

    def forget(self) -> None:
        """Nothing is on its way any more. The lock is held."""
        self.memory = None
        self.tails_on_the_way = self.waiting_bytes = 0

    def tail(self, going: Going, writer: WalWriter, portion: Portion, tails: Tails, piece: Piece) -> None:
        name = writer.put(piece, portion.view(piece.start, piece.stop), tail=True)
        with self._lock:
            tails.arrived(piece, name)
            self.tails_on_the_way = max(0, self.tails_on_the_way - 1)
            self._confirm(going, portion, piece, name)
            pieces = [] if tails.whole else tails.claim()
        if tails.is_over:
            self._remove(writer, tails.names())
        elif pieces:
            self._carrier.give(partial(self._merge, writer, portion, tails, pieces), Urgency.TIDYING)

    def whole(self, going: Going, writer: WalWriter, portion: Portion, tails: Tails, piece: Piece) -> None:
        name = writer.put(piece, portion.view(piece.start, piece.stop), tail=False)
        with self._lock:
            tails.whole = True
            self.waiting_bytes = max(0, self.waiting_bytes - portion.size)
            self._confirm(going, portion, piece, name)
        if tails.is_over:
            self._remove(writer, tails.names())
        last = portion.segment.number & ((1 << SPAN_BITS) - 1) == (1 << SPAN_BITS) - 1
        if last and portion.limit == portion.segment.size:
            span = portion.segment.number >> SPAN_BITS
            self._carrier.give(partial(writer.summarise, portion.segment.timeline, span), Urgency.TIDYING)

    def _merge(self, writer: WalWriter, portion: Portion, tails: Tails, pieces: list[Piece]) -> None:
        if tails.whole:
            return
        piece = merged_piece(pieces)
        name = writer.put(piece, portion.view(piece.start, piece.stop), tail=True)
        with self._lock:
            replaced = tails.merged(pieces, piece, name)
            self._remember(piece, name)
        self._remove(writer, [*replaced, name] if tails.whole else replaced)

    def join_last(self, writer: WalWriter, portion: Portion, tails: Tails) -> None:
        with self._lock:
            settled = tails.is_settled
            pieces = tails.claim(ended=True)
        if not settled:
            self._clock.sleep(0.05)
            self._carrier.give(partial(self.join_last, writer, portion, tails), Urgency.TIDYING)
            return
        if pieces:
            self._carrier.give(partial(self._merge, writer, portion, tails, pieces), Urgency.TIDYING)
        span = portion.segment.number >> SPAN_BITS
        self._carrier.give(partial(writer.summarise, portion.segment.timeline, span, final=True), Urgency.TIDYING)

    def _remove(self, writer: WalWriter, names: list[str]) -> None:
        if names:
            self._carrier.give(partial(writer.remove_tails, names), Urgency.TIDYING)

    def _confirm(self, going: Going, portion: Portion, piece: Piece, name: str) -> None:
        self.put_since = True
        going.durable.add(self._name, portion.lsn(piece.start), portion.lsn(piece.stop))
        self._remember(piece, name)

    def _remember(self, piece: Piece, name: str) -> None:
        if self.memory is not None:
            self.memory.put(piece, name)
