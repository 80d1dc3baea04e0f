"""The table of services: which options each takes, and what opendal is told."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import pytest

from holdfast.errors import ConfigError
from holdfast.store.objects import ObjectStore
from holdfast.store.service import Service, arguments, credentials_hint, from_environment
from holdfast.store.service_hints import tls_hint
from holdfast.store.services import AZURE, B2, COS, GCS, OBS, OSS, OSS_V1, S3, SERVICES, WEBDAV, service_of

KEY = {"access_key_id": "a", "access_key_secret": "b"}
ENOUGH: Mapping[str, Mapping[str, str]] = {
    "s3": {"region": "x"},
    "oss": {"region": "cn-shanghai", **KEY},
    "gs": {},
    "azblob": {"account_name": "acc"},
    "cos": {"region": "ap-shanghai"},
    "obs": {"region": "cn-north-4", **KEY},
    "b2": {"region": "us-west-004", **KEY},
    "webdav+https": {},
    "webdav+http": {},
}


def told(service: Service, **options: str) -> Mapping[str, str]:
    return arguments(service, bucket="bucket-1", prefix="a/b", options=options)


@pytest.mark.parametrize("scheme", list(SERVICES))
def test_every_row_makes_a_client(scheme: str) -> None:
    """opendal takes each row, and knows each word of it: it would ignore an unknown one silently."""
    import opendal.config

    options = dict(ENOUGH[scheme])
    service = service_of(scheme, options)
    ObjectStore(service, bucket="bucket-1", prefix="a/b", options=options)
    known = getattr(opendal.config, f"{service.opendal.capitalize()}Config").__annotations__
    words = {word for word in service.options.values() if word} | {*service.fixed, *service.explicit, service.place}
    words |= {word for values in service.choices.values() for choice in values.values() for word in choice}
    assert words <= set(known)
    assert set(service.secrets) <= set(service.known)
    assert set(service.variables) <= set(service.known)


def test_v1_is_a_row_of_its_own() -> None:
    assert service_of("oss", {}) is OSS
    assert service_of("oss", {"signature": "v4"}) is OSS
    assert service_of("oss", {"signature": "v1"}) is OSS_V1
    assert told(OSS_V1, region="cn-shanghai", **KEY, session_token="t")["security_token"] == "t"


def test_what_opendal_is_told() -> None:
    assert told(GCS, credential='{"type": "x"}') == {
        "bucket": "bucket-1",
        "root": "/a/b/",
        "credential": base64.b64encode(b'{"type": "x"}').decode(),
        "disable_config_load": "true",
        "disable_vm_metadata": "true",
    }
    assert "disable_vm_metadata" not in told(GCS)
    assert told(AZURE, account_name="acc", sas_token="?sig=x") == {
        "container": "bucket-1",
        "root": "/a/b/",
        "endpoint": "https://acc.blob.core.windows.net",
        "account_name": "acc",
        "sas_token": "sig=x",
    }
    assert told(COS, region="ap-shanghai", **KEY)["endpoint"] == "https://cos.ap-shanghai.myqcloud.com"
    assert told(COS, endpoint="https://bucket-1.cos.x.myqcloud.com/")["endpoint"] == "https://cos.x.myqcloud.com"
    assert told(OBS, endpoint="obs.cn-north-4.myhuaweicloud.com", **KEY)["region"] == "cn-north-4"
    assert told(B2, region="us-west-004", **KEY)["endpoint"] == "https://s3.us-west-004.backblazeb2.com"
    assert told(WEBDAV, username="u", password="p")["endpoint"] == "https://bucket-1"


@pytest.mark.parametrize(
    ("service", "options", "hint"),
    [
        (S3, {"signature": "v1"}, "addressing"),
        (S3, {"account_key": "x"}, "access_key_id"),
        (OSS, {**KEY, "region": "x", "addressing": "path"}, "signature"),
        (OSS, {**KEY, "region": "x", "signature": "v2"}, "v4, v1"),
        (OSS, {"access_key_id": "a", "region": "x"}, "access_key_secret"),
        (GCS, {"access_key_id": "a"}, "credential"),
        (GCS, {"credential": "a", "token": "b"}, "or"),
        (AZURE, {}, "account"),
        (AZURE, {"account_name": "a", "account_key": "x", "sas_token": "y"}, "account_key, or sas_token"),
        (COS, {}, "one of them"),
        (OBS, {"region": "x"}, "access_key_id"),
        (OBS, {"endpoint": "https://obs.example.com", **KEY}, "region"),
        (B2, {"region": "x"}, "access_key_id"),
        (WEBDAV, {"username": "u"}, "password"),
        (WEBDAV, {"endpoint": "https://x"}, "username"),
    ],
)
def test_what_does_not_fit_is_refused_and_what_would_is_named(
    service: Service, options: Mapping[str, str], hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        told(service, **options)
    assert hint in caught.value.hint


FROM_AWS = {"access_key_id": "id", "access_key_secret": "secret", "session_token": "token", "region": "r"}
AZURE_VARIABLES = {"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_KEY": "k"}
AWS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token", "AWS_REGION": "r"}


@pytest.mark.parametrize(
    ("service", "options", "environment", "found"),
    [
        (S3, {}, {}, {}),
        (S3, {}, AWS, FROM_AWS),
        (S3, {"region": "mine"}, {"AWS_REGION": "r", "AWS_ACCESS_KEY_ID": "id"}, {}),
        (S3, {"access_key_id": "mine"}, AWS, {"access_key_secret": "secret", "region": "r"}),
        (S3, KEY, AWS, {"region": "r"}),
        (
            OSS,
            {},
            {"ALIBABA_CLOUD_ACCESS_KEY_ID": "id", "OSS_ACCESS_KEY_SECRET": "secret"},
            {"access_key_id": "id", "access_key_secret": "secret"},
        ),
        (AZURE, {}, AZURE_VARIABLES, {"account_name": "acc", "account_key": "k"}),
        (AZURE, {"sas_token": "s"}, AZURE_VARIABLES, {"account_name": "acc"}),
        (WEBDAV, {"username": "u"}, {"WEBDAV_PASSWORD": "p", "WEBDAV_TOKEN": "t"}, {"password": "p"}),
        (WEBDAV, {}, {"WEBDAV_TOKEN": "t"}, {"token": "t"}),
    ],
)  # fmt: skip
def test_the_environment_completes_and_never_mixes(
    service: Service, options: Mapping[str, str], environment: Mapping[str, str], found: Mapping[str, str]
) -> None:
    assert from_environment(service, options, environment) == found


@pytest.mark.parametrize("scheme", list(SERVICES))
def test_the_hint_to_credentials_names_settings_and_variables(scheme: str) -> None:
    service = SERVICES[scheme]
    hint = credentials_hint(service)
    for name in (name for names in service.credentials for name in names):
        assert name in hint
        assert service.variables[name][0] in hint


@pytest.mark.parametrize(
    ("service", "options"),
    [(OBS, {"region": "x"}), (B2, {"region": "x"}), (S3, {"access_key_id": "a"}), (WEBDAV, {"username": "u"})],
)
def test_credentials_that_lack_or_are_incomplete_are_asked_for(service: Service, options: Mapping[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        arguments(service, bucket="bucket-1", prefix="", options=options)
    assert credentials_hint(service) in caught.value.hint


@pytest.mark.parametrize(
    ("service", "endpoint", "tls", "line"),
    [
        (S3, "https://h:9000", False, 'endpoint = "http://h:9000"'),
        (S3, "http://h:9000", True, 'endpoint = "https://h:9000"'),
        (S3, "h:9000", False, 'endpoint = "http://h:9000"'),
        (S3, "", False, 'endpoint = "http://…"'),
        (WEBDAV, "https://h:80", False, "webdav+http://h:80"),
    ],
)
def test_the_hint_to_the_other_protocol(service: Service, endpoint: str, tls: bool, line: str) -> None:
    assert tls_hint(service, endpoint, tls=tls).endswith(line)
