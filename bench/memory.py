"""Peak anonymous memory of backup and restore: ``python -m bench.memory --gigabytes 10 --entries 200000``.

The cluster's jobs run as the real command in a child process; the folder of small files goes through ``filesystem``
and the repository in a child of its own, since files are not a configured source yet.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.servers import Cluster, Servers, give

from bench.measuring import HEADER, Measured, measure
from bench.small_files import make_small_files
from holdfast.repository.keys import MadeSecret, SecretKind

ROOT = Path(__file__).resolve().parent.parent


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
    size = make_small_files(source, entries)
    child = [sys.executable, "-m", "bench.files", str(source), str(folder / "files_repository")]
    return [
        measure(f"backup of {entries} small files", [*child, "backup"], size),
        measure(f"restore of {entries} small files", [*child, "restore", str(folder / "files_back")], size),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--entries", type=int, default=200_000)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    servers, folder = Servers(), Path(tempfile.mkdtemp(prefix="hfbench"))
    try:
        give(folder)
        found = [*of_small_files(folder, options.entries), *of_a_cluster(servers, folder, options.gigabytes)]
    finally:
        servers.close()
        shutil.rmtree(folder, ignore_errors=True)
    print(HEADER)
    for row in found:
        print(row)


if __name__ == "__main__":
    main()
