"""A writer and prune, step by step: each way in which they can meet, by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import Refused, StoreUnreachable, TryLater
from holdfast.repository import packing
from holdfast.repository.hints import detach
from holdfast.repository.ids import new_object_id
from holdfast.repository.keys import new_keys
from holdfast.repository.marks import DELETED_AFTER, encode_mark
from holdfast.repository.objects import PACK_KINDS, Kind, ObjectRef, parse_name
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.removing import remove_snapshot
from holdfast.repository.repository import Repository
from holdfast.repository.sealing import seal_object
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.trees import load_content
from holdfast.repository.versions import demand_writer
from holdfast.repository.watch import READ_EVERY, SLEPT_AFTER
from holdfast.repository.writer import SnapshotWriter
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind, FaultyStore
from holdfast.store.memory import MemoryStore
from tests.repository.clocks import HandClock
from tests.repository.machines import Job, Machine, make_small
from tests.repository.making import about, noise, readings, restore, restore_with
from tests.repository.pruner import mark_unneeded, sweep

OLD = {f"base/{number}": noise(9_000, number) for number in range(6)}
NEW = {f"base/{number}": noise(9_000, 100 + number) for number in range(6)}
HOUR = timedelta(hours=1)


class Site:
    """One store, one machine with a clock of its own, and prune on a machine whose clock is right."""

    def __init__(self, folder: Path) -> None:
        self.clock = HandClock()
        self.store = MemoryStore(clock=self.clock)
        self.keys = new_keys()
        self.machine = Machine("db1", folder)
        self.jobs: list[Job[Any]] = []

    def pass_(self, time: timedelta, *, asleep: bool = False) -> None:
        """``asleep``: the machine is suspended meanwhile, and its clocks stand still."""
        self.clock.pass_(time)
        if not asleep:
            self.machine.clock.pass_(time)

    def repository(self, store: Any = None) -> Repository:
        return Repository(store or self.store, self.keys, clock=self.clock)

    def take(self, files: Mapping[str, bytes], label: str = "one") -> Snapshot:
        job = self.backup(files, label)
        assert job.run()
        if job.error is not None:
            raise job.error
        assert job.result is not None
        return job.result

    def backup(self, files: Mapping[str, bytes], label: str = "two", *, fault: Fault | None = None) -> Job[Snapshot]:
        """Not begun. It pauses when everything is fed, before anything is published."""

        def work(job: Job[Snapshot]) -> Snapshot:
            with SnapshotWriter(job.repository, workers=1, host="db1") as writer:
                for entry, content in readings(files):
                    writer.add(entry, content)
                job.pause()
                return writer.publish(about(label))

        return self.job("backup", work, fault=fault)

    def job(self, kind: str, work: Callable[[Job[Any]], Any], *, fault: Fault | None = None) -> Job[Any]:
        self.jobs.append(
            Job(kind, self.machine, work, store=self.store, keys=self.keys, store_clock=self.clock, fault=fault)
        )
        return self.jobs[-1]

    def remove(self, snapshot: Snapshot) -> None:
        remove_snapshot(self.repository(), snapshot, host="db1", why="a test")

    def mark(self, *, repack_below: float = 0.0) -> frozenset[ObjectRef]:
        return mark_unneeded(self.repository(), repack_below=repack_below).packs

    def sweep(self) -> frozenset[ObjectRef]:
        return sweep(self.repository()).deleted

    def restores(self, snapshot: Snapshot, files: Mapping[str, bytes]) -> bool:
        return restore(self.repository(), snapshot) == files

    def lose(self, packs: frozenset[ObjectRef]) -> None:
        """What a sweep does that had looked before the writer published."""
        assert packs
        for pack in packs:
            self.store.delete(pack.name)

    def labels(self) -> list[str]:
        records = self.repository().records()
        assert not records.problems
        assert not records.missing
        return [snapshot.label for snapshot in records.snapshots]

    def packs(self) -> set[ObjectRef]:
        return {ref for kind in PACK_KINDS for one in self.store.list(kind.prefix) if (ref := parse_name(one.name))}

    def names(self, kind: Kind) -> list[str]:
        return [listed.name for listed in self.store.list(kind.prefix)]

    def put(self, kind: Kind, content: bytes) -> None:
        self.repository().put_object(kind, content)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    make_small(monkeypatch)
    made = Site(tmp_path)
    yield made
    for job in made.jobs:
        if not job.done:
            job.kill()


def fed(operation: str, _name: str) -> bool:
    return operation == ""


def putting_the_record(operation: str, name: str) -> bool:
    return operation == "put" and name.startswith("snapshots/")


def deleting_a_pack(operation: str, name: str) -> bool:
    return operation == "delete" and name.startswith(("data/", "meta/"))


def unneeded_packs(site: Site) -> Snapshot:
    """Old packs that no snapshot needs, and that nobody has marked yet; the removed snapshot."""
    snapshot = site.take(OLD)
    site.remove(snapshot)
    site.pass_(25 * HOUR)
    return snapshot


def test_what_nothing_needs_is_marked_and_a_day_later_deleted(site: Site) -> None:
    kept = site.take(OLD)
    site.remove(site.take(NEW, "two"))
    assert not site.mark(), "nothing young"
    site.pass_(25 * HOUR)
    marked = site.mark()
    assert marked
    assert not site.sweep(), "not marked long enough ago"
    site.pass_(DELETED_AFTER)
    assert site.sweep() == marked
    assert not site.packs() & marked
    assert not site.names(Kind.MARK), "a mark goes after what it named"
    assert site.restores(kept, OLD)
    assert site.take({**OLD, **NEW}, "three").totals.added_content == sum(map(len, NEW.values()))


def test_a_mark_that_appears_while_a_writer_is_at_work(site: Site) -> None:
    """What it had reused is copied out."""
    unneeded_packs(site)
    writer = site.backup(OLD)
    assert not writer.run(before=fed)
    marked = site.mark()
    assert marked
    site.pass_(HOUR)
    assert writer.run()
    assert writer.error is None
    site.lose(marked)
    assert writer.result is not None
    assert site.restores(writer.result, OLD)


def test_a_writer_that_begins_after_the_mark_reuses_nothing_of_it(site: Site) -> None:
    unneeded_packs(site)
    site.mark()
    assert site.take(OLD, "two").totals.added_content == sum(map(len, OLD.values()))


def test_a_snapshot_published_right_after_the_last_reading(site: Site) -> None:
    """The sweep sees the record, and copies."""
    unneeded_packs(site)
    writer = site.backup(OLD)
    writer.run(before=putting_the_record)
    marked = site.mark()
    assert writer.run()
    site.pass_(DELETED_AFTER)
    site.sweep()
    assert writer.result is not None
    assert not site.packs() & marked
    assert site.restores(writer.result, OLD)


@pytest.mark.parametrize("asleep", [True, False])
def test_own_packs_that_were_marked_while_the_writer_slept(site: Site, asleep: bool) -> None:
    writer = site.backup(NEW)
    writer.run(before=fed)
    own = site.packs()
    assert own
    site.pass_(25 * HOUR, asleep=asleep)
    marked = site.mark()
    assert own <= marked, "its lease is dead, and no snapshot needs them"
    assert writer.run()
    assert writer.error is None
    site.lose(marked)
    assert writer.result is not None
    assert site.restores(writer.result, NEW)


@pytest.mark.parametrize("asleep", [True, False])
@pytest.mark.parametrize("files", [OLD, NEW], ids=["reused", "own"])
def test_packs_that_were_deleted_while_the_writer_slept(site: Site, files: dict[str, bytes], asleep: bool) -> None:
    unneeded_packs(site)
    writer = site.backup(files)
    writer.run(before=fed)
    site.pass_(25 * HOUR, asleep=asleep)
    assert site.mark()
    site.pass_(DELETED_AFTER, asleep=asleep)
    assert site.sweep()
    assert not site.names(Kind.MARK), "the writer learns of it from no mark"
    assert writer.run()
    assert isinstance(writer.error, TryLater)
    assert writer.error.exit_code == 75
    assert site.labels() == []
    assert all("a test" in removal.why for removal in site.repository().records().removals), "nothing to withdraw"
    site.machine.clock.step(site.clock.now() - site.machine.clock.now())
    assert site.restores(site.take(files, "again"), files)


@pytest.mark.parametrize("asleep", [True, False])
def test_a_writer_that_slept_between_its_last_reading_and_the_record(site: Site, asleep: bool) -> None:
    unneeded_packs(site)
    writer = site.backup(OLD)
    writer.run(before=putting_the_record)
    site.mark()
    site.pass_(DELETED_AFTER, asleep=asleep)
    assert site.sweep()
    assert writer.run()
    assert isinstance(writer.error, TryLater)
    assert site.labels() == []
    (withdrawn,) = (removal for removal in site.repository().records().removals if "a test" not in removal.why)
    assert "pruned" in withdrawn.why


def test_a_sweep_that_looked_before_the_record_and_deletes_after_it(site: Site) -> None:
    """The writer slept before the record; when it looks again, the packs are still there, but not for long."""
    unneeded_packs(site)
    writer = site.backup(OLD)
    writer.run(before=putting_the_record)
    assert site.mark()
    site.pass_(DELETED_AFTER)
    site.machine.clock.step(site.clock.now() - site.machine.clock.now())
    sweeper = site.job("sweep", lambda job: sweep(job.repository))
    assert not sweeper.run(before=deleting_a_pack)
    assert writer.run()
    assert sweeper.run()
    assert sweeper.error is None
    for snapshot in site.repository().records().snapshots:
        assert site.restores(snapshot, OLD)
    if writer.error is None:
        assert site.labels() == ["two"]


def test_who_cannot_ask_again_after_the_record_claims_nothing(site: Site) -> None:
    """Both clocks stood still, so neither has a doubt; and the store does not answer when it is asked once more."""
    unneeded_packs(site)
    recorded: list[str] = []

    def after_the_record(name: str) -> bool:
        return bool(recorded)

    writer = site.backup(OLD, fault=Fault(kind=FaultKind.FAIL, matches=after_the_record))
    writer.run(before=putting_the_record)
    site.mark()
    site.pass_(DELETED_AFTER, asleep=True)
    site.sweep()
    writer.run(1)
    recorded.append("now")
    assert writer.run()
    assert writer.error is not None, "what was published cannot be restored, and nobody was told"


def test_the_snapshot_that_a_writer_reuses_is_removed(site: Site) -> None:
    parent = site.take(OLD)
    site.pass_(25 * HOUR)
    writer = site.backup({**OLD, **NEW})
    writer.run(before=fed)
    site.remove(parent)
    marked = site.mark()
    assert writer.run()
    site.lose(marked)
    assert writer.result is not None
    assert site.restores(writer.result, {**OLD, **NEW})


def test_forged_marks_do_nothing(site: Site) -> None:
    snapshot = site.take(OLD)
    site.pass_(25 * HOUR)
    foreign = new_keys(site.keys.id_secret).master
    rows = encode_mark(site.packs())
    refs = [ObjectRef(Kind.MARK, new_object_id()) for _number in range(4)]
    site.store.put(refs[0].name, noise(300))
    site.store.put(refs[1].name, seal_object(foreign, refs[1], rows))
    site.store.put(refs[2].name, seal_object(replace(foreign, secret=site.keys.master.secret), refs[2], rows))
    site.store.put(refs[3].name, seal_object(site.keys.master, ObjectRef(Kind.INDEX, refs[3].id), rows))
    genuine = seal_object(site.keys.master, ObjectRef(Kind.MARK, new_object_id()), rows)
    site.store.put(ObjectRef(Kind.MARK, new_object_id()).name, genuine)
    site.pass_(25 * HOUR)
    assert not site.sweep()
    again = site.take(OLD, "two")
    assert again.totals.added_content == 0, "what they name is reused"
    assert all(any(ref.name in warning for warning in again.warnings) for ref in refs)
    site.remove(snapshot)
    site.pass_(25 * HOUR)
    site.mark()
    site.pass_(25 * HOUR)
    site.sweep()
    assert site.restores(again, OLD)


def test_a_mark_that_could_not_be_read_once_is_read_again(site: Site) -> None:
    """A bit flipped on its way: prune, which reads it well, deletes what it names."""
    unneeded_packs(site)
    site.mark()
    site.pass_(23 * HOUR)
    flip = Fault(
        kind=FaultKind.FLIP, operation=Operation.GET, matches=lambda name: name.startswith("marks/"), times=1, bit=999
    )
    writer = site.backup(OLD, fault=flip)
    writer.run(before=fed)
    site.pass_(2 * HOUR)
    sweeper = site.job("sweep", lambda job: sweep(job.repository))
    assert not sweeper.run(before=deleting_a_pack)
    assert writer.run()
    assert sweeper.run()
    assert sweeper.error is None
    assert writer.result is not None
    assert site.restores(writer.result, OLD)


def test_a_sweep_killed_anywhere_is_ended_by_the_next(site: Site) -> None:
    kept = site.take(OLD)
    site.remove(site.take(NEW, "two"))
    site.pass_(25 * HOUR)
    marked = site.mark()
    site.pass_(DELETED_AFTER)
    first = site.job("sweep", lambda job: sweep(job.repository))
    first.run(before=deleting_a_pack)
    first.run(1)
    first.kill()
    assert site.names(Kind.MARK), "the mark stays while a pack is left that it names"
    assert site.packs() & marked
    assert site.sweep()
    assert not site.packs() & marked
    assert not site.names(Kind.MARK)
    assert site.restores(kept, OLD)


def test_the_lease_comes_first(site: Site) -> None:
    calls = FaultyStore(site.store, clock=site.clock)
    with SnapshotWriter(Repository(calls, site.keys, clock=site.clock), workers=1) as writer:
        for entry, content in readings(OLD):
            writer.add(entry, content)
        writer.publish(about("one"))
    order = [(call.operation.value, call.name.partition("/")[0]) for call in calls.calls]
    lease, marks, index, data = (
        order.index(step) for step in (("put", "leases"), ("list", "marks"), ("list", "index"), ("list", "data"))
    )
    assert lease < marks < index < data
    record = order.index(("put", "snapshots"))
    assert any(lease < at < record for at, step in enumerate(order) if step == ("list", "marks") and at > data)
    assert not site.names(Kind.LEASE), "and none is left behind"


def test_nothing_is_marked_that_was_written_since_a_live_lease_began(site: Site) -> None:
    def work(job: Job[Snapshot]) -> Snapshot:
        with SnapshotWriter(job.repository, workers=1, host="db1") as writer:
            for entry, content in readings(NEW):
                writer.add(entry, content)
            for number in range(6):
                job.pause()
                for entry, content in readings({f"{number}/x": noise(30_000, number)}):
                    writer.add(entry, content)
            return writer.publish(about("long"))

    writer = site.job("backup", work)
    writer.run(before=fed)
    own = site.packs()
    for _number in range(6):
        site.pass_(READ_EVERY + 8 * HOUR)
        writer.run(1)
        writer.run(before=fed)
    assert own
    assert not site.mark() & own
    assert writer.run()
    assert writer.error is None


def test_a_dead_lease_protects_nothing(site: Site) -> None:
    writer = site.backup(NEW)
    writer.run(before=fed)
    writer.kill()
    own = site.packs()
    assert site.names(Kind.LEASE)
    site.pass_(timedelta(hours=24, minutes=1))
    assert site.mark() == own


def test_prune_refuses_what_it_cannot_be_sure_of(site: Site) -> None:
    first = site.take(OLD)
    second = site.take(NEW, "two")
    site.remove(second)
    site.pass_(25 * HOUR)
    site.put(Kind.LEASE, b"from a later version")
    with pytest.raises(Refused, match="not understood"):
        site.mark()
    site.pass_(25 * HOUR)
    sealed = site.store.get(f"snapshots/{first.id}")
    site.store.put(f"snapshots/{first.id}", sealed[:-1])
    with pytest.raises(Refused, match=first.id):
        site.mark()
    site.store.put(f"snapshots/{first.id}", sealed)
    late = HandClock(site.clock.now() + timedelta(minutes=6))
    with pytest.raises(Refused, match="clocks"):
        mark_unneeded(Repository(site.store, site.keys, clock=late))
    assert site.mark()
    site.put(Kind.MARK, b"from a later version")
    site.pass_(25 * HOUR)
    with pytest.raises(Refused, match="not understood"):
        site.sweep()


def test_prune_refuses_when_a_record_went_without_being_removed(site: Site) -> None:
    first = site.take(OLD)
    site.take(NEW, "two")
    site.store.delete(f"snapshots/{first.id}")
    site.pass_(25 * HOUR)
    with pytest.raises(Refused, match="nobody removed it"):
        site.mark()


def test_a_store_whose_listings_lag(site: Site) -> None:
    hidden = Fault(kind=FaultKind.VANISH, operation=Operation.LIST, matches=lambda name: name.startswith("leases/"))
    writer = site.backup(NEW, fault=hidden)
    assert writer.run()
    assert isinstance(writer.error, StoreUnreachable)
    assert "does not list what was just written" in str(writer.error)
    assert not site.labels()


def set_back(site: Site, to: MemoryStore) -> None:
    now = {listed.name for listed in site.store.list("")}
    then = {listed.name: to.get(listed.name) for listed in to.list("")}
    for name in now - then.keys():
        site.store.delete(name)
    for name, content in then.items():
        site.store.put(name, content)


def copied(site: Site) -> MemoryStore:
    copy = MemoryStore(clock=site.clock)
    for listed in site.store.list(""):
        copy.put(listed.name, site.store.get(listed.name))
    return copy


def test_a_store_set_back_is_noticed_by_the_machine_that_remembers(site: Site, tmp_path: Path) -> None:
    site.take(OLD)
    before = copied(site)
    second = site.take(NEW, "two")
    set_back(site, before)
    here = Repository(site.store, site.keys, clock=site.clock, state=site.machine.state)
    for _time in range(2):
        (gone,) = here.records().missing
        assert second.id in gone.name
        assert "newest.json" in gone.what
    assert not site.repository().records().missing, "another machine cannot know"


def test_a_record_that_went_is_noticed_by_those_after_it(site: Site) -> None:
    first = site.take(OLD)
    second = site.take(NEW, "two")
    site.store.delete(f"snapshots/{first.id}")
    (gone,) = site.repository().records().missing
    assert first.id in gone.name
    site.remove(second)
    (gone,) = site.repository().records().missing
    assert first.id in gone.name, "a removal remembers what came before"


def test_a_removal_is_no_loss_even_if_it_was_interrupted(site: Site) -> None:
    first = site.take(OLD)
    site.take(NEW, "two")
    removal = site.job("removal", lambda job: remove_snapshot(job.repository, first, host="db1", why="a test"))
    removal.run(before=lambda operation, _name: operation == "delete")
    assert site.labels() == ["two"], "recorded as removed: it counts as removed"
    assert site.restores(first, OLD)
    removal.kill()
    site.remove(first)
    assert site.labels() == ["two"]


def test_a_removal_while_the_records_are_read(site: Site) -> None:
    first = site.take(OLD)
    site.take(NEW, "two")
    site.take(NEW, "three")
    job = site.job("list", lambda job: job.repository.records())
    calls = 0
    while not job.done:
        job.run(1)
        calls += 1
        if calls in (1, 2, 3):
            site.remove(first if calls == 1 else next(iter(site.repository().records().snapshots)))
    assert job.error is None
    assert job.result is not None
    assert not job.result.missing


@pytest.mark.parametrize("keep", [0, 1, 2, 3])
def test_a_listing_cut_short(site: Site, keep: int) -> None:
    """It is noticed, and what it leaves out but is there is used all the same."""
    taken = [site.take({**OLD, "n": noise(10, number)}, f"s{number}") for number in range(4)]
    cut = Fault(kind=FaultKind.TRUNCATE, operation=Operation.LIST, matches=lambda name: name == "snapshots/", keep=keep)
    faulty = FaultyStore(site.store, cut, clock=site.clock)
    here = Repository(faulty, site.keys, clock=site.clock, state=site.machine.state)
    records = here.records()
    assert {snapshot.id for snapshot in records.snapshots} == {snapshot.id for snapshot in taken}
    assert len(records.missing) == 4 - keep
    assert all("leaves snapshot" in problem.what for problem in records.missing)


def test_an_older_version_may_not_write(site: Site) -> None:
    snapshot = site.take(OLD)
    demand_writer(site.repository(), "999.0")
    refused = site.backup(NEW)
    assert refused.run()
    assert isinstance(refused.error, Refused)
    assert "999.0" in str(refused.error)
    assert not site.names(Kind.LEASE)
    assert site.restores(snapshot, OLD)
    ref = ObjectRef(Kind.WRITERS, new_object_id())
    site.store.put(ref.name, seal_object(new_keys().master, ref, json.dumps({"oldest": "9999"}).encode()))
    with pytest.raises(Refused, match=r"999\.0 or"):
        SnapshotWriter(site.repository())


def test_hints_that_are_stale_since_a_repack(site: Site) -> None:
    kept = site.take({**OLD, **NEW, "more": noise(50)})
    site.remove(site.take({f"{path}x": noise(9_000, number + 50) for number, path in enumerate(OLD)}, "two"))
    site.pass_(25 * HOUR)
    marked = site.mark(repack_below=2.0)
    assert marked
    site.pass_(DELETED_AFTER)
    assert site.sweep() == marked
    faulty = FaultyStore(site.store, clock=site.clock)
    assert restore(site.repository(faulty), kept) == {**OLD, **NEW, "more": noise(50)}
    assert any(call.name.startswith("index/") for call in faulty.calls)


def test_a_restore_needs_no_index(site: Site) -> None:
    files = {**OLD, "large": noise(300_000)}
    snapshot = site.take(files)
    again = site.take({**files, **NEW}, "two")
    faulty = FaultyStore(site.store, clock=site.clock)
    assert restore(site.repository(faulty), snapshot) == files
    assert restore(site.repository(faulty), again) == {**files, **NEW}
    assert {(call.operation, call.name.partition("/")[0]) for call in faulty.calls} == {
        (Operation.GET, "data"),
        (Operation.GET, "meta"),
    }


def test_a_reader_whose_index_is_older_than_a_sweep(site: Site) -> None:
    """It asks for the index once more: the snapshot is whole, only not where it was."""
    kept = site.take(OLD)
    site.pass_(25 * HOUR)
    reader = SnapshotReader(site.repository())
    assert next(reader.index.directories())
    site.mark(repack_below=2.0)
    site.pass_(DELETED_AFTER)
    assert site.sweep()
    assert restore_with(reader, kept) == OLD


def test_a_lease_of_a_reader(site: Site) -> None:
    kept = site.take(OLD)
    reader = SnapshotReader(site.repository())
    with reader.leased(work="restore", host="db2"):
        assert len(site.names(Kind.LEASE)) == 1
        assert restore_with(reader, kept) == OLD
    assert not site.names(Kind.LEASE)
    refusing = Fault(kind=FaultKind.FAIL, operation=Operation.PUT)
    reader = SnapshotReader(site.repository(FaultyStore(site.store, refusing, clock=site.clock)))
    with reader.leased(work="restore", host="db2"):
        assert restore_with(reader, kept) == OLD, "a store that may only be read can be restored from"


def test_nodes_in_a_pack_that_filled_up_are_copied_out_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last node of a full pack is as much the writer's as all others."""
    monkeypatch.setattr(packing, "PACK_TARGET", 1_500)
    files = {f"large/{number}": noise(100_000, number) for number in range(6)} | NEW
    writer = site.backup(files)
    writer.run(before=fed)
    own = {pack for pack in site.packs() if pack.kind is Kind.META}
    assert own
    site.pass_(25 * HOUR)
    marked = site.mark()
    assert own <= marked
    assert writer.run()
    site.lose(marked)
    assert writer.result is not None
    assert site.restores(writer.result, files)


