"""Leases: who is at work on a repository, and since when. Prune marks nothing that was written since the oldest began.

A lease is renewed by a new object: one sealed part, JSON with the fields of :class:`Renewal`. Times are the store's,
from its listings: a lease began when its first object was written, and is dead :data:`DEAD_AFTER` after its newest.
Nobody's clock but the store's is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.moments import read_moment

DEAD_AFTER = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """One object of a lease."""

    lease: str
    """32 hexadecimal digits, the same in all renewals."""
    work: str
    """``backup``, ``restore``, …"""
    host: str
    began: datetime | None
    """When the lease's first object was written, by the store; ``None`` in that one itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    lease: str
    work: str
    host: str
    began: datetime
    renewed: datetime


def encode_renewal(renewal: Renewal) -> bytes:
    return json.dumps(
        {
            "lease": renewal.lease,
            "work": renewal.work,
            "host": renewal.host,
            "began": renewal.began.isoformat() if renewal.began else None,
        },
        sort_keys=True,
    ).encode()


def decode_renewal(data: bytes) -> Renewal:
    try:
        fields = json.loads(data)
        began = None if fields["began"] is None else read_moment(fields["began"])
        return Renewal(lease=str(fields["lease"]), work=str(fields["work"]), host=str(fields["host"]), began=began)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Damaged(_("a lease cannot be read")) from None


def leases(renewals: Iterable[tuple[Renewal, datetime]]) -> tuple[Lease, ...]:
    """The leases that these renewals, each with the store's time of its object, make. Pure."""
    found: dict[str, Lease] = {}
    for renewal, written in renewals:
        other = found.get(renewal.lease)
        began = min(moment for moment in (renewal.began, written, other.began if other else None) if moment)
        renewed = max(written, other.renewed) if other else written
        found[renewal.lease] = Lease(
            lease=renewal.lease, work=renewal.work, host=renewal.host, began=began, renewed=renewed
        )
    return tuple(found.values())


def oldest_beginning(held: Iterable[Lease], now: datetime) -> datetime | None:
    """Since when somebody has been at work who still lives at ``now``, the store's time."""
    return min((lease.began for lease in held if now - lease.renewed < DEAD_AFTER), default=None)
