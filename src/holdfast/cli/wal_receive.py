"""``holdfast wal receive``: the receiver in the foreground, until it is stopped."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import interruption
from holdfast.cli.app import App
from holdfast.cli.output import as_json
from holdfast.cli.session import Session
from holdfast.errors import DONE_WITH_WARNINGS, Interrupted, UsageError
from holdfast.messages import _

if TYPE_CHECKING:
    from types import FrameType

    from holdfast.jobs.archive_events import Event
    from holdfast.jobs.archive_lane import Trouble
    from holdfast.jobs.wal_settings import WalSettings
    from holdfast.repository.repository import Repository
    from holdfast.wiring import Wiring

STOP_SECONDS = 10.0
"""For what has come and is not durable yet."""
_LEAVING_SECONDS = 3.0


def register_receive(app: App) -> None:
    app.command(
        "receive",
        help=_("Receive the WAL of SOURCE and keep it, until stopped; the only source's without SOURCE."),
    )(receive)


def receive(
    ctx: typer.Context,
    *,
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", show_default=False)] = None,
    adopt: Annotated[
        int | None,
        typer.Option(
            "--adopt",
            metavar="SYSTEM_IDENTIFIER",
            help=_("Another cluster took the place of the one before: protect this one from now on."),
        ),
    ] = None,
    no_snapshot: Annotated[
        bool, typer.Option("--no-snapshot", help=_("Take no snapshot after a gap, nor a first one."))
    ] = False,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help=_("End when everything is kept that the server has now."))
    ] = False,
) -> None:
    session = Session.of(ctx)
    wiring = session.wiring(hurried=True)
    settings = wiring.wal(source)
    if settings.via == "off":
        raise UsageError(
            _("source {name} keeps no WAL").format(name=settings.source),
            hint=_('Set wal = "stream" for it in {path}.').format(path=wiring.configuration.path),
        )
    from holdfast.jobs.archive import Options
    from holdfast.jobs.archive_serving import serve

    job = serve(
        settings,
        _opener(wiring),
        clock=wiring.clock,
        host=socket.gethostname(),
        listener=_Lines(session, wiring),
        snapshot=None if no_snapshot else _snapshot_command(wiring, settings),
        options=Options(adopt=adopt, until_caught_up=until_caught_up, shutdown_seconds=STOP_SECONDS),
    )
    with interruption.grace(STOP_SECONDS + 2 * _LEAVING_SECONDS):
        number = _run(job.run, job.stop)
    if number is None and job.warnings:
        raise typer.Exit(DONE_WITH_WARNINGS)
    if number not in (None, signal.SIGTERM):
        raise typer.Exit(Interrupted.exit_code)


def _opener(wiring: Wiring) -> Callable[[str, Trouble], Repository]:
    def open_repository(name: str, trouble: Trouble) -> Repository:
        return replace(wiring, trying_again=trouble).repository(name)

    return open_repository


def _snapshot_command(wiring: Wiring, settings: WalSettings) -> Callable[[str], list[str | Path]]:
    def command(repository: str) -> list[str | Path]:
        program: list[str | Path] = [sys.executable, "-m", "holdfast", "--config", wiring.configuration.path]
        return [*program, "backup", settings.source, "--repository", repository]

    return command


class _Lines:
    """Each event a line on standard error; with ``--json`` a document."""

    def __init__(self, session: Session, wiring: Wiring) -> None:
        self._session = session
        self._zone = wiring.zone
        self._lock = threading.Lock()

    def heard(self, event: Event) -> None:
        output = self._session.output
        with self._lock:
            if self._session.json:
                output.note(as_json(event, self._zone, indent=None))
                return
            marks = {"info": "{text}", "warning": _("WARNING: {text}"), "alarm": _("ALARM: {text}")}
            text = marks[event.weight.value].format(text=event.text)
            output.note(f"{event.when.astimezone(self._zone):%Y-%m-%d %H:%M:%S} {text}")
            if event.hint:
                output.note(f"{'':20}{event.hint}")


def _run(run: Callable[[], None], stop: Callable[[], None]) -> int | None:
    """Runs a job in a thread of its own, so that nothing that hangs keeps a signal from being heeded.

    The signal that stopped it; None: it ended by itself. Raises what it raises."""
    failure: list[BaseException] = []
    over = threading.Event()

    def work() -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001  raised below, in the main thread
            failure.append(error)
        finally:
            over.set()

    with _signals() as told:
        threading.Thread(target=work, name="receiver", daemon=True).start()
        while not over.wait(0.2) and not told:
            pass
        if told:
            stop()
            over.wait(STOP_SECONDS + _LEAVING_SECONDS)
    if failure:
        raise failure[0]
    if not over.is_set():
        sys.stderr.flush()
        os._exit(0 if told and told[0] == signal.SIGTERM else Interrupted.exit_code)
    return told[0] if told else None


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Inside, a signal to end is noted instead of raised: what has come is made durable first."""
    told: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  the signal module's signature
        told.append(number)

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] != signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
