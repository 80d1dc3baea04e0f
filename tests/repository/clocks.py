"""Clocks that go when they are told to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class HandClock:
    """``pass_`` lets time go by; ``step`` sets the wall clock alone, as an administrator or NTP does."""

    def __init__(self, now: datetime = datetime(2026, 11, 22, 2, tzinfo=UTC)) -> None:
        self._now = now
        self._ticks = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._ticks

    def sleep(self, seconds: float) -> None:
        self._ticks += seconds  # exactly: who sleeps in slices comes to an end
        self._now += timedelta(seconds=seconds)

    def pass_(self, time: timedelta) -> None:
        self._now += time
        self._ticks += time.total_seconds()

    def step(self, by: timedelta) -> None:
        self._now += by
