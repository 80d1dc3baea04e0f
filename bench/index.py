"""The index of a large repository: ``python -m bench.index --entries 40000000`` (10 TB of PostgreSQL files).

A folder repository gets index objects with random chunk ids, 64 to a pack of 16 MiB; the packs themselves exist only in
listings. Then children of this process, whose anonymous memory is watched, load the index without a local copy (cold),
with one (warm), and look chunks up, with one thread.
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
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np

from bench.measuring import rss_anon
from holdfast.clock import SystemClock
from holdfast.repository.ids import ID_BYTES, ChunkId, ObjectId
from holdfast.repository.index import INDEX_PARTS, Index, encode_index
from holdfast.repository.index_loading import load_index
from holdfast.repository.keys import MadeSecret, SecretKind
from holdfast.repository.objects import Kind, ObjectRef
from holdfast.repository.opening import create_repository, open_repository
from holdfast.repository.packing import Directory
from holdfast.repository.repository import Repository
from holdfast.store.folder import FolderStore
from holdfast.store.port import Listed

CLOCK = SystemClock()
ROWS = 64
SIZE = 2**24
LOOK_UPS = 300_000
_THEN = datetime(2026, 11, 22, tzinfo=UTC)


class ListedPacks(FolderStore):
    """A folder that lists packs which are not there."""

    def __init__(self, root: Path, packs: Path) -> None:
        super().__init__(root, clock=CLOCK)
        self._packs = packs

    def list(self, prefix: str) -> Iterator[Listed]:
        yield from super().list(prefix)
        if prefix == Kind.DATA.prefix:
            data = np.load(self._packs, mmap_mode="r").data.cast("B")
            for at in range(0, len(data), ID_BYTES):
                name = data[at : at + ID_BYTES].hex()
                yield Listed(name=f"data/{name[:2]}/{name}", size=SIZE, modified=_THEN)


def fill(folder: Path, entries: int) -> None:
    secret = MadeSecret.new(SecretKind.PASSPHRASE)
    (folder / "secret").write_text(secret)
    store = FolderStore(folder / "store", clock=CLOCK, create=True)
    repository = create_repository(store, [(secret, SecretKind.PASSPHRASE)], clock=CLOCK)
    lengths = np.array([200_000, 262_144], ">u4").tobytes()
    packs: list[ObjectId] = []
    samples = []
    for first in range(0, entries, INDEX_PARTS):
        directories = []
        for start in range(first, min(first + INDEX_PARTS, entries), ROWS):
            ids = [os.urandom(ID_BYTES) for _row in range(min(ROWS, entries - start))]
            samples.append(ids[start // ROWS % len(ids)])
            packs.append(ObjectId(os.urandom(ID_BYTES)))
            rows = b"".join(chunk_id + lengths for chunk_id in ids)
            directories.append(Directory(ObjectRef(Kind.DATA, packs[-1]), SIZE, rows))
        repository.put_object(Kind.INDEX, encode_index(directories))
    np.save(folder / "packs.npy", np.frombuffer(b"".join(packs), np.uint8).reshape(-1, ID_BYTES))
    np.save(folder / "samples.npy", np.frombuffer(b"".join(samples), np.uint8).reshape(-1, ID_BYTES))


def opened(folder: Path) -> Repository:
    store = ListedPacks(folder / "store", folder / "packs.npy")
    return open_repository(store, (folder / "secret").read_text(), pin=None, clock=CLOCK, state=folder / "state")


def load(folder: Path) -> tuple[Index, dict[str, float]]:
    repository = opened(folder)
    began = time.monotonic()
    loaded = load_index(repository)
    seconds = time.monotonic() - began
    if loaded.problems or loaded.learned:
        raise SystemExit(f"{len(loaded.problems)} problems, {len(loaded.learned)} learned")
    return loaded.index, {"seconds": seconds, "entries": loaded.index.count}


def look_up(folder: Path) -> dict[str, float]:
    index, found = load(folder)
    samples = np.load(folder / "samples.npy", mmap_mode="r")
    chosen = np.random.default_rng(1).integers(0, len(samples), LOOK_UPS)
    hits = [ChunkId(samples[number].tobytes()) for number in chosen]
    misses = [ChunkId(os.urandom(ID_BYTES)) for _number in range(LOOK_UPS)]
    found["hits"] = rate(index.reuse, hits, expect=True)
    in_order = [part.id for directory in islice(index.directories(), LOOK_UPS // ROWS) for part in directory.parts]
    found["in_order"] = rate(index.reuse, in_order, expect=True)
    found["misses"] = rate(index.reuse, misses, expect=False)
    found["places"] = rate(lambda chunk_id: next(index.places(chunk_id), None), hits, expect=True)
    return found


def rate(ask: Callable[[ChunkId], object], ids: list[ChunkId], *, expect: bool) -> float:
    """A second; the first pass brings pages into memory and is not counted."""
    for _pass in range(2):
        began = time.monotonic()
        for chunk_id in ids:
            if (ask(chunk_id) is not None) != expect:
                raise SystemExit(f"{chunk_id.hex()} is{' not' if expect else ''} found")
        seconds = time.monotonic() - began
    return len(ids) / seconds


def child(phase: str, folder: Path) -> tuple[dict[str, float], float]:
    """What a child prints, and the peak of its RssAnon in MiB."""
    command = [sys.executable, "-m", "bench.index", "--phase", phase, "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, rss_anon(process.pid))
            time.sleep(0.02)
        assert process.stdout is not None
        text = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{command} exited with {process.returncode}")
    return json.loads(text), peak / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=40_000_000)
    parser.add_argument("--folder", type=Path, help="kept; filled only if it is empty")
    parser.add_argument("--phase", choices=["load", "look_up"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        print(json.dumps(look_up(options.folder) if options.phase == "look_up" else load(options.folder)[1]))
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="hfbench"))
    try:
        folder.mkdir(exist_ok=True)
        needed = options.entries * 105
        if shutil.disk_usage(folder).free < needed:
            raise SystemExit(f"{folder} has no room for {needed // 10**9} GB")
        if not (folder / "samples.npy").exists():
            fill(folder, options.entries)
        shutil.rmtree(folder / "state", ignore_errors=True)
        cold, warm, looked = child("load", folder), child("load", folder), child("look_up", folder)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    print("| of the index | result | peak RssAnon, MiB |\n|---|---|---|")
    print(f"| entries | {cold[0]['entries']:,} | |")
    print(f"| built without a local copy | {cold[0]['seconds']:.1f} s | {cold[1]:.0f} |")
    print(f"| opened with one | {warm[0]['seconds']:.1f} s | {warm[1]:.0f} |")
    for name, what in (
        ("in_order", "to reuse, found, in the order of packs (a backup's)"),
        ("hits", "to reuse, found, at random"),
        ("misses", "to reuse, not found"),
        ("places", "to read, found, at random"),
    ):
        print(f"| look-ups {what} | {looked[0][name]:,.0f} a second | {looked[1]:.0f} |")


if __name__ == "__main__":
    main()
