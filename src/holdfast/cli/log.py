"""``holdfast log``: who removed what, and the moment to go back to."""

from __future__ import annotations

import shlex
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Annotated

import typer

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
from holdfast.errors import HoldfastError, UsageError
from holdfast.messages import _, ngettext

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.cli.output import Output
    from holdfast.cli.restore_sources import Sources
    from holdfast.jobs.log import Entry, Log, Names, Shown, Wanted
    from holdfast.jobs.recovery_inputs import RecoveryInputs

_MOST = 1000


def register(app: App) -> None:
    app.command("log", help=_("Who removed or changed what, from the WAL held, and the moment to go back to."))(log)


def log(
    ctx: typer.Context,
    *,
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", show_default=False)] = None,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help=_("From this time on: 14:03, 2026-11-22 14:03, 1 hour ago."))
    ] = "1 hour ago",
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help=_("Up to this time; else to the newest WAL."))
    ] = None,
    table: Annotated[
        str | None,
        typer.Option("--table", metavar="NAME", help=_("Only this table: name, schema.name, or numbers as shown.")),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind", metavar="KINDS", help=_("Only these, with commas: insert, update, delete, truncate, drop.")
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help=_("The newest so many transactions."))] = _MOST,
    repository: RepositoryName = None,
    from_url: FromUrl = None,
    repository_id: RepositoryId = None,
    repository_key: RepositoryKey = None,
    option: StoreOptions = None,
    passphrase_file: PassphraseFile = None,
    recovery_key_file: RecoveryKeyFile = None,
) -> None:
    session = Session.of(ctx)
    access = Access(
        name=repository,
        url=from_url,
        id=repository_id,
        key=repository_key,
        options=option or (),
        passphrase_file=passphrase_file,
        recovery_key_file=recovery_key_file,
    )
    wanted = _wanted(session, access, since=since, until=until, table=table, kind=kind, limit=limit)
    name, found = _read(session, access, source, wanted)
    session.output.result(_document(name, found), lambda: _show(session.output, name, found))
    for note in found.notes:
        session.output.warning(note)


def _wanted(
    session: Session,
    access: Access,
    *,
    since: str,
    until: str | None,
    table: str | None,
    kind: str | None,
    limit: int,
) -> Wanted:
    """Raises ``UsageError`` before anything is opened."""
    from holdfast.clock import SystemClock
    from holdfast.jobs.log import Wanted
    from holdfast.postgres.walchanges import ChangeKind

    now = SystemClock().now()
    zone = _zone(session, access, now)
    session.output.zone = session.output.zone or zone
    names = [word.strip() for word in kind.split(",")] if kind is not None else list(ChangeKind)
    if unknown := [word for word in names if word not in list(ChangeKind)]:
        raise UsageError(
            _("there is no kind of change {name!r}").format(name=unknown[0]),
            hint=_("The kinds are: {names}.").format(names=", ".join(ChangeKind)),
        )
    return Wanted(
        since=_time("--since", since, now, zone),
        until=None if until is None else _time("--until", until, now, zone),
        table=table,
        kinds=frozenset(map(ChangeKind, names)),
        limit=limit,
    )


def _zone(session: Session, access: Access, now: datetime) -> tzinfo:
    """The configured one, else the machine's own."""
    from holdfast.config import read_configuration

    path = session.find_configuration() if access.url is None else None
    configured = read_configuration(path).zone if path is not None else None
    zone = configured or now.astimezone().tzinfo
    assert zone is not None
    return zone


def _time(option: str, text: str, now: datetime, zone: tzinfo) -> datetime:
    from holdfast.policy.targets import parse_target

    refused = UsageError(
        _("{option} takes a time, not {text!r}").format(option=option, text=text),
        hint=_("Write it as 14:03, 2026-11-22 14:03:22 or 10 minutes ago."),
    )
    try:
        time = parse_target(text, now=now, zone=zone).time
    except UsageError as error:
        if "lsn:" in error.hint:  # the forms of a target, most of which are no times
            raise refused from None
        raise
    if time is None:
        raise refused
    return time


def _read(session: Session, access: Access, source: str | None, wanted: Wanted) -> tuple[str, Log]:
    from holdfast.cli.restore_sources import open_sources
    from holdfast.jobs.log import newest_server, read_log

    sources = open_sources(session, access)
    inputs = _inputs(session, sources, source)
    server = newest_server(inputs)
    names = _names(sources, inputs.source, server.identifier)
    with session.progress() as progress:
        return inputs.source, read_log(inputs, server, names, wanted, progress)


