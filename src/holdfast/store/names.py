"""Which names a store takes: the same for every backend, so that a repository can move between any two.

A name is parts of ``[a-z0-9._-]`` joined by ``/``; a part never starts with a dot (such names belong to the folder
backend itself) and has at most 255 characters, the whole at most 800 (S3 allows 1,024 bytes, a prefix included).
What lies in a store under any other name is not an object: it is never listed.
"""

from __future__ import annotations

import re

from holdfast.errors import UsageError
from holdfast.messages import _

_NAME = re.compile(r"(?=.{1,800}\Z)[a-z0-9_-][a-z0-9._-]{0,254}(?:/[a-z0-9_-][a-z0-9._-]{0,254})*")


def is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """Raise ``UsageError`` unless ``name`` can be an object's."""
    if not is_name(name):
        raise UsageError(
            _("not an object name: {name!r}").format(name=name),
            hint=_("Names are lower case letters, digits, '.', '_', '-' and '/', and no part starts with a dot."),
        )


def check_prefix(prefix: str) -> None:
    """Raise ``UsageError`` unless ``prefix`` is empty, or a name followed by ``/``."""
    if prefix and not (prefix.endswith("/") and is_name(prefix[:-1])):
        raise UsageError(
            _("not a prefix of object names: {prefix!r}").format(prefix=prefix),
            hint=_("A prefix is empty, or a name that ends in '/'."),
        )


def check_range(start: int, length: int | None) -> None:
    if start < 0 or (length is not None and length < 0):
        raise UsageError(_("not a range of bytes: start {start}, length {length}").format(start=start, length=length))
