"""What our client really sends: a child process speaks through a proxy of ours to services that are not there.

A proxy, because the bucket stands in the host name, and names under ``localhost`` are not known everywhere.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs, unquote, urlsplit

from tests.store.peers import Request, answer, peer, requests

_PROGRAM = """
import json, sys
from holdfast.clock import SystemClock
from holdfast.store.opening import open_store
store = open_store(sys.argv[1], json.loads(sys.argv[2]), clock=SystemClock())
store.put("data/name", b"0123456789")
store.put("data/new", b"", if_absent=True)
try:
    store.put("data/new", b"other", if_absent=True)
    again = "put"
except Exception as error:
    again = type(error).__name__
got = [store.get("data/name", 0, 3).decode(), store.get("data/name", 4, 2).decode(), store.get("data/name").decode()]
listed = sorted(found.name for found in store.list("data/"))
store.delete("data/name")
print(json.dumps({"again": again, "got": got, "listed": listed}))
"""


class Service:
    """Objects as S3, OSS, COS and OBS give and take them; ``condition``: the header by which a put is only a create."""

    def __init__(self, *, condition: str = "", takes_condition: bool = True) -> None:
        self.seen: list[Request] = []
        self._objects: dict[str, bytes] = {}
        self._condition = condition
        self._takes_condition = takes_condition

    def serve(self, connection: socket.socket, _over: threading.Event) -> None:
        for request in requests(connection):
            self.seen.append(request)
            status, body, head = self.answer(request)
            answer(connection, status, body, head=head)

    def answer(self, request: Request) -> tuple[int, bytes, str]:
        parts = urlsplit(request.target)
        if request.method == "PUT":
            return self._put(request, parts.path)
        if request.method == "DELETE":
            self._objects.pop(parts.path, None)
            return self.deleted, b"", ""
        if "prefix" in parse_qs(parts.query):
            return 200, self.listing(parse_qs(parts.query)["prefix"][0]), ""
        content = self._objects.get(parts.path)
        if content is None:
            return 404, b"<Error><Code>NoSuchKey</Code></Error>", ""
        return self._content(request, content)

    def _content(self, request: Request, content: bytes) -> tuple[int, bytes, str]:
        if "range" not in request.headers:
            return 200, content, ""
        first, last = map(int, request.headers["range"].removeprefix("bytes=").split("-"))
        return 206, content[first : last + 1], f"Content-Range: bytes {first}-{last}/{len(content)}\r\n"

    deleted = 204

    def listing(self, prefix: str) -> bytes:
        contents = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(content)}</Size><ETag>x</ETag>"
            "<LastModified>2026-11-22T00:00:00.000Z</LastModified></Contents>"
            for name, content in self._objects.items()
            if (key := unquote(name).lstrip("/").removeprefix("bucket-1/")).startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode()

    def _put(self, request: Request, path: str) -> tuple[int, bytes, str]:
        if self._condition in request.headers:
            if not self._takes_condition:
                return 501, b"<Error><Code>NotImplemented</Code></Error>", ""
            if path in self._objects:
                return 409, b"<Error><Code>FileAlreadyExists</Code></Error>", ""
        self._objects[path] = request.body
        return 200 if self.deleted == 204 else 201, b"", 'ETag: "x"\r\n'


class AzureService(Service):
    deleted = 202

    def listing(self, prefix: str) -> bytes:
        blobs = "".join(
            f"<Blob><Name>{key}</Name><Properties><Last-Modified>Sun, 22 Nov 2026 00:00:00 GMT</Last-Modified>"
            f"<Etag>x</Etag><Content-Length>{len(content)}</Content-Length></Properties></Blob>"
            for name, content in self._objects.items()
            if (key := unquote(name).removeprefix("/bucket-1/")).startswith(prefix)
        )
        return f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>".encode()


class GoogleService(Service):
    """Google's JSON interface: a put is a POST, a create an upload of two steps."""

    def __init__(self) -> None:
        super().__init__()
        self._begun: dict[str, str] = {}

    def answer(self, request: Request) -> tuple[int, bytes, str]:
        parts = urlsplit(request.target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        name = unquote(parts.path.partition("/o/")[2])
        if request.method == "DELETE":
            return (204 if self._objects.pop(name, None) is not None else 404), b"", ""
        if request.method in ("PUT", "POST"):
            return self._upload(request, query)
        if not name:
            return 200, self.listing(query["prefix"]), ""
        content = self._objects.get(name)
        if content is None:
            return 404, b"No such object: bucket-1/x", ""
        return self._content(request, content)

    def listing(self, prefix: str) -> bytes:
        items = [self._told(name) for name in self._objects if name.startswith(prefix)]
        return json.dumps({"kind": "storage#objects", "items": items}).encode()

    def _upload(self, request: Request, query: Mapping[str, str]) -> tuple[int, bytes, str]:
        if request.method == "PUT":
            return self._keep(self._begun[query["upload_id"]], request.body)
        if query["uploadType"] == "media":
            return self._keep(query["name"], request.body)
        if query["ifGenerationMatch"] == "0" and query["name"] in self._objects:
            return 412, b'{"error": {"code": 412, "errors": [{"reason": "conditionNotMet"}]}}', ""
        self._begun["u1"] = query["name"]
        return 200, b"", f"Location: {request.target.partition('?')[0]}?upload_id=u1\r\n"

    def _keep(self, name: str, content: bytes) -> tuple[int, bytes, str]:
        self._objects[name] = content
        return 200, json.dumps(self._told(name)).encode(), ""

    def _told(self, name: str) -> Mapping[str, str]:
        size = str(len(self._objects[name]))
        return {"name": name, "size": size, "updated": "2026-11-22T00:00:00.000Z", "etag": "x", "generation": "1"}


def spoken(
    service: Service, url: str, options: Mapping[str, str], variables: Mapping[str, str] | None = None
) -> tuple[Sequence[Request], Mapping[str, object]]:
    """What was sent, and what the store made of the answers; ``variables`` are the child's, beside the proxy's."""
    with peer(service.serve) as address:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "http_proxy": f"http://{address}",
            **(variables or {}),
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", _PROGRAM, url, json.dumps(dict(options))],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    found: Mapping[str, object] = json.loads(done.stdout)
    return service.seen, found
