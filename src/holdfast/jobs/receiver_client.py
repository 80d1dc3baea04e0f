"""Asking a running ``wal receive`` on this machine what it is doing: one JSON line there, one back.

Its socket may lie deeper than an ``AF_UNIX`` address can say (107 bytes): then it is reached through its opened folder.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.errors import Damaged, HoldfastError, PermissionRefused, TryLater
from holdfast.jobs.receiver_status import ReceiverStatus
from holdfast.messages import _

SECONDS = 3.0
_LONGEST_ADDRESS = 107
_LONGEST_ANSWER = 1 << 20


def ask_status(path: Path, *, seconds: float = SECONDS) -> ReceiverStatus | None:
    """None: nobody listens at ``path``.

    Raises :class:`~holdfast.errors.PermissionRefused`, :class:`~holdfast.errors.TryLater` when no answer comes in time,
    :class:`~holdfast.errors.Damaged` for a strange one.
    """
    try:
        with socket.socket(socket.AF_UNIX) as channel, _address(path) as address:
            channel.settimeout(seconds)
            channel.connect(address)
            channel.sendall(b'{"do":"status"}\n')
            answer = _line(channel)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        return None
    except PermissionError:
        raise PermissionRefused(
            _("the receiver at {path} does not answer this user").format(path=path),
            hint=_("Run the command as the user that the receiver runs as, or as root."),
        ) from None
    except OSError as error:
        raise TryLater(
            _("the receiver at {path} does not answer: {reason}").format(path=path, reason=error.strerror or error),
            hint=_("See whether `holdfast wal receive` hangs there."),
        ) from None
    return _status(answer, path)


def _status(answer: bytes, path: Path) -> ReceiverStatus:
    try:
        document: Any = json.loads(answer)
        if document["exit"] == 0:
            return ReceiverStatus.from_json(document["status"])
        text, hint = str(document.get("text") or document["exit"]), str(document.get("hint") or "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged(
            _("the receiver at {path} gives an answer that cannot be read").format(path=path),
            hint=_("It may be of another version of Holdfast: start it again."),
        ) from None
    raise HoldfastError(text, hint=hint)


def _line(channel: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"\n") and len(answer) < _LONGEST_ANSWER:
        more = channel.recv(65536)
        if not more:
            break
        answer += more
    return answer


@contextmanager
def _address(path: Path) -> Iterator[str]:
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
