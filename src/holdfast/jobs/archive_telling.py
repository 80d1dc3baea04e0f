"""What a receiver tells, in words: one method for each thing that happens."""

from __future__ import annotations

from holdfast.clock import Clock
from holdfast.errors import AlreadyRunning, HoldfastError, PermissionRefused
from holdfast.jobs.archive_events import Event, Listener, Weight, in_words
from holdfast.jobs.archive_guard import Finding
from holdfast.messages import _
from holdfast.policy.resuming import Resume, Why
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.streaming import WalGone


class Telling:
    def __init__(self, listener: Listener, clock: Clock) -> None:
        self._listener = listener
        self._clock = clock
        self.trouble = ""
        """Why nothing streams at present; told once."""

    def tell(self, weight: Weight, kind: str, text: str, hint: str = "") -> None:
        self._listener.heard(Event(when=self._clock.now(), weight=weight, kind=kind, text=text, hint=hint))

    def streams(self, server: str, timeline: int, lsn: Lsn) -> None:
        self.trouble = ""
        text = _("streaming from {server}, timeline {timeline}, from {lsn} on")
        self.tell(Weight.INFO, "streaming", text.format(server=server, timeline=timeline, lsn=lsn))

    def no_socket(self, error: PermissionRefused) -> None:
        text = _("{error}; `wal push` and `status` cannot ask this receiver").format(error=in_words(error))
        self.tell(Weight.WARNING, "no socket", text, error.hint)

    def timeline(self, timeline: int, lsn: Lsn) -> None:
        text = _("timeline {timeline} goes on from {lsn}").format(timeline=timeline, lsn=lsn)
        self.tell(Weight.INFO, "timeline", text)

    def begins(self, decided: Resume) -> None:
        """Where a repository does not go on from what it holds."""
        for name, one in decided.repositories.items():
            if one.why is Why.GAP:
                text = _("a gap: {repository} lacks the WAL from {after} to {lsn}, and the server no longer has it")
                self.tell(
                    Weight.ALARM,
                    "gap",
                    text.format(repository=name, after=one.after, lsn=decided.lsn),
                    _("Moments in between cannot be recovered; a snapshot opens the next window."),
                )
            elif one.why is Why.ADOPTED:
                text = _("{repository}: another cluster takes the place of the one before, from {lsn} on")
                self.tell(Weight.WARNING, "adopted", text.format(repository=name, lsn=decided.lsn))

    def found(self, finding: Finding) -> None:
        self.tell(finding.weight, finding.kind, finding.text, finding.hint)

    def lost(self, error: HoldfastError) -> None:
        self._once(in_words(error), "lost", error.hint)

    def in_use(self, error: AlreadyRunning) -> None:
        self._once(str(error), "in use", _("It may be an earlier connection of ours: it is awaited for a minute."))

    def gone(self, error: WalGone) -> None:
        self.tell(Weight.ALARM, "gone", in_words(error), error.hint)

    def repository(self, name: str, error: HoldfastError | None) -> None:
        """It has begun to make trouble, or it works again."""
        if error is None:
            self.tell(Weight.INFO, "repository", _("{repository} works again").format(repository=name))
        else:
            text = _("{repository}: {error}; trying again").format(repository=name, error=in_words(error))
            self.tell(Weight.WARNING, "repository", text, error.hint)

    def left_behind(self, name: str) -> None:
        text = _("{repository} is left behind until it works again").format(repository=name)
        self.tell(Weight.WARNING, "left behind", text)

    def shuts_down(self) -> None:
        self.tell(Weight.WARNING, "shutdown", _("the server shuts down, and not all of its WAL is durable yet"))

    def lets_go(self) -> None:
        text = _("the server is let go: its slot keeps the WAL that is not durable yet")
        self.tell(Weight.WARNING, "let go", text)

    def gave_up(self, slot: str, limit: int) -> None:
        text = _("replication slot {slot} is given up: it held back more WAL than it may, {limit} MB")
        self.tell(
            Weight.ALARM,
            "slot given up",
            text.format(slot=slot, limit=limit // 10**6),
            _("When the repositories work again, WAL streams again, and a snapshot closes the gap, if there is one."),
        )

    def slot_lost(self, slot: str) -> None:
        text = _(
            "replication slot {slot} was given up by the server: max_slot_wal_keep_size, or "
            "idle_replication_slot_timeout; it is made anew"
        )
        self.tell(Weight.ALARM, "slot lost", text.format(slot=slot))

    def stopped(self, missing: int) -> None:
        if missing > 0:
            text = _("stopped; {size} bytes that had come are not durable yet: the slot keeps them")
            self.tell(Weight.WARNING, "stopped", text.format(size=missing))
        else:
            self.tell(Weight.INFO, "stopped", _("stopped; everything that had come is durable"))

    def _once(self, text: str, kind: str, hint: str) -> None:
        if text != self.trouble:
            self.trouble = text
            self.tell(Weight.WARNING, kind, text, hint)
