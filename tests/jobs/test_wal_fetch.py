"""Fetching, and the feeder that fetches in advance."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast.clock import Clock, SystemClock
from holdfast.errors import Damaged, HoldfastError, Refused, StoreUnreachable, UsageError, WrongPassphrase
from holdfast.jobs import wal_feeder
from holdfast.jobs.wal_feeder import AHEAD_SEGMENTS, Feeder
from holdfast.jobs.wal_fetch import PATIENCE_SECONDS, WalFetcher
from holdfast.repository.repository import Repository
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind, FaultyStore
from tests.jobs.test_wal_push import OWNER, pusher, segment
from tests.repository.clocks import HandClock
from tests.repository.making import new_repository
from tests.servers import wait_until


def held(*numbers: int) -> Repository:
    repository = new_repository()
    one = pusher(repository)
    for number in numbers:
        one.push(segment(number))
    return repository


def fetcher(*repositories: Repository | HoldfastError, clock: Clock | None = None) -> WalFetcher:
    """Of repositories of which an error is what opening them raises."""

    def open_one(name: str) -> Repository:
        found = repositories[int(name)]
        if isinstance(found, HoldfastError):
            raise found
        return found

    names = [str(number) for number in range(len(repositories))]
    return WalFetcher("tracker", names, open_one, clock=clock or HandClock())


AWAY = StoreUnreachable("cannot reach s3://x")


def fetch(one: WalFetcher, number: int, to: Path, *, ending: bool = True, owner: int | None = OWNER) -> int | None:
    return one.fetch(segment(number).name, to, system_identifier=owner, ending=ending)


def test_the_first_that_has_it(tmp_path: Path) -> None:
    to = tmp_path / "to"
    for repositories in ((held(3), held()), (held(), held(3)), (AWAY, held(3)), (WrongPassphrase("x"), held(3))):
        assert fetch(fetcher(*repositories), 3, to) == len(segment(3).content)
        assert to.read_bytes() == segment(3).content
        to.unlink()


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "to").write_bytes(b"mine")
    with pytest.raises(HoldfastError, match="cannot write"):
        fetch(fetcher(held(3)), 3, tmp_path / "to")
    assert (tmp_path / "to").read_bytes() == b"mine"


@pytest.mark.parametrize("fault", [FaultKind.FLIP, FaultKind.TRUNCATE])
def test_what_is_damaged_comes_from_elsewhere_or_leaves_nothing(tmp_path: Path, fault: FaultKind) -> None:
    broken = held(3)
    damage = Fault(
        kind=fault,
        operation=Operation.GET,
        matches=lambda name: name.startswith("wal/"),
        first=2,
        bit=-900,
        keep=10,
    )
    broken.store = FaultyStore(broken.store, damage, clock=HandClock())
    with pytest.raises(Damaged):
        fetch(fetcher(broken, held()), 3, tmp_path / "to")
    assert not list(tmp_path.iterdir())
    assert fetch(fetcher(broken, held(3)), 3, tmp_path / "to") == len(segment(3).content)
    assert (tmp_path / "to").read_bytes() == segment(3).content


def test_a_store_that_is_away_is_asked_for_a_while(tmp_path: Path) -> None:
    clock = HandClock()
    with pytest.raises(StoreUnreachable):
        fetch(fetcher(AWAY, held(), clock=clock), 3, tmp_path / "to")
    assert PATIENCE_SECONDS - 2 < clock.monotonic() <= PATIENCE_SECONDS
    asked: list[float] = []

    class Coming(HandClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            asked.append(seconds)
            if len(asked) == 3:
                pusher(late).push(segment(3))
                repositories[0] = late

    late = held()
    repositories: list[Repository | HoldfastError] = [AWAY]
    one = WalFetcher("tracker", ["0"], lambda _name: opened(repositories[0]), clock=Coming())
    assert fetch(one, 3, tmp_path / "to") is not None
    assert len(asked) == 3


def opened(found: Repository | HoldfastError) -> Repository:
    if isinstance(found, HoldfastError):
        raise found
    return found


def test_not_held_is_the_end_only_where_nothing_follows(tmp_path: Path) -> None:
    one = fetcher(held(3, 4), held(3, 4, 7, 8))
    assert fetch(one, 9, tmp_path / "to") is None
    assert fetch(one, 5, tmp_path / "to", ending=False) is None
    with pytest.raises(Refused, match=f"{segment(5).name} is not wholly held.*{segment(7).name} in 1"):
        fetch(one, 5, tmp_path / "to")
    with pytest.raises(Refused, match=f"system {OWNER + 1}"):
        fetch(one, 3, tmp_path / "to", owner=OWNER + 1)
    assert fetch(one, 3, tmp_path / "to", owner=OWNER + 1, ending=False) is None
    with pytest.raises(WrongPassphrase):
        fetch(fetcher(WrongPassphrase("x"), held()), 3, tmp_path / "to")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["", "x", "000000010000000000000003.partial", "00000002.histor", "../00000002.history"]
)
def test_other_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        fetcher(held(3)).fetch(name, tmp_path / "to", system_identifier=OWNER, ending=True)


def test_the_newest_system_where_none_is_told(tmp_path: Path) -> None:
    assert fetch(fetcher(held(3)), 3, tmp_path / "to", owner=None) is not None


# The feeder


@pytest.fixture
def spool() -> Iterator[Path]:
    """Not there yet; its path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="hff", dir="/tmp") as folder:
        yield Path(folder) / "state" / "spool" / "tracker"


