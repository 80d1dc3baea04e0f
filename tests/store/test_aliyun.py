"""Aliyun: endpoints, and the role of an ECS instance, asked of a real server that answers as the metadata service."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from holdfast.errors import ConfigError, PermissionRefused, StoreBusy, StoreUnreachable
from holdfast.store import aliyun
from holdfast.store.aliyun import EcsRole, internal_endpoint, own_identity, unreachable_hint
from holdfast.store.calls import TimeLimits
from holdfast.store.identity import Credentials, Renewed
from holdfast.store.objects import ObjectStore
from holdfast.store.service import Service as Row
from holdfast.store.service import arguments
from holdfast.store.services import OSS, OSS_V1
from tests.store import signing
from tests.store.clocks import TestClock
from tests.store.peers import Request, Serve, answer, deaf, peer, requests, silent
from tests.store.wire import Service

ROLES = "/latest/meta-data/ram/security-credentials/"
QUICK = TimeLimits(base_s=0.5)


class Metadata:
    """The metadata service of one instance; ``hardened`` demands the token, as an instance can be set to."""

    def __init__(self, *, role: str = "backup", hardened: bool = True, valid: timedelta = timedelta(hours=6)) -> None:
        self.asked: list[str] = []
        self.role = role
        self.hardened = hardened
        self.valid = valid
        self.now = TestClock().now
        self.number = 0
        self.status = 200

    def serve(self, connection: socket.socket, _over: threading.Event) -> None:
        for request in requests(connection):
            self.asked.append(f"{request.method} {request.target}")
            answer(connection, *self._answer(request))

    def _answer(self, request: Request) -> tuple[int, bytes]:
        if self.status != 200:
            return self.status, b"<html>"
        if request.target == "/latest/api/token":
            assert int(request.headers["x-aliyun-ecs-metadata-token-ttl-seconds"]) > 0
            return (200, b"metadata-token") if self.hardened else (404, b"")
        if self.hardened and request.headers.get("x-aliyun-ecs-metadata-token") != "metadata-token":
            return 403, b""
        if request.target == ROLES:
            return (200, self.role.encode()) if self.role else (404, b"")
        assert request.target == ROLES + self.role
        self.number += 1
        expires = (self.now() + self.valid).strftime("%Y-%m-%dT%H:%M:%SZ")
        found = {"Code": "Success", "AccessKeyId": f"STS.{self.number}", "AccessKeySecret": "s", "Expiration": expires}
        return 200, json.dumps({**found, "SecurityToken": f"token-{self.number}"}).encode()


@pytest.mark.parametrize("hardened", [True, False])
def test_the_role_of_an_instance(hardened: bool) -> None:
    metadata = Metadata(hardened=hardened)
    with peer(metadata.serve) as address:
        found = EcsRole(f"http://{address}").credentials()
    assert metadata.asked == ["PUT /latest/api/token", f"GET {ROLES}", f"GET {ROLES}backup"]
    assert (found.access_key_id, found.access_key_secret, found.session_token) == ("STS.1", "s", "token-1")
    assert found.expires == datetime(2026, 11, 22, 6, tzinfo=UTC)
    assert "token-1" not in repr(found)


def test_a_proxy_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with peer(Metadata().serve) as address:
        assert EcsRole(f"http://{address}").credentials().access_key_id == "STS.1"


def test_an_instance_without_a_role_says_so() -> None:
    with peer(Metadata(role="").serve) as address, pytest.raises(PermissionRefused, match="no RAM role") as caught:
        EcsRole(f"http://{address}").credentials()
    assert "access_key_id" in caught.value.hint


@pytest.mark.parametrize("serve", [silent, deaf])
def test_a_machine_elsewhere_learns_it_soon(serve: Serve) -> None:
    with peer(serve) as address:
        began = time.monotonic()
        with pytest.raises(StoreUnreachable, match="no access key for OSS") as caught:
            EcsRole(f"http://{address}", limit_s=0.3).credentials()
        assert time.monotonic() - began < 2
    assert not isinstance(caught.value, StoreBusy)
    with pytest.raises(StoreUnreachable):
        EcsRole(f"http://{address}").credentials()
    assert aliyun._LIMIT_S <= 3


def test_a_fault_of_the_metadata_service_passes() -> None:
    metadata = Metadata()
    metadata.status = 503
    with peer(metadata.serve) as address, pytest.raises(StoreBusy, match="503"):
        EcsRole(f"http://{address}").credentials()


def test_credentials_are_renewed_well_before_they_expire() -> None:
    clock = TestClock()
    metadata = Metadata(valid=timedelta(hours=1))
    metadata.now = clock.now
    with peer(metadata.serve) as address:
        renewed = Renewed(EcsRole(f"http://{address}").credentials, clock=clock)
        first = renewed.current()
        clock.sleep(44 * 60)
        assert renewed.current() is first
        clock.sleep(2 * 60)
        second = renewed.current()
        assert second.access_key_id == "STS.2"
        metadata.status = 503  # a renewal that fails costs nothing while the old ones are good …
        clock.sleep(50 * 60)
        assert renewed.current() is second
        asked = len(metadata.asked)
        clock.sleep(10)
        assert renewed.current() is second
        assert len(metadata.asked) == asked, "… and is not tried again at each call"
        clock.sleep(30)
        assert renewed.current() is second
        assert len(metadata.asked) > asked
        clock.sleep(9 * 60)
        with pytest.raises(StoreBusy):
            renewed.current()
        metadata.status = 200
        assert renewed.current().access_key_id == "STS.3"


def test_what_the_environment_holds_goes_before_the_role() -> None:
    for names in (
        {
            "ALIBABA_CLOUD_ACCESS_KEY_ID": "A",
            "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "B",
            "ALIBABA_CLOUD_SECURITY_TOKEN": "C",
        },
        {"OSS_ACCESS_KEY_ID": "A", "OSS_ACCESS_KEY_SECRET": "B", "OSS_SESSION_TOKEN": "C"},
    ):
        found = own_identity(names, clock=TestClock()).current()
        assert found == Credentials(access_key_id="A", access_key_secret="B", session_token="C")
    with peer(Metadata().serve) as address:
        partly = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "A"}
        found = own_identity(partly, clock=TestClock(), metadata=f"http://{address}").current()
    assert found.access_key_id == "STS.1"


OSS_BY_PATH = replace(OSS, fixed={name: value for name, value in OSS.fixed.items() if "host" not in name})
"""An address of numbers cannot have the bucket before it."""


def test_a_store_goes_on_with_renewed_credentials() -> None:
    """Each request is signed with what holds then, and carries its token."""
    clock = TestClock()
    metadata = Metadata(valid=timedelta(hours=1))
    metadata.now = clock.now
    service = Service()
    with peer(metadata.serve) as address, peer(service.serve) as oss:
        identity = own_identity({}, clock=clock, metadata=f"http://{address}")
        options = {"endpoint": f"http://{oss}", "region": "cn-shanghai"}
        store = ObjectStore(OSS_BY_PATH, bucket="bucket-1", prefix="", options=options, limits=QUICK, identity=identity)
        assert not metadata.asked, "nobody is spoken to yet"
        store.put("a", b"1")
        store.put("b", b"1")
        clock.sleep(50 * 60)
        store.put("c", b"1")
    assert [one.headers["x-amz-security-token"] for one in service.seen] == ["token-1", "token-1", "token-2"]
    for request in service.seen:
        assert request.headers["authorization"] == signing.sigv4(request, "s")
    assert "Credential=STS.2/" in service.seen[-1].headers["authorization"]


def test_what_hinders_the_identity_comes_out_of_the_store() -> None:
    with peer(Metadata(role="").serve) as address:
        identity = own_identity({}, clock=TestClock(), metadata=f"http://{address}")
        options = {"endpoint": "http://127.0.0.1:1", "region": "cn-shanghai"}
        store = ObjectStore(OSS, bucket="bucket-1", prefix="", options=options, limits=QUICK, identity=identity)
        with pytest.raises(PermissionRefused, match="no RAM role"):
            store.put("a", b"1")


@pytest.mark.parametrize(
    ("endpoint", "internal"),
    [
        ("https://oss-cn-shanghai.aliyuncs.com", "https://oss-cn-shanghai-internal.aliyuncs.com"),
        ("https://oss-cn-shanghai.aliyuncs.com/", "https://oss-cn-shanghai-internal.aliyuncs.com"),
        ("oss-ap-southeast-1.aliyuncs.com", "https://oss-ap-southeast-1-internal.aliyuncs.com"),
        ("https://s3.oss-us-east-1.aliyuncs.com", "https://s3.oss-us-east-1-internal.aliyuncs.com"),
        ("https://oss-cn-shanghai-internal.aliyuncs.com", None),
        ("https://oss-accelerate.aliyuncs.com", None),
        ("https://backups.example.com", None),
        ("https://s3.amazonaws.com", None),
        ("", None),
    ],
)
def test_the_internal_twin_of_an_endpoint(endpoint: str, internal: str | None) -> None:
    assert internal_endpoint(endpoint) == internal


def told(options: Mapping[str, str], service: Row = OSS) -> Mapping[str, str]:
    return arguments(service, bucket="bucket-1", prefix="p", options=options)


@pytest.mark.parametrize(
    ("options", "endpoint", "region"),
    [
        (
            {"endpoint": "https://oss-cn-shanghai.aliyuncs.com"},
            "https://s3.oss-cn-shanghai.aliyuncs.com",
            "cn-shanghai",
        ),
        ({"endpoint": "oss-cn-beijing.aliyuncs.com/"}, "https://s3.oss-cn-beijing.aliyuncs.com", "cn-beijing"),
        ({"region": "cn-shenzhen"}, "https://s3.oss-cn-shenzhen.aliyuncs.com", "cn-shenzhen"),
        ({"region": "oss-cn-shenzhen"}, "https://s3.oss-cn-shenzhen.aliyuncs.com", "cn-shenzhen"),
        (
            {"endpoint": "https://bucket-1.oss-cn-hangzhou-internal.aliyuncs.com"},
            "https://s3.oss-cn-hangzhou-internal.aliyuncs.com",
            "cn-hangzhou",
        ),
        ({"endpoint": "http://oss.local:8080", "region": "x"}, "http://oss.local:8080", "x"),
    ],
)
def test_endpoint_and_region(options: Mapping[str, str], endpoint: str, region: str) -> None:
    found = told(options)
    assert (found["endpoint"], found["region"]) == (endpoint, region)
    assert found["enable_virtual_host_style"] == "true"
    older = told(options, OSS_V1)
    assert older["endpoint"] == endpoint.replace("://s3.", "://")
    assert "region" not in older


@pytest.mark.parametrize(
    "options", [{}, {"endpoint": "https://backups.example.com"}, {"endpoint": "https://oss-accelerate.aliyuncs.com"}]
)
def test_an_endpoint_or_a_region_that_is_missing_is_asked_for(options: Mapping[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        told(options)
    assert "cn-shanghai" in caught.value.hint


def test_an_internal_endpoint_that_does_not_answer_says_where_it_would() -> None:
    assert "same region" in unreachable_hint("https://oss-cn-shanghai-internal.aliyuncs.com")
    assert unreachable_hint("https://oss-cn-shanghai.aliyuncs.com") == ""
    options = {"endpoint": "http://oss-cn-nowhere-internal.aliyuncs.com.invalid", "region": "x"}
    options |= {"access_key_id": "a", "access_key_secret": "b"}
    for service in (OSS, OSS_V1):
        store = ObjectStore(service, bucket="bucket-1", prefix="", options=options, limits=QUICK)
        with pytest.raises(StoreUnreachable) as caught:
            store.get("a")
        assert "-internal" in caught.value.hint
