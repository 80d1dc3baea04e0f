"""What a base backup is: everything that a later restore must know and that its files do not say plainly.

:class:`BackupFacts` becomes JSON and comes back unchanged; :func:`observe` asks a server for its part of them. What the
role may not see is None, never guessed.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Self, TypeVar, get_args, get_origin, get_type_hints

from holdfast.errors import Damaged, HoldfastError, UsageError
from holdfast.messages import _
from holdfast.postgres.connection import Connection
from holdfast.postgres.datadir import SUPPORTED_MAJORS
from holdfast.postgres.lsn import Lsn

_LIMITS = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryLimits:
    """With lower ones recovery pauses ("Hot Standby", "Administrator's Overview" in PostgreSQL's manual)."""

    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int

    def at_least(self, other: RecoveryLimits) -> RecoveryLimits:
        return RecoveryLimits(**{name: max(getattr(self, name), getattr(other, name)) for name in _LIMITS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    name: str
    oid: int
    tablespace_oid: int
    encoding: str
    size_bytes: int | None
    locale_provider: str
    """``c`` libc, ``i`` ICU, ``b`` built in (from PostgreSQL 17)."""
    collate: str
    ctype: str
    locale: str | None
    """ICU's or the built-in provider's."""
    collation_version: str | None
    """As recorded when the database was made; None where collation cannot change (C, POSIX)."""
    collation_version_now: str | None
    """The one that the server's libraries have: another than the recorded means that indexes may be wrong already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tablespace:
    oid: int
    name: str | None
    location: str
    """The folder on the server; in the backup it lies under ``pg_tblspc/<oid>``."""
    estimated_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationFile:
    """A configuration file from outside the data directory, and how it came into the backup."""

    path: str
    """In the backup: under ``holdfast-etc/``."""
    origin: str
    """On the server; empty where the role may not see it."""
    how: str
    """``read``: as it was; ``rebuilt``: from what the server reports; ``impossible``: not in the backup."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What SQL tells before the backup starts."""

    server_version_num: int
    server_version: str
    platform: str
    """The triplet that PostgreSQL was built for, ``x86_64-pc-linux-gnu``; empty if ``version()`` names none."""
    system_identifier: int | None
    now: datetime
    in_recovery: bool
    has_replication: bool
    wal_level: str
    limits: RecoveryLimits
    shared_preload_libraries: str | None
    superuser: str
    """A superuser that may log in: who looks at a started copy."""
    libc_version: str | None
    icu_version: str | None
    databases: tuple[Database, ...]
    tablespace_names: tuple[tuple[int, str], ...]
    """Those outside the data directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFacts:
    label: str
    system_identifier: int
    server_version_num: int
    server_version: str
    platform: str
    pg_control_version: int
    catalog_version: int
    timeline: int
    start_lsn: Lsn
    stop_lsn: Lsn
    stop_timeline: int
    started_at: datetime
    """The server's clock, UTC, when the backup had begun: nothing before :attr:`start_lsn` is later."""
    ended_at: datetime
    """The server's clock at the start plus what our own measured since."""
    from_standby: bool
    wal_segment_size: int
    block_size: int
    data_checksums: bool
    total_bytes: int
    """Of the files of data directory and tablespaces, WAL included."""
    tablespaces: tuple[Tablespace, ...]
    databases: tuple[Database, ...]
    limits: RecoveryLimits
    shared_preload_libraries: str | None
    superuser: str
    """A superuser that may log in: who looks at a started copy."""
    libc_version: str | None
    icu_version: str | None
    configuration: tuple[ConfigurationFile, ...]
    bad_pages: tuple[str, ...]
    """The server's words about pages with a wrong checksum: the backup is complete, but the cluster is not well."""
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Only strings, numbers, booleans, None, lists and dictionaries with the fields' names."""
        return {
            **asdict(self),
            "system_identifier": str(self.system_identifier),  # 64 bits do not survive every JSON reader
            "start_lsn": str(self.start_lsn),
            "stop_lsn": str(self.stop_lsn),
            "started_at": self.started_at.isoformat(),
            "ended_at": self.ended_at.isoformat(),
            **{name: [asdict(item) for item in getattr(self, name)] for name in _LISTS},
            "bad_pages": list(self.bad_pages),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BackupFacts:
        """The inverse. Fields of later versions are passed over.

        Raises :class:`~holdfast.errors.Damaged` where one is missing, of another type, or out of its range.
        """
        try:
            values = _known(cls, data)
            facts = cls(
                **values
                | {
                    "system_identifier": int(str(values["system_identifier"])),
                    "start_lsn": Lsn.parse(values["start_lsn"]),
                    "stop_lsn": Lsn.parse(values["stop_lsn"]),
                    "started_at": datetime.fromisoformat(values["started_at"]),
                    "ended_at": datetime.fromisoformat(values["ended_at"]),
                    "limits": _checked(RecoveryLimits(**_known(RecoveryLimits, values["limits"]))),
                    **{
                        name: tuple(_checked(kind(**_known(kind, item))) for item in _list(values[name]))
                        for name, kind in _LISTS.items()
                    },
                    "bad_pages": tuple(_list(values["bad_pages"])),
                    "warnings": tuple(_list(values["warnings"])),
                }
            )
            return _checked(facts)._in_range()
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise Damaged(_("the facts of a base backup cannot be read: {error}").format(error=error)) from error

    def _in_range(self) -> Self:
        """Raises ``ValueError`` for numbers that a restore builds paths or files from, and that no server has."""
        for tablespace in self.tablespaces:
            if not 0 < tablespace.oid < 1 << 32:
                raise ValueError(f"oid {tablespace.oid}")
        if self.wal_segment_size not in _SEGMENT_SIZES:
            raise ValueError(f"wal_segment_size {self.wal_segment_size}")
        return self


_LISTS: dict[str, type] = {"tablespaces": Tablespace, "databases": Database, "configuration": ConfigurationFile}


def _known(kind: type, data: dict[str, Any]) -> dict[str, Any]:
    names = kind.__slots__  # type: ignore[attr-defined]
    return {name: data[name] for name in names}


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


_SEGMENT_SIZES = frozenset(1 << power for power in range(20, 31))
"""1 MiB to 1 GiB ("initdb", ``--wal-segsize``, in PostgreSQL's manual)."""

Facts = TypeVar("Facts")


@cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _checked(facts: Facts) -> Facts:
    """``facts`` if each field has its declared type, else ``TypeError``: what was stored is not believed."""
    kind: type = type(facts)
    for name, declared in _types(kind).items():
        value = getattr(facts, name)
        items, wanted = (value, get_args(declared)[0]) if get_origin(declared) is tuple else ((value,), declared)
        for item in items:
            if not isinstance(item, wanted) or (isinstance(item, bool) and wanted is not bool):
                raise TypeError(f"{name} is {item!r}")
    return facts


def check_version(server_version_num: int) -> None:
    """Raises :class:`~holdfast.errors.HoldfastError` unless it is PostgreSQL 15 to 19."""
    major = server_version_num // 10000
    if major not in SUPPORTED_MAJORS:
        raise HoldfastError(
            _("PostgreSQL {major} is not supported").format(major=major),
            hint=_("Holdfast reads PostgreSQL 15 to 19; upgrade PostgreSQL or Holdfast."),
        )


def observe(connection: Connection) -> ServerFacts:
    """Ask the server. psycopg's errors pass through: call inside :func:`~holdfast.postgres.connection.sql_errors`."""
    num, version, now, in_recovery, has_replication, wal_level, identifier, superuser = _one(
        connection,
        """
        select current_setting('server_version_num')::int, version(), clock_timestamp(), pg_is_in_recovery(),
               (select rolreplication or rolsuper from pg_roles where rolname = current_user),
               current_setting('wal_level'),
               case when has_function_privilege('pg_control_system()', 'execute')
                    then (select system_identifier from pg_control_system()) end,
               (select rolname::text from pg_roles where rolsuper and rolcanlogin order by oid limit 1)
        """,
    )
    check_version(num)
    settings: dict[str, str] = dict(
        connection.execute(
            "select name, setting from pg_settings where name = any(%s)", [[*_LIMITS, "shared_preload_libraries"]]
        ).fetchall()
    )
    triplet = re.search(r" on ([^ ,]+)", version)
    return ServerFacts(
        server_version_num=num,
        server_version=version,
        platform=triplet[1] if triplet else "",
        system_identifier=identifier,
        now=now.astimezone(UTC),
        in_recovery=in_recovery,
        has_replication=bool(has_replication),
        wal_level=wal_level,
        limits=RecoveryLimits(**{name: int(settings[name]) for name in _LIMITS}),
        shared_preload_libraries=settings.get("shared_preload_libraries"),
        superuser=superuser or "postgres",
        libc_version=_collation_version(connection, "collprovider = 'c' and collcollate !~ '^(C|POSIX)($|[.])'"),
        icu_version=_collation_version(connection, "collprovider = 'i'"),
        databases=databases(connection, num),
        tablespace_names=tablespace_names(connection),
    )


def databases(connection: Connection, server_version_num: int) -> tuple[Database, ...]:
    """All of them, templates too. Names are read as bytes: the databases of a cluster need not share an encoding."""
    locale = "datlocale" if server_version_num >= 170000 else "daticulocale"
    rows = connection.execute(
        f"""
        select textsend(datname::text), oid, dattablespace, pg_encoding_to_char(encoding),
               case when has_database_privilege(oid, 'connect') or pg_has_role('pg_read_all_stats', 'usage')
                    then pg_database_size(oid) end,
               datlocprovider::text, datcollate::text, datctype::text, {locale}::text, datcollversion,
               pg_database_collation_actual_version(oid)
        from pg_database order by oid
        """  # noqa: S608  one of two constants
    ).fetchall()
    return tuple(
        Database(
            name=bytes(name).decode("utf-8", "surrogateescape"),
            oid=oid,
            tablespace_oid=tablespace,
            encoding=encoding,
            size_bytes=size,
            locale_provider=provider,
            collate=collate,
            ctype=ctype,
            locale=locale_name,
            collation_version=recorded,
            collation_version_now=actual,
        )
        for name, oid, tablespace, encoding, size, provider, collate, ctype, locale_name, recorded, actual in rows
    )


def tablespace_names(connection: Connection) -> tuple[tuple[int, str], ...]:
    """Oid and name of each tablespace that has a folder of its own."""
    rows = connection.execute(
        "select oid, spcname::text from pg_tablespace where spcname not in ('pg_default', 'pg_global') order by oid"
    ).fetchall()
    return tuple((oid, name) for oid, name in rows)


def _collation_version(connection: Connection, condition: str) -> str | None:
    row = connection.execute(
        f"""
        select pg_collation_actual_version(oid) from pg_collation
        where {condition} order by (collname = 'und-x-icu') desc, oid limit 1
        """  # noqa: S608  one of two constants
    ).fetchone()
    return row[0] if row else None


def _one(connection: Connection, sql: str) -> tuple[Any, ...]:
    row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return row
