"""The object stores that are spoken to through opendal: a row each, and what their options mean.

Common words are the same everywhere (``endpoint``, ``region``, ``access_key_id``, ``access_key_secret``,
``session_token``); what only one service has keeps that service's name. ``docs/stores.md`` explains them to operators.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

from holdfast.errors import ConfigError
from holdfast.messages import _
from holdfast.store import aliyun
from holdfast.store.service import Complete, Service

_KEY = (("access_key_id", "access_key_secret"),)
_KEY_SECRETS = ("access_key_id", "access_key_secret", "session_token")
_S3_OPTIONS = {
    "endpoint": "endpoint",
    "region": "region",
    "access_key_id": "access_key_id",
    "access_key_secret": "secret_access_key",
    "session_token": "session_token",
}
_NO_LOOKUP = {"disable_config_load": "true", "disable_ec2_metadata": "true"}


def _at_region(scheme: str, pattern: str, region: str = "") -> Complete:
    """The endpoint, or that of the region, without the bucket: opendal puts it before.

    ``region``: how the endpoint tells the region that goes into the signature; empty where none does.
    """

    def complete(options: Mapping[str, str], told: dict[str, str]) -> dict[str, str]:
        endpoint = options.get("endpoint") or (pattern.format(options["region"]) if options.get("region") else "")
        if not endpoint:
            raise ConfigError(
                _("{scheme}://{bucket} needs the option region or endpoint").format(
                    scheme=scheme, bucket=told["bucket"]
                ),
                hint=_("Write one of them under the repository."),
            )
        before, separator, rest = endpoint.rpartition("://")
        host = rest.rstrip("/").removeprefix(f"{told['bucket']}.")
        told = {**told, "endpoint": f"{before or 'https'}{separator or '://'}{host}"}
        if region and "region" not in told:
            found = re.fullmatch(region, host)
            if not found:
                raise ConfigError(
                    _("{endpoint} does not tell its region").format(endpoint=endpoint),
                    hint=_("Write the option region under the repository."),
                )
            told["region"] = found[1]
        return told

    return complete


def _azure(options: Mapping[str, str], told: dict[str, str]) -> dict[str, str]:
    account = options.get("account_name")
    if not account and not options.get("endpoint"):
        raise ConfigError(
            _("azblob://{container} needs the option account_name").format(container=told["container"]),
            hint=_("Write the storage account's name under the repository."),
        )
    if "sas_token" in told:
        told = {**told, "sas_token": told["sas_token"].removeprefix("?")}
    return {"endpoint": f"https://{account}.blob.core.windows.net", **told}


def _google(_options: Mapping[str, str], told: dict[str, str]) -> dict[str, str]:
    """opendal takes the key file's JSON in base64."""
    if "credential" in told:
        told = {**told, "credential": base64.b64encode(told["credential"].encode()).decode()}
    return told


def _web_server(scheme: str) -> Complete:
    def complete(_options: Mapping[str, str], told: dict[str, str]) -> dict[str, str]:
        return {**told, "endpoint": f"{scheme}://{told['endpoint']}"}

    return complete


S3 = Service(
    scheme="s3",
    opendal="s3",
    options=_S3_OPTIONS,
    choices={
        "addressing": {"path": {}, "virtual": {"enable_virtual_host_style": "true"}},
        "checksum": {"none": {}, "md5": {"checksum_algorithm": "md5"}, "crc32c": {"checksum_algorithm": "crc32c"}},
    },
    credentials=_KEY,
    tokens=("session_token",),
    explicit={**_NO_LOOKUP, "region": "us-east-1"},
    secrets=_KEY_SECRETS,
    tells_versions=True,
    variables={
        "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
        "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        "access_key_id": ("AWS_ACCESS_KEY_ID",),
        "access_key_secret": ("AWS_SECRET_ACCESS_KEY",),
        "session_token": ("AWS_SESSION_TOKEN",),
    },
)
"""Without ``checksum``, no checksum header is sent and the body is not signed (``UNSIGNED-PAYLOAD``): what the most
S3-compatible stores take. A bucket with object lock wants ``md5`` or ``crc32c``."""

_SIGNATURES: Mapping[str, Mapping[str, str]] = {"v4": {}, "v1": {}}
_OSS_VARIABLES = {
    "region": ("OSS_REGION",),
    "endpoint": ("OSS_ENDPOINT",),
    "access_key_id": ("ALIBABA_CLOUD_ACCESS_KEY_ID", "OSS_ACCESS_KEY_ID"),
    "access_key_secret": ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "OSS_ACCESS_KEY_SECRET"),
    "session_token": ("ALIBABA_CLOUD_SECURITY_TOKEN", "OSS_SESSION_TOKEN"),
}

