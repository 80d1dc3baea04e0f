"""Folders and names on an SFTP server: what is there, what is certainly not, and the mark of a store.

Version 3 of the protocol says "Failure" to a file where a folder would have to be, to a disk that cannot be read and to
much else: what is not certainly absent is looked into along its path, and never taken for absent in doubt.
"""

from __future__ import annotations

import stat
from contextlib import suppress

import asyncssh

from holdfast.messages import _
from holdfast.store.failures import Unmarked
from holdfast.store.folder import MARK
from holdfast.store.sftp_access import Access

ABSENT = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)
"""The server says that the path leads to nothing."""
UNCLEAR = (
    *ABSENT,
    asyncssh.SFTPFailure,
    asyncssh.SFTPFileAlreadyExists,
    asyncssh.SFTPFileIsADirectory,
    asyncssh.SFTPNotADirectory,
)
"""Answers that must be looked into."""


def mark_of(access: Access) -> str:
    """The folder that marks a store, as in the folder store."""
    return f"{access.root}/{MARK}"


def is_a(found: asyncssh.SFTPAttrs, *kinds: int) -> bool:
    """``kinds``: ``stat.S_IFDIR`` and the like."""
    return stat.S_IFMT(found.permissions or 0) in kinds


async def require_mark(client: asyncssh.SFTPClient, access: Access) -> None:
    """Raises ``Unmarked`` where there is no store."""
    with suppress(*UNCLEAR):
        if is_a(await client.stat(mark_of(access)), stat.S_IFDIR):
            return
    raise Unmarked(
        _("no store at {store}").format(store=access.url),
        hint=_(
            "Mount the disk on the server if it is not mounted, or correct the URL; "
            "for a store that was copied there without its hidden files, create the empty folder {mark}."
        ).format(mark=mark_of(access)),
    )


async def make_folder(client: asyncssh.SFTPClient, path: str) -> None:
    """Makes ``path`` and what leads to it. Other makers may be at it too."""
    missing: list[str] = []
    while path not in ("", "/"):
        with suppress(*UNCLEAR):
            if is_a(await client.stat(path), stat.S_IFDIR):
                break
        missing.append(path)
        path = path.rpartition("/")[0]
    for folder in reversed(missing):
        try:
            await client.mkdir(folder, asyncssh.SFTPAttrs(permissions=0o700))
        except UNCLEAR:
            if not await client.isdir(folder):
                raise


async def is_absent(
    client: asyncssh.SFTPClient, access: Access, name: str, error: asyncssh.SFTPError, *, folder: bool = False
) -> bool:
    """Whether ``error``, one of ``UNCLEAR``, means that there is no object ``name``, or no such ``folder``.

    Raises ``Unmarked``: then nothing is known of any object.
    """
    parts = [part for part in name.split("/") if part]
    if not isinstance(error, ABSENT) and not await _leads_nowhere(client, access.root, parts, folder=folder):
        return False
    await require_mark(client, access)
    return True


async def _leads_nowhere(client: asyncssh.SFTPClient, root: str, parts: list[str], *, folder: bool) -> bool:
    for depth in range(len(parts), -1, -1):
        try:
            found = await client.stat("/".join([root, *parts[:depth]]))
        except ABSENT:
            return True
        except UNCLEAR:
            continue
        is_folder = is_a(found, stat.S_IFDIR)
        return is_folder != folder if depth == len(parts) else not is_folder
    return False
