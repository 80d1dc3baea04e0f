"""Whether a base backup has everything: what the server leaves out without an error is found here.

BASE_BACKUP sends a tablespace whose file system is not mounted as an empty archive (``sendTablespace`` in
``basebackup.c``), and a database's missing folder not at all. Dropped while the backup ran, they may be absent.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Set
from contextlib import closing

from holdfast.errors import Damaged, HoldfastError
from holdfast.messages import _
from holdfast.postgres.connection import Server, connect, sql_errors
from holdfast.postgres.facts import BackupFacts, Database, databases, tablespace_names
from holdfast.postgres.lsn import Segment
from holdfast.postgres.manifest import Manifest

DATABASE_MARK = "PG_VERSION"
"""The name of a file that each database's folder has."""


def check_tablespaces(connection: str, absent: Set[int], *, location: str = "") -> None:
    """``absent``: oids of those that came empty, or not at all. Raises if one of them still exists."""
    if not absent:
        return
    with closing(connect(connection)) as sql, sql_errors(Server.of(sql.pgconn)):
        still = [name for oid, name in tablespace_names(sql) if oid in absent]
    if still:
        raise HoldfastError(
            _("tablespace {name} is not there on the server: {location} has no data").format(
                name=still[0], location=location or _("its link in pg_tblspc")
            ),
            hint=_("Mount the tablespace's file system (or DROP TABLESPACE), then take the backup again."),
        )


def check_databases(connection: str, received: Iterable[str], *, observed: Iterable[Database]) -> None:
    """Each database that was there at the start, and still is, has brought its PG_VERSION among the paths received."""
    seen = {int(match[1]) for path in received if (match := re.search(r"/(\d+)/PG_VERSION\Z", path))}
    absent = {database.oid for database in observed} - seen
    if not absent:
        return
    with closing(connect(connection)) as sql, sql_errors(Server.of(sql.pgconn)):
        still = [item for item in databases(sql, sql.info.server_version) if item.oid in absent]
    if still:
        raise HoldfastError(
            _("the folder of database {name} (oid {oid}) is not there on the server").format(
                name=still[0].name, oid=still[0].oid
            ),
            hint=_("Look into the server's log and mount what is missing, then take the backup again."),
        )


def check_wal(names: Collection[str], facts: BackupFacts, manifest: Manifest) -> None:
    """The segments received span the backup's start to its stop, and the manifest agrees on both."""
    size = facts.wal_segment_size
    ranges = manifest.wal_ranges
    if not ranges or (ranges[0].start, ranges[-1].end) != (facts.start_lsn, facts.stop_lsn):
        raise Damaged(_("the base backup and its manifest name different WAL positions"))
    first = Segment.holding(facts.start_lsn, timeline=facts.timeline, size=size).number
    last = Segment.ending(facts.stop_lsn, timeline=facts.timeline, size=size).number
    # A standby that follows a promotion has segments of two timelines.
    have = {Segment.parse(name, size).number for name in names}
    gap = next((number for number in range(first, last + 1) if number not in have), None)
    if gap is not None:
        name = Segment(timeline=facts.timeline, number=gap, size=size).name
        raise Damaged(_("the base backup lacks WAL segment {name}").format(name=name), hint=_("Take the backup again."))
