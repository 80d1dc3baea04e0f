from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import Damaged, HoldfastError, StoreUnreachable, TryLater
from holdfast.jobs.backup import PostgresSource, take_snapshot
from holdfast.jobs.progress import Silent
from holdfast.jobs.receiver_client import ask_status
from holdfast.jobs.receiver_status import ReceiverStatus, RepositoryProgress
from holdfast.jobs.status import Access, SourceStatus, status
from holdfast.jobs.wal_files import wal_file
from holdfast.jobs.wal_push import WalPusher
from holdfast.jobs.wal_settings import WalSettings
from holdfast.postgres.lsn import Lsn, is_segment_name
from holdfast.postgres.requirements import create_role
from holdfast.postgres.streaming import WalSession
from holdfast.repository.objects import Kind
from holdfast.repository.opening import open_repository
from holdfast.repository.repository import Repository
from holdfast.store.memory import MemoryStore
from holdfast.store.port import Listed
from tests.repository.making import SECRET, new_repository
from tests.servers import Cluster, Servers, wait_until

CLOCK = SystemClock()
URL = "s3://bucket"  # of a store in memory: on nobody's disk


@dataclass
class Place:
    """A cluster, a repository of it in memory, and what is pushed there."""

    cluster: Cluster
    settings: WalSettings
    repository: Repository = field(default_factory=lambda: new_repository(MemoryStore(clock=CLOCK)))
    pushed: str = ""

    def snapshot(self) -> None:
        take_snapshot(
            PostgresSource(name="tracker", connection=self.settings.connection),
            self.repository,
            clock=CLOCK,
            zone=UTC,
            host="h",
            progress=Silent(),
            stopped=lambda: False,
        )

    def push(self) -> Lsn:
        """All segments that are whole and were not pushed before; returns the end of what is held."""
        self.cluster.execute("select pg_switch_wal()")
        current = self.cluster.value("select pg_walfile_name(pg_current_wal_lsn() + 1)")
        system = int(self.cluster.control_data()["Database system identifier"])
        pusher = WalPusher("tracker", {"remote": self.repository}, clock=CLOCK, host="h")
        paths = sorted(path for path in (self.cluster.data_dir / "pg_wal").iterdir() if is_segment_name(path.name))
        for path in (path for path in paths if self.pushed < path.name < current):
            self.pushed = path.name
            pusher.push(wal_file(path.name, path.read_bytes(), system_identifier=system))
        return Lsn.parse(self.cluster.value("select pg_current_wal_lsn()::text"))

    def __call__(self, *, offline: bool = False, **change: object) -> SourceStatus:
        settings = replace(self.settings, **change)  # type: ignore[arg-type]
        repositories = {"remote": Access(url=URL, open=self.open)}
        (found,) = status([settings], repositories, clock=CLOCK, zone=UTC, offline=offline)
        return found

    def open(self) -> Repository:
        return open_repository(self.repository.store, SECRET, pin=None, clock=CLOCK)

    def says(self, **change: object) -> ReceiverStatus:
        now = CLOCK.now()
        said = ReceiverStatus(
            source="tracker",
            pid=4711,
            host="h",
            started=now,
            phase="streaming",
            server="127.0.0.1:5432",
            system_identifier=int(self.cluster.control_data()["Database system identifier"]),
            timeline=1,
            received=None,
            confirmed=None,
            server_end=None,
            safe_until=now,
            heard=now,
            repositories=(RepositoryProgress(repository="remote", durable=Lsn(1)),),
            sync_state="async",
            retained=0,
            warnings=(),
        )
        return replace(said, **change)  # type: ignore[arg-type]


def names(found: SourceStatus) -> list[str]:
    return [problem.name for problem in found.health.problems]


@pytest.fixture(scope="module")
def cluster(servers: Servers) -> Iterator[Cluster]:
    made = servers.make_cluster(15)
    create_role(made.dsn(), "holdfast", None)
    made.execute("create table one (number int)")
    yield made
    servers.remove(made)


@pytest.fixture
def place(cluster: Cluster, tmp_path: Path) -> Iterator[Place]:
    settings = WalSettings(
        source="tracker",
        connection=cluster.dsn(user="holdfast"),
        via="stream",
        to=("remote",),
        every={"remote": timedelta(seconds=1)},
        retain=16 * 10**9,
        synchronous=False,
        state_dir=tmp_path,
    )
    yield Place(cluster=cluster, settings=settings)
    cluster.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots")


@contextmanager
def receiver(path: Path, answer: Callable[[], bytes | None]) -> Iterator[list[bytes]]:
    """Answers each request with what ``answer`` gives; None: never. Yields the requests."""
    path.parent.mkdir(parents=True, exist_ok=True)
    requests: list[bytes] = []
    over = threading.Event()

    def serve() -> None:
        while True:
            channel, _peer = listener.accept()
            with channel:
                request = channel.makefile("rb").readline()
                if not request:
                    return
                requests.append(request)
                content = answer()
                if content is None:
                    over.wait()
                else:
                    channel.sendall(content)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield requests
        finally:
            over.set()
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(path))
            thread.join()


