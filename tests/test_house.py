"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import os
import re
import shutil
import string
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.requirements import require

if TYPE_CHECKING:
    from babel.messages.catalog import Catalog

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/holdfast"
CATALOGUES = sorted(SOURCE.glob("locale/*/LC_MESSAGES/holdfast.po"))
TRANSLATED = sorted({module.relative_to(SOURCE).parts[0] for module in SOURCE.rglob("*.py")})
"""The packages and top-level modules; every text of each has its translation."""


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"), filename=str(module))


def calls(module: Path, *names: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node


def tracked_files() -> list[Path]:
    """What is, or would be, committed."""
    require(shutil.which("git") and (ROOT / ".git").exists(), "not a git checkout")
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = {ROOT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name}
    return sorted(path for path in paths if path.is_file())


def texts(*modules: Path) -> set[str]:
    """Every text in ``modules`` that goes through the catalogue."""
    found = set()
    for module in modules:
        for call in calls(module, "_", "ngettext"):
            for argument in call.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    found.add(argument.value)
    return found


def read(path: Path) -> Catalog:
    try:
        from babel.messages.pofile import read_po
    except ImportError:
        require(False, "babel is not installed")
        raise
    with path.open("rb") as text:
        return read_po(text)


def forms(text: str | Sequence[str] | None) -> tuple[str, ...]:
    """Singular and plural, or the one form that there is."""
    return (text,) if isinstance(text, str) else tuple(text or ())


def placeholders(text: str) -> set[tuple[str, str]]:
    """The fields of a text with their formats; a text that is no format at all has none."""
    if " … " in text and "{ … }" in text:
        text = text.replace("{ … }", "")
    return {
        (name, form or "") for _literal, name, form, _conversion in string.Formatter().parse(text) if name is not None
    }


def test_imports_go_down_only() -> None:
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    require(program, "import-linter is not installed")
    assert program
    ended = subprocess.run(
        [program, "--no-cache"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]


@pytest.mark.parametrize("module", modules(), ids=lambda module: str(module.relative_to(SOURCE)))
def test_a_module_opens_with_its_rule_and_does_not_print(module: Path) -> None:
    if not module.name.startswith("_") or (module.name == "__init__.py" and module.stat().st_size):
        assert ast.get_docstring(tree(module)), "no docstring"
    if module.relative_to(SOURCE).parts[0] not in ("cli", "demo"):
        assert not list(calls(module, "print", "input")), "only cli and demo speak to the person"


def test_no_path_of_one_machine_is_committed() -> None:
    foreign = re.compile(rb"(?<![\w.<])/(?:work/(?:main|shared)|opt/(?:hf|peers))\b")
    found = [str(path.relative_to(ROOT)) for path in tracked_files() if foreign.search(path.read_bytes())]
    assert not found


@pytest.mark.parametrize("module", modules(), ids=lambda module: str(module.relative_to(SOURCE)))
def test_texts_for_people_can_be_extracted(module: Path) -> None:
    if module == SOURCE / "messages.py":
        return
    for call in calls(module, "_", "ngettext"):
        wanted = 2 if isinstance(call.func, ast.Name) and call.func.id == "ngettext" else 1
        for argument in call.args[:wanted]:
            assert isinstance(argument, ast.Constant), f"line {call.lineno}: not a literal"
            assert isinstance(argument.value, str), f"line {call.lineno}: not a text"
            assert "{}" not in argument.value, f"line {call.lineno}: a translation cannot move a nameless field"


@pytest.mark.parametrize("module", modules(), ids=lambda module: str(module.relative_to(SOURCE)))
def test_no_text_stands_inside_an_f_string(module: Path) -> None:
    """Babel does not find it there."""
    strings = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.JoinedStr)]
    called = [node.func for string in strings for node in ast.walk(string) if isinstance(node, ast.Call)]
    assert not [func.lineno for func in called if isinstance(func, ast.Name) and func.id in ("_", "ngettext")]


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.parts[-3])
def test_a_catalogue_is_clean_and_its_placeholders_are_those_of_the_text(path: Path) -> None:
    catalogue = read(path)
    assert not catalogue.obsolete
    known = texts(*modules())
    for message in catalogue:
        if not message.id:
            continue
        originals, translations = forms(message.id), forms(message.string)
        assert not message.fuzzy, originals
        assert originals[0] in known, f"nothing says this any more: {originals[0]}"
        for translation in filter(None, translations):
            assert placeholders(translation) == placeholders(originals[0]), translation


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.parts[-3])
@pytest.mark.parametrize("part", TRANSLATED)
def test_a_package_is_translated_whole(path: Path, part: str) -> None:
    done = {
        original
        for message in read(path)
        if message.id and all(forms(message.string))
        for original in forms(message.id)
    }
    assert not texts(*(module for module in modules() if module.relative_to(SOURCE).parts[0] == part)) - done


def test_there_is_a_catalogue() -> None:
    assert [path.parts[-3] for path in CATALOGUES] == ["zh_CN"]


def test_the_makefile_tells_its_verbs_and_the_scripts_are_whole() -> None:
    make = shutil.which("make")
    require(make, "make is not installed")
    assert make
    help_ = subprocess.run([make, "--no-print-directory", "-C", str(ROOT)], capture_output=True, text=True, check=True)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert phony
    for verb in set(phony[1].split()) - {"help"}:
        assert f"make {verb} " in help_.stdout, verb
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True)
