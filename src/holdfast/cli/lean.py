"""``wal push`` and ``wal fetch`` where somebody who is at work already does them: over a socket, in milliseconds.

PostgreSQL starts one process for each segment and waits for it. So this module imports next to nothing (not even
pathlib), asks a running ``wal receive`` (push) or a running feeder (fetch), and ends the process with its answer.
Whatever is not plain, a strange option, a bad file, no configuration, nobody there, is left to the ordinary way
(:mod:`~holdfast.cli.wal_push`, :mod:`~holdfast.cli.wal_fetch`), which says what is wrong: each message has one place.
"""

# ruff: noqa: PTH104, PTH108, PTH116, PTH118, PTH119, PTH120, PTH123

from __future__ import annotations

import os

from holdfast.cli.lean_place import NotPlain, Place, find_place

TYPE_CHECKING = False  # typing itself is not imported
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

COMMON_WITH_VALUE = ("--config", "--lang")
COMMON_FLAGS = ("--json", "--verbose")

NOT_HELD, ABORT = 64, 126
"""Exit codes of ``restore_command``: look elsewhere, ask again; and end the server rather than believe anything."""
DAMAGED, TRY_LATER = 5, 75

PUSH_SECONDS, FETCH_SECONDS = 120, 60
"""How long an answer is awaited."""
FEEDER_SOCKET = "feeder.sock"

_LONGEST_SOCKET_PATH = 107
_LONG_HEADER = 40
"""Bytes of ``XLogLongPageHeaderData``, with which a segment begins."""


class Asked:
    """A command line that was understood."""

    __slots__ = ("config", "operands", "source", "verb")

    def __init__(self, verb: str, operands: list[str], config: str | None, source: str | None) -> None:
        self.verb = verb
        self.operands = operands
        self.config = config
        self.source = source


