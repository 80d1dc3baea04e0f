"""Calls to opendal from any thread, each within a time limit.

opendal's blocking client holds the GIL while a listing fetches its next page, so that a slow server would stop every
thread of ours; it bounds each piece of a download but not the whole, and an interrupt waits for it. Its asynchronous
client does none of this: one event loop, in a thread of its own, serves all object stores of the process.

The process must not fork after the first call (opendal's own threads do not survive it): start others by spawning.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_GRACE_S = 5.0
"""How much later than its limit a call ends if the loop itself is stuck."""

_lock = threading.Lock()
_running: asyncio.AbstractEventLoop | None = None


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


async def _within(begin: Callable[[], Awaitable[T]], limit_s: float) -> T:
    async with asyncio.timeout(limit_s):
        return await begin()


def _loop() -> asyncio.AbstractEventLoop:
    global _running  # noqa: PLW0603  one loop serves the process
    with _lock:
        if _running is None:
            _running = asyncio.new_event_loop()
            threading.Thread(target=_running.run_forever, name="holdfast-store", daemon=True).start()
        return _running
