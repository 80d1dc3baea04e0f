"""``holdfast wal``: the receiver, and what PostgreSQL calls."""

from __future__ import annotations

from holdfast.cli.app import App
from holdfast.cli.wal_fetch import register_fetch
from holdfast.cli.wal_push import register_push
from holdfast.cli.wal_receive import register_receive
from holdfast.messages import _


def register(app: App) -> None:
    group = App(name="wal", help=_("Keep the write-ahead log of a source, and bring it to standbys."))
    register_receive(group)
    register_push(group)
    register_fetch(group)
    app.add_typer(group)