def answering(said: ReceiverStatus) -> Callable[[], bytes]:
    return lambda: json.dumps({"exit": 0, "status": said.to_json()}).encode() + b"\n"


def test_nothing_yet(place: Place) -> None:
    found = place()
    assert names(found) == ["no_snapshot", "receiver"]
    assert found.health.protection.until is None
    assert found.facts.server is not None
    assert found.facts.server.slot is None


def test_a_window_and_a_receiver(place: Place) -> None:
    place.snapshot()
    before = CLOCK.now()
    place.cluster.execute("insert into one values (1)")
    end = place.push()
    with receiver(place.settings.socket, answering(place.says(confirmed=end))) as requests:
        found = place()
    assert requests == [b'{"do":"status"}\n']
    assert names(found) == []
    assert found.receiver is not None
    safe = found.health.protection
    assert safe.until is not None
    assert safe.until >= before
    assert safe.since is not None
    assert safe.since < before
    assert safe.lsn is not None
    assert safe.lsn >= end
    assert safe.rpo is not None
    assert safe.rpo < timedelta(seconds=30)
    (window,) = found.facts.reach.windows
    assert window.stop == end
    assert found.facts.repositories[0].newest is not None


def test_an_idle_server_is_protected_to_now(place: Place) -> None:
    """Even if nobody receives: it has written nothing that is not held. That nobody does is told all the same."""
    place.snapshot()
    place.cluster.execute("insert into one values (1)")

    def idle() -> SourceStatus:
        place.push()
        return place()

    wait_until(lambda: idle().health.protection.rpo == timedelta(), "the server writes nothing between two questions")
    found = idle()
    assert names(found) == ["receiver"]
    assert found.health.problems[0].remedy == "holdfast wal receive tracker"


def test_what_the_server_has_written_since_would_be_lost(place: Place) -> None:
    place.snapshot()
    place.cluster.execute("insert into one values (1)")
    end = place.push()
    place.cluster.execute("insert into one select generate_series(1, 1000)")
    found = place()
    safe = found.health.protection
    assert safe.lsn == end
    assert safe.rpo_bytes is not None
    assert safe.rpo_bytes > 50_000
    assert not safe.is_at_most


def test_a_receiver_elsewhere(place: Place) -> None:
    place.snapshot()
    place.push()
    with WalSession(place.settings.connection) as session:
        begin = session.create_slot(place.settings.slot)
        session.start(place.settings.slot, begin, 1)
        assert names(place()) == []
    wait_until(lambda: names(place()) == ["receiver"], "the slot is free again")


def test_a_gap_and_the_snapshot_that_closes_it(place: Place) -> None:
    place.snapshot()
    place.cluster.execute("insert into one values (1)")
    place.push()
    middle = place.cluster.value("select pg_walfile_name(pg_current_wal_lsn() + 1)")
    for _number in range(2):
        place.cluster.execute("insert into one values (1)")
        place.push()
    store = place.repository.store
    number = int(middle[8:16], 16) * 256 + int(middle[16:], 16)
    lost = [listed.name for listed in store.list(Kind.WAL.prefix) if f"/{number:016x}-" in listed.name]
    assert lost
    for name in lost:
        store.delete(name)
    found = place()
    assert names(found)[:1] == ["gap"]
    assert "holdfast backup tracker --repository remote" in found.health.problems[0].remedy
    (gap,) = found.facts.reach.gaps
    assert gap.is_open
    place.snapshot()
    place.cluster.execute("insert into one values (1)")
    place.push()
    found = place()
    assert "gap" not in names(found)
    assert [gap.is_open for gap in found.facts.reach.gaps] == [False]
    assert len(found.facts.reach.windows) == 2


def test_a_server_that_is_gone(place: Place) -> None:
    place.snapshot()
    place.push()
    nowhere = "host=127.0.0.1 port=1 user=holdfast dbname=postgres"
    found = place(connection=nowhere)
    assert names(found) == ["receiver_unknown", "server"]
    assert found.health.protection.is_at_most
    assert found.health.protection.until is not None
    offline = place(connection=nowhere, offline=True)
    assert names(offline) == []
    assert offline.facts.server_error == ""


def test_another_cluster_behind_the_connection(place: Place, make_cluster: Callable[..., Cluster]) -> None:
    place.snapshot()
    place.push()
    other = make_cluster(15, fresh=True)
    found = place(connection=other.dsn())
    assert "another_server" in names(found)
    assert found.health.protection.rpo_bytes is None


