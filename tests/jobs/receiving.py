"""A receiver in a thread of the test's own, its repositories behind stores that misbehave on command."""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from holdfast.clock import SystemClock
from holdfast.jobs.archive import Options
from holdfast.jobs.archive_events import Event
from holdfast.jobs.archive_lane import Trouble
from holdfast.jobs.archive_serving import Serving, serve
from holdfast.jobs.receiver_status import ReceiverStatus
from holdfast.jobs.wal_settings import WalSettings
from holdfast.postgres.lsn import Lsn, Segment
from holdfast.repository.keys import SecretKind
from holdfast.repository.opening import create_repository, open_repository
from holdfast.repository.repository import Repository
from holdfast.repository.wal.held import Held
from holdfast.repository.wal.reading import WalReader
from holdfast.store.faulty import Fault, FaultKind, FaultyStore
from holdfast.store.folder import FolderStore
from holdfast.store.port import Store
from tests.repository.making import SECRET
from tests.servers import Cluster, wait_until

CLOCK = SystemClock()
SOURCE = "tracker"


@dataclass(kw_only=True)
class Place:
    """A repository in a folder, or where ``make_store`` leads, and how its store is reached."""

    folder: Path
    make_store: Callable[[], Store] | None = None
    store: FaultyStore = field(init=False)

    def __post_init__(self) -> None:
        store = FolderStore(self.folder, clock=CLOCK, create=True) if self.make_store is None else self.make_store()
        self.store = FaultyStore(store, clock=CLOCK)
        create_repository(self.store, [(SECRET, SecretKind.PASSPHRASE)], clock=CLOCK)

    def open(self) -> Repository:
        return open_repository(self.store, SECRET, pin=None, clock=CLOCK)

    def beside(self) -> Repository:
        """Opened by somebody else, whom no fault meets."""
        store = FolderStore(self.folder, clock=CLOCK) if self.make_store is None else self.make_store()
        return open_repository(store, SECRET, pin=None, clock=CLOCK)

    def goes_away(self) -> None:
        self.store.add(Fault(kind=FaultKind.FAIL))

    def comes_back(self) -> None:
        self.store.heal()

    def held(self) -> list[Held]:
        reader = WalReader(self.beside())
        return [reader.held(stream) for stream in reader.streams(SOURCE)]

    def the_held(self) -> Held:
        (held,) = self.held()
        assert not held.conflicts
        assert not held.problems
        return held

    def content(self, timeline: int, number: int) -> bytes:
        reader = WalReader(self.beside())
        held = self.held()[-1]
        (segment,) = [one for one in held.segments if (one.timeline, one.number) == (timeline, number)]
        return b"".join(reader.content(held.stream, segment))


@dataclass(kw_only=True)
class Going:
    serving: Serving
    events: list[Event]
    thread: threading.Thread
    failure: list[BaseException]

    def status(self) -> ReceiverStatus:
        return self.serving.receiver.status()

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def heard(self, kind: str, limit: float = 30.0) -> Event:
        wait_until(lambda: kind in self.kinds() or self.failure, f"{kind} is told; {self.events}", limit)
        assert kind in self.kinds(), (self.failure, self.events)
        return next(event for event in self.events if event.kind == kind)

    def caught_up(self, cluster: Cluster, limit: float = 30.0) -> Lsn:
        """Everything that the server has written by now is confirmed."""
        goal = Lsn.parse(cluster.value("select pg_current_wal_flush_lsn()::text"))
        wait_until(
            lambda: (self.status().confirmed or 0) >= goal or self.failure,
            f"{goal} is confirmed; {self.status()}",
            limit,
        )
        assert not self.failure, self.failure
        return goal

    def stop(self, limit: float = 20.0) -> None:
        self.serving.stop()
        self.thread.join(limit)
        assert not self.thread.is_alive(), "it does not stop"


def settings(
    cluster: Cluster,
    places: dict[str, Place],
    state: Path,
    *,
    connection: str = "",
    retain: int = 16 * 10**9,
    synchronous: bool = False,
    every: float = 0.3,
    via: str = "stream",
) -> WalSettings:
    return WalSettings(
        source=SOURCE,
        connection=connection or cluster.dsn(),
        via=via,
        to=tuple(places),
        every=dict.fromkeys(places, timedelta(seconds=every)),
        retain=retain,
        synchronous=synchronous,
        state_dir=state,
    )


class Snapshots:
    """Instead of the command: counts how often one was wanted, and takes one with the jobs."""

    def __init__(self, connection: str, places: dict[str, Place]) -> None:
        self.wanted: list[str] = []
        self._connection = connection
        self._places = places

    def __call__(self, repository: str) -> Sequence[str | Path]:
        self.wanted.append(repository)
        return [sys.executable, "-c", _TAKE, self._connection, self._places[repository].folder, SECRET]


_TAKE = """
import sys
from datetime import UTC
from pathlib import Path
from holdfast.clock import SystemClock
from holdfast.jobs.backup import PostgresSource, take_snapshot
from holdfast.jobs.progress import Silent
from holdfast.repository.opening import open_repository
from holdfast.store.folder import FolderStore
from holdfast.store.port import Store
connection, folder, secret = sys.argv[1:]
clock = SystemClock()
repository = open_repository(FolderStore(Path(folder), clock=clock), secret, pin=None, clock=clock)
take_snapshot(PostgresSource(name="tracker", connection=connection), repository, clock=clock, zone=UTC, host="h",
              progress=Silent(), stopped=lambda: False)
"""


@contextmanager
def receiving(
    wal: WalSettings,
    places: dict[str, Place],
    *,
    snapshot: Snapshots | None = None,
    options: Options | None = None,
) -> Iterator[Going]:
    """Inside, it runs; it is stopped with the scope if it has not ended."""
    events: list[Event] = []

    class Listening:
        def heard(self, event: Event) -> None:
            events.append(event)

    def open_place(name: str, trouble: Trouble) -> Repository:
        return places[name].open()

    serving = serve(
        wal,
        open_place,
        clock=CLOCK,
        host="db1",
        listener=Listening(),
        snapshot=snapshot,
        options=options or Options(shutdown_seconds=2),
    )
    failure: list[BaseException] = []

    def run() -> None:
        try:
            serving.run()
        except BaseException as error:  # noqa: BLE001  the test looks at it
            failure.append(error)

    thread = threading.Thread(target=run, name="receiver", daemon=True)
    thread.start()
    going = Going(serving=serving, events=events, thread=thread, failure=failure)
    try:
        yield going
    finally:
        serving.stop()
        thread.join(20)
        assert not thread.is_alive(), "the receiver does not stop"


def write(cluster: Cluster, megabytes: int) -> None:
    """About so much WAL."""
    cluster.execute("create table if not exists filler (a text)")
    cluster.execute(f"insert into filler select repeat(md5(n::text), 30) from generate_series(1, {megabytes * 1000}) n")


def segment_names(held: Held) -> list[str]:
    return [
        Segment(timeline=one.timeline, number=one.number, size=held.segment_size).name
        for one in held.segments
        if one.stop == held.segment_size
    ]


@contextmanager
def short_folder() -> Iterator[Path]:
    """For sockets: pytest's own are too long."""
    folder = Path(tempfile.mkdtemp(prefix="hfw", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def soon(condition: Callable[[], object], what: str, limit: float = 30.0) -> float:
    """Seconds until ``condition`` holds."""
    began = time.monotonic()
    wait_until(condition, what, limit)
    return time.monotonic() - began
