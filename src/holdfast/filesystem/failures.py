"""Operating system errors of writing, in our words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.errors import HoldfastError, NoSpace, PermissionRefused
from holdfast.messages import _


@contextmanager
def naming(place: Path | str) -> Iterator[None]:
    """Inside, an ``OSError`` is about writing ``place``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                _("the disk is full: cannot write {path}").format(path=place),
                hint=_("Make room or choose a larger disk, remove the unfinished folder, and run again."),
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise PermissionRefused(
                _("cannot write {path}: {why}").format(path=place, why=error.strerror),
                hint=_("Run as a user who may write there, or choose another folder."),
            ) from None
        raise HoldfastError(_("cannot write {path}: {why}").format(path=place, why=error.strerror)) from None
