"""What the server says of our slot and of itself, by SQL beside the stream; and whether it wants to shut down.

A server that shuts down sends its walsenders' last WAL and waits for them, for ever if need be, while each new
connection is refused and each session for SQL is ended: only by asking beside the stream can that be known.
:func:`probe` asks with a start-up packet alone, before any authentication: the refusal's SQLSTATE (57P03) is the same
in every language, and libpq hands it to nobody.

Sources: PostgreSQL's manual, "Message Formats", ``pg_replication_slots``, ``pg_stat_replication``; ``postmaster.c``
(``canAcceptConnections``).
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import TracebackType
from typing import Self

from psycopg.conninfo import make_conninfo

from holdfast.clock import Clock, SystemClock
from holdfast.errors import Interrupted, PermissionRefused, ServerUnreachable
from holdfast.messages import _
from holdfast.postgres.connection import Connection, Server, connect, read_connection_string
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.protocol import Row, Walsender

LIMIT = 3.0
"""Seconds for each attempt to connect, and for each answer."""

_SINCE = datetime(1970, 1, 1, tzinfo=UTC)
_MIB = 1 << 20
_LONGEST_ANSWER = 1 << 16


class Probe(StrEnum):
    UP = "up"
    SHUTTING_DOWN = "shutting down"
    """It takes no connections (57P03). While it still streams to us, that can only be because it shuts down."""
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Of ``pg_replication_slots``."""

    is_physical: bool
    restart_lsn: Lsn | None
    active_pid: int | None
    """Of the walsender that streams from it."""
    wal_status: str | None
    """``reserved``, ``extended``, ``unreserved``, ``lost``; None: it has never kept WAL."""
    safe_wal_size: int | None
    """Bytes that may still be written before it can be lost; None: no limit, or lost."""
    retained: int | None
    """Bytes of WAL that it holds back, from ``restart_lsn`` to the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    server: Server
    system_identifier: int | None
    """None: the role may not know (``pg_control_system``)."""
    timeline: int | None
    """On a standby that of its last restart point; None: the role may not know (``pg_control_checkpoint``)."""
    data_directory: str | None
    """None: the role may not know (``pg_read_all_settings``)."""
    in_recovery: bool
    clock: datetime
    """The server's, UTC."""
    end: Lsn
    """Flushed; on a standby received, or replayed."""
    slot: Slot | None
    """None: there is no such slot."""
    sync_state: str | None
    """Of our walsender: ``async``, ``potential``, ``sync``, ``quorum``. None: nobody streams from the slot, or the role
    may not see it (``pg_monitor``)."""
    synchronous_standby_names: str
    max_slot_wal_keep_size: int | None
    """Bytes; None: no limit."""


_QUERY = """
select pg_is_in_recovery(), (extract(epoch from clock_timestamp()) * 1000000)::bigint, here.lsn,
       s.slot_type, s.restart_lsn, s.active_pid, s.wal_status, s.safe_wal_size,
       pg_wal_lsn_diff(here.lsn, s.restart_lsn)::bigint, r.sync_state,
       (select setting from pg_settings where name = 'synchronous_standby_names'),
       (select setting from pg_settings where name = 'max_slot_wal_keep_size'),
       (select setting from pg_settings where name = 'data_directory'), {identifier},
       case when pg_is_in_recovery() then {timeline}
            else ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint end
from (select case when pg_is_in_recovery() then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
                  else pg_current_wal_flush_lsn() end as lsn) as here
left join pg_replication_slots s on s.slot_name = '{slot}'
left join pg_stat_replication r on r.pid = s.active_pid
"""
_CONTROL = {
    "identifier": "(select system_identifier from pg_control_system())",
    "timeline": "(select timeline_id from pg_control_checkpoint())",
}
_NO_CONTROL = dict.fromkeys(_CONTROL, "null::bigint")
"""EXECUTE on a function is checked wherever it stands in a query: no condition inside it helps."""


class _Silent(ServerUnreachable):
    """No answer in time: asking again would take as long."""


