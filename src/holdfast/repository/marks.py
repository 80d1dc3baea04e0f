"""Marks: packs that prune means to delete. Sealed, immutable, never taken back; a mark's time is the store's.

A mark is one sealed part: rows of ``u8 kind, 32 pack id``. Prune deletes what was marked long enough ago
(:data:`DELETED_AFTER`) and what, looking again, no snapshot needs. A writer reuses nothing that is marked, and copies
to a new pack what it had reused before the mark appeared. A mark that cannot be unsealed is nobody's word: it protects
nothing and condemns nothing, and is shown as a problem.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from datetime import timedelta

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.ids import ID_BYTES, ObjectId
from holdfast.repository.objects import PACK_KINDS, Kind, ObjectRef

DELETED_AFTER = timedelta(hours=24)
"""A marked pack is not deleted before: four readings of the marks and more, by every writer that is alive."""

_ROW = struct.Struct(f">B{ID_BYTES}s")


def encode_mark(packs: Iterable[ObjectRef]) -> bytes:
    return b"".join(_ROW.pack(pack.kind, pack.id) for pack in packs)


def decode_mark(data: bytes) -> frozenset[ObjectRef]:
    try:
        packs = frozenset(ObjectRef(Kind(kind), ObjectId(raw)) for kind, raw in _ROW.iter_unpack(data))
    except (struct.error, ValueError):
        packs = None
    if packs is None or any(pack.kind not in PACK_KINDS for pack in packs):
        raise Damaged(_("a mark cannot be read"))
    return packs
