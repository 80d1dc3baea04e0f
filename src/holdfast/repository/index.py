"""Which pack holds which chunk. The index is a copy of the packs' directories, never the only place of a fact.

An index object is one sealed part: zstd over, for each pack, ``u8 kind, 32 id, u64 size`` and the rows of its
directory. A pack that no index object names (a backup died before it wrote one, or an index object is lost) is
learned from its own directory.

A chunk may lie in several packs (two writers at once); all places are kept, so that a reader can turn to another.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.compression import compress, decompress
from holdfast.repository.ids import ID_BYTES, ChunkId, ObjectId
from holdfast.repository.objects import PACK_KINDS, Kind, ObjectRef
from holdfast.repository.packing import Directory, Part, decode_rows, encode_rows, rows_length

_LENGTH = struct.Struct(">I")
_PACK = struct.Struct(f">B{ID_BYTES}sQ")

MAX_INDEX_BYTES = 256 * 2**20


class Location(NamedTuple):
    pack: ObjectRef
    ordinal: int
    part: Part


class Index:
    """In memory, for one job. Single-threaded to fill; look-ups from any thread."""

    def __init__(self) -> None:
        self._places: dict[ChunkId, Location] = {}
        self._more: dict[ChunkId, list[Location]] = {}
        self._directories: dict[ObjectRef, Directory] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, chunk_id: ChunkId) -> bool:
        return chunk_id in self._places

    def add(self, directory: Directory, ordinals: Iterable[int] | None = None) -> None:
        """Takes a pack's parts, or only those of ``ordinals``."""
        if directory.pack in self._directories:
            return
        self._directories[directory.pack] = directory
        for ordinal in range(len(directory.parts)) if ordinals is None else ordinals:
            part = directory.parts[ordinal]
            place = Location(directory.pack, ordinal, part)
            if self._places.setdefault(part.id, place) is not place:
                self._more.setdefault(part.id, []).append(place)

    def find(self, chunk_id: ChunkId) -> Location | None:
        return self._places.get(chunk_id)

    def places(self, chunk_id: ChunkId) -> Iterator[Location]:
        """Every place of a chunk, the usual one first."""
        first = self._places.get(chunk_id)
        if first is not None:
            yield first
            yield from self._more.get(chunk_id, ())

    @property
    def packs(self) -> Mapping[ObjectRef, Directory]:
        return self._directories

    def directory(self, pack: ObjectRef) -> Directory:
        return self._directories[pack]


def encode_index(directories: Iterable[Directory]) -> bytes:
    plain = b"".join(
        _PACK.pack(directory.pack.kind, directory.pack.id, directory.size) + encode_rows(directory.parts)
        for directory in directories
    )
    return _LENGTH.pack(len(plain)) + compress(plain)


def decode_index(data: bytes) -> Iterator[Directory]:
    try:
        (size,) = _LENGTH.unpack_from(data)
        if size > MAX_INDEX_BYTES:
            raise Damaged(_("an index object is larger than any that Holdfast writes"))
        plain = memoryview(decompress(data[_LENGTH.size :], size=size))
        at = 0
        while at < len(plain):
            kind, raw, pack_size = _PACK.unpack_from(plain, at)
            at += _PACK.size
            (count,) = _LENGTH.unpack_from(plain, at)
            parts = decode_rows(plain[at:])
            at += rows_length(count)
            if Kind(kind) not in PACK_KINDS:
                raise ValueError(kind)
            yield Directory(ObjectRef(Kind(kind), ObjectId(raw)), pack_size, parts)
    except (struct.error, ValueError):
        raise Damaged(_("an index object cannot be read")) from None
