"""Names for what WAL calls by numbers: asked of a running server, database by database.

WAL names files (tablespace, database, relfilenode). A file's number changes with TRUNCATE, VACUUM FULL and CLUSTER, and
is gone with DROP: for those there is no name any more. Source: ``pg_relation_filenode`` in PostgreSQL's manual.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from psycopg.conninfo import make_conninfo

from holdfast.errors import HoldfastError, PermissionRefused
from holdfast.messages import _
from holdfast.postgres.connection import (
    Connection,
    Server,
    connect,
    quote_identifier,
    read_connection_string,
    sql_errors,
)
from holdfast.postgres.walrecords import Relation

_QUERY = """
select c.oid, coalesce(nullif(c.reltablespace, 0), d.dattablespace), case when c.relisshared then 0 else d.oid end,
       coalesce(pg_relation_filenode(c.oid), 0), n.nspname, c.relname, c.relkind::text,
       coalesce(owner.relnamespace, indexed.relnamespace, c.relnamespace) in
         ('pg_catalog'::regnamespace, coalesce(to_regnamespace('information_schema'), 0))
from pg_class c join pg_database d on d.datname = current_database() join pg_namespace n on n.oid = c.relnamespace
     left join pg_class owner on c.relkind = 't' and owner.reltoastrelid = c.oid
     left join pg_index i on i.indexrelid = c.oid left join pg_class indexed on indexed.oid = i.indrelid
where c.relkind in ('r', 'i', 't', 'm', 'S', 'p')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    schema: str
    name: str
    kind: str
    """``pg_class.relkind``: ``r`` table, ``p`` partitioned, ``m`` materialized view, ``i`` index, ``t`` TOAST."""
    is_system: bool
    """A catalogue, or what belongs to one."""

    def __str__(self) -> str:
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"


@dataclass(slots=True)
class _Database:
    by_file: dict[Relation, Named] = field(default_factory=dict)
    by_oid: dict[int, Named] = field(default_factory=dict)


class RelationNames:
    """Asks when a name is first wanted of a database, once. What cannot be asked has no names; :attr:`why` says so."""

    def __init__(self, connection_string: str, *, system_identifier: int) -> None:
        self._connection_string = connection_string
        self._system = system_identifier
        self._databases: dict[int, str] | None = None
        self._known: dict[int, _Database] = {}
        self.why: str = ""
        """Why names are missing; empty: none had to be."""

    def database(self, oid: int) -> str | None:
        if self._databases is None:
            self._databases = self._read_databases()
        return self._databases.get(oid)

    def of_file(self, relation: Relation) -> Named | None:
        return self._of(relation.database).by_file.get(relation)

    def of_oid(self, database: int, oid: int) -> Named | None:
        return self._of(database).by_oid.get(oid)

    def _of(self, database: int) -> _Database:
        if database not in self._known:
            self._known[database] = self._read(database)
        return self._known[database]

    def _read_databases(self) -> dict[int, str]:
        try:
            with self._session() as session, sql_errors(Server.of(session.pgconn)):
                if _system_identifier(session) in (None, self._system):
                    return dict(session.execute("select oid, datname from pg_database").fetchall())
                server = Server.of(session.pgconn)
                self.why = _("the server at {server} is another cluster now").format(server=server)
                return {}
        except HoldfastError as error:
            self.why = str(error)
            return {}

    def _read(self, oid: int) -> _Database:
        found = _Database()
        database = self.database(oid)
        if oid and database is None:
            return found
        try:
            with self._session(database) as session, sql_errors(Server.of(session.pgconn)):
                for identifier, tablespace, home, number, schema, name, kind, is_system in session.execute(_QUERY):
                    named = Named(schema=schema, name=name, kind=kind, is_system=is_system)
                    found.by_file[Relation(tablespace, home, number)] = found.by_oid[identifier] = named
        except HoldfastError as error:
            self.why = self.why or str(error)
        return found

    def _session(self, database: str | None = None) -> Connection:
        words = read_connection_string(self._connection_string)
        if database is not None:
            words["dbname"] = database
        return connect(make_conninfo("", **words))


def _system_identifier(session: Connection) -> int | None:
    """None where the role may not know."""
    with suppress(PermissionRefused), sql_errors(Server.of(session.pgconn)):
        ((found,),) = session.execute("select system_identifier from pg_control_system()").fetchall()
        return int(found)
    return None
