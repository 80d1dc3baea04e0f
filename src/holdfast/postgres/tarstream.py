"""A tar archive read as it arrives: blocks of any size in, members and their bytes out, nothing copied on the way.

Pure: no I/O of its own. A stream that ends early or says nonsense is :class:`~holdfast.errors.Damaged`; what a member's
reader leaves unread is skipped. Format: POSIX ustar as PostgreSQL writes it (``src/port/tar.c``): no extended headers,
large sizes in base 256, two blocks of zeroes at the end.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from holdfast.errors import Damaged
from holdfast.messages import _

BLOCK = 512

Member = tuple[tarfile.TarInfo, Iterator[memoryview]]


class TarStream:
    """``blocks`` is read only as far as needed; after :meth:`members` ended it stands after the archive's end mark."""

    def __init__(self, name: str, blocks: Iterator[memoryview]) -> None:
        self._name = name
        self._blocks = blocks
        self._rest = memoryview(b"")
        self._unread = 0  # bytes of the current member's content, padding included, that nobody took yet

    def members(self) -> Iterator[Member]:
        """Each header with an iterator of exactly its size in bytes, to be read before the next is asked for."""
        while (header := self._header()) is not None:
            padding = -header.size % BLOCK
            self._unread = header.size + padding
            yield header, self._content(header.size)
            for _skipped in self._take(self._unread):
                pass
        self._end()

    def _header(self) -> tarfile.TarInfo | None:
        block = self._exactly(BLOCK)
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # part of tarfile's header parsing, not of its stubs
            return None
        except tarfile.HeaderError:
            raise self._damaged(_("a header is not one")) from None
        if header.type not in (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE):
            raise self._damaged(_("{path} is of an unknown type").format(path=header.name))
        if header.type != tarfile.REGTYPE:
            header.size = 0
        if header.size < 0:  # base 256 has a sign
            raise self._damaged(_("{path} has a negative size").format(path=header.name))
        return header

    def _content(self, size: int) -> Iterator[memoryview]:
        left = size
        while left:
            for piece in self._take(left):
                left -= len(piece)
                yield piece

    def _take(self, count: int) -> Iterator[memoryview]:
        """``count`` bytes of the current member, piece by piece."""
        while count:
            rest = self._rest
            if not rest:
                self._rest = self._next()
                continue
            piece = rest[:count] if len(rest) > count else rest
            self._rest = rest[len(piece) :]
            count -= len(piece)
            self._unread -= len(piece)
            yield piece

    def _exactly(self, count: int) -> bytes:
        self._unread = count
        return b"".join(self._take(count))

    def _next(self) -> memoryview:
        block = next(self._blocks, None)
        if block is None:
            raise self._damaged(_("it ends in the middle"))
        return block

    def _end(self) -> None:
        """The second block of zeroes; nothing but zeroes may follow."""
        if any(self._exactly(BLOCK)) or any(self._rest):
            raise self._damaged(_("bytes follow its end"))

    def _damaged(self, reason: str) -> Damaged:
        return Damaged(
            _("archive {name} of the base backup is damaged: {reason}").format(name=self._name, reason=reason),
            hint=_("Take the backup again; if it happens again, look into the server's log."),
        )
