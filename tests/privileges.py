"""Being somebody else for a moment: what root may do hides what a user may not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tests.requirements import require

NOBODY = 65534


def require_root() -> None:
    require(os.geteuid() == 0, "only root can give files away and become another user")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Inside, files are reached as an unprivileged user that owns nothing. Needs root."""
    require_root()
    group = os.getegid()
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
