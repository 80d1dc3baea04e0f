"""Who runs a PostgreSQL server: PostgreSQL refuses root, so root hands over to somebody less.

The account that owns the data directory, else ``postgres``, else ``nobody``. Such an account often cannot enter the
folder that root works in (``/root`` is 0700), which PostgreSQL would report misleadingly: that is looked at first.
"""

from __future__ import annotations

import os
import pwd
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from holdfast.errors import HoldfastError, Refused, UsageError
from holdfast.messages import _


class Identity(TypedDict, total=False):
    """Arguments of :class:`subprocess.Popen` that make the child somebody else."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    name: str
    uid: int
    gid: int

    @property
    def identity(self) -> Identity:
        """Empty for this process's own account: only root may become another."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def give(self, path: Path) -> None:
        """Make ``path``, not what it links to, this account's own."""
        if self.uid != os.geteuid():
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def server_account(data_dir: Path | None = None) -> Account:
    """This process's own account, unless it is root: then the owner of ``data_dir``, ``postgres`` or ``nobody``."""
    if os.geteuid() != 0:
        return _by_uid(os.geteuid(), os.getegid())
    if data_dir is not None:
        with suppress(FileNotFoundError):
            owner = data_dir.stat()
            if owner.st_uid != 0:
                return _by_uid(owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise HoldfastError(
        _("root cannot run PostgreSQL, and there is neither a user postgres nor a user nobody"),
        hint=_("Create a user for it: useradd --system postgres."),
    )


def database_account() -> Account:
    """To whom somebody's data may be given: this process's own account, unless it is root: then ``postgres``.

    Never ``nobody``, whom services share that have nothing to do with the data.
    """
    if os.geteuid() != 0:
        return server_account()
    try:
        entry = pwd.getpwnam("postgres")
    except KeyError:
        raise UsageError(
            _("there is no user postgres on this machine to run PostgreSQL"),
            hint=_("Install PostgreSQL, which creates it, or name the user that will run it: --owner USER."),
        ) from None
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


def _by_uid(uid: int, gid: int) -> Account:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:  # a container's arbitrary user
        return Account(name=str(uid), uid=uid, gid=gid)
    return Account(name=entry.pw_name, uid=uid, gid=entry.pw_gid)


def closed_folder(path: Path, account: Account) -> Path | None:
    """The first folder on the way to ``path`` that ``account`` cannot enter; None if it gets there.

    By owner, group and others, as the kernel looks at them; access control lists are not read.
    """
    path = path.resolve()
    for folder in [*reversed(path.parents), path]:
        if not folder.is_dir():
            break
        found = folder.stat()
        bit = (
            stat.S_IXUSR
            if found.st_uid == account.uid
            else stat.S_IXGRP
            if found.st_gid == account.gid
            else stat.S_IXOTH
        )
        if account.uid != 0 and not found.st_mode & bit:
            return folder
    return None


def check_data_directory(data_dir: Path, account: Account) -> None:
    """Raises :class:`~holdfast.errors.Refused` if ``account`` cannot get there, or does not own it, as it must."""
    owner = data_dir.stat().st_uid
    if owner != account.uid:
        raise Refused(
            _("{directory} does not belong to {account}, who is to run PostgreSQL on it").format(
                directory=data_dir, account=account.name
            ),
            hint=_("Run chown -R {account} {directory}, then start it again.").format(
                directory=data_dir, account=account.name
            ),
        )
    if closed := closed_folder(data_dir, account):
        raise Refused(
            _("{account}, who is to run PostgreSQL, cannot enter {folder}").format(account=account.name, folder=closed),
            hint=_(
                "Restore to a folder that {account} can reach, for example under /var/lib, or open this one."
            ).format(account=account.name),
        )