class SlotWatch:
    """A session for SQL, connected when it is needed and again when it was lost. One thread uses it.

    ``server``: of several hosts in ``connection`` the one to ask, that of the stream.
    """

    def __init__(
        self,
        connection: str,
        slot: str,
        *,
        server: Server | None = None,
        limit: float = LIMIT,
        clock: Clock | None = None,
    ) -> None:
        self._connection_string = _only(connection, server, limit)
        self._slot = slot.replace("'", "''")
        self._control = _CONTROL
        self._limit = limit
        self._clock = clock or SystemClock()
        self._connection: Connection | None = None
        self._session: Walsender | None = None
        self._until = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def look(self) -> Observed:
        """Raises what :func:`~holdfast.postgres.connection.connect` raises, and
        :class:`~holdfast.errors.ServerUnreachable` when no answer comes within the limit."""
        if self._session is not None:
            try:
                return self._ask(self._session)
            except _Silent:
                raise
            except ServerUnreachable:
                pass  # a session that was lost meanwhile, by a restart perhaps, says nothing of now
        return self._look_anew()

    def _look_anew(self) -> Observed:
        self._connection = connect(self._connection_string)
        self._session = Walsender(self._connection, stopped=lambda: self._clock.monotonic() > self._until)
        try:
            return self._ask(self._session)
        except PermissionRefused:
            if self._control is _NO_CONTROL:
                raise
        self._control = _NO_CONTROL
        return self._look_anew()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._session = None

    def _ask(self, session: Walsender) -> Observed:
        self._until = self._clock.monotonic() + self._limit
        try:
            (row,) = session.query(_QUERY.format(slot=self._slot, **self._control))
        except Interrupted:
            self.close()
            raise _Silent(
                _("PostgreSQL at {server} has not answered within {seconds:g} seconds").format(
                    server=session.server, seconds=self._limit
                ),
                hint=_("See whether the server's machine is overloaded or hangs; its log may tell."),
            ) from None
        except BaseException:
            self.close()
            raise
        return _observed(row, session.server)


def probe(server: Server, *, limit: float = LIMIT) -> Probe:
    """Whether ``server`` takes connections; not whether it lets us in. Takes little more than ``limit`` seconds."""
    packet = b"".join(word.encode() + b"\0" for word in ("user", server.user, "replication", "true")) + b"\0"
    try:
        with _open(server, limit) as channel:
            channel.sendall(struct.pack(">II", len(packet) + 8, 3 << 16) + packet)
            answer = _read(channel)
    except (OSError, ValueError):
        return Probe.UNREACHABLE
    if not answer:
        return Probe.UNREACHABLE
    return Probe.SHUTTING_DOWN if answer[:1] == b"E" and b"\0C57P03\0" in answer else Probe.UP


def is_shutting_down(server: Server, *, limit: float = LIMIT) -> bool:
    """For a server that still streams to us: see :data:`Probe.SHUTTING_DOWN`."""
    return probe(server, limit=limit) is Probe.SHUTTING_DOWN


def _open(server: Server, limit: float) -> socket.socket:
    if not server.by_socket:
        return socket.create_connection((server.host, int(server.port)), timeout=limit)
    channel = socket.socket(socket.AF_UNIX)
    try:
        channel.settimeout(limit)
        channel.connect(f"{server.host}/.s.PGSQL.{server.port}".replace("@", "\0", 1))
    except BaseException:
        channel.close()
        raise
    return channel


def _read(channel: socket.socket) -> bytes:
    """The first message, its kind, length and body; shorter if the server hangs up."""
    answer = b""
    while len(answer) < 5 or len(answer) < min(1 + int.from_bytes(answer[1:5], "big"), _LONGEST_ANSWER):
        more = channel.recv(4096)
        if not more:
            break
        answer += more
    return answer


def _only(connection: str, server: Server | None, limit: float) -> str:
    words = read_connection_string(connection)
    if server is not None and any("," in str(words.get(name) or "") for name in ("host", "hostaddr", "port")):
        words.pop("hostaddr", None)
        words |= {"host": server.host, "port": server.port}
    words |= {"connect_timeout": f"{max(2, round(limit))}", "tcp_user_timeout": f"{limit * 1000:.0f}"}
    return make_conninfo("", **words)


def _observed(row: Row, server: Server) -> Observed:
    recovers, clock, end, kind, restart, pid, status, safe, retained, sync_state, names, keep, *identity = row
    directory, system, timeline = identity
    slot = Slot(
        is_physical=kind == "physical",
        restart_lsn=Lsn.parse(restart) if restart else None,
        active_pid=_number(pid),
        wal_status=status,
        safe_wal_size=_number(safe),
        retained=_number(retained),
    )
    limit = _number(keep)
    return Observed(
        server=server,
        system_identifier=_number(system),
        timeline=_number(timeline),
        data_directory=directory,
        in_recovery=recovers == "t",
        clock=_SINCE + timedelta(microseconds=int(clock or 0)),
        end=Lsn.parse(end) if end else Lsn(0),
        slot=slot if kind is not None else None,
        sync_state=sync_state,
        synchronous_standby_names=names or "",
        max_slot_wal_keep_size=limit * _MIB if limit is not None and limit >= 0 else None,
    )


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
