"""The oldest version that may write: an older one refuses, and says what to install."""

from __future__ import annotations

import pytest

from holdfast.errors import Refused
from holdfast.repository.objects import Kind
from holdfast.repository.repository import Repository
from holdfast.repository.versions import demand_writer, require_writer
from tests.repository.making import new_repository, sample, take


@pytest.fixture
def repository() -> Repository:
    return new_repository()


def test_the_highest_demand_counts(repository: Repository) -> None:
    for oldest in ("0.1.0", "0.10.0", "0.9.3"):
        demand_writer(repository, oldest)
    require_writer(repository, "0.10.0")
    with pytest.raises(Refused, match=r"may only be written by Holdfast 0\.10\.0 or newer; this is 0\.9\.9") as refused:
        require_writer(repository, "0.9.9")
    assert "Install a newer Holdfast" in refused.value.hint


@pytest.mark.parametrize("demand", [b'{"needs": "x"}', b'{"oldest": 2}', b'{"oldest": "the newest"}', b"[]", b"\x01"])
def test_a_demand_that_only_a_later_version_understands_is_a_refusal(repository: Repository, demand: bytes) -> None:
    """It was sealed by somebody who has the key: no damage."""
    repository.put_object(Kind.WRITERS, demand)
    with pytest.raises(Refused, match="does not understand") as refused:
        take(repository, sample())
    assert "Install a newer Holdfast" in refused.value.hint
    assert repository.records().snapshots == ()


def test_what_cannot_be_unsealed_is_nobodys_word(repository: Repository) -> None:
    repository.store.put(f"{Kind.WRITERS.prefix}{'0' * 64}", b"forged")
    require_writer(repository, "0.1.0")
