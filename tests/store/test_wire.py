"""What goes over the wire to each service: address, headers, and signatures, confirmed by a computation of our own."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

import pytest

from tests.store import signing
from tests.store.peers import Request
from tests.store.wire import AzureService, GoogleService, Service, spoken

KEY = {"access_key_id": "AKIDTEST", "access_key_secret": "the-secret-key"}
TOKEN = {"session_token": "the+session/token=="}
AZURE_KEY = base64.b64encode(b"the-azure-key").decode()
GOT = ["012", "45", "0123456789"]
LISTED = ["data/name", "data/new"]


def sent_plainly(seen: Sequence[Request], host: str, path: str) -> None:
    """Every request goes to ``host`` and below ``path``; bodies are whole, with their length, as they are."""
    for request in seen:
        parts = urlsplit(request.target)
        assert parts.netloc == request.headers["host"] == host
        if "prefix" not in parts.query:
            assert parts.path.startswith(f"{path}/backups/data/")
        assert "transfer-encoding" not in request.headers
        assert "content-encoding" not in request.headers
        assert "aws-chunked" not in str(request.headers)
    puts = [request for request in seen if request.method == "PUT"]
    assert [request.body for request in puts[:2]] == [b"0123456789", b""]
    assert all(int(request.headers["content-length"]) == len(request.body) for request in puts)


def methods(seen: Sequence[Request]) -> list[str]:
    return [request.method for request in seen]


@pytest.mark.parametrize("token", [{}, TOKEN], ids=["key", "session"])
@pytest.mark.parametrize(
    ("addressing", "host", "path"),
    [("path", "s3.example.com", "/bucket-1"), ("virtual", "bucket-1.s3.example.com", "")],
)
def test_s3(addressing: str, host: str, path: str, token: Mapping[str, str]) -> None:
    options = {**KEY, **token, "endpoint": "http://s3.example.com", "region": "eu-north-7", "addressing": addressing}
    seen, found = spoken(Service(condition="if-none-match"), "s3://bucket-1/backups", options)
    assert found == {"again": "ObjectExists", "got": GOT, "listed": LISTED}
    sent_plainly(seen, host, path)
    for request in seen:
        assert request.headers["authorization"] == signing.sigv4(request, KEY["access_key_secret"])
        assert "/eu-north-7/s3/aws4_request" in request.headers["authorization"]
        assert request.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
        assert request.headers.get("x-amz-security-token") == token.get("session_token")
        if token:
            assert "x-amz-security-token" in request.headers["authorization"]


@pytest.mark.parametrize("token", [{}, TOKEN], ids=["key", "session"])
@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("http://oss-cn-shanghai.aliyuncs.com", "bucket-1.s3.oss-cn-shanghai.aliyuncs.com"),
        ("http://oss-cn-shanghai-internal.aliyuncs.com", "bucket-1.s3.oss-cn-shanghai-internal.aliyuncs.com"),
        ("http://bucket-1.s3.oss-cn-shanghai.aliyuncs.com/", "bucket-1.s3.oss-cn-shanghai.aliyuncs.com"),
    ],
)
def test_oss(endpoint: str, host: str, token: Mapping[str, str]) -> None:
    """OSS does not know S3's condition (501): the second create is then a plain put."""
    service = Service(condition="if-none-match", takes_condition=False)
    seen, found = spoken(service, "oss://bucket-1/backups", {**KEY, **token, "endpoint": endpoint})
    assert found == {"again": "put", "got": GOT, "listed": LISTED}
    sent_plainly([request for request in seen if "if-none-match" not in request.headers], host, "")
    for request in seen:
        assert request.headers["authorization"] == signing.sigv4(request, KEY["access_key_secret"])
        assert "/cn-shanghai/s3/aws4_request" in request.headers["authorization"]
        assert request.headers.get("x-amz-security-token") == token.get("session_token")
    asked = [request for request in seen if "if-none-match" in request.headers]
    assert len(asked) == 1, "the condition is tried once"


def test_oss_at_a_custom_domain_that_begins_with_the_bucket() -> None:
    options = {**KEY, "endpoint": "http://bucket-1.backups.example.com", "region": "cn-hangzhou"}
    seen, found = spoken(Service(), "oss://bucket-1/backups", options)
    assert found["got"] == GOT
    sent_plainly(seen, "bucket-1.backups.example.com", "")
    assert all(one.headers["authorization"] == signing.sigv4(one, KEY["access_key_secret"]) for one in seen)


@pytest.mark.parametrize("token", [{}, TOKEN], ids=["key", "session"])
def test_oss_signed_as_it_was(token: Mapping[str, str]) -> None:
    service = Service(condition="x-oss-forbid-overwrite")
    options = {**KEY, **token, "endpoint": "http://oss-cn-shanghai.aliyuncs.com", "signature": "v1"}
    ambient = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "AMBIENT", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "x"}
    ambient["ALIBABA_CLOUD_SECURITY_TOKEN"] = "ambient"
    seen, found = spoken(service, "oss://bucket-1/backups", options, ambient)
    assert found == {"again": "ObjectExists", "got": GOT, "listed": LISTED}
    sent_plainly(seen, "bucket-1.oss-cn-shanghai.aliyuncs.com", "")
    for request in seen:
        assert request.headers["authorization"] == signing.oss_v1(request, KEY["access_key_secret"])
        assert request.headers["authorization"].startswith("OSS AKIDTEST:")
        assert request.headers.get("x-oss-security-token") == token.get("session_token")
    creates = [request for request in seen if "x-oss-forbid-overwrite" in request.headers]
    assert [request.headers["x-oss-forbid-overwrite"] for request in creates] == ["true", "true"]


