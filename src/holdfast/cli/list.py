"""``holdfast list``: the snapshots of a repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import human
from holdfast.cli.access import (
    Access,
    FromUrl,
    PassphraseFile,
    RecoveryKeyFile,
    RepositoryId,
    RepositoryKey,
    RepositoryName,
    StoreOptions,
)
from holdfast.cli.app import App
from holdfast.cli.session import Session
from holdfast.cli.snapshots import missing_document, snapshot_document, unreadable_document, warn_of_unreadable
from holdfast.errors import Damaged, UsageError
from holdfast.messages import _

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.repository.snapshots import Snapshot


def register(app: App) -> None:
    app.command("list", help=_("The snapshots that there are, oldest first."))(list_snapshots)


def list_snapshots(
    ctx: typer.Context,
    *,
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", show_default=False)] = None,
    repository: RepositoryName = None,
    from_url: FromUrl = None,
    repository_id: RepositoryId = None,
    repository_key: RepositoryKey = None,
    option: StoreOptions = None,
    passphrase_file: PassphraseFile = None,
    recovery_key_file: RecoveryKeyFile = None,
) -> None:
    session = Session.of(ctx)
    opened = Access(
        name=repository,
        url=from_url,
        id=repository_id,
        key=repository_key,
        options=option or (),
        passphrase_file=passphrase_file,
        recovery_key_file=recovery_key_file,
    ).open(session)
    records = opened.repository.records()
    known = {snapshot.source for snapshot in records.snapshots}
    known |= opened.wiring.configuration.source.keys() if opened.wiring else set()
    if source is not None and source not in known and known:
        raise UsageError(
            _("there is no source {name}").format(name=source),
            hint=_("There are: {names}.").format(names=", ".join(sorted(known))),
        )
    shown = [snapshot for snapshot in records.snapshots if source in (None, snapshot.source)]
    session.output.result(
        {
            "repository": opened.repository.url,
            "repository_id": opened.repository.id,
            "repository_key": opened.repository.key_id,
            "snapshots": [snapshot_document(snapshot) for snapshot in shown],
            "unreadable": unreadable_document(records),
            "missing": missing_document(records),
        },
        lambda: _show(session, shown, opened.repository.url),
    )
    warn_of_unreadable(session.output, records)
    if records.problems or records.missing:
        raise typer.Exit(Damaged.exit_code)


def _show(session: Session, snapshots: Sequence[Snapshot], url: str) -> None:
    output = session.output
    if not snapshots:
        output.line(_("No snapshot in {url} yet. Take the first with: holdfast backup").format(url=url))
        return
    rows = [
        (
            snapshot.label,
            snapshot.short_id,
            snapshot.source,
            human.moment(snapshot.started, output.zone),
            human.size(snapshot.totals.content),
            human.size(snapshot.totals.added_stored),
            str(len(snapshot.warnings)) if snapshot.warnings else "",
        )
        for snapshot in snapshots
    ]
    columns = [_("snapshot"), _("id"), _("source"), _("taken"), _("size"), _("added"), _("warnings")]
    output.table(columns, rows, right=[4, 5, 6])
