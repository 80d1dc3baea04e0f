"""A folder on an SFTP server as a store: laid out like the folder store, which can open it where it lies.

::

    root/                     0700
      .holdfast-store/        marks the root: without it the disk is not mounted, however empty the folder looks
        4f1c….tmp             an object being written
      data/ab/ab12…           0600, linked here when its bytes were synced

Writing is: a temporary file; fsync, where the server offers it; a hard link (which refuses a name that is taken) or,
for a plain put, a rename that replaces; and fsync again, which makes the new name durable on the usual file systems of
a server (SFTP cannot sync a directory). Without ``fsync@openssh.com`` what was put is safe from this machine's crash,
not from the server's: :meth:`SftpStore.traits` says so. Without ``posix-rename@openssh.com`` an object that is
replaced is absent for a moment; without ``hardlink@openssh.com`` create-if-absent is the server's rename, exclusive
on some servers and not on others: probing tells.
"""

from __future__ import annotations

import asyncio
import os
import stat
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import asyncssh

from holdfast.messages import _
from holdfast.store import calls
from holdfast.store.calls import TimeLimits
from holdfast.store.failures import Operation, missing
from holdfast.store.names import check_name, check_prefix, check_range, is_name
from holdfast.store.port import Bytes, Listed, Traits
from holdfast.store.probing import creates_exclusively
from holdfast.store.sftp_access import Access
from holdfast.store.sftp_answers import OURS, failure
from holdfast.store.sftp_connection import Connections
from holdfast.store.sftp_paths import ABSENT, UNCLEAR, is_a, is_absent, make_folder, mark_of, require_mark
from holdfast.store.sftp_writing import Writing

T = TypeVar("T")

_FOLDERS_AT_ONCE = 16


class SftpStore:
    def __init__(self, access: Access, *, create: bool = False, limits: TimeLimits | None = None) -> None:
        """No connection is made yet; with ``create`` the first call makes and marks the folder, if need be.

        Raises ``ConfigError`` for a private key or known hosts that cannot be read.
        """
        self._access = access
        self._limits = limits or TimeLimits()
        self._to_create = create
        self._tidied = False
        self._syncs: bool | None = None
        self._connections = Connections(access, limit_s=self._limits.base_s)
        weakref.finalize(self, self._connections.close)

    @property
    def url(self) -> str:
        return self._access.url

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        check_name(name)
        content = data if isinstance(data, bytes) else bytes(data)

        async def put(client: asyncssh.SFTPClient) -> None:
            writing = Writing(client, self._access, name=name, content=content)
            self._syncs = await writing.put(if_absent=if_absent, tidy=not self._tidied)
            self._tidied = True

        self._call(put, Operation.PUT, name, size=len(content))

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        check_name(name)
        check_range(start, length)

        async def get(client: asyncssh.SFTPClient) -> bytes:
            return await self._get(client, name, start, length)

        return self._call(get, Operation.GET, name, size=length)

    def list(self, prefix: str) -> Iterator[Listed]:
        check_prefix(prefix)
        folders = [prefix]
        while folders:
            some, folders = folders[:_FOLDERS_AT_ONCE], folders[_FOLDERS_AT_ONCE:]

            async def scan(client: asyncssh.SFTPClient, some: Sequence[str] = some) -> Sequence[_Scanned]:
                return await asyncio.gather(*(_scan(client, self._access, folder) for folder in some))

            for scanned in self._call(scan, Operation.LIST, prefix, size=None):
                folders += scanned.folders
                yield from scanned.objects
        # A disk that is not mounted looks like an empty folder.
        self._call(lambda client: require_mark(client, self._access), Operation.LIST, prefix, size=0)

    def delete(self, name: str) -> None:
        check_name(name)

        async def delete(client: asyncssh.SFTPClient) -> None:
            try:
                await client.remove(f"{self._access.root}/{name}")
            except UNCLEAR as error:
                if not await is_absent(client, self._access, name, error):
                    raise

        self._call(delete, Operation.DELETE, name, size=0)

    def exclusive_create(self) -> bool:
        return creates_exclusively(self)

    def traits(self, name: str) -> Traits:
        check_name(name)
        return Traits(syncs=self._syncs)

    def _call(
        self, work: Callable[[asyncssh.SFTPClient], Awaitable[T]], operation: Operation, name: str, *, size: int | None
    ) -> T:
        async def begin() -> T:
            async with self._connections.client() as client:
                if self._to_create:
                    await make_folder(client, mark_of(self._access))
                    self._to_create = False
                return await work(client)

        try:
            return calls.call(begin, limit_s=self._limits.for_bytes(size))
        except OURS as error:
            raised = failure(error, self._access, operation, name)
        raise raised

    async def _get(self, client: asyncssh.SFTPClient, name: str, start: int, length: int | None) -> bytes:
        try:
            return await _read(client, f"{self._access.root}/{name}", start, length)
        except UNCLEAR as error:
            if await is_absent(client, self._access, name, error):
                raise missing(name, self.url) from None
            raise


async def _read(client: asyncssh.SFTPClient, path: str, start: int, length: int | None) -> bytes:
    file = await client.open(path, "rb")
    try:
        found = await file.stat()
        if is_a(found, stat.S_IFDIR):
            raise asyncssh.SFTPFailure(_("it is a folder"))
        size = found.size or 0
        end = size if length is None else min(size, start + length)
        data = await file.read(end - start, start) if end > start else b""
    except asyncssh.SFTPError:
        with suppress(asyncssh.SFTPError):
            await file.close()
        raise
    with suppress(asyncssh.SFTPError):
        await file.close()
    assert isinstance(data, bytes)
    if len(data) != max(end - start, 0):
        raise asyncssh.SFTPFailure(_("fewer bytes came than the object has"))
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scanned:
    folders: Sequence[str]
    """Prefixes to look into next."""
    objects: Sequence[Listed]


async def _scan(client: asyncssh.SFTPClient, access: Access, prefix: str) -> _Scanned:
    """What lies in the folder of ``prefix``; nothing where there is no such folder."""
    folder = f"{access.root}/{prefix}".rstrip("/").encode()  # bytes: foreign names may be in any encoding
    try:
        entries = [entry async for entry in client.scandir(folder)]
    except UNCLEAR as error:
        if await is_absent(client, access, prefix, error, folder=True):
            return _Scanned(folders=(), objects=())
        raise
    folders: list[str] = []
    objects: list[Listed] = []
    for entry in entries:
        name = prefix + os.fsdecode(entry.filename)
        if not is_name(name):
            continue
        found: asyncssh.SFTPAttrs | None = entry.attrs
        if found is None or not is_a(found, stat.S_IFDIR, stat.S_IFREG):
            found = await _target(client, f"{access.root}/{name}")
        if found is None:
            continue
        if is_a(found, stat.S_IFDIR):
            folders.append(name + "/")
        elif is_a(found, stat.S_IFREG):
            modified = datetime.fromtimestamp(found.mtime or 0, UTC)
            objects.append(Listed(name=name, size=found.size or 0, modified=modified))
    return _Scanned(folders=folders, objects=objects)


async def _target(client: asyncssh.SFTPClient, path: str) -> asyncssh.SFTPAttrs | None:
    """Of a symbolic link; None where it leads nowhere."""
    try:
        return await client.stat(path)
    except ABSENT:
        return None
