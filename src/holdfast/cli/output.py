"""The one place that prints. Results go to standard output, everything else to standard error.

With ``--json`` standard output carries exactly one JSON document: keys sorted, times in ISO 8601 with an offset, sizes
in bytes, lengths of time in seconds. Texts for machines are not translated.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from enum import Enum
from pathlib import PurePath
from typing import Any, TextIO

from holdfast.errors import HoldfastError
from holdfast.messages import _


class OutputClosed(Exception):
    """Whoever read standard output has gone away."""


class Output:
    def __init__(self, *, json: bool, verbose: bool, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.json = json
        self.verbose = verbose
        self.zone: tzinfo | None = None
        """In which times are shown; the configuration sets it."""
        self._out = out
        self._err = err

    @property
    def out(self) -> TextIO:
        return self._out or sys.stdout

    @property
    def err(self) -> TextIO:
        return self._err or sys.stderr

    def result(self, document: object, show: Callable[[], None]) -> None:
        """What the command was run for: ``document`` with ``--json``, else what ``show`` prints."""
        if self.json:
            self._write(self.out, as_json(document, self.zone) + "\n")
        else:
            show()

    def line(self, text: str = "") -> None:
        """A line of the result, for people."""
        if not self.json:
            self._write(self.out, text + "\n")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
        """Rows under their columns' titles; ``right`` are the numbers of the columns that align there."""
        if self.json:
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
        for number, title in enumerate(columns):
            table.add_column(Text(title), justify="right" if number in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        self._render(table)

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> None:
        """A label and its value, a line each."""
        if self.json:
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for label, value in pairs:
            table.add_row(Text(label), Text(value))
        self._render(table)

    def help(self, text: str) -> None:
        """Help that was not asked for."""
        self._write(self.err, text + "\n")

    def note(self, text: str) -> None:
        """A line beside the result."""
        self._write(self.err, text + "\n")

    def warning(self, text: str) -> None:
        self._write(self.err, _("holdfast: warning: {text}").format(text=text) + "\n")

    def event(self, document: Mapping[str, object]) -> None:
        """What went on, as a line of JSON on standard error: only with ``--json --verbose``."""
        if self.json and self.verbose:
            self._write(self.err, as_json(document, self.zone, indent=None) + "\n")

    def error(self, error: HoldfastError) -> None:
        """Why the command ends; with ``--json`` as ``{"error": {…}}`` on standard output."""
        if self.json:
            self._write(self.out, as_json({"error": error_document(error)}) + "\n")
            return
        self.failure(error)

    def failure(self, error: HoldfastError) -> None:
        """What failed while the command goes on; its place in the ``--json`` document is the command's business."""
        self.flush()
        self._write(self.err, f"holdfast: {error}\n" + (f"{error.hint}\n" if error.hint else ""))

    def unexpected(self, error: Exception) -> None:
        """An error that is a defect of Holdfast's own: one line, and where the rest is."""
        text = "".join(traceback.format_exception(error))
        summary = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        hint = _("This is a defect of Holdfast. Run the command again with --verbose to see where it arose.")
        if self.verbose:
            self._write(self.err, text)
            hint = _(
                "This is a defect of Holdfast. Please report it with the lines above, less what is secret in them."
            )
        elif place := _kept(text):
            hint = _("This is a defect of Holdfast. Where it arose stands in {path}; please report it.").format(
                path=place
            )
        self.error(HoldfastError(_("unexpected error: {summary}").format(summary=summary), hint=hint))

    def flush(self) -> None:
        self._write(self.out, "")

    def reader_gone(self) -> bool:
        """Whether standard output is a pipe that nobody reads any more."""
        poll = select.poll()
        poll.register(self.out.fileno(), 0)
        return any(found & (select.POLLERR | select.POLLHUP) for _descriptor, found in poll.poll(0))

    def _render(self, renderable: object) -> None:
        from io import StringIO

        from rich.console import Console

        screen = self.out.isatty()
        text = StringIO()
        console = Console(
            file=text, width=None if screen else 1000, force_terminal=screen, no_color="NO_COLOR" in os.environ
        )
        console.print(renderable)
        lines = text.getvalue().split("\n")
        self._write(self.out, "\n".join(line if screen else line.rstrip() for line in lines))

    def _write(self, stream: TextIO, text: str) -> None:
        try:
            stream.write(text)
            stream.flush()
        except BrokenPipeError:
            raise OutputClosed from None


def error_document(error: HoldfastError) -> dict[str, object]:
    return {
        "class": type(error).__name__,
        "exit_code": error.exit_code,
        "hint": error.hint,
        "message": str(error),
    }


def as_json(document: object, zone: tzinfo | None = None, *, indent: int | None = 2) -> str:
    """``document`` as JSON. Values may be value objects, moments, lengths of time, paths, enumerations."""
    return json.dumps(
        document,
        default=lambda value: _plain(value, zone),
        sort_keys=True,
        ensure_ascii=False,
        indent=indent,
        allow_nan=False,
    )


def _plain(value: object, zone: tzinfo | None) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    converted = _CONVERTED.get(type(value))
    if converted is not None:
        return converted(value)
    if isinstance(value, datetime):
        return value.astimezone(zone).isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, PurePath) or type(value).__str__ is not object.__str__:
        return value.value if isinstance(value, Enum) else str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


_CONVERTED: Mapping[type, Callable[[Any], Any]] = {
    timedelta: timedelta.total_seconds,
    set: sorted,
    frozenset: sorted,
    bytes: bytes.hex,
}


def _kept(text: str) -> str:
    """The path of a new file that holds ``text``, or empty where none can be written."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="holdfast-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
            return file.name
    except OSError:
        return ""
