"""The secrets that ``init`` makes, and their files: mode 0600, durable, never overwritten."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli.asking import ask, may_ask
from holdfast.errors import HoldfastError, PermissionRefused, Refused, UsageError
from holdfast.messages import _

if TYPE_CHECKING:
    from holdfast.cli.session import Session

TRIES = 3


def new_passphrase() -> str:
    from holdfast.repository.keys import MadeSecret, SecretKind

    return MadeSecret.new(SecretKind.PASSPHRASE)


def offer_recovery_key(session: Session, *, confirm: bool) -> str:
    """Makes a recovery key and shows it, once; at a terminal it has to be typed back.

    Raises ``UsageError`` when it is not: nothing is made yet, so that nothing is lost by it.
    """
    from holdfast.repository.keys import MadeSecret, SecretKind

    key = MadeSecret.new(SecretKind.RECOVERY)
    output = session.output
    output.line(_("The recovery key opens the repository when the passphrase is lost. It is shown only now:"))
    output.line()
    output.line(f"  {key}")
    output.line()
    output.warning(_("write the recovery key down and keep it away from this machine; nobody can show it again"))
    if not (confirm and may_ask(session)):
        return key
    for _attempt in range(TRIES):
        if _same(ask(_("Type the recovery key that you wrote down")), key):
            return key
        output.note(_("That is another one: compare it letter by letter."))
    raise UsageError(
        _("the recovery key was not confirmed; nothing was made"),
        hint=_("Run holdfast init again: it makes another recovery key. Without one: --no-recovery-key."),
    )


def _same(typed: str, key: str) -> bool:
    from holdfast.repository.keys import MadeSecret

    try:
        return MadeSecret.parse(typed) == MadeSecret.parse(key)
    except UsageError:
        return False


def write_secret(path: Path, text: str, *, option: str = "") -> None:
    """A new file with one line that only its owner reads. Raises ``Refused`` where something lies already.

    ``option`` is what named the file, if it is not one of those that ``init`` makes.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Refused(
            _("{path} is there already and is never overwritten").format(path=path),
            hint=_("Name a file that does not exist yet: {option} FILE").format(option=option)
            if option
            else _("Another holdfast init may be at work; if not, run it again, and it uses that file."),
        ) from None
    except OSError as error:
        raise _unwritable(path, error, option) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode() + b"\n")
            os.fchmod(descriptor, 0o600)
            file.flush()
            os.fsync(descriptor)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise _unwritable(path, error, option) from None


def _unwritable(path: Path, error: OSError, option: str) -> HoldfastError:
    kind = PermissionRefused if isinstance(error, PermissionError) else HoldfastError
    return kind(
        _("cannot write {path}: {reason}").format(path=path, reason=error.strerror),
        hint=_("Run the command as a user who may write there, or name another file with {option}.").format(
            option=option or "--config"
        ),
    )


def password_line(role: str, password: str) -> str:
    """A line of libpq's password file ("The Password File" in PostgreSQL's manual), for any server."""
    return ":".join(["*", "*", "*", *(word.replace("\\", "\\\\").replace(":", "\\:") for word in (role, password))])
