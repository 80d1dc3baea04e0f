"""``init`` pins a repository's id and key into a holdfast.toml that people keep by hand: two lines, and nothing else.

The edit is a guess at a line, proven before it is written: the new text, parsed, must differ from the old by exactly
the pinned values. What cannot be edited so is left alone, and the lines are given to the operator to paste.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Any

from holdfast.config.reading import decoded, tables, unreadable
from holdfast.errors import ConfigError, Refused
from holdfast.messages import _


def pin_repository(path: Path, name: str, id: str, key: str) -> None:  # noqa: A002  the setting's name
    """Writes ``id`` and ``key`` under ``[repository.NAME]`` of the file ``path``; every other byte stays as it is.

    Values that stand there already are kept. Raises ``Refused`` where others stand there, and ``ConfigError`` with the
    lines to paste where the file cannot be written or has no such section.
    """
    target = path.resolve()
    lines = f"[repository.{name}]\nid = {_quoted(id)}\nkey = {_quoted(key)}"
    try:
        before = target.read_bytes()
    except PermissionError:
        raise unreadable(path) from None
    except OSError as error:
        raise _to_paste(path, lines, error.strerror or str(error)) from error
    after = pinned(before, path, name, id, key)
    if after is None:
        raise _to_paste(path, lines, _("it has no section [repository.{name}] of its own").format(name=name))
    if after == before:
        return
    try:
        _replace(target, after)
    except OSError as error:
        raise _to_paste(path, lines, error.strerror or str(error)) from error


def pinned(before: bytes, path: Path, name: str, id: str, key: str) -> bytes | None:  # noqa: A002
    """The bytes of the file with the values in place, or ``None`` where no edit gives exactly that."""
    old = tables(decoded(before, path), path)
    section = old.get("repository", {}).get(name) if isinstance(old.get("repository"), dict) else None
    if not isinstance(section, dict):
        return None
    wanted = {"id": id, "key": key}
    for setting, value in wanted.items():
        if section.get(setting, value) != value:
            raise Refused(
                _("{file}: repository.{name}.{setting} is pinned to another value").format(
                    file=path, name=name, setting=setting
                ),
                hint=_(
                    "Look at who replaced the repository. Only if you replaced it yourself, "
                    "delete the lines id and key under [repository.{name}] and run holdfast init again."
                ).format(name=name),
            )
    absent = {setting: value for setting, value in wanted.items() if setting not in section}
    if not absent:
        return before
    new = copy.deepcopy(old)
    new["repository"][name].update(absent)
    return next((text for text in _guesses(before, name, absent) if _parses_to(text, path, new)), None)


def _guesses(before: bytes, name: str, absent: dict[str, str]) -> list[bytes]:
    """The text with the lines put after each line that looks like the section's header."""
    header = re.compile(
        rb"\s*\[\s*repository\s*\.\s*(?:%b|\"%b\"|'%b')\s*\]\s*(?:#.*)?" % ((re.escape(name.encode()),) * 3)
    )
    lines = before.split(b"\n")
    guesses = []
    for number, line in enumerate(lines):
        if not header.fullmatch(line.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\r")):
            continue
        ending = b"\r" if line.endswith(b"\r") or (number == len(lines) - 1 and b"\r\n" in before) else b""
        added = [f"{setting} = {_quoted(value)}".encode() + ending for setting, value in absent.items()]
        if number == len(lines) - 1:  # the file ends in the header, without a newline
            line = line.removesuffix(b"\r") + ending  # noqa: PLW2901
            added.append(b"")
        guesses.append(b"\n".join([*lines[:number], line, *added, *lines[number + 1 :]]))
    return guesses


def _parses_to(text: bytes, path: Path, wanted: dict[str, Any]) -> bool:
    try:
        found = tables(decoded(text, path), path)
    except ConfigError:
        return False
    return _sorted_repr(found) == _sorted_repr(wanted)


def _sorted_repr(value: Any) -> str:
    """A text that is equal for equal documents: ``==`` takes 1 for true, and not nan for nan."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{_sorted_repr(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_sorted_repr, value)) + "]"
    return repr(value)


def _quoted(value: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _replace(target: Path, content: bytes) -> None:
    """Atomic and durable, with the mode and owner of what was there. After an ``OSError`` nothing has changed."""
    status = target.stat()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if (os.fstat(descriptor).st_uid, os.fstat(descriptor).st_gid) != (status.st_uid, status.st_gid):
                os.fchown(descriptor, status.st_uid, status.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _to_paste(path: Path, lines: str, reason: str) -> ConfigError:
    return ConfigError(
        _("cannot pin the repository in {path}: {reason}").format(path=path, reason=reason),
        hint=_("Put these lines there yourself (holdfast check fails until they stand there):") + "\n" + lines,
    )
