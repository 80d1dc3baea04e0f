"""Where the PostgreSQL programs of one major version are: a data directory runs with its own version only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from holdfast.errors import HoldfastError
from holdfast.messages import _

_USUAL = (
    "/usr/lib/postgresql/{major}/bin",  # Debian, Ubuntu
    "/usr/pgsql-{major}/bin",  # PGDG on Red Hat and its like
    "/usr/lib/postgresql{major}/bin",  # SUSE, Alpine
    "/usr/libexec/postgresql{major}",  # Alpine
    "/opt/homebrew/opt/postgresql@{major}/bin",
    "/usr/local/opt/postgresql@{major}/bin",
    "/Applications/Postgres.app/Contents/Versions/{major}/bin",
    "/usr/local/pgsql/bin",  # PostgreSQL's own default
    "/usr/bin",  # Red Hat's and Arch's own packages
)
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


def find_binaries(major: int, extra: Sequence[Path] = (), *, search_path: str | None = None) -> Path:
    """The folder that holds ``postgres``, ``pg_ctl`` and ``initdb`` of that version.

    Looked for in ``extra``, then on ``search_path`` (default: PATH), then where distributions put it. Raises
    :class:`~holdfast.errors.HoldfastError` that names the folders it looked in.
    """
    path = os.environ.get("PATH", os.defpath) if search_path is None else search_path
    folders = list(_folders(major, extra, path))
    for folder in folders:
        if version_of(folder) == major:
            return folder
    looked = ", ".join(str(folder) for folder in folders)
    raise HoldfastError(
        _("PostgreSQL {major} is not installed: looked in {folders}").format(major=major, folders=looked),
        hint=_(
            "Install it (on Debian and Ubuntu: apt-get install postgresql-{major}; the package repository of"
            " postgresql.org has every version), or name the folder of its programs."
        ).format(major=major),
    )


def _folders(major: int, extra: Sequence[Path], path: str) -> Iterable[Path]:
    found = [*extra]
    on_path = shutil.which("postgres", path=path) if path else None
    if on_path is not None:
        found += [Path(on_path).parent, Path(on_path).resolve().parent]
    found += [Path(usual.format(major=major)) for usual in _USUAL]
    return dict.fromkeys(found)


def version_of(folder: Path) -> int | None:
    """The major version of the server in ``folder``; None if there is none, or not all that belongs to it."""
    if not all(os.access(folder / name, os.X_OK) for name in ("postgres", "pg_ctl", "initdb")):
        return None
    try:
        done = subprocess.run(
            [folder / "postgres", "--version"],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(done.stdout)
    return int(match[1]) if match and done.returncode == 0 else None
