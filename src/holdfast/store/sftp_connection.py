"""Connections to an SFTP server: a few, opened when they are needed, given up at the first doubt.

Everything here runs in the one event loop of :mod:`holdfast.store.calls`. A server's host key is checked strictly: one
that is not in known_hosts is refused, with the line that would admit it; there is no trust on first use. A call that
is broken off (its time is over, an interrupt) takes its connection with it: what the server still does with it is
unknown, and other calls on that connection fail with what is worth trying again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncssh

from holdfast.errors import HoldfastError
from holdfast.store import calls
from holdfast.store.sftp_access import DEFAULT_PORT, Access, read_known_hosts, read_private_key
from holdfast.store.sftp_answers import refused_host

CONNECTIONS = 4
"""Each is a process on the server, and one that is not alone on a link gets its share of it."""

_KEEPALIVE_S = 15
_HOST_KEY_ALGORITHMS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-256",
    "rsa-sha2-512",
)
_LOST = (
    asyncssh.DisconnectError,
    asyncssh.ChannelOpenError,
    asyncssh.SFTPConnectionLost,
    asyncssh.SFTPNoConnection,
    asyncssh.SFTPBadMessage,
    OSError,
)

logging.getLogger("asyncssh").setLevel(logging.CRITICAL)  # what it would say, the errors say


@dataclass(slots=True, eq=False)
class _Lane:
    connection: asyncssh.SSHClientConnection
    client: asyncssh.SFTPClient
    calls: int = 0

    def is_open(self) -> bool:
        return not self.connection.is_closed()


class Connections:
    def __init__(self, access: Access, *, limit_s: float) -> None:
        """No connection is made yet; one that takes longer than ``limit_s`` seconds is given up.

        Raises ``ConfigError`` for a private key or known hosts that cannot be read.
        """
        self._access = access
        self._limit_s = limit_s
        self._key = read_private_key(access)
        self._known_hosts = read_known_hosts(access)
        self._lanes: list[_Lane] = []
        self._most = CONNECTIONS
        self._opening: asyncio.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def client(self) -> AsyncIterator[asyncssh.SFTPClient]:
        """A client of the server, for one call; others may use the same one meanwhile.

        Raises ``Refused`` for the server's host key, else what asyncssh raises.
        """
        lane = await self._take()
        try:
            yield lane.client
        except (asyncio.CancelledError, *_LOST):
            self._give_up(lane)
            raise
        finally:
            lane.calls -= 1

    def close(self) -> None:
        """Gives all connections up, from any thread; a further call opens new ones."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.abort)

    def abort(self) -> None:
        """Gives all connections up, in the loop's thread."""
        for lane in [*self._lanes]:
            self._give_up(lane)

    def _give_up(self, lane: _Lane) -> None:
        if lane in self._lanes:
            self._lanes.remove(lane)
        lane.connection.abort()

    async def _take(self) -> _Lane:
        lane = self._least_busy()
        if lane is None or (lane.calls and len(self._lanes) < self._most):
            if self._opening is None:
                self._loop, self._opening = asyncio.get_running_loop(), asyncio.Lock()
                calls.abort_at_end(self)
            async with self._opening:
                lane = await self._another()
                lane.calls += 1
                return lane
        lane.calls += 1
        return lane

    async def _another(self) -> _Lane:
        lane = self._least_busy()
        if lane is not None and (not lane.calls or len(self._lanes) >= self._most):
            return lane
        try:
            new = await self._open()
        except (HoldfastError, asyncssh.Error, OSError):
            if lane is None or not lane.is_open():
                raise
            self._most = max(1, len(self._lanes))  # the server lets us have no more than these
            return lane
        self._lanes.append(new)
        return new

    def _least_busy(self) -> _Lane | None:
        self._lanes = [lane for lane in self._lanes if lane.is_open()]
        return min(self._lanes, key=lambda lane: lane.calls, default=None)

    async def _open(self) -> _Lane:
        access = self._access
        alone = self._key is not None or bool(access.password)  # what is configured is used, and nothing else
        seen = _Seen()
        try:
            connection = await asyncssh.connect(
                access.host,
                access.port,
                username=access.user,
                password=access.password or None,
                client_keys=[self._key] if self._key else [] if alone else (),
                agent_path=None if alone else (),
                known_hosts=self._known_hosts,
                server_host_key_algs=self._host_key_algorithms(),
                client_factory=lambda: seen,
                config=None,
                connect_timeout=self._limit_s,
                login_timeout=self._limit_s,
                keepalive_interval=_KEEPALIVE_S,
                compression_algs=None,
            )
        except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed) as error:
            refused = refused_host(access, error, offered=seen.key, known=self._known_keys())
            if refused is None:
                raise
        else:
            try:
                return _Lane(connection, await connection.start_sftp_client())
            except BaseException:
                connection.abort()
                raise
        raise refused

    def _known_keys(self) -> list[asyncssh.SSHKey]:
        return [*self._known()[0]]

    def _known(self) -> tuple[Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey]]:
        """Keys of the server, and of authorities that sign such keys."""
        port = None if self._access.port == DEFAULT_PORT else self._access.port
        keys, authorities, *_others = self._known_hosts.match(self._access.host, "", port)
        return keys, authorities

    def _host_key_algorithms(self) -> Sequence[str] | tuple[()]:
        """Those of the known keys first, so that the server shows one of these, and others, so that it shows its own.

        Asked for known types alone, a server that has none of them just closes the connection.
        """
        keys, authorities = self._known()
        if authorities or not keys:
            return ()
        known = [algorithm.decode("ascii") for key in keys for algorithm in key.sig_algorithms]
        return [*dict.fromkeys([*known, *_HOST_KEY_ALGORITHMS])]


class _Seen(asyncssh.SSHClient):
    """Notes the host key that was not known."""

    def __init__(self) -> None:
        self.key: asyncssh.SSHKey | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        del host, addr, port  # this client makes one connection
        self.key = key
        return False
