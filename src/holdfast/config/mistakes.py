"""What is wrong with a holdfast.toml, in the operator's words: the file, the dotted key, what to write instead.

pydantic finds the mistakes; none of its own words get out, nor any value (a value may be a secret in the wrong place).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticCustomError

from holdfast.errors import ConfigError
from holdfast.messages import _

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_OURS = "holdfast"
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    key: str
    """The dotted key, as one would write it in TOML."""
    message: str
    hint: str = ""
    meant: str = ""
    """The key that was probably meant by an unknown one."""
    missing: bool = False


def mistake(message: str, *, hint: str = "") -> PydanticCustomError:
    """What a validator raises: ``message`` follows the key's name, as in ``must be text``."""
    return PydanticCustomError(_OURS, "{message}", {"message": message, "hint": hint})


def dotted(parts: Iterable[str | int]) -> str:
    """``("source", "a b", "checks", 0)`` as ``source."a b".checks[0]``."""
    key = ""
    for part in parts:
        if isinstance(part, int):
            key += f"[{part}]"
        else:
            written = part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False)
            key += f".{written}" if key else written
    return key


def near(word: str, words: Iterable[str]) -> str:
    """The one of ``words`` that was probably meant, or empty."""
    return next(iter(difflib.get_close_matches(word.lower(), list(words), n=1, cutoff=0.6)), "")


def unknown(parts: Sequence[str | int], known: Iterable[str]) -> Mistake:
    """An unknown key, with what was meant, or else all that could be."""
    known = sorted(known)
    meant = near(str(parts[-1]), known)
    if meant:
        hint = _('Did you mean "{name}"?').format(name=meant)
    else:
        hint = _("The settings here are: {names}.").format(names=", ".join(known))
    return Mistake(
        key=dotted(parts),
        message=_("is not a setting"),
        hint=hint,
        meant=dotted([*parts[:-1], meant]) if meant else "",
    )


def kind_of(value: Any) -> str:
    """A TOML value's kind, for people."""
    kinds: tuple[tuple[type, str], ...] = (
        (bool, _("true or false")),
        (str, _("text")),
        (int, _("a number")),
        (float, _("a number")),
        (list, _("a list [ … ]")),
        (dict, _("a table { … }")),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), _("a date or time"))


def in_words(details: ErrorDetails, parts: Sequence[str | int], settings: Iterable[str]) -> Mistake:
    """One of pydantic's findings at ``parts``; ``settings`` are the known keys of the table in which it stands."""
    kind, context = details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown(parts, settings)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        parts = [*parts, "type"]
    if kind in ("missing", "union_tag_not_found"):
        return Mistake(key=dotted(parts), message=_("is missing"), hint=_missing_hint(parts), missing=True)
    if kind == _OURS:
        return Mistake(key=dotted(parts), message=context["message"], hint=context["hint"])
    return Mistake(key=dotted(parts), message=_misfit(kind, context, details["input"]))


def _misfit(kind: str, context: Mapping[str, Any], value: Any) -> str:
    """Why a value does not belong where it stands; says its kind, never the value."""
    if kind == "union_tag_invalid":
        return _("must be one of {words}").format(words='"postgres", "files", "dump"')
    if kind == "literal_error":
        return _("must be one of {words}").format(words=context["expected"].replace("'", '"'))
    expected = {"string_type": _("text in quotes"), "path_type": _("a path in quotes")}.get(kind)
    if kind in ("list_type", "tuple_type"):
        expected = _("a list [ … ]")
    elif kind in ("dict_type", "model_type", "model_attributes_type"):
        expected = _("a table { … }")
    if expected:
        return _("must be {expected}, not {found}").format(expected=expected, found=kind_of(value))
    return _("is not what belongs here ({kind})").format(kind=kind)


def _missing_hint(parts: Sequence[str | int]) -> str:
    name, table = parts[-1], dotted(parts[:-1])
    examples = {
        "connection": 'connection = "postgresql://holdfast@localhost/postgres"',
        "path": 'path = "images"',
        "url": 'url = "file:///var/lib/holdfast/repository"',
        "type": 'type = "postgres"',
        "sql": 'sql = "select count(*) from …"',
    }
    if name in examples:
        return _("Write for example {line} under [{table}].").format(line=examples[str(name)], table=table)
    return ""


def refusal(file: str, mistakes: Sequence[Mistake]) -> ConfigError:
    """The error that names ``file`` and every mistake in it."""
    told = _without_echoes(mistakes)
    first = told[0]
    if len(told) == 1:
        return ConfigError(
            f"{file}: {first.key} {first.message}",
            hint=first.hint or _("Correct the line, then run: holdfast check"),
        )
    lines = [f"  {one.key} {one.message}" + (f". {one.hint}" if one.hint else "") for one in told]
    return ConfigError(
        _("{file} has {count} mistakes").format(file=file, count=len(told)) + "\n" + "\n".join(lines),
        hint=_("Correct these lines, then run: holdfast check"),
    )


def _without_echoes(mistakes: Sequence[Mistake]) -> list[Mistake]:
    """Without "connection is missing" where "conection is not a setting, did you mean connection" says it already."""
    meant = {one.meant for one in mistakes}
    return [one for one in mistakes if not (one.missing and one.key in meant)]
