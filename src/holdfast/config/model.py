"""The shape of holdfast.toml. Every value here is checked; nothing here has looked at a disk or a server yet."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta, tzinfo
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationInfo

from holdfast.config.mistakes import mistake, near
from holdfast.config.secret import Secret
from holdfast.errors import ConfigError
from holdfast.messages import _

_UNITS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
}


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", value):
        raise mistake(
            _("is not a name"),
            hint=_("A name is a small letter, then small letters, digits and _: 40 characters at most."),
        )
    return value


def _text(value: str) -> str:
    if not value.strip():
        raise mistake(_("must not be empty"))
    if "\0" in value:
        raise mistake(_("must not hold a NUL character"))
    return value


def _from_folder(value: Any, info: ValidationInfo) -> Any:
    """A path counts from the folder of the configuration file, wherever the command runs."""
    if not isinstance(value, str):
        return value
    folder = (info.context or {})["folder"]
    return Path(folder, _text(value))


def _from_home(value: Any, info: ValidationInfo) -> Any:
    """As :func:`_from_folder`, but ``~/`` is the home of the user who runs the command."""
    if isinstance(value, str) and value.startswith("~/"):
        value = str(Path.home() / value[2:])
    return _from_folder(value, info)


def _url(value: str, info: ValidationInfo) -> str:
    _text(value)
    scheme, colon, rest = value.partition(":")
    if not colon or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        path = value if value.startswith("/") else f"/{value}"
        raise mistake(
            _("must begin with the kind of store, as in file: or s3:"),
            hint=_("For a folder write: {example}").format(example=f'url = "file://{path}"'),
        )
    if scheme != "file" or rest.startswith("///"):
        return value
    if rest.startswith("//"):
        raise mistake(
            _("names a host, which a folder cannot have"),
            hint=_("Write three slashes for a full path, none for one that counts from this file: {examples}").format(
                examples="file:///var/lib/holdfast/repository, file:repository"
            ),
        )
    folder = (info.context or {})["folder"]
    return f"file://{Path(folder, _text(rest))}"


def _timezone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        known = zoneinfo.available_timezones()
        by_small = {name.lower(): name for name in known}
        meant = by_small.get(near(value, by_small), "")
        if meant:
            hint = _('Did you mean "{name}"?').format(name=meant)
        elif known:
            hint = _("Write a name as in {examples}.").format(examples='"Asia/Shanghai", "Europe/Berlin", "UTC"')
        else:
            hint = _("This machine knows no time zones at all: install its package tzdata.")
        raise mistake(_("is not a time zone that this machine knows"), hint=hint) from None
    return value


def _duration(value: Any) -> Any:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", value) if isinstance(value, str) else None
    if not match or match[2] not in _UNITS or not float(match[1]):
        raise mistake(
            _("must be a length of time"), hint=_("Write for example {examples}.").format(examples='"10 s", "24 hours"')
        )
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


_SIZES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


def _size(value: Any) -> Any:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", value) if isinstance(value, str) else None
    if not match or match[2].upper() not in _SIZES or not float(match[1]):
        raise mistake(_("must be a size"), hint=_("Write for example {examples}.").format(examples='"500 MB", "16 GB"'))
    return int(float(match[1]) * _SIZES[match[2].upper()])


def _wal(value: Any) -> Any:
    return {"from": value} if isinstance(value, str) else value


def _text_or_secret(value: Any) -> str:
    return "text" if isinstance(value, str) else "secret"


Name = Annotated[str, AfterValidator(_name)]
Text = Annotated[str, AfterValidator(_text)]
FolderPath = Annotated[Path, BeforeValidator(_from_folder)]
HomePath = Annotated[Path, BeforeValidator(_from_home)]
TextOrSecret = Annotated[
    Annotated[Text, Tag("text")] | Annotated[Secret, Tag("secret")], Discriminator(_text_or_secret)
]
Duration = Annotated[timedelta, BeforeValidator(_duration)]
Size = Annotated[int, BeforeValidator(_size)]
"""Bytes."""


class Table(BaseModel):
    """A table of holdfast.toml: unknown keys are refused, values never show in an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Wal(Table):
    """``wal = { from = "stream", to = ["remote"], every = "10 s" }``; ``wal = "stream"`` for short."""

    via: Literal["stream", "archive", "off"] = Field(default="stream", alias="from")
    """A replication slot, ``archive_command``, or nothing."""
    to: tuple[Name, ...] = ()
    """Repositories; empty means the default one."""
    every: Duration | None = None
    """How often the newest bytes are uploaded."""
    retain: Size = 16 * 10**9
    """How much WAL our slot may hold back on the server; beyond that the slot is given up: its disk comes first."""
    synchronous: bool = False
    """Commits wait until their WAL is durable (``synchronous_standby_names`` names us): an alarm when they do not."""


class Check(Table):
    """The user's own query on a recovered database, and what must hold for its first value."""

    sql: Text
    expect: Text | None = None
    database: Text | None = None


class PostgresSource(Table):
    type: Literal["postgres"]
    connection: Text = Field(repr=False)
    """A libpq connection string or URI; it may hold a password, so it is never shown."""
    wal: Annotated[Wal, BeforeValidator(_wal)] = Wal()
    stop: Text | None = None
    """Shell command that stops the user's app, before a restore in place."""
    start: Text | None = None
    checks: tuple[Check, ...] = ()
    bin: FolderPath | None = None
    """Folder of the PostgreSQL programs to use."""


class FilesSource(Table):
    type: Literal["files"]
    path: FolderPath
    include: tuple[Text, ...] = ()
    exclude: tuple[Text, ...] = ()
    mirror: dict[str, Any] | None = None
    """Kept as written: its part is not built yet."""


Source = Annotated[PostgresSource | FilesSource, Field(discriminator="type")]


class Repository(Table):
    url: Annotated[str, AfterValidator(_url)]
    """A ``file:`` URL is absolute here."""
    id: Text | None = None
    key: Text | None = None
    """The repository and the key that ``init`` pinned; another is refused."""
    passphrase: Secret | None = None
    endpoint: Text | None = None
    region: Text | None = None
    addressing: Literal["path", "virtual"] | None = None
    checksum: Literal["none", "md5", "crc32c"] | None = None
    signature: Literal["v4", "v1"] | None = None
    access_key_id: TextOrSecret | None = None
    """A name rather than a secret, so it may stand here as it is; likewise the other two."""
    access_key_secret: Secret | None = None
    session_token: Secret | None = None
    account_name: TextOrSecret | None = None
    account_key: Secret | None = None
    sas_token: Secret | None = None
    credential: Secret | None = None
    token: Secret | None = None
    username: TextOrSecret | None = None
    password: Secret | None = None
    user: Text | None = None
    port: Annotated[int, Field(ge=1, le=65535, strict=True)] | None = None
    private_key: HomePath | None = None
    private_key_passphrase: Secret | None = None
    known_hosts: HomePath | None = None

    def store_options(self, folder: Path) -> dict[str, str]:
        """What the store is opened with, secrets revealed: never to be shown. Which belong to it, the store says."""
        return {
            name: value.reveal(folder) if isinstance(value, Secret) else str(value)
            for name, value in self._store_settings().items()
        }

    def plain_options(self) -> dict[str, str]:
        """Those that are no secrets: what a recovery kit may hold. A key's id goes with its secret, not here."""
        return {
            name: str(value)
            for name, value in self._store_settings().items()
            if not isinstance(value, Secret) and name != "access_key_id"
        }

    def secrets(self) -> list[Secret]:
        """The places of all its secrets."""
        own = [self.passphrase] if self.passphrase else []
        return own + [value for value in self._store_settings().values() if isinstance(value, Secret)]

    def _store_settings(self) -> dict[str, Any]:
        return {name: value for name in STORE_OPTIONS if (value := getattr(self, name)) is not None}


STORE_OPTIONS = tuple(name for name in Repository.model_fields if name not in ("url", "id", "key", "passphrase"))
"""Settings of a repository that are its store's."""

TEXTS_OR_SECRETS = ("access_key_id", "account_name", "username")

STORE_SECRETS = tuple(name for name in STORE_OPTIONS if Repository.model_fields[name].annotation == Secret | None)
"""Those that must be a secret's place."""


class Document(Table):
    """The whole file, less the sections whose part is not built yet."""

    timezone: Annotated[Text, AfterValidator(_timezone)] | None = None
    passphrase: Secret | None = None
    state_dir: FolderPath
    source: dict[Name, Source] = {}
    repository: dict[Name, Repository] = {}


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A holdfast.toml that has been read."""

    path: Path
    """The file; relative paths in it count from its folder."""
    timezone: str | None
    passphrase: Secret | None
    state_dir: Path
    source: Mapping[str, PostgresSource | FilesSource]
    repository: Mapping[str, Repository]
    later: Mapping[str, Any] = field(default_factory=dict)
    """Sections whose part is not built yet, as written."""
    warnings: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def zone(self) -> tzinfo | None:
        """The time zone; ``None`` is the machine's own, as ``datetime.astimezone`` understands it."""
        return zoneinfo.ZoneInfo(self.timezone) if self.timezone else None

    def passphrase_of(self, repository: str) -> Secret:
        """The repository's own passphrase, else the one for all. Raises ``ConfigError`` where there is neither."""
        secret = self.repository[repository].passphrase or self.passphrase
        if secret is None:
            raise ConfigError(
                _("{file}: repository.{name} has no passphrase").format(file=self.path, name=repository),
                hint=_("Write at the top of the file: {line}").format(
                    line='passphrase = { file = "/etc/holdfast/passphrase" }'
                ),
            )
        return secret