def test_oss_finds_keys_in_the_environment() -> None:
    variables = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "AKIDTEST", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "the-secret-key"}
    variables |= {"AWS_ACCESS_KEY_ID": "AMBIENT", "AWS_SECRET_ACCESS_KEY": "x", "AWS_SESSION_TOKEN": "ambient"}
    variables |= {"AWS_REGION": "eu-ambient-1", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    options = {"endpoint": "http://oss-cn-shanghai.aliyuncs.com"}
    seen, _found = spoken(Service(), "oss://bucket-1/backups", options, variables)
    for request in seen:
        assert request.headers["authorization"] == signing.sigv4(request, KEY["access_key_secret"])
        assert "Credential=AKIDTEST/" in request.headers["authorization"]
        assert "x-amz-security-token" not in request.headers


@pytest.mark.parametrize("token", [{}, TOKEN], ids=["key", "session"])
def test_cos(token: Mapping[str, str]) -> None:
    service = Service(condition="x-cos-forbid-overwrite")
    options = {**KEY, **token, "endpoint": "http://cos.ap-shanghai.myqcloud.com"}
    seen, found = spoken(service, "cos://bucket-1/backups", options, {"TENCENTCLOUD_TOKEN": "ambient"})
    assert found == {"again": "ObjectExists", "got": GOT, "listed": LISTED}
    sent_plainly(seen, "bucket-1.cos.ap-shanghai.myqcloud.com", "")
    for request in seen:
        told = request.headers["authorization"]
        assert told.endswith(f"&q-signature={signing.cos(request, KEY['access_key_secret'])}")
        assert request.headers.get("x-cos-security-token") == token.get("session_token")


@pytest.mark.parametrize(
    ("url", "endpoint", "host", "path", "region"),
    [
        (
            "obs",
            "http://obs.cn-north-4.myhuaweicloud.com",
            "bucket-1.obs.cn-north-4.myhuaweicloud.com",
            "",
            "cn-north-4",
        ),
        ("b2", "http://s3.us-west-004.backblazeb2.com", "s3.us-west-004.backblazeb2.com", "/bucket-1", "us-west-004"),
    ],
)
def test_those_spoken_to_through_their_s3_interface(url: str, endpoint: str, host: str, path: str, region: str) -> None:
    variables = {"AWS_SESSION_TOKEN": "ambient", "AWS_REGION": "eu-ambient-1", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    options = {**KEY, "endpoint": endpoint}
    seen, found = spoken(Service(condition="if-none-match"), f"{url}://bucket-1/backups", options, variables)
    assert found == {"again": "ObjectExists", "got": GOT, "listed": LISTED}
    sent_plainly(seen, host, path)
    for request in seen:
        assert request.headers["authorization"] == signing.sigv4(request, KEY["access_key_secret"])
        assert f"/{region}/s3/aws4_request" in request.headers["authorization"]
        assert "x-amz-security-token" not in request.headers


def test_azure() -> None:
    options = {"account_name": "acc", "account_key": AZURE_KEY, "endpoint": "http://acc.blob.core.windows.net"}
    service = AzureService(condition="if-none-match")
    seen, found = spoken(service, "azblob://bucket-1/backups", options, {"AZURE_STORAGE_SAS_TOKEN": "sig=ambient"})
    assert found == {"again": "ObjectExists", "got": GOT, "listed": LISTED}
    sent_plainly(seen, "acc.blob.core.windows.net", "/bucket-1")
    for request in seen:
        assert request.headers["authorization"] == signing.azure(request, "acc", AZURE_KEY)
    assert all(request.headers["x-ms-blob-type"] == "BlockBlob" for request in seen if request.method == "PUT")


def test_azure_with_a_shared_access_signature() -> None:
    options = {"account_name": "acc", "sas_token": "?sv=1&sig=abc", "endpoint": "http://acc.blob.core.windows.net"}
    seen, found = spoken(AzureService(condition="if-none-match"), "azblob://bucket-1/backups", options)
    assert found == {"again": "ObjectExists", "got": GOT, "listed": LISTED}
    for request in seen:
        assert "sv=1&sig=abc" in request.target
        assert "authorization" not in request.headers


def test_google() -> None:
    options = {"token": "the-token", "endpoint": "http://storage.googleapis.com"}
    seen, found = spoken(GoogleService(), "gs://bucket-1/backups", options)
    assert found == {"again": "ObjectExists", "got": GOT, "listed": LISTED}
    for request in seen:
        parts = urlsplit(request.target)
        assert parts.netloc == request.headers["host"] == "storage.googleapis.com"
        assert parts.path.startswith(("/storage/v1/b/bucket-1/o", "/upload/storage/v1/b/bucket-1/o"))
        assert (
            "backups%2Fdata%2F" in request.target or "prefix=backups" in request.target or "upload_id" in request.target
        )
        if "upload_id" not in request.target:  # the second step's address is a secret itself
            assert request.headers["authorization"] == "Bearer the-token"
        assert "transfer-encoding" not in request.headers


WRONG: Mapping[str, Callable[[Request], str]] = {
    "sigv4": lambda request: signing.sigv4(request, "another"),
    "oss": lambda request: signing.oss_v1(request, "another"),
}


def test_the_computation_tells_a_wrong_secret() -> None:
    options = {**KEY, "endpoint": "http://oss-cn-shanghai.aliyuncs.com"}
    for name, extra in (("sigv4", {}), ("oss", {"signature": "v1"})):
        seen, _found = spoken(Service(), "oss://bucket-1/backups", {**options, **extra})
        assert seen
        assert all(request.headers["authorization"] != WRONG[name](request) for request in seen)
        assert methods(seen)[0] == "PUT"
