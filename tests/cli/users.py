"""Holdfast from a built wheel, as different users run it: outside any home, with an empty environment."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.running import ROOT
from tests.privileges import NOBODY
from tests.requirements import require
from tests.servers import Servers


@pytest.fixture(scope="session")
def installed(servers: Servers) -> Path:
    """A ``holdfast`` from a built wheel, in an environment of its own that every user can run."""
    python = next(
        filter(_runs_for_everybody, (Path(sys.base_prefix) / "bin" / "python3", Path("/usr/bin/python3"))), None
    )
    require(python, "no Python 3.11 with venv that every user can run")
    assert python
    folder = servers.folder / "wheel"
    shutil.copytree(
        ROOT, folder / "source", ignore=shutil.ignore_patterns(".git", ".venv", "*_cache", "__pycache__", "tests")
    )
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(folder / "source")]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    require(done.returncode == 0, f"cannot build a wheel: {done.stderr[-500:]}")
    (wheel,) = folder.glob("holdfast-*.whl")
    subprocess.run([str(python), "-m", "venv", str(folder / "venv")], check=True)
    install = [str(folder / "venv/bin/pip"), "install", "-q", "--disable-pip-version-check", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, check=False, umask=0o022)
    require(done.returncode == 0, f"cannot install it: {done.stderr[-500:]}")
    return folder / "venv/bin/holdfast"


def _runs_for_everybody(python: Path) -> bool:
    try:
        done = subprocess.run(
            [str(python), "-c", "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"],
            user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", env={}, capture_output=True, check=False,
        )  # fmt: skip
    except OSError:
        return False
    return done.returncode == 0


def home_of(servers: Servers, user: pwd.struct_passwd) -> Path:
    """A folder of that user's own; root's is open, so that postgres can reach what is restored there."""
    folder = servers.new_folder(user.pw_name)
    folder.chmod(0o755)
    os.chown(folder, user.pw_uid, user.pw_gid)
    return folder


def run_as(user: pwd.struct_passwd, command: list[str]) -> str:
    done = subprocess.run(
        command, user=user.pw_uid, group=user.pw_gid, extra_groups=[], env={}, cwd="/",
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def as_user_of(program: Path, user: pwd.struct_passwd) -> Callable[..., str]:
    def call(*arguments: str | Path, home: Path, codes: tuple[int, ...] = (0, 3)) -> str:
        done = subprocess.run(
            [str(program), "--config", str(home / "etc" / "holdfast.toml"), *map(str, arguments)],
            user=user.pw_uid, group=user.pw_gid, extra_groups=[], env={}, cwd="/",
            stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode in codes, f"{user.pw_name}: {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return call
