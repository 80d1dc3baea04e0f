"""Making a run: from directories as they come, and from other runs, in slices, however many rows there are.

Rows go to the file at once, each once. Their prefixes are sorted in pieces, which go to a second file (the runs that
are merged have theirs sorted already); at the end all pieces are merged, one slice of the prefixes after the other.
So what is held in memory is one piece, one slice, and 45 bytes a pack.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from holdfast.repository.ids import ID_BYTES
from holdfast.repository.pack_table import Array, PackTable
from holdfast.repository.packing import Directory
from holdfast.repository.runs import FAR, HEADER_BYTES, ROW_BYTES, SPOT, Layout, Run, seal_run
from holdfast.repository.sealing import HEAD

PIECE_ROWS = 2**16
_SLICE_BITS = 19
_BUCKET_BITS = 4
"""A slice has about 2 to the power of that many rows; so has a bucket."""
_COPY_ROWS = 2**17
MAX_ROWS = 2**32 - 1


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Prefixes in order, the spot of each, and how rows and packs are numbered in the run that is being made."""

    prefixes: Array
    spots: Array
    renumber: Callable[[Array], tuple[Array | None, Array]] = lambda spots: (None, spots)
    """Which of some spots remain (None: all), and the new numbers of those that do."""


class RunBuilder:
    """``add`` what there is, then ``finish``. Both files are new, empty, and open for reading and writing."""

    def __init__(self, file: IO[bytes], pieces: IO[bytes]) -> None:
        self._file, self._pieces = file, pieces
        self._file.write(bytes(HEADER_BYTES))
        self._done = _Columns()
        self._piece: list[Directory] = []
        self._piece_rows = 0
        self._lengths: list[int] = []
        self._merged: list[_Sorted] = []

    @property
    def rows(self) -> int:
        return self._done.rows + self._piece_rows

    @property
    def packs(self) -> int:
        return self._done.packs + len(self._piece)

    def add(self, directory: Directory) -> None:
        self._piece.append(directory)
        self._piece_rows += len(directory)
        if self._piece_rows >= PIECE_ROWS or len(self._piece) >= PIECE_ROWS:
            self._end_piece()

    def add_run(self, run: Run, keep: Array) -> None:
        """Takes over the packs of ``run`` that ``keep``, a bool a pack, says; the order stays."""
        self._end_piece()
        packs, lengths = np.flatnonzero(keep), run.lengths[keep]
        shifts = np.zeros((run.packs, SPOT), np.int64)
        shifts[packs, 0] = self._done.rows + _before(lengths) - run.firsts[packs].astype(np.int64)
        shifts[packs, 1] = self._done.packs + np.arange(len(packs)) - packs
        self._merged.append(_Sorted(run.prefixes, run.spots, _renumbering(keep, shifts)))
        self._done.extend(run.ids[keep], run.sizes[keep], run.kinds[keep], lengths)
        for start, end in _stretches(run, keep):
            for at in range(start, end, _COPY_ROWS):
                self._file.write(run.rows_between(at, min(at + _COPY_ROWS, end)))

    def finish(self, key: bytes) -> None:
        self._end_piece()
        self._file.flush()
        self._pieces.flush()
        layout = Layout(self.rows, self.packs, (self.rows >> _BUCKET_BITS).bit_length())
        at = layout.offsets()
        sources = [*self._merged, *_read_pieces(self._pieces, self._lengths)]
        done = 0
        for slice_of_all in _slices(self.rows, sources):
            buckets = _buckets(slice_of_all.prefixes, slice_of_all.lowest, slice_of_all.bits, layout.bits) + done
            self._write(at["prefixes"] + 8 * done, slice_of_all.prefixes)
            self._write(at["spots"] + 4 * SPOT * done, slice_of_all.spots)
            self._write(at["buckets"] + 4 * (slice_of_all.lowest >> (64 - layout.bits)), buckets.astype(np.uint32))
            done += len(slice_of_all.prefixes)
        self._write(at["buckets"] + 4 * 2**layout.bits, np.array([done], np.uint32))
        for name, pieces in self._done.sections():
            offset = at[name]
            for column in pieces:
                self._write(offset, column)
                offset += column.nbytes
        seal_run(self._file, layout, key)

    def _end_piece(self) -> None:
        if not self._piece:
            return
        whole, self._piece, self._piece_rows = self._piece, [], 0
        rows = b"".join([directory.rows for directory in whole])
        self._file.write(rows)
        packs = PackTable.of([directory.pack for directory in whole], [directory.size for directory in whole])
        lengths = np.array([len(directory) for directory in whole], np.int64)
        prefixes = np.frombuffer(rows, ">u8")[:: ROW_BYTES // 8].astype(np.uint64)
        order = np.argsort(prefixes, kind="stable")
        spots = _spots(np.frombuffer(rows, ">u4"), lengths) + np.array(
            [self._done.rows, self._done.packs, 0], np.uint32
        )
        self._pieces.write(prefixes[order].tobytes())
        self._pieces.write(spots[order].tobytes())
        self._pieces.write(bytes(4 * (len(prefixes) % 2)))
        self._lengths.append(len(prefixes))
        self._done.extend(packs.ids, packs.sizes, packs.kinds, lengths)

    def _write(self, offset: int, column: Array) -> None:
        left = np.ascontiguousarray(column).ravel().data.cast("B")
        while left:
            written = os.pwrite(self._file.fileno(), left, offset)
            left, offset = left[written:], offset + written


class _Columns:
    """What is known of packs whose rows are in the file: in pieces, because what grows leaves holes in memory."""

    def __init__(self) -> None:
        self._ids: list[Array] = []
        self._sizes: list[Array] = []
        self._kinds: list[Array] = []
        self._firsts: list[Array] = []
        self.rows = 0
        self.packs = 0

    def extend(self, ids: Array, sizes: Array, kinds: Array, lengths: Array) -> None:
        firsts = self.rows + _before(lengths)
        self.rows += int(lengths.sum(dtype=np.int64))
        if self.rows > MAX_ROWS:
            raise OverflowError("rows of a run")
        self.packs += len(kinds)
        for pieces, column in (
            (self._ids, ids), (self._sizes, sizes), (self._kinds, kinds), (self._firsts, firsts.astype(np.uint32)),
        ):  # fmt: skip
            pieces.append(column)

    def sections(self) -> Iterator[tuple[str, list[Array]]]:
        yield "ids", self._ids
        yield "sizes", self._sizes
        yield "kinds", self._kinds
        yield "firsts", [*self._firsts, np.array([self.rows], np.uint32)]


def _before(lengths: Array) -> Array:
    """The sum of all that come before each."""
    sums: Array = np.cumsum(lengths, dtype=np.int64) - lengths
    return sums


def _spots(rows: Array, lengths: Array) -> Array:
    """Of rows (seen as numbers of 4 bytes) of whole packs, counted from the first of them."""
    packs = np.repeat(np.arange(len(lengths)), lengths)
    before = _before(rows[ID_BYTES // 4 :: ROW_BYTES // 4].astype(np.int64))
    offsets = before - before[_before(lengths)[packs]] + HEAD.size
    spots = np.empty((len(packs), SPOT), np.uint32)
    spots[:, 0], spots[:, 1], spots[:, 2] = np.arange(len(packs)), packs, np.minimum(offsets, FAR)
    return spots


@dataclass(frozen=True, slots=True)
class _Slice:
    lowest: int
    """All prefixes of the slice begin with the same ``bits`` bits as this one, and no others do."""
    bits: int
    prefixes: Array
    spots: Array


def _slices(rows: int, sources: list[_Sorted]) -> Iterator[_Slice]:
    """All sources merged, one slice at a time."""
    bits = (rows >> _SLICE_BITS).bit_length()
    lowest = [number << (64 - bits) for number in range(2**bits)]
    inner = np.array(lowest[1:], np.uint64)
    cuts = [[0, *map(int, np.searchsorted(one.prefixes, inner)), len(one.prefixes)] for one in sources]
    for number, low in enumerate(lowest):
        prefixes, spots = [np.empty(0, np.uint64)], [np.empty((0, SPOT), np.uint32)]
        for source, cut in zip(sources, cuts, strict=True):
            span = slice(cut[number], cut[number + 1])
            remaining, renumbered = source.renumber(source.spots[span])
            prefixes.append(source.prefixes[span] if remaining is None else source.prefixes[span][remaining])
            spots.append(renumbered)
        together = np.concatenate(prefixes)
        order = np.argsort(together, kind="stable")
        yield _Slice(low, bits, together[order], np.concatenate(spots)[order])


def _buckets(prefixes: Array, lowest: int, slice_bits: int, bits: int) -> Array:
    """Where in a slice each of its buckets begins."""
    begins = (np.arange(2 ** (bits - slice_bits), dtype=np.uint64) << np.uint64(64 - bits)) + np.uint64(lowest)
    return np.searchsorted(prefixes, begins) if bits else np.zeros(1, np.int64)


def _renumbering(keep: Array, shifts: Array) -> Callable[[Array], tuple[Array | None, Array]]:
    whole = bool(keep.all())

    def renumber(spots: Array) -> tuple[Array | None, Array]:
        remaining = None if whole else keep[spots[:, 1]]
        rest = spots if remaining is None else spots[remaining]
        return remaining, (rest + shifts[rest[:, 1]]).astype(np.uint32)

    return renumber


def _stretches(run: Run, keep: Array) -> Iterator[tuple[int, int]]:
    """From which row to which the packs that are kept lie next to one another."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], keep.astype(np.int8), [0]))))
    for start, end in edges.reshape(-1, 2):
        yield int(run.firsts[start]), int(run.firsts[end])


def _read_pieces(file: IO[bytes], lengths: list[int]) -> Iterator[_Sorted]:
    if not any(lengths):
        return
    mapped, at = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), 0
    for length in lengths:
        prefixes = np.frombuffer(mapped, np.uint64, length, at)
        spots = np.frombuffer(mapped, np.uint32, SPOT * length, at + 8 * length)
        yield _Sorted(prefixes, spots.reshape(-1, SPOT))
        at += (8 + 4 * SPOT) * length + 4 * (length % 2)
