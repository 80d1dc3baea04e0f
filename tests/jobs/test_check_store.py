"""What `check` says of a store: each shortcoming with its remedy, and nothing of a store that has none."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from holdfast.jobs.check_store import check_endpoint, policies, store_findings
from holdfast.postgres.finding import Finding, Status
from holdfast.store.ecs import ecs_region
from holdfast.store.policy import Role
from holdfast.store.port import Traits
from holdfast.store.probing import Abilities, Deletes, Transfer

URL = "s3://bucket/prefix"
GOOD = Abilities(
    creates_exclusively=True,
    reads_back=True,
    reads_ranges=True,
    replaces=True,
    lists_at_once=True,
    clock_ahead=timedelta(seconds=-3),
    deletes=Deletes.GONE,
    large=Transfer(size=16 << 20, put_s=1.0, get_s=0.5, intact=True),
    traits=Traits(syncs=True, ranges=True, keeps_versions=False),
)


def of(abilities: Abilities) -> dict[str, Finding]:
    return {finding.name: finding for finding in store_findings(abilities, URL)}


def test_a_good_store_has_nothing_to_mend() -> None:
    found = of(GOOD)
    assert set(found) == {"store", "create_if_absent", "speed"}
    assert all(finding.status is Status.OK and not finding.remedy for finding in found.values())
    assert "16 MiB went there at 16.8 MB/s and came back at 33.6 MB/s" in found["speed"].what


@pytest.mark.parametrize(
    ("abilities", "name", "status", "said"),
    [
        (replace(GOOD, reads_back=False), "store", Status.FAILED, "other bytes"),
        (replace(GOOD, reads_ranges=False), "store", Status.FAILED, "other bytes"),
        (replace(GOOD, large=replace(GOOD.large, intact=False)), "store", Status.FAILED, "other bytes"),
        (replace(GOOD, lists_at_once=False), "listing", Status.FAILED, "counts as lost"),
        (replace(GOOD, replaces=False), "replaces", Status.WARNING, "cache"),
        (replace(GOOD, clock_ahead=timedelta(minutes=6)), "clocks", Status.WARNING, "0:06:00 ahead"),
        (replace(GOOD, clock_ahead=timedelta(minutes=-6)), "clocks", Status.WARNING, "0:06:00 behind"),
        (replace(GOOD, deletes=Deletes.REFUSED), "deletes", Status.WARNING, "nothing is ever expired"),
        (replace(GOOD, deletes=Deletes.STILL_READ), "deletes", Status.WARNING, "still gives back"),
        (replace(GOOD, deletes=Deletes.STILL_LISTED), "deletes", Status.WARNING, "still lists"),
        (replace(GOOD, traits=Traits(keeps_versions=True)), "deletes", Status.WARNING, "older versions"),
        (replace(GOOD, traits=Traits(ranges=False)), "ranges", Status.WARNING, "whole objects"),
        (replace(GOOD, traits=Traits(syncs=False)), "syncs", Status.WARNING, "loses power"),
        (replace(GOOD, large=replace(GOOD.large, get_s=60)), "speed", Status.WARNING, "0.28 MB/s"),
    ],
)
def test_each_shortcoming_is_told_with_its_remedy(abilities: Abilities, name: str, status: Status, said: str) -> None:
    finding = of(abilities)[name]
    assert (finding.status, bool(finding.remedy)) == (status, True)
    assert said in finding.what


def test_what_is_only_said() -> None:
    assert of(replace(GOOD, replaces=None))["replaces"].status is Status.OK
    inclusive = of(replace(GOOD, creates_exclusively=False))["create_if_absent"]
    assert inclusive.status is Status.OK
    assert "cannot create only what is absent" in inclusive.what
    assert "store" not in of(replace(GOOD, deletes=Deletes.REFUSED))  # "works" would be too much


def test_the_internal_endpoint_is_named_where_it_would_answer() -> None:
    public = "https://oss-cn-shanghai.aliyuncs.com"
    (finding,) = check_endpoint("oss://bucket/p", public, region=lambda: "cn-shanghai")
    assert finding.status is Status.WARNING
    assert '"https://oss-cn-shanghai-internal.aliyuncs.com"' in finding.remedy
    assert check_endpoint("oss://bucket/p", public, region=lambda: "cn-beijing") == []
    assert check_endpoint("oss://bucket/p", public, region=lambda: "") == []

    def never() -> str:
        raise AssertionError("nobody is asked for nothing")

    for url, endpoint in {
        "s3://bucket/p": public,
        "oss://bucket/p": "https://oss-cn-shanghai-internal.aliyuncs.com",
        "oss://bucket/q": "",
    }.items():
        assert check_endpoint(url, endpoint, region=never) == []


@contextmanager
def metadata(answers: Mapping[tuple[str, str], tuple[int, str]], *, token: str = "") -> Iterator[str]:
    """A metadata service; with ``token``, in the hardened mode."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            status, text = answers.get((self.command, self.path), (404, ""))
            if self.command == "GET" and token and self.headers["X-aliyun-ecs-metadata-token"] != token:
                status, text = 403, "forbidden"
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PUT = _answer  # noqa: N815  the names that http.server looks for

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


REGION = ("GET", "/latest/meta-data/region-id")
TOKEN = ("PUT", "/latest/api/token")


def test_where_an_instance_is() -> None:
    with metadata({REGION: (200, "cn-shanghai")}) as address:
        assert ecs_region(address) == "cn-shanghai"
    with metadata({REGION: (200, "cn-shanghai"), TOKEN: (200, "secret")}, token="secret") as address:
        assert ecs_region(address) == "cn-shanghai"


def test_what_is_no_instance() -> None:
    with metadata({}) as address:
        assert ecs_region(address) == ""
    with metadata({REGION: (200, "<html>a proxy's page</html>")}) as address:
        assert ecs_region(address) == ""
    assert ecs_region(address) == ""  # nobody listens any more


def test_policies_of_a_url() -> None:
    found = policies("s3://bucket/some/prefix/")
    assert found is not None
    assert set(found) == set(Role)
    assert "arn:aws:s3:::bucket/some/prefix/data/*" in str(found[Role.WRITER])
    assert "acs:oss:*:*:bucket/data/*" in str(policies("oss://bucket"))
    for url in ("file:///folder", "sftp://host/folder", "gs://bucket/prefix"):
        assert policies(url) is None
