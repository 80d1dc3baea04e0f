"""Everything a server must allow before it can be backed up, each with the line that mends it; and the role for it.

:func:`check_server` only reads. :func:`create_role` and :func:`role_sql` make the role that Holdfast logs in as: no
superuser, ``LOGIN REPLICATION``, ``pg_monitor``, and EXECUTE on the few functions that superusers keep for themselves.
Privileges on functions belong to a database: run them in the one that the source's connection names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg

from holdfast.clock import SystemClock
from holdfast.errors import HoldfastError, UsageError
from holdfast.messages import _
from holdfast.postgres.configuration import read_configuration
from holdfast.postgres.connection import Connection, Server, connect, connect_replication, quote_identifier, sql_errors
from holdfast.postgres.datadir import SUPPORTED_MAJORS
from holdfast.postgres.finding import Finding, Status, failed, ok, warning
from holdfast.postgres.hba import HbaLine
from holdfast.postgres.protocol import Walsender
from holdfast.postgres.requirements_wal import WantedWal, check_wal

_FUNCTIONS = (
    "pg_backup_start(text, boolean)",
    "pg_backup_stop(boolean)",
    "pg_switch_wal()",
    "pg_hba_file_rules()",
    "pg_ident_file_mappings()",
    "pg_show_all_file_settings()",
)
_VIEWS = ("pg_hba_file_rules", "pg_ident_file_mappings", "pg_file_settings")


def check_server(connection_string: str, wal: WantedWal | None = None) -> list[Finding]:
    """Every prerequisite, most important first; ``wal``: those of continuous WAL too.

    A server that cannot be reached is a finding, not an error.
    """
    try:
        connection = connect(connection_string)
    except HoldfastError as error:
        return [failed("connection", str(error), error.hint)]
    with closing(connection) as sql:
        server = Server.of(sql.pgconn)
        found = [ok("connection", _("connected to {server}").format(server=server))]
        try:
            with sql_errors(server):
                for check in (_version, _direct, _role):
                    found += check(sql)
                if any(finding.status is Status.FAILED for finding in found):
                    return found
                found += _replication(connection_string)
                for check in (_monitor, _wal_level):
                    found += check(sql)
                found += _room_for_ours(sql, wal.slot if wal else "")
                for check in (_writes, _checksums, _recovery):
                    found += check(sql)
                found += check_wal(sql, wal) if wal else _archiving(sql)
                found += _configuration_files(sql, server)
        except HoldfastError as error:
            found.append(failed("connection", str(error), error.hint))
    return found


def _row(sql: Connection, query: str) -> tuple[Any, ...]:
    row = sql.execute(query.encode()).fetchone()
    assert row is not None
    return row


def _version(sql: Connection) -> Iterator[Finding]:
    (number,) = _row(sql, "select current_setting('server_version_num')::int")
    what = _("PostgreSQL {major}.{minor}").format(major=number // 10000, minor=number % 10000)
    if number // 10000 in SUPPORTED_MAJORS:
        yield ok("version", what)
    else:
        yield failed("version", what, _("Use PostgreSQL 15 to 19."))


def _direct(sql: Connection) -> Iterator[Finding]:
    """A pooler hands out process numbers of its own."""
    (pid,) = _row(sql, "select pg_backend_pid()")
    if pid == sql.info.backend_pid:
        yield ok("direct", _("the connection is direct"))
    else:
        yield failed(
            "direct",
            _("a connection pooler stands in between"),
            _("Name PostgreSQL's own port in the source's connection."),
        )


def _role(sql: Connection) -> Iterator[Finding]:
    role, superuser, replication = _row(
        sql, "select rolname::text, rolsuper, rolreplication from pg_roles where rolname = current_user"
    )
    if superuser:
        yield warning(
            "role",
            _("role {role} is a superuser").format(role=role),
            _("Log in as a role that may only read backups; holdfast init makes one."),
        )
    elif replication:
        yield ok("role", _("role {role} has LOGIN and REPLICATION").format(role=role))
    else:
        yield failed(
            "role",
            _("role {role} lacks REPLICATION").format(role=role),
            f"ALTER ROLE {quote_identifier(role)} REPLICATION;",
        )


def _replication(connection_string: str) -> Iterator[Finding]:
    try:
        with closing(connect_replication(connection_string)) as session:
            Walsender(session).query("IDENTIFY_SYSTEM")
    except HoldfastError as error:
        yield failed("replication", str(error), error.hint)
    else:
        yield ok("replication", _("the replication protocol is allowed"))


def _monitor(sql: Connection) -> Iterator[Finding]:
    role, member = _row(sql, "select current_user::text, pg_has_role('pg_monitor', 'usage')")
    if member:
        yield ok("pg_monitor", _("role {role} is a member of pg_monitor").format(role=role))
    else:
        yield warning(
            "pg_monitor",
            _("role {role} is not a member of pg_monitor: it sees no sizes and no configuration").format(role=role),
            f"GRANT pg_monitor TO {quote_identifier(role)};",
        )


def _wal_level(sql: Connection) -> Iterator[Finding]:
    (level,) = _row(sql, "select current_setting('wal_level')")
    if level == "minimal":
        yield failed("wal_level", "wal_level = minimal", "ALTER SYSTEM SET wal_level = replica;\n" + _restart())
    else:
        yield ok("wal_level", f"wal_level = {level}")


def _room_for_ours(sql: Connection, slot: str) -> Iterator[Finding]:
    """A base backup takes one of each, streaming another: that of ``slot`` is in use already."""
    senders, used_senders, slots, used_slots, is_made, is_active = _row(
        sql,
        f"""
        select current_setting('max_wal_senders')::int, (select count(*)::int from pg_stat_replication),
               current_setting('max_replication_slots')::int, count(*)::int,
               coalesce(bool_or(slot_name = '{slot}'), false),
               coalesce(bool_or(active and slot_name = '{slot}'), false)
        from pg_replication_slots
        """,  # noqa: S608  a slot's name is a source's: letters, digits and _
    )
    yield _room("max_wal_senders", senders, used_senders, wanted=2 - is_active)
    yield _room("max_replication_slots", slots, used_slots, wanted=2 - is_made)


def _room(setting: str, limit: int, used: int, *, wanted: int) -> Finding:
    what = _("{setting} = {limit}, of which {used} are in use").format(setting=setting, limit=limit, used=used)
    remedy = f"ALTER SYSTEM SET {setting} = {max(10, used + wanted)};\n" + _restart()
    if limit - used < 1:
        return failed(setting, what, remedy)
    return warning(setting, what, remedy) if limit - used < wanted else ok(setting, what)


def _writes(sql: Connection) -> Iterator[Finding]:
    (value,) = _row(sql, "select current_setting('full_page_writes')")
    if value == "on":
        yield ok("full_page_writes", "full_page_writes = on")
    else:
        yield failed(
            "full_page_writes",
            _("full_page_writes = off: pages torn while they were copied could not be mended"),
            "ALTER SYSTEM SET full_page_writes = on;\nSELECT pg_reload_conf();",
        )


def _checksums(sql: Connection) -> Iterator[Finding]:
    (value,) = _row(sql, "select current_setting('data_checksums')")
    if value == "on":
        yield ok("data_checksums", _("data checksums are on"))
    else:
        yield warning(
            "data_checksums",
            _("data checksums are {value}: a page that the disk damaged is not noticed").format(value=value),
            _("Stop PostgreSQL, run: {command}, and start it again.").format(
                command="pg_checksums --enable --pgdata DATA_DIRECTORY"
            ),
        )


def _recovery(sql: Connection) -> Iterator[Finding]:
    (in_recovery,) = _row(sql, "select pg_is_in_recovery()")
    yield ok("recovery", _("a standby") if in_recovery else _("a primary"))


def _archiving(sql: Connection) -> Iterator[Finding]:
    (mode,) = _row(sql, "select current_setting('archive_mode')")
    yield ok("archive_mode", f"archive_mode = {mode}")


def _configuration_files(sql: Connection, server: Server) -> Iterator[Finding]:
    found = read_configuration(sql, server=server, clock=SystemClock()).files(())
    impossible = [file for file in found if file.how == "impossible"]
    rebuilt = [file for file in found if file.how == "rebuilt"]
    if impossible:
        (role,) = _row(sql, "select current_user::text")
        yield warning(
            "configuration",
            _("configuration outside the data directory would not be in the backup: {files}").format(
                files=", ".join(f"{file.origin or file.path.rpartition('/')[2]} ({file.note})" for file in impossible)
            ),
            "\n".join(_grants(role)),
        )
    elif rebuilt:
        names = ", ".join(file.origin for file in rebuilt)
        yield ok(
            "configuration",
            _("if they lie outside the data directory, these are rebuilt from what the server reports: {files}").format(
                files=names
            ),
        )
    else:
        yield ok("configuration", _("the configuration files can be read"))


def _restart() -> str:
    return _("Then restart PostgreSQL: {command}").format(command="systemctl restart postgresql")


def _grants(role: str) -> list[str]:
    name = quote_identifier(role)
    return [
        f"GRANT pg_monitor TO {name};",
        *(f"GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {name};" for function in _FUNCTIONS),
        *(f"GRANT SELECT ON pg_catalog.{view} TO {name};" for view in _VIEWS),
    ]


def role_sql(role: str, database: str = "postgres") -> str:
    """One block for a superuser's psql; ``database`` is the source connection's. May be run again."""
    name = quote_identifier(role)
    literal = "'" + role.replace("'", "''") + "'"
    return "\n".join(
        [
            f"\\connect {quote_identifier(database)}",
            f"SELECT 'CREATE ROLE {name.replace(chr(39), chr(39) * 2)}'",
            f"  WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal}) \\gexec",
            f"ALTER ROLE {name} LOGIN REPLICATION;",
            f"GRANT CONNECT ON DATABASE {quote_identifier(database)} TO {name};",
            *_grants(role),
            _("-- and, for a password: {command}").format(command=f"\\password {name}"),
        ]
    )


def hba_lines(role: str, *, address: str | None = None, database: str = "all") -> list[str]:
    """The lines of pg_hba.conf for SQL and for the replication protocol; ``address`` None is the socket."""
    return [HbaLine(database=name, role=role, address=address).render() for name in ("replication", database)]


def create_role(admin_connection_string: str, role: str, password: str | None) -> list[str]:
    """Make the role, or complete it: safe to repeat. Returns the statements that ran, the password not among them.

    The password is sent as a SCRAM verifier, so that it stands in no log; None leaves the role's as it is. The database
    of the admin's connection must be the source's. Raises :class:`~holdfast.errors.PermissionRefused` when the admin
    is no superuser.
    """
    if not role or "\0" in role:
        raise UsageError(_("a role needs a name"))
    with closing(connect(admin_connection_string)) as sql, sql_errors(Server.of(sql.pgconn)), sql.transaction():
        ran: list[str] = []
        run = _runner(sql, ran)
        name = quote_identifier(role)
        (database, exists) = _row_of(sql, role)
        if not exists:
            run(f"CREATE ROLE {name}")
        run(f"ALTER ROLE {name} LOGIN REPLICATION")
        if password is not None:
            verifier = sql.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode("ascii")
            sql.execute(f"ALTER ROLE {name} PASSWORD '{verifier}'".encode())
            ran.append(f"ALTER ROLE {name} PASSWORD '********';")
        run(f"GRANT CONNECT ON DATABASE {quote_identifier(database)} TO {name}")
        for grant in _grants(role):
            run(grant.rstrip(";"))
        return ran


def _row_of(sql: psycopg.Connection[tuple[Any, ...]], role: str) -> tuple[str, bool]:
    row = sql.execute(
        "select current_database()::text, exists (select from pg_roles where rolname = %s)", [role]
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def _runner(sql: Connection, ran: list[str]) -> Callable[[str], None]:
    def run(statement: str) -> None:
        sql.execute(statement.encode())
        ran.append(statement + ";")

    return run
