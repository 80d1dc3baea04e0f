"""Files in a folder that belongs to a server's account are read and written by that account, never by root.

Whoever owns a folder can put a symbolic link where a file is expected. Root's hand would follow it anywhere: so a child
process that runs as the account does it, with no more rights than the owner of the folder has anyway.
"""

from __future__ import annotations

import os
from pathlib import Path
from subprocess import PIPE, Popen

from holdfast.errors import HoldfastError
from holdfast.messages import _
from holdfast.postgres.accounts import Account

_SHELL = "/bin/sh"
_WRITE = 'umask 077; mkdir -p "${1%/*}" && cat >"$1.new" && sync "$1.new" && mv -f "$1.new" "$1"'
_READ = 'cat "$1"'
_TOUCH = 'umask 077; : >>"$1"'
_APPENDING = 'umask 077; log=$1; shift; exec "$@" >>"$log" 2>&1'


def write_as(account: Account, path: Path, content: bytes) -> None:
    """Put ``content`` at the absolute ``path``, durably and in one piece, mode 0600; folders on the way are made 0700.

    Raises :class:`~holdfast.errors.HoldfastError` with the shell's words.
    """
    _run(account, _WRITE, path, content, what=_("cannot write {file}").format(file=path))


def read_as(account: Account, path: Path) -> bytes:
    """Raises :class:`~holdfast.errors.HoldfastError` where ``account`` may not read it, or it is not there."""
    return _run(account, _READ, path, what=_("cannot read {file}").format(file=path))


def make_sure_of_log(account: Account, log: Path) -> None:
    """``log`` is there and ``account`` can write to it, or :class:`~holdfast.errors.HoldfastError` says why not."""
    _run(account, _TOUCH, log, what=_("cannot write {file}").format(file=log))


def appending(log: Path, command: list[str]) -> list[str]:
    """``command`` under a shell that opens ``log`` for it, and then becomes it: the process keeps its number."""
    return [_SHELL, "-c", _APPENDING, "sh", str(log), *command]


def environment() -> dict[str, str]:
    """For the server's programs: none of the caller's PG… variables, and a locale that exists everywhere."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _run(account: Account, script: str, path: Path, content: bytes = b"", *, what: str) -> bytes:
    with Popen(
        [_SHELL, "-c", script, "sh", str(path)],
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        cwd="/",
        env=environment(),
        **account.identity,
    ) as process:
        said, complaint = process.communicate(content)
    if process.returncode != 0:
        reason = complaint.decode("utf-8", "replace").strip() or _("exit code {code}").format(code=process.returncode)
        raise HoldfastError(
            f"{what}: {reason.splitlines()[0]}",
            hint=_("{account} must be able to do so: look at the owner and the mode of {folder}.").format(
                account=account.name, folder=path.parent
            ),
        )
    return said
