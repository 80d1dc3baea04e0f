"""``holdfast init``: the configuration, the secrets, the role and the repositories.

What can fail without a trace comes first. From the first file that is written on, nothing is removed again: a run that
fails says what stands, and the next one goes on from there.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.access import as_url
from holdfast.cli.app import App
from holdfast.cli.credentials import new_passphrase, offer_recovery_key, write_secret
from holdfast.cli.initial import Wanted, ask_for_missing, refuse_other, store_options, text_of, without_password
from holdfast.cli.output import error_document
from holdfast.cli.session import Session
from holdfast.errors import DONE_WITH_WARNINGS, ConfigError, HoldfastError, Refused
from holdfast.messages import _

if TYPE_CHECKING:
    from holdfast.config import Configuration
    from holdfast.repository.keys import SecretKind
    from holdfast.wiring import Wiring


def register(app: App) -> None:
    app.command("init", help=_("Write holdfast.toml, and make the repositories and keys that it names."))(init)


@dataclass(kw_only=True)
class Made:
    """What this run has made so far: told at the end, or when it fails."""

    configuration: Path
    wrote_configuration: bool = False
    secret_files: list[Path] = field(default_factory=list)
    statements: tuple[str, ...] = ()
    recovery_key: str | None = None
    repositories: list[dict[str, str]] = field(default_factory=list)

    def document(self) -> dict[str, object]:
        return {
            "configuration": self.configuration,
            "wrote_configuration": self.wrote_configuration,
            "secret_files": self.secret_files,
            "sql": self.statements,
            "recovery_key": self.recovery_key,
            "repositories": self.repositories,
        }


def init(
    ctx: typer.Context,
    *,
    source: Annotated[
        str | None, typer.Option("--source", metavar="NAME", help=_("What the source is called."))
    ] = None,
    connection: Annotated[
        str | None,
        typer.Option("--connection", metavar="DSN", help=_("How the source is reached, without a password.")),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--repository-url", metavar="URL", help=_("A folder, or a store: s3://bucket/prefix, oss://…, sftp://….")
        ),
    ] = None,
    repository: Annotated[
        str | None, typer.Option("--repository", metavar="NAME", help=_("What the repository is called."))
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            help=_("Of its store, such as endpoint or region. Credentials come from environment variables."),
        ),
    ] = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", metavar="FILE", help=_("Holds the passphrase; made if it is not there.")),
    ] = None,
    admin: Annotated[
        str | None, typer.Option("--admin", metavar="DSN", help=_("A superuser's connection, which makes the role."))
    ] = None,
    no_recovery_key: Annotated[
        bool, typer.Option("--no-recovery-key", help=_("Make none: a lost passphrase is then a lost repository."))
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help=_("Ask nothing."))] = False,
) -> None:
    from holdfast.cli.server_access import warn_of_passwords

    session = Session.of(ctx)
    warn_of_passwords(session.output, {"--connection": connection, "--admin": admin})
    wanted = Wanted(
        source=source,
        connection=connection,
        url=as_url(url) if url else None,
        repository=repository,
        options=store_options(option or []),
        passphrase_file=Path(os.path.abspath(passphrase_file)) if passphrase_file else None,  # noqa: PTH100  keeps links
        admin=admin,
    )
    path, exists = _place(session)
    made = Made(configuration=path)
    try:
        go = _go_on if exists else _begin
        able = go(session, wanted, made, recovery=not no_recovery_key, confirm=not yes)
    except HoldfastError as error:
        if session.json and made.recovery_key is not None:  # it must not be lost: the repository may exist
            session.output.result({**made.document(), "error": error_document(error)}, lambda: None)
            raise typer.Exit(error.exit_code) from None
        raise
    session.output.result(made.document(), lambda: _show(session, made))
    if not able:
        raise typer.Exit(DONE_WITH_WARNINGS)


def _place(session: Session) -> tuple[Path, bool]:
    """The configuration file, and whether it is there: one that is named need not be."""
    from holdfast.config import default_configuration_file

    named = session.config_file or os.environ.get("HOLDFAST_CONFIG")
    if named and not Path(named).exists():
        return Path(os.path.abspath(named)), False  # noqa: PTH100  not resolve(): paths count from where the link lies
    found = session.find_configuration()
    return (found, True) if found else (default_configuration_file(), False)


def _begin(session: Session, wanted: Wanted, made: Made, *, recovery: bool, confirm: bool) -> bool:
    """Where there is no configuration; whether the role can back up."""
    from holdfast.cli.server_access import PASSWORD_FILE, prepare, tell
    from holdfast.config import parse_configuration, write_initial_configuration

    folder = made.configuration.parent
    wanted = ask_for_missing(session, wanted)
    assert wanted.connection is not None
    configuration = parse_configuration(
        text_of(wanted, folder, without_password(wanted.connection)), folder, file=made.configuration.name
    )
    wiring = session.wiring(hurried=True, configuration=configuration)
    session.output.zone = configuration.zone
    for name in configuration.repository:
        _refuse_taken(wiring, name)
    passphrases = _passphrases(configuration, list(configuration.repository))
    had_password_file = (folder / PASSWORD_FILE).exists()
    server = prepare(wanted.connection, folder=folder, admin=wanted.admin)
    made.statements = server.statements
    if wanted.admin is not None:
        made.statements += _limit_slots(session, wiring, wanted, confirm=confirm)
    if not had_password_file and (folder / PASSWORD_FILE).exists():
        made.secret_files.append(folder / PASSWORD_FILE)
    if recovery:
        made.recovery_key = offer_recovery_key(session, confirm=confirm)
    _write_passphrases(made, passphrases)
    write_initial_configuration(made.configuration, text_of(wanted, folder, server.connection))
    made.wrote_configuration = True
    _make(wiring, made, {name: secret.text for name, secret in passphrases.items()})
    return tell(session.output, server.connection)


def _go_on(session: Session, wanted: Wanted, made: Made, *, recovery: bool, confirm: bool) -> bool:
    """With a configuration that is there: it is kept, and what it names and is not pinned yet is made.

    Returns whether the roles can back up.
    """
    from holdfast.cli.server_access import tell

    wiring = session.wiring(hurried=True)
    configuration = wiring.configuration
    names = [name for name, repository in configuration.repository.items() if not (repository.id and repository.key)]
    if not configuration.repository:
        raise ConfigError(
            _("{path} names no repository").format(path=made.configuration),
            hint=_("Write a section there: [repository.local] with a line {example}").format(
                example='url = "file:///var/lib/holdfast/repository"'
            ),
        )
    refuse_other(wanted, configuration)
    connections = _connections(wanted, configuration)
    if not names and wanted.admin is None:
        able = [tell(session.output, connection) for connection in connections]
        if not all(able):
            raise typer.Exit(DONE_WITH_WARNINGS)
        raise Refused(
            _("nothing to make: {path} is there, and its repositories are").format(path=made.configuration),
            hint=_("Run holdfast check. For another repository, add [repository.NAME] with its url, then init again."),
        )
    for name in names:
        _refuse_taken(wiring, name)
    passphrases = _passphrases(configuration, names)
    if wanted.admin is not None:
        made.statements = _create_roles(wanted.admin, connections)
        made.statements += _limit_slots(session, wiring, wanted, confirm=confirm)
    if names and recovery:
        made.recovery_key = offer_recovery_key(session, confirm=confirm)
    _write_passphrases(made, passphrases)
    _make(wiring, made, {name: secret.text for name, secret in passphrases.items()})
    able = [tell(session.output, connection) for connection in connections]
    return all(able)


def _refuse_taken(wiring: Wiring, name: str) -> None:
    """Raises ``Refused`` for a place that holds a repository, with the lines to paste if it is the operator's own."""
    if not wiring.is_taken(name):
        return
    url = wiring.configuration.repository[name].url
    ours = wiring.existing_repository(name)
    hint = _("Name an empty folder or prefix: a repository shares its place with nothing else.")
    if ours is not None:
        hint = _(
            "The configured passphrase opens it. If it is yours, put these lines under [repository.{name}] of {path}:"
        ).format(name=name, path=wiring.configuration.path)
        hint += f'\nid = "{ours.id}"\nkey = "{ours.key_id}"'
    raise Refused(_("there is a repository in {url} already").format(url=url), hint=hint)