def main(arguments: Sequence[str]) -> None:
    """Ends the process with the exit code of a line that could be done here; else returns, and nothing happened."""
    asked = understood(arguments)
    if asked is None:
        return
    try:
        place = find_place(asked.config, asked.source)
        code = _push(asked, place) if asked.verb == "push" else _fetch(asked, place)
    except (NotPlain, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    os._exit(code)


def understood(arguments: Sequence[str]) -> Asked | None:
    """The line, if it is one of the two in a form that is taken here."""
    words: list[str] = []
    values: dict[str, str] = {}
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        if argument == "--":
            words += waiting
        elif name in ("--config", "--source", "--lang"):
            following = value if equals else next(waiting, None)
            if following is None:
                return None
            values[name] = following
        elif argument.startswith("-") and argument != "--verbose":
            return None
        elif not argument.startswith("-"):
            words.append(argument)
    if words[:2] not in (["wal", "push"], ["wal", "fetch"]) or len(words) != (3 if words[1] == "push" else 4):
        return None
    return Asked(words[1], words[2:], values.get("--config"), values.get("--source"))


def is_fetch(arguments: Sequence[str]) -> bool:
    """Whether a line, however wrong, is a ``restore_command``, whose exit codes mean what PostgreSQL says."""
    words = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument in (*COMMON_WITH_VALUE, "--source", "--repository"):
            next(waiting, None)
        elif not argument.startswith("-"):
            words.append(argument)
    return words[:2] == ["wal", "fetch"]


def fetch_code(code: int, folder: str = ".") -> int:
    """What to tell PostgreSQL when ``wal fetch`` ended with ``code``, in the data directory ``folder``.

    Any code from 1 to 125 says "that is the end", and a server that is to end its recovery opens with what it has.
    Only a standing standby may go on after a failure, unless something is damaged: it asks again.
    """
    if code in (0, NOT_HELD, ABORT) or code > 128:
        return code
    return NOT_HELD if code != DAMAGED and is_standby(folder) else ABORT


def abort() -> NoReturn:
    """Ends a ``wal fetch`` that broke down: as it stands, its exit code would mean the end of WAL."""
    import traceback

    traceback.print_exc()
    os._exit(ABORT)


def is_standby(folder: str = ".") -> bool:
    """Whether the server whose data directory ``folder`` is waits for more WAL, rather than end its recovery."""
    return os.path.lexists(os.path.join(folder, "standby.signal"))


def say(text: str, hint: str = "") -> None:
    told = "".join(f"{line}\n" for line in (f"holdfast: {text}", hint) if line)
    try:
        os.write(2, told.encode("utf-8", "backslashreplace"))
    except OSError:
        return


# Pushing


def _push(asked: Asked, place: Place) -> int:
    (path,) = asked.operands
    name = os.path.basename(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not _is_regular(status.st_mode) or not status.st_size:
            raise NotPlain
        owner = _system_of(descriptor, path, name, status.st_size)
        request = f'{{"do":"push","name":"{name}","size":{status.st_size},"system_identifier":"{owner}"}}\n'
        answer = _ask(place.receiver, request, PUSH_SECONDS, (descriptor, status.st_size))
    finally:
        os.close(descriptor)
    code = int(answer["exit"])
    if code == TRY_LATER or not 0 <= code <= 125:
        raise NotPlain
    if code:
        say(str(answer["text"]), str(answer.get("hint", "")))
    return code


def _system_of(descriptor: int, path: str, name: str, size: int) -> int:
    """The system identifier: of a segment from its header, whose size must be the file's; of others from pg_control."""
    place = name.removesuffix(".partial")
    if len(place) == 24 and _is_hexadecimal(place):
        head = os.pread(descriptor, _LONG_HEADER, 0)
        if len(head) < _LONG_HEADER or _number(head, 32, 4) != size:
            raise NotPlain
        return _number(head, 24, 8)
    digits, _dot, kind = name.partition(".")
    if not _is_hexadecimal(digits) or not kind.endswith(("history", "backup")) or '"' in name or "\\" in name:
        raise NotPlain
    owner = control_system(os.path.dirname(os.path.dirname(path)))
    if owner is None:
        raise NotPlain
    return owner


def control_system(folder: str) -> int | None:
    """The system identifier in ``global/pg_control`` of the data directory ``folder``: its first eight bytes."""
    try:
        with open(os.path.join(folder, "global", "pg_control"), "rb") as file:
            head = file.read(8)
    except OSError:
        return None
    return _number(head, 0, 8) if len(head) == 8 else None


def _number(head: bytes, offset: int, length: int) -> int:
    import sys

    return int.from_bytes(head[offset : offset + length], sys.byteorder)


def _is_hexadecimal(text: str) -> bool:
    return bool(text) and not text.strip("0123456789ABCDEF")


def _is_regular(mode: int) -> bool:
    return mode & 0o170000 == 0o100000


# Fetching


def _fetch(asked: Asked, place: Place) -> int:
    name, target = asked.operands
    status = os.lstat(place.spool)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077 or "/" in name or '"' in name or "\\" in name:
        raise NotPlain
    owner = control_system(".")
    ending = "false" if is_standby() else "true"
    request = f'{{"do":"fetch","name":"{name}","system_identifier":"{owner or ""}","ending":{ending}}}\n'
    answer = _ask(os.path.join(place.spool, FEEDER_SOCKET), request, FETCH_SECONDS)
    code = int(answer["exit"])
    if code == 0:
        take(os.path.join(place.spool, os.path.basename(answer["file"])), int(answer["size"]), target)
    elif code != NOT_HELD:
        raise NotPlain
    return code


def take(path: str, size: int, target: str) -> None:
    """Makes the spooled file ``path`` the file ``target``, which appears whole. Raises ``OSError``, ``NotPlain``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        ours = _is_regular(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
        if not ours or status.st_size != size:
            raise NotPlain
        if os.stat(os.path.dirname(target) or ".").st_dev == status.st_dev:
            os.rename(path, target)
            return
        _copy(descriptor, size, target)
        os.unlink(path)
    finally:
        os.close(descriptor)


def _copy(source: int, size: int, target: str) -> None:
    beside = f"{target}.holdfast.{os.getpid()}"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            done = 0
            while done < size:
                done += os.sendfile(descriptor, source, done, size - done)
        finally:
            os.close(descriptor)
        os.rename(beside, target)
    except BaseException:
        os.unlink(beside)
        raise


# Asking


def _ask(path: str, request: str, seconds: int, content: tuple[int, int] | None = None) -> dict[str, Any]:
    """One line, then the bytes of a descriptor, over the socket ``path``; the line that is answered.

    Raises ``OSError`` where nobody listens and ``NotPlain`` when the other side goes away or does not answer in time.
    """
    import json
    import socket
    import struct

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        limit = struct.pack(
            "ll", seconds, 0
        )  # of each call; settimeout() would make the descriptor one that never waits
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        _connect(asking, path)
        try:
            asking.sendall(request.encode("ascii"))
            if content is not None:
                _send_file(asking.fileno(), *content)
        except ConnectionError:
            pass  # it has answered already, perhaps
        answer = b""
        while not answer.endswith(b"\n"):
            received = asking.recv(65536)
            if not received:
                raise NotPlain
            answer += received
    document = json.loads(answer)
    if not isinstance(document, dict):
        raise NotPlain
    return document


def _connect(asking: Any, path: str) -> None:
    """A path that is too long for an address is reached through its folder, opened."""
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        asking.connect(path)
        return
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        asking.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    finally:
        os.close(folder)


def _send_file(to: int, descriptor: int, size: int) -> None:
    done = 0
    while done < size:
        sent = os.sendfile(to, descriptor, done, size - done)
        if not sent:
            raise NotPlain  # it became shorter
        done += sent
