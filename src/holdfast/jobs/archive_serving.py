"""What ``wal receive`` runs: the receiver and its socket; of a source that only archives, the socket alone."""

from __future__ import annotations

from contextlib import ExitStack

from holdfast.clock import Clock
from holdfast.errors import PermissionRefused
from holdfast.jobs.archive import Options, Receiver
from holdfast.jobs.archive_closing import SnapshotCommand
from holdfast.jobs.archive_events import Listener
from holdfast.jobs.archive_lanes import OpenNamed
from holdfast.jobs.archive_pushing import Pushing
from holdfast.jobs.receiver_status import Json
from holdfast.jobs.wal_settings import WalSettings
from holdfast.jobs.wal_socket import WalSocket, only_one


class Serving:
    """:meth:`run` in one thread, :meth:`stop` from any."""

    def __init__(self, settings: WalSettings, receiver: Receiver, pushing: Pushing) -> None:
        self._settings = settings
        self.receiver = receiver
        self._pushing = pushing

    def run(self) -> None:
        """Raises :class:`~holdfast.errors.AlreadyRunning`, and what the receiver raises."""
        with ExitStack() as scope:
            self._listen(scope)
            if self._settings.via == "archive":
                self.receiver.run_without_streaming()
            else:
                self.receiver.run()

    def _listen(self, scope: ExitStack) -> None:
        """State can be lost, and may be nobody's to write: WAL streams all the same, and its slot keeps a second
        receiver out."""
        path = self._settings.socket
        try:
            scope.enter_context(only_one(path))
            scope.enter_context(WalSocket(path, push=self._pushing.push, status=self._status))
        except PermissionRefused as error:
            if self._settings.via == "archive":
                raise
            self.receiver.telling.no_socket(error)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong at present, for people."""
        return self.receiver.status().warnings

    def _status(self) -> Json:
        return self.receiver.status().to_json()

    def stop(self) -> None:
        self.receiver.stop()


def serve(
    settings: WalSettings,
    open_repository: OpenNamed,
    *,
    clock: Clock,
    host: str,
    listener: Listener,
    snapshot: SnapshotCommand | None,
    options: Options,
) -> Serving:
    receiver = Receiver(
        settings,
        open_repository,
        clock=clock,
        host=host,
        listener=listener,
        snapshot=snapshot,
        options=options,
    )
    begins = settings.via == "archive"
    return Serving(settings, receiver, Pushing(settings, receiver.lanes, clock=clock, host=host, begins=begins))
