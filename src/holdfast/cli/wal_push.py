"""``holdfast wal push``: ``archive_command``, where no receiver runs that would take the file (``lean`` asks it first).

The exit code is never above 125: PostgreSQL would end its archiver. Nothing but 0 makes it forget the file.
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.app import App
from holdfast.cli.session import Session
from holdfast.errors import HoldfastError, UsageError
from holdfast.messages import _

if TYPE_CHECKING:
    from holdfast.config import Configuration
    from holdfast.jobs.wal_settings import WalSettings
    from holdfast.repository.repository import Repository
    from holdfast.wiring import Wiring

SourceName = Annotated[
    str | None, typer.Option("--source", metavar="NAME", help=_("The source; else the only one of type postgres."))
]


def register_push(app: App) -> None:
    app.command("push", help=_("Keep one WAL file: archive_command = 'holdfast wal push %p'"))(push)


def push(
    ctx: typer.Context,
    *,
    path: Annotated[str, typer.Argument(metavar="%p", show_default=False)],
    source: SourceName = None,
) -> None:
    from holdfast.clock import SystemClock
    from holdfast.jobs.wal_files import hint_for_path, read_wal_file
    from holdfast.jobs.wal_push import WalPusher

    session = Session.of(ctx)
    if not path:
        raise UsageError(_("the file's path is empty"), hint=hint_for_path())
    file = read_wal_file(Path(path))
    wiring = session.wiring(hurried=True)
    settings = wal_settings(wiring, source)
    if settings.via == "off":
        raise UsageError(
            _("source {name} keeps no WAL").format(name=settings.source),
            hint=_('Set wal = "archive" for it in {path}, or take holdfast out of archive_command.').format(
                path=wiring.configuration.path
            ),
        )
    opened, failure = open_all(wiring, settings.to)
    if opened:
        WalPusher(settings.source, opened, clock=SystemClock(), host=socket.gethostname()).push(file)
    if failure is not None:
        raise failure
    session.output.result({"file": file.name, "repositories": list(opened)}, lambda: None)


def wal_settings(wiring: Wiring, source: str | None) -> WalSettings:
    """How the WAL of ``source``, or of the only source of type postgres, is kept."""
    return wiring.wal(source or _only(wiring.configuration))


def open_all(wiring: Wiring, names: tuple[str, ...]) -> tuple[dict[str, Repository], HoldfastError | None]:
    """The repositories that open, side by side, since each takes a second for its passphrase; and why one does not."""
    opened: dict[str, Repository] = {}
    failures: dict[str, HoldfastError] = {}

    def open_one(name: str) -> None:
        try:
            opened[name] = wiring.repository(name)
        except HoldfastError as error:
            failures[name] = error

    threads = [threading.Thread(target=open_one, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {name: opened[name] for name in names if name in opened}, next(iter(failures.values()), None)


def _only(configuration: Configuration) -> str | None:
    """The source of type postgres, if there is only one; None leaves the question to ``wiring``."""
    known = [name for name, source in configuration.source.items() if source.type == "postgres"]
    return known[0] if len(known) == 1 else None
