"""The oldest version of Holdfast that may write to a repository: named in it by sealed objects, the highest counts.

An object is one sealed part, JSON ``{"oldest": "0.1.0"}``. A version that changes what writers must do (not how
things are read, which is the format's own number) names itself before it does so. What cannot be unsealed is nobody's
word; what can, and is not understood, is the demand of a later version.
"""

from __future__ import annotations

import json
import re

from holdfast.errors import Damaged, ObjectMissing, Refused
from holdfast.messages import _
from holdfast.repository.objects import Kind
from holdfast.repository.repository import Repository

OLDEST_WRITER = "0.1.0"
"""What a repository made by this version demands."""


def demand_writer(repository: Repository, oldest: str) -> None:
    """From now on versions before ``oldest`` refuse to write here."""
    repository.put_object(Kind.WRITERS, encode_writer(oldest))


def require_writer(repository: Repository, ours: str) -> None:
    """Raises ``Refused`` if this version, ``ours``, is too old to write to the repository, or to know whether it is."""
    hint = _("Install a newer Holdfast here. Reading and restoring work with this one.")
    demanded = []
    for listed in repository.store.list(Kind.WRITERS.prefix):
        try:
            demanded.append(repository.get_listed(listed))
        except (Damaged, ObjectMissing):
            continue
    for data in demanded:
        try:
            oldest = decode_writer(data)
        except Damaged:
            raise Refused(
                _("{url} says who may write to it in a way that this version, {ours}, does not understand").format(
                    url=repository.url, ours=ours
                ),
                hint=hint,
            ) from None
        if version(oldest) > version(ours):
            raise Refused(
                _("{url} may only be written by Holdfast {oldest} or newer; this is {ours}").format(
                    url=repository.url, oldest=oldest, ours=ours
                ),
                hint=hint,
            )


def encode_writer(oldest: str) -> bytes:
    return json.dumps({"oldest": oldest}).encode()


def decode_writer(data: bytes) -> str:
    try:
        oldest = json.loads(data)["oldest"]
        version(oldest)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Damaged(_("what names the oldest version that may write cannot be read")) from None
    return str(oldest)


def version(text: str) -> tuple[int, ...]:
    """The release part of a version, to compare: ``0.10.1.dev3`` is ``(0, 10, 1)``. Raises ``ValueError``."""
    match = re.match(r"\d{1,6}(\.\d{1,6})*", text)
    if match is None:
        raise ValueError(text)
    numbers = tuple(int(number) for number in match[0].split("."))
    return numbers + (0,) * (3 - len(numbers))
