"""The parts of an index: runs, and what is too new for one; and the state of each pack in them.

What is in a pack never changes; its flags do. Rows and packs have numbers within their segment.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import numpy as np

from holdfast.repository.ids import ID_BYTES
from holdfast.repository.index_cache import StoredRun
from holdfast.repository.objects import ObjectRef
from holdfast.repository.pack_table import Array, PackTable
from holdfast.repository.packing import Directory, Location
from holdfast.repository.runs import ROW_BYTES, part_at


class Flag:
    """Bits of a pack's flags: plain integers, because a look-up has a few microseconds."""

    PRESENT: Final = 1
    """In the listing last taken, with the size that its directory was written for; and one of the next three."""
    NAMED: Final = 2
    """By an index object that is in the store."""
    LEARNED: Final = 4
    """Listed, and named by none."""
    USED: Final = 8
    """By this process: reused from, or put."""
    MARKED: Final = 16
    NOTED: Final = 32
    """A verification found parts of it damaged."""
    TWIN: Final = 64
    """Known in another place too, where its state is kept."""


class Content(Protocol):
    """What is in some packs. Look-ups from any thread."""

    @property
    def packs(self) -> int:
        """How many."""

    @property
    def rows(self) -> int:
        """How many."""

    @property
    def identities(self) -> PackTable: ...

    def find(self, prefix: int, chunk_id: bytes) -> Sequence[int]:
        """Where a chunk is, for the next two; ``prefix`` is the first 8 bytes of its id, as an integer."""

    def pack_of(self, at: int) -> int: ...
    def location(self, pack: int, at: int) -> Location: ...
    def first(self, pack: int) -> int:
        """A pack's first row; for the number after the last: the number of rows."""

    def directory(self, pack: int) -> Directory: ...
    @property
    def lengths(self) -> Array:
        """The rows of each pack."""

    def numbers_of(self, pack: ObjectRef) -> Iterable[int]: ...


class Segment:
    """Flags are read and changed by whoever holds the index's lock."""

    def __init__(self, content: Content, flags: bytearray, *, added: array[float] | None) -> None:
        self.content, self.flags = content, flags
        self.added = added
        """When each pack was put, on the monotonic clock; None: all before this process began."""
        self.find, self.pack_of, self.location = content.find, content.pack_of, content.location

    def states(self) -> Array:
        """The flags, to be read and changed many at once; not to be kept."""
        return np.frombuffer(self.flags, np.uint8)

    def having(self, mask: int, flags: int) -> Array:
        """The numbers of the packs that have, of ``mask``, exactly ``flags``."""
        return np.flatnonzero(np.frombuffer(bytes(self.flags), np.uint8) & mask == flags)

    def there(self) -> Array:
        """The numbers of the packs that are in the store."""
        return self.having(Flag.PRESENT | Flag.TWIN, Flag.PRESENT)

    def show(self, shown: Array) -> Array:
        """Sets which packs are in the store; the numbers of those that are used and are not."""
        states = self.states()
        there = shown & (states & (Flag.NAMED | Flag.LEARNED | Flag.USED) != 0)
        states[:] = np.where(there, states | Flag.PRESENT, states & (255 - Flag.PRESENT))
        return self.having(Flag.PRESENT | Flag.USED | Flag.TWIN, Flag.USED)


class RunSegment(Segment):
    def __init__(self, stored: StoredRun, flags: bytearray, *, added: array[float] | None = None) -> None:
        super().__init__(stored.run, flags, added=added)
        self.stored, self.run = stored, stored.run

    def times(self) -> array[float]:
        return self.added if self.added is not None else array("d", [float("-inf")]) * self.run.packs


class FreshSegment(Segment):
    def __init__(self) -> None:
        self.fresh = Fresh()
        self.times = array("d")
        super().__init__(self.fresh, bytearray(), added=self.times)


class Fresh:
    """Directories of packs that were put a moment ago, in dictionaries."""

    def __init__(self) -> None:
        self.directories: list[Directory] = []
        self._firsts = [0]
        self._places: dict[bytes, int] = {}
        self._more: dict[bytes, list[int]] = {}
        self._numbers: dict[ObjectRef, int] = {}

    @property
    def packs(self) -> int:
        return len(self.directories)

    @property
    def rows(self) -> int:
        return self._firsts[-1]

    @property
    def identities(self) -> PackTable:
        return PackTable.of([one.pack for one in self.directories], [one.size for one in self.directories])

    @property
    def lengths(self) -> Array:
        return np.diff(np.array(self._firsts))

    def add(self, directory: Directory) -> None:
        first, rows = self.rows, directory.rows
        self._numbers[directory.pack] = self.packs
        self.directories.append(directory)
        self._firsts.append(first + len(directory))
        for row in range(len(directory)):
            chunk_id = rows[row * ROW_BYTES : row * ROW_BYTES + ID_BYTES]
            if self._places.setdefault(chunk_id, first + row) != first + row:
                self._more.setdefault(chunk_id, []).append(first + row)

    def find(self, _prefix: int, chunk_id: bytes) -> Sequence[int]:
        row = self._places.get(chunk_id)
        if row is None:
            return ()
        return (row, *self._more.get(chunk_id, ()))

    def pack_of(self, at: int) -> int:
        return bisect_right(self._firsts, at) - 1

    def first(self, pack: int) -> int:
        return self._firsts[pack]

    def location(self, pack: int, at: int) -> Location:
        directory, ordinal = self.directories[pack], at - self._firsts[pack]
        return Location(directory.pack, ordinal, part_at(directory.rows, 0, ordinal))

    def directory(self, pack: int) -> Directory:
        return self.directories[pack]

    def numbers_of(self, pack: ObjectRef) -> Iterable[int]:
        number = self._numbers.get(pack)
        return () if number is None else (number,)


def due_for_merging(rows: Sequence[int]) -> list[int]:
    """Which of several runs, told by their rows, to make one of: few remain, and no entry is copied often.

    From the smallest that has a fitting neighbour: each next one, while it is at most :data:`FACTOR` times all that are
    taken so far.
    """
    taken: list[int] = []
    total = 0
    for number in sorted(range(len(rows)), key=rows.__getitem__):
        if rows[number] > max(FACTOR * total, SMALL) or total + rows[number] > MAX_MERGED:
            if len(taken) > 1:
                break
            taken, total = [], 0
        taken.append(number)
        total += rows[number]
    return sorted(taken) if len(taken) > 1 else []


FACTOR = 3
SMALL = 2**16
MAX_MERGED = 2**32 - 1
