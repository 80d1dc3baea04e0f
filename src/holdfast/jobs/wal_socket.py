"""The socket of a running receiver: ``wal push`` hands it files, ``status`` asks it how things are.

One request a connection: a line of JSON; for a push exactly ``size`` raw bytes follow. The answer is a line of JSON,
given when what was pushed is durable in every repository. Who may ask: root, our own user, members of our group. A
client that hangs holds one thread for a while, and nobody else.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import json
import os
import pwd
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from holdfast.errors import AlreadyRunning, HoldfastError, PermissionRefused, TryLater, UsageError
from holdfast.messages import _
from holdfast.repository.local import hand_over, make_folder

Json = dict[str, Any]
Push = Callable[[str, bytes, int], None]
"""A file's name, content and system identifier; returns when it is durable, or raises."""

MAX_LINE_BYTES = 4096
MAX_FILE_BYTES = 1 << 30
"""The largest segment."""
MAX_CLIENTS = 16
MAX_PUSHES = 2
"""At once: their files are in memory."""
IDLE_SECONDS = 30.0
_LONGEST_PATH = 107
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED, errno.EINTR)
"""What accepting fails with for a while."""
_PAUSE_SECONDS = 0.2


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Inside, nobody else on this machine receives for the source whose socket ``path`` is.

    Raises :class:`~holdfast.errors.AlreadyRunning`, the process named."""
    lock = path.with_suffix(".lock")
    try:
        make_folder(path.parent)
        with suppress(PermissionError):  # another of the same group made it
            path.parent.chmod(0o750)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    except OSError as error:
        raise PermissionRefused(
            _("cannot make {path}: {reason}").format(path=lock, reason=error.strerror),
            hint=_("Run this as the user who owns state_dir, or name another in the configuration."),
        ) from None
    try:
        hand_over(lock)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            raise AlreadyRunning(
                _("a receiver for {source} runs on this machine already, process {pid}").format(
                    source=path.stem, pid=pid or "?"
                ),
                hint=_("One is enough. See how it is: holdfast status {source}").format(source=path.stem),
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


class WalSocket:
    """A scope in which requests are answered; the caller holds :func:`only_one`."""

    def __init__(self, path: Path, *, push: Push, status: Callable[[], Json]) -> None:
        self._path = path
        self._push = push
        self._status = status
        self._clients = threading.BoundedSemaphore(MAX_CLIENTS)
        self._pushes = threading.BoundedSemaphore(MAX_PUSHES)
        self._listening: socket.socket | None = None

    def __enter__(self) -> Self:
        self._listening = _bound(self._path)
        threading.Thread(target=self._accept, args=(self._listening,), name="wal socket", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listening is not None
        with suppress(OSError):
            self._path.unlink()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listening.close()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            self._clients.acquire()
            try:
                client, _address = listening.accept()
            except OSError as error:
                self._clients.release()
                if error.errno not in _PASSING:
                    return  # closed
                time.sleep(_PAUSE_SECONDS)
                continue
            try:
                threading.Thread(target=self._serve, args=(client,), name="wal socket client", daemon=True).start()
            except RuntimeError:  # no more threads: whoever asked finds out
                client.close()
                self._clients.release()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client:
                client.settimeout(IDLE_SECONDS)
                if may_ask(client):
                    answer = self._answer(client)
                    client.sendall(json.dumps(answer).encode() + b"\n")
        except (OSError, ValueError):
            return  # whoever asked is gone, or spoke no JSON
        finally:
            self._clients.release()

    def _answer(self, client: socket.socket) -> Json:
        try:
            line, rest = _line(client)
            request = json.loads(line)
            if not isinstance(request, dict):
                raise _not_understood(line)
            if request.get("do") == "status":
                return {"exit": 0, "text": "", "hint": "", "status": self._status()}
            if request.get("do") == "push":
                self._take(client, request, rest)
                return {"exit": 0, "text": "", "hint": ""}
            raise _not_understood(line)
        except HoldfastError as error:
            return {"exit": error.exit_code, "text": str(error), "hint": error.hint}

    def _take(self, client: socket.socket, request: Json, rest: bytes) -> None:
        name, size, owner = request.get("name"), request.get("size"), request.get("system_identifier")
        if not (isinstance(name, str) and type(size) is int and isinstance(owner, str) and owner.isdecimal()):
            raise _not_understood(b"push")
        if not 0 <= size <= MAX_FILE_BYTES:
            raise UsageError(_("{name} has {size} bytes, which cannot be").format(name=name, size=size))
        if not self._pushes.acquire(timeout=IDLE_SECONDS):
            raise TryLater(_("the receiver is busy with other files"))
        try:
            self._push(name, _exactly(client, size, rest), int(owner))
        finally:
            self._pushes.release()


def may_ask(client: socket.socket) -> bool:
    """Whether the process at the other end is root's, ours, or of a member of our group."""
    _pid, uid, gid = struct.unpack(
        "3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    )
    if uid in (0, os.geteuid()) or gid == os.getegid():
        return True
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(os.getegid())
    except KeyError:
        return False
    return user.pw_name in group.gr_mem


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """``path`` in a form that is short enough for a socket's address, inside the scope."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _bound(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            path.unlink()  # of a receiver that was killed: nobody else runs
        with reachable(path) as address:
            listening.bind(address)
        path.chmod(0o660)
        hand_over(path)
        listening.listen(MAX_CLIENTS)
    except OSError as error:
        listening.close()
        raise PermissionRefused(
            _("cannot listen on {path}: {reason}").format(path=path, reason=error.strerror),
            hint=_("Run this as the user who owns state_dir, or name another in the configuration."),
        ) from None
    return listening


def _line(client: socket.socket) -> tuple[bytes, bytes]:
    """The request, and what has come behind it."""
    data = b""
    while b"\n" not in data:
        more = client.recv(65536)
        data += more
        if not more or (len(data) > MAX_LINE_BYTES and b"\n" not in data[:MAX_LINE_BYTES]):
            raise _not_understood(data)
    line, _newline, rest = data.partition(b"\n")
    return line, rest


def _exactly(client: socket.socket, size: int, rest: bytes) -> bytes:
    content = bytearray(size)
    view = memoryview(content)
    done = min(len(rest), size)
    view[:done] = rest[:done]
    while done < size:
        count = client.recv_into(view[done:])
        if not count:
            raise OSError("the client has gone")
        done += count
    return bytes(content)


def _not_understood(line: bytes) -> UsageError:
    return UsageError(
        _("a request that is not understood: {line!r}").format(line=line[:100]),
        hint=_("Use the same version of Holdfast on both sides of the socket."),
    )