def test_one_of_two_repositories_does_not_answer(place: Place) -> None:
    place.snapshot()
    place.push()

    def refuse() -> Repository:
        raise StoreUnreachable("oss://bucket does not answer")

    repositories = {"remote": Access(url=URL, open=place.open), "far": Access(url="oss://bucket", open=refuse)}
    (found,) = status([place.settings], repositories, clock=CLOCK, zone=UTC)
    assert names(found) == ["receiver", "repository"]
    assert found.health.protection.until is not None
    (found,) = status([place.settings], {"far": repositories["far"]}, clock=CLOCK, zone=UTC)
    assert names(found) == ["unknown", "receiver", "repository"]


def test_wal_that_lies_on_the_servers_own_disk(place: Place, tmp_path: Path) -> None:
    place.snapshot()
    place.push()
    here = {"remote": Access(url=tmp_path.as_uri(), open=place.open)}
    if tmp_path.stat().st_dev != place.cluster.data_dir.stat().st_dev:
        pytest.skip("temporary folders lie on several disks here")
    (found,) = status([place.settings], here, clock=CLOCK, zone=UTC)
    assert "same_disk" in names(found)
    (found,) = status([replace(place.settings, to=("remote", "far"))], here, clock=CLOCK, zone=UTC)
    assert "same_disk" not in names(found)


def test_without_wal(place: Place) -> None:
    place.snapshot()
    found = place(via="off")
    assert names(found) == []
    assert found.health.protection.snapshot is not None
    assert found.health.protection.since is None


def test_several_sources_share_one_reading(place: Place) -> None:
    place.snapshot()
    place.push()
    other = replace(place.settings, source="other")
    opened = []

    def open_once() -> Repository:
        opened.append(1)
        return place.open()

    first, second = status([place.settings, other], {"remote": Access(url=URL, open=open_once)}, clock=CLOCK, zone=UTC)
    assert len(opened) == 1
    assert first.health.protection.until is not None
    assert names(second) == ["no_snapshot", "receiver"]


def test_damage_is_a_doubt(place: Place) -> None:
    place.snapshot()
    place.push()
    store = place.repository.store
    (begin,) = store.list(Kind.STREAM.prefix)
    store.put(begin.name, store.get(begin.name)[:-1])
    found = place()
    assert "doubt" in names(found)
    assert "snapshot" not in names(found)


def test_how_many_requests_it_takes(place: Place) -> None:
    """Two seconds at 20 ms each, with four at a time."""
    place.snapshot()
    place.push()
    counted = Counting(clock=CLOCK)
    for listed in place.repository.store.list(""):
        counted.put(listed.name, place.repository.store.get(listed.name))
    counted.calls = 0
    repositories = {"remote": Access(url=URL, open=lambda: open_repository(counted, SECRET, pin=None, clock=CLOCK))}
    (found,) = status([place.settings], repositories, clock=CLOCK, zone=UTC)
    assert found.facts.reach.windows
    assert counted.calls < 60


class Counting(MemoryStore):
    calls = 0

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        self.calls += 1
        return super().get(name, start, length)

    def list(self, prefix: str) -> Iterator[Listed]:
        self.calls += 1
        return super().list(prefix)


def test_nobody_listens(tmp_path: Path) -> None:
    path = tmp_path / "run" / "tracker.sock"
    assert ask_status(path) is None
    with receiver(path, lambda: b""):
        pass
    assert path.is_socket()
    assert ask_status(path) is None  # left behind by a receiver that was killed


def test_a_receiver_that_hangs(tmp_path: Path) -> None:
    path = tmp_path / "tracker.sock"
    with receiver(path, lambda: None), pytest.raises(TryLater):
        ask_status(path, seconds=0.1)


@pytest.mark.parametrize("answer", [b"\n", b"", b"[]\n", b'{"exit":0}\n', b'{"exit":0,"status":{}}\n', b"\xff\n"])
def test_a_strange_answer(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "tracker.sock"
    with receiver(path, lambda: answer), pytest.raises(Damaged):
        ask_status(path)


def test_a_receiver_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "tracker.sock"
    with (
        receiver(path, lambda: b'{"exit":1,"text":"out of memory","hint":"Wait."}\n'),
        pytest.raises(HoldfastError, match="out of memory") as failed,
    ):
        ask_status(path)
    assert failed.value.hint == "Wait."


def test_a_socket_deeper_than_an_address_can_say(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("a" * 100) / "run"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    said = place.says(started=datetime(2026, 11, 22, tzinfo=UTC))
    with receiver(Path("tracker.sock"), answering(said)):
        assert ask_status(folder / "tracker.sock") == said


def test_a_receiver_that_hangs_does_not_hide_the_rest(place: Place) -> None:
    place.snapshot()
    place.push()
    with receiver(place.settings.socket, lambda: b"what?\n"):
        found = place()
    assert names(found) == ["receiver", "receiver_silent"]
