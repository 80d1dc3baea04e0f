"""This machine's state: root that looks at a repository must not lock its user out."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast.clock import SystemClock
from holdfast.repository.keys import SecretKind
from holdfast.repository.opening import create_repository
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
