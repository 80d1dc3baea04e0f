"""A crew: threads that take items from one bounded queue and work each through to the end.

The first failure stops all of them and is raised in the thread that feeds. The feeding thread only ever waits where a
signal can interrupt it; the workers are daemons, so that a call hanging in a store keeps nobody from leaving.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.1


class Crew(Generic[T]):
    """``with Crew(work, workers=4) as crew: crew.submit(item)``; leaving the scope waits until all is done.

    Leaving it by an exception stops the workers after their present item and waits for none of them.
    """

    def __init__(self, work: Callable[[T], None], *, workers: int, waiting: int | None = None) -> None:
        self._work = work
        self._items: queue.Queue[T] = queue.Queue(waiting or workers)
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        for _number in range(workers):
            threading.Thread(target=self._run, daemon=True).start()

    def submit(self, item: T) -> None:
        while True:
            self.check()
            try:
                return self._items.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue

    def check(self) -> None:
        """Raises what a worker raised."""
        if self._failure is not None:
            self._stop.set()
            raise self._failure

    def finish(self) -> None:
        """Waits until every item is worked off."""
        with self._items.all_tasks_done:
            while self._items.unfinished_tasks and self._failure is None:
                self._items.all_tasks_done.wait(_POLL_SECONDS)
        self.check()

    @property
    def stopped(self) -> bool:
        """For a long item: whether to give up in the middle."""
        return self._stop.is_set()

    def stop(self) -> None:
        self._stop.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.stop()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                item = self._items.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            try:
                if self._failure is None:
                    self._work(item)
            except BaseException as error:  # noqa: BLE001  handed to the feeding thread, which raises it
                self._failure = self._failure or error
            finally:
                self._items.task_done()


def each(work: Callable[[T], None], items: Iterable[T], *, workers: int) -> None:
    """Works all ``items`` off with a crew."""
    with Crew(work, workers=workers) as crew:
        for item in items:
            crew.submit(item)
