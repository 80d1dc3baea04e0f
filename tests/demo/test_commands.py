"""The demo's commands run in a world of their own."""

from __future__ import annotations

import os
import site
from pathlib import Path

import pytest

import holdfast
from holdfast.demo.commands import Commands, _environment
from holdfast.errors import HoldfastError

SOURCES = Path(holdfast.__file__).parents[1]


@pytest.fixture(autouse=True)
def sources_by_a_relative_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `PYTHONPATH=src python -m holdfast demo` has it: the commands run in another folder."""
    monkeypatch.chdir(SOURCES.parent)
    monkeypatch.setenv("PYTHONPATH", SOURCES.name)


def test_nothing_of_the_callers_reaches_them(tmp_path: Path) -> None:
    caller = {
        "PATH": "/bin",
        "LANG": "zh_CN.UTF-8",
        "HOME": "/home/me",
        "PGHOST": "production",
        "PGPASSWORD": "secret",
        "HOLDFAST_CONFIG": "/etc/holdfast/holdfast.toml",
        "XDG_STATE_HOME": "/home/me/state",
        "PYTHONPATH": f"src{os.pathsep}/srv",
    }
    seen = _environment(tmp_path, Path("/pg/bin"), caller)
    assert not [name for name in seen if name.startswith(("PG", "HOLDFAST_"))]
    assert seen["LANG"] == "zh_CN.UTF-8"
    assert seen["PYTHONPATH"] == f"{SOURCES}{os.pathsep}/srv"
    assert seen["PATH"] == f"/pg/bin{os.pathsep}/bin"
    assert seen["PYTHONUSERBASE"] == site.getuserbase()
    inside = [value for name, value in seen.items() if name == "HOME" or name.startswith("XDG_")]
    assert len(inside) == 5
    assert all(value.startswith(str(tmp_path)) for value in inside)


def test_each_is_shown_before_it_runs_and_answers(tmp_path: Path) -> None:
    shown: list[str] = []
    commands = Commands(tmp_path, programs=tmp_path, show=shown.append, quiet=True)
    assert commands.ask("--version") == {"version": holdfast.__version__}
    commands.run("--version")
    commands.ask("--version", shown=False)
    assert shown == [
        f"holdfast --version --json --config {tmp_path}/holdfast.toml",
        f"holdfast --version --config {tmp_path}/holdfast.toml",
    ]


def test_a_failure_is_told_with_its_reason(tmp_path: Path) -> None:
    commands = Commands(tmp_path, programs=tmp_path, show=lambda _line: None, quiet=True, language="en")
    with pytest.raises(HoldfastError, match=r"holdfast list ended with exit code 2: .*holdfast\.toml") as caught:
        commands.ask("list")
    assert caught.value.hint
    with pytest.raises(HoldfastError, match="holdfast list ended with exit code 2") as caught:
        commands.run("list")
    assert "above" in caught.value.hint
