from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

import holdfast as package
from holdfast import errors
from holdfast.cli.frame import gather
from holdfast.errors import HoldfastError, UsageError
from tests.cli.running import ROOT, command, environment, holdfast

EVERY_ERROR = [
    name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, HoldfastError)
]


@pytest.mark.parametrize(
    "name", ["HoldfastError", "ConfigError", "StoreBusy", "Damaged", "Refused", "AlreadyRunning", "TryLater"]
)
def test_the_exit_code_belongs_to_the_class_and_the_hint_has_its_own_line(name: str) -> None:
    ended = holdfast("fail", name)
    assert ended.returncode == getattr(errors, name).exit_code
    assert ended.stderr == "holdfast: cannot read packs/ab12 in file:///srv\nRun: holdfast check\n"
    assert ended.stdout == ""


def test_every_class_of_error_has_a_documented_exit_code() -> None:
    assert {getattr(errors, name).exit_code for name in EVERY_ERROR} == {1, 2, 4, 5, 6, 7, 75, 130}


@pytest.mark.parametrize(
    "arguments", [("--json", "fail", "Damaged"), ("fail", "--json", "Damaged"), ("inner", "fail", "Damaged", "--json")]
)
def test_an_error_as_json(arguments: tuple[str, ...]) -> None:
    ended = holdfast(*arguments)
    assert ended.returncode == 5
    assert json.loads(ended.stdout) == {
        "error": {
            "class": "Damaged",
            "exit_code": 5,
            "hint": "Run: holdfast check",
            "message": "cannot read packs/ab12 in file:///srv",
        }
    }
    assert ended.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--nope",), "no such option: --nope"),
        (("fail",), "missing argument"),
        (("fail", "x", "--times", "many"), "invalid value for '--times'"),
        (("shwo",), "there is no command holdfast shwo\nDid you mean show?"),
        (("inner", "shwo"), "there is no command holdfast inner shwo\nDid you mean show?"),
        (("zzz",), "holdfast --help"),
        (("--config",), "the option --config needs a value"),
        (("show", "--config"), "the option --config needs a value"),
        (("--lang", "tlh", "show"), "there is no language tlh"),
        (("show", "--lang=tlh"), "there is no language tlh"),
    ],
)
def test_wrong_usage_is_2_and_says_what_is_right(arguments: tuple[str, ...], told: str) -> None:
    ended = holdfast(*arguments)
    assert ended.returncode == 2
    assert told.lower() in ended.stderr.lower()
    assert "Traceback" not in ended.stderr
    as_json = holdfast("--json", *arguments)
    assert as_json.returncode == 2
    assert json.loads(as_json.stdout)["error"]["exit_code"] == 2


def test_without_a_command_the_help_is_shown_as_an_error() -> None:
    for arguments in ((), ("inner",)):
        ended = holdfast(*arguments)
        assert ended.returncode == 2
        assert "Usage: holdfast" in ended.stderr
        assert ended.stdout == ""


def test_typers_own_ends() -> None:
    assert holdfast("fail", "exit").returncode == 3
    ended = holdfast("fail", "abort")
    assert (ended.returncode, ended.stderr) == (130, "holdfast: interrupted\n")


