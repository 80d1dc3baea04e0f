"""The life of the golden repository: two sources, six backups, two that were killed, and what happens beside them."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from unittest.mock import patch

from holdfast import __version__
from holdfast.entry import Entry, Reading
from holdfast.repository import compaction
from holdfast.repository.index_loading import load_index
from holdfast.repository.keyring import opened_by, read_keyring
from holdfast.repository.keyring_changes import add_key, remove_key
from holdfast.repository.keys import Origin, SecretKind
from holdfast.repository.marks import encode_mark
from holdfast.repository.objects import Kind, ObjectRef, parse_name
from holdfast.repository.opening import create_repository, open_repository
from holdfast.repository.packing import Location
from holdfast.repository.removing import remove_snapshot
from holdfast.repository.repository import Repository
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.verify import verify_repository
from holdfast.repository.writer import About, SnapshotWriter
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind, FaultyStore, Killed
from holdfast.store.memory import MemoryStore
from holdfast.store.port import Store
from tests.golden.contents import PLAN, blueprints, facts, tracker
from tests.repository.clocks import HandClock
from tests.repository.making import noise, readings

PASSPHRASE = "hfpass-4jnj2-ljjxq-4htpw-3ekfa-24wg5-yx54f-b7viw-2n6qt"
RECOVERY_KEY = "hfrec-6hanc-643vx-p2efe-s5ub2-obaho-yuxwp-pstss-iazct"
CHOSEN = "沿着海带固定在岩石上 2026"
CHOSEN_NOTE = "保险箱里的纸条"
REMOVED = "hfpass-ca5i3-iffrg-vlyon-pdq57-yvdh4-oygo7-vdvrp-jjcft"
"""Test secrets, these four: they protect nothing but what these tests made."""

HOUR = timedelta(hours=1)


@contextmanager
def chance(seed: str) -> Iterator[None]:
    """Inside, ``os.urandom`` is foreseen: one stream for the thread that feeds, one for the single worker."""
    main = threading.current_thread()
    streams = {True: random.Random(seed), False: random.Random(f"{seed} worker")}

    def foreseen(size: int) -> bytes:
        return streams[threading.current_thread() is main].randbytes(size)

    with patch.object(os, "urandom", foreseen):
        yield


class Life:
    """``made[step]``: the names of the objects that a step put and left there, sorted."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.store = MemoryStore(clock=self.clock)
        self.made: dict[str, list[str]] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.given: dict[str, list[tuple[Entry, bytes]]] = {}
        """What was put into each snapshot."""
        self.removed_record = b""
        with chance("golden"):
            self._live()

    def open(self, store: Store | None = None) -> Repository:
        return open_repository(store or self.store, PASSPHRASE, pin=None, clock=self.clock)

    def one(self, step: str, prefix: str) -> str:
        """The one object under ``prefix`` that a step made."""
        (name,) = (name for name in self.made[step] if name.startswith(prefix))
        return name

    def ref(self, step: str, prefix: str) -> ObjectRef:
        ref = parse_name(self.one(step, prefix))
        assert ref is not None
        return ref

    def place(self, content: bytes, pack: str) -> Location:
        """Where a piece of a file lies in the pack ``pack``."""
        repository = self.open()
        places = load_index(repository).index.places(repository.ids.chunk_id(content))
        return next(place for place in places if place.pack.name == pack)

    def _live(self) -> None:
        self._step("init", self._init)
        ids = self.open().ids
        self._step("tracker 1", lambda: self._take("tracker", tracker(lines=1)), after=HOUR)
        self._step("blueprints 2", lambda: self._take("blueprints", blueprints(ids)), after=HOUR / 12)
        self._step("chosen", lambda: self._add(CHOSEN, CHOSEN_NOTE), after=HOUR)
        self._step("added", lambda: self._add(REMOVED, "for a while"), after=HOUR)
        self._step("tracker 3", lambda: self._take("tracker", tracker(lines=2), host="db2"), after=HOUR)
        self._step("removed", self._remove_key, after=HOUR)
        self._step("killed", lambda: self._killed("tracker", 8), after=22 * HOUR)
        self._step("noted", self._note_damage, after=HOUR)
        with patch.object(compaction, "SMALL_OBJECTS", 2):
            self._step("blueprints 4", lambda: self._take("blueprints", blueprints(ids, new=True)), after=HOUR)
        self._step("tracker 5", lambda: self._take("tracker", tracker(lines=2, grown=True)), after=52 * HOUR)
        self._step("removal", self._remove_snapshot, after=HOUR)
        self._step(
            "blueprints 6",
            lambda: self._take("blueprints", blueprints(ids, new=True, grown=True), warnings=("bad page 7",)),
            after=HOUR,
        )
        self._step("mark", self._mark, after=HOUR)
        self._step("killed again", lambda: self._killed("blueprints", 9), after=HOUR)

    def _step(self, name: str, do: Callable[[], object], *, after: timedelta = timedelta(0)) -> None:
        self.clock.pass_(after)
        before = {item.name for item in self.store.list("")}
        do()
        now = {item.name for item in self.store.list("")}
        self.made[name] = sorted(now - before)

    def _init(self) -> None:
        secrets = [(PASSPHRASE, SecretKind.PASSPHRASE), (RECOVERY_KEY, SecretKind.RECOVERY)]
        create_repository(self.store, secrets, clock=self.clock, origin=self._origin("init"))

    def _origin(self, note: str) -> Origin:
        return Origin(created=self.clock.now(), host="db1", user="postgres", note=note)

    def _take(
        self, source: str, items: Iterable[Reading], *, host: str = "db1", warnings: tuple[str, ...] = ()
    ) -> None:
        step = f"{source} {len(self.snapshots) + 1}"
        self.given[step] = [(entry, b"".join(map(bytes, blocks))) for entry, blocks in items]
        with SnapshotWriter(self.open(), workers=1, host=host) as writer:
            for entry, content in self.given[step]:
                writer.add(entry, [content] if content else [])
            label = f"{source}_{self.clock.now():%Y%m%d_%H%M%S}"
            about = About(
                label=label,
                source=source,
                source_type="postgres" if source == "tracker" else "files",
                started=self.clock.now(),
                host=host,
                holdfast_version=__version__,
                warnings=warnings,
                facts=facts().to_json() if source == "tracker" else {},
            )
            self.clock.pass_(timedelta(seconds=9))
            self.snapshots[step] = writer.publish(about)

    def _killed(self, source: str, seed: int) -> None:
        """It dies when the packs are there, and before the index object: nothing names what it uploaded."""
        index = Fault(kind=FaultKind.KILL, operation=Operation.PUT, matches=lambda name: name.startswith("index/"))
        ended = Fault(kind=FaultKind.KILL, operation=Operation.DELETE)
        repository = self.open(FaultyStore(self.store, index, ended, clock=self.clock))
        about = About(
            label="never", source=source, source_type="files", started=self.clock.now(), host="db2",
            holdfast_version=__version__, warnings=(), facts={},
        )  # fmt: skip
        try:
            with SnapshotWriter(repository, workers=1, host="db2") as writer:
                for entry, blocks in readings({"never": noise(5_000, seed)}):
                    writer.add(entry, blocks)
                writer.publish(about)
        except Killed:
            return
        raise AssertionError("it lived")

    def _add(self, secret: str, note: str) -> None:
        add_key(self.open(), secret, self._origin(note))

    def _remove_key(self) -> None:
        repository = self.open()
        ring = read_keyring(repository)
        key = next(key for key in ring.keys if key.name == self.one("added", "keys/"))
        in_use = [opened_by(repository, ring, PASSPHRASE)]
        remove_key(repository, key, in_use, when=self.clock.now(), host="db1")

    def _note_damage(self) -> None:
        """A disk lost a bit of a drawing; a verification finds it; the next backup stores the drawing again."""
        name = self.one("blueprints 2", "data/")
        place = self.place(noise(9_000, 4), name)
        data = bytearray(self.store.get(name))
        data[place.part.offset + 4_000] ^= 1
        self.store.put(name, data)
        found = verify_repository(self.open())
        assert {touched.path for touched in found.touched} == {PLAN}

    def _remove_snapshot(self) -> None:
        self.removed_record = self.store.get(self.one("tracker 1", "snapshots/"))
        remove_snapshot(self.open(), self.snapshots["tracker 1"], host="db1", why="expired")

    def _mark(self) -> None:
        self.open().put_object(Kind.MARK, encode_mark([self.ref("killed", "data/"), self.ref("killed", "meta/")]))
