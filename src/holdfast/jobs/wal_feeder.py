"""A feeder: fetches for a standby what it will ask for next, and answers its ``restore_command`` over a socket.

PostgreSQL asks for one segment after the other and waits for each. The first call of ``wal fetch`` leaves a feeder
behind, in a process of its own, that keeps the repositories open; later calls ask it, and find their segment in the
spool, or hear that it is not held, in milliseconds. The spool is this feeder's alone: it is emptied when the feeder
comes and when it goes, which it does by itself when nobody asks any more, and in any case after a while, so that a
change of the configuration counts.

One request a connection, one line of JSON each way: ``{"do": "fetch", "name": "…", "system_identifier": "…",
"ending": false}``, answered by ``{"exit": 0, "file": "…", "size": …}`` (a file of the spool, which is the asker's now)
or by ``{"exit": 64}``. A feeder that cannot tell answers nothing: the asker finds out by itself, and says why.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.clock import Clock
from holdfast.errors import HoldfastError
from holdfast.jobs.wal_fetch import WalFetcher
from holdfast.postgres.lsn import Segment, is_segment_name, is_segment_size

SOCKET = "feeder.sock"
LOCK = "feeder.lock"

AHEAD_SEGMENTS = 8
AHEAD_BYTES = 256 * 2**20
"""How far the spool goes beyond what was asked for: whichever is less."""
IDLE_SECONDS = 30.0
LONGEST_SECONDS = 600.0
NOT_HELD = 64

_WORKERS = 4
_LONGEST_REQUEST = 4096
_REQUEST_SECONDS = 5.0
_TRUST_ABSENCE_SECONDS = 1.0
"""How long nothing beyond a segment that was not there is looked for in advance."""
_TAKEN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Wanted:
    name: str
    system_identifier: int | None


class Feeder:
    def __init__(self, fetcher: WalFetcher, spool: Path, *, clock: Clock) -> None:
        self._fetcher = fetcher
        self._spool = spool
        self._clock = clock
        self._crew = ThreadPoolExecutor(_WORKERS, thread_name_prefix="feeder")
        self._lock = threading.Lock()
        self._ahead: dict[_Wanted, Future[Path | None]] = {}
        self._absent: tuple[_Wanted, float] | None = None
        self._made = 0
        self._handed: deque[tuple[float, Path]] = deque()

    def serve(self) -> bool:
        """Answers until nobody asks; False at once when another feeder is at work, or others may write to the spool."""
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self._spool.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            return False
        with _locked(self._spool / LOCK) as ours:
            if not ours:
                return False
            self._empty()
            try:
                with _listening(self._spool) as listening:
                    self._serve(listening)
            finally:
                self._crew.shutdown(wait=False, cancel_futures=True)
                self._empty()
        return True

    def _serve(self, listening: socket.socket) -> None:
        end = self._clock.monotonic() + LONGEST_SECONDS
        listening.settimeout(IDLE_SECONDS)
        while self._clock.monotonic() < end:
            try:
                connection, _address = listening.accept()
            except TimeoutError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(HoldfastError, OSError, ValueError, KeyError, TypeError):
            connection.settimeout(_REQUEST_SECONDS)
            request = json.loads(_line(connection))
            wanted = _Wanted(request["name"], int(request["system_identifier"] or 0) or None)
            connection.sendall(json.dumps(self.feed(wanted, ending=bool(request["ending"]))).encode() + b"\n")

    def feed(self, wanted: _Wanted, *, ending: bool) -> dict[str, Any]:
        """What is answered. Raises ``HoldfastError`` where that cannot be told."""
        with self._lock:
            ahead = self._ahead.pop(wanted, None)
        path = ahead.result() if ahead is not None else None
        if path is None:  # what was not there a moment ago may be there now
            path = self._bring(wanted, ending=ending)
        if path is None:
            return {"exit": NOT_HELD}
        self._hand_over(path)
        size = path.stat().st_size
        if is_segment_name(wanted.name):
            self._look_ahead(wanted, size)
        return {"exit": 0, "file": path.name, "size": size}

    def _hand_over(self, path: Path) -> None:
        """What an asker did not take after all is dropped in time."""
        now = self._clock.monotonic()
        with self._lock:
            self._handed.append((now, path))
            while self._handed[0][0] < now - _TAKEN_SECONDS:
                self._handed.popleft()[1].unlink(missing_ok=True)

    def _bring(self, wanted: _Wanted, *, ending: bool) -> Path | None:
        with self._lock:
            self._made += 1
            path = self._spool / f"{wanted.name}.{self._made}"
        size = self._fetcher.fetch(wanted.name, path, system_identifier=wanted.system_identifier, ending=ending)
        return None if size is None else path

    def _look_ahead(self, wanted: _Wanted, size: int) -> None:
        """Fetches what follows, in advance; what was fetched and is not wanted any more is dropped."""
        following = self._following(wanted, size)
        with self._lock:
            for former in [former for former in self._ahead if former not in following]:
                dropped = self._ahead.pop(former)
                if not dropped.cancel():
                    dropped.add_done_callback(_drop)
            for one in following:
                if one not in self._ahead:
                    self._ahead[one] = self._crew.submit(self._in_advance, one)

    def _in_advance(self, wanted: _Wanted) -> Path | None:
        """As :meth:`_bring`; what is not there, or fails, is left to be asked for."""
        absent = self._absent
        path = None
        if absent is None or absent[0].name > wanted.name or self._clock.monotonic() >= absent[1]:
            with suppress(HoldfastError):
                path = self._bring(wanted, ending=False)
            if path is None:
                self._absent = wanted, self._clock.monotonic() + _TRUST_ABSENCE_SECONDS
        if path is None:
            with self._lock:
                self._ahead.pop(wanted, None)
        return path

    @staticmethod
    def _following(wanted: _Wanted, size: int) -> list[_Wanted]:
        if not is_segment_size(size):
            return []
        found, segment = [], Segment.parse(wanted.name, size)
        for _number in range(min(AHEAD_SEGMENTS, AHEAD_BYTES // size)):
            segment = segment.following()
            found.append(_Wanted(segment.name, wanted.system_identifier))
        return found

    def _empty(self) -> None:
        for path in self._spool.iterdir():
            if path.name != LOCK:
                path.unlink(missing_ok=True)


def _drop(fetched: Future[Path | None]) -> None:
    if fetched.cancelled() or fetched.exception() is not None:
        return
    path = fetched.result()
    if path is not None:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether this process holds the lock; inside, the file tells its process id."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield True
    finally:
        os.close(descriptor)


@contextmanager
def _listening(spool: Path) -> Iterator[socket.socket]:
    """The feeder's socket; one path of any length is bound through its folder."""
    folder = os.open(spool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(f"/proc/self/fd/{folder}/{SOCKET}")
            listening.listen(16)
            yield listening
    finally:
        os.close(folder)


def _line(connection: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"\n"):
        more = connection.recv(_LONGEST_REQUEST)
        if not more or len(received) > _LONGEST_REQUEST:
            raise ValueError
        received += more
    return received
