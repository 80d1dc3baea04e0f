"""The backup manifest: what the server says it sent, compared with what arrived.

Pure. Format: "Backup Manifest Format" in PostgreSQL's manual (version 1; 2 from PostgreSQL 17, with the system
identifier). Its last line holds the SHA-256 of everything before it. PostgreSQL writes one file a line
(``backup_manifest.c``), and so it is read: a cluster may have a million files, and memory holds none of them twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.postgres.lsn import Lsn

MANIFEST = "backup_manifest"
_CHECKSUM_LINE = re.compile(rb'"Manifest-Checksum": "([0-9a-f]{64})"\}\n\Z')
_FILE_LINE = re.compile(rb'\{ "(?:Encoded-)?Path": .*\}(?=,?\n\Z)')
_LONGEST_LINE = 1 << 20
_NAMED = 5  # files that a message names; the rest are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class WalRange:
    timeline: int
    start: Lsn
    end: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What it says beside the files. WAL segments are not among those."""

    wal_ranges: tuple[WalRange, ...]
    system_identifier: int | None
    """None before PostgreSQL 17."""


def signature(size: int, sha256: bytes) -> bytes:
    """What must be equal for a file to be the one that was sent: 8 bytes of size and the 32 of its hash."""
    return size.to_bytes(8, "big") + sha256


def check_manifest(file: IO[bytes], received: dict[str, bytes]) -> Manifest:
    """Reads ``file`` from where it stands to its end, and takes each file that it names out of ``received``.

    ``received`` holds the :func:`signature` by path, a tablespace's files under ``pg_tblspc/<oid>/``. Raises
    :class:`~holdfast.errors.Damaged` when the manifest's own checksum is wrong, when it is not one with SHA-256, and
    naming files that differ, are absent, or were not announced.
    """
    different: list[str] = []
    absent: list[str] = []

    def compare(item: dict[str, Any]) -> None:
        path, expected = _file(item)
        found = received.pop(path, None)
        if found is None:
            absent.append(path)
        elif found != expected:
            different.append(path)

    try:
        rest = bytearray()
        for line in _checked_lines(file):
            if match := _FILE_LINE.match(line):
                compare(json.loads(match[0]))
            else:
                rest += line
        content = json.loads(rest)
        for item in content["Files"]:
            compare(item)
        manifest = _manifest(content)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _damaged(_("it cannot be read: {error}").format(error=error)) from error
    _refuse_differences(different, absent, list(received))
    return manifest


def _checked_lines(file: IO[bytes]) -> Iterator[bytes]:
    """All lines; raises after the last one if the checksum that it holds is not theirs."""
    digest = hashlib.sha256()
    last = b""
    while line := file.readline(_LONGEST_LINE):
        digest.update(last)
        yield line
        last = line
    match = _CHECKSUM_LINE.search(last)
    if match is None:
        raise _damaged(_("its checksum is missing"))
    digest.update(last[: match.start()])
    if digest.hexdigest().encode() != match[1]:
        raise _damaged(_("its checksum is wrong"))


def _manifest(content: dict[str, Any]) -> Manifest:
    version = content["PostgreSQL-Backup-Manifest-Version"]
    if version not in (1, 2):
        raise _damaged(_("its version {version} is not known").format(version=version))
    return Manifest(
        wal_ranges=tuple(
            WalRange(timeline=int(item["Timeline"]), start=Lsn.parse(item["Start-LSN"]), end=Lsn.parse(item["End-LSN"]))
            for item in content["WAL-Ranges"]
        ),
        system_identifier=int(content["System-Identifier"]) if "System-Identifier" in content else None,
    )


def _file(item: dict[str, Any]) -> tuple[str, bytes]:
    if item["Checksum-Algorithm"] != "SHA256":
        raise ValueError(item["Checksum-Algorithm"])
    path = item.get("Path") or bytes.fromhex(item["Encoded-Path"]).decode("utf-8", "surrogateescape")
    return path, signature(int(item["Size"]), bytes.fromhex(item["Checksum"]))


def _refuse_differences(different: list[str], absent: list[str], extra: list[str]) -> None:
    problems = []
    if different:
        problems.append(_("not what the server read: {files}").format(files=_names(different)))
    if absent:
        problems.append(_("absent: {files}").format(files=_names(absent)))
    if extra:
        problems.append(_("not announced: {files}").format(files=_names(extra)))
    if problems:
        raise Damaged(
            _("the base backup differs from its manifest: {problems}").format(problems="; ".join(problems)),
            hint=_("Take the backup again; if it happens again, suspect memory or network hardware."),
        )


def _names(paths: list[str]) -> str:
    shown = ", ".join(path.encode("utf-8", "backslashreplace").decode() for path in sorted(paths)[:_NAMED])
    more = len(paths) - _NAMED
    return _("{files} and {count} more").format(files=shown, count=more) if more > 0 else shown


def _damaged(reason: str) -> Damaged:
    return Damaged(
        _("{file} of the base backup is damaged: {reason}").format(file=MANIFEST, reason=reason),
        hint=_("Take the backup again; if it happens again, suspect memory or network hardware."),
    )
