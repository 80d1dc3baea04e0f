"""A run: the directories of many packs in one file of this machine, mapped, never changed, searched where it lies.

::

    header (64) | rows | pack ids | pack sizes | prefixes | spots | buckets | firsts | kinds

*Rows* are those of the packs' directories as they stand there (40 bytes: id, u32 sealed length, u32 content length),
pack after pack. *Prefixes* are the first 8 bytes of all chunk ids as integers, sorted, and *spots* says for each of
them its row, its pack, and the part's offset there (2**32 - 1: that or more); *buckets* says where the prefixes that
begin with the same bits begin. *Firsts* is the number of each pack's first row, and the number of all rows at the end.
Integers are this machine's own, but in rows.

The header carries a keyed BLAKE3 of all else: a run whose digest differs was not written, or not completely written,
by somebody who has the repository's key, and is nobody's word. Chunk ids are keyed hashes, so a bucket holds few of
them; an equal prefix is never taken for an equal id.
"""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import IO

import numpy as np
from blake3 import blake3

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.ids import ID_BYTES
from holdfast.repository.objects import PACK_KINDS, ObjectRef
from holdfast.repository.pack_table import Array, PackTable
from holdfast.repository.packing import Directory, Location, Part
from holdfast.repository.sealing import HEAD

VERSION = 1
ROW_BYTES = 40
HEADER_BYTES = 64
SPOT = 3
"""Numbers a spot: row, pack, offset."""
FAR = 2**32 - 1
_HEADER = struct.Struct("=8sIIQQ")
_MAGIC = b"HFINDEX\n"
_DIGEST_BYTES = 32
_ROW = struct.Struct(f">{ID_BYTES}sII")
_ID = struct.Struct(f"{ID_BYTES}s")
_LENGTHS = [struct.Struct(">" + f"{ID_BYTES}xI4x" * rows) for rows in range(65)]
"""Of so many rows, the sealed lengths: one call for all of them."""
_REFS = 4096
"""Packs whose references are kept: chunks that follow one another lie in the same few."""
_NOWHERE: tuple[int, ...] = ()
_KINDS = {int(kind): kind for kind in PACK_KINDS}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each part of a run begins; all follows from how much there is of what."""

    rows: int
    packs: int
    bits: int
    """How many leading bits of an id choose its bucket."""

    @property
    def sections(self) -> tuple[tuple[str, str, int], ...]:
        """Name, numpy type, and number of elements, in the order of the file."""
        return (
            ("rows", "u1", self.rows * ROW_BYTES),
            ("ids", "u1", self.packs * ID_BYTES),
            ("sizes", "u8", self.packs),
            ("prefixes", "u8", self.rows),
            ("spots", "u4", self.rows * SPOT),
            ("buckets", "u4", 2**self.bits + 1),
            ("firsts", "u4", self.packs + 1),
            ("kinds", "u1", self.packs),
        )

    def offsets(self) -> dict[str, int]:
        """Of each section, and of the ``end``."""
        found, at = {}, HEADER_BYTES
        for name, kind, count in self.sections:
            found[name] = at
            at += int(kind[1]) * count
        return found | {"end": at}

    def header(self) -> bytes:
        return _HEADER.pack(_MAGIC, VERSION, self.bits, self.rows, self.packs)


def seal_run(file: IO[bytes], layout: Layout, key: bytes) -> None:
    """Writes the header, which makes a run of what stands in ``file``."""
    file.flush()
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        digest = _digest(layout.header(), mapped, key)
    file.seek(0)
    file.write(layout.header() + digest)
    file.flush()


def _digest(header: bytes, mapped: mmap.mmap, key: bytes) -> bytes:
    with memoryview(mapped) as view, view[HEADER_BYTES:] as body:
        return blake3(header, key=key, max_threads=blake3.AUTO).update(body).digest()


class Run:
    """One run, mapped. Look-ups from any thread; the file may be gone meanwhile, not the bytes."""

    def __init__(self, file: IO[bytes], key: bytes) -> None:
        """``Damaged`` unless it is a run that ``key`` vouches for. The file may be closed afterwards."""
        try:
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise _damaged() from None
        layout = self._check(key)
        at = layout.offsets()
        arrays = {
            name: np.frombuffer(self._mapped, dtype=kind, count=count, offset=at[name])
            for name, kind, count in layout.sections
        }
        self.rows, self.packs = layout.rows, layout.packs
        self.ids: Array = arrays["ids"].reshape(-1, ID_BYTES)
        self.sizes: Array = arrays["sizes"]
        self.kinds: Array = arrays["kinds"]
        self.prefixes: Array = arrays["prefixes"]
        self.spots: Array = arrays["spots"].reshape(-1, SPOT)
        self.firsts: Array = arrays["firsts"]
        self._rows = arrays["rows"].data
        self._ids = arrays["ids"].data
        self._prefixes = self.prefixes.data
        self._spots = arrays["spots"].data
        self._buckets = arrays["buckets"].data
        self._firsts = self.firsts.data
        self._kinds = self.kinds.data
        self._refs: dict[int, ObjectRef] = {}
        self._shift = 64 - layout.bits

    def _check(self, key: bytes) -> Layout:
        start = self._mapped[:HEADER_BYTES]
        try:
            magic, version, bits, rows, packs = _HEADER.unpack_from(start)
        except struct.error:
            raise _damaged() from None
        if magic != _MAGIC or version != VERSION or bits > 32 or max(rows, packs) >= 2**32:
            raise _damaged()
        layout = Layout(rows, packs, bits)
        digest = start[_HEADER.size : _HEADER.size + _DIGEST_BYTES]
        if len(self._mapped) != layout.offsets()["end"] or _digest(layout.header(), self._mapped, key) != digest:
            raise _damaged()
        return layout

    def find(self, prefix: int, chunk_id: bytes) -> tuple[int, ...]:
        """Where, among all that is sorted, a chunk is; ``prefix`` is the first 8 bytes of its id, as an integer."""
        bucket, prefixes, found = prefix >> self._shift, self._prefixes, _NOWHERE
        end = self._buckets[bucket + 1]
        at = bisect_left(prefixes, prefix, self._buckets[bucket], end)
        while at < end and prefixes[at] == prefix:
            start = self._spots[at * SPOT] * ROW_BYTES
            if self._rows[start : start + ID_BYTES] == chunk_id:
                found += (at,)
            at += 1
        return found

    def pack_of(self, at: int) -> int:
        """The number, in this run, of the pack that holds what was found at ``at``."""
        return self._spots[at * SPOT + 1]

    def ref(self, pack: int) -> ObjectRef:
        known = self._refs.get(pack)
        if known is None:
            if len(self._refs) >= _REFS:
                self._refs = {}
            known = ObjectRef(_KINDS[self._kinds[pack]], _ID.unpack_from(self._ids, pack * ID_BYTES)[0])
            self._refs[pack] = known
        return known

    def first(self, pack: int) -> int:
        return self._firsts[pack]

    def location(self, pack: int, at: int) -> Location:
        first, row, offset = self._firsts[pack], self._spots[at * SPOT], self._spots[at * SPOT + 2]
        if offset == FAR:
            return Location(self.ref(pack), row - first, part_at(self._rows, first, row - first))
        chunk_id, sealed, content = _ROW.unpack_from(self._rows, row * ROW_BYTES)
        return Location(self.ref(pack), row - first, Part(chunk_id, offset, sealed, content))

    def rows_of(self, pack: int) -> memoryview:
        return self._rows[self._firsts[pack] * ROW_BYTES : self._firsts[pack + 1] * ROW_BYTES]

    def rows_between(self, start: int, end: int) -> memoryview:
        return self._rows[start * ROW_BYTES : end * ROW_BYTES]

    @cached_property
    def identities(self) -> PackTable:
        return PackTable(self.ids, self.kinds, self.sizes)

    def numbers_of(self, pack: ObjectRef) -> Iterable[int]:
        """Where one pack stands, usually once at most."""
        return self.identities.numbers(pack)

    @property
    def lengths(self) -> Array:
        return np.diff(self.firsts)

    def directory(self, pack: int) -> Directory:
        return Directory(self.ref(pack), int(self.sizes[pack]), bytes(self.rows_of(pack)))


def part_at(rows: memoryview | bytes, first: int, ordinal: int) -> Part:
    """One part of the directory that begins at row ``first``; its offset follows from the lengths of those before."""
    if ordinal < len(_LENGTHS):
        before = sum(_LENGTHS[ordinal].unpack_from(rows, first * ROW_BYTES))
    else:
        numbers = np.frombuffer(rows, ">u4", ordinal * ROW_BYTES // 4, first * ROW_BYTES)
        before = int(numbers[ID_BYTES // 4 :: ROW_BYTES // 4].sum(dtype=np.uint64))
    chunk_id, sealed, content = _ROW.unpack_from(rows, (first + ordinal) * ROW_BYTES)
    return Part(chunk_id, HEAD.size + before, sealed, content)


def _damaged() -> Damaged:
    return Damaged(_("a file of the local index cannot be read"))
