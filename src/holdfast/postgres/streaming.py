"""Streaming WAL: ``START_REPLICATION`` through libpq, with our own feedback, never blocking for long.

Sources: PostgreSQL's manual, "Streaming Replication Protocol"; how a server begins and ends a stream: ``walsender.c``.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from datetime import datetime
from enum import Enum, auto
from types import TracebackType
from typing import Self

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from holdfast.clock import Clock, SystemClock
from holdfast.errors import AlreadyRunning, HoldfastError, Refused, ServerUnreachable
from holdfast.messages import _
from holdfast.postgres.connection import connect_replication, read_connection_string
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.protocol import SLICE_MS, Walsender, never, rows_of
from holdfast.postgres.wal_messages import (
    Identity,
    Keepalive,
    Message,
    SlotState,
    TimelineEnds,
    WalData,
    feedback,
    parse_stream,
    parse_timeline_ends,
)

__all__ = [
    "Identity",
    "Keepalive",
    "Message",
    "SlotLost",
    "SlotState",
    "TimelineEnds",
    "WalData",
    "WalGone",
    "WalSession",
]

_UNITS = {"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}

_TCP_USER_TIMEOUT = "60000"
"""Milliseconds: feedback that nobody acknowledges would keep a dead connection alive for a quarter of an hour."""

_UNDEFINED_FILE, _NOT_IN_STATE, _IN_USE = "58P01", "55000", "55006"
_UNDEFINED_OBJECT, _NOT_SUPPORTED, _INTERNAL = "42704", "0A000", "XX000"


class WalGone(HoldfastError):
    """The server no longer has the WAL that was asked for: removed, or our slot given up by the server."""


class SlotLost(WalGone):
    """Our slot was given up by the server; the WAL itself may still be there. PostgreSQL 18 tells a slot that was idle
    for too long by this alone: its ``restart_lsn`` stays."""


class _Phase(Enum):
    IDLE = auto()
    STARTING = auto()
    COPYING = auto()
    ENDING = auto()


class WalSession(Walsender):
    """A walsender's session. One thread uses it. Errors of the server and of the connection are Holdfast's.

    A scope that closes it, or :meth:`close`. ``wake`` is a descriptor: :meth:`receive` returns when it can be read.
    """

    def __init__(
        self,
        connection: str,
        *,
        stopped: Callable[[], bool] = never,
        wake: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Connects (several hosts: libpq takes the first that answers; ``target_session_attrs`` is the user's)."""
        words = read_connection_string(connection)
        words.setdefault("tcp_user_timeout", _TCP_USER_TIMEOUT)
        super().__init__(connect_replication(make_conninfo("", **words)), stopped=stopped)
        self._clock = clock or SystemClock()
        self._phase = _Phase.IDLE
        self._ends: TimelineEnds | None = None
        self._feedback: bytes | None = None
        """The newest, while libpq still has to send an older one."""
        self._unsent = False
        self._wake = wake
        self._waiter = select.poll()
        """For :meth:`receive`; what waits for an answer to a command must not be woken."""
        self._waiter.register(self._pgconn.socket, select.POLLIN)
        if wake is not None:
            self._waiter.register(wake, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def identify(self) -> Identity:
        ((identifier, timeline, flushed, *_rest),) = self.query("IDENTIFY_SYSTEM")
        return Identity(
            system_identifier=int(identifier or 0),
            timeline=int(timeline or 0),
            flushed=Lsn.parse(flushed or ""),
            in_recovery=self._pgconn.parameter_status(b"in_hot_standby") == b"on",
        )

    def segment_size(self) -> int:
        """SHOW wal_segment_size, in bytes."""
        ((size, *_rest),) = self.query("SHOW wal_segment_size")
        number = (size or "").rstrip("BkMG")
        return int(number) * _UNITS[(size or "").removeprefix(number)]

    def history(self, timeline: int) -> bytes | None:
        """TIMELINE_HISTORY: the file as it is; None where the server has none, as for timeline 1 or an old ancestor."""
        try:
            ((_name, content, *_rest),) = self.query(f"TIMELINE_HISTORY {timeline}")
        except HoldfastError:
            if self.sqlstate == _UNDEFINED_FILE:
                return None
            raise
        return (content or "").encode("utf-8", "surrogateescape")

    def slot(self, name: str) -> SlotState | None:
        """READ_REPLICATION_SLOT (15+); None: there is none. Raises :class:`~holdfast.errors.Refused`: a logical one."""
        try:
            ((kind, restart, *_rest),) = self.query(f"READ_REPLICATION_SLOT {_quoted(name)}")
        except HoldfastError:
            if self.sqlstate == _NOT_SUPPORTED:
                raise _logical(name, self) from None
            raise
        return None if kind is None else SlotState(name=name, restart_lsn=Lsn.parse(restart) if restart else None)

    def create_slot(self, name: str) -> Lsn:
        """Physical, RESERVE_WAL; where its WAL begins."""
        self.query(f"CREATE_REPLICATION_SLOT {_quoted(name)} PHYSICAL (RESERVE_WAL)")
        state = self.slot(name)
        if state is None or state.restart_lsn is None:
            raise WalGone(
                _("replication slot {slot} at {server} keeps no WAL").format(slot=name, server=self.server),
                hint=_("Run this again; max_slot_wal_keep_size may be too small for this server's load."),
            )
        return state.restart_lsn

    def drop_slot(self, name: str) -> None:
        """Nothing if there is none. Raises :class:`~holdfast.errors.AlreadyRunning` if somebody streams from it."""
        try:
            self.query(f"DROP_REPLICATION_SLOT {_quoted(name)}")
        except HoldfastError:
            if self.sqlstate != _UNDEFINED_OBJECT:
                raise

    def start(self, slot: str | None, lsn: Lsn, timeline: int) -> None:
        """Have WAL sent from ``lsn`` on, of ``timeline``: the server's, or an ancestor of it. Without a slot the server
        keeps nothing for us.

        Raises :class:`~holdfast.errors.AlreadyRunning` if the slot is in use, :class:`SlotLost` if the server has given
        it up (that WAL is missing shows in :meth:`receive`), :class:`~holdfast.errors.Refused` for a logical slot or
        what is not in the server's history.
        """
        if slot is not None:
            self.slot(slot)  # a logical one is refused here; START_REPLICATION has one SQLSTATE for that and a lost one
        self._phase, self._ends, self._feedback = _Phase.STARTING, None, None
        of_slot = "" if slot is None else f"SLOT {_quoted(slot)} "
        self.send(f"START_REPLICATION {of_slot}PHYSICAL {lsn} TIMELINE {timeline}")
        try:
            result = self.next_result()
        except HoldfastError:
            self._phase = _Phase.IDLE
            raise
        if result is not None and result.status == pq.ExecStatus.COPY_BOTH:
            self._phase = _Phase.COPYING
            return
        self._phase = _Phase.ENDING  # nothing is left of an ancestor from here on
        if result is not None and result.status == pq.ExecStatus.TUPLES_OK:
            self._ends = parse_timeline_ends(rows_of(result))

    def receive(self, timeout: float) -> Message | None:
        """The next message; None when none came within ``timeout`` seconds (0: only what has arrived).

        Raises :class:`WalGone`, and :class:`~holdfast.errors.ServerUnreachable` when the connection is lost, also
        because the server shuts down.
        """
        message = self._next()
        if message is None:
            self._take_in()
            message = self._next()
        if message is None and timeout > 0:
            message = self._await(self._clock.monotonic() + timeout)
        return message

    def confirm(self, *, written: Lsn, flushed: Lsn, applied: Lsn, clock: datetime, reply: bool = False) -> None:
        """Standby status update; never blocks: what the server does not take in now, goes with the next call.

        ``reply``: the server is to answer with a keepalive. Between two timelines nothing is sent.
        """
        if self._phase is _Phase.COPYING:
            self._feedback = feedback(written=written, flushed=flushed, applied=applied, clock=clock, reply=reply)
            self._give()

    def close(self) -> None:
        """Ends the stream too: the slot is free as soon as the server has noticed."""
        self._phase = _Phase.IDLE
        self._connection.close()

    def send(self, command: str) -> None:
        """What an error left unread of the command before is read first."""
        while self._pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
            self.next_result()
        super().send(command)

    def _next(self) -> Message | None:
        """Of what libpq has taken in."""
        if self._phase is _Phase.COPYING:
            try:
                length, data = self._pgconn.get_copy_data(1)
            except psycopg.Error as error:
                raise self._lost(error) from None
            if length > 0:
                return parse_stream(data)
            if length == 0:
                return None
            self._phase = _Phase.ENDING
        return self._end() if self._phase is _Phase.ENDING else None

    def _end(self) -> TimelineEnds | None:
        """The server has ended COPY: we end it too, and are told what comes next; None: it has not said yet."""
        while not self._pgconn.is_busy():
            result = self.next_result()
            if result is None:
                break
            if result.status == pq.ExecStatus.COPY_IN:
                self._end_copy()
            elif result.status == pq.ExecStatus.TUPLES_OK:
                self._ends = parse_timeline_ends(rows_of(result))
            elif self._ends is None:
                raise ServerUnreachable(
                    _("PostgreSQL at {server} shuts down").format(server=self.server),
                    hint=_("Wait until it has started again."),
                )
        else:
            return None
        self._phase = _Phase.IDLE
        if self._ends is None:
            raise ServerUnreachable(
                _("the stream of WAL from PostgreSQL at {server} ended without a word").format(server=self.server),
                hint=_("Look into the server's log for the cause, then run this again."),
            )
        return self._ends

    def _end_copy(self) -> None:
        self._feedback = None
        try:
            while not self._pgconn.put_copy_end():
                self._wait(select.POLLIN | select.POLLOUT)
            self._unsent = bool(self._pgconn.flush())
        except psycopg.Error as error:
            raise self._lost(error) from None

    def _await(self, until: float) -> Message | None:
        while True:
            self._ask()
            left = until - self._clock.monotonic()
            if left <= 0:
                return None
            self._waiter.modify(self._pgconn.socket, select.POLLIN | (select.POLLOUT if self._unsent else 0))
            ready = self._waiter.poll(min(SLICE_MS, left * 1000))
            if any(descriptor == self._wake for descriptor, _events in ready):
                return None
            if ready:
                self._take_in()
                message = self._next()
                if message is not None:
                    return message

    def _take_in(self) -> None:
        """What has arrived; and what waits to be sent, as far as it goes."""
        try:
            self._pgconn.consume_input()
        except psycopg.Error as error:
            raise self._lost(error) from None
        if self._unsent:
            self._give()

    def _give(self) -> None:
        try:
            if self._unsent:
                self._unsent = bool(self._pgconn.flush())
            if self._feedback is not None and not self._unsent and self._pgconn.put_copy_data(self._feedback):
                self._feedback = None
                self._unsent = bool(self._pgconn.flush())
        except psycopg.Error as error:
            raise self._lost(error) from None

    def _error_of(self, result: pq.abc.PGresult) -> HoldfastError:
        error = super()._error_of(result)
        streams, self._phase = self._phase is not _Phase.IDLE, _Phase.IDLE
        return _streaming_error(self.sqlstate, error, streams=streams)


def _streaming_error(sqlstate: str, error: HoldfastError, *, streams: bool) -> HoldfastError:
    if sqlstate == _IN_USE:
        return AlreadyRunning(
            str(error),
            hint=_(
                "Another receiver streams from this slot, or the server has not noticed yet that an earlier one ended: "
                "look at pg_stat_replication."
            ),
        )
    if not streams:
        return error
    if sqlstate in (_UNDEFINED_FILE, _NOT_IN_STATE):
        return (WalGone if sqlstate == _UNDEFINED_FILE else SlotLost)(
            str(error),
            hint=_("Take a backup as soon as WAL streams again: what lies between cannot be recovered to."),
        )
    # A "requested WAL segment" is one that was removed under the server's hands: asked again, it has a SQLSTATE.
    if sqlstate == _INTERNAL and "requested starting point" in str(error):
        return Refused(str(error), hint=_("See whether the connection leads to the right server: holdfast check."))
    return error


def _logical(name: str, session: Walsender) -> Refused:
    return Refused(
        _("replication slot {slot} at {server} is a logical one").format(slot=name, server=session.server),
        hint=_("Drop it if nobody needs it: {sql}").format(sql=f"SELECT pg_drop_replication_slot('{name}');"),
    )


def _quoted(slot: str) -> str:
    return '"' + slot.replace('"', '""') + '"'
