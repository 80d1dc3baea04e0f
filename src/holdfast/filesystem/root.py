"""The folders that a restore writes into: opened once, and this process's alone until everything in them is settled.

A marker file stands in each from before the first entry. It names all folders of the restore, and is locked while the
restore runs: what is unfinished may be removed, what is being written may not. Whoever will own a folder gets it last,
so that nobody can put a link in the way of what is written as root.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shlex
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast.entry import Entry
from holdfast.errors import AlreadyRunning, HoldfastError, PermissionRefused, Refused, UsageError
from holdfast.filesystem.failures import naming
from holdfast.messages import _

MARKER = "holdfast-restore-incomplete"
_MARKER_BYTES = 1 << 20
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Owner:
    """Numeric user and group that everything written is given to."""

    uid: int
    gid: int


class Root:
    """One folder, reached by its handle whatever happens to its path. The handle is closed with the last reference."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = -1
        self.folders = {""}
        """Below it, those that were made by this restore: nothing is created anywhere else."""
        self._lock = -1
        self._before: os.stat_result | None = None
        with naming(path):
            try:
                path.mkdir(mode=0o700, parents=True)
                self._made = True
            except FileExistsError:
                self._made = False
            self.handle = os.open(path, _OPEN_FOLDER)

    def __del__(self) -> None:
        self.unlock()
        if self.handle >= 0:
            os.close(self.handle)

    def mark(self, text: str) -> None:
        """The marker appears locked, and for one restore only. Raises ``AlreadyRunning`` for another."""
        draft = f"{MARKER}.{secrets.token_hex(4)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with naming(self.path / MARKER):
            lock = os.open(draft, flags, 0o600, dir_fd=self.handle)
            try:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.write(lock, text.encode("utf-8", "surrogateescape"))
                os.fsync(lock)
                os.link(draft, MARKER, src_dir_fd=self.handle, dst_dir_fd=self.handle)
            except OSError as error:
                os.close(lock)
                if isinstance(error, FileExistsError):
                    raise _running(self.path) from None
                raise
            finally:
                os.unlink(draft, dir_fd=self.handle)
            self._lock = lock
            os.fsync(self.handle)

    def take(self) -> None:
        """From now on only this process's own user gets in. Raises ``Refused`` if somebody put something there."""
        with naming(self.path):
            self._before = os.fstat(self.handle)
            if self._before.st_uid != os.geteuid():
                os.fchown(self.handle, os.geteuid(), os.getegid())
            os.fchmod(self.handle, 0o700)
            if any(name != MARKER and not name.startswith(f"{MARKER}.") for name in os.listdir(self.handle)):  # noqa: PTH208  by handle
                raise _occupied(self.path)

    def withdraw(self) -> None:
        """Undoes what was done so far, before anything was written into it."""
        with suppress(OSError):
            if self._lock >= 0:
                os.unlink(MARKER, dir_fd=self.handle)
                self.unlock()
            if self._made:
                self.path.rmdir()
            elif self._before is not None:
                os.fchown(self.handle, self._before.st_uid, self._before.st_gid)
                os.fchmod(self.handle, stat.S_IMODE(self._before.st_mode))

    def check_place(self) -> None:
        """Raises ``HoldfastError`` unless the path still leads here."""
        with naming(self.path):
            there, here = self.path.lstat(), os.fstat(self.handle)
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            raise HoldfastError(
                _("{path} was moved or replaced while it was restored into").format(path=self.path),
                hint=_("Restore into a folder that nobody else works in."),
            )

    def give(self, owner: Owner | None, entry: Entry | None) -> None:
        """The folder gets its owner, else whom it had before, and the mode of ``entry`` if it has one."""
        with naming(self.path):
            if owner is not None:
                os.fchown(self.handle, owner.uid, owner.gid)
            elif self._before is not None and self._before.st_uid != os.geteuid():
                os.fchown(self.handle, self._before.st_uid, self._before.st_gid)
            if entry is not None:
                os.fchmod(self.handle, entry.mode)
            os.fsync(self.handle)

    def unmark(self) -> None:
        with naming(self.path / MARKER):
            os.unlink(MARKER, dir_fd=self.handle)
            os.fsync(self.handle)
        self.unlock()

    def unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def marker_text(roots: Iterable[Path]) -> str:
    """What the marker of each of ``roots`` says: to whom finds it, and to the next restore."""
    warning = _("Holdfast has not finished restoring here. Do not start PostgreSQL on it.")
    return f"{warning}\n{removal(roots)}\n"


