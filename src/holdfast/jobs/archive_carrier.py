"""Threads that carry work to one repository and try again for ever: a store that is away stops nobody else.

Work is taken in order of urgency and goes on side by side; only what is *first* is done before anything else begins.
A hanging call keeps nobody from leaving: the threads are daemons.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum

from holdfast.clock import Clock
from holdfast.errors import HoldfastError, Interrupted, NotReachable, TryLater

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 10.0
"""Seconds between two attempts; the store's own retries come before."""


class Urgency(IntEnum):
    FIRST = 0
    """It begins when nothing else is under way, and nothing else begins until it is done."""
    DATA = 1
    TIDYING = 2
    """Merging, removing, summaries: after everything that makes WAL durable, and one at a time: whatever comes then
    finds somebody free."""


@dataclass(order=True)
class _Task:
    urgency: Urgency
    number: int
    work: Callable[[], object] = field(compare=False)
    abandoned: bool = field(compare=False, default=False)


class Carrier:
    def __init__(
        self,
        name: str,
        *,
        workers: int,
        clock: Clock,
        changed: Callable[[], None],
        is_fatal: Callable[[HoldfastError], bool],
    ) -> None:
        """``changed`` is called, from a worker, whenever something was done or went wrong. ``is_fatal``: trying again
        is of no use."""
        self._clock = clock
        self._changed = changed
        self._is_fatal = is_fatal
        self._waiting: list[_Task] = []
        self._working: set[int] = set()
        self._numbers: dict[int, _Task] = {}
        self._count = 0
        self._condition = threading.Condition()
        self._closed = False
        self.error: HoldfastError | None = None
        """Why nothing gets there at the moment; None: it does."""
        self.since: datetime | None = None
        self.fatal: BaseException | None = None
        """What ended a worker: to be raised by whoever supervises."""
        for number in range(workers):
            threading.Thread(target=self._run, name=f"{name} {number}", daemon=True).start()

    def give(self, work: Callable[[], object], urgency: Urgency = Urgency.DATA) -> None:
        with self._condition:
            if self._closed:
                return
            self._count += 1
            task = _Task(urgency, self._count, work)
            heapq.heappush(self._waiting, task)
            self._condition.notify_all()

    @property
    def outstanding(self) -> int:
        """How much is not done yet."""
        with self._condition:
            return len(self._waiting) + len(self._working)

    @property
    def is_busy(self) -> bool:
        """Whether a call is under way."""
        with self._condition:
            return bool(self._working)

    def abandon(self) -> None:
        """Nothing that is waiting will be done; what is under way is not tried again."""
        with self._condition:
            self._waiting.clear()
            for number in self._working:
                self._numbers[number].abandoned = True
            self._condition.notify_all()

    def close(self) -> None:
        with self._condition:
            self._closed = True
        self.abandon()

    def trouble(self, error: HoldfastError) -> None:
        """Something went wrong, and is tried again: also told by the store itself, while it tries."""
        with self._condition:
            if self.error is None:
                self.since = self._clock.now()
            self.error = error
        self._changed()

    def _well(self) -> None:
        with self._condition:
            if self.error is not None:
                self.error = self.since = None
                self._condition.notify_all()  # whoever pauses need not wait longer

    def _run(self) -> None:
        while (task := self._next()) is not None:
            try:
                self._persist(task)
            except BaseException as error:  # noqa: BLE001  handed to whoever supervises
                self.fatal = self.fatal or error
            with self._condition:
                self._working.discard(task.number)
                del self._numbers[task.number]
                self._condition.notify_all()
            self._changed()

    def _next(self) -> _Task | None:
        """The most urgent task, when it may begin. None: closed."""
        with self._condition:
            while True:
                if self._closed:
                    return None
                if self._waiting and self._may_begin(self._waiting[0]):
                    task = heapq.heappop(self._waiting)
                    self._working.add(task.number)
                    self._numbers[task.number] = task
                    return task
                self._condition.wait()

    def _may_begin(self, task: _Task) -> bool:
        if task.urgency is Urgency.FIRST:
            return not self._working
        urgencies = {self._numbers[number].urgency for number in self._working}
        if task.urgency is Urgency.TIDYING and Urgency.TIDYING in urgencies:
            return False
        return Urgency.FIRST not in urgencies

    def _persist(self, task: _Task) -> None:
        pause = FIRST_PAUSE
        while not task.abandoned:
            try:
                task.work()
            except Interrupted:
                return
            except HoldfastError as error:
                if task.urgency is Urgency.TIDYING:
                    if not isinstance(error, NotReachable | TryLater):
                        return  # what is not tidied up costs space, and nothing else
                elif self._is_fatal(error):
                    raise
                else:
                    self.trouble(error)
            else:
                if task.urgency is not Urgency.TIDYING:
                    self._well()
                return
            self._pause(task, pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _pause(self, task: _Task, seconds: float) -> None:
        """Shorter when what was in the way has passed for somebody else."""
        was_away = self.error is not None
        with self._condition:
            self._condition.wait_for(lambda: task.abandoned or (was_away and self.error is None), seconds)