def test_a_file_that_says_what_a_list_is_named_by(site: Site) -> None:
    """Content and lists are two worlds: neither is ever taken for the other."""
    empty = {f"folder{number:03}/x": b"" for number in range(30)}
    first = site.take(empty)
    reader = SnapshotReader(site.repository())
    leaves = list(load_content(first.tree, reader.load))
    named = [detach(leaf)[0] for leaf in reader.load(leaves)]
    files = {f"copy of leaf {number}": content for number, content in enumerate(named)}
    second = site.take(files, "two")
    assert site.restores(second, files)
    third = site.take({**files, **empty}, "three")
    assert site.restores(third, {**files, **empty})


def test_entries_of_deleted_packs_that_compaction_brings_back(site: Site) -> None:
    unneeded_packs(site)
    indexed = {name: site.store.get(name) for name in site.names(Kind.INDEX)}
    site.mark()
    site.pass_(DELETED_AFTER)
    assert site.sweep()
    for name, content in indexed.items():
        site.store.put(name, content)
    again = site.take(OLD, "two")
    assert again.totals.added_content == sum(map(len, OLD.values()))
    assert site.restores(again, OLD)


def test_times_are_the_stores(site: Site) -> None:
    """A machine whose clocks are days off writes as well as any."""
    unneeded_packs(site)
    site.machine.clock.step(timedelta(days=-3))
    writer = site.backup(OLD)
    writer.run(before=fed)
    site.mark()
    site.machine.clock.step(timedelta(days=9))
    assert writer.run()
    assert writer.error is None
    site.pass_(DELETED_AFTER)
    site.sweep()
    assert writer.result is not None
    assert site.restores(writer.result, OLD)


def test_constants_that_must_fit_each_other() -> None:
    assert SLEPT_AFTER * 2 <= DELETED_AFTER
    assert READ_EVERY * 4 <= DELETED_AFTER
    assert timedelta(hours=1) >= READ_EVERY
