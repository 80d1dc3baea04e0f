"""Beside restic, in one run: ``python -m bench.beside_restic --gigabytes 20 --entries 200000 [--restic PATH]``.

Small files, and large ones whose content compresses to about half and never repeats. Both tools encrypt, deduplicate
and compress with zstd at its fastest level, into 16 MiB packs in a folder on the same disk. Holdfast's side is
``bench.files``, since files are not a configured source yet.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from bench.measuring import HEADER, Measured, measure, stored
from bench.small_files import make_small_files

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = 16 * 2**20


def make_large_files(source: Path, gigabytes: float) -> int:
    source.mkdir()
    chance = random.Random(7)
    size, number = 0, 0
    while size < gigabytes * 1e9:
        with (source / f"{number:04}").open("wb") as file:
            for _block in range(64):
                size += file.write(chance.randbytes(_BLOCK // 2).hex().encode())
        number += 1
    return size


def holdfast(source: Path, folder: Path, what: str, size: int) -> list[Measured]:
    child = [sys.executable, "-m", "bench.files", str(source), str(folder / "repository")]
    found = [
        measure(f"Holdfast: backup of {what}", [*child, "backup"], size),
        measure(f"Holdfast: the same again, nothing changed, of {what}", [*child, "again"], size),
    ]
    print(f"Holdfast stored {stored(folder / 'repository') / 1e6:.0f} MB", file=sys.stderr)
    found.append(measure(f"Holdfast: restore of {what}", [*child, "restore", str(folder / "back")], size))
    _remove(folder)
    return found


def restic(program: str, source: Path, folder: Path, what: str, size: int) -> list[Measured]:
    environment = {
        **os.environ,
        "RESTIC_REPOSITORY": str(folder / "repository"),
        "RESTIC_PASSWORD": "bench",
        "RESTIC_CACHE_DIR": str(folder / "cache"),
        "RESTIC_COMPRESSION": "fastest",
        "RESTIC_PACK_SIZE": "16",
    }
    measure("init", [program, "init", "--quiet"], 1, environment=environment)
    backup = [program, "backup", "--quiet", "--force", str(source)]
    found = [
        measure(f"restic: backup of {what}", backup, size, environment=environment),
        measure(f"restic: the same again, all read, of {what}", backup, size, environment=environment),
    ]
    print(f"restic stored {stored(folder / 'repository') / 1e6:.0f} MB", file=sys.stderr)
    back = [program, "restore", "latest", "--quiet", "--target", str(folder / "back")]
    found.append(measure(f"restic: restore of {what}", back, size, environment=environment))
    _remove(folder)
    return found


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=20)
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--restic", default=shutil.which("restic"))
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    folder = Path(tempfile.mkdtemp(prefix="hfbench"))
    try:
        small, large, work = folder / "small", folder / "large", folder / "work"
        work.mkdir()
        kinds = [
            (small, f"{options.entries} small files", make_small_files(small, options.entries)),
            (large, f"{options.gigabytes:g} GB in large files", make_large_files(large, options.gigabytes)),
        ]
        print(HEADER)
        for source, what, size in kinds:
            for row in holdfast(source, work, what, size):
                print(row, flush=True)
            for row in restic(options.restic, source, work, what, size) if options.restic else ():
                print(row, flush=True)
        if not options.restic:
            print("restic was not found: give its path by --restic", file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
