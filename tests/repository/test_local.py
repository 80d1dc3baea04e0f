"""This machine's state: root that looks at a repository must not lock its user out."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from holdfast.clock import SystemClock
from holdfast.repository.ids import ObjectId
from holdfast.repository.keys import SecretKind
from holdfast.repository.objects import Kind, ObjectRef
from holdfast.repository.opening import create_repository
from holdfast.repository.sealing import seal_object
from holdfast.repository.snapshots import encode_snapshot
from holdfast.store.memory import MemoryStore
from tests.privileges import NOBODY, require_root
from tests.repository.making import SECRET, restore, sample, take


def test_what_root_leaves_there_belongs_to_the_user_of_the_state(tmp_path: Path) -> None:
    require_root()
    os.chown(tmp_path, NOBODY, NOBODY)
    clock = SystemClock()
    repository = create_repository(
        MemoryStore(clock=clock), [(SECRET, SecretKind.PASSPHRASE)], clock=clock, state=tmp_path / "state"
    )
    snapshot = take(repository, sample())
    assert restore(repository, snapshot) == sample()
    made = list((tmp_path / "state").rglob("*"))
    assert {path.name for path in made} >= {"newest.json", "manifest"}
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(NOBODY, NOBODY)}


def test_a_record_that_was_exchanged_is_an_alarm_each_time(tmp_path: Path) -> None:
    """Sealed by somebody who has the key, under the id of one that this machine saw."""
    clock = SystemClock()
    store = MemoryStore(clock=clock)
    repository = create_repository(store, [(SECRET, SecretKind.PASSPHRASE)], clock=clock, state=tmp_path)
    snapshot = take(repository, sample())
    ref = ObjectRef(Kind.SNAPSHOT, ObjectId(bytes.fromhex(snapshot.id)))
    store.put(ref.name, seal_object(repository.master, ref, encode_snapshot(replace(snapshot, label="another"))))
    for _time in range(3):
        assert [problem.name for problem in repository.records().missing] == [ref.name]
