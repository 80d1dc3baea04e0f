"""Connecting to PostgreSQL: one way for SQL, one for the replication protocol, and what a refusal means.

Sessions are direct (a pooler is refused), never time out on the server's side, and notice a dead peer by keepalives.
No message carries a password. What went wrong is read from the server's words: libpq hands out no SQLSTATE before a
session exists. ``pg_hba.conf`` stands in those words in every language; the rest is recognized in English, and
otherwise shown as the server said it.
"""

from __future__ import annotations

import getpass
import ipaddress
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from holdfast.errors import (
    ConfigError,
    Damaged,
    HoldfastError,
    NoSpace,
    PermissionRefused,
    ServerUnreachable,
    TryLater,
)
from holdfast.messages import _
from holdfast.postgres.hba import HbaLine

CONNECT_TIMEOUT = 10
"""Seconds for each address tried, unless the connection string says otherwise."""

_DEFAULTS = {
    "application_name": "holdfast",
    "connect_timeout": str(CONNECT_TIMEOUT),
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}
_OPTIONS = "-c statement_timeout=0 -c idle_session_timeout=0 -c idle_in_transaction_session_timeout=0"

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a connection leads, for people and for messages; ``str()`` of it has no secret."""

    host: str
    """A host name or address, or the folder of a socket."""
    port: str
    user: str

    @classmethod
    def of(cls, pgconn: Any) -> Server:
        """From a :class:`psycopg.pq.PGconn`, open or failed."""
        return cls(host=_text(pgconn.host), port=_text(pgconn.port), user=_text(pgconn.user))

    @property
    def by_socket(self) -> bool:
        return self.host.startswith(("/", "@"))

    @property
    def is_local(self) -> bool:
        """A socket or a loopback address; a tunnel or a published container port looks so too."""
        if self.by_socket or self.host in ("", "localhost"):
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.by_socket:
            return f"{self.host}/.s.PGSQL.{self.port}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def connect(connection_string: str) -> Connection:
    """A session for SQL, in autocommit, with texts in UTF-8. The caller closes it.

    Takes libpq's ``key=value`` words or a ``postgresql://`` URI. Raises :class:`~holdfast.errors.ConfigError`,
    :class:`~holdfast.errors.ServerUnreachable`, :class:`~holdfast.errors.PermissionRefused` or
    :class:`~holdfast.errors.TryLater`.
    """
    return _connect(connection_string, client_encoding="UTF8")


def connect_replication(connection_string: str) -> Connection:
    """A walsender's session (``replication=true``): only replication commands, best spoken through ``.pgconn``.

    Raises the same errors as :func:`connect`; ``pg_hba.conf`` must let the role in by a line for ``replication``.
    """
    return _connect(connection_string, replication="true")


def _connect(connection_string: str, **parameters: str) -> Connection:
    words = read_connection_string(connection_string)
    for name, value in _DEFAULTS.items():
        words.setdefault(name, value)
    words["options"] = f"{words.get('options') or os.environ.get('PGOPTIONS', '')} {_OPTIONS}".strip()
    words |= parameters
    try:
        return psycopg.connect(make_conninfo("", **words), autocommit=True, prepare_threshold=None)
    except psycopg.Error as error:
        server = Server.of(error.pgconn) if error.pgconn is not None else _named(words)
        used_password = error.pgconn is not None and error.pgconn.used_password
        text = _without(str(error), str(words.get("password") or ""))
        raise refusal(
            text,
            server=server,
            database="replication" if "replication" in parameters else str(words.get("dbname") or server.user),
            used_password=used_password,
        ) from None


def read_connection_string(connection_string: str) -> dict[str, Any]:
    """Its words. Raises :class:`~holdfast.errors.ConfigError` without quoting it: it may hold a password."""
    try:
        return dict(conninfo_to_dict(connection_string))
    except psycopg.Error:
        raise ConfigError(
            _("the connection string cannot be read"),
            hint=_("Write it as postgresql://role@host:port/database, or as host=… port=… dbname=… user=…."),
        ) from None


def refusal(text: str, *, server: Server, database: str, used_password: bool = False) -> HoldfastError:
    """What a failed attempt to connect means.

    ``text`` is libpq's or the server's, ``database`` the one wanted (``replication`` for a walsender).
    """
    reason = _last_words(text)
    if "pg_hba.conf" in reason:
        return _hba_refusal(reason, server=server, database=database)
    if re.search(r"must be superuser or replication role|permission denied to start WAL sender", reason):
        return missing_replication(server.user, server)
    cases: list[tuple[bool, type[HoldfastError], str, str]] = [
        (
            "startup parameter" in reason,
            ConfigError,
            _("{server} is a connection pooler: {reason}"),
            _("Connect to PostgreSQL itself: name its own port in the source's connection."),
        ),
        (
            "idle_session_timeout" in reason,
            HoldfastError,
            _("the server at {server} is older than PostgreSQL 15"),
            _("Upgrade PostgreSQL to a version from 15 to 19."),
        ),
        (
            re.search(r'database ".*" does not exist', reason) is not None,
            ConfigError,
            _("no database {database} on the server at {server}"),
            _("Name a database that exists in the source's connection; postgres always does."),
        ),
        (
            re.search(r"too many clients|slots are reserved|too many connections|max_wal_senders", reason) is not None,
            TryLater,
            _("the server at {server} has no connection left: {reason}"),
            _("Try again later, or raise max_connections and max_wal_senders and restart PostgreSQL."),
        ),
        (
            re.search(r"starting up|shutting down|recovery mode|accepting connections$", reason) is not None,
            ServerUnreachable,
            _("the server at {server} takes no connections: {reason}"),
            _("Wait until it has started or recovered; its log tells how far it is."),
        ),
        (
            used_password or re.search(r"authentication failed|no password supplied|role \".*\" ", reason) is not None,
            PermissionRefused,
            _("the server at {server} refuses role {role}: {reason}"),
            _("Check the role and the password of the source's connection; holdfast init prints the SQL for both."),
        ),
        (
            True,
            ServerUnreachable,
            _("cannot connect to PostgreSQL at {server}: {reason}"),
            _("See whether PostgreSQL runs there and listens on that address: pg_isready -h {host} -p {port}."),
        ),
    ]
    where = {
        "server": server,
        "reason": reason,
        "database": database,
        "role": server.user,
        "host": server.host or "localhost",
        "port": server.port,
    }
    kind, message, hint = next(case[1:] for case in cases if case[0])
    return kind(message.format(**where), hint=hint.format(**where))


def missing_replication(role: str, server: Server) -> PermissionRefused:
    return PermissionRefused(
        _("role {role} lacks REPLICATION on the server at {server}").format(role=role, server=server),
        hint=_("Run as a superuser: {sql}").format(sql=f"ALTER ROLE {quote_identifier(role)} REPLICATION;"),
    )


def _hba_refusal(reason: str, *, server: Server, database: str) -> PermissionRefused:
    line = HbaLine(database=database, role=server.user, address=client_address(reason, server)).render()
    hint = _("Put this line above the others in pg_hba.conf, then run SELECT pg_reload_conf();\n{line}")
    return PermissionRefused(
        _("the server at {server} lets role {role} not in: {reason}").format(
            server=server, role=server.user, reason=reason
        ),
        hint=hint.format(line=line),
    )


def client_address(reason: str, server: Server) -> str | None:
    """This machine's address as the server sees it, read from a refusal's words; None for a socket."""
    if server.by_socket or "[local]" in reason:
        return None
    for word in re.findall(r"[0-9A-Fa-f:.]{2,}", reason):
        with suppress(ValueError):
            return str(ipaddress.ip_address(word))
    return "127.0.0.1" if server.is_local else "ADDRESS_OF_THIS_MACHINE"


@contextmanager
def sql_errors(server: Server) -> Iterator[None]:
    """Inside, psycopg's errors become Holdfast's."""
    try:
        yield
    except psycopg.Error as error:
        raise sql_error(
            error.sqlstate or "", error.diag.message_primary or str(error), server=server, hint=error.diag.message_hint
        ) from None


def sql_error(sqlstate: str, message: str, *, server: Server, hint: str | None = None) -> HoldfastError:
    """An error of a session that had been established, by its SQLSTATE (appendix A of PostgreSQL's manual)."""
    reason = " ".join(message.split())
    text = _("PostgreSQL at {server}: {reason}").format(server=server, reason=reason)
    if sqlstate == "42501":
        return PermissionRefused(
            text, hint=_("Run what holdfast init prints for role {role} as a superuser.").format(role=server.user)
        )
    if sqlstate.startswith(("57P0", "08")) or not sqlstate:
        return ServerUnreachable(
            _("the connection to PostgreSQL at {server} was lost: {reason}").format(server=server, reason=reason),
            hint=_("Look into the server's log for the cause, then run this again."),
        )
    if sqlstate == "53100":
        return NoSpace(text, hint=_("Free space on the server's disk, then run this again."))
    if sqlstate.startswith("53"):
        return TryLater(text, hint=_("Try again when the server has less to do, or raise the limit that it names."))
    if sqlstate.startswith("XX00"):
        return Damaged(text, hint=_("Look into the server's log; check the cluster with pg_amcheck."))
    return HoldfastError(text, hint=hint or "")


def quote_identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if not re.fullmatch(r"[a-z_][a-z0-9_]*", name) else name


def _named(words: dict[str, Any]) -> Server:
    def default(name: str, variable: str, otherwise: str) -> str:
        return str(words.get(name) or os.environ.get(variable) or otherwise)

    return Server(
        host=default("host", "PGHOST", str(words.get("hostaddr") or "localhost")),
        port=default("port", "PGPORT", "5432"),
        user=default("user", "PGUSER", getpass.getuser()),
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _without(text: str, password: str) -> str:
    return text.replace(password, "***") if password else text


def _last_words(text: str) -> str:
    """Of libpq's ``connection to server at … failed: FATAL:  reason`` the reason, on one line."""
    first = text.split("Multiple connection attempts failed", maxsplit=1)[0]
    tail = re.split(r'connection to server (?:at|on socket) ".*?"[^:]* failed: ', first)[-1]
    tail = re.sub(r"^connection (failed|is bad): ", "", tail)
    return " ".join(re.sub(r"^(FATAL|ERROR):\s*", "", tail.strip()).split())
