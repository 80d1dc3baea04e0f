"""What the index is made of, from the store: index objects as they come, and the directory at a pack's end."""

from __future__ import annotations

import contextlib
import ctypes
import queue
from collections.abc import Iterator, Sequence

from holdfast.errors import Damaged
from holdfast.repository.crew import Crew
from holdfast.repository.objects import ObjectRef
from holdfast.repository.packing import Directory, directory_span, read_directory, trailer_span
from holdfast.repository.repository import DEFAULT_WORKERS, Repository
from holdfast.store.port import Listed

_IN_FLIGHT_BYTES = 96 * 2**20
_LARGE_BYTES = 4 * 2**20
_TAIL_BYTES = 16 * 1024
"""Read at once from a pack's end: holds the directory of most packs."""
_POLL_SECONDS = 0.1

Answer = tuple[Listed, bytes | Damaged]


def fetched(repository: Repository, objects: Sequence[Listed]) -> Iterator[Answer]:
    """Whole objects, sealed, in any order, or why one cannot be had; few at a time if they are large.

    What the caller has worked off is really given back: the C library would keep all of it.
    """
    results: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def read(item: Listed) -> None:
        try:
            results.put((item, repository.store.get(item.name)))
        except Damaged as error:
            results.put((item, error))

    workers = max(1, min(DEFAULT_WORKERS, _IN_FLIGHT_BYTES // max(1, *(item.size for item in objects))))
    with Crew(read, workers=workers) as crew:
        waiting = 0
        for item in objects:
            if waiting == workers:
                yield _next(results, crew)
                waiting -= 1
                if item.size >= _LARGE_BYTES:
                    give_back_memory()
            crew.submit(item)
            waiting += 1
        for _left in range(waiting):
            yield _next(results, crew)
    give_back_memory()


def give_back_memory() -> None:
    """What was freed goes back to the system now, not when glibc thinks of it. Elsewhere nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _next(results: queue.SimpleQueue[Answer], crew: Crew[Listed]) -> Answer:
    while True:
        try:
            return results.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            crew.check()


def fetch_directory(repository: Repository, pack: ObjectRef, size: int) -> Directory:
    """Reads a pack's directory from its end, with one request where it is short."""
    tail_start = max(size - _TAIL_BYTES, 0)
    tail = repository.store.get(pack.name, tail_start, size - tail_start)
    trailer_start, trailer_length = trailer_span(size)
    start, length = directory_span(size, tail[trailer_start - tail_start :][:trailer_length])
    sealed = (
        tail[start - tail_start :][:length] if start >= tail_start else repository.store.get(pack.name, start, length)
    )
    return read_directory(repository.master, pack, size, sealed)
