"""What would be lost if the server were lost now: the newest safe moment, and how far behind the server it is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from holdfast.policy.windows import Gap, KnownSnapshot, Reach, Window
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.slot_watch import Observed

STREAM, ARCHIVE, OFF = "stream", "archive", "off"
"""How WAL comes: the values of ``from`` in a source's ``wal``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverNow:
    """What a receiver that runs on this machine says of itself."""

    pid: int
    phase: str
    system_identifier: int | None
    timeline: int | None
    confirmed: Lsn | None
    """Durable in every repository of ``wal.to``, contiguously."""
    safe_until: datetime | None
    """The server's clock: each commit up to then is durable in every repository."""
    sync_state: str | None
    retained: int | None
    errors: tuple[tuple[str, str, datetime | None], ...] = ()
    """Repository, why nothing gets there, since when."""
    warnings: tuple[str, ...] = ()
    snapshot: str = ""
    """What the snapshot does that closes a gap; empty: none is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    until: datetime | None
    """The newest moment that can be recovered to, as the server's clock had it; None: there is none."""
    lsn: Lsn | None
    """What is held up to there ends here."""
    since: datetime | None
    """Any moment from here to :attr:`until` can be reached; None: only :attr:`until` itself."""
    snapshot: KnownSnapshot | None
    """Whose moment it is, where it is a snapshot's alone."""
    rpo: timedelta | None
    """How much time would be lost now; None: everything, or nobody knows."""
    rpo_bytes: int | None
    """WAL that would be lost now; None: the server was not asked, or is another one."""
    is_at_most: bool
    """The server was not asked: it may have written nothing since."""


def protection(
    reach: Reach,
    snapshots: Sequence[KnownSnapshot],
    *,
    receiver: ReceiverNow | None,
    server: Observed | None,
    now: datetime,
) -> Protection:
    window = reach.windows[-1] if reach.windows else None
    until, lsn = (window.until, window.stop) if window else (None, None)
    if window and receiver and receiver.confirmed is not None and _goes_on(receiver, window, reach.gaps):
        lsn = max(window.stop, receiver.confirmed)
        until = max(window.until, receiver.safe_until or window.until)
    newest = max(snapshots, key=lambda known: known.facts.ended_at, default=None)
    alone = newest is not None and (until is None or newest.facts.ended_at > until)
    if alone and newest is not None:
        until, lsn = newest.facts.ended_at, newest.facts.stop_lsn
    if server is None or until is None or lsn is None:
        rpo = None if until is None else max(now - until, timedelta())
        rpo_bytes = None
    elif not is_same(server, reach, snapshots):
        rpo, rpo_bytes = max(server.clock - until, timedelta()), None
    else:
        rpo_bytes = max(server.end - lsn, 0)
        rpo = max(server.clock - until, timedelta())
        if rpo_bytes == 0 and _is_known(server, receiver):
            until, rpo = max(until, server.clock), timedelta()
            alone = alone and window is None
    return Protection(
        until=until,
        lsn=lsn,
        since=window.since if window and not alone else None,
        snapshot=newest if alone else None,
        rpo=rpo,
        rpo_bytes=rpo_bytes,
        is_at_most=server is None,
    )


def protected_identifier(reach: Reach, snapshots: Sequence[KnownSnapshot]) -> int | None:
    """The system identifier of the server whose newest moment is held."""
    if reach.windows:
        return reach.windows[-1].system_identifier
    newest = max(snapshots, key=lambda known: known.facts.ended_at, default=None)
    return newest.facts.system_identifier if newest else None


def is_same(server: Observed, reach: Reach, snapshots: Sequence[KnownSnapshot]) -> bool:
    """Whether ``server`` may be the one that is protected; where it does not say who it is, it is."""
    return server.system_identifier in (None, protected_identifier(reach, snapshots))


def present_gaps(reach: Reach) -> tuple[Gap, ...]:
    """Those that are open and follow the newest window: what is written now cannot be reached because of them."""
    window = reach.windows[-1] if reach.windows else None
    return tuple(gap for gap in reach.gaps if gap.is_open and (window is None or _follows(gap, window)))


def _follows(gap: Gap, window: Window) -> bool:
    if gap.system_identifier != window.system_identifier:
        return gap.since is not None and gap.since > window.until
    return gap.timeline > window.timeline or gap.stop > window.stop


def _goes_on(receiver: ReceiverNow, window: Window, gaps: Sequence[Gap]) -> bool:
    """Whether what the receiver has made durable continues the window."""
    return (
        receiver.system_identifier == window.system_identifier
        and receiver.timeline is not None
        and receiver.timeline >= window.timeline
        and not present_gaps(Reach(windows=(window,), gaps=tuple(gaps)))
    )


def _is_known(server: Observed, receiver: ReceiverNow | None) -> bool:
    """Whether positions of ``server`` may be compared with what is held: a cluster made anew begins with small ones."""
    return server.system_identifier is not None or receiver is not None
