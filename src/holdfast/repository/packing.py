"""A pack: many chunks sealed in one object, and a directory of them at its end.

::

    head (48) | part 0 | part 1 | … | directory, the last part | length of the sealed directory, u32

Part *n* is the stored form of chunk *n*; the directory's ordinal is 2**32 - 1. The directory, big-endian: u32 number
of rows, then for each part in order the chunk's id (32), u32 sealed length, u32 content length; then zero bytes that
round the pack's size (see :func:`padded_size`), so that sizes tell a store little about small files. The trailing
length is not authenticated: a wrong one makes the directory fail authentication.

A part of a ``DATA`` pack is a piece of a file, and named by all of it. A part of a ``META`` pack, a list node or a
leaf of a tree, begins with the u32 length of what it is named by; hints of where its chunks lie follow that, and may
differ from repository to repository (:mod:`holdfast.repository.hints`).

The directory makes each pack tell by itself what is in it; the index is only a faster copy of directories.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.compression import compress, decompress
from holdfast.repository.ids import ID_BYTES, ChunkId, IdKey, new_object_id
from holdfast.repository.objects import Kind, ObjectRef
from holdfast.repository.sealing import HEAD, TAG_BYTES, MasterKey, ObjectCipher

PACK_TARGET = 16 * 2**20
"""Bytes at which a pack is closed."""

MAX_PART_BYTES = 64 * 2**20
"""Of content: no chunk, list node or leaf is nearly as long."""

_DIRECTORY = 2**32 - 1
"""The directory's ordinal: that of no chunk."""
_COUNT = struct.Struct(">I")
_ROW = struct.Struct(f">{ID_BYTES}sII")
_TRAILER = struct.Struct(">I")


class Part(NamedTuple):
    """Where one chunk lies in its pack."""

    id: ChunkId
    offset: int
    sealed_length: int
    content_length: int


class Location(NamedTuple):
    """Where one chunk lies: a pack, and which part of it."""

    pack: ObjectRef
    ordinal: int
    part: Part


@dataclass(frozen=True, slots=True)
class Directory:
    """What one pack holds. Compact: a million packs' directories may be on their way at once."""

    pack: ObjectRef
    size: int
    """Of the pack, in bytes."""
    rows: bytes
    """For each part in order: id (32), u32 sealed length, u32 content length."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """Decoded anew at each call. Offsets follow from the lengths."""
        parts, offset = [], HEAD.size
        for chunk_id, sealed, content in _ROW.iter_unpack(self.rows):
            parts.append(Part(ChunkId(chunk_id), offset, sealed, content))
            offset += sealed
        return tuple(parts)

    def __len__(self) -> int:
        """How many parts."""
        return len(self.rows) // _ROW.size


class PackBuilder:
    """A pack being filled in memory. Belongs to one thread at a time."""

    def __init__(self, master: MasterKey, kind: Kind) -> None:
        self.ref = ObjectRef(kind, new_object_id())
        self._cipher = ObjectCipher(master, self.ref)
        self._buffer = bytearray(self._cipher.head)
        self._rows = bytearray()
        self._count = 0

    def add(self, chunk_id: ChunkId, content: bytes | bytearray | memoryview) -> Location:
        ordinal = self._count
        sealed = self._cipher.seal(ordinal, compress(content), last=False)
        part = Part(chunk_id, len(self._buffer), len(sealed), len(content))
        self._rows += _ROW.pack(chunk_id, len(sealed), len(content))
        self._buffer += sealed
        self._count += 1
        return Location(self.ref, ordinal, part)

    @property
    def full(self) -> bool:
        return len(self._buffer) >= PACK_TARGET

    def finish(self) -> tuple[bytearray, Directory]:
        """The object's bytes and its directory. Nothing may be added afterwards."""
        rows = encode_rows(self._rows)
        bare = len(self._buffer) + len(rows) + TAG_BYTES + _TRAILER.size
        rows += bytes(padded_size(bare) - bare)
        sealed = self._cipher.seal(_DIRECTORY, rows, last=True)
        self._buffer += sealed
        self._buffer += _TRAILER.pack(len(sealed))
        return self._buffer, Directory(self.ref, len(self._buffer), bytes(self._rows))


def encode_rows(rows: bytes | bytearray) -> bytes:
    return _COUNT.pack(len(rows) // _ROW.size) + rows


def decode_rows(data: bytes | memoryview) -> bytes:
    """The rows that :func:`encode_rows` wrote; what follows them is ignored."""
    try:
        (count,) = _COUNT.unpack_from(data, 0)
    except struct.error:
        raise Damaged(_("a pack's directory is cut short")) from None
    if rows_length(count) > len(data):
        raise Damaged(_("a pack's directory is cut short"))
    return bytes(data[_COUNT.size : rows_length(count)])


def rows_length(count: int) -> int:
    """Bytes that the rows of ``count`` parts take, their number included."""
    return _COUNT.size + count * _ROW.size


def trailer_span(size: int) -> tuple[int, int]:
    """Start and length of the bytes at a pack's end that tell where its directory begins."""
    return max(size - _TRAILER.size, 0), _TRAILER.size


def directory_span(size: int, trailer: bytes) -> tuple[int, int]:
    """Start and length of the sealed directory in a pack of ``size`` bytes."""
    length = int.from_bytes(trailer, "big")
    start = size - _TRAILER.size - length
    if len(trailer) != _TRAILER.size or start < HEAD.size or length <= TAG_BYTES:
        raise Damaged(_("a pack's end is damaged"))
    return start, length


def read_directory(master: MasterKey, ref: ObjectRef, size: int, sealed: bytes | memoryview) -> Directory:
    return Directory(ref, size, decode_rows(ObjectCipher(master, ref).unseal(_DIRECTORY, sealed, last=True)))


def read_part(cipher: ObjectCipher, place: Location, sealed: bytes | memoryview, ids: IdKey) -> bytes:
    """One chunk: authenticated, decompressed, and its id computed again from the content."""
    if place.part.content_length > MAX_PART_BYTES:
        raise Damaged(_("a chunk is larger than any that Holdfast writes"))
    content = decompress(cipher.unseal(place.ordinal, sealed, last=False), size=place.part.content_length)
    named = named_by(place.pack.kind, content)
    found = ids.list_id(named) if place.pack.kind is Kind.META else ids.chunk_id(named)
    if found != place.part.id:
        raise Damaged(_("a chunk's content does not have the id that names it"))
    return content


def named_by(kind: Kind, content: bytes) -> bytes | memoryview:
    """What a part's id is the id of."""
    if kind is not Kind.META:
        return content
    end = _COUNT.size + int.from_bytes(content[: _COUNT.size], "big")
    if end > len(content):
        raise Damaged(_("a chunk list is cut short"))
    return memoryview(content)[_COUNT.size : end]


def padded_size(size: int) -> int:
    """``size`` rounded up so that at most log2(log2(size)) bits of it are told (Padmé, at most 12 % more)."""
    if size < 2:
        return size
    exponent = size.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (size + mask) & ~mask
