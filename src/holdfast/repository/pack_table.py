"""Packs by the hundred thousand, in arrays: which there are, and which of these are those. 41 bytes a pack.

Ids are random, so the first 8 bytes of them sort and find; equal bytes there are never taken for an equal id,
whatever names somebody put into a store.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.repository.ids import ID_BYTES, ObjectId
from holdfast.repository.objects import PACK_KINDS, ObjectRef

_KINDS = {int(kind): kind for kind in PACK_KINDS}

Array = npt.NDArray[Any]


class PackTable:
    """Packs, numbered from 0: ids (n rows of 32 bytes), kinds, and sizes in bytes."""

    def __init__(self, ids: Array, kinds: Array, sizes: Array) -> None:
        self.ids, self.kinds, self.sizes = ids, kinds, sizes

    @classmethod
    def of(cls, refs: Sequence[ObjectRef], sizes: Sequence[int] | None = None) -> PackTable:
        raw = np.frombuffer(b"".join(ref.id for ref in refs), np.uint8).reshape(-1, ID_BYTES)
        kinds = np.array([ref.kind for ref in refs], np.uint8)
        return cls(raw, kinds, np.array(sizes if sizes is not None else [0] * len(refs), np.uint64))

    @classmethod
    def joined(cls, several: Sequence[PackTable]) -> PackTable:
        if len(several) == 1:
            return several[0]
        nothing = cls.of(())
        ids, kinds, sizes = zip(*((some.ids, some.kinds, some.sizes) for some in (nothing, *several)), strict=True)
        return cls(np.concatenate(ids), np.concatenate(kinds), np.concatenate(sizes))

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, number: int) -> ObjectRef:
        return ObjectRef(_KINDS[int(self.kinds[number])], ObjectId(self.ids[number].tobytes()))

    def refs(self, numbers: Array) -> Iterator[ObjectRef]:
        return (self[int(number)] for number in numbers)

    def numbers(self, pack: ObjectRef) -> Iterator[int]:
        """Where one pack stands: nowhere, once, or more often."""
        key, keys = int.from_bytes(pack.id[:8], "big"), self._sorted_view
        at = bisect_left(keys, key)
        while at < len(keys) and keys[at] == key:
            number = self._order_view[at]
            if self.kinds[number] == pack.kind and self.ids[number].tobytes() == pack.id:
                yield number
            at += 1

    def match(self, wanted: PackTable, *, sized: bool) -> Array:
        """The number here of each of ``wanted``, the lowest if there are several, or -1; ``sized``: of equal size."""
        found = np.full(len(wanted), -1, np.int64)
        (ordered, order), (sought, which) = self._sorted, wanted._sorted
        keys, at, open_ = np.empty_like(sought), np.empty(len(wanted), np.int64), np.arange(len(wanted))
        keys[which], at[which] = sought, np.searchsorted(ordered, sought)  # in order: twenty times as fast
        while len(open_):
            open_ = open_[at[open_] < len(ordered)]
            open_ = open_[ordered[at[open_]] == keys[open_]]
            here = order[at[open_]]
            same = (self.ids[here] == wanted.ids[open_]).all(axis=1) & (self.kinds[here] == wanted.kinds[open_])
            if sized:
                same &= self.sizes[here] == wanted.sizes[open_]
            found[open_[same]] = here[same]
            open_ = open_[~same]
            at[open_] += 1
        return found

    def twins(self) -> dict[int, int]:
        """Packs that stand here more than once with the same size: each number but the lowest, and the lowest."""
        ordered, order = self._sorted
        equal = np.flatnonzero(ordered[1:] == ordered[:-1])
        found: dict[int, int] = {}
        first: dict[tuple[ObjectRef, int], int] = {}
        for number in sorted({int(order[at + more]) for at in equal for more in (0, 1)}):
            other = first.setdefault((self[number], int(self.sizes[number])), number)
            if other != number:
                found[number] = other
        return found

    @cached_property
    def _sorted(self) -> tuple[Array, Array]:
        keys = _keys(self.ids)
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    @cached_property
    def _sorted_view(self) -> memoryview:
        return self._sorted[0].data

    @cached_property
    def _order_view(self) -> memoryview:
        return self._sorted[1].data


def _keys(ids: Array) -> Array:
    """The first 8 bytes of each id, as an integer."""
    return np.ascontiguousarray(ids[:, :8]).view(">u8").ravel().astype(np.uint64)
