"""All repositories of a source's WAL: opened side by side, each left behind for itself when it does not work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from holdfast.clock import Clock
from holdfast.jobs.archive_lane import Lane, Trouble
from holdfast.jobs.archive_portions import Intake
from holdfast.jobs.archive_waking import Waking
from holdfast.jobs.wal_settings import WalSettings
from holdfast.postgres.lsn import Lsn
from holdfast.repository.repository import Repository
from holdfast.repository.wal.pieces import Stream

AWAIT_SECONDS = 60.0
DRAIN_SECONDS = 30.0
TIDY_SECONDS = 2.0

OpenNamed = Callable[[str, Trouble], Repository]
"""Opens the named repository; while its store makes trouble and tries again by itself, it says so."""


class Lanes:
    def __init__(
        self,
        settings: WalSettings,
        open_repository: OpenNamed,
        *,
        clock: Clock,
        waking: Waking,
        stopping: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._waking = waking
        self._stopping = stopping
        self._lanes = tuple(
            Lane(
                name,
                source=settings.source,
                open_repository=partial(open_repository, name),
                every=settings.every[name],
                clock=clock,
                changed=waking.wake,
            )
            for name in settings.to
        )

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes)

    @property
    def open(self) -> list[Lane]:
        return [lane for lane in self._lanes if lane.is_open]

    @property
    def repositories(self) -> Mapping[str, Repository]:
        """Those that are open."""
        return {lane.name: lane.repository for lane in self._lanes if lane.repository is not None}

    @property
    def all_work(self) -> bool:
        """Whether nothing is in the way of any, and nothing waits."""
        return not any(lane.carrier.error is not None or lane.carrier.outstanding for lane in self._lanes)

    @property
    def none_is_away(self) -> bool:
        return all(lane.is_open and lane.carrier.error is None for lane in self._lanes)

    @property
    def some_work(self) -> bool:
        """Whether some are away, and others take what comes."""
        return not self.none_is_away and any(lane.is_open and lane.carrier.error is None for lane in self._lanes)

    @property
    def one_returns(self) -> bool:
        """Whether a repository is open that takes no part yet."""
        return any(lane.is_open and not lane.is_going for lane in self._lanes)

    def start(self) -> None:
        for lane in self._lanes:
            lane.open()

    def stop(self) -> None:
        """What is left to tidy up is done first, if it goes quickly: nobody comes back to it."""
        end = self._clock.monotonic() + TIDY_SECONDS
        while self._clock.monotonic() < end:
            if not any(lane.carrier.outstanding and lane.carrier.error is None for lane in self._lanes):
                break
            self._waking.wait(0.05)
        for lane in self._lanes:
            lane.stop()

    def check(self) -> None:
        """Raises what trying again does not mend."""
        for lane in self._lanes:
            if lane.carrier.fatal is not None:
                raise lane.carrier.fatal

    def await_opening(self, meanwhile: Callable[[], None]) -> None:
        """Until each has opened or has made trouble: one that is away is not waited for."""
        end = self._clock.monotonic() + AWAIT_SECONDS
        while self._clock.monotonic() < end and not self._stopping():
            self.check()
            meanwhile()
            if all(lane.is_open or lane.carrier.error is not None for lane in self._lanes):
                return
            self._waking.wait(0.25)

    def leave_behind(self) -> list[str]:
        """Those that are away give up what waits for them, if it fills the memory that the others need."""
        return self._leave([lane for lane in self._lanes if lane.is_full and lane.carrier.error is not None])

    def leave_those_away(self) -> list[str]:
        """The server keeps nothing for them any more: the others go on without them."""
        return self._leave([lane for lane in self._lanes if lane.is_going and lane.carrier.error is not None])

    def _leave(self, full: list[Lane]) -> list[str]:
        if len(full) == sum(lane.is_going for lane in self._lanes):
            return []
        for lane in full:
            lane.drop()
        return [lane.name for lane in full]

    def drain(self, intake: Intake) -> bool:
        """Everything that was received becomes durable, or its repository is left behind. False: stopped meanwhile."""
        going = [lane for lane in self._lanes if lane.is_going]
        intake.scan()
        for lane in going:
            lane.offer(intake.portion, None)
        end = self._clock.monotonic() + DRAIN_SECONDS
        while any(lane.carrier.outstanding for lane in going) and self._clock.monotonic() < end:
            self.check()
            if self._stopping():
                return False
            self._waking.wait(0.1)
        for lane in going:
            if lane.carrier.outstanding:
                lane.drop()
        return bool(self.open)

    def began(self, stream: Stream) -> Lsn | None:
        """From where on WAL is held without a gap in the repository that has most of it."""
        newest = [max(found, key=lambda begin: begin.when) for lane in self.open if (found := lane.beginnings(stream))]
        return Lsn(min(begin.lsn for begin in newest)) if newest else None
