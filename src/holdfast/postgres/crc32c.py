"""CRC-32C (Castagnoli): what PostgreSQL writes into pg_control and WAL records. In neither zlib nor hashlib.

Byte by byte, for the few hundred bytes of a control file; nothing that a backup reads in bulk comes here.
Source: ``src/include/port/pg_crc32c.h``; RFC 3720, appendix B.4 (test vectors).
"""

from __future__ import annotations

_POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41, bits reversed


def _table() -> tuple[int, ...]:
    entries = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


TABLE = _table()
"""What one byte does to a checksum that is not yet inverted."""


def crc32c(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """The checksum of what ``crc`` already covers followed by ``data``, like :func:`zlib.crc32`."""
    value = crc ^ 0xFFFFFFFF
    for byte in data:
        value = TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF
