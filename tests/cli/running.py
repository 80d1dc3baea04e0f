"""Runs the command line as a process of its own, as people do."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
STATE = Path(tempfile.mkdtemp(prefix="holdfast-test-state-"))
"""Where every user's state goes: a test as root must not write to /var/lib."""
STATE.chmod(0o1777)
atexit.register(shutil.rmtree, STATE, ignore_errors=True)


def environment(**more: str) -> dict[str, str]:
    """One that speaks English and knows no configuration but what the test names."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "HOLDFAST_", "XDG_"))}
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return kept | {"LANG": "C.UTF-8", "PYTHONPATH": path, "HOME": "/nonexistent", "XDG_STATE_HOME": str(STATE)} | more


def command(*arguments: str, module: str = "tests.cli.program") -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def holdfast(
    *arguments: str, module: str = "tests.cli.program", cwd: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, module=module),
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
