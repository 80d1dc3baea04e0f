"""``holdfast kit``: the sheet of paper for the night on which this machine is gone."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import holdfast
from holdfast.cli import human
from holdfast.cli.app import App
from holdfast.cli.session import Session
from holdfast.errors import HoldfastError
from holdfast.messages import _

if TYPE_CHECKING:
    from datetime import tzinfo

    from holdfast.jobs.kit import Kit, KitRepository, KitSource
    from holdfast.wiring import Wiring

INCOMPLETE = 3


def register(app: App) -> None:
    text = _("All that a bare machine needs to restore, but the secret: print it and keep it elsewhere.")
    app.command("kit", help=text)(kit)


def kit(
    ctx: typer.Context,
    *,
    file: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help=_("Write it to FILE, over an older one."))
    ] = None,
) -> None:
    session = Session.of(ctx)
    wiring = session.wiring()
    made = _gather(session, wiring)
    if file is not None and not session.json:
        _write(file, "\n".join(_lines(made, wiring.zone)) + "\n")
        session.output.line(
            _("The recovery kit is in {path}: print it, and keep it away from this machine.").format(path=file)
        )
    else:
        session.output.result(made, lambda: session.output.line("\n".join(_lines(made, wiring.zone))))
    if made.missing:
        raise typer.Exit(INCOMPLETE)


def _gather(session: Session, wiring: Wiring) -> Kit:
    from holdfast.jobs.kit import Kit

    missing: list[str] = []
    repositories = tuple(_repository(wiring, name, missing) for name in wiring.configuration.repository)
    for text in missing:
        session.output.warning(text)
    return Kit(
        made=wiring.clock.now(),
        host=socket.gethostname(),
        holdfast_version=holdfast.__version__,
        repositories=repositories,
        connections=_connections(wiring),
        missing=tuple(missing),
    )


def _connections(wiring: Wiring) -> dict[str, str]:
    """Host, port, role and database of each source: the words that hold no secret."""
    from holdfast.postgres.connection import read_connection_string

    found = {}
    for name, source in wiring.configuration.source.items():
        if source.type != "postgres":
            found[name] = str(source.path)
            continue
        words = read_connection_string(source.connection)
        found[name] = " ".join(f"{key}={words[key]}" for key in ("host", "port", "user", "dbname") if words.get(key))
    return found


def _repository(wiring: Wiring, name: str, missing: list[str]) -> KitRepository:
    """What cannot be asked now is named in ``missing``: half a kit is better than none."""
    from holdfast.jobs.kit import KitRepository, newest_of_each
    from holdfast.jobs.records import doubts
    from holdfast.wiring import credential_variables

    configured = wiring.configuration.repository[name]
    key_objects: Mapping[str, bytes] = {}
    sources: tuple[KitSource, ...] = ()
    snapshots = 0
    try:
        repository = wiring.repository(name)
        key_objects = wiring.key_objects(repository)
        records = repository.records()
        sources, snapshots = newest_of_each(records), len(records.snapshots)
        missing += (_("repository {name}: {reason}").format(name=name, reason=text) for text in doubts(records))
    except HoldfastError as error:
        missing.append(_("repository {name}: {reason}").format(name=name, reason=error))
    return KitRepository(
        name=name,
        url=configured.url,
        id=configured.id or "",
        key=configured.key or "",
        options=configured.plain_options(),
        variables=credential_variables(configured.url),
        key_objects={object_name: content.decode("utf-8", "replace") for object_name, content in key_objects.items()},
        sources=sources,
        snapshots=snapshots,
    )


def _lines(made: Kit, zone: tzinfo) -> Iterator[str]:
    from holdfast.jobs.kit import install_commands

    yield _("HOLDFAST RECOVERY KIT")
    yield _("Made on {host}, {moment}, by Holdfast {version}.").format(
        host=made.host, moment=human.moment(made.made, zone), version=made.holdfast_version
    )
    yield ""
    yield _("NOT IN THIS KIT, and needed: the passphrase or the recovery key. One of them is enough. Whoever has")
    yield _(
        "neither cannot read the backups, and nobody can help. Credentials of the object store are not in it either."
    )
    yield ""
    yield _("1. On a new machine (Debian, Ubuntu), as root:")
    majors = [source.postgres_major for repository in made.repositories for source in repository.sources]
    yield from (f"   {line}" for line in install_commands(majors))
    yield _("   The last line wants a copy of Holdfast itself, its folder or its wheel: keep one with this kit.")
    yield ""
    yield _("2. Put the passphrase (or the recovery key) into a file that only root reads, for example")
    yield _("   /root/secret, as one line. Then, from one of the repositories:")
    for repository in made.repositories:
        yield ""
        yield from _repository_lines(repository, zone)
    yield ""
    yield _("3. The last lines of the restore say how to connect, and how to start it for good.")
    if made.connections:
        yield ""
        yield _("Sources, as they were reached from {host}:").format(host=made.host)
        yield from (f"   {name}: {place}" for name, place in made.connections.items())
    for text in made.missing:
        yield ""
        yield _("INCOMPLETE: {what}").format(what=text)
    yield from _key_lines(made)


def _repository_lines(repository: KitRepository, zone: tzinfo) -> Iterator[str]:
    from holdfast.jobs.kit import restore_command

    yield _("   Repository {name}").format(name=repository.name)
    yield f"      url = {repository.url}"
    for name, value in {**repository.options, "id": repository.id, "key": repository.key}.items():
        yield f"      {name} = {value}"
    if repository.variables:
        yield _("      The credentials of its store go into: {names}").format(names=", ".join(repository.variables))
    if repository.url.startswith("file:"):
        yield _("      It is a folder: its disk must be there. If it lies elsewhere, change the URL.")
    for source in repository.sources:
        yield ""
        yield _("      {source}: {server} ({platform}), {size}; newest snapshot {label}, {moment}").format(
            source=source.name,
            server=source.server_version,
            platform=source.platform,
            size=human.size(source.size),
            label=source.label,
            moment=human.moment(source.ended, zone),
        )
        yield _("      Its record: {id}, SHA-256 {digest}").format(id=source.snapshot_id[:12], digest=source.digest)
        yield _("      If no snapshot there is that one or a later one, the store was set back: holdfast list --json")
        if source.libraries:
            yield _("      It loads: {names} (packages of their own)").format(names=", ".join(source.libraries))
        for tablespace in source.tablespaces:
            yield _("      Tablespace {which} (--tablespace NAME=DIR puts it elsewhere)").format(which=tablespace)
        target = f"/var/lib/postgresql/{source.name}"
        yield "      " + restore_command(
            repository, source.name, target=target, secret=("--passphrase-file", "/root/secret")
        )
        yield _("      With the recovery key: --recovery-key-file instead of --passphrase-file.")
        yield _("      --id and --key refuse any other repository that may lie there by then.")
    if not repository.sources:
        yield _("      No snapshot of a PostgreSQL cluster was in it when this kit was made.")


def _key_lines(made: Kit) -> Iterator[str]:
    """For the case that the objects under ``keys/`` are lost: they are put back as they stand here."""
    if not any(repository.key_objects for repository in made.repositories):
        return
    yield ""
    yield _("Wrapped keys: of no use without the secret. If a repository has lost its keys/, put these back there,")
    yield _("each as an object (or file) of that name with exactly this content:")
    for repository in made.repositories:
        for name, content in repository.key_objects.items():
            yield ""
            yield f"{repository.name}: {name}"
            yield content


def _write(path: Path, text: str) -> None:
    """Atomic: a kit that is there already stays whole whatever happens."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise HoldfastError(
            _("cannot write {path}: {reason}").format(path=path, reason=error.strerror),
            hint=_("Name a file in a folder where you may write."),
        ) from None
