"""The holdfast.toml that ``init`` writes where there is none: short, explained, ready to be edited."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.errors import ConfigError, PermissionRefused, Refused
from holdfast.messages import _


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialSource:
    name: str
    connection: str
    bin: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialRepository:
    name: str
    url: str
    options: Mapping[str, str] = field(default_factory=dict)
    """Settings of its store that are no secrets."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Settings of its store to the names of the environment variables that hold them."""
    id: str | None = None
    key: str | None = None


def initial_configuration(
    *, timezone: str, state_dir: Path, passphrase_file: Path, source: InitialSource, repository: InitialRepository
) -> str:
    """The text of a new holdfast.toml, its comments in the operator's language."""
    parts = [
        _remark(
            _("Holdfast's configuration. Relative paths count from this file's folder. After a change: holdfast check")
        ),
        [_setting("timezone", timezone)],
        _remark(
            _(
                "The passphrase opens every repository. Keep a copy of it away from this machine: without it nobody "
                "reads the backups."
            )
        ),
        [f"passphrase = {{ file = {_quoted(str(passphrase_file))} }}"],
        _remark(_("History and caches. Can be lost.")),
        [_setting("state_dir", str(state_dir)), ""],
        [f"[source.{source.name}]", _setting("type", "postgres"), _setting("connection", source.connection)],
        [_setting("bin", str(source.bin))] if source.bin else [],
        _remark(_("Before and after a restore in place, for example:")),
        ['# stop = "systemctl stop myapp"', '# start = "systemctl start myapp"'],
        _remark(_("What must hold in a recovered copy, for example:")),
        ['# checks = [{ sql = "select count(*) from …", expect = "> 0" }]', ""],
        [f"[repository.{repository.name}]", _setting("url", repository.url)],
        _store_settings(repository),
        [""],
        _remark(_("Parts to come; they are accepted already, and not acted on:")),
        _LATER.splitlines(),
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


_LATER = """\
# [tier.hourly]
# schedule = "0 * * * *"
# keep = "24 hours"
# [tier.daily]
# schedule = "0 2 * * *"
# keep = "30 days"
# [drill]
# schedule = "0 4 1 * *"
# [web]
# listen = "127.0.0.1:8420"
# [notify.dingtalk]
# webhook = { env = "DINGTALK_WEBHOOK" }"""


def write_initial_configuration(path: Path, text: str, *, group: int | None = None) -> None:
    """Writes a new file, mode 0640 (of ``group``, a group id), and the folders above it.

    Raises ``Refused`` where something lies at ``path`` already, ``PermissionRefused`` or ``ConfigError`` where it
    cannot be written; then nothing lies there.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Refused(
            _("{path} is there already and is never overwritten").format(path=path),
            hint=_("Edit it and run: holdfast check; or name another file with --config."),
        ) from None
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8"))
            if group is not None:
                os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, 0o640)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> ConfigError | PermissionRefused:
    message = _("cannot write {path}: {reason}").format(path=path, reason=error.strerror)
    hint = _("Run the command as a user who may write there, or name another file with --config.")
    return (
        PermissionRefused(message, hint=hint) if isinstance(error, PermissionError) else ConfigError(message, hint=hint)
    )


def _store_settings(repository: InitialRepository) -> Sequence[str]:
    settings = {**repository.options, "id": repository.id, "key": repository.key}
    return [
        *(_setting(name, value) for name, value in settings.items() if value is not None),
        *(f"{name} = {{ env = {_quoted(variable)} }}" for name, variable in repository.variables.items()),
    ]


def _setting(name: str, value: str) -> str:
    return f"{name} = {_quoted(value)}"


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _remark(text: str) -> list[str]:
    return [f"# {line}" for line in text.splitlines()]
