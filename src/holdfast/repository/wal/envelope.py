"""An object of two parts: what it is (JSON), so that a short range tells it, then the bytes, in stored form.

::

    head (48) ‖ u32 length of the sealed first part
    ‖ part 0: u32 length ‖ stored form of JSON ‖ part 1, the last: stored form of the bytes

Its id is random; its name follows from what it holds, stands in the JSON as ``name``, and is compared: so an object
that lies under another's name is told from it. Sizes are checked before memory is taken.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.compression import compress, decompress
from holdfast.repository.ids import ObjectId, new_object_id
from holdfast.repository.objects import ContentRef, Kind
from holdfast.repository.sealing import HEAD, TAG_BYTES, MasterKey, ObjectCipher
from holdfast.store.port import Store

Bytes = bytes | bytearray | memoryview
Json = dict[str, Any]

USUAL_BYTES = 8 * 1024
"""A range from the beginning that has the first part of most objects."""
MAX_INFO_BYTES = 16 * 2**20
"""Of JSON."""
MAX_CONTENT_BYTES = 2**30
_LENGTH = struct.Struct(">I")
_BEFORE_INFO = HEAD.size + _LENGTH.size
_NAME = "name"


@dataclass(frozen=True, slots=True)
class Opened:
    """The first part of an object, authenticated."""

    info: Json
    """As it was sealed, without the name."""
    end: int
    """Where the second part begins in the object."""
    cipher: ObjectCipher


def seal(master: MasterKey, kind: Kind, name: str, info: Json, content: Bytes) -> bytes:
    """A whole object, as it goes to the store. Raises ``ValueError`` for more than readers take."""
    plain = json.dumps({**info, _NAME: name}, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()
    if len(plain) > MAX_INFO_BYTES or len(content) > MAX_CONTENT_BYTES:
        raise ValueError(name)
    cipher = ObjectCipher(master, ContentRef(kind, new_object_id(), name))
    first = cipher.seal(0, _LENGTH.pack(len(plain)) + compress(plain), last=False)
    return b"".join((cipher.head, _LENGTH.pack(len(first)), first, cipher.seal(1, compress(content), last=True)))


def fetch_info(store: Store, master: MasterKey, kind: Kind, name: str) -> Opened:
    """By one short range, or one more. Raises ``Damaged``, and what the store raises."""
    data = store.get(name, 0, USUAL_BYTES)
    end = _end(name, data)
    if end > len(data):  # from the beginning: it may have been put again meanwhile, under another key
        data = store.get(name, 0, end)
    return open_info(master, kind, name, data)


def open_info(master: MasterKey, kind: Kind, name: str, data: bytes) -> Opened:
    """``data``: the object, or its beginning. Raises ``Damaged``."""
    end = _end(name, data)
    raw = data[HEAD.size - 32 : HEAD.size]
    cipher = ObjectCipher(master, ContentRef(kind, ObjectId(raw), name))
    cipher.check_head(data[: HEAD.size])
    plain = cipher.unseal(0, memoryview(data)[_BEFORE_INFO:end], last=False)
    try:
        (size,) = _LENGTH.unpack_from(plain)
        if size > MAX_INFO_BYTES:
            raise ValueError("size")
        info = json.loads(decompress(memoryview(plain)[_LENGTH.size :], size=size), parse_constant=no_number)
        if not isinstance(info, dict) or info.pop(_NAME) != name:
            raise ValueError(_NAME)
    except (struct.error, ValueError, KeyError, RecursionError, Damaged):
        raise Damaged(
            _("what {name} says of itself cannot be read, or it is another object").format(name=name),
            hint=_("It may have been written by a newer version of Holdfast."),
        ) from None
    return Opened(info, end, cipher)


def open_content(opened: Opened, data: bytes, *, size: int) -> bytes:
    """The second part of the whole object ``data``, which must hold ``size`` bytes. Raises ``Damaged``."""
    if size > MAX_CONTENT_BYTES:
        raise Damaged(_("a chunk's stored form cannot be read"))
    return decompress(memoryview(opened.cipher.unseal(1, memoryview(data)[opened.end :], last=True)), size=size)


def _end(name: str, data: bytes) -> int:
    """Where the first part ends, as the object has it: nothing is authenticated yet."""
    if len(data) >= _BEFORE_INFO:
        (length,) = _LENGTH.unpack_from(data, HEAD.size)
        if TAG_BYTES <= length <= MAX_INFO_BYTES + 1024:
            return _BEFORE_INFO + int(length)
    raise Damaged(
        _("{name} is damaged: its head is not that of this object").format(name=name),
        hint=_("Run `holdfast verify` to see which snapshots and files this touches."),
    )


def no_number(text: str) -> float:
    """Infinity and NaN are no JSON."""
    raise ValueError(text)
