"""What people read goes through one gettext catalogue: ``_("… {name}").format(name=…)``.

The language is chosen once, by :func:`use_language`, from ``--lang`` or the locale's variables. Catalogues are
``locale/<language>/LC_MESSAGES/holdfast.mo``, compiled from the ``.po`` beside them when the package is built.
Texts for machines (``--json`` keys, log fields) are not translated.
"""

from __future__ import annotations

import gettext
import os
from collections.abc import Mapping
from pathlib import Path

_CATALOGUES = Path(__file__).with_name("locale")
_current: gettext.NullTranslations = gettext.NullTranslations()


def _(text: str) -> str:
    return _current.gettext(text) if text else ""


def ngettext(one: str, many: str, number: int) -> str:
    return _current.ngettext(one, many, number)


def use_language(language: str | None = None, environment: Mapping[str, str] = os.environ) -> None:
    """Speak ``language`` (``en``, ``zh_CN``); without one, what LC_ALL, LC_MESSAGES or LANG name; English otherwise."""
    global _current  # noqa: PLW0603  one process speaks one language
    wanted = language or next(
        (environment[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environment.get(name)), "en"
    )
    name = wanted.partition(".")[0].replace("-", "_")
    if name.lower().startswith("zh"):
        name = "zh_CN"
    _current = gettext.translation("holdfast", _CATALOGUES, languages=[name], fallback=True)
