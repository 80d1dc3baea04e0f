"""global/pg_control, the file in which a cluster says who it is: its bytes become a :class:`ControlFile`, or an error.

The layout follows the C structures ``CheckPoint`` and ``ControlFileData`` of ``src/include/catalog/pg_control.h`` with
the alignment of 64-bit platforms; it changed with PostgreSQL 17 (1700), 18 (1800) and 19 (1905). The CRC-32C that
follows the structure is checked before any field is believed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from holdfast.errors import Damaged, HoldfastError
from holdfast.messages import _
from holdfast.postgres.crc32c import crc32c
from holdfast.postgres.lsn import Lsn, is_segment_size

CONTROL_FILE = "global/pg_control"
_SIZES = {"Q": 8, "q": 8, "d": 8, "I": 4, "i": 4, "?": 1, "32s": 32}


class ClusterState(IntEnum):
    """``DBState``; the names are those of the C enumeration without ``DB_``."""

    STARTUP = 0
    SHUTDOWNED = 1
    SHUTDOWNED_IN_RECOVERY = 2
    SHUTDOWNING = 3
    IN_CRASH_RECOVERY = 4
    IN_ARCHIVE_RECOVERY = 5
    IN_PRODUCTION = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFile:
    system_identifier: int
    pg_control_version: int
    catalog_version: int
    state: ClusterState
    checkpoint: Lsn
    """Where the last checkpoint's record lies."""
    redo: Lsn
    """Where recovery from it starts."""
    timeline: int
    """The last checkpoint's."""
    previous_timeline: int
    full_page_writes: bool
    minimum_recovery_point: Lsn
    minimum_recovery_timeline: int
    backup_start: Lsn
    """Not 0: recovery from a base backup that has not reached the backup's end."""
    backup_end_required: bool
    wal_level: int
    """0 minimal, 1 replica, 2 logical."""
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int
    block_size: int
    """Bytes a page (``BLCKSZ``)."""
    relation_segment_blocks: int
    """Pages a file of a relation (``RELSEG_SIZE``)."""
    wal_block_size: int
    wal_segment_size: int
    """Bytes."""
    data_checksum_version: int
    """0 without data checksums; 1 with; from 19 also 2 and 3 while they are being switched on or off."""

    @property
    def data_checksums(self) -> bool:
        return self.data_checksum_version == 1


def parse_control_file(data: bytes) -> ControlFile:
    """Read a pg_control of PostgreSQL 15 to 19, written by a machine of either byte order.

    Raises :class:`~holdfast.errors.Damaged` when the checksum or a field cannot be right (a file torn by a concurrent
    write looks so too), and :class:`~holdfast.errors.HoldfastError` for a version that is not known.
    """
    if len(data) < 512:
        raise Damaged(_("{file} is only {size} bytes long").format(file=CONTROL_FILE, size=len(data)))
    order, version = _order_and_version(data)
    fields = _LAYOUTS[version]
    layout, names = _compile(fields, order)
    body = layout.size
    (expected,) = struct.unpack_from(order + "I", data, _align(body, 4))
    if crc32c(data[: _align(body, 4)]) != expected:
        raise Damaged(
            _("{file} has a wrong checksum").format(file=CONTROL_FILE),
            hint=_("Run pg_controldata on the data directory; if it agrees, take the file from the newest snapshot."),
        )
    values = dict(zip(names, layout.unpack_from(data), strict=True))
    if values["max_align"] != 8 or values["float_format"] != 1234567.0:
        raise HoldfastError(_("{file} is from a platform that is not 64-bit").format(file=CONTROL_FILE))
    if not is_segment_size(values["wal_segment_size"]) or values["block_size"] not in {1 << n for n in range(10, 16)}:
        raise Damaged(
            _("{file} has impossible sizes: blocks of {block} bytes, WAL segments of {segment}").format(
                file=CONTROL_FILE, block=values["block_size"], segment=values["wal_segment_size"]
            )
        )
    try:
        return _to_value(values)
    except ValueError:
        raise Damaged(
            _("{file} has an unknown cluster state, {state}").format(file=CONTROL_FILE, state=values["state"])
        ) from None


