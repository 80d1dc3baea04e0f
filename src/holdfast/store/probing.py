"""What a store can do: found out by writing under ``probes/``, since some declare what they do not keep.

Everything that a probe writes is removed again, and what an interrupted one left a day ago as well. Where this writer
may not delete, a few bytes under ``probes/`` stay behind at each probe, and :attr:`Abilities.deletes` says so.
"""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto

from holdfast.clock import Clock
from holdfast.errors import HoldfastError, ObjectExists, ObjectMissing, PermissionRefused
from holdfast.store.port import Store, Traits

PROBES = "probes/"
LARGE_BYTES = 16 << 20
"""A pack."""
_SMALL_BYTES = 10_000
_LEFTOVER_AGE = timedelta(days=1)


class Deletes(Enum):
    GONE = auto()
    """As far as listing and reading tell; older versions may be kept: :attr:`Traits.keeps_versions`."""
    STILL_READ = auto()
    STILL_LISTED = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How long the large object took."""

    size: int
    """Bytes."""
    put_s: float
    get_s: float
    intact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    creates_exclusively: bool
    reads_back: bool
    """What is read whole is what was written."""
    reads_ranges: bool
    """The right bytes came from the middle of an object."""
    replaces: bool | None
    """After a put over it, an object has the new content at once; None: such a put is refused."""
    lists_at_once: bool
    """With the right size; what is not listed at once may be taken for lost."""
    clock_ahead: timedelta | None
    """How much later the store's clock is than ours, as a listing tells; None if it did not list the probe."""
    deletes: Deletes
    large: Transfer
    traits: Traits


def creates_exclusively(store: Store) -> bool:
    """Write one new name twice, with different bytes: a store that keeps its word refuses the second.

    The probe is removed again; where this writer may not delete, a few bytes under ``probes/`` stay behind.
    """
    name = _new_name()
    store.put(name, b"first", if_absent=True)
    try:
        store.put(name, b"second", if_absent=True)
    except ObjectExists:
        return True
    else:
        return False
    finally:
        with contextlib.suppress(HoldfastError):
            store.delete(name)


def probe(store: Store, *, clock: Clock) -> Abilities:
    """Try everything out. Raises what keeps a store from being used at all: it cannot be written, read or listed."""
    name, first = _new_name(), secrets.token_bytes(_SMALL_BYTES)
    before = clock.now()
    store.put(name, first)
    try:
        middle = before + (clock.now() - before) / 2
        ranges = store.get(name, 1000, 2000) == first[1000:3000] and store.get(name, len(first) - 10, 20) == first[-10:]
        whole = store.get(name) == first
        listed = {found.name: found for found in store.list(PROBES)}
        replaces = _replaces(store, name)
        large = _large(store, clock=clock)
        traits = store.traits(name)
        creates = creates_exclusively(store)
    except HoldfastError:
        with contextlib.suppress(HoldfastError):
            store.delete(name)
        raise
    deletes = _delete(store, name)
    mine = listed.get(name)
    if mine is not None and deletes is not Deletes.REFUSED:
        for found in listed.values():
            if found.modified < mine.modified - _LEFTOVER_AGE:
                store.delete(found.name)
    return Abilities(
        creates_exclusively=creates,
        reads_back=whole,
        reads_ranges=ranges,
        replaces=replaces,
        lists_at_once=mine is not None and mine.size == len(first),
        clock_ahead=None if mine is None else mine.modified - middle,
        deletes=deletes,
        large=large,
        traits=traits,
    )


def _replaces(store: Store, name: str) -> bool | None:
    content = secrets.token_bytes(_SMALL_BYTES // 2)
    try:
        store.put(name, content)
    except PermissionRefused:
        return None
    return store.get(name) == content


def _new_name() -> str:
    return f"{PROBES}{secrets.token_hex(16)}"


def _large(store: Store, *, clock: Clock) -> Transfer:
    name, content = _new_name(), secrets.token_bytes(LARGE_BYTES)
    try:
        began = clock.monotonic()
        store.put(name, content)
        put = clock.monotonic()
        intact = store.get(name, 0, len(content)) == content
        return Transfer(size=len(content), put_s=put - began, get_s=clock.monotonic() - put, intact=intact)
    finally:
        with contextlib.suppress(HoldfastError):
            store.delete(name)


def _delete(store: Store, name: str) -> Deletes:
    try:
        store.delete(name)
    except PermissionRefused:
        return Deletes.REFUSED
    try:
        store.get(name)
    except ObjectMissing:
        listed = any(found.name == name for found in store.list(PROBES))
        return Deletes.STILL_LISTED if listed else Deletes.GONE
    return Deletes.STILL_READ
