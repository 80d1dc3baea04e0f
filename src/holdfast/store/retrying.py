"""Passing faults are waited out: ``StoreBusy`` is retried, with growing pauses, and nothing else is.

When the time for it is used up, what comes out is ``StoreUnreachable``. A retried ``put(if_absent=True)`` may meet the
object that its own first attempt made, the response to which was lost: it is read back, and if it holds our bytes the
put succeeded. A listing is complete before its first entry is given, so that a fault in the middle starts it again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from holdfast.clock import Clock
from holdfast.errors import Interrupted, ObjectExists, StoreBusy, StoreUnreachable
from holdfast.messages import _
from holdfast.store.failures import Operation, cannot
from holdfast.store.port import Bytes, Listed, Store, Traits

T = TypeVar("T")

_SLICE_S = 0.2
"""How long a pause may go on after a stop is asked for."""


TELL_AFTER = 3
"""Failures of one call in a row: after about a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    budget_s: float = 120.0
    """No attempt begins later than this after the first began …"""
    least_attempts: int = 3
    """… unless there were fewer than these: a large put that timed out may have used up the budget alone."""
    first_pause_s: float = 0.25
    longest_pause_s: float = 20.0


class RetryingStore:
    def __init__(
        self,
        inner: Store,
        *,
        clock: Clock,
        jitter: random.Random,
        patience: Patience | None = None,
        stopped: Callable[[], bool] = lambda: False,
        trying_again: Callable[[StoreBusy], None] = lambda _error: None,
    ) -> None:
        """``stopped`` is asked before each attempt after the first and during pauses; true raises ``Interrupted``.

        ``trying_again`` hears why, from whichever thread, when one call has failed ``TELL_AFTER`` times and goes on.
        """
        self._inner = inner
        self._clock = clock
        self._jitter = jitter
        self._patience = patience or Patience()
        self._stopped = stopped
        self._trying_again = trying_again

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        tried = False

        def attempt() -> None:
            nonlocal tried
            again, tried = tried, True
            try:
                self._inner.put(name, data, if_absent=if_absent)
            except ObjectExists:
                if not again or self._inner.get(name) != memoryview(data).cast("B"):
                    raise

        self._keep_trying(attempt, Operation.PUT, name)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        return self._keep_trying(partial(self._inner.get, name, start, length), Operation.GET, name)

    def list(self, prefix: str) -> Iterator[Listed]:
        yield from self._keep_trying(lambda: [*self._inner.list(prefix)], Operation.LIST, prefix)

    def delete(self, name: str) -> None:
        self._keep_trying(partial(self._inner.delete, name), Operation.DELETE, name)

    def exclusive_create(self) -> bool:
        return self._keep_trying(self._inner.exclusive_create, Operation.PROBE, "")

    def traits(self, name: str) -> Traits:
        return self._keep_trying(partial(self._inner.traits, name), Operation.PROBE, name)

    def _keep_trying(self, attempt: Callable[[], T], operation: Operation, name: str) -> T:
        began = self._clock.monotonic()
        attempts = 0
        while True:
            attempts += 1
            try:
                return attempt()
            except StoreBusy as error:
                pause = self._pause(attempts)
                late = self._clock.monotonic() + pause - began > self._patience.budget_s
                if late and attempts >= self._patience.least_attempts:
                    raise self._gave_up(operation, name, attempts, error) from error
                if attempts >= TELL_AFTER:
                    self._trying_again(error)
            self._wait(pause, operation, name)

    def _pause(self, attempts: int) -> float:
        longest = min(self._patience.longest_pause_s, self._patience.first_pause_s * 2.0 ** min(attempts - 1, 30))
        return longest * (0.5 + 0.5 * self._jitter.random())

    def _wait(self, seconds: float, operation: Operation, name: str) -> None:
        until = self._clock.monotonic() + seconds
        while True:
            if self._stopped():
                raise Interrupted(cannot(operation, name, self.url, _("told to stop")))
            left = until - self._clock.monotonic()
            if left <= 0:
                return
            self._clock.sleep(min(left, _SLICE_S))

    def _gave_up(self, operation: Operation, name: str, attempts: int, last: StoreBusy) -> StoreUnreachable:
        reason = _("gave up after {attempts} attempts; the last: {last}").format(attempts=attempts, last=last)
        return StoreUnreachable(cannot(operation, name, self.url, reason), hint=last.hint)
