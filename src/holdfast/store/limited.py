"""So many calls and so many bytes at once, and the rest wait their turn.

A call larger than the limit of bytes is let through when it is alone. Listings are not counted: they hold one page at
a time, and a caller that reads objects while it lists would wait for itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.store.port import Bytes, Listed, Store, Traits

_UNKNOWN_BYTES = 32 << 20
"""What a read of a whole object counts as: the repository's largest packs."""


class LimitedStore:
    def __init__(self, inner: Store, *, calls: int = 16, in_flight_bytes: int = 512 << 20) -> None:
        self._inner = inner
        self._free_calls = calls
        self._limit_bytes = in_flight_bytes
        self._busy_bytes = 0
        self._change = threading.Condition()

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        with self._turn(len(data)):
            self._inner.put(name, data, if_absent=if_absent)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        with self._turn(_UNKNOWN_BYTES if length is None else length):
            return self._inner.get(name, start, length)

    def list(self, prefix: str) -> Iterator[Listed]:
        return self._inner.list(prefix)

    def delete(self, name: str) -> None:
        with self._turn(0):
            self._inner.delete(name)

    def exclusive_create(self) -> bool:
        with self._turn(0):
            return self._inner.exclusive_create()

    def traits(self, name: str) -> Traits:
        with self._turn(0):
            return self._inner.traits(name)

    @contextmanager
    def _turn(self, size: int) -> Iterator[None]:
        with self._change:
            self._change.wait_for(lambda: self._has_room(size))
            self._free_calls -= 1
            self._busy_bytes += size
        try:
            yield
        finally:
            with self._change:
                self._free_calls += 1
                self._busy_bytes -= size
                self._change.notify_all()

    def _has_room(self, size: int) -> bool:
        return self._free_calls > 0 and (self._busy_bytes == 0 or self._busy_bytes + size <= self._limit_bytes)
