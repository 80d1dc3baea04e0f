"""The local copy of the index: a folder of runs, and a manifest that says which of them count.

::

    <local>/index-1/manifest        which runs, and which index objects of the store they hold the packs of
    <local>/index-1/<32 hex>.run    never changed

Nothing here is needed: what is missing, damaged, of another repository or of an older version is thrown away and read
again from the store. A pack's directory is valid for ever, so runs never grow stale; only which packs count, and which
index object names them, changes. Several processes may use the folder at once: files are only added and unlinked (what
is mapped stays), and the manifest is replaced as a whole: the last one wins, and the others' work is done again.

Where there is no folder, or it cannot be written, a run is a file without a name in the temporary folder, or in memory.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import IO

import numpy as np
from blake3 import blake3
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.ids import ID_BYTES, ObjectId
from holdfast.repository.local import hand_over, make_folder
from holdfast.repository.pack_table import Array
from holdfast.repository.repository import Repository
from holdfast.repository.run_building import RunBuilder
from holdfast.repository.runs import Run

FOLDER = "index-1"
_MANIFEST = "manifest"
_MAGIC = b"HFINDEXM"
_VERSION = 1
_HEADER = struct.Struct("=8sI32s")
_COUNTS = struct.Struct("=IIQ")
_RUN = struct.Struct("=16sI")
_OBJECT = struct.Struct(f"={ID_BYTES}sQ")
_LEFTOVER_AGE = timedelta(days=1)
_ATTEMPTS = 5

Fill = Callable[[RunBuilder], None]


@dataclass(frozen=True, slots=True)
class Naming:
    """Which index objects name which packs: pairs of an object's place in ``objects`` and a pack's number.

    PackTable are numbered through all runs, one after the other.
    """

    objects: tuple[tuple[ObjectId, int], ...]
    """Each with its number of rows."""
    by: Array
    packs: Array

    @classmethod
    def empty(cls) -> Naming:
        return cls((), np.empty(0, np.uint32), np.empty(0, np.uint32))

    def renumbered(self, numbers: Array) -> Naming:
        """With pack *n* now having the number ``numbers[n]``, or being gone (-1)."""
        now = numbers[self.packs]
        remain = now >= 0
        return Naming(self.objects, self.by[remain], now[remain].astype(np.uint32))

    def only(self, wanted: Callable[[ObjectId], bool]) -> Naming:
        """Of the objects that are ``wanted``."""
        keep = np.array([wanted(name) for name, _rows in self.objects], bool)
        places = np.cumsum(keep) - 1
        remain = keep[self.by] if len(keep) else np.zeros(0, bool)
        objects = tuple(one for one, kept in zip(self.objects, keep, strict=True) if kept)
        return Naming(objects, places[self.by[remain]].astype(np.uint32), self.packs[remain])

    def extended(self, name: ObjectId, rows: int, packs: Array) -> Naming:
        by = np.full(len(packs), len(self.objects), np.uint32)
        together = np.concatenate((self.packs, packs.astype(np.uint32)))
        return Naming((*self.objects, (name, rows)), np.concatenate((self.by, by)), together)


@dataclass(frozen=True, slots=True)
class StoredRun:
    run: Run
    name: str | None
    """Of its file in the folder; None where it has none."""


class IndexCache:
    def __init__(self, repository: Repository) -> None:
        master, self._clock = repository.master, repository.clock
        self._folder = None if repository.local is None else repository.local / FOLDER
        self._key = HKDF(SHA256(), 32, salt=master.repository_id, info=b"holdfast cache").derive(master.secret)
        self._built: set[str] = set()
        """By this process; whatever of it is merged goes, whether a manifest ever named it or not."""

    def open(self) -> tuple[list[StoredRun], Naming]:
        """What the manifest names and can be read; what an index object named in a run that cannot is forgotten."""
        for _attempt in range(_ATTEMPTS):
            try:
                manifest = self._read_manifest()
            except (OSError, Damaged):
                break
            found = [self._open_run(name, packs) for name, packs in manifest.runs]
            if all(found) or self._read_quietly() == manifest.raw:
                return _what_remains(manifest, found)
        return [], Naming.empty()

    def build(self, fill: Fill) -> StoredRun:
        """A new run of what ``fill`` adds; it is called again if there turns out to be no room."""
        last: OSError | None = None
        for place in (self._in_folder, _without_name, _in_memory):
            try:
                return place(fill, self._key)
            except OSError as error:
                last = error
        assert last is not None
        raise last

    def publish(self, runs: Sequence[StoredRun], naming: Naming) -> None:
        """Makes ``runs`` those that count and unlinks those that did before; where that fails, nothing happens."""
        if self._folder is None:
            return
        names = {stored.name for stored in runs if stored.name}
        with contextlib.suppress(OSError):
            before = self._named_now()
            if len(names) == len(runs) and all((self._folder / name).exists() for name in names):
                self._replace(_encode_manifest(runs, naming, self._key))
                self._tidy(names, before | self._built)
            else:  # one has no file, or another process threw it away
                self._tidy(names | before, self._built)

    def _named_now(self) -> set[str]:
        try:
            return {name for name, _packs in self._read_manifest().runs}
        except (OSError, Damaged):
            return set()

    def _read_manifest(self) -> _Manifest:
        if self._folder is None:
            raise FileNotFoundError
        return _decode_manifest((self._folder / _MANIFEST).read_bytes(), self._key)

    def _read_quietly(self) -> bytes | None:
        try:
            return self._read_manifest().raw
        except (OSError, Damaged):
            return None

    def _open_run(self, name: str, packs: int) -> StoredRun | None:
        assert self._folder is not None
        try:
            with (self._folder / name).open("rb") as file:
                run = Run(file, self._key)
        except (OSError, Damaged):
            return None
        return StoredRun(run, name) if run.packs == packs else None

    def _in_folder(self, fill: Fill, key: bytes) -> StoredRun:
        if self._folder is None:
            raise FileNotFoundError
        make_folder(self._folder)
        name = f"{secrets.token_hex(16)}.run"
        path = self._folder / name
        try:
            with open(path, "x+b", opener=_private) as file, tempfile.TemporaryFile(dir=self._folder) as pieces:
                stored = StoredRun(_made(fill, file, pieces, key), name)
            hand_over(path)
            self._built.add(name)
            return stored
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            raise

    def _replace(self, manifest: bytes) -> None:
        assert self._folder is not None
        temporary = self._folder / f"{secrets.token_hex(16)}.tmp"
        try:
            with open(temporary, "xb", opener=_private) as file:
                file.write(manifest)
                file.flush()
                os.fsync(file.fileno())
            hand_over(temporary)
            temporary.replace(self._folder / _MANIFEST)
        finally:
            temporary.unlink(missing_ok=True)

    def _tidy(self, current: set[str], former: set[str]) -> None:
        """Unlinks ``former`` runs, and what crashed processes left."""
        assert self._folder is not None
        old = (self._clock.now() - _LEFTOVER_AGE).timestamp()
        for path in self._folder.iterdir():
            if path.name == _MANIFEST or path.name in current:
                continue
            with contextlib.suppress(OSError):
                if path.name in former or path.stat().st_mtime < old:
                    path.unlink()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _made(fill: Fill, file: IO[bytes], pieces: IO[bytes], key: bytes) -> Run:
    builder = RunBuilder(file, pieces)
    fill(builder)
    builder.finish(key)
    return Run(file, key)


def _without_name(fill: Fill, key: bytes) -> StoredRun:
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as pieces:
        return StoredRun(_made(fill, file, pieces, key), None)


def _in_memory(fill: Fill, key: bytes) -> StoredRun:
    if not hasattr(os, "memfd_create"):
        raise OSError
    with _memory_file() as file, _memory_file() as pieces:
        return StoredRun(_made(fill, file, pieces, key), None)


def _memory_file() -> IO[bytes]:
    return os.fdopen(os.memfd_create("holdfast"), "w+b")


@dataclass(frozen=True, slots=True)
class _Manifest:
    raw: bytes
    runs: tuple[tuple[str, int], ...]
    """Name, and number of packs."""
    naming: Naming


def _encode_manifest(runs: Sequence[StoredRun], naming: Naming, key: bytes) -> bytes:
    body = b"".join(
        (
            _COUNTS.pack(len(runs), len(naming.objects), len(naming.packs)),
            *(_RUN.pack(bytes.fromhex(str(stored.name)[:32]), stored.run.packs) for stored in runs),
            *(_OBJECT.pack(*one) for one in naming.objects),
            naming.by.astype(np.uint32).tobytes(),
            naming.packs.astype(np.uint32).tobytes(),
        )
    )
    return _HEADER.pack(_MAGIC, _VERSION, _digest(body, key)) + body


def _decode_manifest(data: bytes, key: bytes) -> _Manifest:
    try:
        magic, version, digest = _HEADER.unpack_from(data)
        body = data[_HEADER.size :]
        if (magic, version, digest) != (_MAGIC, _VERSION, _digest(body, key)):
            raise ValueError("digest")
        runs, objects, pairs = _COUNTS.unpack_from(body)
        at = [_COUNTS.size]
        at.append(at[-1] + runs * _RUN.size)
        at.append(at[-1] + objects * _OBJECT.size)
        return _Manifest(
            data,
            tuple((f"{name.hex()}.run", packs) for name, packs in _RUN.iter_unpack(body[at[0] : at[1]])),
            Naming(
                tuple((ObjectId(name), rows) for name, rows in _OBJECT.iter_unpack(body[at[1] : at[2]])),
                np.frombuffer(body, np.uint32, pairs, at[2]),
                np.frombuffer(body, np.uint32, pairs, at[2] + 4 * pairs),
            ),
        )
    except (struct.error, ValueError, OverflowError):
        raise Damaged(_("a file of the local index cannot be read")) from None


def _digest(body: bytes, key: bytes) -> bytes:
    return blake3(struct.pack("=8sI", _MAGIC, _VERSION), key=key).update(body).digest()


def _what_remains(manifest: _Manifest, found: Sequence[StoredRun | None]) -> tuple[list[StoredRun], Naming]:
    """The runs that could be opened, and the index objects all of whose packs are in them."""
    naming, sizes = manifest.naming, [packs for _name, packs in manifest.runs]
    whole = np.repeat(np.array([one is not None for one in found], bool), sizes)
    broken = set(naming.by[~whole[naming.packs]].tolist())
    kept = {name for place, (name, _rows) in enumerate(naming.objects) if place not in broken}
    numbers = np.where(whole, np.cumsum(whole) - 1, -1)
    return [one for one in found if one is not None], naming.only(kept.__contains__).renumbered(numbers)