@contextmanager
def feeding(one: WalFetcher, spool: Path) -> Iterator[threading.Thread]:
    feeder = threading.Thread(target=Feeder(one, spool, clock=SystemClock()).serve)
    feeder.start()
    try:
        wait_until(lambda: (spool / "feeder.sock").exists() or not feeder.is_alive(), "it listens")
        yield feeder
    finally:
        feeder.join(30)
        assert not feeder.is_alive()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_feeder, "IDLE_SECONDS", 1.5)


def ask(spool: Path, name: str, *, ending: bool = False, owner: str = str(OWNER)) -> dict[str, Any] | None:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(30)
        asking.connect(str(spool / "feeder.sock"))
        request = {"do": "fetch", "name": name, "system_identifier": owner, "ending": ending}
        asking.sendall(json.dumps(request).encode() + b"\n")
        with asking.makefile("rb") as stream:
            answer = stream.readline()
    return dict(json.loads(answer)) if answer else None


def taken(spool: Path, number: int) -> bytes:
    """The content of what is answered, which the asker takes out of the spool."""
    answer = ask(spool, segment(number).name)
    assert answer is not None
    path: Path = spool / answer["file"]
    assert path.stat().st_mode & 0o777 == 0o600
    content = path.read_bytes()
    assert len(content) == answer["size"]
    path.unlink()
    return content


def spooled(spool: Path) -> list[str]:
    return sorted(path.name.partition(".")[0] for path in spool.iterdir() if not path.name.startswith("feeder"))


def test_it_fetches_what_follows_and_no_more(spool: Path) -> None:
    numbers = range(3, 30)
    with feeding(fetcher(held(*numbers)), spool):
        assert taken(spool, 3) == segment(3).content
        ahead = [segment(number).name for number in range(4, 4 + AHEAD_SEGMENTS)]
        wait_until(lambda: spooled(spool) == ahead, "all that may be is fetched")
        for number in range(4, 30):
            assert taken(spool, number) == segment(number).content
            assert len(spooled(spool)) <= AHEAD_SEGMENTS
        assert ask(spool, segment(30).name) == {"exit": 64}
    assert [path.name for path in spool.iterdir()] == ["feeder.lock"]  # it went by itself, and took all with it


def test_it_follows_who_goes_elsewhere(spool: Path) -> None:
    with feeding(fetcher(held(*range(3, 60))), spool):
        assert taken(spool, 3) == segment(3).content
        assert taken(spool, 40) == segment(40).content
        ahead = [segment(number).name for number in range(41, 41 + AHEAD_SEGMENTS)]
        wait_until(lambda: spooled(spool) == ahead, "what was fetched in vain is dropped")


def test_what_comes_late_is_found(spool: Path) -> None:
    repository = held(3)
    with feeding(fetcher(repository), spool):
        assert taken(spool, 3) == segment(3).content
        for number in range(4, 12):
            assert ask(spool, segment(number).name) == {"exit": 64}
            pusher(repository).push(segment(number))
            assert taken(spool, number) == segment(number).content


def test_what_cannot_be_told_is_not_answered(spool: Path) -> None:
    with feeding(fetcher(held(3, 5)), spool):
        assert ask(spool, segment(4).name, ending=True) is None
        assert ask(spool, "../x") is None
        assert ask(spool, segment(3).name, owner="x") is None
        assert ask(spool, segment(4).name) == {"exit": 64}
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(spool / "feeder.sock"))
            assert taken(spool, 3) == segment(3).content


def test_one_feeder_a_spool(spool: Path) -> None:
    with feeding(fetcher(held(3)), spool):
        assert not Feeder(fetcher(held(3)), spool, clock=SystemClock()).serve()
        assert taken(spool, 3) == segment(3).content


def test_what_lies_in_the_spool_is_not_believed(spool: Path) -> None:
    spool.mkdir(parents=True, mode=0o700)
    (spool / f"{segment(3).name}.1").write_bytes(b"left by another")
    (spool / f"{segment(4).name}.2").write_bytes(b"left by another")
    with feeding(fetcher(held(3, 4)), spool):
        assert taken(spool, 3) == segment(3).content
        assert taken(spool, 4) == segment(4).content


@pytest.mark.parametrize("how", ["open", "link", "another's"])
def test_a_spool_of_others_is_not_used(spool: Path, how: str) -> None:
    spool.mkdir(parents=True, mode=0o700)
    if how == "open":
        spool.chmod(0o770)
    elif how == "link":
        spool.rename(spool.with_name("real"))
        spool.symlink_to("real")
    elif os.geteuid() == 0:
        os.chown(spool, 65534, 65534)
    else:
        pytest.skip("only root can give files away")
    assert not Feeder(fetcher(held(3)), spool, clock=SystemClock()).serve()
    assert not list(spool.iterdir())


def test_a_path_that_no_address_has_room_for(spool: Path) -> None:
    deep = spool / ("d" * 60) / ("e" * 60)
    with feeding(fetcher(held(3)), deep):
        assert (deep / "feeder.sock").is_socket()
    shutil.rmtree(spool)


def test_what_nobody_took_is_dropped(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_feeder, "_TAKEN_SECONDS", 0.2)
    monkeypatch.setattr(wal_feeder, "AHEAD_SEGMENTS", 0)
    with feeding(fetcher(held(3, 4)), spool):
        assert ask(spool, segment(3).name) is not None
        wait_until(lambda: ask(spool, segment(4).name) and segment(3).name not in spooled(spool), "it is dropped")
