"""What a check found: one value for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    name: str
    """Stable, for machines: ``wal_level``."""
    status: Status
    what: str
    """For people: what was found."""
    remedy: str = ""
    """The SQL, line or command that mends it; empty if nothing is to be mended."""


def ok(name: str, what: str) -> Finding:
    return Finding(name=name, status=Status.OK, what=what)


def warning(name: str, what: str, remedy: str) -> Finding:
    return Finding(name=name, status=Status.WARNING, what=what, remedy=remedy)


def failed(name: str, what: str, remedy: str) -> Finding:
    return Finding(name=name, status=Status.FAILED, what=what, remedy=remedy)
