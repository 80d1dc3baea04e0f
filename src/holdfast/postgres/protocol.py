"""The replication protocol through libpq: commands, and the COPY stream of BASE_BACKUP, never blocking for long.

libpq is only asked for what has arrived; waiting is done here, in slices, so that a stop is noticed within half a
second and a dead connection is an error. Framing: PostgreSQL's manual, "Streaming Replication Protocol", BASE_BACKUP
(PostgreSQL 15 and later): each CopyData message begins with a byte that says what it is.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
from psycopg import pq

from holdfast.errors import Damaged, HoldfastError, Interrupted, ServerUnreachable
from holdfast.messages import _
from holdfast.postgres.connection import Connection, Server, sql_error

SLICE_MS = 250
"""The longest wait for the socket before ``stopped`` is asked again."""

_OWN_SOCKET = "/.s.PGSQL."
"""Where the server listens in its data directory, it warns that it leaves that out: nobody needs to hear it."""
_ASK_EVERY = 64  # messages that had already arrived: at 32 KiB each, a few milliseconds

Row = tuple[str | None, ...]


def never() -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewArchive:
    """``n``: what follows belongs to this tar archive."""

    name: str
    """``base.tar``, or ``<oid>.tar`` for a tablespace."""
    location: str
    """The tablespace's folder on the server; empty for the data directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestBegins:
    """``m``: what follows is the backup manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """``p``."""

    bytes_done: int


Message = NewArchive | ManifestBegins | Progress | memoryview
"""A memoryview is ``d``: content of the current archive or of the manifest."""


def parse_message(data: memoryview) -> Message:
    """One CopyData message. Raises :class:`~holdfast.errors.Damaged` for an unknown kind."""
    kind = chr(data[0]) if data else ""
    if kind == "d":
        return data[1:]
    body = bytes(data[1:])
    if kind == "n" and body.count(b"\0") == 2 and body.endswith(b"\0"):
        name, location = body[:-1].decode("utf-8", "surrogateescape").split("\0")
        return NewArchive(name=name, location=location)
    if kind == "m" and not body:
        return ManifestBegins()
    if kind == "p" and len(body) == 8:
        return Progress(bytes_done=int.from_bytes(body, "big"))
    raise Damaged(
        _("the server's base backup holds a message that is not known: {message!r}").format(message=bytes(data[:20])),
        hint=_("Use a Holdfast that knows this PostgreSQL."),
    )


class Walsender:
    """Our end of a walsender's session. Errors of the server and of the connection are Holdfast's.

    ``stopped`` is asked at least every half second while we wait: True raises :class:`~holdfast.errors.Interrupted`.
    """

    def __init__(self, connection: Connection, *, stopped: Callable[[], bool] = never) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._stopped = stopped
        self.server = Server.of(self._pgconn)
        self.backend_pid = self._pgconn.backend_pid
        self._poller = select.poll()
        self._poller.register(self._pgconn.socket, select.POLLIN | select.POLLHUP | select.POLLERR)
        self.warnings: list[str] = []
        """What the server said in warnings, in order."""
        self._ahead: list[pq.abc.PGresult | None] = []
        self.sqlstate = ""
        """That of the server's last error."""
        connection.add_notice_handler(self._note)

    def _note(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        text = diagnostic.message_primary or ""
        if diagnostic.severity_nonlocalized == "WARNING" and _OWN_SOCKET not in text:
            self.warnings.append(text)

    def send(self, command: str) -> None:
        try:
            self._pgconn.send_query(command.encode("utf-8"))
            while self._pgconn.flush():
                self._wait(select.POLLIN | select.POLLOUT)
        except psycopg.Error as error:
            raise self._lost(error) from None

    def query(self, command: str) -> list[Row]:
        """The rows of a command's first result; everything up to ReadyForQuery is read."""
        self.send(command)
        results = []
        while (result := self.next_result()) is not None:
            results.append(result)
        return rows_of(results[0]) if results else []

    def next_result(self) -> pq.abc.PGresult | None:
        """The command's next result, an error raised; None when the command is over."""
        if self._ahead:
            return self._ahead.pop()
        try:
            while self._pgconn.is_busy():
                self._wait(select.POLLIN)
            result = self._pgconn.get_result()
        except psycopg.Error as error:
            raise self._lost(error) from None
        if result is not None and result.status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE):
            raise self._error_of(result)
        return result

    def copy_data(self) -> Iterator[memoryview]:
        """The messages of a COPY OUT, each in memory of its own; ends where the server ended it."""
        since_asked = 0
        get_copy_data = self._pgconn.get_copy_data
        while True:
            try:
                length, data = get_copy_data(1)
            except psycopg.Error as error:
                raise self._lost(error) from None
            if length > 0:
                since_asked += 1
                if since_asked >= _ASK_EVERY:
                    since_asked = 0
                    self._ask()
                yield data
            elif length == 0:
                since_asked = 0
                self._wait(select.POLLIN)
            else:
                # What ended it comes first: an error there explains why the data stops.
                self._ahead.append(self.next_result())
                return

    def cancel(self) -> None:
        """Have the server end the running command, best effort; the connection is of no use afterwards."""
        try:
            self._connection.cancel_safe(timeout=2)
        except psycopg.Error:
            return  # closing the socket, which follows, ends it as soon as the server writes

    def _error_of(self, result: pq.abc.PGresult) -> HoldfastError:
        def field(name: pq.DiagnosticField) -> str:
            return (result.error_field(name) or b"").decode("utf-8", "replace")

        message = field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message.decode("utf-8", "replace")
        state = field(pq.DiagnosticField.SQLSTATE)
        self.sqlstate = state
        return sql_error(state, message, server=self.server, hint=field(pq.DiagnosticField.MESSAGE_HINT))

    def _ask(self) -> None:
        if self._stopped():
            raise Interrupted(_("stopped while reading from PostgreSQL at {server}").format(server=self.server))

    def _wait(self, events: int) -> None:
        """Until the socket has something, then take it in."""
        self._poller.modify(self._pgconn.socket, events)
        while True:
            self._ask()
            if self._poller.poll(SLICE_MS):
                break
        try:
            self._pgconn.consume_input()
        except psycopg.Error as error:
            raise self._lost(error) from None

    def _lost(self, error: psycopg.Error) -> ServerUnreachable:
        reason = " ".join(str(error).replace("consuming input failed: ", "").split())
        return ServerUnreachable(
            _("the connection to PostgreSQL at {server} was lost: {reason}").format(server=self.server, reason=reason),
            hint=_("Look into the server's log for the cause, then run this again."),
        )


def rows_of(result: pq.abc.PGresult) -> list[Row]:
    return [
        tuple(
            None if (value := result.get_value(row, column)) is None else value.decode("utf-8", "surrogateescape")
            for column in range(result.nfields)
        )
        for row in range(result.ntuples)
    ]