def _connections(wanted: Wanted, configuration: Configuration) -> list[str]:
    return [
        source.connection
        for name, source in configuration.source.items()
        if source.type == "postgres" and wanted.source in (None, name)
    ]


def _create_roles(admin: str, connections: list[str]) -> tuple[str, ...]:
    from holdfast.postgres.connection import read_connection_string
    from holdfast.postgres.requirements import create_role

    roles = {str(read_connection_string(connection).get("user") or "holdfast") for connection in connections}
    return tuple(statement for role in sorted(roles) for statement in create_role(admin, role, None))


def _limit_slots(session: Session, wiring: Wiring, wanted: Wanted, *, confirm: bool) -> tuple[str, ...]:
    """For what streams: a slot of ours must never fill the disk of the server that it protects."""
    from holdfast.cli.server_access import offer_slot_limit

    assert wanted.admin is not None
    sources = wiring.configuration.source.items()
    names = [name for name, source in sources if source.type == "postgres" and wanted.source in (None, name)]
    retained = [wal.retain for wal in map(wiring.wal, names) if wal.via == "stream"]
    return offer_slot_limit(session, wanted.admin, sum(retained), confirm=confirm) if retained else ()


@dataclass(frozen=True, kw_only=True)
class _Passphrase:
    text: str = field(repr=False)
    write_to: Path | None
    """A file that is still to be made; None if the secret is there."""


