"""Configuration files written anew from what a running server reports about them. Pure.

Comments, order between files and settings that no longer apply are lost; what PostgreSQL reads from the result is the
same. Sources: "Setting Parameters", "The pg_hba.conf File", "User Name Maps" in PostgreSQL's manual.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.postgres.hba import quote_word

_HEADER = "# Rebuilt by Holdfast from what the server reported; the original could not be read.\n"
# Places on the machine that was backed up: whoever starts the copy says where its own are.
_LEFT_OUT = frozenset({"config_file", "data_directory", "hba_file", "ident_file", "external_pid_file"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a configuration file as the server reports it."""

    file: str
    """Empty: not told, or the command line."""
    number: int
    """From 1."""
    word: str
    """What it begins with: a setting's name, a connection type, a map's name."""
    value: str
    applied: bool = True

    def stands_in(self, lines: Sequence[str]) -> bool:
        if not 1 <= self.number <= len(lines):
            return False
        found = re.match(r"""\s*["']?([^\s="']+)""", lines[self.number - 1])
        return found is not None and found[1].lower() == self.word.lower()


def rebuild_settings(settings: Iterable[Line]) -> bytes:
    """postgresql.conf: one line a setting, the last one given wins."""
    values = {line.word: line.value for line in settings if line.applied and line.word not in _LEFT_OUT}
    text = "".join(f"{name} = {_quote_setting(value)}\n" for name, value in values.items())
    return (_HEADER + text).encode("utf-8", "surrogateescape")


def rebuild_hba(rows: Iterable[Sequence[Any]]) -> bytes:
    """Rows: file, line, type, databases, roles, address, netmask, method, options (each ``name=value``).

    ``ldapscope`` is reported by PostgreSQL and not understood by it: it follows from ``ldapurl``.
    """
    lines = []
    for _file, _number, kind, databases, roles, address, netmask, method, options in rows:
        words = [kind, _list(databases), _list(roles)]
        words += [word for word in (address, netmask) if word]
        words += [method, *(_quote_option(option) for option in options or () if not option.startswith("ldapscope="))]
        lines.append(" ".join(words) + "\n")
    return (_HEADER + "".join(lines)).encode("utf-8", "surrogateescape")


def rebuild_ident(rows: Iterable[Sequence[str]]) -> bytes:
    """Rows: file, line, map, system user, database role."""
    lines = [" ".join(_quote_ident(word) for word in row[2:5]) + "\n" for row in rows]
    return (_HEADER + "".join(lines)).encode("utf-8", "surrogateescape")


def _list(words: Iterable[str]) -> str:
    return ",".join(_quote_hba(word) for word in words)


def _quote_hba(word: str) -> str:
    # A leading + is a role's members, a leading / a regular expression (16): quoting would make them plain names.
    return word if word[:1] in "+/" and not re.search(r'[\s,#"]', word) else quote_word(word)


def _quote_ident(word: str) -> str:
    return word if re.fullmatch(r"[^\s,#\"]+", word) else '"' + word.replace('"', '""') + '"'


def _quote_option(option: str) -> str:
    return option if re.fullmatch(r"[^\s,#\"]+", option) else '"' + option.replace('"', '""') + '"'


def _quote_setting(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n") + "'"
