"""Every job, met by a fault at each of its store calls: nothing is lost, and nothing is claimed that is not so.

Everything in small (:func:`tests.repository.machines.make_small`), in one thread a job, so that calls come in one
order. A kill ends the process: not one more call is made, none to tidy up. A *lie* (bytes cut, flipped, vanished, a
listing cut short) may end a job with an error that has a name, or change nothing; it never makes a restore give other
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast.clock import SystemClock
from holdfast.entry import EntryKind
from holdfast.errors import HoldfastError, WrongPassphrase
from holdfast.filesystem.write import FolderWriter
from holdfast.repository.index import encode_index
from holdfast.repository.index_loading import load_index
from holdfast.repository.keys import Keys, SecretKind, new_keys
from holdfast.repository.objects import REPOSITORY_OBJECT, Kind
from holdfast.repository.opening import create_repository, open_repository
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.removing import remove_snapshot
from holdfast.repository.repository import Records, Repository
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.verify import Verification, verify_repository
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind, FaultyStore, Killed
from holdfast.store.memory import MemoryStore
from tests.repository.clocks import HandClock
from tests.repository.machines import Job, Machine, make_small
from tests.repository.making import SECRET, noise, restore, take
from tests.repository.pruner import mark_unneeded, sweep

FAULTS = (FaultKind.KILL, FaultKind.KILL_AFTER, FaultKind.FAIL, FaultKind.LOSE_RESPONSE)
CONTENTS: dict[str, dict[str, bytes]] = {
    label: {f"base/{number}": noise(3_000 + number, number) for number in numbers}
    for label, numbers in {"one": range(6), "two": range(3, 9), "three": range(12), "new": range(5, 15)}.items()
}
thoroughly = pytest.mark.parametrize(
    "every", [pytest.param(4, id="sample"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


class Ground:
    """A repository as it was before the job, to be had again and again."""

    def __init__(self, folder: Path) -> None:
        self.clock = HandClock()
        self.store = MemoryStore(clock=self.clock)
        self.keys: Keys = new_keys()
        self.folder = folder
        self._objects: dict[str, Any] = {}

    def keep(self) -> None:
        self._objects = dict(self.store._objects)

    @property
    def before(self) -> set[str]:
        return set(self._objects)

    def restart(self) -> None:
        self.store._objects = dict(self._objects)

    def honest(self) -> Repository:
        return Repository(self.store, self.keys, clock=self.clock)

    def run(self, work: Callable[[Repository], Any], fault: Fault | None = None) -> Job[Any]:
        machine = Machine("db1", self.folder)
        machine.clock.pass_(self.clock.now() - machine.clock.now())
        job: Job[Any] = Job(
            "job",
            machine,
            lambda job: work(job.repository),
            store=self.store,
            keys=self.keys,
            store_clock=self.clock,
            fault=fault,
        )
        assert job.run()
        if job.error is not None and not isinstance(job.error, (HoldfastError, Killed)):
            raise job.error
        return job

    def pass_(self, hours: float) -> None:
        self.clock.pass_(timedelta(hours=hours))

    def retained(self, *but: str) -> Records:
        """All records can be read, none is missed, and all snapshots, ``but`` those that may be gone, restore."""
        records = self.honest().records()
        assert not records.problems
        assert not records.missing
        labels = [snapshot.label for snapshot in records.snapshots]
        assert {"one", "two", "three"} - set(but) <= set(labels)
        for snapshot in records.snapshots:
            assert restore(self.honest(), snapshot) == CONTENTS[snapshot.label]
        return records


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    made = Ground(tmp_path)
    for label in ("one", "two", "three"):
        take(made.honest(), CONTENTS[label], label)
    made.keep()
    return made


@dataclass(frozen=True)
class Trial:
    work: Callable[[Repository], Any]
    judge: Callable[[Ground, Job[Any]], None]
    prepare: Callable[[Ground], None] = lambda _ground: None


def labelled(repository: Repository, label: str) -> Snapshot:
    return next(snapshot for snapshot in repository.records().snapshots if snapshot.label == label)


def back_up(repository: Repository) -> Snapshot:
    return take(repository, CONTENTS["new"], "new", workers=1)


def judge_backup(ground: Ground, job: Job[Any]) -> None:
    labels = [snapshot.label for snapshot in ground.retained().snapshots]
    assert job.error is not None or "new" in labels, "claimed success"
    again = take(ground.honest(), CONTENTS["new"], "new")
    assert restore(ground.honest(), again) == CONTENTS["new"]


def with_marks(ground: Ground) -> None:
    """What the new snapshot would reuse is marked, all but deleted, and partly needed again."""
    remove_snapshot(ground.honest(), labelled(ground.honest(), "three"), host="", why="a test")
    ground.pass_(25)
    mark_unneeded(ground.honest(), repack_below=0.9)
    ground.pass_(24)


def judge_beside_marks(ground: Ground, job: Job[Any]) -> None:
    labels = [snapshot.label for snapshot in ground.retained("three").snapshots]
    assert job.error is not None or "new" in labels, "claimed success"
    sweep(ground.honest())
    ground.retained("three")


def with_much_to_merge(ground: Ground) -> None:
    loaded = load_index(ground.honest())
    for directory in loaded.index.directories():
        ground.honest().put_object(Kind.INDEX, encode_index([directory]))
    loaded.index.close()


def judge_compaction(ground: Ground, job: Job[Any]) -> None:
    merged = len(list(ground.store.list(Kind.INDEX.prefix))) < 4
    assert merged or job.error is not None or job.fault is not None
    loaded = load_index(ground.honest())
    assert not ground.before & {directory.pack.name for directory in loaded.learned}, "what was indexed, is"
    loaded.index.close()
    judge_backup(ground, job)


def remove_one(repository: Repository) -> None:
    remove_snapshot(repository, labelled(repository, "one"), host="db1", why="a test")


def judge_removal(ground: Ground, job: Job[Any]) -> None:
    records = ground.retained("one")
    labels = [snapshot.label for snapshot in records.snapshots]
    assert job.error is not None or "one" not in labels, "claimed success"
    assert ("one" in labels) == (not records.removals)
    if "one" in labels:
        remove_one(ground.honest())
    assert {snapshot.label for snapshot in ground.retained("one").snapshots} == {"two", "three"}


def with_something_unneeded(ground: Ground) -> None:
    remove_one(ground.honest())
    remove_snapshot(ground.honest(), labelled(ground.honest(), "three"), host="", why="a test")
    ground.pass_(25)


def mark_most(repository: Repository) -> None:
    mark_unneeded(repository, repack_below=0.9)


def judge_marking(ground: Ground, job: Job[Any]) -> None:
    ground.retained("one", "three")
    ground.pass_(25)
    sweep(ground.honest())
    ground.retained("one", "three")


def with_old_marks(ground: Ground) -> None:
    """Some of what they name is needed again."""
    with_something_unneeded(ground)
    assert mark_unneeded(ground.honest(), repack_below=0.9).packs
    ground.pass_(25)


def judge_sweep(ground: Ground, job: Job[Any]) -> None:
    ground.retained("one", "three")
    sweep(ground.honest())
    assert job.error is None or not list(ground.store.list(Kind.MARK.prefix)), "the next one ends what this began"
    ground.retained("one", "three")
    assert not verify_repository(ground.honest()).touched


def with_damage(ground: Ground) -> None:
    name = min(listed.name for listed in ground.store.list("data/"))
    spoilt = bytearray(ground.store.get(name))
    spoilt[100] ^= 1
    ground.store.put(name, spoilt)


def judge_verification(ground: Ground, job: Job[Any]) -> None:
    if job.error is None:
        assert isinstance(job.result, Verification)
        assert not job.result.good, "claimed that all is well"
        assert job.result.touched
    assert verify_repository(ground.honest()).touched
    healed = take(ground.honest(), CONTENTS["three"], "three")
    assert restore(ground.honest(), healed) == CONTENTS["three"], "what is noted is stored again"
    ground.retained()


def judge_listing(ground: Ground, job: Job[Any]) -> None:
    if job.error is None:
        assert isinstance(job.result, Records)
        assert {snapshot.label for snapshot in job.result.snapshots} == {"one", "two", "three"}
        assert not job.result.missing
    ground.retained()


TRIALS = {
    "backup": Trial(back_up, judge_backup),
    "backup-beside-marks": Trial(back_up, judge_beside_marks, with_marks),
    "backup-and-compaction": Trial(back_up, judge_compaction, with_much_to_merge),
    "removal": Trial(remove_one, judge_removal),
    "mark": Trial(mark_most, judge_marking, with_something_unneeded),
    "sweep": Trial(sweep, judge_sweep, with_old_marks),
    "verify": Trial(verify_repository, judge_verification, with_damage),
    "list": Trial(Repository.records, judge_listing),
}  # fmt: skip


@thoroughly
@pytest.mark.parametrize("name", TRIALS)
def test_a_fault_at_every_call(ground: Ground, name: str, every: int) -> None:
    trial = TRIALS[name]
    trial.prepare(ground)
    ground.keep()
    whole = ground.run(trial.work)
    assert whole.error is None
    trial.judge(ground, whole)
    now = ground.clock.now()
    for offset, kind in enumerate(FAULTS):
        for position in range(1 + offset % every, whole.calls + 1, every):
            ground.restart()
            ground.clock.pass_(now - ground.clock.now())
            try:
                trial.judge(ground, ground.run(trial.work, Fault(kind=kind, first=position, times=1)))
            except Exception as error:
                raise AssertionError(f"{kind} at call {position} of {whole.calls}") from error


@thoroughly
def test_a_fault_at_every_call_of_init(every: int) -> None:
    def attempt(*faults: Fault) -> tuple[MemoryStore, FaultyStore, BaseException | None]:
        store = MemoryStore(clock=SystemClock())
        faulty = FaultyStore(store, *faults, clock=SystemClock())
        try:
            create_repository(faulty, [(SECRET, SecretKind.PASSPHRASE)], clock=SystemClock())
        except (HoldfastError, Killed) as error:
            return store, faulty, error
        return store, faulty, None

    calls = len(attempt()[1].calls)
    assert calls > 5
    for kind in FAULTS:
        for position in range(1, calls + 1):
            store, _faulty, error = attempt(Fault(kind=kind, first=position, times=1))
            there = any(listed.name == REPOSITORY_OBJECT for listed in store.list(""))
            assert there or error is not None, (kind, position, "claimed success")
            if not there:
                create_repository(store, [(SECRET, SecretKind.PASSPHRASE)], clock=SystemClock())
            repository = open_repository(store, SECRET, pin=None, clock=SystemClock())
            snapshot = take(repository, CONTENTS["one"])
            assert restore(repository, snapshot) == CONTENTS["one"], (kind, position)
            with pytest.raises(WrongPassphrase):
                open_repository(store, "another", pin=None, clock=SystemClock())


# What is restored.


def lies(position: int, operation: Operation, seed: int) -> Iterator[Fault]:
    common: dict[str, Any] = {"operation": operation, "first": position, "times": 1}
    yield Fault(kind=FaultKind.VANISH, **common)
    yield Fault(kind=FaultKind.FAIL, **common)
    yield Fault(kind=FaultKind.LOSE_RESPONSE, **common)
    for keep in (0, 1, 49, 300):
        yield Fault(kind=FaultKind.TRUNCATE, keep=keep, **common)
    if operation is Operation.GET:
        for bit in (0, 8 * 20, 8 * 100 + 3, 99_991 * (seed + position)):
            yield Fault(kind=FaultKind.FLIP, bit=bit, **common)


def stale(ground: Ground) -> None:
    """Most hints point to what is no more."""
    ground.pass_(25)
    mark_unneeded(ground.honest(), repack_below=2.0)
    ground.pass_(25)
    assert sweep(ground.honest()).deleted


@thoroughly
@pytest.mark.parametrize("prepare", [lambda _ground: None, stale], ids=["hints", "stale"])
def test_a_lie_at_every_call_of_a_restore(
    ground: Ground, prepare: Callable[[Ground], None], tmp_path: Path, every: int
) -> None:
    """Listing the records too: what is restored is what was asked for, byte for byte, or there is an error."""
    prepare(ground)
    ground.keep()

    def bring_back(repository: Repository) -> Mapping[str, bytes]:
        return restore(repository, labelled(repository, "two"))

    counting = FaultyStore(ground.store, clock=ground.clock)
    assert bring_back(Repository(counting, ground.keys, clock=ground.clock)) == CONTENTS["two"]
    ended = {"right": 0, "named": 0}
    for operation in (Operation.GET, Operation.LIST):
        calls = sum(call.operation is operation for call in counting.calls)
        for position in range(1, calls + 1):
            for number, fault in enumerate(lies(position, operation, position)):
                if (position + number) % every == 0:
                    faulty = FaultyStore(ground.store, fault, clock=ground.clock)
                    try:
                        got = bring_back(Repository(faulty, ground.keys, clock=ground.clock))
                    except (HoldfastError, StopIteration):
                        ended["named"] += 1
                        continue
                    assert got == CONTENTS["two"], (fault, "wrong bytes")
                    ended["right"] += 1
    assert all(ended.values()), ended


@thoroughly
def test_lies_that_do_not_stop(ground: Ground, every: int) -> None:
    """From some call on, the store lies for good."""
    repository = ground.honest()
    snapshot = labelled(repository, "two")
    counting = FaultyStore(ground.store, clock=ground.clock)
    restore(Repository(counting, ground.keys, clock=ground.clock), snapshot)
    for position in range(1, len(counting.calls) + 1, every):
        for fault in lies(position, Operation.GET, position):
            forever = Fault(kind=fault.kind, operation=Operation.GET, first=position, keep=fault.keep, bit=fault.bit)
            faulty = FaultyStore(ground.store, forever, clock=ground.clock)
            try:
                got = restore(Repository(faulty, ground.keys, clock=ground.clock), snapshot)
            except HoldfastError:
                continue
            assert got == CONTENTS["two"], (forever, "wrong bytes")


@thoroughly
def test_a_restore_into_a_folder_killed_at_every_call(ground: Ground, tmp_path: Path, every: int) -> None:
    """An unfinished folder says so; one that does not say so is complete."""

    def bring_back(target: Path) -> Callable[[Repository], None]:
        def work(repository: Repository) -> None:
            reader = SnapshotReader(repository)
            snapshot = labelled(repository, "two")
            with reader.leased(work="restore", host="db1"), FolderWriter(target) as folder:
                folder.begin()
                wanted = []
                for stored in reader.entries(snapshot):
                    if stored.entry.kind is EntryKind.DIRECTORY:
                        folder.directory(stored.entry)
                    else:
                        wanted.append((stored.content, folder.file(stored.entry)))
                reader.deliver(wanted)
                folder.settle(stored.entry for stored in reader.entries(snapshot))
                folder.finish()

        return work

    calls = ground.run(bring_back(tmp_path / "whole")).calls
    for kind in FAULTS:
        for position in range(1, calls + 1, every):
            ground.restart()
            target = tmp_path / f"{kind}{position}"
            job = ground.run(bring_back(target), Fault(kind=kind, first=position, times=1))
            found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
            if job.error is None:
                assert found == CONTENTS["two"], (kind, position)
            else:
                says_so = not found or found.keys() - CONTENTS["two"].keys()
                assert says_so or found == CONTENTS["two"], (kind, position)
    ground.retained()
