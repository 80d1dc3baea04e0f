"""A descriptor by which other threads wake the one that waits for the server."""

from __future__ import annotations

import os
import select
from contextlib import suppress


class Waking:
    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    @property
    def descriptor(self) -> int:
        """It can be read when somebody has woken us."""
        return self._read

    def wake(self) -> None:
        """From any thread; cheap, and nothing happens twice."""
        with suppress(BlockingIOError, OSError):  # full: it will be read; closed: nobody waits any more
            os.write(self._write, b"\0")

    def clear(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass

    def wait(self, seconds: float) -> None:
        """Until somebody wakes us, at most that long."""
        poller = select.poll()
        poller.register(self._read, select.POLLIN)
        poller.poll(max(0.0, seconds) * 1000)
        self.clear()
