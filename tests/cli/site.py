"""A place where Holdfast is used: a configuration, its repository, and the command line to work on both."""

from __future__ import annotations

import json
import os
import pty
import selectors
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.running import ROOT, command, environment
from tests.servers import Cluster

Ended = subprocess.CompletedProcess[str]


def run(*arguments: str | Path, cwd: Path = ROOT, variables: Mapping[str, str] | None = None) -> Ended:
    """One command line, as a process of its own that nobody sits before."""
    return subprocess.run(
        command(*map(str, arguments), module="holdfast"),
        cwd=cwd,
        env=environment(**(variables or {})),
        capture_output=True,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


@contextmanager
def running(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """One command line that goes on; it is ended with the scope."""
    with subprocess.Popen(
        command(*map(str, arguments), module="holdfast"),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


Answer = tuple[str, Callable[[str], str] | str]
"""What is waited for in the output, and what is typed then: a text, or what follows from the output so far."""


def at_terminal(*arguments: str | Path, answers: Sequence[Answer] = (), cwd: Path = ROOT) -> Ended:
    """One command line with a terminal as its input, and ``answers`` typed there in their order."""
    master, terminal = pty.openpty()
    waiting = list(answers)
    said: dict[str, bytes] = {"out": b"", "err": b""}
    try:
        with (
            subprocess.Popen(
                command(*map(str, arguments), module="holdfast"),
                cwd=cwd,
                env=environment(),
                stdin=terminal,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # without a controlling terminal, /dev/tty does not lead to the tester's own
            ) as process,
            selectors.DefaultSelector() as selector,
        ):
            assert process.stdout is not None
            assert process.stderr is not None
            selector.register(process.stdout, selectors.EVENT_READ, "out")
            selector.register(process.stderr, selectors.EVENT_READ, "err")
            end = time.monotonic() + 60
            try:
                while selector.get_map():
                    assert time.monotonic() < end, f"{said} and then silence; waited for {waiting[:1]}"
                    for key, _events in selector.select(1):
                        data = os.read(key.fd, 65536)
                        said[key.data] += data
                        if not data:
                            selector.unregister(key.fileobj)
                    everything = (said["out"] + said["err"]).decode("utf-8", "replace")
                    if waiting and waiting[0][0] in everything:
                        _prompt, answer = waiting.pop(0)
                        os.write(master, (answer if isinstance(answer, str) else answer(everything)).encode())
            finally:
                process.kill()
        assert not waiting, f"it never asked for {waiting}: {said}"
        out, err = (text.decode("utf-8", "replace") for text in said.values())
        return subprocess.CompletedProcess(process.args, process.wait(), out, err)
    finally:
        os.close(terminal)
        os.close(master)


@dataclass(frozen=True, kw_only=True)
class Site:
    folder: Path
    cluster: Cluster

    @property
    def configuration(self) -> Path:
        return self.folder / "holdfast.toml"

    @property
    def passphrase(self) -> Path:
        return self.folder / "passphrase"

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    def __call__(self, *arguments: str | Path, variables: Mapping[str, str] | None = None) -> Ended:
        return run("--config", self.configuration, *arguments, variables=variables)

    def well(self, *arguments: str | Path, code: int = 0, variables: Mapping[str, str] | None = None) -> str:
        """The standard output of a command that must end with ``code``."""
        ended = self(*arguments, variables=variables)
        assert ended.returncode == code, f"{arguments}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def ask(self, *arguments: str | Path, code: int = 0) -> Any:
        """The document of a command with ``--json``."""
        return json.loads(self.well(*arguments, "--json", code=code))

    def packs(self) -> list[Path]:
        return sorted(path for path in (self.repository / "data").rglob("*") if path.is_file())

    def rewrite(self, **replaced: str) -> Site:
        """Another configuration beside the first, of the same repository: ``connection="…"`` replaces that line."""
        lines = self.configuration.read_text("utf-8").splitlines()
        for name, value in replaced.items():
            lines = [f"{name} = {value}" if line.startswith(f"{name} =") else line for line in lines]
        other = self.folder / f"other{len(list(self.folder.iterdir()))}"
        other.mkdir()
        (other / "holdfast.toml").write_text("\n".join(lines), "utf-8")
        (other / "repository").symlink_to(self.repository)
        return Site(folder=other, cluster=self.cluster)


def new_site(folder: Path, cluster: Cluster, *options: str | Path) -> Site:
    """``init`` has run there, without a recovery key unless ``options`` want one."""
    site = Site(folder=folder, cluster=cluster)
    wanted = options or ("--no-recovery-key",)
    site.well("init", "--connection", cluster.dsn(), "--repository-url", site.repository, *wanted)
    return site


def failed(ended: Ended, code: int, *told: str) -> None:
    """It ended with ``code``, an error of its own and a hint, each of ``told`` among them, and no traceback."""
    assert ended.returncode == code, f"{ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    for text in told:
        assert text in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "defect" not in ended.stderr
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("holdfast: warning")]
    start = next(number for number, line in enumerate(lines) if line.startswith("holdfast: "))
    assert len(lines) > start + 1, f"no hint: {ended.stderr}"
