"""What earlier versions wrote is restored, and each known way of damage to it is found for what it is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from holdfast import errors
from holdfast.clock import SystemClock
from holdfast.entry import EntryKind
from holdfast.errors import Damaged, WrongPassphrase
from holdfast.repository.keyring import KeyState, read_keyring
from holdfast.repository.leases import decode_renewal
from holdfast.repository.marks import decode_mark
from holdfast.repository.objects import Kind, parse_name
from holdfast.repository.opening import Pin, open_repository
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.repository import Problem, Repository
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.verify import Verification, verify_repository
from holdfast.repository.writer import SnapshotWriter
from holdfast.store.memory import MemoryStore
from tests.cli.running import holdfast
from tests.golden.fixtures import FOLDERS, Golden, golden
from tests.repository.making import restore_with, take

CLOCK = SystemClock()
KINDS = {
    r"unreadable (\d+) of (\d+)": r"is damaged: \1 of \2 chunks in it cannot be read",
    "unauthentic": "fails authentication",
    "another head": "its head is not that of this object",
    "no directory": "a pack's end is damaged",
    "another size": r"is \d+ bytes long instead of \d+",
    "missing": "is missing from the store",
    "gone": "is gone, and nobody removed it",
    "absent": "no object repository.json in",
    "strange name": "has a name that Holdfast does not write",
    "key damaged": "is damaged: its secret opens nothing",
    "key missing": "is missing: its secret opens nothing",
    "not ours": "is not of this repository, or damaged",
}
"""The kinds of damage that fixtures name, and what says so today: words may change, fixtures do not."""

DAMAGES = [(folder, name) for folder in FOLDERS for name in golden(folder).damages]
wholes = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
OPENABLE = [(folder, name) for folder, name in DAMAGES if "pinned" not in golden(folder).damages[name]["refused"]]


def each(some: Sequence[tuple[Path, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("folder", "name"), some, ids=[f"{folder.name}-{name}" for folder, name in some])


def opened(
    one: Golden, store: MemoryStore, secret: str = "", *, pinned: bool = True, state: Path | None = None
) -> Repository:
    secret = secret or one.manifest["opened_by"]["passphrase"]
    return open_repository(store, secret, pin=one.pin if pinned else None, clock=CLOCK, state=state)


def shown(repository: Repository, snapshot: Snapshot) -> list[list[Any]]:
    """A restored snapshot as a manifest has it."""
    reader = SnapshotReader(repository)
    contents = restore_with(reader, snapshot)
    rows: list[list[Any]] = []
    for stored in reader.entries(snapshot):
        entry = stored.entry
        file = entry.kind is EntryKind.FILE
        what = hashlib.sha256(contents[entry.path]).hexdigest() if file else entry.link_target
        rows.append([entry.path, entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.size, what])
    return rows


def kind_of(problem: Problem, wanted: str) -> str:
    """``wanted`` if the problem says so, else its words."""
    for kind, words in KINDS.items():
        match = re.fullmatch(kind, wanted)
        if match and re.search(match.expand(words) if match.groups() else words, problem.what):
            return wanted
    return problem.what


def found_in(found: Verification, expected: Mapping[str, Any]) -> dict[str, Any]:
    wanted = expected["problems"]
    return {
        "problems": {problem.name: kind_of(problem, wanted.get(problem.name, "")) for problem in found.problems},
        "touched": sorted([touched.snapshot.label, touched.path] for touched in found.touched),
        "mended": [problem.name for problem in found.mended],
    }


def test_there_are_golden_repositories() -> None:
    assert FOLDERS


@wholes
def test_the_whole_one_restores(folder: Path) -> None:
    one = golden(folder)
    repository = opened(one, one.store())
    records = repository.records()
    assert not records.problems
    assert not records.missing
    assert [snapshot.label for snapshot in records.snapshots] == [kept["label"] for kept in one.manifest["snapshots"]]
    for kept, snapshot in zip(one.manifest["snapshots"], records.snapshots, strict=True):
        assert (snapshot.id, snapshot.source, snapshot.host) == (kept["id"], kept["source"], kept["host"])
        assert [*snapshot.predecessors] == kept["predecessors"]
        assert [*snapshot.warnings] == kept["warnings"]
        assert shown(repository, snapshot) == kept["entries"], snapshot.label
    assert [removal.id for removal in records.removals] == [one.manifest["removed"]]


@wholes
@pytest.mark.parametrize("quick", [True, False], ids=["quick", "full"])
def test_the_whole_one_is_found_whole(folder: Path, *, quick: bool) -> None:
    one = golden(folder)
    found = verify_repository(opened(one, one.store()), quick=quick)
    assert found.good, found
    assert [problem.name for problem in found.mended] == ([] if quick else [one.manifest["mended"]])
    assert found.snapshots == len(one.manifest["snapshots"])
    assert found.unneeded == len(one.manifest["unneeded"])


@wholes
def test_every_kept_secret_opens_it_and_the_removed_one_does_not(folder: Path) -> None:
    one = golden(folder)
    for secret in one.manifest["opened_by"].values():
        for pinned in (True, False):
            assert opened(one, one.store(), secret, pinned=pinned).key_id == one.manifest["key"]
    with pytest.raises(WrongPassphrase):
        opened(one, one.store(), one.manifest["removed_passphrase"])
    ring = read_keyring(opened(one, one.store()))
    assert [key.state for key in ring.keys] == [KeyState.GOOD] * len(one.manifest["opened_by"])
    notes = [key.header.origin.note for key in ring.keys if key.header and key.header.origin]
    assert sorted(notes) == one.manifest["key_notes"]


@wholes
def test_what_stands_beside_the_snapshots_is_read(folder: Path) -> None:
    one = golden(folder)
    store = one.store()
    repository = opened(one, store)
    held = {kind.name for kind in Kind if any(store.list(kind.prefix))}
    assert held == set(one.manifest["kinds"])
    (lease,) = (listed.name for listed in store.list(Kind.LEASE.prefix))
    assert lease == one.manifest["killed_backup_lease"]
    ref = parse_name(lease)
    assert ref is not None
    assert decode_renewal(repository.get_object(ref)).work == "backup"
    (mark,) = store.list(Kind.MARK.prefix)
    assert {pack.name for pack in decode_mark(repository.get_listed(mark))} == set(one.manifest["marked"])


@wholes
def test_a_backup_goes_on_from_it(folder: Path) -> None:
    """It reuses what is there, and nothing that is marked."""
    one = golden(folder)
    repository = opened(one, one.store())
    reader = SnapshotReader(repository)
    last = repository.records().snapshots[-1]
    entries = [(stored.entry, [reader.read(stored.content)]) for stored in reader.entries(last)]
    made = take(repository, entries, "next")
    assert made.totals.added_content == 0
    assert made.predecessors == (last.id,)
    assert made.tree == last.tree, "lists and leaves are cut where they were"
    assert shown(repository, made) == shown(repository, last)
    assert verify_repository(repository).good


@each(OPENABLE)
@pytest.mark.parametrize("quick", [True, False], ids=["quick", "full"])
def test_damage_is_found_for_what_it_is(folder: Path, name: str, *, quick: bool) -> None:
    one = golden(folder)
    damage = one.damages[name]
    expected = damage["quick" if quick else "full"]
    repository = opened(one, one.store(damage), damage["opens_with"])
    found = verify_repository(repository, quick=quick)
    assert found_in(found, expected) == expected
    assert found.good == (not expected["problems"] and not expected["touched"])


@each(OPENABLE)
def test_damage_restores_what_it_does_not_touch(folder: Path, name: str) -> None:
    """… and of what it does touch nothing wrong: it is refused, or it is right all the same."""
    one = golden(folder)
    damage = one.damages[name]
    repository = opened(one, one.store(damage), damage["opens_with"])
    touched = {label for label, _path in damage["full"]["touched"]}
    unreadable = {*damage["full"]["problems"], *damage["remembered"]}
    records = {snapshot.id: snapshot for snapshot in repository.records().snapshots}
    readable = [kept for kept in one.manifest["snapshots"] if f"snapshots/{kept['id']}" not in unreadable]
    assert records.keys() == {kept["id"] for kept in readable}
    for kept in readable:
        if kept["label"] not in touched:
            assert shown(repository, records[kept["id"]]) == kept["entries"], kept["label"]
        else:
            with suppress(Damaged):
                assert shown(repository, records[kept["id"]]) == kept["entries"], kept["label"]


@each(OPENABLE)
def test_a_machine_that_saw_it_whole_finds_more(folder: Path, name: str, tmp_path: Path) -> None:
    one = golden(folder)
    damage = one.damages[name]
    opened(one, one.store(), state=tmp_path).records()
    found = opened(one, one.store(damage), damage["opens_with"], state=tmp_path).records()
    told = {problem.name: problem for problem in (*found.problems, *found.missing)}
    records = ("snapshots/", "removed/")
    expected = {name: kind for name, kind in damage["quick"]["problems"].items() if name.startswith(records)}
    expected |= damage["remembered"]
    assert {name: kind_of(problem, expected.get(name, "")) for name, problem in told.items()} == expected


@each(DAMAGES)
def test_damage_that_closes_a_door(folder: Path, name: str) -> None:
    one = golden(folder)
    damage = one.damages[name]
    refused = {what: getattr(errors, kind) for what, kind in damage["refused"].items()}
    for what, pinned in (("pinned", True), ("unpinned", False)):
        if what in refused:
            with pytest.raises(refused[what]):
                opened(one, one.store(damage), pinned=pinned)
        else:
            opened(one, one.store(damage), damage["opens_with"], pinned=pinned)
    if "passphrase" in refused:
        with pytest.raises(refused["passphrase"]):
            opened(one, one.store(damage))
    if "writing" in refused:
        with pytest.raises(refused["writing"], match="newer"):
            SnapshotWriter(opened(one, one.store(damage)))


@wholes
def test_another_pin_is_refused(folder: Path) -> None:
    one = golden(folder)
    with pytest.raises(errors.Refused):
        open_repository(
            one.store(),
            one.manifest["opened_by"]["passphrase"],
            pin=Pin(repository=one.pin.repository, key="0" * 32),
            clock=CLOCK,
        )


def on_the_command_line(root: Path, one: Golden, *arguments: str) -> tuple[int, dict[str, Any]]:
    ended = holdfast(
        *arguments, "--json", "--from", root.as_uri(), "--id", one.pin.repository, "--key", one.pin.key,
        module="holdfast", HOLDFAST_PASSPHRASE=one.manifest["opened_by"]["passphrase"],
    )  # fmt: skip
    return ended.returncode, json.loads(ended.stdout)


@wholes
def test_the_whole_one_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    one = golden(folder)
    root = tmp_path / "store"
    one.unpack(root)
    code, listed = on_the_command_line(root, one, "list")
    assert code == 0
    assert [shown["id"] for shown in listed["snapshots"]] == [kept["id"] for kept in one.manifest["snapshots"]]
    code, found = on_the_command_line(root, one, "verify")
    assert (code, found["good"]) == (0, True)
    kept = one.manifest["snapshots"][-1]
    code, shown_one = on_the_command_line(root, one, "show", "latest", "--files")
    assert code == 0
    assert [entry["path"] for entry in shown_one["files"]] == [entry[0] for entry in kept["entries"]]


@wholes
def test_a_damaged_one_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    one = golden(folder)
    damage = one.damages["data_part_flipped"]
    one.unpack(tmp_path / "store", damage)
    code, found = on_the_command_line(tmp_path / "store", one, "verify")
    assert (code, found["good"]) == (5, False)
    assert {problem["object"] for problem in found["problems"]} == set(damage["full"]["problems"])
    assert sorted([one["label"], one["path"]] for one in found["touched"]) == damage["full"]["touched"]


@wholes
def test_a_cluster_restored_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    one = golden(folder)
    one.unpack(tmp_path / "store")
    target = tmp_path / "restored"
    code, document = on_the_command_line(tmp_path / "store", one, "restore", "tracker", "--to", str(target))
    assert (code, document["restored"]) == (0, True)
    kept = next(kept for kept in reversed(one.manifest["snapshots"]) if kept["source"] == "tracker")
    for path, kind, mode, _uid, _gid, mtime_ns, _size, what in kept["entries"]:
        if path.startswith(("base", "global", "PG_VERSION", "backup_label")):
            there = target / path
            assert there.stat().st_mode & 0o7777 == mode, path
            if kind == "file":
                assert hashlib.sha256(there.read_bytes()).hexdigest() == what, path
                assert there.stat().st_mtime_ns == mtime_ns, path
