"""The socket's server side: what it takes, what it refuses, and that nobody can hold it up."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import AlreadyRunning, Refused
from holdfast.jobs import wal_socket
from holdfast.jobs.wal_socket import MAX_LINE_BYTES, WalSocket, only_one, reachable
from tests.jobs.receiving import short_folder
from tests.privileges import require_root
from tests.requirements import require
from tests.servers import server_account, wait_until

PUSHED: list[tuple[str, bytes, int]] = []


def push(name: str, content: bytes, system_identifier: int) -> None:
    if name == "refused":
        raise Refused("other bytes are there", hint="Look.")
    PUSHED.append((name, content, system_identifier))


@pytest.fixture
def path() -> Iterator[Path]:
    PUSHED.clear()
    with short_folder() as folder:
        folder.chmod(0o755)
        place = folder / "run" / "tracker.sock"
        with only_one(place), WalSocket(place, push=push, status=lambda: {"source": "tracker"}):
            yield place


def ask(path: Path, request: bytes, *, half: bool = False) -> dict[str, Any] | None:
    with socket.socket(socket.AF_UNIX) as asking, reachable(path) as address:
        asking.settimeout(20)
        asking.connect(address)
        try:
            asking.sendall(request)
            if half:
                asking.shutdown(socket.SHUT_WR)
        except BrokenPipeError:
            pass  # it has answered already
        answer = b""
        while not answer.endswith(b"\n"):
            more = asking.recv(65536)
            if not more:
                return None
            answer += more
    return dict(json.loads(answer))


def request(name: str = "0" * 24, size: object = 5, owner: object = "7") -> bytes:
    return json.dumps({"do": "push", "name": name, "size": size, "system_identifier": owner}).encode() + b"\n"


def test_a_push_and_a_question(path: Path) -> None:
    assert ask(path, request() + b"bytes") == {"exit": 0, "text": "", "hint": ""}
    assert PUSHED == [("0" * 24, b"bytes", 7)]
    answer = ask(path, b'{"do":"status"}\n')
    assert answer is not None
    assert answer["status"] == {"source": "tracker"}
    large = os.urandom(3 << 20)
    assert ask(path, request(size=len(large)) + large) == {"exit": 0, "text": "", "hint": ""}
    assert PUSHED[-1][1] == large


def test_a_failure_is_answered_with_its_code(path: Path) -> None:
    assert ask(path, request("refused") + b"bytes") == {"exit": 6, "text": "other bytes are there", "hint": "Look."}


@pytest.mark.parametrize(
    "wrong",
    [
        b'{"do":"nothing"}\n',
        b"[]\n",
        b"x" * (MAX_LINE_BYTES + 10),
        request(size="5"),
        request(size=True),
        request(size=-1),
        request(size=(1 << 30) + 1),
        request(owner=7),
        request(owner="seven"),
    ],
)
def test_what_is_no_request_is_a_usage_error(path: Path, wrong: bytes) -> None:
    answer = ask(path, wrong)
    assert answer is not None
    assert answer["exit"] == 2
    assert not PUSHED


@pytest.mark.parametrize("wrong", [b"no JSON\n", b"\xff\n", request() + b"byt"])
def test_who_says_nonsense_or_goes_is_dropped(path: Path, wrong: bytes) -> None:
    assert ask(path, wrong, half=True) is None
    assert not PUSHED
    assert ask(path, b'{"do":"status"}\n') is not None


def test_hung_clients_are_dropped_in_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_socket, "IDLE_SECONDS", 0.5)
    hung = [socket.socket(socket.AF_UNIX) for _number in range(wal_socket.MAX_CLIENTS)]
    try:
        for one in hung:
            one.connect(str(path))
        assert ask(path, b'{"do":"status"}\n') is not None
    finally:
        for one in hung:
            one.close()


def test_only_its_own_people_may_ask(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
    require_root()
    python = Path("/usr/bin/python3")  # ours may lie where another user cannot look
    require(python.exists(), "no Python that every user may run")
    account = server_account()
    assert account is not None
    path.chmod(0o666)
    path.parent.chmod(0o755)
    script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(10))"
    said = subprocess.run(
        [python, "-c", script, str(path)],
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stdout == "b''\n", said.stderr


def test_one_at_a_time_and_a_stale_socket_is_replaced() -> None:
    with short_folder() as folder:
        place = folder / "run" / "tracker.sock"
        with only_one(place), pytest.raises(AlreadyRunning, match=str(os.getpid())), only_one(place):
            pass
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(place))
        left.close()
        with only_one(place), WalSocket(place, push=push, status=dict):
            assert ask(place, b'{"do":"status"}\n') is not None
        assert not place.exists()
        wait_until(lambda: not [one for one in threading.enumerate() if one.name == "wal socket"], "its thread is gone")


def test_a_long_path() -> None:
    with short_folder() as folder:
        place = folder / ("x" * 90) / "run" / "tracker.sock"
        assert len(os.fsencode(place)) > 107
        with only_one(place), WalSocket(place, push=push, status=dict):
            assert ask(place, b'{"do":"status"}\n') is not None
