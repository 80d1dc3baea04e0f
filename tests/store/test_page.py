"""docs/stores.md: its examples are configurations, and open."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.config import parse_configuration
from holdfast.store.opening import open_store
from holdfast.store.services import SERVICES, service_of

PAGE = Path(__file__).parents[2] / "docs/stores.md"
BLOCKS = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
EXAMPLES = [
    (name, settings) for block in BLOCKS for name, settings in tomllib.loads(block).get("repository", {}).items()
]


def test_every_block_is_a_configuration() -> None:
    assert len(BLOCKS) > 9
    for block in BLOCKS:
        parse_configuration(block, Path("/etc/holdfast"))


@pytest.mark.parametrize(("name", "settings"), EXAMPLES, ids=[name for name, _settings in EXAMPLES])
def test_an_example_opens(name: str, settings: dict[str, object], tmp_path: Path) -> None:
    if str(settings["url"]).startswith("sftp:"):
        pytest.skip("its options name files of the reader's machine")
    options = {
        option: value if isinstance(value, str) else "c2VjcmV0" for option, value in settings.items() if option != "url"
    }
    url = str(settings["url"])
    assert open_store(url, options, clock=SystemClock(), environment={}).url == url


def test_the_table_has_every_option() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for scheme in SERVICES:
        if scheme == "webdav+http":
            continue
        row = next(line for line in rows if f"`{scheme}://" in line)
        service = service_of(scheme, {})
        told = set(re.findall(r"`([a-z_]+)`", row))
        assert set(service.known) == told, scheme
        for option in service.secrets:
            assert f"**`{option}`**" in row or option == "access_key_id"
