"""Progress as the operator sees it: a bar at a terminal, a line now and then elsewhere, nothing of it in the result."""

from __future__ import annotations

import threading
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from holdfast.cli import human
from holdfast.clock import Clock, SystemClock
from holdfast.messages import _

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType
    from rich.progress import Progress as RichProgress

    from holdfast.cli.output import Output

LINE_SECONDS = 10.0
"""Between two plain lines of one step."""


class Watched(Protocol):
    """A ``Progress`` that is shown as long as its context is open."""

    def begin(self, what: str, total_bytes: int | None = None) -> None: ...
    def advance(self, nbytes: int) -> None: ...
    def note(self, text: str) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def watched(output: Output, clock: Clock | None = None) -> Watched:
    """The kind of progress that suits ``output``."""
    clock = clock or SystemClock()
    if output.json:
        return EventProgress(output, clock)
    return BarProgress(output) if output.err.isatty() else LineProgress(output, clock)


class LineProgress:
    """A line when a step begins, at most every ten seconds while it goes on, and when it ends."""

    def __init__(self, output: Output, clock: Clock) -> None:
        self._output = output
        self._clock = clock
        self._lock = threading.Lock()
        self._what = ""
        self._total: int | None = None
        self._done = 0
        self._began = self._told = clock.monotonic()

    def begin(self, what: str, total_bytes: int | None = None) -> None:
        with self._lock:
            self._finish()
            self._what, self._total, self._done = what, total_bytes, 0
            self._began = self._told = self._clock.monotonic()
            self._tell("begin", what)

    def advance(self, nbytes: int) -> None:
        with self._lock:
            self._done += nbytes
            now = self._clock.monotonic()
            if now - self._told >= LINE_SECONDS:
                self._told = now
                self._tell("advance", f"{self._what}: {self._so_far(now)}")

    def note(self, text: str) -> None:
        with self._lock:
            self._tell("note", text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            with self._lock:
                self._finish()

    def _finish(self) -> None:
        if self._what and self._done:
            now = self._clock.monotonic()
            text = _("{what}: {size} in {duration}").format(
                what=self._what,
                size=human.size(self._done),
                duration=human.duration(timedelta(seconds=now - self._began)),
            )
            self._tell("end", text)
        self._what = ""

    def _so_far(self, now: float) -> str:
        rate = self._done / max(now - self._began, 1e-9)
        if not self._total:
            return _("{size}, {rate}/s").format(size=human.size(self._done), rate=human.size(round(rate)))
        left = max(self._total - self._done, 0) / max(rate, 1e-9)
        return _("{percent} % of {size}, {rate}/s, {left} left").format(
            percent=min(100 * self._done // self._total, 100),
            size=human.size(self._total),
            rate=human.size(round(rate)),
            left=human.duration(timedelta(seconds=round(left))) if self._done else "?",
        )

    def _tell(self, kind: str, text: str) -> None:  # noqa: ARG002  EventProgress tells more
        self._output.note(text)


class EventProgress(LineProgress):
    """With ``--json``: lines of JSON on standard error, and only if ``--verbose``."""

    def _tell(self, kind: str, text: str) -> None:
        event: dict[str, object] = {"event": kind, "text": text}
        if kind != "note":
            event |= {"step": self._what, "done_bytes": self._done, "total_bytes": self._total}
        self._output.event(event)


class BarProgress:
    """One bar at a terminal, with the rate and the time left; finished steps and notes stay above it."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._lock = threading.Lock()
        self._done = 0
        self._bars = self._new_bars()

    def begin(self, what: str, total_bytes: int | None = None) -> None:
        with self._lock:
            self._done = 0
        for task in self._bars.tasks:
            self._bars.remove_task(task.id)
        self._bars.add_task(what, total=total_bytes)

    def advance(self, nbytes: int) -> None:
        with self._lock:
            self._done += nbytes

    def note(self, text: str) -> None:
        from rich.text import Text

        self._bars.console.print(Text(text))

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def _new_bars(self) -> RichProgress:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        watched = self

        class Bars(Progress):
            def get_renderables(self) -> Iterable[RenderableType]:
                # drawn ten times a second by rich's own thread: the only moments at which the count is looked at
                for task in self.tasks:
                    self.update(task.id, completed=watched._done)
                return super().get_renderables()

        return Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(file=self._output.err),
            transient=True,
        )
