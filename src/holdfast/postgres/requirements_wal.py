"""What a server must allow, and must not do, so that its WAL reaches Holdfast whole: each with the line that mends it.

Only reads. Settings are those of PostgreSQL's manual, "Replication" and "Write Ahead Log"; which of them a reload is
enough for is theirs too. Whether commits wait is :mod:`~holdfast.postgres.requirements_sync`, ``archive_command``
:mod:`~holdfast.postgres.requirements_archive`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

from holdfast.messages import _
from holdfast.postgres.connection import Connection, Server, connect, sql_errors
from holdfast.postgres.finding import Finding, Status, failed, ok, warning
from holdfast.postgres.requirements_archive import check_archive
from holdfast.postgres.requirements_sync import check_sync

STREAM, ARCHIVE, OFF = "stream", "archive", "off"

_LEAST_KEPT = 256 * 2**20
"""A slot that may keep less than this is lost at the first checkpoint of a busy minute."""
_LEAST_TIMEOUT_MS = 10_000
"""The receiver speaks every ten seconds at least, sooner when the server asks."""
_SETTINGS = (
    "archive_command",
    "archive_library",
    "archive_mode",
    "archive_timeout",
    "cluster_name",
    "idle_replication_slot_timeout",
    "max_connections",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "primary_slot_name",
    "synchronous_commit",
    "synchronous_standby_names",
    "wal_level",
    "wal_log_hints",
    "wal_sender_timeout",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedWal:
    """How the WAL of a source is to be kept, as far as its server has a part in it."""

    source: str
    via: str
    """``stream``, ``archive`` or ``off``."""
    slot: str
    retain: int
    """Bytes that our slot may hold back before we give it up."""
    synchronous: bool
    """Whether commits are meant to wait for us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    value: str
    """As ``pg_settings`` has it: a number without its unit."""
    source: str


Settings = Mapping[str, Setting]


def check_wal(sql: Connection, wanted: WantedWal) -> Iterator[Finding]:
    """Most important first. psycopg's errors pass through."""
    settings = {
        name: Setting(value=value, source=source)
        for name, value, source in sql.execute(
            "select name, setting, source from pg_settings where name = any(%s)", [list(_SETTINGS)]
        ).fetchall()
    }
    values = {name: setting.value for name, setting in settings.items()}
    yield from _slot(sql, wanted)
    if wanted.via == STREAM:
        yield from _keep_size(values, wanted)
        yield from _idle_timeout(values)
        yield from _sender_timeout(values)
        yield from check_sync(sql, values, is_wanted=wanted.synchronous)
        yield from _patroni(sql, settings, wanted)
    yield from check_archive(sql, values, source=wanted.source, is_wanted=wanted.via == ARCHIVE)


def _slot(sql: Connection, wanted: WantedWal) -> Iterator[Finding]:
    row = sql.execute(
        """
        select slot_type, active_pid, wal_status, pg_wal_lsn_diff(
                   case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end,
                   restart_lsn)::bigint
        from pg_replication_slots where slot_name = %s
        """,
        [wanted.slot],
    ).fetchone()
    receive = f"holdfast wal receive {wanted.source}"
    if row is None:
        if wanted.via == STREAM:
            what = _("slot {slot} is not there yet; it is made by: {command}")
            yield ok("slot", what.format(slot=wanted.slot, command=receive))
        return
    kind, active_pid, wal_status, retained = row
    held = _size(retained or 0)
    drop = f"SELECT pg_drop_replication_slot('{wanted.slot}');"
    if kind != "physical":
        what = _("slot {slot} is a logical one, and ours must be physical").format(slot=wanted.slot)
        yield failed("slot", what, _("If nobody needs it: {sql}").format(sql=drop))
    elif wanted.via != STREAM:
        if active_pid is None:
            what = _(
                "slot {slot} holds back {held} of WAL, and nobody uses it: WAL of {source} is not streamed"
            ).format(slot=wanted.slot, held=held, source=wanted.source)
            yield warning("slot", what, drop)
    elif wal_status == "lost":
        what = _("slot {slot} is lost: the server has removed WAL that it should have kept").format(slot=wanted.slot)
        yield failed("slot", what, _("Begin anew, the gap recorded, with: {command}").format(command=receive))
    elif active_pid is None:
        what = _("slot {slot} holds back {held} of WAL, and no receiver uses it").format(slot=wanted.slot, held=held)
        yield warning("slot", what, _("Run: {command}").format(command=receive))
    else:
        what = _("slot {slot} is in use, {held} of WAL behind").format(slot=wanted.slot, held=held)
        near = wal_status == "unreserved" or (retained or 0) > wanted.retain // 2
        remedy = _("See why its receiver lags: {command}").format(command=f"holdfast status {wanted.source}")
        yield warning("slot", what, remedy) if near else ok("slot", what)


