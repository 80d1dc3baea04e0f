"""SIGINT, SIGTERM and SIGHUP (a terminal or connection that is gone) end the process within a second, whatever hangs.

The signal raises ``KeyboardInterrupt`` in the main thread, so that ``with`` and ``finally`` do their work; a watcher,
woken by the signal itself, ends the process if that takes longer than it may (the main thread may sit in a library's
network call, or wait for workers that do). A second signal ends it at once.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from holdfast.errors import Interrupted
from holdfast.messages import _

GRACE_SECONDS = 0.8
"""How long an interrupted command may tidy up."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INSISTING = (signal.SIGINT, signal.SIGTERM)
"""As a second signal. A terminal that is gone says so twice, through the kernel and the shell: nobody insists."""

_allowed: list[float] = [GRACE_SECONDS]
_sockets: list[socket.socket] = []
_requested = threading.Event()
_last_words: list[str] = []


def install() -> None:
    """Takes over the signals; from the main thread, once. A SIGHUP that is ignored, as by ``nohup``, stays so."""
    receiving, sending = socket.socketpair()
    sending.setblocking(False)
    _sockets.extend((receiving, sending))
    signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    for number in _ENDING:
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue
        signal.signal(number, _interrupt)
    threading.Thread(target=_watch, args=(receiving,), name="interruption", daemon=True).start()


@contextmanager
def grace(seconds: float) -> Iterator[None]:
    """Inside, an interrupted command may take ``seconds`` to end, for what must not be cut short."""
    _allowed.append(seconds)
    try:
        yield
    finally:
        _allowed.remove(seconds)


@contextmanager
def last_words(text: str) -> Iterator[None]:
    """Inside, ``text`` is what is told when an interrupted command has to be ended before it could tell by itself."""
    _last_words.append(text)
    try:
        yield
    finally:
        _last_words.remove(text)


def requested() -> bool:
    """Whether one of the signals has come: what workers ask that no exception reaches."""
    return _requested.is_set()


def end_now() -> NoReturn:
    """Ends the process without waiting for any thread."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(Interrupted.exit_code)


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  the signal module's signature
    if number == signal.SIGHUP and _requested.is_set():
        return
    _requested.set()
    raise KeyboardInterrupt


def _watch(receiving: socket.socket) -> None:
    _next_of(_ENDING, receiving)
    receiving.settimeout(max(_allowed))
    with suppress(TimeoutError):
        _next_of(_INSISTING, receiving)
    with suppress(OSError):
        told = "\n".join(["", _("holdfast: interrupted"), *_last_words[-1:], ""])
        os.write(2, told.encode("utf-8", "backslashreplace"))  # the streams' own locks may be held by whoever hangs
    os._exit(Interrupted.exit_code)


def _next_of(numbers: Sequence[int], receiving: socket.socket) -> None:
    """Returns when one of these signals has come. Raises ``TimeoutError``."""
    while receiving.recv(1)[0] not in numbers:
        pass
