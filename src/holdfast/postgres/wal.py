"""What WAL says that a plan must know: tablespaces that its replay would create, at the paths the source named.

Replaying CREATE TABLESPACE makes the literal path the tablespace's folder; on the source's own host that is the live
one, and both servers would write into it. So a plan looks for such records first.

Not a walk from record to record: headers of pages are taken out, which makes every record contiguous and leaves it
aligned to 8 bytes, and what looks like the header of such a record is believed when its CRC-32C is right.

Sources: ``xlog_internal.h`` (XLogPageHeaderData), ``xlogrecord.h`` (XLogRecord), ``commands/tablespace.h``
(xl_tblspc_create_rec).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.postgres.crc32c import crc32c
from holdfast.postgres.datadir import TablespaceLink

_PAGE = struct.Struct("<HHIQI4x")
_LONG_PAGE = struct.Struct("<HHIQI4xQII")
_LONG_HEADER = 0x0002
_RECORD = struct.Struct("<IIQBBxxI")
_RECORD_BEFORE_CRC = 20
_CREATE = re.compile(rb"[\x00-\x03]\x05\x00\x00")
"""``xl_info`` of XLOG_TBLSPC_CREATE (its low bits are flags), ``xl_rmid`` of RM_TBLSPC_ID, two bytes of padding."""
_INFO_AT = 16
_LONGEST = 2048
"""More than any such record: a path has at most 1,024 bytes."""
_SHORT_DATA, _LONG_DATA, _ORIGIN, _TOPLEVEL_XID = 255, 254, 253, 252


def created_tablespaces(blocks: Iterable[bytes | memoryview]) -> Iterator[TablespaceLink]:
    """The tablespaces with a folder of their own that these segments create; ``blocks`` are their bytes, in order.

    Raises :class:`~holdfast.errors.Damaged` for what does not begin like a WAL segment.
    """
    payload = bytearray()
    for piece in _without_headers(blocks):
        payload += piece
        done = max(0, len(payload) - _LONGEST) & ~7
        yield from _records(payload, done)
        del payload[:done]
    yield from _records(payload, len(payload))


def _records(payload: bytearray, end: int) -> Iterator[TablespaceLink]:
    """Those that begin before ``end``."""
    for match in _CREATE.finditer(payload):
        start = match.start() - _INFO_AT
        if not 0 <= start < end or start % 8:
            continue
        length, _xid, _previous, _info, _manager, crc = _RECORD.unpack_from(payload, start)
        record = bytes(payload[start : start + length])
        if not _RECORD.size < length <= len(record) or length > _LONGEST:
            continue
        if crc32c(record[:_RECORD_BEFORE_CRC], crc32c(record[_RECORD.size :])) == crc:
            link = _parse(record[_RECORD.size :])
            if link.location.startswith("/"):  # else it lies inside the data directory
                yield link


def _parse(body: bytes) -> TablespaceLink:
    at = 0
    while body[at] in (_ORIGIN, _TOPLEVEL_XID):
        at += 1 + (2 if body[at] == _ORIGIN else 4)
    at += {_SHORT_DATA: 2, _LONG_DATA: 5}[body[at]]
    (oid,) = struct.unpack_from("<I", body, at)
    return TablespaceLink(oid=oid, location=body[at + 4 :].partition(b"\0")[0].decode("utf-8", "surrogateescape"))


def _without_headers(blocks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    raw, page_size = bytearray(), 0
    for block in blocks:
        raw += block
        if not page_size and len(raw) >= _LONG_PAGE.size:
            page_size = _page_size(raw)
        if page_size:
            whole = len(raw) - len(raw) % page_size
            yield b"".join(_page_payload(raw, at, page_size) for at in range(0, whole, page_size))
            del raw[:whole]


def _page_payload(raw: bytearray, at: int, page_size: int) -> bytes:
    _magic, info, _timeline, _address, _remaining = _PAGE.unpack_from(raw, at)
    header = _LONG_PAGE.size if info & _LONG_HEADER else _PAGE.size
    return bytes(raw[at + header : at + page_size])


def _page_size(raw: bytearray) -> int:
    *_others, page_size = _LONG_PAGE.unpack_from(raw)
    info = _others[1]
    if not info & _LONG_HEADER or page_size not in (1024 << n for n in range(7)):
        raise Damaged(_("a WAL segment does not begin as WAL segments do"))
    return int(page_size)
