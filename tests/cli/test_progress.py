from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import threading
from datetime import UTC, datetime

from holdfast.cli.output import Output
from holdfast.cli.progress import EventProgress, LineProgress
from holdfast.cli.session import Session
from holdfast.errors import StoreBusy
from tests.cli.running import ROOT, command, environment, holdfast


class HandClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def lines(*, as_json: bool = False, verbose: bool = False) -> tuple[LineProgress, HandClock, io.StringIO, io.StringIO]:
    clock, out, err = HandClock(), io.StringIO(), io.StringIO()
    output = Output(json=as_json, verbose=verbose, out=out, err=err)
    return (EventProgress if as_json else LineProgress)(output, clock), clock, out, err


def test_plain_lines_come_every_ten_seconds_at_most_and_at_the_end() -> None:
    progress, clock, out, err = lines()
    mebibyte = 2**20
    with progress:
        progress.begin("reading", 100 * mebibyte)
        for _second in range(25):
            clock.sleep(1)
            progress.advance(2 * mebibyte)
        progress.note("a note")
        progress.begin("publishing")
    assert err.getvalue().splitlines() == [
        "reading",
        "reading: 20 % of 100 MiB, 2.00 MiB/s, 40 s left",
        "reading: 40 % of 100 MiB, 2.00 MiB/s, 30 s left",
        "a note",
        "reading: 50.0 MiB in 25 s",
        "publishing",
    ]
    assert out.getvalue() == ""


def test_without_a_total_there_is_no_time_left() -> None:
    progress, clock, _out, err = lines()
    progress.begin("reading")
    clock.sleep(10)
    progress.advance(1024)
    assert err.getvalue().splitlines()[-1] == "reading: 1.00 KiB, 102 B/s"


def test_a_step_that_failed_is_not_reported_as_ended() -> None:
    progress, _clock, _out, err = lines()
    try:
        with progress:
            progress.begin("reading", 10)
            progress.advance(5)
            raise ValueError
    except ValueError:
        pass
    assert err.getvalue().splitlines() == ["reading"]


def test_no_byte_is_lost_between_threads() -> None:
    progress, _clock, _out, err = lines()

    def advance() -> None:
        for _byte in range(10_000):
            progress.advance(1)

    with progress:
        progress.begin("reading", 4 * 10_000)
        workers = [threading.Thread(target=advance) for _number in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert "39.1 KiB" in err.getvalue()


def test_with_json_only_verbose_tells_and_only_on_standard_error() -> None:
    progress, _clock, out, err = lines(as_json=True)
    with progress:
        progress.begin("reading", 10)
        progress.advance(10)
        progress.note("a note")
    assert (out.getvalue(), err.getvalue()) == ("", "")
    progress, _clock, out, err = lines(as_json=True, verbose=True)
    with progress:
        progress.begin("reading", 10)
        progress.advance(10)
        progress.note("a note")
    events = [json.loads(line) for line in err.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["begin", "note", "end"]
    assert events[2]["done_bytes"] == 10
    assert out.getvalue() == ""


def test_in_a_pipe_and_as_json() -> None:
    ended = holdfast("work")
    assert ended.stdout == "done\n"
    assert ended.stderr.startswith("reading\npg_wal is a link\nreading: 1000 B in ")
    ended = holdfast("work", "--json")
    assert json.loads(ended.stdout) == {"done": True}
    assert ended.stderr == ""


def test_at_a_terminal_there_is_a_bar_and_notes_stay() -> None:
    master, terminal = pty.openpty()
    try:
        ended = subprocess.run(
            command("work"), cwd=ROOT, env=environment(TERM="xterm"), stdin=terminal, stderr=terminal,
            stdout=subprocess.PIPE, timeout=60, check=False,
        )  # fmt: skip
        shown = os.read(master, 65536).decode()
    finally:
        os.close(terminal)
        os.close(master)
    assert ended.returncode == 0
    assert ended.stdout == b"done\n"
    assert "pg_wal is a link" in shown
    assert "publishing" in shown


def test_why_a_store_is_asked_again_is_told_when_it_changes_and_now_and_then() -> None:
    clock, err = HandClock(), io.StringIO()
    session = Session(config_file=None, json=False, verbose=False, output=Output(json=False, verbose=False, err=err))
    tell = session.trying_again(clock)
    for _second in range(50):
        tell(StoreBusy("refused"))
        clock.sleep(1)
    tell(StoreBusy("slow"))
    tell(StoreBusy("refused"))
    clock.sleep(9)
    tell(StoreBusy("refused"))
    clock.sleep(1)
    tell(StoreBusy("refused"))
    told = [line for line in err.getvalue().splitlines() if "trying again" in line]
    assert ["refused" in line for line in told] == [True, True, False, True]
