"""The least that an access key must be allowed, as a policy document for the service. Pure.

Two keys are meant: the *writer*'s, on the machine that is backed up, and the *operator*'s, who removes, prunes and
changes keys, from somewhere else. What breaks into that machine then can neither delete an object of a backup nor mark
one for deletion. It still can write over objects where the service keeps no versions: only versions, or a lock, guard
against that.

A writer may write ``removed/``: one that finds that prune took what it needed records that its own snapshot does not
count, or a snapshot that cannot be restored would look like a backup. A store cannot tell whose removal is recorded, so
whoever has the writer's key *and* a secret of the repository can record that of any: the snapshot's record and content
stay until an operator's key prunes.

Sources: "Actions, resources, and condition keys for Amazon S3" (Service Authorization Reference); "Enforce conditional
writes on Amazon S3 buckets"; "Authorization syntax and elements" in the manual of Aliyun OSS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

JSONObject = Mapping[str, object]

SCHEMES = ("s3", "oss")
"""The services whose policies are known."""

WRITTEN = (
    *("data/", "meta/", "index/", "snapshots/", "damage/", "removed/", "leases/", "probes/"),
    *("wal/", "tails/", "walfiles/", "streams/", "spans/"),
)
"""What backups, copies, verifications, checks and receivers of WAL write."""
WITHDRAWN = ("leases/", "probes/", "index/", "tails/", "spans/")
"""What of it they also delete: index objects, summaries and tails that they join; the tails of whole segments."""
KEPT_FROM_WRITERS = ("repository.json", "keys/", "keyring/", "marks/", "writers/")
"""Made by ``init``, by prune, and by an operator's decisions."""


class Role(StrEnum):
    WRITER = "writer"
    OPERATOR = "operator"


def policy(scheme: str, bucket: str, prefix: str, role: Role) -> JSONObject:
    """The document, to be written as JSON. ``scheme``: of ``SCHEMES``; ``prefix``: without ``/`` at its ends."""
    statements = (_s3 if scheme == "s3" else _oss)(bucket, f"{prefix}/" if prefix else "", role)
    return {"Version": "2012-10-17" if scheme == "s3" else "1", "Statement": statements}


def _s3(bucket: str, folder: str, role: Role) -> Sequence[JSONObject]:
    objects = f"arn:aws:s3:::{bucket}/{folder}"
    # A read of an object that is not there carries no s3:prefix, and is answered 404 only to those who may list:
    # 403 would leave open whether the object is missing.
    within = {"Condition": {"StringLikeIfExists": {"s3:prefix": [f"{folder}*"]}}} if folder else {}
    reading = [
        _allow("List", ["s3:ListBucket"], [f"arn:aws:s3:::{bucket}"], **within),
        _allow("Read", ["s3:GetObject"], [f"{objects}*"]),
    ]
    if role is Role.WRITER:
        return [
            *reading,
            _allow("Write", ["s3:PutObject"], [f"{objects}{name}*" for name in WRITTEN]),
            _allow("Withdraw", ["s3:DeleteObject"], [f"{objects}{name}*" for name in WITHDRAWN]),
        ]
    once = {"Condition": {"Null": {"s3:if-none-match": "false"}}}
    return [
        *reading,
        _allow("Write", ["s3:PutObject"], [f"{objects}{name}*" for name in _folders()]),
        _allow("CreateOnce", ["s3:PutObject"], [f"{objects}repository.json"], **once),
        _allow("Remove", ["s3:DeleteObject"], [f"{objects}*"]),
    ]


def _oss(bucket: str, folder: str, role: Role) -> Sequence[JSONObject]:
    objects = f"acs:oss:*:*:{bucket}/{folder}"
    within = {"Condition": {"StringLike": {"oss:Prefix": [f"{folder}*"]}}} if folder else {}
    written = [f"{objects}{name}*" for name in WRITTEN] if role is Role.WRITER else [f"{objects}*"]
    removed = [f"{objects}{name}*" for name in WITHDRAWN] if role is Role.WRITER else [f"{objects}*"]
    return [
        _allow("", ["oss:ListObjects"], [f"acs:oss:*:*:{bucket}"], **within),
        _allow("", ["oss:GetObject"], [f"{objects}*"]),
        _allow("", ["oss:PutObject"], written),
        _allow("", ["oss:DeleteObject"], removed),
    ]


def _folders() -> Sequence[str]:
    return [name for name in (*WRITTEN, *KEPT_FROM_WRITERS) if name.endswith("/")]


def _allow(sid: str, actions: Sequence[str], resources: Sequence[str], **condition: object) -> JSONObject:
    named = {"Sid": f"Holdfast{sid}"} if sid else {}
    return {**named, "Effect": "Allow", "Action": list(actions), "Resource": list(resources), **condition}
