"""History files: where each timeline branched off. Text in, values out.

Switch points may go down along a history: a recovery along timeline 3 that stops before 3 had begun leaves a file in
which 3 was left before it began. So a position belongs to the newest timeline that had begun by then.

Source: ``timeline.c`` (``readTimeLineHistory``, ``writeTimeLineHistory``, ``tliOfPointInHistory``), ``timeline.h``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.postgres.lsn import Lsn, history_name

_LINE = re.compile(
    r"\s*([0-9]{1,10})\s+([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})(?![0-9A-Fa-f])\s*(.*)", re.ASCII | re.DOTALL
)
_GREATEST = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One line of a history file: ``timeline`` was left at ``switch``."""

    timeline: int
    switch: Lsn
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The line of ancestors of ``timeline``, oldest first. Timeline 1 has none."""

    timeline: int
    ancestors: tuple[Branch, ...] = ()

    def switch_from(self, timeline: int) -> Lsn | None:
        """Where ``timeline`` was left on the way to this one; None if it is this one, or none of its ancestors.

        What was written on it later belongs to another branch.
        """
        later = [branch.switch for branch in self.ancestors if branch.timeline >= timeline]
        return min(later) if later and self.holds(timeline) else None

    def begin_of(self, timeline: int) -> Lsn | None:
        """Where ``timeline`` branched off its parent; 0 for the oldest; None if it is not of this line."""
        if not self.holds(timeline):
            return None
        earlier = [branch.switch for branch in self.ancestors if branch.timeline < timeline]
        return earlier[-1] if earlier else Lsn(0)

    def next_after(self, timeline: int) -> int | None:
        """The timeline that follows ``timeline`` on this line; None if it is this one, or not of this line."""
        if not self.holds(timeline) or timeline == self.timeline:
            return None
        return min(known for known in self.timelines if known > timeline)

    @property
    def timelines(self) -> tuple[int, ...]:
        """Oldest first, this one last."""
        return (*(branch.timeline for branch in self.ancestors), self.timeline)

    def holds(self, timeline: int) -> bool:
        """Whether ``timeline`` is this one or an ancestor."""
        return timeline in self.timelines

    def timeline_at(self, lsn: int) -> int:
        """The timeline on which the byte at ``lsn`` was written, of this line."""
        newest = self.timeline
        for branch in reversed(self.ancestors):
            if branch.switch <= lsn:
                break
            newest = branch.timeline
        return newest


def parse_history(timeline: int, content: bytes) -> History:
    """The history file of ``timeline``: a line an ancestor, of its number, where it was left, and why, for people.

    Empty lines and comments (``#``) are passed over. Raises :class:`~holdfast.errors.Damaged` for what PostgreSQL would
    refuse too.
    """
    ancestors: list[Branch] = []
    for line in content.decode("utf-8", "surrogateescape").split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None or int(match[1]) > _GREATEST:
            raise _damaged(timeline, _("no timeline and switch point: {line!r}").format(line=line[:80]))
        if ancestors and int(match[1]) <= ancestors[-1].timeline:
            raise _damaged(timeline, _("timelines do not increase: {line!r}").format(line=line[:80]))
        switch = Lsn((int(match[2], 16) << 32) | int(match[3], 16))
        ancestors.append(Branch(timeline=int(match[1]), switch=switch, reason=match[4].rstrip()))
    if ancestors and ancestors[-1].timeline >= timeline:
        raise _damaged(
            timeline, _("its ancestor {ancestor} is not older than it").format(ancestor=ancestors[-1].timeline)
        )
    return History(timeline=timeline, ancestors=tuple(ancestors))


def _damaged(timeline: int, reason: str) -> Damaged:
    return Damaged(
        _("the history file {name} is damaged: {reason}").format(name=history_name(timeline), reason=reason),
        hint=_("Look for a sound copy in the server's pg_wal, in another repository, or on a standby."),
    )
