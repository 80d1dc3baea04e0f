"""Code that no signal's handler may cut in two, because half of it leaves a process that nobody knows of."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_CUTTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Inside, the Python handlers of SIGINT, SIGTERM and SIGHUP wait; at the end they run, and may raise.

    The signals themselves are not blocked: a child process would inherit that. Only the main thread runs handlers, so
    in any other this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  the signal module's signature
        waiting.append(number)

    handlers: dict[int, Callable[[int, FrameType | None], object]] = {
        number: handler for number in _CUTTING if callable(handler := signal.getsignal(number))
    }
    try:
        for number in handlers:
            signal.signal(number, remember)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in waiting:
            handlers[number](number, None)
