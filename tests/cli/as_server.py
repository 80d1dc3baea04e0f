"""Holdfast as a server's ``archive_command`` and ``restore_command``: run by the server's user, in no environment."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.clock import SystemClock
from holdfast.config import read_configuration
from holdfast.repository.repository import Repository
from holdfast.repository.wal.held import Held
from holdfast.repository.wal.reading import WalReader
from holdfast.wiring import Wiring
from tests.requirements import require
from tests.servers import Cluster, Servers, bare_environment, give, server_account

ROOT = Path(__file__).parents[2]


def identity() -> dict[str, Any]:
    """Options of a child process that make it the servers' user."""
    account = server_account()
    return {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@functools.cache
def interpreter() -> tuple[str, str]:
    """A Python of this version that the servers' user may run, and the search path with which it finds everything."""
    path = os.pathsep.join([str(ROOT / "src"), sysconfig.get_path("purelib")])
    check = f"import sys; assert sys.version_info[:2] == {sys.version_info[:2]}; import holdfast.wiring"
    for candidate in (sys.executable, "/usr/bin/python3"):
        try:
            done = subprocess.run(
                [candidate, "-c", check],
                env=bare_environment(PYTHONPATH=path),
                cwd="/",
                capture_output=True,
                check=False,
                **identity(),
            )
        except OSError:
            continue
        if done.returncode == 0:
            return candidate, path
    require(False, "no Python of this version that the servers' user may run")
    raise AssertionError


@dataclass(frozen=True, kw_only=True)
class AsServer:
    """A configuration of the servers' user, and the program to run with it."""

    folder: Path
    repositories: tuple[str, ...] = ("one",)
    source: str = "main"

    @property
    def configuration(self) -> Path:
        return self.folder / "holdfast.toml"

    @property
    def program(self) -> Path:
        """What ``archive_command`` names."""
        return self.folder / "holdfast"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def spool(self) -> Path:
        return self.state / "spool" / self.source

    @property
    def receiver(self) -> Path:
        return self.state / "run" / f"{self.source}.sock"

    def store(self, name: str = "one") -> Path:
        return self.folder / name

    def __call__(
        self, *arguments: str | Path, cwd: Path | str = "/", before: Sequence[str] = (), **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*before, str(self.program), *map(str, arguments)],
            cwd=cwd,
            env=bare_environment(**variables),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
            **({} if before else identity()),
        )

    def repository(self, name: str = "one") -> Repository:
        return Wiring(configuration=read_configuration(self.configuration), clock=SystemClock()).repository(name)

    def held(self, name: str = "one") -> Held:
        """All that is held of the newest stream."""
        reader = WalReader(self.repository(name))
        return reader.held(reader.streams(self.source)[-1])

    def contents(self, name: str = "one") -> dict[tuple[int, int], bytes]:
        """The bytes of every segment, by timeline and number."""
        held, reader = self.held(name), WalReader(self.repository(name))
        return {
            (segment.timeline, segment.number): b"".join(reader.content(held.stream, segment))
            for segment in held.segments
        }


def make(servers: Servers, cluster: Cluster, *repositories: str, via: str = "archive", deep: bool = False) -> AsServer:
    """``init`` has run there; ``deep``: in a folder whose path no socket's address has room for."""
    folder = servers.new_folder("w")
    if deep:
        folder = folder / ("deep" * 20) / ("deeper" * 10)
        folder.mkdir(parents=True)
        for above in (folder, *folder.parents[:2]):
            give(above)
    made = AsServer(folder=folder, repositories=repositories or ("one",))
    executable, path = interpreter()
    made.program.write_text(
        f"#!/bin/sh\nPYTHONPATH={path} PYTHONDONTWRITEBYTECODE=1 exec"
        f' {executable} -m holdfast --config {made.configuration} "$@"\n'
    )
    made.program.chmod(0o755)
    names = ", ".join(f'"{name}"' for name in made.repositories)
    sections = "".join(f'[repository.{name}]\nurl = "file:{name}"\n\n' for name in made.repositories)
    made.configuration.write_text(
        'timezone = "UTC"\npassphrase = { file = "passphrase" }\nstate_dir = "state"\n\n'
        f'[source.main]\ntype = "postgres"\nconnection = "{cluster.dsn()}"\n'
        f'wal = {{ from = "{via}", to = [{names}] }}\n\n{sections}'
    )
    give(made.configuration)
    done = made("init", "--no-recovery-key", "--yes")
    assert done.returncode in (0, 3), done.stdout + done.stderr
    return made
