"""Object stores: services that die, crawl, lie, refuse or disappear."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import (
    ConfigError,
    HoldfastError,
    NoSpace,
    ObjectExists,
    ObjectMissing,
    PermissionRefused,
    StoreBusy,
    StoreUnreachable,
)
from holdfast.store.calls import TimeLimits
from holdfast.store.objects import ObjectStore
from holdfast.store.port import Store
from holdfast.store.retrying import Patience, RetryingStore
from holdfast.store.service import Service, arguments
from holdfast.store.services import AZURE, COS, S3, WEBDAV, WEBDAV_PLAIN
from tests.object_servers import FolderServer, ObjectServer
from tests.store.conftest import BUCKET, object_store
from tests.store.peers import (
    Request,
    Serve,
    answer,
    answering,
    breaking_off,
    deaf,
    dripping,
    forwarding,
    peer,
    requests,
    resetting,
    silent,
)

SECRET = "the-secret-key"
QUICK = TimeLimits(base_s=0.5, bytes_per_second=1 << 20, unknown_bytes=1 << 19)


def at(address: str, *, limits: TimeLimits | None = QUICK, prefix: str = "p", **options: str) -> ObjectStore:
    given = {"endpoint": f"http://{address}", "access_key_id": "AKIDTEST", "access_key_secret": SECRET, **options}
    return ObjectStore(S3, bucket=BUCKET, prefix=prefix, options=given, limits=limits)


def retried(store: Store) -> RetryingStore:
    patience = Patience(budget_s=10, first_pause_s=0.01)
    return RetryingStore(store, clock=SystemClock(), jitter=random.Random(1), patience=patience)


CALLS: dict[str, Callable[[Store], object]] = {
    "put": lambda store: store.put("name", b"x" * 100),
    "create": lambda store: store.put("name", b"x" * 100, if_absent=True),
    "get": lambda store: store.get("name"),
    "range": lambda store: store.get("name", 5, 10),
    "list": lambda store: list(store.list("")),
    "delete": lambda store: store.delete("name"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("serve", [silent, deaf, resetting, answering(503), answering(500), answering(429)])
def test_a_peer_that_fails_is_busy_within_the_limit(serve: Serve, call: Callable[[Store], object]) -> None:
    with peer(serve) as address:
        store = at(address)
        began = time.monotonic()
        with pytest.raises(StoreBusy):
            call(store)
        assert time.monotonic() - began < 3


def test_a_dead_peer_does_not_take_a_large_put(rclone: ObjectServer) -> None:
    with peer(deaf) as address:
        store = at(address)
        began = time.monotonic()
        with pytest.raises(StoreBusy, match="no answer in time"):
            store.put("large", bytes(2 << 20))
        assert 2.3 < time.monotonic() - began < 5, "0.5 s and 2 MiB at 1 MiB/s"


def test_a_download_that_drips_ends_within_the_limit() -> None:
    with peer(dripping) as address:
        began = time.monotonic()
        with pytest.raises(StoreBusy):
            at(address).get("name")
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("call", [CALLS["get"], CALLS["range"], CALLS["list"]])
def test_an_answer_that_breaks_off_is_busy(call: Callable[[Store], object]) -> None:
    with peer(breaking_off) as address, pytest.raises(StoreBusy, match="end of file"):
        call(at(address))


def test_nobody_there_is_busy() -> None:
    with peer(deaf) as address:
        pass
    with pytest.raises(StoreBusy, match="refused") as caught:
        at(address).get("name")
    assert "endpoint" in caught.value.hint


def test_other_threads_go_on_while_a_listing_waits() -> None:
    with peer(silent) as address, ThreadPoolExecutor(1) as pool:
        listing = pool.submit(lambda: list(at(address).list("")))
        longest, last = 0.0, time.monotonic()
        while not listing.done():
            time.sleep(0.005)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        assert isinstance(listing.exception(), StoreBusy)
    assert longest < 0.4


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_503_twice_and_then_success(moto: ObjectServer, call: Callable[[Store], object]) -> None:
    left = [503, 503]
    with peer(forwarding(moto.address, lambda _request: left.pop() if left else None)) as address:
        at(moto.address, prefix="busy", limits=None).put("name", b"x" * 100)
        call(retried(at(address, prefix="busy", limits=None)))
        assert not left


def test_a_lost_response_to_our_own_create_is_success(moto: ObjectServer) -> None:
    lost: list[Request] = []

    def lose_first_put(request: Request) -> int | None:
        if request.method == "PUT" and not lost:
            lost.append(request)
            return 503
        return None

    with peer(forwarding(moto.address, lose_first_put, after=True)) as address:
        store = retried(at(address, prefix="lost", limits=None))
        store.put("name", b"ours", if_absent=True)
        assert len(lost) == 1
        assert lost[0].headers["if-none-match"] == "*"
        assert store.get("name") == b"ours"
        with pytest.raises(ObjectExists):
            store.put("name", b"theirs", if_absent=True)


def test_a_bucket_that_goes_away_is_unreachable_not_empty(moto: ObjectServer) -> None:
    moto.create_bucket("short-lived")
    store = object_store(moto, "short-lived")
    store.put("name", b"1")
    assert store.get("name") == b"1"
    store.delete("name")
    with pytest.raises(ObjectMissing):
        store.get("name")
    moto.remove_bucket("short-lived")
    for call in (CALLS["put"], CALLS["create"], CALLS["get"], CALLS["range"], CALLS["list"]):
        with pytest.raises(StoreUnreachable, match="NoSuchBucket") as caught:
            call(store)
        assert not isinstance(caught.value, StoreBusy)
        assert "bucket" in caught.value.hint
    with pytest.raises(StoreUnreachable):
        store.exclusive_create()


@pytest.mark.parametrize("body", [b"", b"<html>Not Found</html>"])
def test_a_404_of_something_else_is_not_absence(body: bytes) -> None:
    with peer(answering(404, body)) as address:
        for call in (CALLS["put"], CALLS["create"], CALLS["get"], CALLS["range"], CALLS["list"]):
            with pytest.raises(StoreUnreachable) as caught:
                call(at(address))
            assert "404" in str(caught.value)


LISTING = "<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>{}</ListBucketResult>"
CONTENTS = (
    "<Contents><Key>p/name</Key><Size>1</Size><LastModified>2026-11-22T00:00:00.000Z</LastModified>"
    '<ETag>"0"</ETag></Contents>'
)


@pytest.mark.parametrize(("contents", "error"), [("", ObjectMissing), (CONTENTS, StoreBusy)])
def test_a_404_without_a_code_is_settled_by_a_listing(contents: str, error: type[HoldfastError]) -> None:
    def serve(connection: socket.socket, over: threading.Event) -> None:
        for request in requests(connection):
            if "list-type" in request.target:
                answer(connection, 200, LISTING.format(contents).encode())
            else:
                answer(connection, 404)

    with peer(serve) as address, pytest.raises(error):
        at(address).get("name")


def test_a_service_that_ignores_ranges_is_corrected(moto: ObjectServer) -> None:
    with peer(forwarding(moto.address, lambda _request: None, drop_range=True)) as address:
        store = at(address, prefix="whole", limits=None)
        for content in (b"", b"0", b"01", b"01234"):
            store.put("object", content)
            for start in range(len(content) + 2):
                for length in (None, *range(len(content) + 2)):
                    expected = content[start : None if length is None else start + length]
                    assert store.get("object", start, length) == expected, (content, start, length)


def test_ranges_are_asked_for_once_they_are_proven(moto: ObjectServer) -> None:
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.headers.get("range", "all"))

    with peer(forwarding(moto.address, note)) as address:
        store = at(address, prefix="ranges", limits=None)
        store.put("object", b"0123456789")
        asked.clear()
        assert store.get("object", 4, 3) == b"456"
        assert asked == ["bytes=3-6", "bytes=4-6"]
        asked.clear()
        assert store.get("object", 7, 3) == b"789"
        assert store.get("object", 0, 2) == b"01"
        assert asked == ["bytes=7-9", "bytes=0-1"]


def test_what_goes_over_the_wire_is_one_plain_put(moto: ObjectServer) -> None:
    seen: list[Request] = []
    with peer(forwarding(moto.address, seen.append)) as address:
        at(address, prefix="wire", limits=None).put("large", bytes(20 << 20))
        at(address, prefix="wire", limits=None).put("bytearray", bytearray(10))
    assert [(request.method, len(request.body)) for request in seen] == [("PUT", 20 << 20), ("PUT", 10)]
    for request in seen:
        assert request.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
        assert not [header for header in request.headers if "checksum" in header or header == "content-md5"]
        assert "transfer-encoding" not in request.headers
        assert "if-none-match" not in request.headers


def test_a_checksum_is_sent_if_asked_for(moto: ObjectServer) -> None:
    seen: list[Request] = []
    with peer(forwarding(moto.address, seen.append)) as address:
        at(address, prefix="wire", limits=None, checksum="md5").put("a", b"1")
        at(address, prefix="wire", limits=None, checksum="crc32c").put("a", b"1")
    assert "content-md5" in seen[0].headers
    assert "x-amz-checksum-crc32c" in seen[1].headers


def test_more_objects_than_a_page_are_all_listed(moto: ObjectServer) -> None:
    store = object_store(moto)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: store.put(f"many/{number}", b"1"), range(1100)))
    names = [listed.name for listed in store.list("many/")]
    assert len(names) == len(set(names)) == 1100


def test_rclone_is_found_out_to_ignore_the_condition(rclone: ObjectServer) -> None:
    store = object_store(rclone)
    assert not store.exclusive_create()
    assert [*store.list("")] == []


def test_who_we_are_is_refused(rclone: ObjectServer) -> None:
    options = {**rclone.options, "access_key_id": "NOBODY", "access_key_secret": SECRET}
    store = ObjectStore(S3, bucket=BUCKET, prefix="", options=options)
    for call in CALLS.values():
        with pytest.raises(PermissionRefused) as caught:
            call(store)
        assert "access key" in caught.value.hint
        assert SECRET not in str(caught.value)
        assert "NOBODY" not in str(caught.value)


def test_no_message_nor_traceback_carries_a_secret() -> None:
    echo = f"<Error><Code>InvalidArgument</Code><Message>bad {SECRET} of AKIDTEST</Message></Error>".encode()
    with peer(answering(400, echo)) as address, pytest.raises(StoreUnreachable) as caught:
        at(address).get("name")
    error: BaseException | None = caught.value
    assert "InvalidArgument" in str(error)
    while error is not None:
        assert SECRET not in str(error)
        assert "AKIDTEST" not in str(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("status", [507])
def test_a_full_service(status: int) -> None:
    with peer(answering(status)) as address, pytest.raises(NoSpace) as caught:
        at(address).put("name", b"1")
    assert caught.value.hint


def test_explicit_credentials_are_the_only_ones(moto: ObjectServer) -> None:
    """A child with other credentials, endpoint and region in its environment uses ours."""
    seen: list[Request] = []
    with peer(forwarding(moto.address, seen.append)) as address:
        script = (
            "import sys; from holdfast.store.objects import ObjectStore; from holdfast.store.services import S3\n"
            f"ObjectStore(S3, bucket={BUCKET!r}, prefix='', options=dict(endpoint='http://{address}', "
            "access_key_id='AKIDOURS', access_key_secret='s')).put('a', b'1')"
        )
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "AWS_ACCESS_KEY_ID": "AKIDAMBIENT",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_SESSION_TOKEN": "ambient-token",
            "AWS_REGION": "eu-ambient-1",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-X", "dev", "-c", script],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "Credential=AKIDOURS/" in seen[0].headers["authorization"]
    assert "/us-east-1/" in seen[0].headers["authorization"]
    assert "x-amz-security-token" not in seen[0].headers


def test_the_machines_own_identity_is_looked_up_only_without_credentials() -> None:
    lookups = {"disable_config_load", "disable_ec2_metadata"}
    given = {"access_key_id": "a", "access_key_secret": "b"}
    assert lookups <= arguments(S3, bucket=BUCKET, prefix="", options=given).keys()
    assert not lookups & arguments(S3, bucket=BUCKET, prefix="", options={"region": "x"}).keys()


def test_addressing(moto: ObjectServer) -> None:
    seen: list[Request] = []
    with peer(forwarding(moto.address, seen.append)) as address:
        port = address.rpartition(":")[2]
        at(f"localhost:{port}", limits=None, addressing="path").put("name", b"1")
        with pytest.raises(StoreBusy, match="bucket"):
            at(f"no-such-host.invalid:{port}", limits=None, addressing="virtual").put("name", b"1")
    assert seen[0].target == f"/{BUCKET}/p/name"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"acess_key_id": "a"}, "access_key_id"),
        ({"access_key_id": "a"}, "access_key_secret"),
        ({"access_key_secret": "a"}, "access_key_id"),
        ({"session_token": "a"}, "access_key_id"),
        ({"addressing": "virtaul"}, "virtual"),
        ({"disable_config_load": "true"}, "endpoint"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ObjectStore(S3, bucket=BUCKET, prefix="", options=options)
    assert told in caught.value.hint


def test_what_is_noticed_of_a_service(moto: ObjectServer) -> None:
    store = at(moto.address, prefix="traits", limits=None)
    store.put("name", b"0123456789")
    assert store.traits("name").ranges is None
    assert store.traits("name").keeps_versions is False
    assert store.get("name", 4, 3) == b"456"
    assert store.traits("name").ranges is True
    with peer(forwarding(moto.address, lambda _request: None, drop_range=True)) as address:
        other = at(address, prefix="traits", limits=None)
        assert other.get("name", 4, 3) == b"456"
        assert other.traits("name").ranges is False


def test_a_service_without_the_condition_gets_plain_puts(moto: ObjectServer) -> None:
    asked: list[str] = []

    def refuse_condition(request: Request) -> int | None:
        if "if-none-match" in request.headers:
            asked.append(request.target)
            return 501
        return None

    with peer(forwarding(moto.address, refuse_condition)) as address:
        store = at(address, prefix="plain", limits=None)
        store.put("name", b"1", if_absent=True)
        store.put("name", b"2", if_absent=True)
        assert store.get("name") == b"2"
        assert not store.exclusive_create()
    assert len(asked) == 1


def test_a_web_folder_that_is_gone_is_not_an_empty_store(webdav: FolderServer) -> None:
    webdav.ask("MKCOL", "/mounted")
    store = ObjectStore(WEBDAV_PLAIN, bucket=webdav.address, prefix="mounted", options=webdav.options)
    assert [*store.list("")] == []
    with pytest.raises(ObjectMissing):
        store.get("name")
    store.put("name", b"1")
    webdav.ask("DELETE", "/mounted")
    for call in (CALLS["get"], CALLS["range"], CALLS["list"]):
        with pytest.raises(StoreUnreachable, match="no such folder") as caught:
            call(store)
        assert not isinstance(caught.value, StoreBusy)
        assert "Create the folder" in caught.value.hint


def test_an_upload_to_a_web_folder_that_breaks_off_leaves_nothing_behind(webdav: FolderServer) -> None:
    webdav.ask("MKCOL", "/breaking")
    refused: list[str] = []

    def refuse_move(request: Request) -> int | None:
        if request.method == "MOVE":
            refused.append(request.target)
            return 503
        return None

    with peer(forwarding(webdav.address, refuse_move)) as address:
        store = ObjectStore(WEBDAV_PLAIN, bucket=address, prefix="breaking", options=webdav.options)
        with pytest.raises(StoreBusy):
            store.put("name", b"1")
        assert [*store.list("")] == []
        with pytest.raises(ObjectMissing):
            store.get("name")
    with pytest.raises(AssertionError, match="404"):
        webdav.ask("GET", refused[0])


def test_who_we_are_is_refused_by_a_web_folder(webdav: FolderServer) -> None:
    options = {**webdav.options, "password": SECRET}
    store = ObjectStore(WEBDAV_PLAIN, bucket=webdav.address, prefix="tests", options=options)
    for call in CALLS.values():
        with pytest.raises(PermissionRefused) as caught:
            call(store)
        assert SECRET not in str(caught.value)


def test_an_interpreter_that_ends_right_after_a_call_ends_well(moto: ObjectServer) -> None:
    """The client's own threads are still at work on the way back; one in our code would abort the process."""
    script = (
        "import sys; from holdfast.store.objects import ObjectStore; from holdfast.store.services import S3\n"
        f"store = ObjectStore(S3, bucket={BUCKET!r}, prefix='end', options={dict(moto.options)!r})\n"
        "store.put('a', b'1')\nstore.delete('a')"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    for _round in range(25):
        done = subprocess.run([sys.executable, "-c", script], env=environment, timeout=60, check=False)
        assert done.returncode == 0


def handshake_refused(connection: socket.socket, over: threading.Event) -> None:
    """A server without TLS: the handshake is a bad request to it."""
    connection.recv(1 << 12)
    answer(connection, 400)


def wants_tls(connection: socket.socket, over: threading.Event) -> None:
    connection.recv(1 << 12)
    answer(connection, 400, b"Client sent an HTTP request to an HTTPS server.\n")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize(
    ("serve", "written", "right", "said"),
    [(handshake_refused, "https", "http", "does not speak TLS"), (wants_tls, "http", "https", "speaks TLS only")],
)
def test_an_endpoint_of_the_other_protocol_is_told_at_once(
    serve: Serve, written: str, right: str, said: str, call: Callable[[Store], object]
) -> None:
    with peer(serve) as address:
        store = at(address, endpoint=f"{written}://{address}", limits=None)
        began = time.monotonic()
        with pytest.raises(StoreUnreachable, match=said) as caught:
            call(retried(store))
        assert "attempts" not in str(caught.value)
        assert f'endpoint = "{right}://{address}"' in caught.value.hint
        assert time.monotonic() - began < 5


def test_a_web_server_of_the_other_protocol_is_told_at_once() -> None:
    with peer(handshake_refused) as address:
        store = ObjectStore(WEBDAV, bucket=address, prefix="p", options={}, limits=QUICK)
        with pytest.raises(StoreUnreachable, match="does not speak TLS") as caught:
            retried(store).get("name")
        assert f"webdav+http://{address}" in caught.value.hint


def test_a_web_server_that_wants_credentials_and_got_none() -> None:
    with peer(answering(401)) as address:
        store = ObjectStore(WEBDAV_PLAIN, bucket=address, prefix="p", options={}, limits=QUICK)
        with pytest.raises(PermissionRefused) as caught:
            store.get("name")
        assert "WEBDAV_PASSWORD" in caught.value.hint


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any credentials, even of its own."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "TENCENTCLOUD_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("service", "options", "named"),
    [
        (S3, {"region": "us-east-1"}, ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "access_key_secret")),
        (COS, {"region": "ap-shanghai"}, ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY", "access_key_id")),
        (AZURE, {"account_name": "acc"}, ("AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "sas_token")),
    ],
)
def test_without_credentials_the_hint_names_them(service: Service, options: dict[str, str], named: list[str]) -> None:
    store = ObjectStore(service, bucket=BUCKET, prefix="p", options={**options, "endpoint": "http://127.0.0.1:1"})
    with pytest.raises(StoreUnreachable, match="no credentials") as caught:
        retried(store).get("name")
    assert all(name in caught.value.hint for name in named)
    assert "signing" not in str(caught.value)


@pytest.mark.usefixtures("bare")
def test_without_region_and_credentials_the_hint_names_both() -> None:
    with pytest.raises(ConfigError, match="s3://bucket-1/p needs the option region") as caught:
        ObjectStore(S3, bucket="bucket-1", prefix="p", options={})
    for name in ("--option region=", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "access_key_id"):
        assert name in caught.value.hint
    assert "detect_region" not in str(caught.value) + caught.value.hint
