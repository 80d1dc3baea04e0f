"""The packs that a store lists: told from the names alone, some thousands at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from holdfast.repository.crew import each
from holdfast.repository.ids import ID_BYTES, ObjectId
from holdfast.repository.objects import PACK_KINDS, Kind, ObjectRef, parse_name
from holdfast.repository.pack_table import Array, PackTable
from holdfast.repository.repository import Repository
from holdfast.store.port import Listed

_DIGITS = 2 * ID_BYTES
_BATCH = 4096
"""Names at a time; a remote store that has more is rather asked for many parts of its listing at once."""
_LISTERS = 8


class Listing(PackTable):
    """The packs that a store listed."""

    began: float = 0.0
    """When, on the repository's monotonic clock: what was put before that is in it."""

    def get(self, pack: ObjectRef) -> int | None:
        """A pack's size in bytes, if it is there."""
        return next((int(self.sizes[number]) for number in self.numbers(pack)), None)

    def __contains__(self, pack: object) -> bool:
        return isinstance(pack, ObjectRef) and self.get(pack) is not None

    def __iter__(self) -> Iterator[ObjectRef]:
        return (self[number] for number in range(len(self)))


def list_packs(repository: Repository) -> Listing:
    """Every pack in the store. Who lists index objects too lists them first: a pack is older than its index object."""
    began = repository.clock.monotonic()
    found = PackTable.joined([packs for kind in PACK_KINDS for packs in _list_kind(repository, kind)])
    listing = Listing(found.ids, found.kinds, found.sizes)
    listing.began = began
    return listing


def _list_kind(repository: Repository, kind: Kind) -> Sequence[PackTable]:
    everything = _Gathering(kind)
    local = repository.url.startswith(("file:", "memory:"))
    for listed in _batches(repository.store.list(kind.prefix)):
        if len(listed) == _BATCH and kind is Kind.DATA and not local:
            return _list_parts(repository, kind)
        everything.take(listed)
    return [everything.packs()]


def _batches(listed: Iterator[Listed]) -> Iterator[list[Listed]]:
    while batch := list(islice(listed, _BATCH)):
        yield batch


def _list_parts(repository: Repository, kind: Kind) -> Sequence[PackTable]:
    """Asks for each of the 256 folders by itself: a listing is told page after page, and pages of one don't overlap."""
    found: list[PackTable] = []
    lock = threading.Lock()

    def read(folder: int) -> None:
        some = _Gathering(kind)
        for listed in _batches(repository.store.list(f"{kind.prefix}{folder:02x}/")):
            some.take(listed)
        with lock:
            found.append(some.packs())

    each(read, range(256), workers=_LISTERS)
    return found


class _Gathering:
    """Turns names into ids, some thousands at a time; names that are no pack's are left out."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._found: list[PackTable] = []

    def take(self, listed: Sequence[Listed]) -> None:
        names = [item.name for item in listed]
        ids = _ids(names, self._kind)
        if ids is None:
            refs = [(ref, item.size) for item in listed if (ref := parse_name(item.name)) and ref.kind is self._kind]
            self._found.append(PackTable.of([ref for ref, _size in refs], [size for _ref, size in refs]))
        else:
            kinds = np.full(len(ids), self._kind, np.uint8)
            self._found.append(PackTable(ids, kinds, np.array([item.size for item in listed], np.uint64)))

    def packs(self) -> PackTable:
        return PackTable.joined(self._found)


def _ids(names: Sequence[str], kind: Kind) -> Array | None:
    """The ids of all ``names``; None if any of them is not exactly as Holdfast writes it."""
    example = ObjectRef(kind, ObjectId(bytes(ID_BYTES))).name
    if set(map(len, names)) != {len(example)}:
        return None
    letters = np.frombuffer("".join(names).encode("ascii", "replace"), np.uint8).reshape(len(names), len(example))
    digits = np.ascontiguousarray(letters[:, -_DIGITS:])
    try:
        raw = bytes.fromhex(digits.tobytes().decode())
    except ValueError:
        return None
    spelt = np.tile(np.frombuffer(example.encode(), np.uint8), (len(names), 1))
    spelt[:, -_DIGITS:] = np.frombuffer(raw.hex().encode(), np.uint8).reshape(digits.shape)
    if kind is Kind.DATA:
        folder = len(kind.prefix)
        spelt[:, folder : folder + 2] = digits[:, :2]
    return np.frombuffer(raw, np.uint8).reshape(-1, ID_BYTES) if np.array_equal(letters, spelt) else None
