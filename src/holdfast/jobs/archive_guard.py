"""What is watched beside the stream: WAL that our slot holds back, commits that should wait for us. Pure.

The protected server comes first: beyond its limit the slot is given up, unless what it holds back is getting less.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.jobs.archive_events import Weight
from holdfast.messages import _
from holdfast.postgres.slot_watch import Observed

LEVELS = (50, 80)
"""Per cent of the limit."""
PATIENCE = 5.0
"""Seconds beyond the limit, without getting less, until the slot is given up; and until lost synchrony is told."""
_SYNCHRONOUS = ("sync", "quorum")


@dataclass(frozen=True, slots=True)
class Finding:
    weight: Weight
    kind: str
    text: str
    hint: str = ""


class Guard:
    def __init__(self, *, retain: int, synchronous: bool) -> None:
        """``retain``: bytes. ``synchronous``: whether commits are meant to wait for us."""
        self._retain = retain
        self._wanted = synchronous
        self._level = 0
        self._over: tuple[float, int] | None = None
        self._was_synchronous = False
        self._not_since: float | None = None
        self._told_not = False
        self._told_hang = False
        self.gives_up = False
        """Whether the slot is to be given up."""

    @property
    def waited_for(self) -> bool:
        """Whether commits wait for us, or are meant to."""
        return self._wanted or (self._was_synchronous and self._not_since is None)

    def look(self, observed: Observed, now: float, *, streams: bool) -> list[Finding]:
        """What is new. ``now``: monotonic. ``streams``: whether our stream is on."""
        return [*self._slot(observed, now), *self._synchrony(observed, now, streams=streams)]

    def commits(self, observed: Observed | None, still: float, *, streams: bool) -> list[Finding]:
        """What is new of commits that wait for us. ``still``: for so many seconds nothing has become durable although
        something waits, or nothing has streamed."""
        may_wait = observed is not None and bool(observed.synchronous_standby_names) and self.waited_for
        if streams:
            may_wait = may_wait and observed is not None and observed.sync_state in _SYNCHRONOUS
        hang = may_wait and still > PATIENCE / 2
        if hang == self._told_hang or (not hang and observed is None):
            return []
        self._told_hang = hang
        if not hang:
            return [Finding(Weight.INFO, "commits", _("commits do not hang any more"))]
        text = _("commits may hang: they wait for us, and nothing of theirs becomes durable")
        hint = _(
            "See what keeps WAL from the repositories. To let commits go on without us: "
            "ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();"
        )
        return [Finding(Weight.ALARM, "commits hang", text, hint)]

    def slot_is_gone(self) -> None:
        """There is none, or a new one."""
        self.gives_up = False
        self._level, self._over = 0, None

    def standing(self) -> list[str]:
        """What is wrong at present, for people."""
        texts = []
        if self._told_hang:
            texts.append(_("commits may hang: they wait for us, and nothing of theirs becomes durable"))
        if self._told_not:
            texts.append(_("commits do not wait for us, as they should"))
        if self._level:
            texts.append(_("our slot holds back more than {percent} % of what it may").format(percent=self._level))
        return texts

    def _slot(self, observed: Observed, now: float) -> list[Finding]:
        if observed.slot is None or observed.slot.retained is None:
            self.slot_is_gone()
            return []
        retained = observed.slot.retained
        self._beyond(retained, now)
        level = max((level for level in LEVELS if retained * 100 >= level * self._retain), default=0)
        if level <= self._level:
            if retained * 100 < (self._level - 10) * self._retain:
                self._level = level
            return []
        self._level = level
        text = _("our slot holds back {retained} MB of WAL on the server, {percent} % of what it may").format(
            retained=retained // 10**6, percent=round(retained * 100 / self._retain)
        )
        hint = _("See why WAL does not get to the repository; beyond the limit the slot is given up.")
        return [Finding(Weight.WARNING if level < LEVELS[-1] else Weight.ALARM, "slot", text, hint)]

    def _beyond(self, retained: int, now: float) -> None:
        if retained < self._retain:
            self._over = None
            return
        if self._over is None:
            self._over = now, retained
        since, then = self._over
        if now - since < PATIENCE:
            return
        if retained < then:
            self._over = now, retained  # it gets less: what is behind is on its way
        else:
            self.gives_up = True

    def _synchrony(self, observed: Observed, now: float, *, streams: bool) -> list[Finding]:
        if observed.sync_state in _SYNCHRONOUS:
            self._was_synchronous, self._not_since = True, None
            if self._told_not:
                self._told_not = False
                return [Finding(Weight.INFO, "synchronous", _("commits wait for us again"))]
            return []
        if not streams or not (self._wanted or self._was_synchronous):
            return []
        if self._not_since is None:
            self._not_since = now
        if self._told_not or now - self._not_since < PATIENCE / 2:
            return []
        self._told_not = True
        return [_not_synchronous(observed)]


def _not_synchronous(observed: Observed) -> Finding:
    if observed.sync_state is None:
        text = _("whether commits wait for us cannot be seen")
        hint = _("Grant the role pg_monitor: holdfast init prints the SQL.")
    else:
        text = _("commits do not wait for us: an acknowledged one can be lost")
        hint = _(
            "synchronous_standby_names is {names!r}; set it to 'ANY 1 (holdfast, …)' or \"holdfast\" and reload, or "
            "set synchronous = false for this source."
        ).format(names=observed.synchronous_standby_names)
    return Finding(Weight.ALARM, "not synchronous", text, hint)
