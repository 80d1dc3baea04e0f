"""``holdfast key``: the passphrases and recovery keys that open a repository."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.access import (
    Access,
    FromUrl,
    Opened,
    PassphraseFile,
    RecoveryKeyFile,
    RepositoryId,
    RepositoryKey,
    RepositoryName,
    StoreOptions,
    read_secret,
)
from holdfast.cli.app import App
from holdfast.cli.asking import ask_secret, may_ask
from holdfast.cli.credentials import TRIES, write_secret
from holdfast.cli.key_choice import beginning_of, chosen
from holdfast.cli.key_shown import key_document, show_added, show_keys, show_removed
from holdfast.cli.session import Session
from holdfast.errors import DONE_WITH_WARNINGS, Damaged, HoldfastError, Refused, UsageError
from holdfast.messages import _

if TYPE_CHECKING:
    from holdfast.repository.keyring import Keyring
    from holdfast.repository.repository import Repository

NOTE_LIMIT = 200

Note = Annotated[
    str, typer.Option("--note", metavar="TEXT", help=_("What it is for; whoever reads the store can read this too."))
]
NewPassphraseFile = Annotated[
    Path | None,
    typer.Option("--new-passphrase-file", metavar="FILE", help=_("Add the secret in FILE instead of making one.")),
]
OutFile = Annotated[
    Path | None,
    typer.Option("--out", "--output", metavar="FILE", help=_("Write the new secret to FILE, not to the screen.")),
]


def register(app: App) -> None:
    group = App(name="key", help=_("The passphrases and recovery keys that open a repository."))
    group.command("add", help=_("Add a passphrase or a recovery key; without more, Holdfast makes one."))(add)
    group.command("list", help=_("The keys that there are, and which of them opened the repository now."))(list_keys)
    group.command("remove", help=_("Remove a key: its secret no longer opens the repository."))(remove)
    app.add_typer(group)


def add(
    ctx: typer.Context,
    *,
    recovery: Annotated[bool, typer.Option("--recovery", help=_("Make a recovery key, to be kept on paper."))] = False,
    note: Note = "",
    new_passphrase_file: NewPassphraseFile = None,
    ask: Annotated[bool, typer.Option("--ask", help=_("Ask for a passphrase at the terminal, twice."))] = False,
    out: OutFile = None,
    repository: RepositoryName = None,
    from_url: FromUrl = None,
    repository_id: RepositoryId = None,
    repository_key: RepositoryKey = None,
    option: StoreOptions = None,
    passphrase_file: PassphraseFile = None,
    recovery_key_file: RecoveryKeyFile = None,
) -> None:
    from holdfast.clock import SystemClock
    from holdfast.config.secret import owner_name
    from holdfast.repository.keyring_changes import add_key
    from holdfast.repository.keys import MadeSecret, Origin, SecretKind, refuse_weak

    session = Session.of(ctx)
    given = new_passphrase_file is not None or ask
    if recovery + (new_passphrase_file is not None) + ask > 1:
        raise UsageError(
            _("give one of --recovery, --new-passphrase-file and --ask"),
            hint=_("Without any of them, Holdfast makes a passphrase."),
        )
    if given and out is not None:
        raise UsageError(_("--out is for a secret that Holdfast makes"), hint=_("Yours is not written anywhere."))
    origin = Origin(
        created=SystemClock().now(), host=socket.gethostname(), user=owner_name(os.geteuid()), note=_checked(note)
    )
    secret = _given(session, new_passphrase_file) if given else ""
    if given:
        refuse_weak(secret)
    opened = Access(
        name=repository,
        url=from_url,
        id=repository_id,
        key=repository_key,
        options=option or (),
        passphrase_file=passphrase_file,
        recovery_key_file=recovery_key_file,
    ).open(session)
    if not given:
        secret = MadeSecret.new(SecretKind.RECOVERY if recovery else SecretKind.PASSPHRASE)
    if out is not None:
        write_secret(out, secret, option="--out")
    try:
        key = add_key(opened.repository, secret, origin)
    except BaseException as error:
        if out is not None:
            out.unlink(missing_ok=True)
        if isinstance(error, HoldfastError) and not isinstance(error, Refused):
            raise _not_added(error, given=given) from None
        raise
    document = {**key_document(key), "repository": opened.repository.url}
    if not given:
        document |= {"secret_file": out} if out is not None else {"secret": secret}
    session.output.result(document, lambda: show_added(session, key, opened, out, "" if given or out else secret))


def _not_added(error: HoldfastError, *, given: bool) -> HoldfastError:
    """The error with what may stand by now."""
    more = (
        _("Run it again: if the key is there by now, that is said.")
        if given
        else _("If `holdfast key list` shows a key made now, nobody has its secret: remove it, then run this again.")
    )
    return type(error)(str(error), hint=f"{error.hint}\n{more}" if error.hint else more)


def _given(session: Session, path: Path | None) -> str:
    """The secret that a person chose: from a file, or typed twice."""
    if path is not None:
        return read_secret(path, "--new-passphrase-file")
    if not may_ask(session):
        raise UsageError(
            _("there is no terminal to ask at"),
            hint=_("Name a file: --new-passphrase-file FILE; or let Holdfast make one."),
        )
    for _attempt in range(TRIES):
        secret = ask_secret(_("New passphrase"))
        if secret == ask_secret(_("The same again")):
            return secret
        session.output.note(_("They differ."))
    raise UsageError(_("the passphrase was not typed twice alike; nothing was added"), hint=_("Run it again."))


def _checked(note: str) -> str:
    if len(note) > NOTE_LIMIT or not note.isprintable():
        raise UsageError(
            _("--note is one line of {number} letters at the most").format(number=NOTE_LIMIT), hint=_("Shorten it.")
        )
    return note


def list_keys(
    ctx: typer.Context,
    *,
    repository: RepositoryName = None,
    from_url: FromUrl = None,
    repository_id: RepositoryId = None,
    repository_key: RepositoryKey = None,
    option: StoreOptions = None,
    passphrase_file: PassphraseFile = None,
    recovery_key_file: RecoveryKeyFile = None,
) -> None:
    from holdfast.repository.keyring import KeyState

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
    ring = _read(opened.repository)
    session.output.result(
        {
            "repository": opened.repository.url,
            "repository_id": opened.repository.id,
            "repository_key": opened.repository.key_id,
            "keys": [key_document(key) for key in ring.keys],
            "removed": [
                {"id": name.rpartition("/")[2], "removed": change.when, "host": change.host}
                for change in ring.changes
                for name in change.removed
            ],
            "unreadable": [{"name": problem.name, "what": problem.what} for problem in ring.problems],
        },
        lambda: show_keys(session, ring.keys),
    )
    for key in ring.keys:
        if key.what:
            session.output.warning(key.what)
    for problem in ring.problems:
        session.output.warning(f"{problem.name}: {problem.what}")
    states = {key.state for key in ring.keys}
    if ring.problems or states & {KeyState.DAMAGED, KeyState.MISSING}:
        raise typer.Exit(Damaged.exit_code)
    if states - {KeyState.GOOD}:
        raise typer.Exit(DONE_WITH_WARNINGS)


def remove(
    ctx: typer.Context,
    *,
    wanted: Annotated[str, typer.Argument(metavar="ID", show_default=False)],
    last_recovery_key: Annotated[
        bool, typer.Option("--last-recovery-key", help=_("Remove it though it is the last recovery key."))
    ] = False,
    repository: RepositoryName = None,
    from_url: FromUrl = None,
    repository_id: RepositoryId = None,
    repository_key: RepositoryKey = None,
    option: StoreOptions = None,
    passphrase_file: PassphraseFile = None,
    recovery_key_file: RecoveryKeyFile = None,
) -> None:
    from holdfast.clock import SystemClock
    from holdfast.repository.keyring_changes import refuse_removal, remove_key

    session = Session.of(ctx)
    beginning = beginning_of(wanted)
    opened = Access(
        name=repository,
        url=from_url,
        id=repository_id,
        key=repository_key,
        options=option or (),
        passphrase_file=passphrase_file,
        recovery_key_file=recovery_key_file,
    ).open(session)
    ring = _read(opened.repository)
    key = chosen(opened, ring, beginning)
    in_use = _in_use(opened, ring, repository)
    refuse_removal(ring, key, in_use, last_recovery_key=last_recovery_key)
    remove_key(opened.repository, key, in_use, when=SystemClock().now(), host=socket.gethostname())
    session.output.result(
        {**key_document(key), "repository": opened.repository.url, "revoked": False},
        lambda: show_removed(session, key, opened.repository.url),
    )


def _in_use(opened: Opened, ring: Keyring, name: str | None) -> list[frozenset[str]]:
    """What this session opened with, and what the configuration opens with where that is another secret."""
    from holdfast.repository.keyring import opened_by

    session_key = frozenset(key.name for key in ring.keys if key.opened)
    if opened.wiring is None:
        return [session_key]
    configured = opened.wiring.passphrase(opened.wiring.repository_name(name))
    by_configuration = opened_by(opened.repository, ring, configured)
    if session_key & by_configuration:
        return [by_configuration]
    # opened with another secret: where the configured one opens nothing (lost, or just replaced) nothing hangs on it
    return [session_key, by_configuration] if by_configuration else [session_key]


def _read(repository: Repository) -> Keyring:
    from holdfast.repository.keyring import read_keyring

    return read_keyring(repository, [snapshot.keys for snapshot in repository.records().snapshots])
