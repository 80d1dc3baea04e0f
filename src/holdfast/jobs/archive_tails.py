"""The pieces that a portion's tail consists of in one repository, until the portion is whole: bookkeeping, pure.

When 64 are durable one piece takes their place: put first, then the 64 are removed. When the portion is whole, all go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from holdfast.postgres.walfacts import WalFacts, join
from holdfast.repository.wal.held import HeldPiece
from holdfast.repository.wal.pieces import Piece

MERGED_AT = 64
"""So many pieces are joined to one; what is joined is joined no second time."""


@dataclass(slots=True)
class _Entry:
    piece: Piece
    name: str = ""
    """The object's; empty until it is durable."""
    merged: bool = False
    claimed: bool = False
    """Somebody is about to put what takes its place."""


class Tails:
    def __init__(self, held: Iterable[HeldPiece] = ()) -> None:
        self._old = [piece.name for piece in held]
        """Put by somebody before us: they go when the portion is whole."""
        self._entries: list[_Entry] = []
        self.whole = False
        """Whether the portion itself is durable."""

    def cut(self, piece: Piece) -> None:
        """It is on its way."""
        self._entries.append(_Entry(piece))

    def arrived(self, piece: Piece, name: str) -> None:
        for entry in self._entries:
            if entry.piece is piece:
                entry.name = name

    @property
    def on_the_way(self) -> int:
        return sum(not entry.name for entry in self._entries)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of them but to be removed."""
        return self.whole and not self.on_the_way

    def names(self) -> list[str]:
        """Of all that is durable."""
        return self._old + [entry.name for entry in self._entries if entry.name]

    @property
    def is_settled(self) -> bool:
        """Whether everything is durable, and nothing is being merged."""
        return not any(entry.claimed or not entry.name for entry in self._entries)

    def claim(self, *, ended: bool = False) -> list[Piece]:
        """The oldest pieces that one is to take the place of, all durable; none, if they are too few. They are given
        once. ``ended``: nothing more comes, so all of ours are joined, if there are several."""
        if ended:
            ready = self._entries if self.is_settled and len(self._entries) > 1 else []
        else:
            single = [entry for entry in self._entries if not (entry.merged or entry.claimed)][:MERGED_AT]
            ready = single if len(single) == MERGED_AT and all(entry.name for entry in single) else []
        for entry in ready:
            entry.claimed = True
        return [entry.piece for entry in ready]

    def merged(self, pieces: Iterable[Piece], piece: Piece, name: str) -> list[str]:
        """``piece``, durable now under ``name``, stands for ``pieces``: the names of those."""
        replaced = {id(one) for one in pieces}
        place = next(number for number, entry in enumerate(self._entries) if id(entry.piece) in replaced)
        gone = [entry.name for entry in self._entries if id(entry.piece) in replaced]
        self._entries = [entry for entry in self._entries if id(entry.piece) not in replaced]
        self._entries.insert(place, _Entry(piece, name, merged=True))
        return [old for old in gone if old != name]


def merged_piece(pieces: list[Piece]) -> Piece:
    """One piece for neighbours."""
    first, last = pieces[0], pieces[-1]
    clock = max((piece.clock for piece in pieces if piece.clock is not None), default=None)
    facts = join(WalFacts.from_json(piece.facts) for piece in pieces)
    return replace(first, stop=last.stop, after=last.after, clock=clock, facts=facts.to_json())
