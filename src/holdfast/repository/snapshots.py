"""A snapshot record: the complete state of a source at one moment, named by the id of its object.

The record is one sealed part: zstd over JSON, with the fields of :class:`Snapshot` (``docs/format/repository.md``).
What a source says about itself (``facts``) is JSON that only its own package reads. A record names its predecessors,
the newest records that its writer saw, so that one that went missing without being removed is noticed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from holdfast.errors import Damaged, UsageError
from holdfast.messages import _
from holdfast.repository.compression import compress, decompress
from holdfast.repository.hints import decode_hints, encode_hints
from holdfast.repository.ids import ID_BYTES, ChunkId
from holdfast.repository.moments import read_moment
from holdfast.repository.removal import Removal
from holdfast.repository.trees import MAX_LEVELS, Content, Row

Json = dict[str, Any]

_LENGTH = struct.Struct(">I")
MAX_RECORD_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a snapshot holds and what taking it cost, in bytes unless said otherwise."""

    files: int
    """Number of entries that are files."""
    content: int
    """Of all files, as they will be restored."""
    chunks: int
    """Number of chunks of content, as often as they occur; trees not counted."""
    added_content: int
    """Of chunks that were new to the repository, before compression."""
    added_stored: int
    """The same as stored: compressed and sealed, in packs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    id: str
    """64 hexadecimal digits: the object's id."""
    label: str
    source: str
    source_type: str
    started: datetime
    ended: datetime
    host: str
    holdfast_version: str
    tree: Content
    totals: Totals
    predecessors: tuple[str, ...]
    warnings: tuple[str, ...]
    facts: Json
    keys: Mapping[str, str]
    """SHA-256 of each key object that there was, by name."""
    digest: str = ""
    """SHA-256 of the record's object as it is in the store; no part of the record."""

    @property
    def short_id(self) -> str:
        return self.id[:12]


def encode_snapshot(snapshot: Snapshot) -> bytes:
    tree = snapshot.tree
    fields = {
        "label": snapshot.label,
        "source": snapshot.source,
        "source_type": snapshot.source_type,
        "started": snapshot.started.astimezone(UTC).isoformat(),
        "ended": snapshot.ended.astimezone(UTC).isoformat(),
        "host": snapshot.host,
        "holdfast_version": snapshot.holdfast_version,
        "tree": {
            "size": tree.size,
            "levels": tree.levels,
            "rows": [[row.id.hex(), row.size] for row in tree.rows],
            "hints": encode_hints([row.place for row in tree.rows]).hex(),
        },
        "totals": {name: getattr(snapshot.totals, name) for name in Totals.__slots__},
        "predecessors": list(snapshot.predecessors),
        "warnings": list(snapshot.warnings),
        "facts": snapshot.facts,
        "keys": dict(snapshot.keys),
    }
    plain = json.dumps(fields, sort_keys=True, ensure_ascii=True).encode()
    return _LENGTH.pack(len(plain)) + compress(plain)


def decode_snapshot(snapshot_id: str, data: bytes) -> Snapshot:
    try:
        (size,) = _LENGTH.unpack_from(data)
        if size > MAX_RECORD_BYTES:
            raise ValueError("size")
        fields = json.loads(decompress(data[_LENGTH.size :], size=size), parse_constant=_no_number)
        listed = [(_chunk_id(row_id), int(row_size)) for row_id, row_size in fields["tree"]["rows"]]
        places = decode_hints(bytes.fromhex(fields["tree"]["hints"]), [row_id for row_id, _size in listed])
        rows = tuple(Row(*row, place) for row, place in zip(listed, places, strict=True))
        return Snapshot(
            id=snapshot_id,
            label=str(fields["label"]),
            source=str(fields["source"]),
            source_type=str(fields["source_type"]),
            started=read_moment(fields["started"]),
            ended=read_moment(fields["ended"]),
            host=str(fields["host"]),
            holdfast_version=str(fields["holdfast_version"]),
            tree=Content(int(fields["tree"]["size"]), _levels(fields["tree"]["levels"]), rows),
            totals=Totals(**{name: int(fields["totals"][name]) for name in Totals.__slots__}),
            predecessors=tuple(map(str, fields["predecessors"])),
            warnings=tuple(map(str, fields["warnings"])),
            facts=dict(fields["facts"]),
            keys={str(name): str(digest) for name, digest in fields["keys"].items()},
        )
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise Damaged(
            _("the record of snapshot {id} cannot be read").format(id=snapshot_id[:12]),
            hint=_("It may have been written by a newer version of Holdfast."),
        ) from None


