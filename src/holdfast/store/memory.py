"""A store that forgets: a dictionary behind the port, for tests of what stands above it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime

from holdfast.clock import Clock
from holdfast.store.failures import exists, missing
from holdfast.store.names import check_name, check_prefix, check_range
from holdfast.store.port import Bytes, Listed, Traits
from holdfast.store.probing import creates_exclusively


class MemoryStore:
    def __init__(self, *, clock: Clock, name: str = "test") -> None:
        self._clock = clock
        self._url = f"memory://{name}"
        self._objects: dict[str, tuple[bytes, datetime]] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self._url

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        check_name(name)
        content = bytes(data)
        with self._lock:
            there = self._objects.get(name)
            if if_absent and there is not None:
                if there[0] == content:
                    return
                raise exists(name, self._url)
            self._objects[name] = (content, self._clock.now())

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        check_name(name)
        check_range(start, length)
        with self._lock:
            there = self._objects.get(name)
        if there is None:
            raise missing(name, self._url)
        return there[0][start : None if length is None else start + length]

    def list(self, prefix: str) -> Iterator[Listed]:
        check_prefix(prefix)
        with self._lock:
            found = [
                Listed(name=name, size=len(content), modified=modified)
                for name, (content, modified) in self._objects.items()
                if name.startswith(prefix)
            ]
        yield from found

    def delete(self, name: str) -> None:
        check_name(name)
        with self._lock:
            self._objects.pop(name, None)

    def exclusive_create(self) -> bool:
        return creates_exclusively(self)

    def traits(self, name: str) -> Traits:
        check_name(name)
        return Traits(syncs=False, ranges=True, keeps_versions=False)