def _passphrases(configuration: Configuration, names: list[str]) -> dict[str, _Passphrase]:
    """Each repository's passphrase: what the configuration gives, and a new one for a file that is not there yet."""
    new: dict[Path, str] = {}
    found = {}
    for name in names:
        secret = configuration.passphrase_of(name)
        path = configuration.folder / secret.file if secret.file is not None else None
        if path is None or path.exists():
            found[name] = _Passphrase(text=secret.reveal(configuration.folder), write_to=None)
        else:
            found[name] = _Passphrase(text=new.setdefault(path, new_passphrase()), write_to=path)
    return found


def _write_passphrases(made: Made, passphrases: Mapping[str, _Passphrase]) -> None:
    for secret in passphrases.values():
        if secret.write_to is not None and secret.write_to not in made.secret_files:
            write_secret(secret.write_to, secret.text)
            made.secret_files.append(secret.write_to)


def _make(wiring: Wiring, made: Made, passphrases: Mapping[str, str]) -> None:
    """Creates and pins one after the other, so that what a failure leaves is at most one without its pin."""
    from holdfast.config import pin_repository
    from holdfast.config.secret import owner_name
    from holdfast.repository.keys import Origin, SecretKind

    origin = Origin(created=wiring.clock.now(), host=socket.gethostname(), user=owner_name(os.geteuid()))
    first = wiring.first_repository() if passphrases else None
    for name, passphrase in passphrases.items():
        secrets: list[tuple[str, SecretKind]] = [(passphrase, SecretKind.PASSPHRASE)]
        if made.recovery_key is not None:
            secrets.append((made.recovery_key, SecretKind.RECOVERY))
        try:
            repository = wiring.create_repository(name, secrets, first=first, origin=origin)
        except HoldfastError as error:
            raise _not_made(error, made, name) from None
        first = first or repository
        made.repositories.append({"name": name, "url": repository.url, "id": repository.id, "key": repository.key_id})
        pin_repository(made.configuration, name, repository.id, repository.key_id)


def _not_made(error: HoldfastError, made: Made, name: str) -> HoldfastError:
    """The error with what stands by now, and how to go on."""
    stands = [str(path) for path in made.secret_files]
    stands += [str(made.configuration)] if made.wrote_configuration else []
    more = _("Repository {name} was not made.").format(name=name)
    if stands:
        more += " " + _("What stands and is used by the next run: {files}.").format(files=", ".join(stands))
    if made.recovery_key is not None and not made.repositories:
        more += " " + _("The recovery key shown above opens nothing: cross it out.")
    more += " " + _("Mend the cause or the url in {path}, then run: holdfast init").format(path=made.configuration)
    return type(error)(str(error), hint=f"{error.hint}\n{more}" if error.hint else more)


def _show(session: Session, made: Made) -> None:
    output = session.output
    for statement in made.statements:
        output.line(_("ran: {sql}").format(sql=statement))
    for path in made.secret_files:
        output.line(_("wrote {path}: secret, keep a copy of it away from this machine").format(path=path))
    if made.wrote_configuration:
        output.line(_("wrote {path}").format(path=made.configuration))
    for repository in made.repositories:
        output.line(_("made the repository {name} in {url}").format(name=repository["name"], url=repository["url"]))
    output.line()
    output.line(_("Next: holdfast check, then holdfast backup; and print the recovery kit: holdfast kit"))
