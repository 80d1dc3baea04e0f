"""Where the chunks of a list lie, written beside the list: so that reading a snapshot needs no index.

A list node or a leaf is stored as ``u32 length ‖ what it is named by ‖ hints``. Hints are no part of the name: the
same list has the same id in every repository of an owner, whatever its chunks' places. They are advice: what is read
by one is authenticated, its id computed again, and if it is not there the index is asked.

Hints, big-endian; nothing at all if no place is known::

    u16 packs ‖ for each: u8 kind, 32 id ‖ one column after the other, each a value for each row of the list in order:
    u16 number of the pack (65535: place unknown) ‖ u32 ordinal ‖ u32 offset ‖ u32 sealed length ‖ u32 content length
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from holdfast.repository.ids import ID_BYTES, ChunkId, ObjectId
from holdfast.repository.objects import PACK_KINDS, Kind, ObjectRef
from holdfast.repository.packing import Location, Part, named_by

_LENGTH = struct.Struct(">I")
_PACKS = struct.Struct(">H")
_PACK = struct.Struct(f">B{ID_BYTES}s")
_PLACE = struct.Struct(f">B{ID_BYTES}sIIII")
_NOWHERE = bytes(_PLACE.size)
_UNKNOWN = 0xFFFF
_COLUMN_BYTES = 2 + 4 * 4

Places = Sequence[Location | None]


def attach(named: bytes, places: Places) -> bytes:
    """The content of a list node or leaf."""
    return _LENGTH.pack(len(named)) + named + encode_hints(places)


def detach(content: bytes) -> tuple[bytes, bytes]:
    """What the node is named by, and its hints. Raises ``Damaged``."""
    named = bytes(named_by(Kind.META, content))
    return named, content[_LENGTH.size + len(named) :]


def encode_hints(places: Places) -> bytes:
    packs: dict[ObjectRef, int] = {}
    for place in places:
        if place is not None and len(packs) < _UNKNOWN:
            packs.setdefault(place.pack, len(packs))
    if not packs:
        return b""
    numbers, columns = [], ([], [], [], [])  # type: tuple[list[int], tuple[list[int], ...]]
    for place in places:
        numbers.append(_UNKNOWN if place is None else packs.get(place.pack, _UNKNOWN))
        part = (0, 0, 0, 0)
        if place is not None:
            part = (place.ordinal, place.part.offset, place.part.sealed_length, place.part.content_length)
        for column, value in zip(columns, part, strict=True):
            column.append(value)
    count = len(places)
    return b"".join(
        (
            _PACKS.pack(len(packs)),
            *(_PACK.pack(pack.kind, pack.id) for pack in packs),
            struct.pack(f">{count}H", *numbers),
            *(struct.pack(f">{count}I", *column) for column in columns),
        )
    )


def pack_places(places: Places) -> bytes:
    """Compact, to be kept in memory until a leaf is full; never stored."""
    return b"".join(
        _NOWHERE if place is None else _PLACE.pack(*place.pack, place.ordinal, *place.part[1:]) for place in places
    )


def unpack_places(packed: bytes) -> list[Location | None]:
    """What :func:`pack_places` packed, but for the ids of the chunks."""
    return [
        Location(ObjectRef(Kind(kind), ObjectId(raw)), ordinal, Part(ChunkId(b""), *lengths)) if kind else None
        for kind, raw, ordinal, *lengths in _PLACE.iter_unpack(packed)
    ]


def decode_hints(hints: bytes, ids: Sequence[ChunkId]) -> list[Location | None]:
    """A place, or None, for each of ``ids``. Hints that make no sense are no hints: the index knows as well."""
    count = len(ids)
    nothing: list[Location | None] = [None] * count
    try:
        (packs,) = _PACKS.unpack_from(hints)
        at = _PACKS.size + packs * _PACK.size
        if len(hints) != at + count * _COLUMN_BYTES:
            return nothing
        refs = [ObjectRef(Kind(kind), ObjectId(raw)) for kind, raw in _PACK.iter_unpack(hints[_PACKS.size : at])]
        numbers = struct.unpack_from(f">{count}H", hints, at)
        columns = [struct.unpack_from(f">{count}I", hints, at + count * (2 + 4 * n)) for n in range(4)]
    except (struct.error, ValueError):
        return nothing
    if any(ref.kind not in PACK_KINDS for ref in refs):
        return nothing
    return [
        Location(refs[number], ordinal, Part(chunk_id, offset, sealed, content)) if number < packs else None
        for chunk_id, number, ordinal, offset, sealed, content in zip(ids, numbers, *columns, strict=True)
    ]
