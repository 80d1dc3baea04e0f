"""The backup manifest: what the server says it sent, compared with what arrived.

Pure. Format: "Backup Manifest Format" in PostgreSQL's manual (version 1; 2 from PostgreSQL 17, with the system
identifier). Its last line holds the SHA-256 of everything before it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.postgres.lsn import Lsn

MANIFEST = "backup_manifest"
_CHECKSUM_LINE = re.compile(rb'"Manifest-Checksum": "([0-9a-f]{64})"\}\n\Z')
_NAMED = 5  # files that a message names; the rest are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFile:
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WalRange:
    timeline: int
    start: Lsn
    end: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    files: Mapping[str, ManifestFile]
    """By path; a tablespace's under ``pg_tblspc/<oid>/``. WAL segments are not in it."""
    wal_ranges: tuple[WalRange, ...]
    system_identifier: int | None
    """None before PostgreSQL 17."""


def parse_manifest(data: bytes) -> Manifest:
    """Raises :class:`~holdfast.errors.Damaged` when its own checksum is wrong or it is not a manifest with SHA-256."""
    match = _CHECKSUM_LINE.search(data)
    if match is None:
        raise _damaged(_("its checksum is missing"))
    if hashlib.sha256(memoryview(data)[: match.start()]).hexdigest().encode() != match[1]:
        raise _damaged(_("its checksum is wrong"))
    try:
        content = json.loads(data)
        if content["PostgreSQL-Backup-Manifest-Version"] not in (1, 2):
            raise _damaged(
                _("its version {version} is not known").format(version=content["PostgreSQL-Backup-Manifest-Version"])
            )
        return Manifest(
            files=dict(_file(item) for item in content["Files"]),
            wal_ranges=tuple(
                WalRange(
                    timeline=int(item["Timeline"]),
                    start=Lsn.parse(item["Start-LSN"]),
                    end=Lsn.parse(item["End-LSN"]),
                )
                for item in content["WAL-Ranges"]
            ),
            system_identifier=int(content["System-Identifier"]) if "System-Identifier" in content else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(_("it cannot be read: {error}").format(error=error)) from error


def _file(item: dict[str, Any]) -> tuple[str, ManifestFile]:
    if item["Checksum-Algorithm"] != "SHA256":
        raise ValueError(item["Checksum-Algorithm"])
    path = item.get("Path") or bytes.fromhex(item["Encoded-Path"]).decode("utf-8", "surrogateescape")
    return path, ManifestFile(size=int(item["Size"]), sha256=bytes.fromhex(item["Checksum"]))


def compare(manifest: Manifest, received: Mapping[str, ManifestFile]) -> None:
    """Raises :class:`~holdfast.errors.Damaged` naming files that differ, are absent, or were not announced."""
    different = [path for path, file in manifest.files.items() if path in received and received[path] != file]
    absent = [path for path in manifest.files if path not in received]
    extra = [path for path in received if path not in manifest.files]
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
