"""What ``init`` does about the server: a connection string without secrets, and the role that backs up."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli.credentials import password_line, write_secret
from holdfast.errors import HoldfastError, Refused
from holdfast.messages import _

if TYPE_CHECKING:
    from holdfast.cli.output import Output
    from holdfast.cli.session import Session

ROLE = "holdfast"
PASSWORD_FILE = "pgpass"  # noqa: S105  a file's name


@dataclass(frozen=True, kw_only=True)
class ServerAccess:
    connection: str
    """As it is written into holdfast.toml: without a password."""
    statements: tuple[str, ...] = ()
    """What ran on the server."""


def prepare(connection: str, *, folder: Path, admin: str | None) -> ServerAccess:
    """Takes a password out of ``connection`` into a file of ``folder``, and makes the role if ``admin`` may.

    A role made here for TCP gets a password of its own, in that file too. Raises what connecting as ``admin`` raises,
    ``ConfigError`` for a string that cannot be read, ``Refused`` for a password file of other content.
    """
    from holdfast.postgres.connection import read_connection_string
    from holdfast.postgres.requirements import create_role

    words = {name: str(value) for name, value in read_connection_string(connection).items()}
    password = words.pop("password", None)
    if admin is not None:
        words.setdefault("user", ROLE)
    file = folder / PASSWORD_FILE
    statements: list[str] = []
    if admin is not None:
        statements = create_role(admin, words["user"], password)
        is_new = any(statement.startswith("CREATE ROLE") for statement in statements)
        if password is None and is_new and "passfile" not in words and not _by_socket(words):
            password = secrets.token_urlsafe(24)
            statements += create_role(admin, words["user"], password)[-1:]
    if password is not None:
        line = password_line(words.get("user", ROLE), password)
        if not file.exists():
            write_secret(file, line)
        elif line not in file.read_text("utf-8", "replace").splitlines():
            raise Refused(
                _("{path} holds another password").format(path=file),
                hint=_("Put this role's password there, and leave it out of the connection string."),
            )
    changed = password is not None or (admin is not None and "user" not in read_connection_string(connection))
    if file.exists() and "passfile" not in words and not _by_socket(words):
        words["passfile"] = str(file)
        changed = True
    return ServerAccess(connection=render(words) if changed else connection, statements=tuple(statements))


def offer_slot_limit(session: Session, admin: str, retain: int, *, confirm: bool) -> tuple[str, ...]:
    """Where slots may fill the server's disk, asks whether to limit them; where nobody is asked, the SQL is told.

    Returns what ran on the server.
    """
    from holdfast.cli.asking import ask, may_ask
    from holdfast.postgres.requirements_wal import lacks_slot_limit, limit_slots, slot_limit_sql

    if not lacks_slot_limit(admin):
        return ()
    output, lines = session.output, slot_limit_sql(retain)
    output.note(_("While Holdfast is away, its slot may fill the server's disk with WAL. This limits it, by a reload:"))
    for line in lines:
        output.note(f"  {line}")
    if not (confirm and may_ask(session)) or ask(_("Run it now? y or n"), "y").lower() not in ("y", "yes"):
        return ()
    return limit_slots(admin, retain)


def _by_socket(words: dict[str, str]) -> bool:
    host = words.get("host", "")
    return not words.get("hostaddr") and (not host or host.startswith(("/", "@")))


def render(words: dict[str, str]) -> str:
    """A connection string of ``name=value`` words ("Connection Strings" in PostgreSQL's manual)."""
    return " ".join(f"{name}={_quoted(value)}" for name, value in words.items())


def _quoted(value: str) -> str:
    if value and not any(character in value for character in " '\\\t"):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def warn_of_passwords(output: Output, given: Mapping[str, str | None]) -> None:
    """``given``: options of the command line, each with its connection string."""
    from holdfast.postgres.connection import read_connection_string

    for option, connection in given.items():
        try:
            words = read_connection_string(connection or "")
        except HoldfastError:
            continue  # told when it is used
        if words.get("password"):
            output.warning(
                _(
                    "the password in {option} can be read by everybody on this machine while this runs, and may stay "
                    "in the shell's history: put it into ~/.pgpass instead, and change it if others are on this machine"
                ).format(option=option)
            )


def tell(output: Output, connection: str) -> bool:
    """Whether the role can connect and back up; if not, what a superuser and pg_hba.conf need is printed."""
    from holdfast.postgres.connection import (
        Server,
        client_address,
        connect,
        connect_replication,
        read_connection_string,
    )
    from holdfast.postgres.requirements import hba_lines, role_sql

    try:
        connect(connection).close()
        connect_replication(connection).close()
    except HoldfastError as error:
        words = read_connection_string(connection)
        role, database = str(words.get("user") or ROLE), str(words.get("dbname") or words.get("user") or "postgres")
        server = Server(host=str(words.get("host") or "/"), port=str(words.get("port") or "5432"), user=role)
        output.warning(_("role {role} cannot back up yet: {reason}").format(role=role, reason=error))
        output.line(_("Run as a superuser, in psql (or give holdfast init --admin DSN, which runs it):"))
        output.line()
        for line in role_sql(role, database).splitlines():
            output.line(f"  {line}")
        output.line()
        output.line(_("These lines belong into pg_hba.conf, above others that match; then SELECT pg_reload_conf();"))
        output.line()
        address = client_address(str(error), server)
        lines = hba_lines(role, address=address, database=database)
        if server.host == "localhost":  # which of the two it is differs from machine to machine
            lines += hba_lines(role, address="127.0.0.1" if address == "::1" else "::1", database=database)
        for line in lines:
            output.line(f"  {line}")
        output.line()
        return False
    return True
