"""A little world of machines that back up to one store and prune it, in an order that a seed decides.

What must hold after each step: every snapshot that was published (``publish`` returned, or its record is listed) and
that nobody removed on purpose is there, and restores with exactly what was put in; no record is missed.

Machines have clocks of their own, which are stepped and stand still; jobs are held for days in the middle, and killed;
listings come cut short, and late; marks are forged; what a machine remembers is lost.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from holdfast.errors import Damaged, HoldfastError, Refused
from holdfast.repository.compaction import compact_index
from holdfast.repository.ids import new_object_id
from holdfast.repository.index_loading import load_index
from holdfast.repository.keys import new_keys
from holdfast.repository.marks import encode_mark
from holdfast.repository.objects import PACK_KINDS, Kind, ObjectRef, parse_name
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.removing import remove_snapshot
from holdfast.repository.repository import Records, Repository
from holdfast.repository.sealing import seal_object
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.writer import SnapshotWriter
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind, Killed
from holdfast.store.memory import MemoryStore
from tests.repository.clocks import HandClock
from tests.repository.machines import Job, Machine, Weather
from tests.repository.making import about, noise, readings, restore, restore_with
from tests.repository.pruner import mark_unneeded, sweep

Files = Mapping[str, bytes]
Turn = tuple[str, str, int]
"""An operation, a prefix, and which call of that kind."""

STEPS_OF_TIME = tuple(timedelta(hours=hours) for hours in (0.02, 0.4, 2, 7, 11.9, 12.1, 13, 24, 25, 30))
HELD = {"backup": 0.75, "restore": 0.7, "removal": 0.4, "marking": 0.25, "sweep": 0.6, "compaction": 0.5}
"""How likely a job is held, before it has made so many calls …"""
CALLS = {"backup": 70, "restore": 20, "removal": 1, "marking": 40, "sweep": 60, "compaction": 15}
"""… or, as often, before one of these."""
TURNS = (
    *(("put", prefix) for prefix in ("leases/", "index/", "snapshots/", "snapshots/", "snapshots/", "marks/")),
    *(("list", prefix) for prefix in ("marks/", "data/", "snapshots/", "index/")),
    *(("delete", prefix) for prefix in ("data/", "meta/", "meta/", "index/", "marks/")),
)
MOST_JOBS = 4
MOST_SNAPSHOTS = 7


class World:
    def __init__(self, seed: int, folder: Path) -> None:
        self.chance = random.Random(seed)
        self.clock = HandClock()
        self.store = MemoryStore(clock=self.clock)
        self.keys = new_keys()
        self.foreign = new_keys(self.keys.id_secret)
        self.weather = Weather(self.store, self.clock, self.chance)
        self.machines = [Machine(name, folder) for name in ("db1", "db2", "keeper")]
        self.jobs: list[Job[Any]] = []
        self.written: dict[str, tuple[Files, Job[Snapshot]]] = {}
        """By label: what was put in, and by whom."""
        self.published: dict[str, str] = {}
        """Id to label of every snapshot that a writer claimed."""
        self.unneeded: list[int] = []
        """What the last snapshot whose removal was asked for held."""
        self.turns: dict[str, Turn] = {}
        self.asked_for: set[str] = set()
        """Ids of snapshots whose removal was asked for."""
        self.pool = [noise(size, number) for number, size in enumerate((300, 900, 2000, 4096, 4097, 9000) * 5)]
        self._records: tuple[frozenset[str], Records] | None = None
        self.seen = Counter[str]()
        self.told: list[str] = []
        """What happened, for whoever must understand a failure."""

    # What may happen next.

    def step(self) -> None:
        action = self.chance.choices(*zip(*self._actions(), strict=True))[0]
        self._tell(action.__name__.strip("_"))
        action()

    def _actions(self) -> Iterator[tuple[Callable[[], object], float]]:
        if len(self.jobs) < MOST_JOBS - 1:
            yield self._writer_meets_prune, 5
        if len(self.jobs) < MOST_JOBS:
            yield self._begin_backup, 12
            yield self._begin_restore, 3
            yield self._begin_removal, 4 if len(self.retained()) > 2 else 0
            yield self._begin_marking, 7
            yield self._begin_sweep, 7
            yield self._begin_compaction, 3
        if self._able():
            yield self._go_on_a_little, 14
            yield self._go_on_to_the_end, 9
            yield self._kill, 2
        yield self._time_passes, 12
        yield self._clock_is_stepped, 1
        yield self._clocks_are_right_again, 3
        yield self._machine_is_paused_or_not, 2
        yield self._mark_is_forged, 1
        yield self._state_is_lost, 1
        yield self._listings_lag_or_not, 2

    def _begin_backup(self) -> Job[Any]:
        if len(self.retained()) >= MOST_SNAPSHOTS:
            self._begin_removal()
        label = f"s{len(self.written)}"
        chosen = self._some_contents()
        files = {f"base/{number}": self.pool[number] for number in chosen}

        def back_up(job: Job[Snapshot]) -> Snapshot:
            with SnapshotWriter(job.repository, workers=1, host=job.machine.name) as writer:
                for entry, content in readings(files):
                    writer.add(entry, content)
                    job.pause()
                return writer.publish(about(label))

        job = self._begin("backup", self._machine(), back_up)
        self.written[label] = (files, job)
        self._go(job)
        return job

    def _some_contents(self) -> set[int]:
        """Often what a snapshot held that is removed by now: only so is anything reused that nothing needs."""
        chosen = set(self.chance.sample(range(len(self.pool)), self.chance.randint(1, 6)))
        if self.chance.random() < 0.7:
            chosen |= set(self.chance.sample(self.unneeded, min(len(self.unneeded), 4)))
        return chosen

    def _begin_restore(self) -> None:
        snapshot = self._any_snapshot()
        if snapshot is None:
            return
        files = self.written[snapshot.label][0]

        def bring_back(job: Job[bool]) -> bool:
            reader = SnapshotReader(job.repository)
            with reader.leased(work="restore", host=job.machine.name):
                job.pause()
                return restore_with(reader, snapshot) == files

        self._go(self._begin("restore", self._machine(), bring_back))

    def _begin_removal(self) -> None:
        snapshot = self._any_snapshot()
        if snapshot is None:
            return
        self.asked_for.add(snapshot.id)
        self.unneeded = [int(path.rpartition("/")[2]) for path in self.written[snapshot.label][0]]

        def remove(job: Job[None]) -> None:
            remove_snapshot(job.repository, snapshot, host=job.machine.name, why="the model wanted it")

        self._go(self._begin("removal", self._machine(), remove))

    def _begin_marking(self) -> None:
        below = self.chance.choice((0.0, 0.5, 0.95))

        def mark(job: Job[None]) -> None:
            marked = mark_unneeded(job.repository, host=job.machine.name, repack_below=below)
            self.seen.update(marked=len(marked.packs), repacked=marked.repacked)

        self._go(self._begin("marking", self._pruner(), mark))

    def _begin_sweep(self) -> Job[Any]:
        def clean(job: Job[None]) -> None:
            swept = sweep(job.repository, host=job.machine.name)
            self.seen.update(deleted=len(swept.deleted), saved=swept.copied, unmarked=swept.marks)

        job = self._begin("sweep", self._pruner(), clean)
        self._go(job)
        return job

    def _begin_compaction(self) -> None:
        def compact(job: Job[None]) -> None:
            loaded = load_index(job.repository)
            try:
                self.seen["compacted"] += compact_index(job.repository, loaded)
            finally:
                loaded.index.close()

        self._go(self._begin("compaction", self._machine(), compact))

    def _go_on_a_little(self) -> None:
        self._go(self._waiting(), calls=self.chance.randint(1, 12))

    def _go_on_to_the_end(self) -> None:
        self._go(self._waiting(), calls=float("inf"))

    def _kill(self) -> None:
        job = self._waiting()
        job.disturbed = True
        job.kill()
        self._judge(job)

    def _time_passes(self) -> None:
        self._pass(self.chance.choice(STEPS_OF_TIME))

    def _pass(self, time: timedelta) -> None:
        self._tell(f"  {time}")
        self.clock.pass_(time)
        for machine in self.machines:
            if not machine.paused:
                machine.clock.pass_(time)
        for job in self.jobs:
            job.disturbed = True

    def _clock_is_stepped(self) -> None:
        self._machine().clock.step(timedelta(hours=self.chance.uniform(-40, 40)))

    def _clocks_are_right_again(self) -> None:
        for machine in self.machines:
            machine.clock.step(self.clock.now() - machine.clock.now())

    def _machine_is_paused_or_not(self) -> None:
        paused = next((machine for machine in self.machines if machine.paused), None)
        if paused is None:
            self.machines[self.chance.randrange(2)].paused = True
        else:
            paused.paused = False

    def _mark_is_forged(self) -> None:
        packs = [ref for kind in PACK_KINDS for one in self.store.list(kind.prefix) if (ref := parse_name(one.name))]
        forged = ObjectRef(Kind.MARK, new_object_id())
        genuine = [one.name for one in self.store.list(Kind.MARK.prefix)]
        contents = [
            self.chance.randbytes(200),
            seal_object(self.foreign.master, forged, encode_mark(packs)),
            seal_object(replace(self.foreign.master, secret=self.keys.master.secret), forged, encode_mark(packs)),
            self.store.get(self.chance.choice(genuine)) if genuine else b"",
        ]
        self.store.put(forged.name, self.chance.choice(contents))

    def _state_is_lost(self) -> None:
        shutil.rmtree(self._machine().state, ignore_errors=True)

    def _listings_lag_or_not(self) -> None:
        if self.weather.lag:
            self.weather.lag = timedelta(0)
            return
        prefixes = [kind.prefix.rstrip("/") for kind in Kind if kind is not Kind.LEASE or self.chance.random() < 0.1]
        self.weather.lagging = frozenset(self.chance.sample(prefixes, self.chance.randint(1, len(prefixes))))
        self.weather.lag = timedelta(seconds=self.chance.uniform(1, 7200))
        for job in self.jobs:
            job.disturbed = True

    def _writer_meets_prune(self) -> None:
        """What chance alone would seldom bring about: a writer held for days, and a sweep held while it goes on."""
        self._begin_removal()
        self._days_pass()
        self._hold("backup", ("put", "snapshots/", 1), ("put", "leases/", 2), ("", "", self.chance.randint(1, 8)))
        writer = self._begin_backup()
        self._begin_marking()
        if self.chance.random() < 0.3:
            self._begin_compaction()
        if self.chance.random() < 0.3:
            self._go_on(writer, self.chance.randint(1, 20))
        self._days_pass()
        self._hold("sweep", ("delete", "data/", 1), ("delete", "meta/", 1), ("delete", "index/", 1))
        sweeper = self._begin_sweep()
        if self.chance.random() < 0.3:
            self._go_on(sweeper, self.chance.randint(1, 20))
        self._go_on(writer)
        self._go_on(sweeper)

    def _hold(self, kind: str, *turns: Turn) -> None:
        """Where the next job of that kind is likely to be held."""
        if self.chance.random() < 0.7:
            self.turns[kind] = self.chance.choice(turns)

    def _go_on(self, job: Job[Any] | None, calls: float = float("inf")) -> None:
        if job in self._able():
            self._go(job, calls=calls)

    def _days_pass(self) -> None:
        self._pass(timedelta(hours=self.chance.choice((24, 25, 36))))

    # Jobs.

    def _begin(self, kind: str, machine: Machine, work: Callable[[Job[Any]], Any]) -> Job[Any]:
        job: Job[Any] = Job(
            kind, machine, work, store=self.weather, keys=self.keys, store_clock=self.clock, fault=self._fault()
        )
        job.disturbed |= bool(self.weather.lag)
        self.jobs.append(job)
        return job

    def _fault(self) -> Fault | None:
        if self.chance.random() > 0.15:
            return None
        first = self.chance.randint(1, 40)
        kinds = (FaultKind.KILL, FaultKind.KILL_AFTER, FaultKind.FAIL, FaultKind.LOSE_RESPONSE)
        listing, bit = first % 12 + 1, self.chance.randrange(9999)
        keep = self.chance.randint(0, 6)
        faults = [Fault(kind=kind, first=first, times=1) for kind in kinds]
        faults += 2 * [Fault(kind=FaultKind.TRUNCATE, operation=Operation.LIST, first=listing, times=1, keep=keep)]
        faults += [
            Fault(kind=FaultKind.FLIP, operation=Operation.GET, first=first, times=1, bit=bit),
            Fault(kind=FaultKind.FLIP, operation=Operation.GET, matches=_of_marks, times=1, bit=bit),
        ]
        return self.chance.choice(faults)

    def _go(self, job: Job[Any], *, calls: float | None = None) -> None:
        turn = self.turns.pop(job.kind, None)
        if calls is None:
            calls = float("inf")
            if turn is None and self.chance.random() < HELD[job.kind]:
                turn = (*self.chance.choice(TURNS), self.chance.randint(1, 3))
                if self.chance.random() < 0.5:
                    calls, turn = self.chance.randint(1, CALLS[job.kind]), None
        where = f"to {turn}" if turn else f"{calls} calls"
        fault = f"{job.fault.kind} at {job.fault.first}" if job.fault else "no fault"
        self._tell(f"  {job.kind} on {job.machine.name}, {where} from call {job.calls}, {fault}")
        if not job.machine.paused and job.run(calls, before=_reaching(turn)):
            self._judge(job)

    def _judge(self, job: Job[Any]) -> None:
        """A job ends with what it was to do, or with an error that has a name."""
        self.jobs.remove(job)
        error = job.error
        self._tell(f"  {job.kind} ended: {error!r}")
        self.seen[f"{job.kind} {type(error).__name__ if error else 'done'}"] += 1
        if error is None:
            assert job.result is not False, f"{job.kind} gave back something else"
            if job.kind == "backup":
                assert job.result is not None
                self.published[job.result.id] = job.result.label
            return
        if not isinstance(error, (HoldfastError, Killed)):
            raise error
        skewed = isinstance(error, Refused) and "clocks" in str(error)
        assert job.disturbed or skewed or self._doubtful(), f"{job.kind} failed for no reason: {error!r}"

    def _waiting(self) -> Job[Any]:
        return self.chance.choice(self._able())

    def _able(self) -> list[Job[Any]]:
        return [job for job in self.jobs if not job.machine.paused]

    def _machine(self) -> Machine:
        return self.chance.choice(self.machines)

    def _pruner(self) -> Machine:
        return self.machines[2] if self.chance.random() < 0.7 else self._machine()

    def _any_snapshot(self) -> Snapshot | None:
        retained = self.retained()
        return self.chance.choice(retained) if retained else None

    def _tell(self, what: str) -> None:
        self.told.append(what)

    # What must hold.

    def honest(self) -> Repository:
        """The repository as it is, seen by somebody who never saw it before."""
        return Repository(self.store, self.keys, clock=self.clock)

    def records(self) -> Records:
        """Objects never change, so what has the same names is the same."""
        names = frozenset(one.name for kind in (Kind.SNAPSHOT, Kind.REMOVAL) for one in self.store.list(kind.prefix))
        if self._records is None or self._records[0] != names:
            self._records = (names, self.honest().records())
        return self._records[1]

    def retained(self) -> list[Snapshot]:
        return [snapshot for snapshot in self.records().snapshots if not self._not_confirmed(snapshot.label)]

    def _not_confirmed(self, label: str) -> bool:
        """A record that came too late to be relied on, whose writer has not said so yet, or was killed before."""
        job = self.written[label][1]
        return job.late and (not job.done or job.error is not None)

    def _doubtful(self) -> list[Snapshot]:
        return [snapshot for snapshot in self.records().snapshots if self._not_confirmed(snapshot.label)]

    def check(self, *, everything: bool) -> None:
        records = self.records()
        assert not records.problems
        assert not records.missing, "a record went without its removal being recorded"
        there = {snapshot.id for snapshot in records.snapshots}
        removed = {removal.id for removal in records.removals}
        withdrawn = removed - self.asked_for
        assert not withdrawn & self.published.keys(), "a published snapshot was withdrawn"
        assert self.published.keys() <= there | removed, "a published snapshot is gone"
        retained = self.retained()
        chosen = retained if everything else self.chance.sample(retained, min(1, len(retained)))
        for snapshot in chosen:
            self._restores(snapshot)

    def _restores(self, snapshot: Snapshot) -> None:
        self.seen["checked"] += 1
        files = self.written[snapshot.label][0]
        assert restore(self.honest(), snapshot) == files, f"{snapshot.label} restores to something else"

    def clear_doubts(self) -> None:
        """The operator removes what says by itself that it cannot be restored."""
        for snapshot in self._doubtful():
            job = self.written[snapshot.label][1]
            if not job.done:
                continue
            try:
                self._restores(snapshot)
            except Damaged:
                self.seen["unconfirmed and lost"] += 1
                self.asked_for.add(snapshot.id)
                remove_snapshot(self.honest(), snapshot, host="operator", why="never confirmed")

    def end(self) -> None:
        """Everything comes to its end, and prune leaves nothing behind that nothing needs."""
        for machine in self.machines:
            machine.paused = False
        for job in list(self.jobs):
            job.run()
            self._judge(job)
        self.weather.lag = timedelta(0)
        self.clear_doubts()
        for _round in range(2):
            self.clock.pass_(timedelta(hours=50))
            mark_unneeded(self.honest(), repack_below=0)
            self.clock.pass_(timedelta(hours=25))
            sweep(self.honest())
        self.check(everything=True)
        assert not mark_unneeded(self.honest(), repack_below=0).packs


def _of_marks(name: str) -> bool:
    return name.startswith(Kind.MARK.prefix)


def _reaching(turn: Turn | None) -> Callable[[str, str], bool]:
    """True at the so-manieth call of that kind."""
    left = turn[2] if turn else 0

    def reached(operation: str, name: str) -> bool:
        nonlocal left
        if turn is None or operation != turn[0] or not name.startswith(turn[1]):
            return False
        left -= 1
        return left == 0

    return reached
