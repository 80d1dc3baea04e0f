"""The index against a plain model of it, and its local copy against whatever may happen to a folder."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.clock import SystemClock
from holdfast.errors import Damaged
from holdfast.repository import index as index_module
from holdfast.repository import index_cache, segments
from holdfast.repository.compaction import compact_index
from holdfast.repository.damage import encode_damage
from holdfast.repository.ids import ChunkId, new_object_id
from holdfast.repository.index import Index, encode_index
from holdfast.repository.index_cache import FOLDER, IndexCache
from holdfast.repository.index_loading import LoadedIndex, list_packs, load_index
from holdfast.repository.keys import SecretKind, new_keys
from holdfast.repository.objects import Kind, ObjectRef
from holdfast.repository.opening import create_repository, open_repository
from holdfast.repository.packing import Directory, Location, PackBuilder
from holdfast.repository.repository import Repository
from holdfast.repository.run_building import RunBuilder
from holdfast.repository.segments import due_for_merging
from holdfast.store.failures import Operation
from holdfast.store.faulty import Fault, FaultKind, FaultyStore
from holdfast.store.memory import MemoryStore
from holdfast.store.port import Listed, Store
from tests.repository.making import SECRET, noise

CLOCK = SystemClock()
CONTENTS = [bytes([number]) * 10 for number in range(8)]


def repository_in(state: Path | None, store: Store | None = None) -> Repository:
    store = store or MemoryStore(clock=CLOCK)
    return create_repository(store, [(SECRET, SecretKind.PASSPHRASE)], clock=CLOCK, state=state)


def put_pack(repository: Repository, contents: Iterable[bytes], kind: Kind = Kind.DATA) -> Directory:
    builder = PackBuilder(repository.master, kind)
    for content in contents:
        builder.add(repository.ids.chunk_id(content), content)
    data, directory = builder.finish()
    repository.store.put(directory.pack.name, data)
    return directory


def put_index(repository: Repository, directories: Iterable[Directory]) -> ObjectRef:
    return repository.put_object(Kind.INDEX, encode_index(directories))


def located(directories: Iterable[Directory], chunk_id: ChunkId) -> set[Location]:
    return {
        Location(directory.pack, ordinal, part)
        for directory in directories
        for ordinal, part in enumerate(directory.parts)
        if part.id == chunk_id
    }


class Model:
    """What an index must say, in sets and dictionaries."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.all: list[Directory] = []
        """Every pack that was ever put."""
        self.stored: set[ObjectRef] = set()
        self.objects: dict[ObjectRef, list[Directory]] = {}
        self.marked: set[ObjectRef] = set()
        """By prune: this outlives the process."""
        self.bad: set[tuple[ObjectRef, int]] = set()
        self.load()

    def load(self) -> None:
        self.loaded = load_index(self.repository, marked=self.marked)
        self.index = self.loaded.index
        self.named = {one.pack: one for some in self.objects.values() for one in some}
        self.known = self.named | {one.pack: one for one in self.all if one.pack in self.stored}
        self.present = self.stored & self.known.keys()
        self.unfit = set(self.marked)
        self.noted = set(self.bad)
        self.used: set[ObjectRef] = set()
        learned = self.known.keys() - self.named.keys()
        assert {one.pack for one in self.loaded.learned} == learned
        assert len(self.loaded.learned) == len(learned)
        assert {one.name for one in self.loaded.problems} == {
            ref.name for ref in self.named.keys() - self.stored - self.marked
        }
        assert {(one.ref, one.rows) for one in self.loaded.objects} == {
            (ref, sum(map(len, some))) for ref, some in self.objects.items()
        }

    def do(self, action: str, number: int) -> None:
        getattr(self, f"do_{action}")(number)

    def pick(self, number: int) -> Directory | None:
        return self.all[number % len(self.all)] if self.all else None

    def new(self, number: int) -> Directory:
        kind = Kind.META if number % 3 == 0 else Kind.DATA
        contents = [content for place, content in enumerate(CONTENTS) if number >> place & 1]
        directory = put_pack(self.repository, contents + contents[: number % 2], kind)
        self.all.append(directory)
        self.stored.add(directory.pack)
        return directory

    def do_put(self, number: int) -> None:
        self.new(number)

    def do_add(self, number: int) -> None:
        directory = self.new(number)
        self.index.add(directory)
        self.known[directory.pack] = directory
        self.present.add(directory.pack)
        self.used.add(directory.pack)

    def do_name(self, number: int) -> None:
        """An index object of some packs, of which some may be gone, and named by others too."""
        some = [one for place, one in enumerate(self.all) if number >> (place % 8) & 1]
        ref = put_index(self.repository, some)
        self.objects[ref] = some
        if all(one.pack in self.known for one in some) and number % 2:
            self.index.named(ref, some)

    def do_forget(self, number: int) -> None:
        if self.objects:
            ref = list(self.objects)[number % len(self.objects)]
            self.repository.store.delete(ref.name)
            del self.objects[ref]

    def do_delete(self, number: int) -> None:
        one = self.pick(number)
        if one:
            self.repository.store.delete(one.pack.name)
            self.stored.discard(one.pack)

    def do_mark(self, number: int) -> None:
        some = {one.pack for place, one in enumerate(self.all) if number >> (place % 8) & 1}
        self.marked |= some
        self.unfit |= some
        self.index.mark([*some, ObjectRef(Kind.DATA, new_object_id())])

    def do_damage(self, number: int) -> None:
        one = self.pick(number)
        if one and len(one):
            bad = (one.pack, number % len(one))
            self.repository.put_object(Kind.DAMAGE, encode_damage([bad]))
            self.bad.add(bad)

    def do_check(self, _number: int) -> None:
        gone = self.index.check(list_packs(self.repository))
        assert len(gone) == len(set(gone))
        assert set(gone) == self.used - self.stored
        self.present = self.stored & self.known.keys()

    def do_reload(self, _number: int) -> None:
        self.index.close()
        self.load()

    def do_crash(self, _number: int) -> None:
        self.load()

    def do_compact(self, _number: int) -> None:
        self.index.close()
        self.load()
        before = {ref.name for ref in self.objects}
        gone = compact_index(self.repository, self.loaded)
        now = {item.name for item in self.repository.store.list(Kind.INDEX.prefix)}
        assert len(before - now) == gone
        if gone:
            self.index.close()
            made = load_index(self.repository, marked=self.marked)
            kept = {ref: some for ref, some in self.objects.items() if ref.name in now}
            new = [one.ref for one in made.objects if one.ref not in kept]
            merged = self.mergeable()
            assert kept.keys() == self.objects.keys() - merged.keys() - self.redundant()
            packs = {one.pack for some in merged.values() for one in some} & self.stored
            named = [self.known[pack] for pack in packs]
            assert len(new) == (1 if named else 0)
            self.objects = kept | dict.fromkeys(new, named)
            self.load()

    def redundant(self) -> set[ObjectRef]:
        """Of those that may go: what larger ones name as well."""
        order = sorted(self.objects, key=lambda ref: (sum(map(len, self.objects[ref])), ref.id))
        last = {one.pack: ref for ref in order for one in self.objects[ref]}
        return self.objects.keys() - set(last.values()) - self.mourning()

    def mourning(self) -> set[ObjectRef]:
        lost = self.named.keys() - self.stored - self.marked
        return {ref for ref, some in self.objects.items() if lost & {one.pack for one in some}}

    def mergeable(self) -> dict[ObjectRef, list[Directory]]:
        gone = self.mourning() | self.redundant()
        some = {ref: named for ref, named in self.objects.items() if ref not in gone}
        return some if len(some) > 1 else {}

    def compare(self) -> None:
        assert {one.pack: one for one in self.index.directories()} == {pack: self.known[pack] for pack in self.present}
        assert self.index.pack_count == len(self.present)
        assert self.index.count == sum(len(self.known[pack]) for pack in self.present)
        for pack, directory in self.known.items():
            if pack in self.present:
                assert self.index.directory(pack) == directory
            else:
                with pytest.raises(KeyError):
                    self.index.directory(pack)
        numbers = {self.index.pack_number(pack) for pack in self.present}
        assert len(numbers) == len(self.present)
        assert all(0 <= number < self.index.packs for number in numbers)
        rows: set[int] = set()
        for content in CONTENTS:
            self.compare_chunk(self.repository.ids.chunk_id(content), rows)
        assert all(0 <= row < self.index.rows for row in rows)
        assert set(self.index.used([one.pack for one in self.all])) == self.used

    def compare_chunk(self, chunk_id: ChunkId, rows: set[int]) -> None:
        there = located((self.known[pack] for pack in self.present), chunk_id)
        places = list(self.index.places(chunk_id))
        assert set(places) == there
        assert len(places) == len(there)
        damaged = [(place.pack, place.ordinal) in self.noted for place in places]
        assert damaged == sorted(damaged), "what is whole comes first"
        for place in places:
            number = self.index.row_number(place)
            assert number not in rows
            rows.add(number)
        fit = {
            place for place in there if place.pack not in self.unfit and (place.pack, place.ordinal) not in self.noted
        }
        reused = self.index.reuse(chunk_id)
        assert reused in fit if fit else reused is None
        if reused:
            self.used.add(reused.pack)
        lost = self.index.lost(chunk_id)
        absent = located((self.named[pack] for pack in self.named.keys() - self.present), chunk_id)
        assert lost in absent if absent else lost is None


