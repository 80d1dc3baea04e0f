"""What ``archive_command`` brings over the socket, while WAL streams or instead of it."""

from __future__ import annotations

import threading

from holdfast.clock import Clock
from holdfast.errors import TryLater
from holdfast.jobs.archive_lanes import Lanes
from holdfast.jobs.wal_files import wal_file
from holdfast.jobs.wal_push import WalPusher
from holdfast.jobs.wal_settings import WalSettings
from holdfast.messages import _


class Pushing:
    def __init__(self, settings: WalSettings, lanes: Lanes, *, clock: Clock, host: str, begins: bool) -> None:
        """``begins``: whether to record where WAL begins; not while it streams, too."""
        self._settings = settings
        self._lanes = lanes
        self._clock = clock
        self._host = host
        self._begins = begins
        self._lock = threading.Lock()
        self._pusher: WalPusher | None = None

    def push(self, name: str, content: bytes, system_identifier: int) -> None:
        """Returns when the file is durable in every repository. Raises ``TryLater`` while not all are open."""
        file = wal_file(name, content, system_identifier=system_identifier)
        self._opened().push(file)

    def _opened(self) -> WalPusher:
        with self._lock:
            if self._pusher is None:
                repositories = self._lanes.repositories
                absent = [to for to in self._settings.to if to not in repositories]
                if absent:
                    raise TryLater(_("not open yet: {names}").format(names=", ".join(absent)))
                self._pusher = WalPusher(
                    self._settings.source, repositories, clock=self._clock, host=self._host, begins=self._begins
                )
            return self._pusher
