"""``holdfast show``: all that is known of one snapshot."""

from __future__ import annotations

from datetime import UTC, datetime
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
from holdfast.cli.snapshots import choose, snapshot_document, told, unreadable_document
from holdfast.messages import _, ngettext

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.cli.output import Output
    from holdfast.postgres.facts import BackupFacts
    from holdfast.repository.snapshots import Snapshot
    from holdfast.repository.trees import StoredEntry


def register(app: App) -> None:
    app.command("show", help=_("All that is known of one snapshot, named by its label or id, or as latest."))(show)


def show(
    ctx: typer.Context,
    *,
    wanted: Annotated[str, typer.Argument(metavar="SNAPSHOT")],
    files: Annotated[bool, typer.Option("--files", help=_("List what it holds."))] = False,
    repository: RepositoryName = None,
    from_url: FromUrl = None,
    repository_id: RepositoryId = None,
    repository_key: RepositoryKey = None,
    option: StoreOptions = None,
    passphrase_file: PassphraseFile = None,
    recovery_key_file: RecoveryKeyFile = None,
) -> None:
    from holdfast.postgres.facts import BackupFacts
    from holdfast.repository.reader import SnapshotReader

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
    snapshot = told(session.output, records, lambda: choose(records, wanted))
    facts = BackupFacts.from_json(snapshot.facts) if snapshot.source_type == "postgres" else None
    entries = list(SnapshotReader(opened.repository).entries(snapshot)) if files else []
    document: dict[str, object] = {
        **snapshot_document(snapshot),
        "facts": snapshot.facts,
        "unreadable": unreadable_document(records),
    }
    if files:
        document["files"] = [_entry_document(stored) for stored in entries]

    def for_people() -> None:
        _show(session.output, snapshot)
        if facts is not None:
            _show_facts(session.output, facts)
        if files:
            _show_files(session.output, entries)

    session.output.result(document, for_people)


def _show(output: Output, snapshot: Snapshot) -> None:
    totals = snapshot.totals
    files = ngettext("{size} in {number} file", "{size} in {number} files", totals.files)
    new = _("{content}, stored as {stored}").format(
        content=human.size(totals.added_content), stored=human.size(totals.added_stored)
    )
    output.pairs(
        [
            (_("snapshot"), snapshot.label),
            (_("id"), snapshot.id),
            (_("source"), snapshot.source),
            (_("started"), human.moment(snapshot.started, output.zone)),
            (_("ended"), human.moment(snapshot.ended, output.zone)),
            (_("taken on"), _("{host}, by Holdfast {version}").format(
                host=snapshot.host, version=snapshot.holdfast_version)),
            (_("holds"), files.format(size=human.size(totals.content), number=totals.files)),
            (_("new"), new),
            *((_("warning"), warning) for warning in snapshot.warnings),
        ]
    )  # fmt: skip


def _show_facts(output: Output, facts: BackupFacts) -> None:
    output.line()
    output.pairs(
        [
            (_("server"), facts.server_version),
            (_("system identifier"), str(facts.system_identifier)),
            (_("timeline"), str(facts.timeline)),
            (_("WAL"), _("from {start} to {stop}").format(start=facts.start_lsn, stop=facts.stop_lsn)),
            (_("taken from"), _("a standby") if facts.from_standby else _("a primary")),
            (_("data checksums"), _("on") if facts.data_checksums else _("off")),
            *((_("bad page"), page) for page in facts.bad_pages),
        ]
    )
    output.line()
    rows = [
        (database.name, str(database.oid), database.encoding, _size(database.size_bytes))
        for database in facts.databases
    ]
    output.table([_("database"), _("oid"), _("encoding"), _("size")], rows, right=[1, 3])
    if facts.tablespaces:
        output.line()
        spaces = [
            (space.name or "?", str(space.oid), space.location, human.size(space.estimated_bytes))
            for space in facts.tablespaces
        ]
        output.table([_("tablespace"), _("oid"), _("folder"), _("size")], spaces, right=[1, 3])
    if facts.configuration:
        output.line()
        how = {"read": _("as it was"), "rebuilt": _("rebuilt"), "impossible": _("not in the snapshot")}
        taken = [
            (file.origin or "?", how.get(file.how, file.how), file.path, file.note) for file in facts.configuration
        ]
        output.table([_("configuration"), _("how"), _("in the snapshot"), _("note")], taken)


def _show_files(output: Output, entries: Sequence[StoredEntry]) -> None:
    output.line()
    rows = []
    for stored in entries:
        entry = stored.entry
        name = f"{entry.path} -> {entry.link_target}" if entry.link_target else entry.path
        rows.append((f"{entry.size}", human.moment(_modified(entry.mtime_ns), output.zone), name))
    output.table([_("bytes"), _("modified"), _("path")], rows, right=[0])


def _entry_document(stored: StoredEntry) -> dict[str, object]:
    entry = stored.entry
    return {
        "path": entry.path,
        "kind": entry.kind,
        "size": entry.size,
        "mode": f"{entry.mode:04o}",
        "modified": _modified(entry.mtime_ns),
        **({"link_target": entry.link_target} if entry.link_target else {}),
    }


def _modified(mtime_ns: int) -> datetime:
    return datetime.fromtimestamp(mtime_ns // 1_000_000_000, UTC)


def _size(nbytes: int | None) -> str:
    return "?" if nbytes is None else human.size(nbytes)
