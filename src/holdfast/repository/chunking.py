"""Splitting content into chunks: fixed pieces of 256 KiB, aligned with a file's beginning and so with its pages.

Content is copied once, from the reader's block into a slab: memory for many chunks that one worker then takes through
hashing, compressing and sealing without handing it on. Joining is the reader's work: chunk *n* of a file begins where
the sizes before it end.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable
from dataclasses import dataclass

CHUNK_SIZE = 256 * 1024
SLAB_SIZE = 16 * CHUNK_SIZE


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk-to-be in a slab, and who wants to know its id."""

    start: int
    length: int
    owner: object
    position: int
    """Which chunk of the owner this is, from 0."""


class Slab:
    """Anonymous memory for many pieces; reused, so that the system zeroes it only once."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, SLAB_SIZE)
        self.memory = memoryview(self._map)
        self.used = 0
        self.pieces: list[Piece] = []

    def content(self, piece: Piece) -> memoryview:
        return self.memory[piece.start : piece.start + piece.length]

    def clear(self) -> None:
        self.used = 0
        self.pieces.clear()


class Splitter:
    """Fills slabs with pieces. ``take`` gives an empty slab, ``full`` receives one that can hold no more."""

    def __init__(self, take: Callable[[], Slab], full: Callable[[Slab], None]) -> None:
        self._take, self._full = take, full
        self._slab: Slab | None = None

    def split(self, owner: object, blocks: Iterable[bytes | bytearray | memoryview]) -> tuple[int, int]:
        """Cuts one file's content; returns its bytes and its number of pieces."""
        size = pieces = 0
        slab, start = self._room()
        for block in blocks:
            view = memoryview(block)
            size += len(view)
            while view:
                step = min(len(view), CHUNK_SIZE - (slab.used - start), SLAB_SIZE - slab.used)
                slab.memory[slab.used : slab.used + step] = view[:step]
                slab.used += step
                view = view[step:]
                if slab.used - start == CHUNK_SIZE:
                    slab.pieces.append(Piece(start, CHUNK_SIZE, owner, pieces))
                    pieces += 1
                    slab, start = self._room()
                elif slab.used == SLAB_SIZE:
                    slab, start = self._carry(slab, start)
        if slab.used > start:
            slab.pieces.append(Piece(start, slab.used - start, owner, pieces))
            pieces += 1
        return size, pieces

    def flush(self) -> None:
        if self._slab is not None:
            self._full(self._slab)
            self._slab = None

    def _room(self) -> tuple[Slab, int]:
        if self._slab is not None and self._slab.used == SLAB_SIZE:
            self.flush()
        if self._slab is None:
            self._slab = self._take()
        return self._slab, self._slab.used

    def _carry(self, slab: Slab, start: int) -> tuple[Slab, int]:
        """Moves an unfinished piece that reached the slab's end to the beginning of a fresh one."""
        length = slab.used - start
        fresh = self._take()
        fresh.memory[:length] = slab.memory[start : slab.used]
        fresh.used = length
        slab.used = start
        self._full(slab)
        self._slab = fresh
        return fresh, 0
