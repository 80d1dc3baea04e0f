"""Removing a snapshot is recorded: a sealed record of the removal first, then the snapshot's record goes.

So a snapshot that is gone without one was lost: a listing was cut short, or the store was set back. A removal also
keeps the removed snapshot's predecessors, so that what came after what is still known.

A removal object is one sealed part, JSON: ``{"removed": [{"id", "predecessors", "when", "host", "why"}, …]}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.moments import read_moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    id: str
    """Of the snapshot."""
    predecessors: tuple[str, ...]
    when: datetime
    host: str
    why: str


def encode_removals(removals: Iterable[Removal]) -> bytes:
    fields = [
        {
            "id": removal.id,
            "predecessors": list(removal.predecessors),
            "when": removal.when.astimezone(UTC).isoformat(),
            "host": removal.host,
            "why": removal.why,
        }
        for removal in removals
    ]
    return json.dumps({"removed": fields}, sort_keys=True).encode()


def decode_removals(data: bytes) -> tuple[Removal, ...]:
    try:
        return tuple(
            Removal(
                id=str(fields["id"]),
                predecessors=tuple(map(str, fields["predecessors"])),
                when=read_moment(fields["when"]),
                host=str(fields["host"]),
                why=str(fields["why"]),
            )
            for fields in json.loads(data)["removed"]
        )
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        raise Damaged(_("a record of removals cannot be read")) from None
