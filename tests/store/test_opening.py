"""From URLs and options to stores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import ConfigError, StoreUnreachable
from holdfast.store.opening import open_store
from holdfast.store.port import Store
from tests.object_servers import FolderServer, ObjectServer
from tests.requirements import require
from tests.store.conftest import BUCKET


def opened(url: str, options: Mapping[str, str] | None = None, *, create: bool = False) -> Store:
    return open_store(url, options or {}, clock=SystemClock(), create=create)


def test_a_folder(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/a%20b"
    with pytest.raises(StoreUnreachable):
        opened(url)
    store = opened(url, create=True)
    store.put("a", b"1", if_absent=True)
    assert store.url == url
    assert (tmp_path / "a b" / "a").read_bytes() == b"1"
    assert opened(url).get("a") == b"1"
    assert opened(url + "/", create=True).get("a") == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["a b"]


def test_a_bucket(moto: ObjectServer) -> None:
    store = opened(f"s3://{BUCKET}/some/prefix/", moto.options)
    store.put("a", b"1", if_absent=True)
    assert store.url == f"s3://{BUCKET}/some/prefix"
    assert [listed.name for listed in opened(f"s3://{BUCKET}/some", moto.options).list("")] == ["prefix/a"]
    assert opened(f"s3://{BUCKET}", moto.options).get("some/prefix/a") == b"1"


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("/var/lib/repository", "file:///var/lib/repository"),
        ("repository", "file:///"),
        ("", "file:///"),
        ("file:repository", "three slashes"),
        ("file://repository", "three slashes"),
        ("file://host/repository", "three slashes"),
        ("file:///a/../b", "three slashes"),
        ("file:///", "three slashes"),
        ("s3:bucket", "s3://bucket/prefix"),
        ("fil:///a", "file://"),
        ("s33://bucket", "s3://"),
        ("oss://bucket", "endpoint"),
        ("gcs://bucket", "gs://"),
        ("azure://bucket", "azblob://"),
        ("azblob://bucket", "account"),
        ("webdav://host/a", "webdav+https://"),
        ("https://host/a", "webdav+https://"),
        ("webdav+https://host/a/../b", "webdav+https://host/folder"),
        ("webdav+https:///a", "webdav+https://host/folder"),
        ("swift://bucket", "supports file://, s3://"),
        ("memory://x", "supports file://, s3://"),
        ("s3://", "s3://bucket/prefix"),
        ("s3:///prefix", "s3://bucket/prefix"),
        ("s3://bucket:9000/prefix", "endpoint"),
        ("s3://bucket/a//b", "s3://bucket/prefix"),
        ("s3://bucket/../b", "s3://bucket/prefix"),
        ("s3://[bucket", "s3://bucket/prefix"),
    ],
)
def test_urls_that_name_no_store(url: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        opened(url)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "url", ["s3://AKID:hush@bucket/p", "s3://bucket/p?secret_access_key=hush", "s3://bucket/p#hush"]
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        opened(url)
    assert "hush" not in str(caught.value) + caught.value.hint


def test_a_folder_of_a_web_server(webdav: FolderServer) -> None:
    webdav.ask("MKCOL", "/opened")
    store = opened(f"webdav+http://{webdav.address}/opened/", webdav.options)
    store.put("a/b", b"1")
    assert store.url == f"webdav+http://{webdav.address}/opened"
    assert [listed.name for listed in store.list("")] == ["a/b"]
    assert not store.exclusive_create()


NAMELESS = """
import getpass, os, sys
from pathlib import Path
import asyncio, concurrent.futures.thread, encodings.idna
import asyncssh
from holdfast.clock import SystemClock
from holdfast.errors import HoldfastError
import holdfast.store.sftp
from holdfast.store.opening import open_store
os.setgid(54321)
os.setuid(54321)
for environment in ({}, {"LOGNAME": "any"}, {"LOGNAME": "any", "HOME": "/nonexistent"}):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME"):
        os.environ.pop(name, None)
    os.environ.update(environment)
    try:
        print(open_store("sftp://backup@127.0.0.1/data", {"known_hosts": "/dev/null"}, clock=SystemClock()).url)
    except HoldfastError as error:
        print(f"{type(error).__name__}: {error}: {error.hint}")
"""
"""What a container's user without an entry in /etc/passwd meets. All is imported first: that user may not read it."""


def test_a_user_without_a_name_is_told_what_to_set() -> None:
    require(os.geteuid() == 0, "only root can become a user without a name")
    run = subprocess.run([sys.executable, "-c", NAMELESS], capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    nameless, homeless, well = run.stdout.splitlines()
    assert nameless.startswith("ConfigError: the user 54321, who runs this, has no name")
    assert "LOGNAME" in nameless
    assert "sftp://user@host/" in nameless
    assert homeless.startswith("ConfigError: the user 54321, who runs this, has no home folder")
    assert "HOME" in homeless
    assert well == "sftp://backup@127.0.0.1/data"


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        opened(f"file://{tmp_path}", {"endpoint": "x"}, create=True)
    with pytest.raises(ConfigError, match="regoin") as caught:
        opened("s3://bucket", {"regoin": "x"})
    assert "region" in caught.value.hint
    with pytest.raises(ConfigError, match="account_key") as caught:
        opened("oss://bucket", {"account_key": "x"})
    assert "access_key_id" in caught.value.hint
