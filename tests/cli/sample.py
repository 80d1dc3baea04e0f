"""Commands that do what commands do: fail in every way, show results, hang, work."""

from __future__ import annotations

import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from holdfast import errors
from holdfast.cli import interruption
from holdfast.cli.app import App
from holdfast.cli.session import Session


def register(app: App) -> None:
    app.command("fail", help="Fails as it is told to.")(fail)
    app.command("show", help="Shows a result.")(show)
    app.command("hang", help="Hangs as it is told to.")(hang)
    app.command("work", help="Works for a while.")(work)
    app.command("where", help="Which configuration.")(where)
    inner = App(name="inner", help="A group.")
    inner.command("show")(show)
    inner.command("fail")(fail)
    app.add_typer(inner)


def fail(kind: str, times: Annotated[int, typer.Option()] = 1) -> None:
    if kind == "defect":
        raise ZeroDivisionError("a defect\nin two lines")
    if kind == "pipe":
        one, two = socket.socketpair()
        two.close()
        with one:
            one.send(b"x")
    if kind == "abort":
        raise typer.Abort
    if kind == "exit":
        raise typer.Exit(3)
    raise getattr(errors, kind)("cannot read packs/ab12 in file:///srv", hint="Run: holdfast check")


def show(ctx: typer.Context, names: Annotated[list[str] | None, typer.Argument()] = None, lines: int = 1) -> None:
    output = Session.of(ctx).output

    def for_people() -> None:
        output.table(["name", "size"], [[name, "1.50 GiB"] for name in names or []] * lines, right=[1])
        output.pairs([("newest proven", "2026-11-22 14:03:22+08:00")])

    output.result(
        {
            "names": names or [],
            "at": datetime(2026, 11, 22, 6, 3, 22, tzinfo=UTC),
            "took": timedelta(minutes=2),
            "path": Path("/srv"),
            "verbose": Session.of(ctx).verbose,
        },
        for_people,
    )


def hang(how: str) -> None:
    release = threading.Event()
    if how == "workers":
        with ThreadPoolExecutor(2) as pool:
            for _number in range(2):
                pool.submit(release.wait)
            say_ready()
            release.wait()
    elif how == "tidy":
        try:
            say_ready()
            release.wait()
        finally:
            print("tidied", flush=True)
    elif how == "stubborn":
        say_ready()
        while True:
            try:
                release.wait()
            except KeyboardInterrupt:
                continue
    elif how == "grace":
        threading.Thread(target=release.wait).start()
        with interruption.grace(60):
            try:
                say_ready()
                release.wait()
            finally:
                time.sleep(1.5)  # longer than without grace
                print("finished", flush=True)


def say_ready() -> None:
    print("ready", flush=True)


def work(ctx: typer.Context) -> None:
    session = Session.of(ctx)
    with session.progress() as progress:
        progress.begin("reading", 1000)
        progress.advance(400)
        progress.note("pg_wal is a link")
        progress.advance(600)
        progress.begin("publishing")
    session.output.result({"done": True}, lambda: session.output.line("done"))


def where(ctx: typer.Context) -> None:
    session = Session.of(ctx)
    configuration = session.configuration()
    session.output.result({"path": configuration.path}, lambda: session.output.line(str(configuration.path)))
    print(sorted(name for name in ("opendal", "psycopg", "cryptography") if name in sys.modules), file=sys.stderr)
