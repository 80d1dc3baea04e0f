"""``holdfast wal fetch``: ``restore_command`` of a standby, where no feeder runs that has the file (``lean`` asks it).

Exit codes are those that PostgreSQL understands: 0 the file is there, whole; 64 it is not held; 126 neither may be
believed (:func:`holdfast.cli.lean.fetch_code`). A file that could be fetched leaves a feeder behind, for the next ones.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import lean
from holdfast.cli.app import App
from holdfast.cli.session import Session
from holdfast.cli.wal_push import SourceName, wal_settings
from holdfast.errors import HoldfastError, UsageError
from holdfast.messages import _

if TYPE_CHECKING:
    from holdfast.jobs.wal_fetch import WalFetcher
    from holdfast.jobs.wal_settings import WalSettings
    from holdfast.wiring import Wiring


def register_fetch(app: App) -> None:
    app.command("fetch", help=_("Bring one WAL file to a standby: restore_command = 'holdfast wal fetch %f %p'"))(fetch)


def fetch(
    ctx: typer.Context,
    *,
    name: Annotated[str | None, typer.Argument(metavar="%f", show_default=False)] = None,
    path: Annotated[str | None, typer.Argument(metavar="%p", show_default=False)] = None,
    source: SourceName = None,
    feed: Annotated[bool, typer.Option("--feed", hidden=True)] = False,
) -> None:
    session = Session.of(ctx)
    if feed:
        _feed(session, source)
    if not name or not path:
        raise UsageError(
            _("which file, and where to?"),
            hint=_("Set restore_command to: {command}").format(command="holdfast wal fetch %f %p"),
        )
    wiring = session.wiring(hurried=True)
    settings = wal_settings(wiring, source)
    if not _bring(_fetcher(wiring, settings), name, Path(path)):
        _leave_feeder(settings, wiring.configuration.path)
        raise typer.Exit(lean.NOT_HELD)
    _leave_feeder(settings, wiring.configuration.path)
    session.output.result({"file": name}, lambda: None)


def _fetcher(wiring: Wiring, settings: WalSettings) -> WalFetcher:
    from holdfast.jobs.wal_fetch import WalFetcher

    return WalFetcher(settings.source, settings.to, wiring.repository, clock=wiring.clock)


def _bring(fetcher: WalFetcher, name: str, path: Path) -> bool:
    """Whether the file is at ``path`` now, under that name only when it is whole."""
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(
            _("{path} is not the path of a file in a folder that is there").format(path=path),
            hint=_("Set restore_command to: {command}").format(command="holdfast wal fetch %f %p"),
        )
    for left in path.parent.glob(f"{path.name}.holdfast.*"):  # of one that was ended
        with suppress(OSError):
            left.unlink()
    beside = path.with_name(f"{path.name}.holdfast.{os.getpid()}")
    owner = lean.control_system(".")
    size = fetcher.fetch(name, beside, system_identifier=owner, ending=not lean.is_standby())
    if size is None:
        return False
    try:
        beside.rename(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise HoldfastError(_("cannot write {path}: {reason}").format(path=path, reason=error.strerror)) from None
    return True


def _leave_feeder(settings: WalSettings, configuration: Path) -> None:
    """Starts a process of its own that fetches what will be asked for next; nothing is said where it cannot.

    Not for root, whose files the server's user could not use. It must not keep what the server has open, nor ever be
    waited for: a server that is a container's first process would take its death for that of one of its own.
    """
    if os.geteuid() == 0:
        return
    arguments = ["--config", str(configuration), "wal", "fetch", "--feed", "--source", settings.source]
    with suppress(OSError):
        subprocess.Popen(
            [sys.executable, "-m", "holdfast", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )


def _feed(session: Session, source: str | None) -> None:
    """The feeder's process. It ends with 0, whatever comes."""
    from holdfast.jobs.wal_feeder import Feeder

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os._exit(0))
    try:
        wiring = session.wiring(hurried=True)
        settings = wal_settings(wiring, source)
        Feeder(_fetcher(wiring, settings), settings.state_dir / "spool" / settings.source, clock=wiring.clock).serve()
    finally:
        os._exit(0)
