"""Chains of one segment that end in several places: do they agree, or did two servers write it?

A receiver that was killed in the middle of its uploads leaves a piece beside those that its successor cut otherwise,
and two receivers of one server cut as they like. Only bytes tell: those of the longest chain either contain what the
others end with, or it is a conflict. That is asked once.
"""

from __future__ import annotations

from holdfast.errors import Refused
from holdfast.messages import _
from holdfast.repository.repository import Repository
from holdfast.repository.wal.contents import feed, read_piece
from holdfast.repository.wal.held import Conflict
from holdfast.repository.wal.joining import Joined
from holdfast.repository.wal.pieces import Running

Place = tuple[int, int]
"""Timeline and number of a segment."""


class Forks:
    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._agree: dict[tuple[str, ...], bool] = {}
        """By the names of the pieces that chains end with."""

    def conflict(self, place: Place, joined: Joined) -> Conflict | None:
        """Raises ``Damaged`` where the longest chain cannot be read."""
        if not joined.forks:
            return None
        ends = tuple(sorted({joined.chain[-1].name, *(fork.name for fork in joined.forks)}))
        if ends not in self._agree:
            self._agree[ends] = self._compare(joined)
        return None if self._agree[ends] else Conflict(timeline=place[0], number=place[1], names=ends)

    def _compare(self, joined: Joined) -> bool:
        if any(fork.stop == joined.stop for fork in joined.forks):
            return False  # another digest of as many bytes
        running = Running(self._repository.ids)
        wanted = {fork.stop: fork for fork in joined.forks}
        found: dict[int, bytes] = {}
        for piece in joined.chain:
            if piece.start < max(wanted):
                found.update(feed(running, piece, read_piece(self._repository, piece), wanted))
        return all(found[fork.stop] == fork.after for fork in joined.forks)


def refused(conflict: Conflict) -> Refused:
    return Refused(
        _("{count} different contents of one WAL file stand beside each other: {names}").format(
            count=len(conflict.names), names=", ".join(conflict.names)
        ),
        hint=_("Two servers wrote WAL of the same name. `holdfast verify` shows where."),
    )
