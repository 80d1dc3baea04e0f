"""What the health of a source is judged from, and what is found: values, and the thresholds. Pure.

The thresholds stand here, so that a page, an alarm and ``holdfast status`` say the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from holdfast.policy.protection import ARCHIVE, ReceiverNow
from holdfast.policy.windows import KnownSnapshot, Reach
from holdfast.postgres.slot_watch import Observed

RPO_WARNING = timedelta(seconds=30)
RPO_WARNING_INTERVALS = 10
"""The warning is at so many intervals of the tail, and at :data:`RPO_WARNING` at least."""
RPO_CRITICAL = timedelta(minutes=5)
RPO_ARCHIVE_WARNING = timedelta(minutes=10)
RPO_ARCHIVE_CRITICAL = timedelta(hours=1)
"""Whole segments come when they are full, or after ``archive_timeout``."""
SLOT_WARNING, SLOT_CRITICAL = 0.5, 0.8
"""Shares of what the slot may hold back."""
SNAPSHOT_AGE_WARNING = timedelta(days=7)
CLOCKS_APART = timedelta(minutes=1)


class Severity(StrEnum):
    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    name: str
    """Stable, for machines."""
    severity: Severity
    text: str
    remedy: str
    """What to run or change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryNow:
    name: str
    takes_wal: bool
    """It is one of ``wal.to``."""
    error: str = ""
    """Why nothing is known of it."""
    doubts: tuple[str, ...] = ()
    """What it holds and cannot read, or has lost."""
    newest: KnownSnapshot | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    source: str
    via: str
    """``stream``, ``archive`` or ``off``."""
    every: timedelta
    """The longest of the intervals at which the newest bytes go to a repository of ``wal.to``."""
    retain: int
    """Bytes that our slot may hold back."""
    synchronous: bool
    """Commits are meant to wait for us."""
    now: datetime
    """Our clock; its time zone is that of the texts."""
    reach: Reach
    snapshots: tuple[KnownSnapshot, ...]
    repositories: tuple[RepositoryNow, ...]
    server: Observed | None
    server_error: str = ""
    """Why it could not be asked; empty, and no :attr:`server`: nobody asked."""
    server_hint: str = ""
    receiver: ReceiverNow | None
    """One that runs on this machine."""
    receiver_error: str = ""
    """Why one that runs on this machine cannot be asked."""
    on_server_disk: bool = False
    """All of ``wal.to`` lies on the disk of the data directory."""


def warning(name: str, text: str, remedy: str) -> Problem:
    return Problem(name=name, severity=Severity.WARNING, text=text, remedy=remedy)


def critical(name: str, text: str, remedy: str) -> Problem:
    return Problem(name=name, severity=Severity.CRITICAL, text=text, remedy=remedy)


def rpo_thresholds(via: str, every: timedelta) -> tuple[timedelta, timedelta]:
    """Beyond the first is a warning, beyond the second critical."""
    if via == ARCHIVE:
        return RPO_ARCHIVE_WARNING, RPO_ARCHIVE_CRITICAL
    first = max(RPO_WARNING_INTERVALS * every, RPO_WARNING)
    return first, max(RPO_CRITICAL, 2 * first)
