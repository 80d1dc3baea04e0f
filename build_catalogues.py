"""Build hook: compiles each ``locale/*/LC_MESSAGES/holdfast.po`` to the ``.mo`` that gettext reads."""

from pathlib import Path
from typing import Any

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Catalogues(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  the hook's signature
        for po in Path(self.root, "src/holdfast/locale").glob("*/LC_MESSAGES/holdfast.po"):
            with po.open("rb") as text:
                catalogue = read_po(text)
            with po.with_suffix(".mo").open("wb") as compiled:
                write_mo(compiled, catalogue)
