"""Aliyun OSS: its endpoints, and who an ECS instance is.

OSS is spoken to through its S3 interface, signed with Signature Version 4: the client library signs OSS's own
interface only with Signature Version 1 (HMAC-SHA1), which OSS no longer accepts for new accounts and new buckets. That
older interface is ``signature = "v1"``. Both want the bucket in the host name. Sources: "Guide to upgrading from
Signature V1 to Signature V4", "Access OSS using an AWS SDK" and "Regions and endpoints" in the OSS manual; "Instance
metadata" and "Instance RAM roles" in the ECS manual.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

from holdfast.clock import Clock
from holdfast.errors import ConfigError, HoldfastError, PermissionRefused, StoreBusy, StoreUnreachable
from holdfast.messages import _
from holdfast.store.identity import Credentials, Identity, Known, Renewed

METADATA = "http://100.100.100.200"
"""The metadata service, from within an ECS instance."""

_ROLES = "/latest/meta-data/ram/security-credentials/"
_LIMIT_S = 2.0
_OSS = re.compile(r"(?P<s3>s3\.)?oss-(?P<region>[a-z]+-[a-z0-9-]+?)(?P<internal>-internal)?\.aliyuncs\.com")


def internal_endpoint(endpoint: str) -> str | None:
    """The twin of a public OSS endpoint that only Aliyun's own network of that region reaches, free of traffic charges.

    None for what has no such twin, or is it already.
    """
    parts = urlsplit(_with_scheme(endpoint))
    found = _OSS.fullmatch(parts.hostname or "")
    if found is None or found["internal"]:
        return None
    return f"{parts.scheme}://{found['s3'] or ''}oss-{found['region']}-internal.aliyuncs.com"


def unreachable_hint(endpoint: str) -> str:
    """What to change when ``endpoint`` does not answer; empty where there is nothing to say."""
    if "-internal" not in (urlsplit(_with_scheme(endpoint)).hostname or ""):
        return ""
    return _(
        "An -internal endpoint answers only inside Aliyun's network of the same region: from anywhere else, leave out "
        "-internal."
    )


def complete_v4(options: Mapping[str, str], told: dict[str, str]) -> dict[str, str]:
    """Endpoint and signing region of OSS's S3 interface."""
    endpoint = _endpoint(options, told["bucket"])
    found = _OSS.fullmatch(urlsplit(endpoint).hostname or "")
    region = options.get("region", "").removeprefix("oss-") or (found["region"] if found else "")
    if not region:
        raise ConfigError(
            _("{endpoint} does not tell its region").format(endpoint=endpoint),
            hint=_('Write the bucket\'s region under the repository, as in: region = "cn-shanghai"'),
        )
    if found and not found["s3"]:
        endpoint = endpoint.replace("://", "://s3.", 1)
    return {**told, "endpoint": endpoint, "region": region}


def complete_v1(options: Mapping[str, str], told: dict[str, str]) -> dict[str, str]:
    """Endpoint of OSS's own interface."""
    return {**told, "endpoint": _endpoint(options, told["bucket"])}


def _endpoint(options: Mapping[str, str], bucket: str) -> str:
    """Without the bucket, which people paste along with it, and which a custom domain must begin with."""
    written = options.get("endpoint", "")
    if not written and options.get("region"):
        written = f"https://oss-{options['region'].removeprefix('oss-')}.aliyuncs.com"
    if not written:
        raise ConfigError(
            _("oss://{bucket} needs the option endpoint").format(bucket=bucket),
            hint=_("Write it under the repository, as in: {line}").format(
                line='endpoint = "https://oss-cn-shanghai.aliyuncs.com"'
            ),
        )
    scheme, _separator, rest = _with_scheme(written).partition("://")
    return f"{scheme}://{rest.rstrip('/').removeprefix(f'{bucket}.')}"


def _with_scheme(endpoint: str) -> str:
    return endpoint if "://" in endpoint else f"https://{endpoint}"


