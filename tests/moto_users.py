"""moto as a server that enforces the policies of its users (their conditions aside, which it does not know for S3)."""

from __future__ import annotations

import http.client
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tests.object_servers import moto_server


@dataclass(frozen=True, slots=True, kw_only=True)
class MotoUser:
    options: Mapping[str, str]
    """For ``open_store``."""


@contextmanager
def moto_with_users(bucket: str, policies: Mapping[str, str]) -> Iterator[Mapping[str, MotoUser]]:
    """A user for each of ``policies`` (by name, JSON), and the ``bucket``."""
    with moto_server() as server:
        server.create_bucket(bucket)
        iam = importlib.import_module("boto3").client(
            "iam",
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            aws_access_key_id=server.access_key_id,
            aws_secret_access_key=server.access_key_secret,
        )
        users: dict[str, MotoUser] = {}
        for name, document in policies.items():
            iam.create_user(UserName=name)
            iam.put_user_policy(UserName=name, PolicyName="least", PolicyDocument=document)
            key = iam.create_access_key(UserName=name)["AccessKey"]
            users[name] = MotoUser(
                options={
                    "endpoint": server.endpoint,
                    "region": "us-east-1",
                    "access_key_id": key["AccessKeyId"],
                    "access_key_secret": key["SecretAccessKey"],
                }
            )
        iam.close()
        connection = http.client.HTTPConnection(server.address, timeout=30)
        try:
            connection.request("POST", "/moto-api/reset-auth", b"0")
            assert connection.getresponse().status == 200
        finally:
            connection.close()
        yield users