def _inputs(session: Session, sources: Sources, source: str | None) -> RecoveryInputs:
    from holdfast.jobs.recovery_inputs import gather, source_named
    from holdfast.repository.wal.reading import WalReader

    records = {name: repository.records() for name, repository in sources.repositories.items()}
    readers = {name: WalReader(repository) for name, repository in sources.repositories.items()}
    name = source_named(
        records.values(),
        (stream for reader in readers.values() for stream in reader.streams()),
        source,
        command="holdfast log {source}",
    )
    if not name and sources.wiring is not None:
        name = sources.wiring.source_name(None)
    if not name:
        raise UsageError(
            _("no WAL is held here yet"), hint=_("WAL is kept by: {command}").format(command="holdfast wal receive")
        )
    inputs = gather(name, sources.repositories, records, warnings=sources.warnings, readers=readers)
    for warning in inputs.warnings:
        session.output.warning(warning)
    return inputs


def _names(sources: Sources, source: str, system_identifier: int) -> Names:
    """Asks the source's server; on a bare machine nobody."""
    from holdfast.jobs.log import Nameless
    from holdfast.postgres.relations import RelationNames

    if sources.wiring is None:
        return Nameless(why=_("no server is configured here"))
    try:
        connection = sources.wiring.postgres(source).connection
    except HoldfastError as error:
        return Nameless(why=str(error))
    return RelationNames(connection, system_identifier=system_identifier)


def _document(source: str, found: Log) -> Mapping[str, object]:
    return {
        "source": source,
        "transactions": [
            {
                "xid": entry.xid,
                "time": entry.time,
                "lsn": str(entry.lsn),
                "timeline": entry.timeline,
                "complete": entry.is_whole,
                "changes": [
                    {
                        "kind": change.kind,
                        "rows": change.rows,
                        "relation": change.relation,
                        "named": change.is_named,
                        "database": change.database,
                        "may_be_rewrite": change.may_be_rewrite,
                        "files": change.files,
                    }
                    for change in entry.changes
                ],
                "restore": _command(source, entry) if entry.is_reachable else None,
            }
            for entry in found.entries
        ],
        "left_out": found.left_out,
        "start": None if found.start is None else str(found.start),
        "stop": None if found.stop is None else str(found.stop),
        "notes": list(found.notes),
    }


def _command(source: str, entry: Entry) -> str:
    return shlex.join(["holdfast", "restore", source, "--to", "DIR", "--at", f"lsn:{entry.lsn}", "--exclusive"])


def _show(output: Output, source: str, found: Log) -> None:
    if not found.entries:
        output.line(_("No transaction that was asked for lies in the WAL held."))
        return
    if found.left_out:
        output.line(
            _("{number} older transactions are left out; show more with --limit.").format(number=found.left_out)
        )
    for entry in found.entries:
        time = entry.time.astimezone(output.zone).isoformat(sep=" ", timespec="milliseconds")
        for number, change in enumerate(entry.changes):
            head = f"{time}  xid {entry.xid}" if not number else " " * len(f"{time}  xid {entry.xid}")
            output.line(f"{head}  {_text(change)}")
        if not entry.is_whole:
            output.line("    " + _("It may have changed more: it began before the WAL that was read."))
        if entry.is_reachable:
            output.line("    " + _("just before it: {command}").format(command=_command(source, entry)))
        else:
            output.line("    " + _("There is no snapshot from which WAL leads to just before it without a gap."))


def _text(change: Shown) -> str:
    relation = change.relation if change.is_named else _("relation {name}").format(name=change.relation)
    where = _("{relation} in {database}").format(relation=relation, database=change.database)
    place = where if change.database else relation
    if change.rows is not None:
        texts = {
            "insert": ngettext("{rows} row inserted into {place}", "{rows} rows inserted into {place}", change.rows),
            "update": ngettext("{rows} row updated in {place}", "{rows} rows updated in {place}", change.rows),
            "delete": ngettext("{rows} row deleted from {place}", "{rows} rows deleted from {place}", change.rows),
        }
        return texts[change.kind].format(rows=change.rows, place=place)
    if change.may_be_rewrite:
        return _("{place} truncated, dropped or rewritten").format(place=place)
    if change.kind == "truncate":
        return _("{place} truncated").format(place=place)
    files = ngettext("{number} file", "{number} files", change.files).format(number=change.files)
    return _("{place} dropped ({files})").format(place=place, files=files)
