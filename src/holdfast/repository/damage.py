"""What a verification found damaged: noted in the repository, so that no writer reuses it.

A damage object is one sealed part: rows of ``u8 kind, 32 pack id, u32 ordinal``. A noted part is never taken for a
chunk that is there already: the next backup of the same content stores it again, which mends older snapshots too.
A reader still tries it, last of all places.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.ids import ID_BYTES, ObjectId
from holdfast.repository.objects import Kind, ObjectRef

_ROW = struct.Struct(f">B{ID_BYTES}sI")

BadPart = tuple[ObjectRef, int]
"""A pack and the ordinal of a part in it."""


def encode_damage(parts: Iterable[BadPart]) -> bytes:
    return b"".join(_ROW.pack(pack.kind, pack.id, ordinal) for pack, ordinal in parts)


def decode_damage(data: bytes) -> frozenset[BadPart]:
    try:
        return frozenset(
            (ObjectRef(Kind(kind), ObjectId(raw)), ordinal) for kind, raw, ordinal in _ROW.iter_unpack(data)
        )
    except (struct.error, ValueError):
        raise Damaged(_("a note of damage cannot be read")) from None