ACTIONS = [name.removeprefix("do_") for name in vars(Model) if name.startswith("do_")]
actions = st.lists(st.tuples(st.sampled_from([*ACTIONS, "add", "put", "name"]), st.integers(0, 255)), max_size=14)


@pytest.mark.parametrize("kept", [True, False], ids=["copy", "bare"])
@given(todo=actions)
@settings(max_examples=80)
def test_the_index_is_what_the_model_says(kept: bool, todo: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patched, tempfile.TemporaryDirectory() as state:
        patched.setattr(index_module, "FRESH_ROWS", 4)
        patched.setattr(segments, "SMALL", 2)
        patched.setattr("holdfast.repository.compaction.SMALL_OBJECTS", 1)
        model = Model(repository_in(Path(state) if kept else None))
        model.compare()
        for action, number in todo:
            model.do(action, number)
            model.compare()


def test_no_room_while_index_objects_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first attempt was told counts for nothing: at the second, other objects may be readable."""
    store = MemoryStore(clock=CLOCK)
    repository = repository_in(None, store)
    packs = [put_pack(repository, [noise(500, number)]) for number in range(6)]
    refs = [put_index(repository, [one]) for one in packs]
    healing, failing = refs[1].name, refs[0].name
    flips = [
        Fault(kind=FaultKind.FLIP, operation=Operation.GET, matches=name.__eq__, first=first, times=1, bit=999)
        for name, first in ((healing, 1), (failing, 2))
    ]
    faulty = FaultyStore(store, *flips, clock=CLOCK)
    finish, times = RunBuilder.finish, iter(range(100))

    def no_room_once(builder: RunBuilder, key: bytes) -> None:
        if next(times) == 0:
            raise OSError(28, "No space left on device")
        finish(builder, key)

    monkeypatch.setattr(RunBuilder, "finish", no_room_once)
    loaded = load_index(open_repository(faulty, SECRET, pin=None, clock=CLOCK, state=tmp_path))
    assert {one.pack for one in loaded.index.directories()} == {one.pack for one in packs}
    assert [problem.name for problem in loaded.problems] == [failing]
    assert [one.pack for one in loaded.learned] == [packs[0].pack]


@given(st.lists(st.integers(0, 10**8), max_size=12))
def test_few_runs_remain(sizes: list[int]) -> None:
    runs = list(sizes)
    while chosen := due_for_merging(runs):
        runs = [rows for place, rows in enumerate(runs) if place not in chosen] + [sum(runs[place] for place in chosen)]
    large = sorted(rows for rows in runs if rows > segments.SMALL)
    assert len(runs) - len(large) <= 1
    for place in range(1, len(large)):
        assert large[place] > segments.FACTOR * large[place - 1]


def some_repository(state: Path) -> tuple[Repository, list[Directory]]:
    repository = repository_in(state, FaultyStore(MemoryStore(clock=CLOCK), clock=CLOCK))
    whole = [put_pack(repository, [noise(20, 10 * pack + row) for row in range(pack)]) for pack in range(6)]
    put_index(repository, whole[:3])
    put_index(repository, whole[3:])
    return repository, whole


def reads(repository: Repository) -> list[str]:
    """What was read of index objects and packs since the store was made."""
    assert isinstance(repository.store, FaultyStore)
    calls = repository.store.calls
    return [
        call.name.partition("/")[0]
        for call in calls
        if call.operation is Operation.GET and call.name.startswith(("index/", "data/", "meta/"))
    ]


def files(state: Path) -> list[Path]:
    return sorted(path for path in state.rglob("*") if path.is_file())


def is_whole(loaded: LoadedIndex, whole: list[Directory]) -> bool:
    return {one.pack: one for one in loaded.index.directories()} == {one.pack: one for one in whole}


def test_what_was_read_once_is_not_read_again(tmp_path: Path) -> None:
    repository, whole = some_repository(tmp_path)
    for _time in range(3):
        loaded = load_index(repository)
        assert is_whole(loaded, whole)
        assert not loaded.learned
        loaded.index.close()
        assert reads(repository) == ["index", "index"]
    fresh = put_pack(repository, [b"more"])
    for _time in range(2):
        loaded = load_index(repository)
        assert is_whole(loaded, [*whole, fresh])
        assert list(loaded.learned) == [fresh], "kept here, and still named by no index object"
        assert reads(repository) == ["index", "index", "data"]
    loaded.index.named(put_index(repository, [fresh]), [fresh])
    loaded.index.close()
    loaded = load_index(repository)
    assert is_whole(loaded, [*whole, fresh])
    assert not loaded.learned
    assert reads(repository) == ["index", "index", "data"], "nobody reads what he wrote himself"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 4
    path.unlink()
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.unlink()
    path.touch()


def garbage(path: Path) -> None:
    path.unlink()
    path.write_bytes(noise(5000))


def fold(path: Path) -> None:
    path.unlink()
    path.mkdir()


harms = pytest.mark.parametrize("harm", [truncate, flip, empty, garbage, fold, Path.unlink])


@harms
@pytest.mark.parametrize("what", ["manifest", "*.run"])
def test_a_local_copy_that_is_damaged_is_made_anew(tmp_path: Path, harm: Callable[[Path], None], what: str) -> None:
    repository, whole = some_repository(tmp_path)
    load_index(repository).index.close()
    for path in tmp_path.rglob(what):
        harm(path)
    loaded = load_index(repository)
    assert not loaded.problems
    assert is_whole(loaded, whole)
    assert reads(repository) == ["index"] * 4
    loaded.index.close()
    if harm is not fold:
        assert is_whole(load_index(repository), whole)
        assert reads(repository) == ["index"] * 4, "and then it serves again"


def test_one_run_of_several_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SMALL", 0)
    monkeypatch.setattr(segments, "FACTOR", 0)
    repository, whole = some_repository(tmp_path)
    load_index(repository).index.close()
    more = put_pack(repository, [b"more"])
    put_index(repository, [more])
    load_index(repository).index.close()
    runs = sorted(tmp_path.rglob("*.run"), key=lambda path: path.stat().st_size)
    assert len(runs) == 2
    runs[0].unlink()
    assert is_whole(load_index(repository), [*whole, more])
    assert reads(repository) == ["index"] * 4, "only what was in that run is read again"


def test_the_copy_of_another_repository_says_nothing(tmp_path: Path) -> None:
    repository, _whole = some_repository(tmp_path / "one")
    other, others = some_repository(tmp_path / "two")
    load_index(repository).index.close()
    assert repository.local is not None
    assert other.local is not None
    other.local.mkdir(parents=True)
    shutil.copytree(repository.local / FOLDER, other.local / FOLDER)
    loaded = load_index(other)
    assert is_whole(loaded, others)
    assert not loaded.problems


def test_an_older_version_of_the_copy_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, whole = some_repository(tmp_path)
    with monkeypatch.context() as older:
        older.setattr(index_cache, "_VERSION", 0)
        load_index(repository).index.close()
    assert is_whole(load_index(repository), whole)
    assert reads(repository) == ["index"] * 4


@pytest.mark.parametrize("blocked", ["", "repositories", FOLDER])
def test_a_copy_that_cannot_be_written_is_done_without(tmp_path: Path, blocked: str) -> None:
    """A file stands where a folder should be: that stops even root."""
    repository, whole = some_repository(tmp_path / "state")
    assert repository.local is not None
    place = {"": tmp_path / "state", "repositories": tmp_path / "state" / "repositories"}.get(
        blocked, repository.local / FOLDER
    )
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("in the way")
    for _time in range(2):
        loaded = load_index(repository)
        assert is_whole(loaded, whole)
        loaded.index.add(put_pack(repository, [b"1"]))
        loaded.index.close()
        whole = list(load_index(repository).index.directories())
    assert place.read_text() == "in the way"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_no_room_in_the_folder_nor_in_the_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, whole = some_repository(tmp_path)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_options: open("/dev/full", "w+b", buffering=0))  # noqa: SIM115, PTH123
    loaded = load_index(repository)
    assert is_whole(loaded, whole)
    assert not list(tmp_path.rglob("*.run"))


def test_files_of_crashed_processes_are_tidied(tmp_path: Path) -> None:
    repository, _whole = some_repository(tmp_path)
    load_index(repository).index.close()
    assert repository.local is not None
    folder = repository.local / FOLDER
    (running, crashed) = (folder / f"{number:032x}.run" for number in range(2))
    running.write_bytes(b"being written by another process")
    crashed.write_bytes(b"left over")
    os.utime(crashed, (0, 0))
    put_index(repository, [put_pack(repository, [b"more"])])
    load_index(repository).index.close()
    assert running.exists()
    assert not crashed.exists()
    assert len(files(folder)) == 3, "the manifest, one run that was merged, and what another process is writing"
    assert all(path.stat().st_mode & 0o077 == 0 for path in files(folder) if path != running)


@pytest.mark.parametrize("merges", [True, False], ids=["merges", "appends"])
def test_two_processes_share_the_folder(tmp_path: Path, merges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One merges and replaces what the other has mapped, and the other merges that, or adds to it."""
    repository, whole = some_repository(tmp_path)
    load_index(repository).index.close()
    first, second = load_index(repository), load_index(repository)
    for number, loaded in enumerate((first, second, first)):
        added = put_pack(repository, [noise(9, 100 + number)])
        loaded.index.add(added)
        whole.append(added)
        loaded.index.named(put_index(repository, [added]), [added])
    first.index.close()
    chunk_ids = [part.id for directory in whole[:6] for part in directory.parts]
    assert all(second.index.reuse(chunk_id) for chunk_id in chunk_ids), "what is unlinked stays mapped"
    if not merges:
        monkeypatch.setattr(segments, "SMALL", 0)
        monkeypatch.setattr(segments, "FACTOR", 0)
    second.index.close()
    assert reads(repository) == ["index", "index"]
    third = load_index(repository)
    again = 2 if merges else 1
    assert reads(repository) == ["index"] * (2 + again), "only what the one that was not the last had added"
    assert is_whole(third, whole)
    assert not third.problems
    assert not third.learned


def test_a_manifest_is_not_published_over_runs_that_are_gone(tmp_path: Path) -> None:
    repository, whole = some_repository(tmp_path)
    loaded = load_index(repository)
    for path in tmp_path.rglob("*.run"):
        path.unlink()
    added = put_pack(repository, [b"more"])
    loaded.index.add(added)
    loaded.index.close()
    assert is_whole(load_index(repository), [*whole, added])


@given(st.binary(max_size=200))
def test_garbage_is_no_manifest(data: bytes) -> None:
    for raw in (data, index_cache._HEADER.pack(b"HFINDEXM", 1, index_cache._digest(data, bytes(32))) + data):
        try:
            index_cache._decode_manifest(raw, bytes(32))
        except Damaged:
            continue


def test_a_pack_put_after_a_listing_began_is_not_missed() -> None:
    repository = repository_in(None)
    index = load_index(repository).index
    before = put_pack(repository, [b"before"])
    index.add(before)
    listing = list_packs(repository)
    after = put_pack(repository, [b"after"])
    index.add(after)
    assert not index.check(listing)
    for directory in (before, after):
        repository.store.delete(directory.pack.name)
    assert set(index.check(list_packs(repository))) == {before.pack, after.pack}
    assert index.reuse(repository.ids.chunk_id(b"before")) is None


def test_a_name_that_is_listed_twice_is_one_pack() -> None:
    class Repeating(MemoryStore):
        def list(self, prefix: str) -> Iterator[Listed]:
            for listed in super().list(prefix):
                yield listed
                yield listed

    repository = repository_in(None, Repeating(clock=CLOCK))
    named, unnamed = put_pack(repository, [b"1"]), put_pack(repository, [b"2"])
    put_index(repository, [named])
    loaded = load_index(repository)
    assert is_whole(loaded, [named, unnamed])
    assert loaded.index.pack_count == 2
    assert [one.pack for one in loaded.learned] == [unnamed.pack]


def test_look_ups_go_on_while_packs_are_added_and_runs_merged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was reused stays used, and what was added is found at once, whoever asks and whenever."""
    monkeypatch.setattr(index_module, "FRESH_ROWS", 16)
    monkeypatch.setattr(segments, "SMALL", 8)
    repository, whole = some_repository(tmp_path)
    index = load_index(repository).index
    added: list[Directory] = []
    failures: list[str] = []
    used: set[ObjectRef] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for directory in [*whole, *added]:
                for part in directory.parts:
                    place = index.reuse(part.id)
                    if place is None or next(index.places(part.id), None) != place:
                        failures.append(f"{part.id.hex()}: {place}")
                    else:
                        used.add(place.pack)

    threads = [threading.Thread(target=look) for _number in range(3)]
    for thread in threads:
        thread.start()
    for number in range(150):
        directory = put_pack(repository, [noise(8, 1000 + number), noise(8, 5000 + number)])
        index.add(directory)
        added.append(directory)
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert set(index.used([one.pack for one in whole])) >= used & {one.pack for one in whole}
    assert len(index._runs) < 8
    assert len(list(tmp_path.rglob("*.run"))) <= len(index._runs), "what was merged is gone"


def test_a_cache_needs_its_key(tmp_path: Path) -> None:
    """What another key wrote is nobody's word, even in the right folder."""
    repository, _whole = some_repository(tmp_path)
    load_index(repository).index.close()
    other = Repository(repository.store, new_keys(), clock=CLOCK)
    other.local = repository.local
    runs, naming = IndexCache(other).open()
    assert not runs
    assert not naming.objects


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    repository, _whole = some_repository(tmp_path)
    index: Index = load_index(repository).index
    index.close()
    index.close()
