"""How one object is written to an SFTP server: complete under a temporary name, synced, then under its own.

What failed on the server is looked into before it is reported, since version 3 of the protocol says "Failure" to a full
disk, to a name that is taken and to a folder that is not there alike.
"""

from __future__ import annotations

import secrets
from contextlib import suppress

import asyncssh

from holdfast.errors import HoldfastError, NoSpace, PermissionRefused
from holdfast.messages import _
from holdfast.store.failures import Operation, cannot, exists
from holdfast.store.sftp_access import Access
from holdfast.store.sftp_paths import UNCLEAR, make_folder, mark_of, require_mark

_LEFTOVER_S = 24 * 3600
_SLACK = 64 << 10
"""Less than this beside the object, in bytes, and a failure is taken for a full disk."""
_READ_ONLY = 1
"""Flag ``SSH_FXE_STATVFS_ST_RDONLY`` of OpenSSH's PROTOCOL file, section 4.4."""


class Writing:
    """One put over one connection."""

    def __init__(self, client: asyncssh.SFTPClient, access: Access, *, name: str, content: bytes) -> None:
        self._client = client
        self._access = access
        self._name = name
        self._content = content
        self._final = f"{access.root}/{name}"
        self._temporary = f"{mark_of(access)}/{secrets.token_hex(16)}.tmp"

    async def put(self, *, if_absent: bool, tidy: bool) -> bool:
        """Whether the server synced what it took. With ``tidy``, temporary files of yesterday are removed too.

        Raises ``ObjectExists``, ``Unmarked``, ``NoSpace``, ``PermissionRefused``, or what asyncssh raises. Broken off
        by an interrupt or the end of its time, it leaves the temporary file behind, for somebody's ``tidy``.
        """
        try:
            file = await self._client.open(self._temporary, "xb", asyncssh.SFTPAttrs(permissions=0o600))
        except UNCLEAR:
            await require_mark(self._client, self._access)
            if full := await self._full():
                raise full from None
            raise
        try:
            await file.write(self._content)
            synced = await _sync(file)
            if not synced:
                await file.close()  # an error that the server kept back until now counts
            await self._publish(if_absent=if_absent)
            if synced:
                await file.fsync()  # makes the name durable too, where a sync commits the file system's journal
                await file.close()
        except (asyncssh.SFTPError, HoldfastError) as error:
            full = await self._full() if isinstance(error, asyncssh.SFTPFailure) else None  # before there is room again
            with suppress(asyncssh.SFTPError):
                await file.close()
            await self._remove_temporary()
            if full:
                raise full from None
            raise
        if tidy:
            await self._tidy()
        return synced

    async def _publish(self, *, if_absent: bool) -> None:
        try:
            await (self._create() if if_absent else self._replace())
        except UNCLEAR:
            if if_absent and await self._is_taken():
                await self._settle()
                return
            await make_folder(self._client, self._final.rpartition("/")[0])
            if not if_absent:
                await self._replace()
            elif not await self._create_anyhow():
                await self._settle()

    async def _create(self) -> None:
        """Gives the object its name if nothing has that name; else, and for other reasons, one of ``UNCLEAR``."""
        try:
            await self._client.link(self._temporary, self._final)
        except asyncssh.SFTPOpUnsupported:
            if await self._is_taken():  # not every server's rename refuses
                raise asyncssh.SFTPFailure("there already") from None
            await self._client.rename(self._temporary, self._final)
        else:
            await self._remove_temporary()

    async def _create_anyhow(self) -> bool:
        """As :meth:`_create`, with a folder that is there; False if the name is taken."""
        try:
            await self._create()
        except UNCLEAR:
            if await self._is_taken():
                return False
            await self._client.rename(self._temporary, self._final)  # the server knows links, its disk does not
        return True

    async def _replace(self) -> None:
        try:
            await self._client.posix_rename(self._temporary, self._final)
        except asyncssh.SFTPOpUnsupported:
            if await self._is_taken():
                await self._client.remove(self._final)
            await self._client.rename(self._temporary, self._final)

    async def _settle(self) -> None:
        """Of a name that is taken: our own bytes are written anew over themselves, others raise ``ObjectExists``."""
        async with self._client.open(self._final, "rb") as file:
            there: object = await file.read(len(self._content) + 1)
        if there != self._content:
            raise exists(self._name, self._access.url)
        await self._replace()

    async def _is_taken(self) -> bool:
        try:
            await self._client.lstat(self._final)
        except UNCLEAR:
            return False
        return True

    async def _remove_temporary(self) -> None:
        with suppress(asyncssh.SFTPError):
            await self._client.remove(self._temporary)

    async def _full(self) -> HoldfastError | None:
        """The error for a disk that is full or read-only, where the server tells; OpenSSH's answer is "Failure"."""
        try:
            disk = await self._client.statvfs(mark_of(self._access))
        except asyncssh.SFTPError:
            return None
        free = disk.bavail * (disk.frsize or disk.bsize)
        if disk.flags & _READ_ONLY:
            message = cannot(Operation.PUT, self._name, self._access.url, _("its disk is read-only"))
            return PermissionRefused(message, hint=_("Look into the kernel's log of the server."))
        if free >= len(self._content) + _SLACK and (disk.favail or not disk.files):
            return None
        message = cannot(Operation.PUT, self._name, self._access.url, _("its disk is full"))
        return NoSpace(
            _("{message} ({free} bytes free)").format(message=message, free=free),
            hint=_("Make room on the disk of {root} on the server, or give the repository another one.").format(
                root=self._access.root
            ),
        )

    async def _tidy(self) -> None:
        """Removes what interrupted writers left: a day older than what was just written, by the server's clock.

        Nothing is asked of a file that is open for writing: some servers answer only when it is closed.
        """
        with suppress(asyncssh.SFTPError):
            now = (await self._client.stat(self._final)).mtime or 0
            for entry in await self._client.readdir(mark_of(self._access)):
                name = str(entry.filename)
                if name.endswith(".tmp") and (entry.attrs.mtime or now) < now - _LEFTOVER_S:
                    with suppress(asyncssh.SFTPError):
                        await self._client.remove(f"{mark_of(self._access)}/{name}")


async def _sync(file: asyncssh.SFTPClientFile) -> bool:
    """Whether the server knows how to."""
    try:
        await file.fsync()
    except asyncssh.SFTPOpUnsupported:
        return False
    return True
