"""The demo as a user: the real commands, each shown before it runs, in processes of their own.

They see a home, a configuration and caches that lie in the demo's folder, and nothing of the caller's: no ``PG…``
variables, no ``holdfast.toml`` of a real installation.
"""

from __future__ import annotations

import json
import os
import shlex
import site
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from holdfast.errors import HoldfastError
from holdfast.messages import _

CONFIGURATION = "holdfast.toml"
DONE = (0, 3)
"""Exit codes: done, and done with warnings."""

_BY_ITSELF, _END_LIMIT = 2.0, 8.0
"""Seconds that an interrupted demo's command gets to end: Ctrl-C went to it too; a second signal ends it at once."""


class Commands:
    """``show`` gets each command line; results go to standard output, or with ``quiet`` to standard error.

    ``programs`` are PostgreSQL's: the commands find them first.
    """

    def __init__(
        self,
        folder: Path,
        *,
        programs: Path,
        show: Callable[[str], None],
        quiet: bool = False,
        language: str | None = None,
    ) -> None:
        self._folder = folder
        self._show = show
        self._quiet = quiet
        self._common = ["--config", str(folder / CONFIGURATION), *(["--lang", language] if language else [])]
        self._environment = _environment(folder, programs)

    def run(self, *words: str) -> None:
        """Raises :class:`~holdfast.errors.HoldfastError` if it fails; its own words stand above."""
        self._show(shlex.join(["holdfast", *words, *self._common]))
        self._end(words, self._start(words, sys.stderr if self._quiet else None))

    def ask(self, *words: str, shown: bool = True) -> Any:
        """The document that the command gives with ``--json``."""
        words = (*words, "--json")
        if shown:
            self._show(shlex.join(["holdfast", *words, *self._common]))
        said = self._end(words, self._start(words, subprocess.PIPE))
        try:
            return json.loads(said)
        except ValueError:
            raise HoldfastError(_("holdfast {command} gave no JSON").format(command=words[0])) from None

    def _start(self, words: tuple[str, ...], out: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "holdfast", *words, *self._common],
            stdin=subprocess.DEVNULL,
            stdout=out,
            cwd=self._folder,
            env=self._environment,
            encoding="utf-8",
        )

    def _end(self, words: tuple[str, ...], process: subprocess.Popen[str]) -> str:
        with process:
            try:
                said, _none = process.communicate()
            except BaseException:
                _end_early(process)
                raise
        if process.returncode not in DONE:
            raise _failure(words[0], process.returncode, said)
        return said or ""


def _end_early(process: subprocess.Popen[str]) -> None:
    for seconds, signal_it in ((_BY_ITSELF, process.terminate), (_END_LIMIT, process.kill)):
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            signal_it()
        else:
            return


def _failure(command: str, code: int, said: str | None) -> HoldfastError:
    """What it said itself stands on the screen, unless it was asked for JSON: then it is in ``said``."""
    text = _("holdfast {command} ended with exit code {code}").format(command=command, code=code)
    try:
        error = json.loads(said or "")["error"]
        return HoldfastError(f"{text}: {error['message']}", hint=error["hint"])
    except (ValueError, KeyError, TypeError):
        return HoldfastError(
            text, hint=_("What it said stands above. Run the demo with --keep to look at what it leaves.")
        )


def _environment(folder: Path, programs: Path, caller: Mapping[str, str] = os.environ) -> dict[str, str]:
    kept = {
        name: value for name, value in caller.items() if not name.startswith(("PG", "XDG_", "HOLDFAST_", "PYTHONUSER"))
    }
    if "PYTHONPATH" in kept:  # the commands run in another working directory
        kept["PYTHONPATH"] = os.pathsep.join(
            str(Path(part).absolute()) for part in kept["PYTHONPATH"].split(os.pathsep) if part
        )
    home = folder / "home"
    return kept | {
        "PATH": os.pathsep.join([str(programs), caller.get("PATH", os.defpath)]),
        "HOME": str(home),
        "PYTHONUSERBASE": site.getuserbase(),  # Holdfast may be installed in the caller's home
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_CACHE_HOME": str(home / "cache"),
    }
