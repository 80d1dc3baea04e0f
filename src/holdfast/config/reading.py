"""From the text of a holdfast.toml to a :class:`Configuration`, or to one error that names every mistake in it."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError

from holdfast.config.mistakes import Mistake, dotted, in_words, near, refusal, unknown
from holdfast.config.model import (
    STORE_SECRETS,
    TEXTS_OR_SECRETS,
    Check,
    Configuration,
    Document,
    FilesSource,
    PostgresSource,
    Repository,
    Wal,
)
from holdfast.config.places import default_state_folder
from holdfast.config.secret import Secret, group_name, owner_name
from holdfast.errors import ConfigError
from holdfast.messages import _

LATER = ("tier", "verify", "drill", "web", "notify")
"""Sections whose part is not built yet: accepted as they stand, with a warning each."""

_TYPOGRAPHIC = "“”‘’「」＝，：［］｛｝＃．"


def read_configuration(path: Path) -> Configuration:
    """The configuration in the file ``path``. Raises ``ConfigError``."""
    path = Path(os.path.abspath(path))  # noqa: PTH100  not resolve(): paths count from where the link lies
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            _("the configuration file {path} does not exist").format(path=path),
            hint=_("Name another with --config, or write one with: holdfast init"),
        ) from None
    except PermissionError:
        raise unreadable(path) from None
    except OSError as error:
        raise ConfigError(
            _("cannot read the configuration file {path}: {reason}").format(path=path, reason=error.strerror),
            hint=_("Name another with --config."),
        ) from None
    return parse_configuration(decoded(content, path), path.parent, file=path.name)


def parse_configuration(text: str, folder: Path, *, file: str = "holdfast.toml") -> Configuration:
    """The configuration in ``text``, were it the file ``folder/file``. Reads nothing. Raises ``ConfigError``."""
    path = folder / file
    document = tables(text, path)
    later, warnings = _set_aside(document)
    mistakes = [
        unknown([key], {*Document.model_fields, *LATER}) for key in document if key not in Document.model_fields
    ]
    known = {key: value for key, value in document.items() if key in Document.model_fields}
    known.setdefault("state_dir", str(default_state_folder()))
    checked: Document | None = None
    try:
        checked = Document.model_validate(known, context={"folder": folder})
    except ValidationError as error:
        for details in error.errors(include_url=False):
            place = _place(details["loc"])
            mistakes.append(in_words(details, place, _settings(place)))
    if checked is not None:
        mistakes += _unknown_repositories(checked) + _same_places(checked)
    if checked is None or mistakes:
        raise refusal(str(path), mistakes)
    return Configuration(
        path=path,
        timezone=checked.timezone,
        passphrase=checked.passphrase,
        state_dir=checked.state_dir,
        source=checked.source,
        repository=checked.repository,
        later=later,
        warnings=tuple(warnings + _passwords(checked)),
    )


def decoded(content: bytes, path: Path) -> str:
    """The text of a file in UTF-8, with or without the mark that some editors put before it."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            _("{file}: line {line} is not UTF-8 text").format(file=path, line=line),
            hint=_("Save the file as UTF-8 in your editor; from GBK: {command}").format(
                command=f"iconv -f GBK -t UTF-8 {path.name}"
            ),
        ) from None


