"""Peak anonymous memory of backup and restore: ``python -m bench.memory --gigabytes 10 --entries 200000``.

The cluster's jobs run as the real command in a child process; the folder of small files goes through ``filesystem``
and the repository in a child of its own, since files are not a configured source yet. What is measured is the peak of
RssAnon in /proc/PID/status, read every 20 ms: pages of mapped files don't count.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.servers import Cluster, Servers, give

from holdfast.repository.keys import MadeSecret, SecretKind

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Measured:
    what: str
    seconds: float
    peak_mib: float
    megabytes: float


def measure(what: str, command: list[str], size: float, environment: dict[str, str] | None = None) -> Measured:
    began, peak = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    while process.poll() is None:
        peak = max(peak, rss_anon(process.pid))
        time.sleep(0.02)
    if process.returncode not in (0, 3):
        raise SystemExit(f"{command} exited with {process.returncode}")
    return Measured(what=what, seconds=time.monotonic() - began, peak_mib=peak / 1024, megabytes=size / 1e6)


def rss_anon(pid: int) -> int:
    """KiB; 0 once the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    except (OSError, StopIteration):
        return 0


def fill(cluster: Cluster, gigabytes: float) -> int:
    """pgbench's tables (15 MB a unit of scale), made without WAL of their own."""
    cluster.pgbench_init(max(1, round(gigabytes * 1000 / 15)))
    cluster.execute("checkpoint")
    return int(cluster.value("select sum(pg_database_size(oid)) from pg_database"))


def of_a_cluster(servers: Servers, folder: Path, gigabytes: float) -> list[Measured]:
    cluster = servers.make_cluster(15, conf="max_wal_size = 4GB\nmaintenance_work_mem = 256MB")
    size = fill(cluster, gigabytes)
    (folder / "passphrase").write_text(MadeSecret.new(SecretKind.PASSPHRASE))
    (folder / "passphrase").chmod(0o600)
    config = folder / "holdfast.toml"
    config.write_text(
        f'timezone = "UTC"\nstate_dir = "{folder}/state"\npassphrase = {{ file = "passphrase" }}\n'
        f'[source.bench]\ntype = "postgres"\nconnection = "{cluster.dsn()}"\n'
        f'[repository.local]\nurl = "file://{folder}/repository"\n'
    )
    config.chmod(0o640)
    holdfast = [sys.executable, "-m", "holdfast", "--config", str(config)]
    subprocess.run([*holdfast, "init"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    target = servers.new_folder("back") / "data"
    return [
        measure("backup of a cluster, first", [*holdfast, "backup"], size),
        measure("backup of a cluster, nothing changed", [*holdfast, "backup"], size),
        measure("restore of a cluster", [*holdfast, "restore", "--to", str(target)], size),
    ]


def of_small_files(folder: Path, entries: int) -> list[Measured]:
    source = folder / "files"
    for number in range(entries):
        place = source / f"{number // 1000:04}"
        if number % 1000 == 0:
            place.mkdir(parents=True)
        (place / f"{number:07}.jpg").write_bytes(f"{number} of a folder of images ".encode() * 12)
    child = [sys.executable, "-m", "bench.files", str(source), str(folder / "files_repository")]
    size = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
    return [
        measure(f"backup of {entries} small files", [*child, "backup"], size),
        measure(f"restore of {entries} small files", [*child, "restore", str(folder / "files_back")], size),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    servers, folder = Servers(), Path(tempfile.mkdtemp(prefix="hfbench"))
    try:
        give(folder)
        found = [*of_small_files(folder, options.entries), *of_a_cluster(servers, folder, options.gigabytes)]
    finally:
        servers.close()
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps([row.__dict__ for row in found], indent=1))
        return
    print("| work | MB | seconds | MB/s | peak RssAnon, MiB |\n|---|---|---|---|---|")
    for row in found:
        rate = row.megabytes / row.seconds
        print(f"| {row.what} | {row.megabytes:.0f} | {row.seconds:.1f} | {rate:.0f} | {row.peak_mib:.0f} |")


if __name__ == "__main__":
    main()
