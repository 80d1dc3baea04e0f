"""BASE_BACKUP: a running cluster's files, and the WAL that makes them consistent, as entries, from anywhere.

The copy is complete or it is an error. What arrives is compared with the server's manifest, the WAL with the range it
must span, pg_control with its checksum, the tablespaces and databases with the catalogue: a folder that is not mounted
is sent as an empty archive, without a word. Only pages with a wrong checksum do not void it: they are in the facts.

Order of the entries: each tablespace under ``pg_tblspc/<oid>/``, the data directory (``backup_label`` first,
``global/pg_control`` last), WAL under ``pg_wal/``, configuration from elsewhere under ``holdfast-etc/``,
``backup_manifest``. Parents may come after their children. Source: ``basebackup.c``, ``basebackup_copy.c``.
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from typing import IO

from psycopg import pq

from holdfast.clock import Clock, SystemClock
from holdfast.entry import Entry, EntryKind, Reading, is_safe_path
from holdfast.errors import Damaged, HoldfastError, UsageError
from holdfast.messages import _
from holdfast.postgres.completeness import DATABASE_MARK, check_databases, check_tablespaces, check_wal
from holdfast.postgres.configuration import FOLDER, Configuration, read_configuration
from holdfast.postgres.connection import Server, connect, connect_replication, missing_replication, sql_errors
from holdfast.postgres.control import CONTROL_FILE, ControlFile, parse_control_file
from holdfast.postgres.datadir import BACKUP_LABEL, BackupLabel, parse_backup_label
from holdfast.postgres.facts import BackupFacts, RecoveryLimits, ServerFacts, Tablespace, observe
from holdfast.postgres.lsn import Lsn, is_segment_name
from holdfast.postgres.manifest import MANIFEST, Manifest, check_manifest, signature
from holdfast.postgres.protocol import (
    ManifestBegins,
    Message,
    NewArchive,
    Progress,
    Row,
    Walsender,
    never,
    parse_message,
    rows_of,
)
from holdfast.postgres.recovery import RECOVERY_DIR
from holdfast.postgres.tarstream import TarStream

UNFINISHED_RESTORE = "holdfast-restore-incomplete"
"""The marker of an earlier restore into the data directory; with it in the backup, nothing could be restored."""

_KEPT = (BACKUP_LABEL, CONTROL_FILE)  # small files whose content the facts need
_DATA_CORRUPTED = "XX001"
_MANIFEST_IN_MEMORY = 16 << 20


@contextmanager
def base_backup(
    connection: str,
    *,
    label: str,
    checkpoint: str = "fast",
    progress: Callable[[int, int], None] | None = None,
    stopped: Callable[[], bool] = never,
    clock: Clock | None = None,
) -> Iterator[BaseBackup]:
    """Start a base backup; leaving the block before its end cancels it on the server.

    ``connection`` is a connection string for SQL (any database); the same is used for replication. ``checkpoint`` is
    ``fast`` or ``spread``. ``progress`` gets bytes done and bytes estimated, about once a second. ``stopped`` is asked
    at least every half second. Raises what :func:`~holdfast.postgres.connection.connect` raises,
    :class:`~holdfast.errors.PermissionRefused` without REPLICATION, :class:`~holdfast.errors.HoldfastError` for a
    server that cannot give a backup.
    """
    if checkpoint not in ("fast", "spread") or "\n" in label or len(label.encode()) > 1000:
        raise UsageError(_("a base backup wants a label of one line, and the checkpoint fast or spread"))
    clock = clock or SystemClock()
    with closing(connect(connection)) as sql:
        server = Server.of(sql.pgconn)
        asked = clock.monotonic()
        with sql_errors(server):
            observed = observe(sql)
            seen = clock.monotonic()
            configuration = read_configuration(sql, server=server, clock=clock)
    _check_able(observed, server)
    with closing(connect_replication(connection)) as session:
        walsender = Walsender(session, stopped=stopped)
        backup = BaseBackup(
            connection=connection,
            walsender=walsender,
            observed=observed,
            configuration=configuration,
            label=label,
            progress=progress or _no_progress,
            elapsed=lambda: timedelta(seconds=clock.monotonic() - seen),
            now=lambda: observed.now + timedelta(seconds=clock.monotonic() - asked),
        )
        try:
            backup.start(checkpoint)
            yield backup
        finally:
            if not backup.is_complete:
                walsender.cancel()


class BaseBackup:
    """A base backup under way; made by :func:`base_backup`."""

    def __init__(
        self,
        *,
        connection: str,
        walsender: Walsender,
        observed: ServerFacts,
        configuration: Configuration,
        label: str,
        progress: Callable[[int, int], None],
        elapsed: Callable[[], timedelta],
        now: Callable[[], datetime],
    ) -> None:
        self._connection = connection
        self._walsender = walsender
        self._observed = observed
        self._configuration = configuration
        self._label = label
        self._progress = progress
        self._elapsed = elapsed
        self._now = now
        """The server's clock or a little more, never less: no commit before the backup may be later than its start."""
        self._started_at = now()
        self._system_identifier = 0
        self._start: Row = ()
        self._tablespaces: tuple[Tablespace, ...] = ()
        self._messages: Iterator[Message] = iter(())
        self._pending: NewArchive | ManifestBegins | None = None
        self._received: dict[str, bytes] = {}  # until the manifest took them out
        self._brought: set[str] = set()
        self._kept: dict[str, bytes] = {}
        self._segments: set[str] = set()
        self._total_bytes = 0
        self._facts: BackupFacts | None = None
        self.estimated_bytes = 0
        """What the server expects to send, WAL not counted."""

    @property
    def is_complete(self) -> bool:
        return self._facts is not None

    @property
    def facts(self) -> BackupFacts:
        """Known when :meth:`entries` has been read to its end, not before."""
        if self._facts is None:
            raise RuntimeError("the base backup has not been read to its end")
        return self._facts

    def start(self, checkpoint: str) -> None:
        """Have the server begin: returns after its checkpoint, with the tablespaces and sizes known."""
        walsender = self._walsender
        ((identifier, *_rest),) = walsender.query("IDENTIFY_SYSTEM")
        self._system_identifier = int(identifier or 0)
        if self._observed.system_identifier not in (None, self._system_identifier):
            raise HoldfastError(
                _("{server} leads to two servers, with system identifiers {first} and {second}").format(
                    server=walsender.server, first=self._observed.system_identifier, second=self._system_identifier
                ),
                hint=_("Name one host in the source's connection."),
            )
        slot = f"holdfast_base_{walsender.backend_pid}"
        walsender.query(f"CREATE_REPLICATION_SLOT {slot} TEMPORARY PHYSICAL (RESERVE_WAL true)")
        quoted = self._label.replace("'", "''")
        walsender.send(
            f"BASE_BACKUP (LABEL '{quoted}', CHECKPOINT '{checkpoint}', PROGRESS true, WAL true, WAIT false,"
            " TABLESPACE_MAP true, MANIFEST 'yes', MANIFEST_CHECKSUMS 'SHA256')"
        )
        (self._start,) = self._rows(pq.ExecStatus.TUPLES_OK)
        self._started_at = self._now()
        rows = self._rows(pq.ExecStatus.TUPLES_OK)
        self.estimated_bytes = sum(int(size or 0) * 1024 for _oid, _location, size in rows)
        names = dict(self._observed.tablespace_names)
        self._tablespaces = tuple(
            Tablespace(
                oid=int(oid), name=names.get(int(oid)), location=location or "", estimated_bytes=int(size or 0) * 1024
            )
            for oid, location, size in rows
            if oid is not None
        )
        check_tablespaces(self._connection, set(names) - {tablespace.oid for tablespace in self._tablespaces})
        self._rows(pq.ExecStatus.COPY_OUT)
        self._messages = map(parse_message, walsender.copy_data())

    def entries(self) -> Iterator[Reading]:
        """Everything, once. Whatever happens before the end raises; only an exhausted iterator is a backup."""
        with tempfile.SpooledTemporaryFile(_MANIFEST_IN_MEMORY) as spool:
            self._advance()
            while isinstance(self._pending, NewArchive):
                yield from self._archive(self._pending)
            if isinstance(self._pending, ManifestBegins):
                for block in self._blocks():
                    spool.write(block)
            stop = self._finish()
            size = spool.tell()
            spool.seek(0)
            manifest = check_manifest(spool, self._received)
            facts = self._conclude(stop, manifest)
            yield from self._configuration.readings(self._brought)
            spool.seek(0)
            yield _manifest_entry(size, facts), _pieces(spool)
        self._facts = facts

    def _archive(self, archive: NewArchive) -> Iterator[Reading]:
        oid = archive.name.removesuffix(".tar")
        if oid != "base" and not (oid.isascii() and oid.isdecimal()):
            raise Damaged(_("the base backup has an archive of an unknown name: {name!r}").format(name=archive.name))
        prefix = "" if oid == "base" else f"pg_tblspc/{int(oid)}/"
        stream = TarStream(archive.name, self._blocks())
        is_empty = True
        for header, pieces in stream.members():
            path = prefix + header.name.removeprefix("./").rstrip("/")
            if not is_safe_path(path):
                raise Damaged(_("the base backup names a path that must not be: {path!r}").format(path=path))
            if header.type == tarfile.SYMTYPE:  # with TABLESPACE_MAP the server sends none
                raise Damaged(_("the base backup holds a symbolic link: {path!r}").format(path=path))
            if prefix and is_empty:
                yield _entry(header, prefix.rstrip("/")), ()
            is_empty = False
            content = self._read(path, header, pieces)
            if not self._is_left_out(path):
                yield _entry(header, path), content
            for _unread in content:
                pass
        for _after_the_end in self._blocks():
            raise Damaged(_("bytes follow the end of archive {name}").format(name=archive.name))
        if prefix and is_empty:
            check_tablespaces(self._connection, {int(oid)}, location=archive.location)

    def _read(self, path: str, header: tarfile.TarInfo, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
        """A member's content, on the way hashed for the comparison, and kept where the facts need it."""
        if header.type != tarfile.REGTYPE:
            return
        self._total_bytes += header.size
        folder, _slash, name = path.rpartition("/")
        if folder == "pg_wal" and is_segment_name(name):
            self._segments.add(name)
            yield from pieces
            return
        digest = hashlib.sha256()
        kept = bytearray() if path in _KEPT else None
        for piece in pieces:
            digest.update(piece)
            if kept is not None:
                kept += piece
            yield piece
        self._received[path] = signature(header.size, digest.digest())
        if name == DATABASE_MARK or (path in self._configuration.named and not self._is_left_out(path)):
            self._brought.add(path)
        if kept is not None:
            self._kept[path] = bytes(kept)

    def _is_left_out(self, path: str) -> bool:
        top = path.partition("/")[0]
        if path in self._configuration.replaced:
            return True
        return top in (RECOVERY_DIR, UNFINISHED_RESTORE) or (top == FOLDER and not self._configuration.lies_in_folder)

    def _blocks(self) -> Iterator[memoryview]:
        """Content up to the next archive, the manifest or the end, which :attr:`_pending` then is."""
        for message in self._messages:
            if isinstance(message, memoryview):
                yield message
            elif isinstance(message, Progress):
                self._progress(message.bytes_done, self.estimated_bytes)
            else:
                self._pending = message
                return
        self._pending = None

    def _advance(self) -> None:
        for _early in self._blocks():
            raise Damaged(_("the server's base backup does not begin with an archive"))

    def _rows(self, status: pq.ExecStatus) -> list[Row]:
        result = self._walsender.next_result()
        if result is None or result.status != status:
            raise Damaged(
                _("PostgreSQL at {server} does not answer as BASE_BACKUP does").format(server=self._walsender.server)
            )
        return rows_of(result)

    def _finish(self) -> Row:
        """The stop position. A checksum failure is reported by an error that follows it, after everything was sent."""
        (stop,) = self._rows(pq.ExecStatus.TUPLES_OK)
        try:
            while self._walsender.next_result() is not None:
                pass
        except Damaged as error:
            if self._walsender.sqlstate != _DATA_CORRUPTED:
                raise
            self._bad_pages = _about_checksums(self._walsender.warnings) or (str(error),)
        return stop

    _bad_pages: tuple[str, ...] = ()

    def _conclude(self, stop: Row, manifest: Manifest) -> BackupFacts:
        missing = [name for name in _KEPT if name not in self._kept]
        if missing:
            raise Damaged(_("the base backup lacks {files}").format(files=", ".join(missing)))
        control = parse_control_file(self._kept[CONTROL_FILE])
        label = parse_backup_label(self._kept[BACKUP_LABEL])
        facts = self._facts_of(stop, control, label)
        identifiers = {self._system_identifier, control.system_identifier, manifest.system_identifier} - {None}
        if len(identifiers) != 1:
            raise Damaged(
                _("the base backup mixes system identifiers: {all}").format(all=sorted(map(str, identifiers)))
            )
        check_wal(self._segments, facts, manifest)
        check_databases(self._connection, self._brought, observed=self._observed.databases)
        return facts

    def _facts_of(self, stop: Row, control: ControlFile, label: BackupLabel) -> BackupFacts:
        observed = self._observed
        limits = RecoveryLimits(**{name: getattr(control, name) for name in RecoveryLimits.__slots__})
        return BackupFacts(
            label=self._label,
            system_identifier=control.system_identifier,
            server_version_num=observed.server_version_num,
            server_version=observed.server_version,
            platform=observed.platform,
            pg_control_version=control.pg_control_version,
            catalog_version=control.catalog_version,
            timeline=int(self._start[1] or 0),
            start_lsn=Lsn.parse(self._start[0] or ""),
            stop_lsn=Lsn.parse(stop[0] or ""),
            stop_timeline=int(stop[1] or 0),
            started_at=self._started_at,
            ended_at=max(observed.now + self._elapsed(), self._started_at),
            from_standby=label.from_standby,
            wal_segment_size=control.wal_segment_size,
            block_size=control.block_size,
            data_checksums=control.data_checksums,
            total_bytes=self._total_bytes,
            tablespaces=self._tablespaces,
            databases=observed.databases,
            limits=observed.limits.at_least(limits),
            shared_preload_libraries=observed.shared_preload_libraries,
            superuser=observed.superuser,
            libc_version=observed.libc_version,
            icu_version=observed.icu_version,
            configuration=self._configuration.files(self._brought),
            bad_pages=self._bad_pages,
            warnings=tuple(self._walsender.warnings),
        )


def _check_able(observed: ServerFacts, server: Server) -> None:
    if not observed.has_replication:
        raise missing_replication(server.user, server)
    if observed.wal_level == "minimal":
        raise HoldfastError(
            _("the server at {server} has wal_level = minimal, which allows no backup").format(server=server),
            hint=_("Run ALTER SYSTEM SET wal_level = replica; and ALTER SYSTEM RESET max_wal_senders; then restart."),
        )


def _entry(header: tarfile.TarInfo, path: str) -> Entry:
    is_file = header.type == tarfile.REGTYPE and header.name
    kind = EntryKind.FILE if is_file else EntryKind.DIRECTORY
    return Entry(
        path=path,
        kind=kind,
        mode=header.mode & 0o7777,
        uid=header.uid,
        gid=header.gid,
        mtime_ns=int(header.mtime) * 1_000_000_000,
        size=header.size if kind is EntryKind.FILE else 0,
    )


def _manifest_entry(size: int, facts: BackupFacts) -> Entry:
    return Entry(
        path=MANIFEST,
        kind=EntryKind.FILE,
        mode=0o600,
        mtime_ns=int(facts.ended_at.timestamp()) * 1_000_000_000,
        size=size,
    )


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(1 << 20):
        yield piece


def _about_checksums(warnings: Iterable[str]) -> tuple[str, ...]:
    said = tuple(warnings)
    return tuple(warning for warning in said if "checksum" in warning) or said


def _no_progress(_done: int, _estimated: int) -> None:
    return
