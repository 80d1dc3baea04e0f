"""What a row of the table of services says, and how a repository's options are read by it.

Pure: a URL's parts and options in, the keyword arguments of ``opendal.AsyncOperator`` out. opendal ignores options
that it does not know, silently: so every option is in a row, under our name, and every other is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.errors import ConfigError
from holdfast.messages import _

Complete = Callable[[Mapping[str, str], dict[str, str]], dict[str, str]]
"""Our options and what opendal would be told; gives what it is told. Raises ``ConfigError``."""


def _as_it_is(_options: Mapping[str, str], told: dict[str, str]) -> dict[str, str]:
    return told


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    scheme: str
    """Of our URLs."""
    opendal: str
    """opendal's name of the service."""
    place: str = "bucket"
    """opendal's option for what follows ``://`` in the URL."""
    is_host: bool = False
    """What follows ``://`` is a server, not a bucket."""
    options: Mapping[str, str]
    """Ours to opendal's, for what is passed on as it is; to ``""`` for what only ``complete`` reads."""
    choices: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    """Options with few values: option, value, opendal's options that it stands for."""
    credentials: Sequence[tuple[str, ...]]
    """Sets of options, each of which is enough to be let in; they are not mixed."""
    tokens: Collection[str] = ()
    """Options that may come with the first of ``credentials``."""
    identity: bool = True
    """Without credentials, the machine's own identity is looked up (or nobody's is used); else they are required."""
    fixed: Mapping[str, str] = field(default_factory=dict)
    """What opendal is told in any case."""
    explicit: Mapping[str, str] = field(default_factory=dict)
    """What opendal is told when credentials are given, unless an option says otherwise: look for no others."""
    secrets: Collection[str]
    """Options that no message may show."""
    variables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Environment variables that hold an option on a machine without configuration; the first that is set counts."""
    is_folder: bool = False
    """A put shows what has come so far, and a listing of what is not there is empty: the store makes up for both."""
    tells_versions: bool = False
    """An object that has older versions, or will have, says so when it is looked at."""
    complete: Complete = _as_it_is

    @property
    def known(self) -> tuple[str, ...]:
        """The options that this service takes."""
        return (*self.options, *self.choices)

    def given(self, options: Collection[str]) -> set[str]:
        """The credentials among ``options``."""
        return {name for alternative in (*self.credentials, self.tokens) for name in alternative if name in options}


def arguments(service: Service, *, bucket: str, prefix: str, options: Mapping[str, str]) -> dict[str, str]:
    """The operator's keyword arguments. Raises ``ConfigError`` for options that are unknown or do not fit together."""
    options = {name: value for name, value in options.items() if value}
    refuse_unknown(options, known=service.known, scheme=service.scheme)
    _check_credentials(service, bucket, options)
    told = dict(service.fixed) | (dict(service.explicit) if service.given(options) else {})
    told |= {service.place: bucket, "root": f"/{prefix}/" if prefix else "/"}
    for name, value in options.items():
        if name in service.choices:
            told |= _chosen(service, name, value)
        elif service.options[name]:
            told[service.options[name]] = value
    return service.complete(options, told)


def refuse_unknown(options: Collection[str], *, known: Collection[str], scheme: str) -> None:
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            belongs = _("Its options are: {known}.").format(known=", ".join(known) or _("none"))
            meant = _("Did you mean {near}?").format(near=near[0]) if near else ""
            raise ConfigError(
                _("unknown option {name} of a store {scheme}://").format(name=name, scheme=scheme),
                hint=f"{meant} {belongs}".strip(),
            )


def from_environment(service: Service, options: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """What ``options`` leave out and the variables of ``service`` hold: credentials only if that makes them complete.

    Credentials are never mixed of two sources, but for the secret that belongs to a key whose name is in ``options``.
    """
    found = {
        option: next(environment[name] for name in names if environment.get(name))
        for option, names in service.variables.items()
        if option not in options and any(environment.get(name) for name in names)
    }
    given = service.given(options)
    of_credentials = service.given(found)
    added = {option: value for option, value in found.items() if option not in of_credentials}
    for number, alternative in enumerate(service.credentials):
        if given <= {*alternative, *service.tokens} and set(alternative) <= {*given, *of_credentials}:
            along = () if given or number else service.tokens
            return added | {name: found[name] for name in (*alternative, *along) if name in found}
    return added


def credentials_hint(service: Service) -> str:
    """Where credentials of ``service`` are written, and by which variables a machine without configuration has them."""
    return _("Write {options} under the repository; on a machine without configuration, set {variables}.").format(
        options=_ways(service.credentials),
        variables=_ways([[service.variables[name][0] for name in names] for names in service.credentials]),
    )


def region_hint(service: Service) -> str:
    return _(
        "Write region under the repository; on a machine without configuration, add --option region=REGION, or set "
        "{variable}."
    ).format(variable=service.variables["region"][0])


def _ways(alternatives: Iterable[Iterable[str]]) -> str:
    return _(", or ").join(_(" and ").join(names) for names in alternatives)


def _check_credentials(service: Service, bucket: str, options: Mapping[str, str]) -> None:
    given = service.given(options)
    if not given and service.identity:
        return
    for number, alternative in enumerate(service.credentials):
        if set(alternative) <= given <= {*alternative, *(() if number else service.tokens)}:
            return
    own = _("Or leave them all out to use this machine's own role.") if service.identity else ""
    if not given:
        raise ConfigError(
            _("{scheme}://{bucket} has no credentials").format(scheme=service.scheme, bucket=bucket),
            hint=credentials_hint(service),
        )
    raise ConfigError(
        _("the credentials of {scheme}://{bucket} are incomplete, or of two kinds").format(
            scheme=service.scheme, bucket=bucket
        ),
        hint=f"{credentials_hint(service)} {own}".strip(),
    )


def _chosen(service: Service, name: str, value: str) -> Mapping[str, str]:
    values = service.choices[name]
    if value not in values:
        raise ConfigError(
            _("option {name} of {scheme}:// cannot be {value!r}").format(name=name, scheme=service.scheme, value=value),
            hint=_("It is one of: {values}.").format(values=", ".join(values)),
        )
    return values[value]
