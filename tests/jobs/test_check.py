"""What `check` says of a repository that opens and has lost something that nobody would miss before they need it."""

from __future__ import annotations

import pytest

from holdfast.clock import SystemClock
from holdfast.jobs.check import check_repository
from holdfast.postgres.finding import Finding, Status
from holdfast.repository.keys import MadeSecret, SecretKind
from holdfast.repository.objects import Kind
from holdfast.repository.opening import create_repository, open_repository
from holdfast.repository.repository import Repository
from holdfast.store.memory import MemoryStore
from tests.repository.making import SECRET, take

CLOCK = SystemClock()


def with_a_recovery_key() -> tuple[Repository, str]:
    """And the name of the recovery key's object."""
    store = MemoryStore(clock=CLOCK)
    secrets = [(SECRET, SecretKind.PASSPHRASE), (MadeSecret.new(SecretKind.RECOVERY), SecretKind.RECOVERY)]
    repository = create_repository(store, secrets, clock=CLOCK)
    take(repository, {"a": b"b"})
    (name,) = (listed.name for listed in store.list("keys/") if b"recovery" in store.get(listed.name))
    return repository, name


def about_keys(repository: Repository) -> list[Finding]:
    again = open_repository(repository.store, SECRET, pin=None, clock=CLOCK)
    return [finding for finding in check_repository(again) if finding.name == "keys"]


def test_keys_that_are_whole_are_not_spoken_of() -> None:
    repository, _name = with_a_recovery_key()
    assert about_keys(repository) == []


@pytest.mark.parametrize(("harm", "said"), [("lose", "missing"), ("flip", "damaged"), ("cut", "damaged")])
def test_a_lost_recovery_key(harm: str, said: str) -> None:
    """Once, however it is told."""
    repository, name = with_a_recovery_key()
    content = repository.store.get(name)
    repository.store.delete(name)
    if harm != "lose":
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        repository.store.put(name, flipped if harm == "flip" else content[:middle])
    (finding,) = about_keys(repository)
    assert finding.status is Status.FAILED
    assert f"key object {name} is {said}" in finding.what
    assert "holdfast key list" in finding.remedy
    assert "holdfast key remove" in finding.remedy


def test_a_record_of_keys_that_cannot_be_read() -> None:
    repository, _name = with_a_recovery_key()
    (record,) = repository.store.list(Kind.KEYRING.prefix)
    repository.store.put(record.name, repository.store.get(record.name)[:-1])
    (finding,) = about_keys(repository)
    assert finding.status is Status.FAILED
    assert record.name in finding.what
    assert "holdfast key list" in finding.remedy
    assert "key remove" not in finding.remedy


def test_what_is_none_of_ours_among_the_keys() -> None:
    repository, _name = with_a_recovery_key()
    planted = "keys/" + "0" * 32
    repository.store.put(planted, b"[]")
    (finding,) = about_keys(repository)
    assert finding.status is not Status.OK
    assert planted in finding.what
    assert "holdfast key list" in finding.remedy
    assert "holdfast key remove" in finding.remedy
