from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.config import pin_repository, pinning, read_configuration
from holdfast.errors import ConfigError, Refused
from tests.privileges import NOBODY, as_nobody, require_root

PLAIN = """\
# kept by hand
timezone = "UTC"   # of Greenwich

[repository.local]   # on this machine
url = "file:///srv/x"

\t[ repository . "remote" ]
  url = "s3://b"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "holdfast.toml"
    path.write_text(PLAIN)
    return path


def test_two_lines_are_added_and_nothing_else_changes(path: Path) -> None:
    pin_repository(path, "local", "i" * 4, "k" * 4)
    assert path.read_text() == PLAIN.replace("# on this machine\n", '# on this machine\nid = "iiii"\nkey = "kkkk"\n')
    pin_repository(path, "remote", "j", "l")
    configuration = read_configuration(path)
    assert (configuration.repository["local"].id, configuration.repository["local"].key) == ("iiii", "kkkk")
    assert (configuration.repository["remote"].id, configuration.repository["remote"].key) == ("j", "l")


def test_pinning_again_changes_nothing_and_another_value_is_refused(path: Path) -> None:
    pin_repository(path, "local", "i", "k")
    before = path.read_bytes()
    inode = path.stat().st_ino
    pin_repository(path, "local", "i", "k")
    assert path.read_bytes() == before
    assert path.stat().st_ino == inode
    with pytest.raises(Refused, match=r"repository\.local\.key is pinned to another value"):
        pin_repository(path, "local", "i", "other")
    assert path.read_bytes() == before


def test_a_value_that_stands_there_is_kept(path: Path) -> None:
    path.write_text('[repository.local]\nurl = "s3://b"\nid = "i"\n')
    pin_repository(path, "local", "i", "k")
    assert path.read_text() == '[repository.local]\nkey = "k"\nurl = "s3://b"\nid = "i"\n'


@pytest.mark.parametrize(
    "text",
    [
        b'[repository.r]\r\nurl = "s3://b"\r\n',
        b'\xef\xbb\xbf[repository.r]\nurl = "s3://b"\n',
        b'[repository.r]\nurl = "s3://b"',
        b"[repository.r]",
        b"a = 1\r\n[repository.r] # end",
        b"[ repository . 'r' ]\nurl = \"s3://b\"\n",
        b'note = """\n[repository.r]\n"""\n[repository.r]\nurl = "s3://b"\n',
        b"note = '''\n[repository.r]\n'''\n[repository.r]\nurl = 's3://b'\n",
        b'[repository.rr]\nurl = "s3://x"\n[repository.r]\nurl = "s3://b"\n[source.r]\n',
        b'[repository.r]\npassphrase.file = "x"\nurl = "s3://\xe5\xa4\x87\xe4\xbb\xbd\xe2\x80\xa8"\n',
        b'x = nan\ny = [1, 1.0, true]\n[repository.r]\nurl = "s3://b"\n',
    ],
)
def test_forms_of_a_file(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    pin_repository(path, "r", 'i"\\', "密\x7f")
    after = path.read_bytes()
    section = tomllib.loads(after.decode("utf-8-sig"))["repository"]["r"]
    assert (section["id"], section["key"]) == ('i"\\', "密\x7f")
    added = [line for line in after.split(b"\n") if line.startswith((b"id = ", b"key = "))]
    assert len(added) == 2
    assert all(line.endswith(b"\r") == (b"\r\n" in text) for line in added)
    rest = after
    for line in added:
        rest = rest.replace(line + b"\n", b"")
    assert rest.rstrip() == text.rstrip()


@pytest.mark.parametrize(
    "text",
    [
        'repository.r.url = "s3://b"\n',
        'repository = { r = { url = "s3://b" } }\n',
        '[repository]\nr.url = "s3://b"\n',
        '[repository.other]\nurl = "s3://b"\n',
        "timezone = 'UTC'\n",
        "repository = 1\n",
        "[repository]\nr = 1\n",
        "note = '''\n[repository.r]\n'''\nrepository.r.url = 's3://b'\n",
    ],
)
def test_what_cannot_be_edited_safely_is_left_alone_and_the_lines_are_given(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        pin_repository(path, "r", "abc", "def")
    assert '[repository.r]\nid = "abc"\nkey = "def"' in caught.value.hint
    assert path.read_text() == text


def test_mode_owner_and_link_are_kept(path: Path, tmp_path: Path) -> None:
    require_root()
    path.chmod(0o640)
    os.chown(path, NOBODY, NOBODY)
    link = tmp_path / "link.toml"
    link.symlink_to(path.name)
    pin_repository(link, "local", "i", "k")
    status = path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o640, NOBODY, NOBODY)
    assert link.is_symlink()
    assert read_configuration(link).repository["local"].id == "i"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["holdfast.toml", "link.toml"]


def test_a_file_that_cannot_be_written_gives_the_lines(open_folder: Path) -> None:
    path = open_folder / "holdfast.toml"
    path.write_text(PLAIN)
    path.chmod(0o644)
    with as_nobody(), pytest.raises(ConfigError, match="cannot pin the repository") as caught:
        pin_repository(path, "local", "abc", "def")
    assert 'id = "abc"' in caught.value.hint
    assert path.read_text() == PLAIN


def test_a_file_that_is_not_there_gives_the_lines(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        pin_repository(tmp_path / "absent.toml", "local", "abc", "def")
    assert 'id = "abc"' in caught.value.hint


def test_a_full_disk_leaves_the_file_as_it_was(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        pin_repository(path, "local", "abc", "def")
    assert path.read_text() == PLAIN
    assert [entry.name for entry in tmp_path.iterdir()] == ["holdfast.toml"]


SPACE = st.text(" \t", max_size=3)
COMMENT = st.one_of(
    st.just(""),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12).map(lambda text: f"# {text}"),
    st.sampled_from(["# [repository.r]", "#[repository.r]", "# id = 1"]),
)
HEADER = st.tuples(SPACE, SPACE, SPACE, st.sampled_from(["r", '"r"', "'r'"]), SPACE, SPACE, COMMENT).map(
    lambda p: f"{p[0]}[{p[1]}repository{p[2]}.{p[2]}{p[3]}{p[4]}]{p[5]}{p[6]}"
)
BEFORE = st.lists(
    st.one_of(
        COMMENT,
        SPACE,
        st.sampled_from(
            ['a = """\n[repository.r]\nid = "x"\n"""', "b = [\n[1],\n# [repository.r]\n]", 'c = "[repository.r]"']
        ),
    ),
    max_size=5,
    unique=True,
)
AFTER = st.lists(st.one_of(COMMENT, SPACE), max_size=3)
NEWLINE = st.sampled_from(["\n", "\r\n"])
VALUE = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


@given(before=BEFORE, header=HEADER, after=AFTER, newline=NEWLINE, id_=VALUE, key=VALUE)
def test_whatever_stands_around_is_kept(
    *, before: list[str], header: str, after: list[str], newline: str, id_: str, key: str
) -> None:
    lines = [*before, header, *after, 'url = "s3://b"', "[source.z]", "id = 1"]
    text = newline.join("\n".join(lines).split("\n")).encode() + newline.encode()
    changed = pinning.pinned(text, Path("holdfast.toml"), "r", id_, key)
    assert changed is not None
    section = tomllib.loads(changed.decode())["repository"]["r"]
    assert (section["id"], section["key"]) == (id_, key)
    old, new = text.split(b"\n"), changed.split(b"\n")
    place = next(number for number, (one, two) in enumerate(zip(old, new, strict=False)) if one != two)
    assert new[:place] + new[place + 2 :] == old
    assert all(line.endswith(b"\r") == (newline == "\r\n") for line in new[place : place + 2])
