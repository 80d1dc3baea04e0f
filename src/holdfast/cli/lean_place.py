"""Where ``wal push`` and ``wal fetch`` ask, found without importing what reads the configuration.

Which holdfast.toml counts follows the rules of ``config.places``; of its content only the names of the sources and
``state_dir`` are looked at. Wherever the ordinary way would have something to say, this one says nothing and gives up.
"""

# ruff: noqa: PTH100, PTH109, PTH111, PTH116, PTH117, PTH118, PTH120, PTH123

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing itself is not imported
if TYPE_CHECKING:
    from collections.abc import Iterator


class NotPlain(Exception):
    """The ordinary way is to be taken."""


class Place:
    """What the configuration says of where to ask."""

    __slots__ = ("config", "source", "state_dir")

    def __init__(self, config: str, source: str, state_dir: str) -> None:
        self.config = config
        self.source = source
        self.state_dir = state_dir

    @property
    def receiver(self) -> str:
        """As ``WalSettings.socket`` has it."""
        return os.path.join(self.state_dir, "run", f"{self.source}.sock")

    @property
    def spool(self) -> str:
        return os.path.join(self.state_dir, "spool", self.source)


def find_place(named: str | None, wanted: str | None) -> Place:
    """Raises ``NotPlain`` wherever the ordinary way would have something to say."""
    path = find_configuration(named)
    import tomllib

    with open(path, "rb") as file:
        document = tomllib.loads(file.read().decode("utf-8-sig"))
    known = [name for name, source in document["source"].items() if source["type"] == "postgres"]
    if wanted is None and len(known) != 1:
        raise NotPlain
    source = known[0] if wanted is None else wanted
    if source not in known or not source.replace("_", "").isalnum():
        raise NotPlain
    folder = document.get("state_dir")
    state_dir = default_state_folder() if folder is None else os.path.join(os.path.dirname(path), folder)
    return Place(path, source, state_dir)


def find_configuration(named: str | None) -> str:
    variable = os.environ.get("HOLDFAST_CONFIG")
    if named is not None or variable:
        return os.path.abspath(named if named is not None else str(variable))
    if _at_terminal():
        here = os.path.join(os.getcwd(), "holdfast.toml")
        if _there(here):
            if not _is_ours(here):
                raise NotPlain
            return here
    for path in _standing_places():
        if _there(path):
            return path
    raise NotPlain


def default_state_folder() -> str:
    chosen = os.path.isabs(os.environ.get("XDG_STATE_HOME", ""))
    user = None if os.geteuid() == 0 and not chosen else _user_folder("XDG_STATE_HOME", ".local/state")
    return user or "/var/lib/holdfast/state"


def _standing_places() -> Iterator[str]:
    user = _user_folder("XDG_CONFIG_HOME", ".config")
    if user:
        yield os.path.join(user, "holdfast.toml")
    yield "/etc/holdfast/holdfast.toml"


def _user_folder(variable: str, below_home: str) -> str | None:
    folder = os.environ.get(variable, "")
    if os.path.isabs(folder):
        return os.path.join(folder, "holdfast")
    home = os.path.expanduser("~")
    return None if home == "~" else os.path.join(home, below_home, "holdfast")


def _at_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False


def _there(path: str) -> bool:
    try:
        os.stat(path)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _is_ours(path: str) -> bool:
    status, link = os.stat(path), os.lstat(path)
    return status.st_uid == link.st_uid == os.geteuid() and not status.st_mode & 0o022
