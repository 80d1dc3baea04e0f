"""What is durable in every repository, contiguously: what may be confirmed to the server. Pure, not thread-safe.

One :class:`Durable` speaks of one timeline: on the next one the same positions are other bytes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from holdfast.postgres.lsn import Lsn


class Durable:
    def __init__(self, repositories: Iterable[str], *, start: Lsn, floor: Lsn | None = None) -> None:
        """``start``: everything before it is durable, or not wanted. ``floor``: what was confirmed on the timeline
        before, where this one begins at an earlier ``start``: a server is never told less than it was told."""
        self._floor = start if floor is None else floor
        self._start = start
        self._ends: dict[str, int] = dict.fromkeys(repositories, start)
        self._apart: dict[str, list[tuple[int, int]]] = {name: [] for name in self._ends}
        """What does not join yet, as heaps."""

    def add(self, repository: str, start: Lsn, stop: Lsn) -> None:
        """``[start, stop)`` is durable there now; in any order, overlapping or not."""
        apart, end = self._apart[repository], self._ends[repository]
        if start > end:
            if stop > start:
                heapq.heappush(apart, (start, stop))
            return
        end = max(end, stop)
        while apart and apart[0][0] <= end:
            end = max(end, heapq.heappop(apart)[1])
        self._ends[repository] = end

    @property
    def confirmed(self) -> Lsn:
        """The end of what is durable in all of them without a hole, from ``start``; never less than ``floor``."""
        return Lsn(max(self._floor, min(self._ends.values(), default=self._start)))

    def of(self, repository: str) -> Lsn:
        """The end of what is durable there without a hole, from ``start``."""
        return Lsn(self._ends[repository])
