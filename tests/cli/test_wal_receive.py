"""``holdfast wal receive`` as a process: killed at any moment, stopped politely, asked over its socket."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast.clock import SystemClock
from holdfast.config import read_configuration
from holdfast.jobs.receiver_client import ask_status
from holdfast.jobs.receiver_status import ReceiverStatus
from holdfast.jobs.wal_socket import reachable
from holdfast.postgres.lsn import Lsn, Segment
from holdfast.repository.wal.held import Held
from holdfast.repository.wal.reading import WalReader
from holdfast.wiring import Wiring
from tests.cli.running import ROOT, command, environment
from tests.cli.site import Site, failed, new_site
from tests.jobs.receiving import short_folder, write
from tests.servers import Cluster, wait_until


@contextmanager
def process(site: Site, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """What it says lies in ``receiver.log``."""
    with (
        (site.folder / "receiver.log").open("ab") as log,
        subprocess.Popen(
            command("--config", str(site.configuration), "wal", "receive", *options, module="holdfast"),
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as going,
    ):
        try:
            yield going
        finally:
            going.kill()


def said(site: Site) -> str:
    return (site.folder / "receiver.log").read_text("utf-8")


def socket_of(site: Site) -> Path:
    return site.folder / "state" / "run" / "main.sock"


def status(site: Site) -> ReceiverStatus:
    found = ask_status(socket_of(site))
    assert found is not None
    return found


@pytest.fixture
def protected(make_cluster: Callable[..., Cluster]) -> Iterator[Site]:
    with short_folder() as folder:
        site = new_site(folder, make_cluster(15))
        configure(site, '"stream"')
        yield site


def configure(site: Site, wal: str) -> None:
    text = re.sub(r"(?m)^state_dir = .*$", f'state_dir = "{site.folder}/state"', site.configuration.read_text("utf-8"))
    text = re.sub(r"(?m)^wal = .*\n", "", text)
    site.configuration.write_text(text.replace("[source.main]", f"[source.main]\nwal = {wal}"), "utf-8")


def caught_up(site: Site, limit: float = 30.0) -> Lsn:
    goal = Lsn.parse(site.cluster.value("select pg_current_wal_flush_lsn()::text"))

    def reached() -> bool:
        found = ask_status(socket_of(site))
        return found is not None and (found.confirmed or 0) >= goal

    wait_until(reached, f"{goal} is confirmed: {said(site)}", limit)
    return goal


def held_of(site: Site) -> tuple[WalReader, Held]:
    repository = Wiring(configuration=read_configuration(site.configuration), clock=SystemClock()).repository()
    reader = WalReader(repository)
    (stream,) = reader.streams("main")
    return reader, reader.held(stream)


def check_contents(site: Site) -> Held:
    """Every byte held is the server's, without a hole."""
    reader, held = held_of(site)
    assert not held.conflicts
    assert not held.problems
    numbers = [one.number for one in held.segments]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    for one in held.segments:
        segment = Segment(timeline=one.timeline, number=one.number, size=held.segment_size)
        there = site.cluster.data_dir / "pg_wal" / segment.name
        if there.exists():
            assert b"".join(reader.content(held.stream, one)) == there.read_bytes()[: one.stop], segment.name
    return held


def test_killed_at_random_moments(protected: Site) -> None:
    chance = random.Random(11)
    protected.cluster.pgbench_init(1)
    with protected.cluster.load():
        for _round in range(5):
            with process(protected, "--no-snapshot") as going:
                time.sleep(chance.uniform(0.5, 2.5))  # the moment is meant to be any
                going.kill()
                going.wait()
        with process(protected, "--no-snapshot") as going:
            caught_up(protected, 60)
            write(protected.cluster, 20)
            caught_up(protected, 60)
            going.terminate()
            assert going.wait(20) == 0
    assert [begin.why for begin in check_contents(protected).begins] == ["first"]


def test_stopped_politely_it_keeps_what_has_come(protected: Site) -> None:
    configure(protected, '{ from = "stream", every = "1 hour" }')
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        with process(protected, "--no-snapshot") as going:
            wait_until(lambda: ask_status(socket_of(protected)), "it runs")
            wait_until(lambda: status(protected).phase == "streaming", "it streams")
            protected.cluster.execute("create table if not exists one (n int)")
            protected.cluster.execute("insert into one values (1)")
            goal = Lsn.parse(protected.cluster.value("select pg_current_wal_flush_lsn()::text"))
            wait_until(lambda goal=goal: (status(protected).received or 0) >= goal, "it has come")  # type: ignore[misc]
            going.send_signal(number)
            assert going.wait(15) == code, said(protected)
        assert not socket_of(protected).exists()
        last = check_contents(protected).segments[-1]
        assert last.number * (16 << 20) + last.stop >= goal


def test_a_second_one_is_told_at_once(protected: Site) -> None:
    with process(protected, "--no-snapshot") as going:
        wait_until(lambda: ask_status(socket_of(protected)), "it runs")
        began = time.monotonic()
        failed(protected("wal", "receive"), 7, str(going.pid))
        assert time.monotonic() - began < 10
        assert status(protected).pid == going.pid


def test_without_wal_there_is_nothing_to_receive(protected: Site) -> None:
    configure(protected, '"off"')
    failed(protected("wal", "receive"), 2, "main")


