"""A chunk's stored form: one byte that says how, then the bytes. ``0`` as it is, ``1`` zstd (one frame with its size).

Compressing happens before sealing; what does not shrink is stored as it is. Each thread has its own zstd context.
"""

from __future__ import annotations

import threading

import zstandard

from holdfast.errors import Damaged
from holdfast.messages import _

LEVEL = 1
AS_IS = b"\x00"
ZSTD = b"\x01"

_own = threading.local()


def compress(content: bytes | bytearray | memoryview) -> bytes:
    if not hasattr(_own, "compressor"):
        _own.compressor = zstandard.ZstdCompressor(level=LEVEL)
    packed: bytes = _own.compressor.compress(content)
    return ZSTD + packed if len(packed) < len(content) else AS_IS + bytes(content)


def decompress(stored: bytes | memoryview, *, size: int) -> bytes:
    """The content, which must be ``size`` bytes long: never more memory than that is taken."""
    form, body = stored[:1], memoryview(stored)[1:]
    if form == AS_IS and len(body) == size:
        return bytes(body)
    if form == ZSTD:
        if not hasattr(_own, "decompressor"):
            _own.decompressor = zstandard.ZstdDecompressor()
        try:
            if zstandard.get_frame_parameters(body).content_size == size:
                content: bytes = _own.decompressor.decompress(body)
                return content
        except zstandard.ZstdError:
            pass
    raise Damaged(_("a chunk's stored form cannot be read"))
