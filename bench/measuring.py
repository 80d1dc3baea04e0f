"""What a child process took: wall time, processor time, and the peak of its anonymous memory.

The peak is that of RssAnon in /proc/PID/status, read every 20 ms: pages of mapped files don't count.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HEADER = "| work | MB | seconds | CPU seconds | MB/s | peak RssAnon, MiB |\n|---|---|---|---|---|---|"


@dataclass(frozen=True, kw_only=True)
class Measured:
    what: str
    seconds: float
    cpu_seconds: float
    peak_mib: float
    megabytes: float

    def __str__(self) -> str:
        rate = self.megabytes / self.seconds
        return (
            f"| {self.what} | {self.megabytes:.0f} | {self.seconds:.1f} | {self.cpu_seconds:.1f} | {rate:.0f} |"
            f" {self.peak_mib:.0f} |"
        )


def measure(
    what: str,
    command: Sequence[str],
    size: float,
    *,
    good: Sequence[int] = (0, 3),
    environment: Mapping[str, str] | None = None,
) -> Measured:
    """``size`` in bytes; raises ``SystemExit`` if the command's exit code is none of ``good``."""
    began, peak = time.monotonic(), 0
    before = os.times()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    while process.poll() is None:
        peak = max(peak, rss_anon(process.pid))
        time.sleep(0.02)
    seconds = time.monotonic() - began
    after = os.times()
    if process.returncode not in good:
        raise SystemExit(f"{command} exited with {process.returncode}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Measured(what=what, seconds=seconds, cpu_seconds=cpu, peak_mib=peak / 1024, megabytes=size / 1e6)


def rss_anon(pid: int) -> int:
    """KiB; 0 once the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    except (OSError, StopIteration):
        return 0


def stored(folder: Path) -> int:
    """Bytes of all files under ``folder``."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