def own_identity(environment: Mapping[str, str], *, clock: Clock, metadata: str = METADATA) -> Identity:
    """Who this machine is to Aliyun: what Aliyun's own tools find in the environment, else the instance's role."""
    for prefix, token in (("ALIBABA_CLOUD_", "ALIBABA_CLOUD_SECURITY_TOKEN"), ("OSS_", "OSS_SESSION_TOKEN")):
        key, secret = (environment.get(f"{prefix}ACCESS_KEY_{part}") for part in ("ID", "SECRET"))
        if key and secret:
            return Known(
                Credentials(access_key_id=key, access_key_secret=secret, session_token=environment.get(token, ""))
            )
    return Renewed(EcsRole(metadata).credentials, clock=clock)


class EcsRole:
    """The role of the ECS instance that this runs on. Each call asks anew; nothing goes through a proxy."""

    def __init__(self, metadata: str = METADATA, *, limit_s: float = _LIMIT_S) -> None:
        """``limit_s`` bounds each of at most three requests."""
        self._address = urlsplit(metadata).netloc
        self._limit_s = limit_s

    def credentials(self) -> Credentials:
        """``PermissionRefused`` if the instance has no role, ``StoreUnreachable`` if this is no ECS instance.

        ``StoreBusy`` if the metadata service has a fault of its own.
        """
        headers = self._token()
        role = next(iter(self._get(_ROLES, headers).split()), "")
        if not role:
            raise _no_role()
        return _parsed(self._get(_ROLES + role, headers), role)

    def _token(self) -> dict[str, str]:
        """The header that an instance with the hardened mode demands; others do not know of it."""
        status, text = self._ask("PUT", "/latest/api/token", {"X-aliyun-ecs-metadata-token-ttl-seconds": "300"})
        return {"X-aliyun-ecs-metadata-token": text.strip()} if status == http.client.OK else {}

    def _get(self, path: str, headers: Mapping[str, str]) -> str:
        status, text = self._ask("GET", path, headers)
        if status == http.client.NOT_FOUND:
            raise _no_role()
        if status != http.client.OK:
            kind = StoreBusy if status >= 500 or status == http.client.TOO_MANY_REQUESTS else PermissionRefused
            raise kind(
                _("the metadata service of this ECS instance answered with status {status}").format(status=status),
                hint=_give_keys(),
            )
        return text

    def _ask(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self._address, timeout=self._limit_s)
        try:
            connection.request(method, path, headers=dict(headers))
            response = connection.getresponse()
            return response.status, response.read(1 << 16).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise StoreUnreachable(
                _("no access key for OSS, and the metadata service of Aliyun ECS does not answer: {reason}").format(
                    reason=str(error) or type(error).__name__
                ),
                hint=_give_keys(),
            ) from None
        finally:
            connection.close()


def _parsed(text: str, role: str) -> Credentials:
    """The metadata service's JSON."""
    try:
        found = json.loads(text)
        if found["Code"] != "Success":
            raise ValueError(found["Code"])
        return Credentials(
            access_key_id=str(found["AccessKeyId"]),
            access_key_secret=str(found["AccessKeySecret"]),
            session_token=str(found["SecurityToken"]),
            expires=_utc(datetime.fromisoformat(found["Expiration"])),
        )
    except (ValueError, KeyError, TypeError):
        raise StoreBusy(
            _("the metadata service of this ECS instance gives no credentials of the role {role}").format(role=role),
            hint=_("See in the ECS console that the role exists and is granted to this instance."),
        ) from None


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _no_role() -> HoldfastError:
    return PermissionRefused(_("no access key for OSS, and this ECS instance has no RAM role"), hint=_give_keys())


def _give_keys() -> str:
    return _(
        "Write access_key_id and access_key_secret under the repository, or grant this ECS instance a RAM role that "
        "may use the bucket; on a machine without configuration, set ALIBABA_CLOUD_ACCESS_KEY_ID and "
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET."
    )
