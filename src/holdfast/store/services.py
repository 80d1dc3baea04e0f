"""The object stores that are spoken to through opendal: a row each, and what their options mean.

opendal ignores options that it does not know, silently: so every option is in a row here, under our name, and every
other is refused. Pure: a URL and options in, the keyword arguments of ``opendal.AsyncOperator`` out.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from holdfast.errors import ConfigError
from holdfast.messages import _


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    scheme: str
    """Of our URLs."""
    opendal: str
    """opendal's name of the service."""
    options: Mapping[str, str]
    """Ours to opendal's, for what is passed on as it is."""
    choices: Mapping[str, Mapping[str, Mapping[str, str]]]
    """Options with few values: option, value, opendal's options that it stands for."""
    credentials: tuple[str, str]
    """The two options that come together; without them the machine's own identity is looked up."""
    explicit: Mapping[str, str]
    """What opendal is told when credentials are given, unless an option says otherwise: look for no others."""
    secrets: Collection[str]
    """Options that no message may show."""


S3 = Service(
    scheme="s3",
    opendal="s3",
    options={
        "endpoint": "endpoint",
        "region": "region",
        "access_key_id": "access_key_id",
        "access_key_secret": "secret_access_key",
        "session_token": "session_token",
    },
    choices={
        "addressing": {"path": {}, "virtual": {"enable_virtual_host_style": "true"}},
        "checksum": {"none": {}, "md5": {"checksum_algorithm": "md5"}, "crc32c": {"checksum_algorithm": "crc32c"}},
    },
    credentials=("access_key_id", "access_key_secret"),
    explicit={"disable_config_load": "true", "disable_ec2_metadata": "true", "region": "us-east-1"},
    secrets=("access_key_id", "access_key_secret", "session_token"),
)
"""Without ``checksum``, no checksum header is sent and the body is not signed (``UNSIGNED-PAYLOAD``): what the most
S3-compatible stores take. A bucket with object lock wants ``md5`` or ``crc32c``."""

SERVICES: Mapping[str, Service] = {service.scheme: service for service in (S3,)}


def arguments(service: Service, *, bucket: str, prefix: str, options: Mapping[str, str]) -> dict[str, str]:
    """The operator's keyword arguments. Raises ``ConfigError`` for options that are unknown or do not fit together."""
    refuse_unknown(options, known=(*service.options, *service.choices), scheme=service.scheme)
    given = [name for name in service.credentials if options.get(name)]
    if len(given) == 1 or ("session_token" in options and not given):
        raise ConfigError(
            _("{scheme}://{bucket} has only some of its credentials").format(scheme=service.scheme, bucket=bucket),
            hint=_("Give {both}, or leave them all out to use this machine's own role.").format(
                both=" and ".join(service.credentials)
            ),
        )
    found = dict(service.explicit) if given else {}
    found |= {"bucket": bucket, "root": f"/{prefix}/" if prefix else "/"}
    for name, value in options.items():
        found |= _chosen(service, name, value) if name in service.choices else {service.options[name]: value}
    return found


def refuse_unknown(options: Collection[str], *, known: Collection[str], scheme: str) -> None:
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                _("unknown option {name} of a store {scheme}://").format(name=name, scheme=scheme),
                hint=_("Did you mean {near}?").format(near=near[0])
                if near
                else _("Its options are: {known}.").format(known=", ".join(known) or _("none")),
            )


def _chosen(service: Service, name: str, value: str) -> Mapping[str, str]:
    values = service.choices[name]
    if value not in values:
        raise ConfigError(
            _("option {name} of {scheme}:// cannot be {value!r}").format(name=name, scheme=service.scheme, value=value),
            hint=_("It is one of: {values}.").format(values=", ".join(values)),
        )
    return values[value]
