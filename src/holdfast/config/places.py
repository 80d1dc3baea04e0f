"""Where holdfast.toml is looked for, and where Holdfast keeps its things when nobody says otherwise.

Configuration runs commands (``stop``, ``{ command = … }``), so a file that merely lies in the working directory counts
only at a terminal, and only if nobody but the caller can have written it.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from holdfast.config.secret import owner_name
from holdfast.errors import ConfigError
from holdfast.messages import _

FILE_NAME = "holdfast.toml"
SYSTEM_FOLDER = Path("/etc/holdfast")


def find_configuration(
    named: Path | None = None,
    *,
    at_terminal: bool,
    working_folder: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    system_folder: Path = SYSTEM_FOLDER,
) -> Path | None:
    """The configuration file to use, or ``None`` if there is none.

    In this order: ``named`` (``--config``), ``HOLDFAST_CONFIG``, the working directory, the user's configuration
    folder (``$XDG_CONFIG_HOME``, else ``~/.config``), the system's. Raises ``ConfigError`` for a named file that is
    not there, and for one in the working directory that somebody else may have written.
    """
    variable = environment.get("HOLDFAST_CONFIG")
    if named is not None or variable:
        path = Path(named if named is not None else str(variable)).absolute()
        if not _there(path):
            origin = "--config" if named is not None else "HOLDFAST_CONFIG"
            raise ConfigError(
                _("{origin} names {path}, which does not exist").format(origin=origin, path=path),
                hint=_("Correct the path, or write a new configuration with: holdfast init"),
            )
        return path
    if at_terminal:
        here = (working_folder or Path.cwd()) / FILE_NAME
        if _there(here):
            _demand_ours(here)
            return here
    return next((path for path in _standing_places(environment, system_folder) if _there(path)), None)


def searched_places(environment: Mapping[str, str] = os.environ, system_folder: Path = SYSTEM_FOLDER) -> list[Path]:
    """Where a configuration may lie that nobody named, for the message that there is none."""
    return list(_standing_places(environment, system_folder))


def default_configuration_file(*, root: bool | None = None, environment: Mapping[str, str] = os.environ) -> Path:
    """Where ``init`` writes a new file: root's in ``/etc/holdfast``, a user's in the XDG configuration folder."""
    user = None if _is_root(root) else _user_folder("XDG_CONFIG_HOME", ".config", environment)
    return (user or SYSTEM_FOLDER) / FILE_NAME


def default_data_folder(*, root: bool | None = None, environment: Mapping[str, str] = os.environ) -> Path:
    """Where a repository on this machine goes by default."""
    user = None if _is_root(root) else _user_folder("XDG_DATA_HOME", ".local/share", environment)
    return user or Path("/var/lib/holdfast")


def default_state_folder(*, root: bool | None = None, environment: Mapping[str, str] = os.environ) -> Path:
    """History and caches: what can be lost. For root, too, ``XDG_STATE_HOME`` counts where it is set."""
    chosen = Path(environment.get("XDG_STATE_HOME", "")).is_absolute()
    user = None if _is_root(root) and not chosen else _user_folder("XDG_STATE_HOME", ".local/state", environment)
    return user or Path("/var/lib/holdfast/state")


def _standing_places(environment: Mapping[str, str], system_folder: Path) -> Iterator[Path]:
    user = _user_folder("XDG_CONFIG_HOME", ".config", environment)
    if user:
        yield user / FILE_NAME
    yield system_folder / FILE_NAME


def _user_folder(variable: str, below_home: str, environment: Mapping[str, str]) -> Path | None:
    """XDG Base Directory Specification (a relative path in the variable is ignored); ``None`` without a home."""
    folder = Path(environment.get(variable, ""))
    if folder.is_absolute():
        return folder / "holdfast"
    try:
        home = Path(environment["HOME"]) if environment.get("HOME") else Path.home()
    except RuntimeError:  # a user that the system does not know, as in some containers
        return None
    return home / below_home / "holdfast"


def _is_root(told: bool | None) -> bool:  # noqa: FBT001
    return os.geteuid() == 0 if told is None else told


def _there(path: Path) -> bool:
    """Whether something lies there; what may not be looked at does, so that it is not passed over in silence."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _demand_ours(path: Path) -> None:
    status, link = path.stat(), path.lstat()
    mode = stat.S_IMODE(status.st_mode)
    foreign = next((uid for uid in (status.st_uid, link.st_uid) if uid != os.geteuid()), None)
    if foreign is not None:
        raise ConfigError(
            _("{path} lies in the working directory and belongs to {owner}: it could run commands as you").format(
                path=path, owner=owner_name(foreign)
            ),
            hint=_("If you trust it: holdfast --config {path} …; else run holdfast in another directory.").format(
                path=shlex.quote(str(path))
            ),
        )
    if mode & 0o022:
        raise ConfigError(
            _("{path} lies in the working directory and others may write to it (mode {mode:04o})").format(
                path=path, mode=mode
            ),
            hint=_("Look through it, then: chmod go-w {path}").format(path=shlex.quote(str(path))),
        )
