"""What a repository on an SFTP server says in holdfast.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.config.reading import parse_configuration
from holdfast.errors import ConfigError

BEGINNING = """
passphrase = { env = "PASSPHRASE" }
[repository.remote]
url = "sftp://user@host/folder"
"""


def options(lines: str, folder: Path) -> dict[str, str]:
    return parse_configuration(BEGINNING + lines, folder).repository["remote"].store_options(folder)


def test_paths_count_from_the_file_or_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    (tmp_path / "hush").write_text("hush\n")
    (tmp_path / "hush").chmod(0o600)
    lines = """
    port = 2222
    user = "other"
    private_key = "keys/id"
    private_key_passphrase = { file = "hush" }
    known_hosts = "~/.ssh/known"
    """
    assert options(lines, tmp_path) == {
        "port": "2222",
        "user": "other",
        "private_key": str(tmp_path / "keys/id"),
        "private_key_passphrase": "hush",
        "known_hosts": "/home/somebody/.ssh/known",
    }


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('port = "22"', "port"),
        ("port = 0", "port"),
        ("port = 65536", "port"),
        ('private_key_passphrase = "hush"', "private_key_passphrase"),
        ('password = "hush"', "password"),
        ('private_kye = "x"', "private_key"),
        ('known_hosts = ""', "known_hosts"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, line: str, key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        options(line, tmp_path)
    assert key in str(refused.value) + refused.value.hint
    assert "hush" not in str(refused.value) + refused.value.hint
