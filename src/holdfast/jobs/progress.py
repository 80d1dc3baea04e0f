"""How a job says what it is doing; ``cli`` decides what of it is seen."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    def begin(self, what: str, total_bytes: int | None = None) -> None:
        """A new step, which replaces the former. ``what`` is for people, from the catalogue."""

    def advance(self, nbytes: int) -> None:
        """So many bytes more are done. Called from any thread, and often: it must be cheap."""

    def note(self, text: str) -> None:
        """One line that the operator should see."""


class Silent:
    """Progress that nobody watches."""

    def begin(self, what: str, total_bytes: int | None = None) -> None:
        pass

    def advance(self, nbytes: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass
