"""What ``wal receive`` runs: the receiver and its socket; of a source that only archives, the socket alone."""

from __future__ import annotations

from holdfast.clock import Clock
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
        path = self._settings.socket
        with only_one(path), WalSocket(path, push=self._pushing.push, status=self._status):
            if self._settings.via == "archive":
                self.receiver.run_without_streaming()
            else:
                self.receiver.run()

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