def test_until_caught_up_with_the_first_snapshot(protected: Site) -> None:
    ended = protected("wal", "receive", "--until-caught-up", "--json")
    assert ended.returncode == 0, ended.stderr
    kinds = [json.loads(line)["kind"] for line in ended.stderr.splitlines()]
    assert set(kinds[:2]) == {"streaming", "snapshot"}, "two threads tell them"
    assert "snapshot taken" in kinds
    assert len(protected.ask("list")["snapshots"]) == 1
    assert protected("wal", "receive", "--until-caught-up").returncode == 0
    assert len(protected.ask("list")["snapshots"]) == 1, "one is enough"


def test_each_repository_has_a_snapshot_to_begin_with(protected: Site) -> None:
    """So that each is enough alone, also one that is added later."""
    protected.well("backup")
    with protected.configuration.open("a", encoding="utf-8") as file:
        file.write(f'[repository.second]\nurl = "file://{protected.folder}/second"\n')
    protected.well("init", "--no-recovery-key")
    configure(protected, '{ from = "stream", to = ["local", "second"] }')
    assert protected("wal", "receive", "--until-caught-up").returncode == 0
    for name in ("local", "second"):
        assert len(protected.ask("list", "--repository", name)["snapshots"]) >= 1
    protected.repository.rename(protected.folder / "lost")
    found = protected.ask("restore", "--to", protected.folder / "back", "--dry-run")
    assert found["plan"]


def test_a_server_that_is_not_there(protected: Site) -> None:
    protected.cluster.stop()
    failed(protected("wal", "receive", "--until-caught-up"), 4)
    with process(protected, "--no-snapshot") as going:
        wait_until(lambda: "cannot connect" in said(protected), "it says so")
        protected.cluster.start()
        caught_up(protected)
        going.terminate()
        assert going.wait(15) == 0


def test_a_wrong_passphrase_ends_it(protected: Site) -> None:
    protected.passphrase.write_text("another")
    failed(protected("wal", "receive"), 6, "passphrase")


def push(site: Site, name: str, content: bytes, owner: int) -> dict[str, Any]:
    request = {"do": "push", "name": name, "size": len(content), "system_identifier": str(owner)}
    return ask(site, json.dumps(request).encode() + b"\n" + content)


def ask(site: Site, request: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as asking, reachable(socket_of(site)) as address:
        asking.settimeout(60)
        asking.connect(address)
        asking.sendall(request)
        answer = b""
        while not answer.endswith(b"\n"):
            more = asking.recv(65536)
            assert more, "it hung up"
            answer += more
    return dict(json.loads(answer))


def test_archive_command_alone(protected: Site) -> None:
    """No slot, nothing streamed; the same bytes again are done, others are refused."""
    configure(protected, '"archive"')
    cluster = protected.cluster
    owner = int(cluster.control_data()["Database system identifier"])
    name = cluster.value("select pg_walfile_name(pg_current_wal_lsn())")
    write(cluster, 3)
    cluster.execute("select pg_switch_wal()")
    content = (cluster.data_dir / "pg_wal" / name).read_bytes()
    with process(protected) as going:
        wait_until(lambda: ask_status(socket_of(protected)), "it runs")
        assert status(protected).phase == "serving"
        wait_until(lambda: push(protected, name, content, owner)["exit"] == 0, "the repository is open")
        assert push(protected, name, content, owner)["exit"] == 0
        other = content[:-1] + bytes([content[-1] ^ 1])
        assert push(protected, name, other, owner)["exit"] == 6
        assert push(protected, name, content, owner + 1)["exit"] != 0
        assert push(protected, "nonsense", content, owner)["exit"] == 2
        assert ask(protected, b'{"do":"nonsense"}\n')["exit"] == 2
        going.terminate()
        assert going.wait(15) == 0
    assert cluster.value("select count(*) from pg_replication_slots") == 0
    check_contents(protected)


def test_archive_command_while_it_streams(protected: Site) -> None:
    cluster = protected.cluster
    with process(protected, "--no-snapshot") as going:
        wait_until(lambda: ask_status(socket_of(protected)), "it runs")
        owner = int(cluster.control_data()["Database system identifier"])
        write(cluster, 40)
        goal = caught_up(protected)
        first = Segment.holding(goal, timeline=1, size=16 << 20).number - 1
        name = Segment(timeline=1, number=first, size=16 << 20).name
        content = (cluster.data_dir / "pg_wal" / name).read_bytes()
        assert push(protected, name, content, owner)["exit"] == 0
        assert push(protected, name, content[:-1] + bytes([content[-1] ^ 1]), owner)["exit"] == 6
        going.terminate()
        assert going.wait(15) == 0
    assert [begin.why for begin in check_contents(protected).begins] == ["first"]


def test_a_hung_client_harms_nobody(protected: Site) -> None:
    with process(protected, "--no-snapshot"):
        wait_until(lambda: ask_status(socket_of(protected)), "it runs")
        hung = [socket.socket(socket.AF_UNIX) for _number in range(5)]
        try:
            for number, one in enumerate(hung):
                one.connect(str(socket_of(protected)))
                one.sendall(
                    [b"", b'{"do":', b'{"do":"push","name":"0","size":1000,"system_identifier":"7"}\nabc'][number % 3]
                )
            assert status(protected).source == "main"
            protected.cluster.execute("create table one (n int)")
            caught_up(protected)
        finally:
            for one in hung:
                one.close()
        assert status(protected).source == "main"


def test_a_path_too_long_for_a_socket(make_cluster: Callable[..., Cluster]) -> None:
    with short_folder() as folder:
        deep = folder / ("x" * 100)
        deep.mkdir()
        site = new_site(deep, make_cluster(15))
        configure(site, '"stream"')
        with process(site, "--no-snapshot"):
            wait_until(lambda: ask_status(socket_of(site)), "it is asked through its folder")
            assert len(os.fsencode(socket_of(site))) > 107