OSS = Service(
    scheme="oss",
    opendal="s3",
    options=_S3_OPTIONS,
    choices={"signature": _SIGNATURES},
    credentials=_KEY,
    tokens=("session_token",),
    fixed={**_NO_LOOKUP, "enable_virtual_host_style": "true"},
    secrets=_KEY_SECRETS,
    tells_versions=True,
    variables=_OSS_VARIABLES,
    complete=aliyun.complete_v4,
)
OSS_V1 = Service(
    scheme="oss",
    opendal="oss",
    options={
        "endpoint": "",
        "region": "",
        "access_key_id": "access_key_id",
        "access_key_secret": "access_key_secret",
        "session_token": "security_token",
    },
    choices={"signature": _SIGNATURES},
    credentials=_KEY,
    tokens=("session_token",),
    fixed={"addressing_style": "virtual"},
    secrets=_KEY_SECRETS,
    tells_versions=True,
    variables=_OSS_VARIABLES,
    complete=aliyun.complete_v1,
)
"""For buckets and installations that are older than Signature Version 4."""

GCS = Service(
    scheme="gs",
    opendal="gcs",
    options={"endpoint": "endpoint", "credential": "credential", "token": "token"},
    credentials=(("credential",), ("token",)),
    explicit={"disable_config_load": "true", "disable_vm_metadata": "true"},
    secrets=("credential", "token"),
    variables={"credential": ("GOOGLE_CREDENTIALS",), "token": ("GOOGLE_OAUTH_ACCESS_TOKEN",)},
    complete=_google,
)
AZURE = Service(
    scheme="azblob",
    opendal="azblob",
    place="container",
    options={
        "endpoint": "endpoint",
        "account_name": "account_name",
        "account_key": "account_key",
        "sas_token": "sas_token",
    },
    credentials=(("account_key",), ("sas_token",)),
    secrets=("account_key", "sas_token"),
    variables={
        "account_name": ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"),
        "account_key": ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"),
        "sas_token": ("AZURE_STORAGE_SAS_TOKEN",),
    },
    complete=_azure,
)
COS = Service(
    scheme="cos",
    opendal="cos",
    options={
        "endpoint": "",
        "region": "",
        "access_key_id": "secret_id",
        "access_key_secret": "secret_key",
        "session_token": "security_token",
    },
    credentials=_KEY,
    tokens=("session_token",),
    explicit={"disable_config_load": "true"},
    secrets=_KEY_SECRETS,
    tells_versions=True,
    variables={
        "region": ("TENCENTCLOUD_REGION",),
        "access_key_id": ("TENCENTCLOUD_SECRET_ID",),
        "access_key_secret": ("TENCENTCLOUD_SECRET_KEY",),
        "session_token": ("TENCENTCLOUD_TOKEN", "TENCENTCLOUD_SECURITY_TOKEN"),
    },
    complete=_at_region("cos", "https://cos.{}.myqcloud.com"),
)
OBS = Service(
    scheme="obs",
    opendal="s3",
    options=_S3_OPTIONS,
    credentials=_KEY,
    tokens=("session_token",),
    identity=False,
    fixed={**_NO_LOOKUP, "enable_virtual_host_style": "true"},
    secrets=_KEY_SECRETS,
    tells_versions=True,
    variables={
        "access_key_id": ("HUAWEI_CLOUD_ACCESS_KEY_ID",),
        "access_key_secret": ("HUAWEI_CLOUD_SECRET_ACCESS_KEY",),
        "session_token": ("HUAWEI_CLOUD_SECURITY_TOKEN",),
    },
    complete=_at_region("obs", "https://obs.{}.myhuaweicloud.com", r"obs\.([a-z0-9-]+)\.myhuaweicloud\.com"),
)
"""Through its S3 interface: opendal's own client of OBS lists objects without their times."""

B2 = Service(
    scheme="b2",
    opendal="s3",
    options=_S3_OPTIONS,
    credentials=_KEY,
    identity=False,
    fixed=_NO_LOOKUP,
    secrets=_KEY_SECRETS,
    tells_versions=False,
    variables={
        "access_key_id": ("B2_APPLICATION_KEY_ID",),
        "access_key_secret": ("B2_APPLICATION_KEY",),
    },
    complete=_at_region("b2", "https://s3.{}.backblazeb2.com", r"s3\.([a-z0-9-]+)\.backblazeb2\.com"),
)
"""Through its S3 interface: opendal's own client of B2 lists objects without their times."""


def _webdav(scheme: str) -> Service:
    return Service(
        scheme=f"webdav+{scheme}",
        opendal="webdav",
        place="endpoint",
        is_host=True,
        options={"username": "username", "password": "password", "token": "token"},
        credentials=(("username", "password"), ("token",)),
        secrets=("password", "token"),
        variables={
            "username": ("WEBDAV_USERNAME",),
            "password": ("WEBDAV_PASSWORD",),
            "token": ("WEBDAV_TOKEN",),
        },
        is_folder=True,
        complete=_web_server(scheme),
    )


WEBDAV, WEBDAV_PLAIN = _webdav("https"), _webdav("http")

SERVICES: Mapping[str, Service] = {
    service.scheme: service for service in (S3, OSS, GCS, AZURE, COS, OBS, B2, WEBDAV, WEBDAV_PLAIN)
}


def service_of(scheme: str, options: Mapping[str, str]) -> Service:
    """The row for URLs of ``scheme``, one of ``SERVICES``."""
    return OSS_V1 if scheme == "oss" and options.get("signature") == "v1" else SERVICES[scheme]
