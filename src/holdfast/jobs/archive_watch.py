"""The server seen beside the stream, by SQL, every second or so: our slot, whether commits wait for us, whether it
shuts down. A thread of its own, since a server may be slow to answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from holdfast.clock import Clock
from holdfast.errors import HoldfastError
from holdfast.messages import _
from holdfast.postgres.connection import Server
from holdfast.postgres.slot_watch import Observed, SlotWatch, is_shutting_down

POLL_SECONDS = 1.0


class Watch:
    def __init__(self, connection: str, slot: str, *, clock: Clock, changed: Callable[[], None]) -> None:
        self._connection = connection
        self._slot = slot
        self._clock = clock
        self._changed = changed
        self._server: Server | None = None
        self._closed = threading.Event()
        self.observed: Observed | None = None
        """The newest; None while the server does not answer."""
        self.error: HoldfastError | None = None
        """Why it does not."""
        self.suspects = False
        """Whether the server may be waiting for us in order to shut down: then that is asked, too."""
        self.shuts_down = False

    def follow(self, server: Server | None) -> None:
        """Of several hosts, the one that streams."""
        self._server = server
        self.shuts_down = self.suspects = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="slot watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()

    def _run(self) -> None:
        watch: SlotWatch | None = None
        server: Server | None = None
        try:
            while not self._closed.is_set():
                if watch is None or server != self._server:
                    if watch is not None:
                        watch.close()
                    server = self._server
                    watch = SlotWatch(self._connection, self._slot, server=server, clock=self._clock)
                self._look(watch)
                if self.suspects and server is not None and self._server == server:
                    self.shuts_down = is_shutting_down(server)
                self._changed()
                self._closed.wait(POLL_SECONDS)
        finally:
            if watch is not None:
                watch.close()

    def _look(self, watch: SlotWatch) -> None:
        try:
            self.observed, self.error = watch.look(), None
        except HoldfastError as error:
            self.observed, self.error = None, error
        except Exception as error:  # noqa: BLE001  whoever relies on what is seen must know that nothing is
            watch.close()
            text = _("the server cannot be asked: {error}").format(error=f"{type(error).__name__}: {error}")
            self.observed, self.error = None, HoldfastError(text)