def test_a_defect_is_one_line_and_the_traceback_in_a_file(tmp_path: Path) -> None:
    ended = holdfast("fail", "defect", TMPDIR=str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.startswith("holdfast: unexpected error: ZeroDivisionError: a defect\n")
    assert "Traceback" not in ended.stderr
    (kept,) = tmp_path.iterdir()
    assert str(kept) in ended.stderr
    assert "Traceback" in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0


def test_a_defect_shows_its_traceback_with_verbose(tmp_path: Path) -> None:
    ended = holdfast("fail", "defect", "--verbose", TMPDIR=str(tmp_path))
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_a_connection_that_breaks_is_not_taken_for_a_reader_that_left(tmp_path: Path) -> None:
    ended = holdfast("fail", "pipe", TMPDIR=str(tmp_path))
    assert ended.returncode == 1
    assert "BrokenPipeError" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("show", "a", "--lines", "20000"), 1),
        (("--help",), 1),
        (("show", "--json", "a"), 1),
        (("fail", "Damaged", "--json"), 5),
    ],
)
def test_a_reader_that_leaves_is_met_with_silence(arguments: tuple[str, ...], code: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            command(*arguments),
            cwd=ROOT,
            env=environment(),
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert ended.stderr == b""
    assert ended.returncode == code


@pytest.mark.parametrize(
    "arguments",
    [
        ("--json", "--verbose", "show", "a"),
        ("show", "--json", "a", "--verbose"),
        ("inner", "show", "a", "--verbose", "--json"),
    ],
)
def test_common_options_stand_anywhere(arguments: tuple[str, ...]) -> None:
    ended = holdfast(*arguments)
    document = json.loads(ended.stdout)
    assert document["names"] == ["a"]
    assert document["verbose"] is True


def test_after_two_dashes_nothing_is_an_option() -> None:
    ended = holdfast("show", "--json", "--", "--json", "--lang", "xx")
    assert json.loads(ended.stdout)["names"] == ["--json", "--lang", "xx"]


def test_gathering() -> None:
    assert gather(["list", "--json", "--config", "x", "--since=1", "--lang=zh"]) == [
        "--json", "--config=x", "--lang=zh", "list", "--since=1",
    ]  # fmt: skip
    assert gather(["a", "--", "--json", "--config"]) == ["a", "--", "--json", "--config"]
    assert gather(["a", "--configure", "--jsonx"]) == ["a", "--configure", "--jsonx"]
    with pytest.raises(UsageError):
        gather(["list", "--lang"])


def test_json_has_sorted_keys_offsets_and_seconds() -> None:
    ended = holdfast("show", "b", "a", "--json")
    assert ended.stdout.index('"at"') < ended.stdout.index('"names"') < ended.stdout.index('"path"')
    document = json.loads(ended.stdout)
    assert document["took"] == 120
    assert document["path"] == "/srv"
    assert document["at"].startswith("2026-11-2")
    assert document["at"][-6] in "+-"


def test_a_table_in_a_pipe_is_neither_cut_nor_coloured_nor_interpreted() -> None:
    name = "[bold]" + "x" * 300 + "\\[/]"
    ended = holdfast("show", name, "短")
    lines = ended.stdout.splitlines()
    assert lines[0].split() == ["name", "size"]
    assert lines[1].startswith(name)
    assert lines[1].endswith("1.50 GiB")
    assert "newest proven  2026-11-22 14:03:22+08:00" in ended.stdout
    assert "\x1b" not in ended.stdout


def test_names_that_no_encoding_knows_are_printed_all_the_same() -> None:
    name = os.fsdecode(b"\xff\xfe")
    for encoding in ("utf-8", "ascii"):
        ended = holdfast("show", name, "备份", PYTHONIOENCODING=encoding)
        assert ended.returncode == 0, ended.stderr
        assert "\\udcff\\udcfe" in ended.stdout
    assert json.loads(holdfast("show", name, "--json").stdout)["names"] == [name]


def test_the_version() -> None:
    assert holdfast("--version", module="holdfast").stdout == f"holdfast {package.__version__}\n"
    assert json.loads(holdfast("--version", "--json").stdout) == {"version": package.__version__}


def test_help_is_there_quickly_and_loads_nothing_heavy() -> None:
    took = []
    for _attempt in range(5):
        began = time.monotonic()
        ended = holdfast("--help", module="holdfast")
        took.append(time.monotonic() - began)
        assert ended.returncode == 0
        assert "--config" in ended.stdout
    assert min(took) < 1.0, took  # 0.2 s on an idle machine; the machine of a test is not idle
    traced = subprocess.run(
        [command()[0], "-X", "importtime", "-m", "holdfast", "--help"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    loaded = {line.rpartition("|")[2].strip() for line in traced.stderr.splitlines()}
    assert "typer" in loaded
    assert not loaded & {"pydantic", "opendal", "psycopg", "cryptography", "rich", "zstandard", "blake3", "msgpack"}


def test_the_help_of_a_command_says_where_the_common_options_are() -> None:
    for arguments in (("show", "--help"), ("inner", "show", "--help")):
        assert "see holdfast --help" in " ".join(holdfast(*arguments).stdout.split())


def test_chinese_is_chosen_by_option_and_by_locale(catalogues: None) -> None:
    english = holdfast("--help").stdout
    chosen = holdfast("--help", "--lang", "zh_CN").stdout
    assert "用法" in chosen
    assert "配置文件" in chosen
    assert "Usage" not in chosen
    assert "Usage" in english
    assert holdfast("--help", LANG="zh_CN.UTF-8").stdout == chosen
    assert holdfast("--help", LC_ALL="zh_CN.UTF-8", LANG="C").stdout == chosen
    assert holdfast("--help", "--lang=en", LANG="zh_CN.UTF-8").stdout == english
    assert "没有命令" in holdfast("--lang", "zh_CN", "nope").stderr


def test_the_configuration_is_found_read_and_its_warnings_told(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[web]\n")
    ended = holdfast("where", "--config", str(path))
    assert ended.stdout == f"{path}\n"
    assert ended.stderr.startswith("holdfast: warning: [web]")
    assert ended.stderr.endswith("[]\n")  # nothing heavy was loaded for it
    assert holdfast("where", HOLDFAST_CONFIG=str(path)).stdout == f"{path}\n"
    ended = holdfast("where", "--config", str(tmp_path / "absent.toml"))
    assert ended.returncode == 2
    ended = holdfast("where", XDG_CONFIG_HOME=str(tmp_path))
    assert ended.returncode == 2
    assert str(tmp_path / "holdfast/holdfast.toml") in ended.stderr
    assert "holdfast init" in ended.stderr


def test_the_working_directory_counts_at_a_terminal_alone(tmp_path: Path) -> None:
    path = tmp_path / "holdfast.toml"
    path.write_text("")
    path.chmod(0o600)
    assert holdfast("where", cwd=tmp_path).returncode == 2
    master, terminal = pty.openpty()
    try:
        ended = subprocess.run(
            command("where"),
            cwd=tmp_path,
            env=environment(),
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(terminal)
        os.close(master)
    assert ended.stdout == f"{path}\n", ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("how", "told"), [("workers", ""), ("tidy", "tidied\n"), ("stubborn", "")])
def test_a_signal_ends_it_within_a_second_whatever_hangs(how: str, told: str, number: signal.Signals) -> None:
    code, took, out, err = interrupted(how, number)
    assert code == 130
    assert took < 2.0  # 0.8 s for tidying, and a busy machine
    assert out == told
    assert "holdfast: interrupted" in err
    assert "Traceback" not in err


def test_what_must_not_be_cut_short_may_take_longer() -> None:
    code, took, out, _err = interrupted("grace", signal.SIGTERM)
    assert (code, out) == (130, "finished\n")
    assert 1.4 < took < 30  # and then no waiting for the worker that hangs


def test_a_second_signal_ends_even_that_at_once() -> None:
    code, took, out, _err = interrupted("grace", signal.SIGTERM, twice=True)
    assert (code, out) == (130, "")
    assert took < 1.4


def test_a_terminal_that_is_gone_says_so_twice_and_cuts_nothing_short() -> None:
    code, _took, out, _err = interrupted("grace", signal.SIGHUP, twice=True)
    assert (code, out) == (130, "finished\n")


def test_under_nohup_a_terminal_that_is_gone_ends_nothing() -> None:
    with subprocess.Popen(
        ["/bin/sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command("hang", "tidy")],
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGHUP)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.5)  # past the time that an interrupted command may take
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 130
        finally:
            process.kill()


def interrupted(how: str, number: signal.Signals, *, twice: bool = False) -> tuple[int, float, str, str]:
    with subprocess.Popen(
        command("hang", how), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            began = time.monotonic()
            process.send_signal(number)
            if twice:
                time.sleep(0.3)  # apart, or the kernel may deliver them as one
                process.send_signal(number)
            out, err = process.communicate(timeout=60)
            return process.returncode, time.monotonic() - began, out, err
        finally:
            process.kill()
