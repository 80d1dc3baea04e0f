from __future__ import annotations

import pytest

from holdfast.errors import Damaged
from holdfast.postgres.protocol import ManifestBegins, NewArchive, Progress, parse_message


def test_messages_are_told_apart() -> None:
    assert parse_message(memoryview(b"nbase.tar\0\0")) == NewArchive(name="base.tar", location="")
    assert parse_message(memoryview("n1.tar\0/表 空\0".encode())) == NewArchive(name="1.tar", location="/表 空")
    assert parse_message(memoryview(b"m")) == ManifestBegins()
    assert parse_message(memoryview(b"p\0\0\0\0\0\0\1\0")) == Progress(bytes_done=256)
    assert parse_message(memoryview(b"dcontent")) == memoryview(b"content")


@pytest.mark.parametrize("data", [b"", b"x", b"nbase.tar\0", b"nbase.tar", b"mm", b"p1234"])
def test_an_unknown_message_is_damage(data: bytes) -> None:
    with pytest.raises(Damaged, match="not known"):
        parse_message(memoryview(data))
