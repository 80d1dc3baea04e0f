"""What the configuration files of a restored folder say of a few settings, as the server would read them.

Read without the server's programs, which need not be on this machine: ``postgresql.conf`` (under ``holdfast-etc/`` if
it lay outside the data directory), what it includes, then ``postgresql.auto.conf``; the last one given wins. Sources:
"Setting Parameters" in PostgreSQL's manual, ``guc-file.l``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from holdfast.postgres.facts import RecoveryLimits

_LINE = re.compile(
    rb"\s*(?P<name>[A-Za-z_\x80-\xff][\w$.\x80-\xff]*)(?:\s*=\s*|\s+|(?='))"
    rb"(?P<value>'(?:[^'\\]|''|\\.)*'|[^\s#'=]+)\s*(?:#.*)?"
)
_ESCAPE = re.compile(rb"''|\\(.)", re.DOTALL)
_INCLUDES = ("include", "include_if_exists", "include_dir")
_DEPTH = 10
"""Of nested includes: PostgreSQL's own limit."""
_DEFAULTS = RecoveryLimits(
    max_connections=100, max_worker_processes=8, max_wal_senders=10, max_prepared_transactions=0,
    max_locks_per_transaction=64,
)  # fmt: skip
SYNCHRONOUS = "synchronous_standby_names"


def configured(data_dir: Path, auto_conf: bytes) -> Mapping[str, str]:
    """The settings that its files give, names in lower case; ``auto_conf`` is the content of ``postgresql.auto.conf``.

    A file that cannot be read gives none.
    """
    candidates = (data_dir / "holdfast-etc" / "postgresql.conf", data_dir / "postgresql.conf")
    main = next((path for path in candidates if path.is_file()), None)
    found = dict(_settings(main, depth=0)) if main else {}
    return found | dict(_parsed(auto_conf, data_dir, depth=0))


def settings_to_recover_and_run(there: Mapping[str, str], needed: RecoveryLimits) -> Mapping[str, str]:
    """What the copy must have on top of what is configured ``there``, also when it is started by hand. Pure.

    Limits lower than the WAL's last ones: with them recovery pauses for ever. Synchronous standbys that will not come:
    the first write would wait for them for ever.
    """
    raised = {
        name: str(value)
        for name, value in asdict(needed).items()
        if _number(there.get(name), default=getattr(_DEFAULTS, name)) < value
    }
    waits = bool(there.get(SYNCHRONOUS, "").strip())
    return {**raised, **({SYNCHRONOUS: ""} if waits else {})}


def _number(text: str | None, *, default: int) -> int:
    """0 for what this does not understand: raising a limit does no harm."""
    if text is None:
        return default
    with suppress(ValueError):
        return int(text.strip(), 0)
    return 0


def _settings(file: Path, *, depth: int) -> Iterator[tuple[str, str]]:
    if depth > _DEPTH or not file.is_file():
        return
    with suppress(OSError):
        yield from _parsed(file.read_bytes(), file.parent, depth=depth)


def _parsed(content: bytes, folder: Path, *, depth: int) -> Iterator[tuple[str, str]]:
    for line in content.split(b"\n"):
        match = _LINE.fullmatch(line.rstrip(b"\r"))
        if match is None:
            continue
        name, value = _text(match["name"]).lower(), _text(_unquoted(match["value"]))
        if name in _INCLUDES:
            yield from _included(name, folder / value, depth=depth + 1)
        else:
            yield name, value


def _included(how: str, target: Path, *, depth: int) -> Iterator[tuple[str, str]]:
    if how != "include_dir":
        yield from _settings(target, depth=depth)
        return
    with suppress(OSError):
        for file in sorted(target.iterdir()):
            if file.name.endswith(".conf") and not file.name.startswith("."):
                yield from _settings(file, depth=depth)


def _unquoted(value: bytes) -> bytes:
    """A backslash's meaning as a control character matters for none of the settings that are looked for."""
    if not value.startswith(b"'"):
        return value
    return _ESCAPE.sub(lambda match: match[1] or b"'", value[1:-1])


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