def tables(text: str, path: Path) -> dict[str, Any]:
    """The TOML document in ``text``. Raises ``ConfigError`` with the line."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        _not_toml(text, path, str(error))
    except RecursionError:
        _not_toml(text, path, _("nested too deeply"))


def unreadable(path: Path) -> ConfigError:
    """The error for a file that this user may not read, with who may."""
    try:
        status = path.stat()
        owner, group = owner_name(status.st_uid), group_name(status.st_gid)
        hint = _("It belongs to {owner} and the group {group}; run for example: sudo -u {owner} holdfast …").format(
            owner=owner, group=group
        )
    except OSError:
        hint = _("Run the command as the user whom the file serves, for example: sudo -u postgres holdfast …")
    return ConfigError(
        _("the configuration file {path} may not be read by the user {user}").format(
            path=path, user=owner_name(os.geteuid())
        ),
        hint=hint,
    )


def _not_toml(text: str, path: Path, reason: str) -> NoReturn:
    found = re.search(r"\(at line (\d+)", reason)
    lines = text.split("\n")
    number = int(found[1]) if found else len(lines)
    line = lines[min(number, len(lines)) - 1]
    strange = next((character for character in line if character in _TYPOGRAPHIC), "")
    hint = _("Correct line {line}; holdfast.toml is written in TOML: text stands in quotes.").format(line=number)
    if strange:
        hint = _("Line {line} holds {character}, a typographic or full-width character: use plain ASCII there.").format(
            line=number, character=strange
        )
    raise ConfigError(_("{file}: not TOML: {reason}").format(file=path, reason=_lower(reason)), hint=hint) from None


def _lower(reason: str) -> str:
    return reason[:1].lower() + reason[1:]


def _set_aside(document: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Takes what isn't built yet out of ``document``; gives it back, and a warning for each."""
    later = {name: document.pop(name) for name in LATER if name in document}
    warnings = [
        _("[{section}] is accepted and not acted on: this version of Holdfast does not have that part yet").format(
            section=name
        )
        for name in later
    ]
    sources = document.get("source")
    if not isinstance(sources, dict):
        return later, warnings
    for name, source in list(sources.items()):
        if isinstance(source, dict) and source.get("type") == "dump":
            later[dotted(["source", name])] = sources.pop(name)
            part = 'type = "dump"'
        elif isinstance(source, dict) and source.get("type") == "files" and "mirror" in source:
            part = "mirror"
        else:
            continue
        warnings.append(
            _(
                "{place}: {part} is accepted and not acted on: this version of Holdfast does not have that part yet"
            ).format(place=dotted(["source", name]), part=part)
        )
    return later, warnings


def _place(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Where a finding lies in the file: pydantic's location less the names of its own branches."""
    parts = list(location)
    if parts[0] == "source" and len(parts) > 2 and parts[2] in ("postgres", "files"):
        del parts[2]
    for number, part in enumerate(parts):
        if parts[0] == "repository" and number == 2 and part in TEXTS_OR_SECRETS:
            del parts[number + 1 : number + 2]
    if parts and parts[-1] == "[key]":
        del parts[-1]
    return tuple(parts)


def _settings(place: tuple[int | str, ...]) -> set[str]:
    """The settings of the table in which ``place`` stands."""
    names = [part for part in place[:-1] if isinstance(part, str)]
    models: list[type[BaseModel]] = []
    if names and names[-1] in ("passphrase", *TEXTS_OR_SECRETS, *STORE_SECRETS):
        models = [Secret]
    elif names and names[-1] in ("wal", "checks"):
        models = [Wal if names[-1] == "wal" else Check]
    elif names and names[0] == "source":
        models = [PostgresSource, FilesSource]
    elif names and names[0] == "repository":
        models = [Repository]
    return {field.alias or name for model in models for name, field in model.model_fields.items()}


def _unknown_repositories(document: Document) -> list[Mistake]:
    mistakes = []
    for name, source in document.source.items():
        for number, wanted in enumerate(source.wal.to if isinstance(source, PostgresSource) else ()):
            if wanted not in document.repository:
                meant = near(wanted, document.repository)
                mistakes.append(
                    Mistake(
                        key=dotted(["source", name, "wal", "to", number]),
                        message=_('names "{name}", and there is no [repository.{name}]').format(name=wanted),
                        hint=_('Did you mean "{name}"?').format(name=meant) if meant else "",
                    )
                )
    return mistakes


def _same_places(document: Document) -> list[Mistake]:
    """Two repositories in one place would mint two keys there."""
    seen: dict[tuple[str, str | None, str], str] = {}
    mistakes = []
    for name, repository in document.repository.items():
        place = (repository.url.rstrip("/"), repository.endpoint, repr(repository.account_name))
        if place in seen:
            mistakes.append(
                Mistake(
                    key=dotted(["repository", name, "url"]),
                    message=_("is the same as that of repository.{other}").format(other=seen[place]),
                    hint=_("Remove one of the two, or give it a place of its own."),
                )
            )
        seen.setdefault(place, name)
    return mistakes


def _passwords(document: Document) -> list[str]:
    return [
        _(
            "source.{name}.connection holds a password that everybody who reads this file sees: put it into ~/.pgpass"
        ).format(name=name)
        for name, source in document.source.items()
        if isinstance(source, PostgresSource)
        and re.search(r"://[^/@\s]*:[^/@\s]+@|\bpassword\s*=\s*\S", source.connection)
    ]
