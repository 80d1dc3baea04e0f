"""The least policies: what they name, and that a server which enforces them lets the right calls through."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from holdfast.errors import PermissionRefused
from holdfast.repository.objects import KEYS, REPOSITORY_OBJECT, Kind
from holdfast.store.objects import ObjectStore
from holdfast.store.policy import KEPT_FROM_WRITERS, SCHEMES, WITHDRAWN, WRITTEN, Role, policy
from holdfast.store.probing import PROBES
from holdfast.store.services import S3
from tests.moto_users import MotoUser, moto_with_users

BEGINNINGS = {"s3": "arn:aws:s3:::bucket", "oss": "acs:oss:*:*:bucket"}


def statements(scheme: str, prefix: str, role: Role) -> list[Any]:
    document = json.loads(json.dumps(policy(scheme, "bucket", prefix, role)))
    found: list[Any] = document["Statement"]
    return found


def allows(scheme: str, prefix: str, role: Role, action: str, name: str) -> bool:
    """``action``: ``PutObject`` and the like; conditions aside."""
    return any(
        fnmatch.fnmatchcase(f"{BEGINNINGS[scheme]}/{prefix}/{name}", resource)
        for statement in statements(scheme, prefix, role)
        for resource in statement["Resource"]
        if f"{scheme}:{action}" in statement["Action"]
    )


def test_every_object_of_a_repository_has_its_place() -> None:
    names = {kind.prefix for kind in Kind} | {KEYS, REPOSITORY_OBJECT, PROBES}
    assert names == set(WRITTEN) | set(KEPT_FROM_WRITERS)
    assert not set(WRITTEN) & set(KEPT_FROM_WRITERS)
    assert set(WITHDRAWN) <= set(WRITTEN)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("prefix", ["some/prefix", ""])
def test_nothing_beside_the_prefix(scheme: str, role: Role, prefix: str) -> None:
    below = f"{BEGINNINGS[scheme]}/{prefix}/" if prefix else f"{BEGINNINGS[scheme]}/"
    for statement in statements(scheme, prefix, role):
        assert statement["Effect"] == "Allow"
        for resource in statement["Resource"]:
            assert resource.startswith(below) or resource == BEGINNINGS[scheme]
        if statement["Resource"] == [BEGINNINGS[scheme]]:
            assert statement["Action"] == [{"s3": "s3:ListBucket", "oss": "oss:ListObjects"}[scheme]]
            assert ("Condition" in statement) == bool(prefix)
            assert not prefix or f"{prefix}/*" in json.dumps(statement["Condition"])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_writer_cannot_destroy(scheme: str) -> None:
    writer = Role.WRITER
    for name in ("data/ab/cd", "snapshots/ab", "removed/ab", "leases/ab", "probes/ab"):
        assert allows(scheme, "p", writer, "PutObject", name)
    for name in ("marks/ab", "writers/ab", "keys/ab", "keyring/ab", "repository.json", "other/x"):
        assert not allows(scheme, "p", writer, "PutObject", name)
    for name in ("leases/ab", "probes/ab", "index/ab"):
        assert allows(scheme, "p", writer, "DeleteObject", name)
    for name in ("data/ab/cd", "meta/ab", "snapshots/ab", "removed/ab", "marks/ab", "keys/ab", "repository.json"):
        assert not allows(scheme, "p", writer, "DeleteObject", name)
        assert allows(scheme, "p", writer, "GetObject", name)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_operator_may_do_all(scheme: str) -> None:
    for action in ("PutObject", "DeleteObject", "GetObject"):
        for name in (*WRITTEN, *KEPT_FROM_WRITERS):
            assert allows(scheme, "p", Role.OPERATOR, action, name if name.endswith(".json") else f"{name}ab")


def test_the_repository_object_is_created_once() -> None:
    (statement,) = [
        one
        for one in statements("s3", "p", Role.OPERATOR)
        if one["Resource"] == ["arn:aws:s3:::bucket/p/repository.json"]
    ]
    assert statement["Condition"] == {"Null": {"s3:if-none-match": "false"}}


def without_conditions(document: Mapping[str, Any]) -> dict[str, Any]:
    """The server of the tests knows no conditions in the policies of S3."""
    kept = [{key: value for key, value in one.items() if key != "Condition"} for one in document["Statement"]]
    return {**document, "Statement": kept}


@pytest.fixture(scope="module")
def users() -> Iterator[Mapping[Role, MotoUser]]:
    documents = {role: json.dumps(without_conditions(policy("s3", "bucket", "p", role))) for role in Role}
    with moto_with_users("bucket", {role.value: document for role, document in documents.items()}) as made:
        yield {role: made[role.value] for role in Role}


def store_of(user: MotoUser, prefix: str = "p") -> ObjectStore:
    return ObjectStore(S3, bucket="bucket", prefix=prefix, options=user.options)


def test_an_enforcing_server_lets_the_right_calls_through(users: Mapping[Role, MotoUser]) -> None:
    """Listings aside: that server reckons the signature of a query with escaped slashes otherwise."""
    writer, operator = store_of(users[Role.WRITER]), store_of(users[Role.OPERATOR])
    operator.put("repository.json", b"{}", if_absent=True)
    operator.put("marks/ab", b"mark")
    for name in ("data/ab/cd", "index/ab", "snapshots/ab", "removed/ab", "leases/ab"):
        writer.put(name, b"content")
        assert writer.get(name) == b"content"
    assert writer.get("marks/ab") == b"mark"
    for name in ("marks/ab", "keys/ab", "repository.json"):
        with pytest.raises(PermissionRefused):
            writer.put(name, b"forged")
    for name in ("data/ab/cd", "snapshots/ab", "removed/ab", "marks/ab"):
        with pytest.raises(PermissionRefused):
            writer.delete(name)
    for name in ("leases/ab", "index/ab"):
        writer.delete(name)
    for name in ("data/ab/cd", "snapshots/ab", "marks/ab", "repository.json"):
        operator.delete(name)
    for user in users.values():
        with pytest.raises(PermissionRefused):
            store_of(user, "elsewhere").put("data/ab/cd", b"content")
