"""Signatures, computed from a request as a service does, and from the services' own documents only.

- SigV4: "Create a signed AWS API request" in the AWS documentation.
- OSS V1: "Include a V1 signature in the Authorization header" in the OSS manual.
- Azure: "Authorize with Shared Key", version 2015-02-21 and later.
- COS: "Request signature" in its API documentation.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from tests.store.peers import Request

_SUBRESOURCES = {"acl", "uploads", "uploadId", "partNumber", "delete", "versions", "versionId", "continuation-token"}


def sigv4(request: Request, secret: str) -> str:
    """The whole ``Authorization`` header; credential scope and signed headers are those of the request."""
    scheme, _space, rest = request.headers["authorization"].partition(" ")
    fields = dict(field.strip().split("=", 1) for field in rest.split(","))
    _key, date, region, service, end = fields["Credential"].split("/")
    parts = urlsplit(request.target)
    query = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in parse_qsl(parts.query, True))
    signed = fields["SignedHeaders"].split(";")
    canonical = "\n".join(
        [
            request.method,
            quote(unquote(parts.path), safe="/-_.~"),
            "&".join(f"{k}={v}" for k, v in query),
            *(f"{name}:{request.headers[name].strip()}" for name in signed),
            "",
            fields["SignedHeaders"],
            request.headers["x-amz-content-sha256"],
        ]
    )
    scope = f"{date}/{region}/{service}/{end}"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join([scheme, request.headers["x-amz-date"], scope, digest])
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, end):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    return f"{scheme} {rest.partition('Signature=')[0]}Signature={signature}"


def oss_v1(request: Request, secret: str) -> str:
    """The whole ``Authorization`` header. The bucket is the first label of the host that was asked."""
    parts = urlsplit(request.target)
    headers = sorted((name, value) for name, value in request.headers.items() if name.startswith("x-oss-"))
    asked = sorted((k, v) for k, v in parse_qsl(parts.query, True) if k in _SUBRESOURCES)
    resource = f"/{request.headers['host'].partition('.')[0]}{unquote(parts.path)}"
    if asked:
        resource += "?" + "&".join(f"{k}={v}" if v else k for k, v in asked)
    text = "\n".join(
        [
            request.method,
            request.headers.get("content-md5", ""),
            request.headers.get("content-type", ""),
            request.headers["date"],
            *(f"{name}:{value}" for name, value in headers),
            resource,
        ]
    )
    key_id = request.headers["authorization"].removeprefix("OSS ").partition(":")[0]
    return f"OSS {key_id}:{base64.b64encode(hmac.digest(secret.encode(), text.encode(), 'sha1')).decode()}"


def azure(request: Request, account: str, key: str) -> str:
    parts = urlsplit(request.target)
    length = request.headers.get("content-length", "")
    standard = ("content-md5", "content-type", "date", "if-modified-since", "if-match", "if-none-match",
                "if-unmodified-since", "range")  # fmt: skip
    headers = sorted((name, value) for name, value in request.headers.items() if name.startswith("x-ms-"))
    query = sorted((k.lower(), v) for k, v in parse_qsl(parts.query, True))
    text = "\n".join(
        [
            request.method,
            request.headers.get("content-encoding", ""),
            request.headers.get("content-language", ""),
            "" if length == "0" else length,
            *(request.headers.get(name, "") for name in standard),
            *(f"{name}:{value}" for name, value in headers),
            f"/{account}{parts.path}",
            *(f"{k}:{v}" for k, v in query),
        ]
    )
    signature = base64.b64encode(hmac.digest(base64.b64decode(key), text.encode(), "sha256")).decode()
    return f"SharedKey {account}:{signature}"


def cos(request: Request, secret: str) -> str:
    """The signature; times and lists of what is signed are those of the request."""
    parts = urlsplit(request.target)
    fields = dict(field.split("=", 1) for field in request.headers["authorization"].split("&"))
    query = {k.lower(): v for k, v in parse_qsl(parts.query, True)}
    params, headers = (
        "&".join(f"{name}={quote(there[name], safe='-_.~')}" for name in fields[listed].split(";") if name)
        for listed, there in (("q-url-param-list", query), ("q-header-list", request.headers))
    )
    text = f"{request.method.lower()}\n{unquote(parts.path)}\n{params}\n{headers}\n"
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    key = hmac.new(secret.encode(), fields["q-key-time"].encode(), "sha1").hexdigest()
    to_sign = f"sha1\n{fields['q-sign-time']}\n{digest}\n"
    return hmac.new(key.encode(), to_sign.encode(), "sha1").hexdigest()