def removal(folders: Iterable[Path]) -> str:
    """The command that removes ``folders``, to be typed into a shell."""
    return f"rm -r -- {shlex.join(map(str, folders))}"


def refuse_unless_empty(folder: Path) -> None:
    """Raises if ``folder`` holds anything, or is no folder, or cannot be one.

    ``AlreadyRunning`` where a restore is writing, ``Refused`` with the command that removes it where one did not
    finish.
    """
    try:
        if folder.is_symlink():
            raise Refused(
                _("{path} is a symbolic link").format(path=folder),
                hint=_("Name the folder that it leads to: {path}").format(path=os.path.realpath(folder)),
            )
        marker = _find(folder)
        occupied = marker is None and _holds_anything(folder)
    except PermissionError:
        raise PermissionRefused(
            _("cannot look into {path}").format(path=folder), hint=_("Run as a user who may write there.")
        ) from None
    except OSError as error:
        raise UsageError(
            _("cannot restore into {path}: {why}").format(path=folder, why=error.strerror),
            hint=_("Name another folder. Nothing was changed."),
        ) from None
    if occupied:
        raise _occupied(folder)
    if marker is not None and marker.is_locked:
        raise _running(folder)
    if marker is not None:
        raise Refused(
            _("{path} holds a restore that did not finish").format(path=folder),
            hint=_("Remove it, then run the same command again: {command}").format(
                command=removal([folder, *_others(marker)])
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Marker:
    identity: tuple[int, int]
    is_ours: bool
    """Written by this process's own user: others may write what they like."""
    is_locked: bool
    roots: tuple[Path, ...]


def _find(folder: Path) -> _Marker | None:
    try:
        handle = os.open(folder / MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            return None
        is_locked = False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            is_locked = True
        except OSError:  # a file system without locks
            pass
        text = os.read(handle, _MARKER_BYTES).decode("utf-8", "surrogateescape")
    finally:
        os.close(handle)
    try:
        words = shlex.split(text.partition("\n")[2])[3:]  # after `rm -r --`
    except ValueError:
        words = []
    return _Marker(
        identity=(status.st_dev, status.st_ino),
        is_ours=status.st_uid == os.geteuid(),
        is_locked=is_locked,
        roots=tuple(map(Path, words)),
    )


def _others(marker: _Marker) -> list[Path]:
    """The other folders of an unfinished restore that still are its own, each with a marker and not being written."""
    found = []
    for root in marker.roots if marker.is_ours else ():
        with suppress(OSError):
            other = _find(root)
            if other and other.is_ours and not other.is_locked and other.identity != marker.identity:
                found.append(root)
    return found


def _holds_anything(folder: Path) -> bool:
    try:
        with os.scandir(folder) as items:
            return any(True for _item in items)
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        if os.path.lexists(folder):  # a file
            return True
        raise


def _occupied(folder: Path) -> Refused:
    return Refused(
        _("{path} is not empty").format(path=folder),
        hint=_("Name a folder that does not exist yet, or an empty one. Nothing was changed."),
    )


def _running(folder: Path) -> AlreadyRunning:
    return AlreadyRunning(
        _("another restore is writing into {path}").format(path=folder),
        hint=_("Wait until it has ended, or name another folder. Nothing was changed."),
    )
