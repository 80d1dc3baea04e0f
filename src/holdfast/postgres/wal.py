"""Tablespaces that replay of WAL would create, at the paths the source named.

Replaying CREATE TABLESPACE makes the literal path the tablespace's folder; on the source's own host that is the live
one, and both servers would write into it. So a plan looks for such records first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from holdfast.postgres.datadir import TablespaceLink
from holdfast.postgres.walfacts import EventKind
from holdfast.postgres.walpages import identify
from holdfast.postgres.walscan import WalScanner

_ANY_TIMELINE = 0xFFFFFFFF


def created_tablespaces(blocks: Iterable[bytes | memoryview]) -> Iterator[TablespaceLink]:
    """The tablespaces with a folder of their own that these segments create; ``blocks`` are their bytes, in order.

    Raises :class:`~holdfast.errors.Damaged` for what does not begin like a WAL segment.
    """
    scanner: WalScanner | None = None
    for block in blocks:
        if scanner is None:
            found = identify(block)
            scanner = WalScanner(timeline=_ANY_TIMELINE, segment_size=found.segment_size, start=found.start)
        for event in scanner.feed(block).events:
            oid, _blank, location = event.detail.partition(" ")
            if event.kind is EventKind.TABLESPACE and location.startswith("/"):  # else inside the data directory
                yield TablespaceLink(oid=int(oid), location=location)
