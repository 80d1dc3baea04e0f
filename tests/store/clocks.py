from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta


class TestClock:
    """Time passes only by sleeping on it."""

    __test__ = False

    def __init__(self) -> None:
        self._seconds = 0.0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        return datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        with self._lock:
            return self._seconds

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        with self._lock:
            self._seconds += seconds