def _keep_size(values: Mapping[str, str], wanted: WantedWal) -> Iterator[Finding]:
    name = "max_slot_wal_keep_size"
    megabytes = int(values[name])
    advised = "\n".join(slot_limit_sql(wanted.retain))
    if megabytes < 0:
        what = _("{name} = -1: while Holdfast is away, its slot may fill the server's disk with WAL").format(name=name)
        yield warning(name, what, advised)
    elif megabytes * 2**20 < _LEAST_KEPT:
        what = _("{name} = {value}: the slot is lost as soon as Holdfast lags a little")
        yield warning(name, what.format(name=name, value=f"{megabytes}MB"), advised)
    else:
        what = _("{name} = {value}: beyond it the server gives our slot up, and spares its disk")
        yield ok(name, what.format(name=name, value=f"{megabytes}MB"))


def slot_limit_sql(retain: int) -> tuple[str, ...]:
    """The server's own limit for the time when we are dead: a quarter above ours, which comes first."""
    gigabytes = -(-retain * 5 // 4 // 2**30)
    return (f"ALTER SYSTEM SET max_slot_wal_keep_size = '{gigabytes}GB';", "SELECT pg_reload_conf();")


def lacks_slot_limit(admin_connection_string: str) -> bool:
    """Whether slots may fill the server's disk."""
    with closing(connect(admin_connection_string)) as sql, sql_errors(Server.of(sql.pgconn)):
        ((value,),) = sql.execute(
            "select setting::int from pg_settings where name = 'max_slot_wal_keep_size'"
        ).fetchall()
    return bool(value < 0)


def limit_slots(admin_connection_string: str, retain: int) -> tuple[str, ...]:
    """Runs :func:`slot_limit_sql`; returns it. Raises ``PermissionRefused`` if the role may not."""
    statements = slot_limit_sql(retain)
    with closing(connect(admin_connection_string)) as sql, sql_errors(Server.of(sql.pgconn)):
        for statement in statements:
            sql.execute(statement.encode())
    return statements


def _idle_timeout(values: Mapping[str, str]) -> Iterator[Finding]:
    """From PostgreSQL 18 on."""
    name = "idle_replication_slot_timeout"
    if name not in values:
        return
    if values[name] == "0":
        yield ok(name, f"{name} = 0")
        return
    what = _("{name} = {value}: if Holdfast is away for longer, its slot is lost, and a gap in WAL begins")
    yield warning(
        name,
        what.format(name=name, value=f"{values[name]}s"),
        f"ALTER SYSTEM SET {name} = 0;\nSELECT pg_reload_conf();",
    )


def _sender_timeout(values: Mapping[str, str]) -> Iterator[Finding]:
    name = "wal_sender_timeout"
    milliseconds = int(values[name])
    remedy = f"ALTER SYSTEM SET {name} = '60s';\nSELECT pg_reload_conf();"
    if milliseconds == 0:
        what = _("{name} = 0: a receiver whose machine died is never noticed, and keeps its slot in use")
        yield warning(name, what.format(name=name), remedy)
    elif milliseconds < _LEAST_TIMEOUT_MS:
        what = _("{name} = {value}: a slow moment of the network ends the stream")
        yield warning(name, what.format(name=name, value=f"{milliseconds}ms"), remedy)
    else:
        yield ok(name, f"{name} = {milliseconds // 1000}s")


def _patroni(sql: Connection, settings: Settings, wanted: WantedWal) -> Iterator[Finding]:
    """Patroni drops slots that its configuration does not know; what that holds cannot be seen from here."""
    if not _is_patroni(sql, settings):
        return
    lines = _("Run patronictl edit-config, and see that these lines are there:")
    lines += f"\nignore_slots:\n  - name: {wanted.slot}\n    type: physical"
    what = _("Patroni manages this cluster, and drops each slot that it is not told of: {slot} must be among these")
    ((exists,),) = sql.execute(
        "select exists (select from pg_replication_slots where slot_name = %s)", [wanted.slot]
    ).fetchall()
    status = Status.OK if exists else Status.WARNING
    yield Finding(name="patroni", status=status, what=what.format(slot=wanted.slot), remedy=lines)


def _is_patroni(sql: Connection, settings: Settings) -> bool:
    """It names its sessions, and gives PostgreSQL its settings on the command line, the cluster's name among them."""
    by_command = {name for name, setting in settings.items() if setting.source == "command line"}
    if {"cluster_name", "wal_log_hints", "max_connections", "wal_level"} <= by_command:
        return True
    ((named,),) = sql.execute(
        "select exists (select from pg_stat_activity where application_name ilike 'patroni%')"
    ).fetchall()
    return bool(named)


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 10**9 else f"{number / 1e6:.1f} MB"
