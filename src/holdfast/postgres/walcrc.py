"""CRC-32C of many records at once.

A checksum is linear in the bytes that it covers: each byte contributes what its value and its distance from the end
say, and the contributions are combined by XOR. So the bytes of all records are looked up in one table, in one step.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from holdfast.postgres.crc32c import TABLE

_FARTHEST = 4096
"""Distances from the end that the table knows; what covers more is cut."""
_ONES = np.uint32(0xFFFFFFFF)
_HEAD = 24
_HEAD_COVERED = 20

Octets = NDArray[np.uint8]
Places = NDArray[np.int64]
Checksums = NDArray[np.uint32]


def record_checksums(content: Octets, starts: Places, lengths: Places) -> Checksums:
    """What ``xl_crc`` must be in the records at ``starts``: it covers what follows the head, then the head's first 20
    bytes (``xlogreader.c``, ValidXLogRecord). All lie inside ``content``."""
    table = _contributions()
    result = _of_heads(content, starts) ^ _ONES
    is_long = lengths > _FARTHEST
    for row in np.flatnonzero(is_long).tolist():
        state = _of_long(content[starts[row] + _HEAD : starts[row] + lengths[row]])
        result[row] ^= _over_zeros(state, _HEAD_COVERED)
    short = np.flatnonzero(~is_long)
    if len(short):
        covered = lengths[short] - (_HEAD - _HEAD_COVERED)
        for byte in range(4):  # the value that a checksum starts from, added to the first four bytes covered
            result[short] ^= table[covered - 1 - byte, 0xFF]
        with_body = short[lengths[short] > _HEAD]
        result[with_body] ^= _linear(
            content, starts[with_body] + _HEAD, lengths[with_body] - _HEAD, further=_HEAD_COVERED
        )
    return result


def _of_heads(content: Octets, starts: Places) -> Checksums:
    places = np.arange(_HEAD_COVERED)
    found = _contributions()[_HEAD_COVERED - 1 - places, content[starts[:, None] + places]]
    heads: Checksums = np.bitwise_xor.reduce(found, axis=1)
    return heads


def _linear(content: Octets, starts: Places, lengths: Places, *, further: int) -> Checksums:
    """What the bytes of each contribute to a checksum that ends ``further`` bytes behind them; none is empty."""
    offsets = np.cumsum(lengths) - lengths
    places = np.arange(int(lengths.sum())) + np.repeat(starts - offsets, lengths)
    distances = np.repeat(starts + lengths + (further - 1), lengths) - places
    found: Checksums = np.bitwise_xor.reduceat(_contributions()[distances, content[places]], offsets)
    return found


def _of_long(body: Octets) -> int:
    """The state of a checksum after ``body``."""
    state = int(_ONES)
    for at in range(0, len(body), _FARTHEST):
        piece = body[at : at + _FARTHEST]
        whole = _linear(piece, np.array([0]), np.array([len(piece)]), further=0)
        state = _over_zeros(state, len(piece)) ^ int(whole[0])
    return state


def _over_zeros(state: int, length: int) -> int:
    """What becomes of a state over so many zero bytes."""
    if length < 4:
        for _step in range(length):
            state = TABLE[state & 0xFF] ^ (state >> 8)
        return state
    table = _contributions()
    parts = (table[length - 1 - byte, state >> 8 * byte & 0xFF] for byte in range(4))
    return int(np.bitwise_xor.reduce(list(parts)))


@cache
def _contributions() -> Checksums:
    """By distance from the end, then by the byte's value."""
    made = np.empty((_FARTHEST, 256), dtype=np.uint32)
    single = np.array(TABLE, dtype=np.uint32)
    made[0] = single
    for distance in range(1, _FARTHEST):
        before = made[distance - 1]
        made[distance] = single[before & 0xFF] ^ (before >> np.uint32(8))
    return made
