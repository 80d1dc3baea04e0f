"""What ``init`` is asked for, by options or at the terminal, and the configuration that follows from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli.access import as_url
from holdfast.cli.asking import ask, may_ask
from holdfast.cli.session import Session
from holdfast.errors import UsageError
from holdfast.messages import _

if TYPE_CHECKING:
    from holdfast.config import Configuration

_DEFAULT_CONNECTION = "postgresql://holdfast@localhost/postgres"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the options say."""

    source: str | None
    connection: str | None
    url: str | None
    repository: str | None
    options: Mapping[str, str]
    passphrase_file: Path | None
    admin: str | None


def store_options(texts: list[str]) -> dict[str, str]:
    """Which of them the store takes, it says itself when it is opened."""
    from holdfast.config import STORE_OPTIONS, STORE_SECRETS

    names = [name for name in STORE_OPTIONS if name not in STORE_SECRETS]
    found = {}
    for text in texts:
        name, _equals, value = text.partition("=")
        if name not in names or not value:
            raise UsageError(
                _("--option {name} is not one of {names}, with a value").format(name=name, names=", ".join(names)),
                hint=_("Credentials are taken from environment variables: docs/stores.md has their names."),
            )
        found[name] = value
    return found


def ask_for_missing(session: Session, wanted: Wanted) -> Wanted:
    from holdfast.config import default_data_folder

    place = as_url(str(default_data_folder() / "repository"))
    absent = [
        option
        for option, value in (("--connection", wanted.connection), ("--repository-url", wanted.url))
        if value is None
    ]
    if absent and not may_ask(session):
        raise UsageError(
            _("missing: {options}").format(options=", ".join(absent)),
            hint=_("For example: holdfast init --connection {connection} --repository-url {url}").format(
                connection=_DEFAULT_CONNECTION, url=place
            ),
        )
    connection = wanted.connection or ask(_("Connection to PostgreSQL"), _DEFAULT_CONNECTION)
    url = wanted.url or as_url(ask(_("Where the backups go: a folder, or s3://bucket/prefix"), place))
    source = wanted.source or _source_name(connection)
    return replace(
        wanted,
        connection=connection,
        url=url,
        source=source,
        repository=wanted.repository or ("local" if url.startswith("file:") else "remote"),
    )


def _source_name(connection: str) -> str:
    from holdfast.postgres.connection import read_connection_string

    database = str(read_connection_string(connection).get("dbname") or "")
    name = re.sub(r"[^a-z0-9_]+", "_", database.lower()).lstrip("0123456789_")[:40]
    return name if name and name != "postgres" else "main"


def without_password(connection: str) -> str:
    """The connection without its password, for looking at the configuration before any file is written."""
    from holdfast.cli.server_access import render
    from holdfast.postgres.connection import read_connection_string

    words = {name: str(value) for name, value in read_connection_string(connection).items()}
    return connection if words.pop("password", None) is None else render(words)


def text_of(wanted: Wanted, folder: Path, connection: str) -> str:
    from holdfast.cli.places import machine_zone
    from holdfast.config import InitialRepository, InitialSource, default_state_folder, initial_configuration
    from holdfast.wiring import variables_at_hand

    assert wanted.source is not None
    assert wanted.repository is not None
    assert wanted.url is not None
    return initial_configuration(
        timezone=machine_zone(),
        state_dir=default_state_folder(),
        passphrase_file=wanted.passphrase_file or folder / "passphrase",
        source=InitialSource(name=wanted.source, connection=connection),
        repository=InitialRepository(
            name=wanted.repository,
            url=wanted.url,
            options=wanted.options,
            variables=variables_at_hand(wanted.url, wanted.options),
        ),
    )


def refuse_other(wanted: Wanted, configuration: Configuration) -> None:
    """Options that say something else than the configuration: it is not changed, so they would have no effect."""
    there = {repository.url.rstrip("/") for repository in configuration.repository.values()}
    known = {source.connection for source in configuration.source.values() if source.type == "postgres"}
    contradicted = [
        option
        for option, contradicts in (
            ("--repository-url", wanted.url is not None and wanted.url.rstrip("/") not in there),
            ("--repository", wanted.repository is not None and wanted.repository not in configuration.repository),
            ("--source", wanted.source is not None and wanted.source not in configuration.source),
            ("--connection", wanted.connection is not None and without_password(wanted.connection) not in known),
        )
        if contradicts
    ]
    if contradicted:
        raise UsageError(
            _("{path} is there and says otherwise than {options}").format(
                path=configuration.path, options=", ".join(contradicted)
            ),
            hint=_("Edit it, then run holdfast init without these options; or name another file with --config."),
        )
