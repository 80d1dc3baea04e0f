"""Calls to opendal from any thread, each within a time limit.

opendal's blocking client holds the GIL while a listing fetches its next page, so that a slow server would stop every
thread of ours; it bounds each piece of a download but not the whole, and an interrupt waits for it. Its asynchronous
client does none of this: one event loop, in a thread of its own, serves all object stores of the process.

The process must not fork after the first call (opendal's own threads do not survive it): start others by spawning.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, TypeVarTuple

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_GRACE_S = 5.0
"""How much later than its limit a call ends if the loop itself is stuck."""

_CLOSING_S = 0.5
"""How long connections that are given up at the end may take to be gone."""


class Closing(Protocol):
    """What holds connections that outlive a call."""

    def abort(self) -> None:
        """Gives them all up; called in the loop's thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    base_s: float = 30.0
    """For the answer to begin; a download may not pause for longer either."""
    bytes_per_second: int = 64 << 10
    """The slowest link that is waited for: a call has ``base_s`` and its bytes at this rate."""
    unknown_bytes: int = 64 << 20
    """What a download of unknown size is reckoned as."""

    def for_bytes(self, size: int | None) -> float:
        """Seconds."""
        return self.base_s + (self.unknown_bytes if size is None else size) / self.bytes_per_second


class _Loop(asyncio.SelectorEventLoop):
    """Knows how many threads are about to wake it.

    opendal's threads bring their results by it. One that still has to return when the interpreter ends would end the
    whole process by a signal (SIGABRT), after all was done well.
    """

    waking = 0

    def call_soon_threadsafe(
        self, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.Handle:
        self.waking += 1  # no call in these two lines: so no other thread gets its turn within them
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        finally:
            self.waking -= 1


_lock = threading.Lock()
_running: _Loop | None = None
_going_on: set[asyncio.Task[Any]] = set()
"""The calls that are under way; touched in the loop's thread only."""
_closing: weakref.WeakSet[Closing] = weakref.WeakSet()
"""Touched in the loop's thread only."""


def call(begin: Callable[[], Awaitable[T]], *, limit_s: float) -> T:
    """What ``begin()``, called and awaited in the loop's thread, gives; ``TimeoutError`` after ``limit_s`` seconds.

    Whatever ends the waiting, an interrupt too, cancels the call and closes its connection.
    """
    future = asyncio.run_coroutine_threadsafe(_within(begin, limit_s), _loop())
    try:
        return future.result(limit_s + _GRACE_S)
    except BaseException:
        future.cancel()
        raise


def abort_at_end(closing: Closing) -> None:
    """Before the interpreter ends, ``closing`` gives its connections up, unless it is gone. In the loop's thread."""
    _closing.add(closing)


async def _within(begin: Callable[[], Awaitable[T]], limit_s: float) -> T:
    task = asyncio.current_task()
    assert task is not None
    _going_on.add(task)
    try:
        async with asyncio.timeout(limit_s):
            return await begin()
    finally:
        _going_on.discard(task)


def _loop() -> _Loop:
    global _running  # noqa: PLW0603  one loop serves the process
    with _lock:
        if _running is None:
            _running = _Loop()
            thread = threading.Thread(target=_running.run_forever, name="holdfast-store", daemon=True)
            thread.start()
            atexit.register(_end, _running, thread)
        return _running


def _end(loop: _Loop, thread: threading.Thread) -> None:
    """Before the interpreter ends: no call or task goes on, and nobody else's thread is in our code."""
    with contextlib.suppress(TimeoutError):
        asyncio.run_coroutine_threadsafe(_cancel(), loop).result(_GRACE_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(_GRACE_S)
    until = time.monotonic() + _GRACE_S
    while loop.waking and time.monotonic() < until:
        time.sleep(0.001)
    if not thread.is_alive():
        loop.close()


async def _cancel() -> None:
    calls = [*_going_on]
    for task in calls:
        task.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    for closing in [*_closing]:
        closing.abort()
    await _leave_no_task()


async def _leave_no_task() -> None:
    """A connection's own tasks end with it; what does not is cancelled, or asyncio would complain of it at the end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        _ended, lasting = await asyncio.wait(others, timeout=_CLOSING_S)
        for task in lasting:
            task.cancel()
        if lasting:
            await asyncio.wait(lasting, timeout=_CLOSING_S)