def heads(snapshots: Iterable[Snapshot]) -> tuple[str, ...]:
    """The snapshots that no other names as its predecessor: what the next record names."""
    known = tuple(snapshots)
    named = {predecessor for snapshot in known for predecessor in snapshot.predecessors}
    return tuple(sorted(snapshot.id for snapshot in known if snapshot.id not in named))


def missing(snapshots: Iterable[Snapshot], removals: Iterable[Removal] = ()) -> tuple[str, ...]:
    """Ids that records and removals name as predecessors, that are not there, and that nobody removed."""
    before = _predecessors(snapshots, removals)
    return tuple(sorted({predecessor for named in before.values() for predecessor in named} - before.keys()))


def newest(some: Iterable[Snapshot], everything: Iterable[Snapshot], removals: Iterable[Removal] = ()) -> Snapshot:
    """The newest of ``some``: one that no other of them came after, whatever a wrong clock once said.

    Who came after whom is told by predecessors, across all sources and what was removed; only where that leaves
    several, by the clock.
    """
    predecessors = _predecessors(everything, removals)
    chosen = tuple(some)
    before: set[str] = set()
    waiting = [predecessor for snapshot in chosen for predecessor in snapshot.predecessors]
    while waiting:
        snapshot_id = waiting.pop()
        if snapshot_id not in before:
            before.add(snapshot_id)
            waiting.extend(predecessors.get(snapshot_id, ()))
    last = [snapshot for snapshot in chosen if snapshot.id not in before] or chosen
    return max(last, key=lambda snapshot: (snapshot.started, snapshot.ended, snapshot.id))


def _predecessors(snapshots: Iterable[Snapshot], removals: Iterable[Removal]) -> dict[str, tuple[str, ...]]:
    return {removal.id: removal.predecessors for removal in removals} | {
        snapshot.id: snapshot.predecessors for snapshot in snapshots
    }


def select(
    snapshots: Iterable[Snapshot], wanted: str, *, source: str | None = None, removals: Iterable[Removal] = ()
) -> Snapshot:
    """The one snapshot that ``wanted`` means: ``latest``, an id or the beginning of one, a label.

    Raises ``UsageError`` when there is none or more than one.
    """
    snapshots = tuple(snapshots)
    known = [snapshot for snapshot in snapshots if source is None or snapshot.source == source]
    wanted = wanted.removeprefix("snapshot:")
    if wanted == "latest" and known:
        return newest(known, snapshots, removals)
    found = [s for s in known if s.label == wanted] or [
        s for s in known if len(wanted) >= 4 and s.id.startswith(wanted.lower())
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            _("{wanted} means more than one snapshot: {ids}").format(
                wanted=wanted, ids=", ".join(s.short_id for s in found)
            ),
            hint=_("Name one of them by its id."),
        )
    raise UsageError(
        _("there is no snapshot {wanted}").format(wanted=wanted) if known else _("there is no snapshot yet"),
        hint=_("`holdfast list` shows those that there are."),
    )


def _levels(number: Any) -> int:
    if type(number) is not int or not 0 <= number <= MAX_LEVELS:
        raise ValueError("levels")
    return number


def _no_number(text: str) -> float:
    """Infinity and NaN are no JSON, and nobody could show them as such."""
    raise ValueError(text)


def _chunk_id(text: str) -> ChunkId:
    raw = bytes.fromhex(text)
    if len(raw) != ID_BYTES:
        raise ValueError("id")
    return ChunkId(raw)