def _to_value(values: dict[str, int]) -> ControlFile:
    wanted = {name: values[name] for name in ControlFile.__slots__}
    lsns = ("checkpoint", "redo", "minimum_recovery_point", "backup_start")
    return ControlFile(
        **{  # type: ignore[arg-type]  # one dictionary of all fields, each converted to its type here
            **wanted,
            **{name: Lsn(wanted[name]) for name in lsns},
            "state": ClusterState(wanted["state"]),
        }
    )


def _order_and_version(data: bytes) -> tuple[str, int]:
    for order in ("<", ">"):
        (version,) = struct.unpack_from(order + "I", data, 8)
        if version in _LAYOUTS:
            return order, version
    (version,) = struct.unpack_from("<I", data, 8)
    raise HoldfastError(
        _("{file} has version {version}, which is not that of PostgreSQL 15 to 19").format(
            file=CONTROL_FILE, version=version
        ),
        hint=_("Use a Holdfast that knows this PostgreSQL, or look at the data directory's PG_VERSION."),
    )


def _align(offset: int, to: int) -> int:
    return (offset + to - 1) // to * to


def _compile(fields: tuple[tuple[str, str], ...], order: str) -> tuple[struct.Struct, tuple[str, ...]]:
    """The structure with the padding that a C compiler puts before each field; fields named ``_`` are read over."""
    codes, names, offset = [order], [], 0
    for name, code in fields:
        size = _SIZES[code]
        padding = _align(offset, 1 if code == "32s" else size) - offset
        codes.append(f"{padding}x")
        codes.append(f"{size}x" if name == "_" else code)
        if name != "_":
            names.append(name)
        offset += padding + size
    return struct.Struct("".join(codes)), tuple(names)


def _layout(version: int) -> tuple[tuple[str, str], ...]:
    """Fields of ``ControlFileData`` up to the checksum, in order."""
    is_19 = version >= 1900
    checkpoint = (
        ("redo", "Q"),
        ("timeline", "I"),
        ("previous_timeline", "I"),
        ("full_page_writes", "?"),
        *((("_", "i"),) if version >= 1700 else ()),  # wal_level
        *((("_", "?"),) if is_19 else ()),  # logicalDecodingEnabled
        ("_", "Q"),  # nextXid
        ("_", "I"),  # nextOid
        ("_", "I"),  # nextMulti
        ("_", "Q" if is_19 else "I"),  # nextMultiOffset
        *((("_", "I"),) * 4),  # oldestXid, oldestXidDB, oldestMulti, oldestMultiDB
        ("_", "q"),  # time
        *((("_", "I"),) * 3),  # oldestCommitTsXid, newestCommitTsXid, oldestActiveXid
        *((("_", "I"),) if is_19 else ()),  # dataChecksumState
    )
    return (
        ("system_identifier", "Q"),
        ("pg_control_version", "I"),
        ("catalog_version", "I"),
        ("state", "I"),
        ("_", "q"),  # time
        ("checkpoint", "Q"),
        *checkpoint,
        ("_", "Q"),  # unloggedLSN; also what the checkpoint's structure is padded to
        ("minimum_recovery_point", "Q"),
        ("minimum_recovery_timeline", "I"),
        ("backup_start", "Q"),
        ("_", "Q"),  # backupEndPoint
        ("backup_end_required", "?"),
        ("wal_level", "i"),
        ("_", "?"),  # wal_log_hints
        ("max_connections", "i"),
        ("max_worker_processes", "i"),
        ("max_wal_senders", "i"),
        ("max_prepared_transactions", "i"),
        ("max_locks_per_transaction", "i"),
        ("_", "?"),  # track_commit_timestamp
        ("max_align", "I"),
        ("float_format", "d"),
        ("block_size", "I"),
        ("relation_segment_blocks", "I"),
        *((("_", "I"),) if is_19 else ()),  # slru_pages_per_segment
        ("wal_block_size", "I"),
        ("wal_segment_size", "I"),
        *((("_", "I"),) * 4),  # nameDataLen, indexMaxKeys, toast_max_chunk_size, loblksize
        ("_", "?"),  # float8ByVal
        *((("_", "I"),) if is_19 else ()),  # the checksum version at initdb
        ("data_checksum_version", "I"),
        *((("_", "?"),) if version >= 1800 else ()),  # default_char_signedness
        ("_", "32s"),  # mock_authentication_nonce
    )


_LAYOUTS = {version: _layout(version) for version in (1300, 1700, 1800, 1905)}
