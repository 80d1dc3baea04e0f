"""Joining pieces to segments, by offset and digest: pure, from what pieces say of themselves.

Each piece leads from one place, an offset and the digest of all bytes before it, to another. A chain begins with the
empty digest at offset 0. Pieces may overlap (some tails, what they were merged to, and the whole segment): of the ways
to one place the one of the fewest pieces is taken. Where chains end in several places, either one contains the others,
which only their bytes can tell, or two servers wrote this segment.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from holdfast.repository.wal.held import HeldPiece

Place = tuple[int, bytes]
_NEVER = datetime.min.replace(tzinfo=UTC)


class Joined(NamedTuple):
    chain: tuple[HeldPiece, ...]
    """From offset 0 to the farthest place, without a hole; a last piece without bytes has the newest clock there."""
    forks: tuple[HeldPiece, ...]
    """The last piece of each chain that ends elsewhere; none of these is known to agree with ``chain``."""

    @property
    def stop(self) -> int:
        return self.chain[-1].stop if self.chain else 0


def join(pieces: Iterable[HeldPiece], empty: bytes) -> Joined:
    """``empty``: the digest of no bytes."""
    known = tuple(pieces)
    reached: dict[Place, tuple[int, HeldPiece | None]] = {(0, empty): (0, None)}
    left: set[Place] = set()
    for piece in sorted((one for one in known if one.stop > one.start), key=lambda one: (one.start, one.name)):
        begin, end = (piece.start, piece.before), (piece.stop, piece.after)
        if begin in reached:
            left.add(begin)
            count = reached[begin][0] + 1
            if end not in reached or count < reached[end][0]:
                reached[end] = count, piece
    ends = sorted((place for place in reached if place not in left), reverse=True)
    chain: list[HeldPiece] = []
    last = reached[ends[0]][1]
    while last is not None:
        chain.append(last)
        last = reached[last.start, last.before][1]
    chain.reverse()
    forks = (reached[end][1] for end in ends[1:])
    return Joined((*chain, *_clock(known, ends[0], chain)), tuple(one for one in forks if one is not None))


def _clock(pieces: Iterable[HeldPiece], end: Place, chain: list[HeldPiece]) -> Iterable[HeldPiece]:
    """The piece without bytes that says how far the clock went on at ``end``, if it says more than the chain."""
    known = (chain[-1].clock if chain else None) or _NEVER
    there = [one for one in pieces if one.start == one.stop and (one.stop, one.after) == end]
    newest = max(there, key=lambda one: (one.clock or _NEVER, one.name), default=None)
    return (newest,) if newest is not None and (newest.clock or _NEVER) > known else ()
