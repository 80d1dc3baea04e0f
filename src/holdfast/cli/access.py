"""Which repository a command works on, and what opens it: the configuration's, or a URL on a bare machine.

A bare machine has the URL and the passphrase (or the recovery key) and nothing else: that is enough for every command
that reads.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from holdfast.cli.asking import ask_secret, may_ask
from holdfast.errors import ConfigError, UsageError, WrongPassphrase
from holdfast.messages import _

if TYPE_CHECKING:
    from holdfast.cli.session import Session
    from holdfast.repository.opening import Pin
    from holdfast.repository.repository import Repository
    from holdfast.wiring import Wiring

Value = TypeVar("Value")

PASSPHRASE_VARIABLE = "HOLDFAST_PASSPHRASE"  # noqa: S105  a name, not a secret

RepositoryName = Annotated[
    str | None, typer.Option("--repository", metavar="NAME", help=_("The repository; else the first one configured."))
]
FromUrl = Annotated[
    str | None,
    typer.Option("--from", metavar="URL", help=_("The repository's URL: no configuration is needed then.")),
]
RepositoryId = Annotated[
    str | None, typer.Option("--id", metavar="ID", help=_("With --from: its id in the recovery kit; no other opens."))
]
RepositoryKey = Annotated[
    str | None, typer.Option("--key", metavar="ID", help=_("With --from and --id: its key's id in the recovery kit."))
]
StoreOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help=_("With --from: an option of the store, as endpoint or region. Secrets come from variables."),
    ),
]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", metavar="FILE", help=_("A file that holds the passphrase."))
]
RecoveryKeyFile = Annotated[
    Path | None, typer.Option("--recovery-key-file", metavar="FILE", help=_("A file that holds the recovery key."))
]


@dataclass(frozen=True, kw_only=True)
class Opened:
    repository: Repository
    wiring: Wiring | None
    """None on a bare machine."""
    pinned: bool
    """Whether it is known to be the one that is meant; else it is whatever lies at the URL and the secret opens."""


@dataclass(frozen=True, kw_only=True)
class Access:
    name: str | None
    url: str | None
    id: str | None
    key: str | None
    options: Sequence[str]
    passphrase_file: Path | None
    recovery_key_file: Path | None

    def open(self, session: Session) -> Opened:
        """Raises what opening does, and ``UsageError`` for options that do not go together."""
        if self.passphrase_file and self.recovery_key_file:
            raise UsageError(_("give either --passphrase-file or --recovery-key-file"))
        if self.url is None:
            if self.options:
                raise UsageError(
                    _("--option goes with --from"), hint=_("Options of a configured repository stand in holdfast.toml.")
                )
            if self.id or self.key:
                raise UsageError(
                    _("--id and --key go with --from"),
                    hint=_("Those of a configured repository stand in holdfast.toml."),
                )
            wiring = session.wiring()
            secret = self._from_file()
            try:
                repository = wiring.repository(self.name, secret=secret)
            except WrongPassphrase:
                if secret is None:  # the configured one: the error says where to look
                    raise
                url = wiring.configuration.repository[wiring.repository_name(self.name)].url
                raise self._wrong(url) from None
            return Opened(repository=repository, wiring=wiring, pinned=True)
        if self.name is not None:
            raise UsageError(_("give either --from or --repository"))
        pin = self._pin()
        return Opened(repository=self._open_url(session, self.url, pin), wiring=None, pinned=pin is not None)

    def _open_url(self, session: Session, url: str, pin: Pin | None) -> Repository:
        from holdfast.wiring import secret_options

        url = as_url(url)
        secrets = secret_options(url)
        options = once("--option", (_option(text, secrets) for text in self.options))
        secret = self._from_file()
        if secret is None:
            secret = os.environ.get(PASSPHRASE_VARIABLE)
        from_variable = bool(secret)
        if not secret and not may_ask(session):
            raise UsageError(
                _("no passphrase for {url}").format(url=url),
                hint=_("Give --passphrase-file FILE or --recovery-key-file FILE, or set {variable}.").format(
                    variable=PASSPHRASE_VARIABLE
                ),
            )
        from holdfast.cli import interruption
        from holdfast.clock import SystemClock
        from holdfast.wiring import open_from_url

        if not secret:
            secret = ask_secret(_("Passphrase or recovery key of {url}").format(url=url))
        if sys.stderr.isatty():
            session.output.note(_("opening {url}").format(url=url))
        try:
            return open_from_url(
                url,
                options,
                secret,
                pin=pin,
                clock=SystemClock(),
                stopped=interruption.requested,
                trying_again=session.trying_again(),
            )
        except WrongPassphrase:
            raise self._wrong(url, from_variable=from_variable) from None

    def _wrong(self, url: str, *, from_variable: bool = False) -> WrongPassphrase:
        """None that the configuration gave: the error names where it came from."""
        if self.recovery_key_file:
            return WrongPassphrase(
                _("wrong recovery key for {url}: the one in {path}").format(url=url, path=self.recovery_key_file),
                hint=_(
                    "Give the recovery key of this repository, one that was not removed: --recovery-key-file FILE; or "
                    "its passphrase: --passphrase-file FILE"
                ),
            )
        hint = _(
            "Give the passphrase of this repository, one that was not removed: --passphrase-file FILE; or its "
            "recovery key: --recovery-key-file FILE"
        )
        if self.passphrase_file:
            text = _("wrong passphrase for {url}: the one in {path}").format(url=url, path=self.passphrase_file)
        elif from_variable:
            text = _("wrong passphrase for {url}: the one in the variable {variable}").format(
                url=url, variable=PASSPHRASE_VARIABLE
            )
        else:
            text = _("wrong passphrase or recovery key for {url}: the one that was typed").format(url=url)
        return WrongPassphrase(text, hint=hint)

    def _pin(self) -> Pin | None:
        if self.id is None and self.key is None:
            return None
        if self.id is None or self.key is None:
            raise UsageError(
                _("give both --id and --key, or neither"),
                hint=_("The recovery kit has both, and so has holdfast.toml under [repository.NAME]."),
            )
        from holdfast.repository.opening import Pin

        return Pin(repository=_id("--id", self.id), key=_id("--key", self.key))

    def _from_file(self) -> str | None:
        if self.passphrase_file:
            return read_secret(self.passphrase_file, "--passphrase-file")
        if self.recovery_key_file:
            return read_secret(self.recovery_key_file, "--recovery-key-file")
        return None


def read_secret(path: Path, option: str) -> str:
    """The secret in a file that ``option`` names. Raises ``ConfigError`` as ``Secret.reveal`` does."""
    from holdfast.config import Secret

    try:
        return Secret(file=str(path)).reveal(Path.cwd())
    except ConfigError as error:
        if not _may_be_read_as_file(path):
            error.hint = _("Correct the path, or name another file: {option} FILE").format(option=option)
        raise


def _may_be_read_as_file(path: Path) -> bool:
    """Whether it lies there, or nobody but its owner can tell."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except PermissionError:
        return True
    except OSError:
        return False


def as_url(text: str) -> str:
    """A folder's path, as people type it, becomes its URL; anything else is left as it is."""
    if not text.startswith(("/", "./", "../", "~")):
        return text
    path = os.path.abspath(Path(text).expanduser())  # noqa: PTH100  keeps symbolic links as the operator wrote them
    for character, quoted in (("%", "%25"), ("?", "%3F"), ("#", "%23")):
        path = path.replace(character, quoted)
    return f"file://{path}"


def once(option: str, pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """The values by their names. ``UsageError`` for a name that comes twice: which one is meant is anybody's guess."""
    found: dict[str, Value] = {}
    for name, value in pairs:
        if name in found:
            raise UsageError(
                _("{option} {name}=… is given twice").format(option=option, name=name), hint=_("Give it once.")
            )
        found[name] = value
    return found


def _id(option: str, text: str) -> str:
    found = text.strip().lower()
    if not re.fullmatch("[0-9a-f]{32}", found):
        raise UsageError(
            _("{option} {text} is not an id of 32 digits, 0 to 9 and a to f").format(option=option, text=text),
            hint=_("Copy it from the recovery kit, or from holdfast.toml."),
        )
    return found


def _option(text: str, secrets: Mapping[str, str]) -> tuple[str, str]:
    """``secrets``: options that may not stand on a command line, and the variable that holds each."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(
            _("--option {text} is not NAME=VALUE").format(text=text),
            hint=_("Write for example: --option endpoint=https://s3.example.com"),
        )
    if name in secrets:
        raise UsageError(
            _("{name} is a secret, and everybody on this machine can read a command line").format(name=name),
            hint=_("Set the variable {variable} instead.").format(variable=secrets[name])
            if secrets[name]
            else _("This store has no such option."),
        )
    return name, value
