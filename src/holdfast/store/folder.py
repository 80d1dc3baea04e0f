"""A folder as a store: nothing shows under a name before all of its bytes are on the disk.

::

    root/                     0700
      .holdfast-store/        marks the root: without it the disk is not mounted, however empty the folder looks
        4f1c….tmp             an object being written
      packs/ab/ab12…          0600, linked here when its bytes were synced

Writing is: a temporary file, fsync, ``link`` (which refuses a name that is taken) or ``rename`` (plain put), fsync of
every directory whose entries changed. After a failed fsync the kernel may have dropped the dirty pages and report
success the next time, so that file is thrown away and a retry writes another; likewise a retry that finds its own
bytes renames a new file over them rather than trusting the directory's earlier entry.

Where the file system has no hard links, ``if_absent`` looks first and then renames: still atomic, no longer
exclusive, and :meth:`FolderStore.exclusive_create` says so. A disk that hangs in the kernel (a hard NFS mount) hangs
its caller: no time limit of ours can help there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from holdfast.clock import Clock
from holdfast.errors import HoldfastError, NoSpace, PermissionRefused, StoreBusy, StoreUnreachable
from holdfast.messages import _
from holdfast.store.failures import Operation, Unmarked, cannot, exists, missing
from holdfast.store.names import check_name, check_prefix, check_range, is_name
from holdfast.store.port import Bytes, Listed, Traits
from holdfast.store.probing import creates_exclusively

MARK = ".holdfast-store"
_LEFTOVER_AGE = timedelta(days=1)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_GONE = frozenset({errno.ENODEV, errno.ENOTCONN, errno.ESHUTDOWN, errno.EXDEV})
_NO_DIRECTORY_SYNC = frozenset({errno.EBADF, errno.EINVAL, errno.EOPNOTSUPP})


class FolderStore:
    def __init__(self, root: Path, *, clock: Clock, create: bool = False) -> None:
        """Open the store at ``root`` (absolute); with ``create`` make and mark the folder if need be.

        Raises ``StoreUnreachable`` where there is no marked folder, and removes temporary files of yesterday.
        """
        self._root = root
        self._mark = root / MARK
        self._url = root.as_uri()
        self._synced: set[Path] = set()
        self._lock = threading.Lock()
        try:
            if create:
                self._create()
            self._require_mark()
            self._owner = _owner_to_give_to(self._mark)
            self._remove_leftovers(older_than=clock.now() - _LEFTOVER_AGE)
        except OSError as error:
            raise self._failure(error, Operation.LIST, "") from error

    @property
    def url(self) -> str:
        return self._url

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        check_name(name)
        temporary = self._mark / f"{secrets.token_hex(16)}.tmp"
        try:
            try:
                _write_synced(temporary, data, self._owner)
                self._publish(temporary, name, data, if_absent=if_absent)
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
        except OSError as error:
            raise self._failure(error, Operation.PUT, name) from error

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        check_name(name)
        check_range(start, length)
        try:
            try:
                return _read(self._root / name, start, length)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                self._require_mark()
                raise missing(name, self._url) from None
        except OSError as error:
            raise self._failure(error, Operation.GET, name) from error

    def list(self, prefix: str) -> Iterator[Listed]:
        check_prefix(prefix)
        try:
            self._require_mark()
            yield from _walk(self._root / prefix, prefix)
            self._require_mark()  # a disk unmounted meanwhile would have looked like vanished files
        except OSError as error:
            raise self._failure(error, Operation.LIST, prefix) from error

    def delete(self, name: str) -> None:
        check_name(name)
        path = self._root / name
        try:
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                self._require_mark()
            else:
                _sync_directory(path.parent)
        except OSError as error:
            raise self._failure(error, Operation.DELETE, name) from error

    def exclusive_create(self) -> bool:
        return creates_exclusively(self)

    def traits(self, name: str) -> Traits:
        check_name(name)
        return Traits(syncs=True, ranges=True, keeps_versions=False)

    def _create(self) -> None:
        absent = [path for path in (self._mark, *self._mark.parents) if not path.is_dir()]
        for path in reversed(absent):
            path.mkdir(mode=0o700, exist_ok=True)
            _sync_directory(path.parent)

    def _is_marked(self) -> bool:
        try:
            return self._mark.is_dir()
        except OSError:
            return False

    def _require_mark(self) -> None:
        if not self._mark.is_dir():
            raise Unmarked(
                _("no store at {store}").format(store=self._url),
                hint=_(
                    "Mount the disk if it is not mounted, or correct the URL; "
                    "for a store that was copied here without its hidden files, create the empty folder {mark}."
                ).format(mark=self._mark),
            )

    def _remove_leftovers(self, *, older_than: datetime) -> None:
        with contextlib.suppress(PermissionError), os.scandir(self._mark) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # another process may tidy too, and a reader may not
                    if entry.name.endswith(".tmp") and entry.stat().st_mtime < older_than.timestamp():
                        Path(entry.path).unlink()

    def _publish(self, temporary: Path, name: str, data: Bytes, *, if_absent: bool) -> None:
        final = self._root / name
        self._make_folder(final.parent)
        if not (if_absent and _link_new(temporary, final)):
            if if_absent and _read(final, 0, None) != memoryview(data).cast("B"):
                raise exists(name, self._url)
            temporary.replace(final)
        _sync_directory(final.parent)

    def _make_folder(self, folder: Path) -> None:
        """Make ``folder`` and see that the entries leading to it are on disk, whoever made them."""
        with self._lock:
            known = folder in self._synced and folder.is_dir()
        if known or folder == self._root:
            return
        self._make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            if self._owner:
                os.chown(folder, *self._owner, follow_symlinks=False)
        _sync_directory(folder.parent)
        with self._lock:
            self._synced.add(folder)

    def _failure(self, error: OSError, operation: Operation, name: str) -> HoldfastError:
        reason = os.strerror(error.errno) if error.errno else str(error)
        message = cannot(operation, name, self._url, reason)
        if error.errno in _FULL:
            return NoSpace(
                _("{message} ({free} bytes free)").format(message=message, free=self._free_bytes()),
                hint=_("Make room on the disk of {root}, or give the repository another one.").format(root=self._root),
            )
        if error.errno in _FORBIDDEN:
            return PermissionRefused(
                message,
                hint=_("Run as the user who owns {root}, and see that its file system is not read-only.").format(
                    root=self._root
                ),
            )
        if error.errno in {errno.ENOTDIR, errno.EISDIR, errno.EEXIST}:
            return StoreUnreachable(
                message, hint=_("Remove what lies in {root} and is not the store's.").format(root=self._root)
            )
        if error.errno in _GONE or not self._is_marked():
            return StoreUnreachable(message, hint=_("Mount the disk of {root}.").format(root=self._root))
        return StoreBusy(message, hint=_("Look into the kernel's log for errors of the disk."))

    def _free_bytes(self) -> int:
        try:
            figures = os.statvfs(self._root)
        except OSError:
            return 0
        return figures.f_bavail * figures.f_frsize


def _owner_to_give_to(mark: Path) -> tuple[int, int] | None:
    """User and group of the store, for root to give what it writes to: a restore as root must not lock others out."""
    status = mark.stat()
    return (status.st_uid, status.st_gid) if os.geteuid() == 0 and status.st_uid != 0 else None


def _write_synced(path: Path, data: Bytes, owner: tuple[int, int] | None) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if owner:
            os.fchown(descriptor, *owner)
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link_new(temporary: Path, final: Path) -> bool:
    """Whether ``final`` was new and is now ours; False if the caller must look at what is there, or rename."""
    try:
        final.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if final.exists():
            return False
        temporary.replace(final)
    return True


def _read(path: Path, start: int, length: int | None) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe planted there must not hang us
    try:
        size = os.fstat(descriptor).st_size
        end = size if length is None else min(size, start + length)
        pieces: list[bytes] = []
        while start < end and (piece := os.pread(descriptor, end - start, start)):
            pieces.append(piece)
            start += len(piece)
        if not pieces:
            os.pread(descriptor, 1, 0)  # a directory opens, but does not read
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    finally:
        os.close(descriptor)


def _walk(folder: Path, prefix: str) -> Iterator[Listed]:
    """The regular files under ``folder`` that may be objects; what vanishes on the way is left out."""
    try:
        with os.scandir(folder) as scan:
            entries = list(scan)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        name = prefix + entry.name
        if not is_name(name):
            continue
        try:
            status = entry.stat()
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(folder / entry.name, name + "/")
        elif stat.S_ISREG(status.st_mode):
            modified = datetime.fromtimestamp(status.st_mtime, UTC)
            yield Listed(name=name, size=status.st_size, modified=modified)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:  # some network file systems sync directories by themselves
            raise
    finally:
        os.close(descriptor)
