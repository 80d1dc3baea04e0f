"""What a data directory is: PG_VERSION, pg_control, backup_label and tablespace_map, read and written.

Text in, values out, and back; only the ``read_…`` functions touch the disk. Sources: ``xlogbackup.c``
(``build_backup_content``), ``xlogrecovery.c`` (``read_backup_label``, ``read_tablespace_map``) of PostgreSQL 15 to 19.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from holdfast.clock import Clock, SystemClock
from holdfast.errors import Damaged, HoldfastError, UsageError
from holdfast.messages import _
from holdfast.postgres.control import CONTROL_FILE, ControlFile, parse_control_file
from holdfast.postgres.lsn import Lsn

BACKUP_LABEL = "backup_label"
TABLESPACE_MAP = "tablespace_map"
SUPPORTED_MAJORS = (15, 16, 17, 18, 19)

_TORN_READS = 10
_LABEL_LINE = re.compile(r"([A-Z ]+): (.*)")
_START = re.compile(r"([0-9A-F]+/[0-9A-F]+) \(file ([0-9A-F]{24})\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TablespaceLink:
    oid: int
    location: str
    """The folder that ``pg_tblspc/<oid>`` links to; bytes that are not UTF-8 as surrogate escapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupLabel:
    """The file that makes PostgreSQL recover from the backup's start instead of pg_control's checkpoint."""

    start_lsn: Lsn
    start_segment: str
    checkpoint_lsn: Lsn
    from_standby: bool
    start_time: str
    """In the server's ``log_timezone``, whose abbreviation is not parsed: ``2026-11-22 14:53:08 UTC``."""
    label: str
    timeline: int


def parse_backup_label(data: bytes) -> BackupLabel:
    """Raises :class:`~holdfast.errors.Damaged` when a line that PostgreSQL needs is missing or unreadable."""
    lines: dict[str, str] = {}
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        if match := _LABEL_LINE.fullmatch(line):
            lines.setdefault(match[1], match[2])
    try:
        start = _START.fullmatch(lines["START WAL LOCATION"])
        if start is None:
            raise ValueError
        if lines["BACKUP METHOD"] != "streamed" or "INCREMENTAL FROM LSN" in lines:
            raise ValueError
        return BackupLabel(
            start_lsn=Lsn.parse(start[1]),
            start_segment=start[2],
            checkpoint_lsn=Lsn.parse(lines["CHECKPOINT LOCATION"]),
            from_standby={"primary": False, "standby": True}[lines["BACKUP FROM"]],
            start_time=lines["START TIME"],
            label=lines["LABEL"],
            timeline=int(lines["START TIMELINE"]),
        )
    except (KeyError, ValueError, UsageError):
        raise Damaged(
            _("{file} is not that of a full backup").format(file=BACKUP_LABEL),
            hint=_("Take a new backup: without this file PostgreSQL cannot recover from a copy of a running cluster."),
        ) from None


def render_backup_label(label: BackupLabel) -> bytes:
    if "\n" in label.label or "\n" in label.start_time:
        raise UsageError(_("a backup's label is one line"))
    return (
        f"START WAL LOCATION: {label.start_lsn} (file {label.start_segment})\n"
        f"CHECKPOINT LOCATION: {label.checkpoint_lsn}\n"
        "BACKUP METHOD: streamed\n"
        f"BACKUP FROM: {'standby' if label.from_standby else 'primary'}\n"
        f"START TIME: {label.start_time}\n"
        f"LABEL: {label.label}\n"
        f"START TIMELINE: {label.timeline}\n"
    ).encode("utf-8", "surrogateescape")


def parse_tablespace_map(data: bytes) -> tuple[TablespaceLink, ...]:
    """One link a line: oid, a space, the location, in which a backslash stands before newline, return and backslash.

    Raises :class:`~holdfast.errors.Damaged` when a line is not that.
    """
    links: list[TablespaceLink] = []
    line = bytearray()
    escaped = False
    for byte in data:
        if not escaped and byte in b"\n\r":
            if line:
                links.append(_parse_link(bytes(line)))
            line.clear()
        elif not escaped and byte == 0x5C:
            escaped = True
        else:
            line.append(byte)
            escaped = False
    if line or escaped:
        raise Damaged(_("{file} ends in the middle of a line").format(file=TABLESPACE_MAP))
    return tuple(links)


def _parse_link(line: bytes) -> TablespaceLink:
    oid, space, location = line.partition(b" ")
    if not space or not oid.isdigit() or not location:
        raise Damaged(
            _("{file} has a line that is no tablespace: {line!r}").format(
                file=TABLESPACE_MAP, line=line.decode("utf-8", "backslashreplace")
            )
        )
    return TablespaceLink(oid=int(oid), location=location.decode("utf-8", "surrogateescape"))


def render_tablespace_map(links: Iterable[TablespaceLink]) -> bytes:
    lines = []
    for link in links:
        location = link.location.encode("utf-8", "surrogateescape")
        if not location or b"\0" in location:
            raise UsageError(_("tablespace {oid} needs a location").format(oid=link.oid))
        lines.append(b"%d %s\n" % (link.oid, re.sub(rb"([\n\r\\])", rb"\\\1", location)))
    return b"".join(lines)


def parse_major_version(text: str) -> int:
    """The first line of PG_VERSION, which from PostgreSQL 10 is the major version; any number is read."""
    word = text.strip()
    if not word.isascii() or not word.isdigit():
        raise Damaged(_("PG_VERSION says {text!r}, which is no version of PostgreSQL").format(text=word[:40]))
    return int(word)


def read_major_version(data_dir: Path) -> int:
    """Raises :class:`~holdfast.errors.HoldfastError` when ``data_dir`` is no data directory, or cannot be read."""
    return parse_major_version(_read(data_dir, "PG_VERSION").decode("ascii", "replace"))


def read_control_file(data_dir: Path, *, clock: Clock | None = None) -> ControlFile:
    """Like :func:`~holdfast.postgres.control.parse_control_file`; a file torn by a running server is read again."""
    clock = clock or SystemClock()
    for _attempt in range(_TORN_READS - 1):
        try:
            return parse_control_file(_read(data_dir, CONTROL_FILE))
        except Damaged:
            clock.sleep(0.01)
    return parse_control_file(_read(data_dir, CONTROL_FILE))


def _read(data_dir: Path, name: str) -> bytes:
    try:
        return (data_dir / name).read_bytes()
    except FileNotFoundError:
        raise HoldfastError(
            _("{directory} is not a PostgreSQL data directory: it has no {file}").format(directory=data_dir, file=name),
            hint=_("Name the folder in which PG_VERSION lies; SHOW data_directory tells it."),
        ) from None
    except OSError as error:
        raise HoldfastError(
            _("cannot read {file} in {directory}: {reason}").format(
                file=name, directory=data_dir, reason=error.strerror
            ),
            hint=_("Run this as the owner of the data directory, for example with sudo -u postgres."),
        ) from error
