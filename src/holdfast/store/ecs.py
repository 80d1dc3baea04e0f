"""Whether this machine is an Aliyun ECS instance, and where: asked of the metadata service, briefly.

Source: "Instance metadata" in the manual of Aliyun ECS; an instance in the hardened mode wants a token first.
"""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from urllib.parse import urlsplit

from holdfast.store.aliyun import METADATA

_LIMIT_S = 0.5


def ecs_region(metadata: str = METADATA, *, limit_s: float = _LIMIT_S) -> str:
    """As in ``cn-shanghai``; empty if this is no ECS instance. Never raises; takes no longer than twice ``limit_s``."""
    address = urlsplit(metadata).netloc
    try:
        status, token = _ask(
            address, "PUT", "/latest/api/token", {"X-aliyun-ecs-metadata-token-ttl-seconds": "60"}, limit_s
        )
        headers = {"X-aliyun-ecs-metadata-token": token} if status == http.client.OK else {}
        status, region = _ask(address, "GET", "/latest/meta-data/region-id", headers, limit_s)
    except (OSError, http.client.HTTPException):
        return ""
    return region if status == http.client.OK and region.replace("-", "").isalnum() else ""


def _ask(address: str, method: str, path: str, headers: Mapping[str, str], limit_s: float) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, timeout=limit_s)
    try:
        connection.request(method, path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.read(1000).decode("ascii", "replace").strip()
    finally:
        connection.close()
