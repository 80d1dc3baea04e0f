from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import moved_away
from tests.cli.site import Site, failed, new_site, run, running
from tests.servers import Cluster, Servers, wait_until


@pytest.fixture(scope="module")
def own(servers: Servers) -> Iterator[Cluster]:
    made = servers.make_cluster(15, conf="max_slot_wal_keep_size = 1GB")
    made.execute("create table one (number int)")
    yield made
    servers.remove(made)


@pytest.fixture
def place(own: Cluster, tmp_path: Path) -> Iterator[Site]:
    """With a state folder of its own, where its receivers listen."""
    site = new_site(tmp_path, own)
    text = site.configuration.read_text()
    if "state_dir" not in text:
        site.configuration.write_text(f'state_dir = "{tmp_path}/state"\n{text}')
    yield site
    own.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active")


def names(document: Any) -> list[str]:
    (source,) = document["sources"]
    return [problem["name"] for problem in source["problems"]]


def test_before_the_first_snapshot(place: Site) -> None:
    shown = place.well("status", code=1)
    first, *rest = shown.splitlines()
    assert first == "main: not protected: there is no snapshot."
    assert "  ✗ there is no snapshot: nothing can be restored" in rest
    assert "      holdfast backup main" in rest
    assert "      holdfast wal receive main" in rest
    document = place.ask("status", code=1)
    assert document["severity"] == "critical"
    assert names(document) == ["no_snapshot", "receiver", "same_disk"]


def test_without_wal_it_is_protected_to_its_newest_snapshot(place: Site) -> None:
    place.well("backup")
    text = place.configuration.read_text()
    place.configuration.write_text(
        re.sub(r"^(connection = .*)$", r'\1\nwal = "off"', text, count=1, flags=re.MULTILINE)
    )
    shown = place.well("status")
    assert re.match(r"main: protected to its newest snapshot, .* \(.* ago\), and to no moment since\.\n", shown) or (
        "(now)" in shown
    )
    (source,) = place.ask("status")["sources"]
    assert source["wal"]["from"] == "off"
    assert source["severity"] == "ok"
    assert source["repositories"][0]["newest_snapshot"]["label"] in shown


@pytest.fixture
def receiving(place: Site) -> Iterator[Site]:
    with running("--config", place.configuration, "wal", "receive") as process:
        wait_until(
            lambda: (
                process.poll() is not None
                or (
                    place("status", "main", "--json").returncode == 3
                    and place.ask("status", code=3)["severity"] == "warning"
                )
            ),
            "a receiver and its snapshot protect the source",
            90,
        )
        assert process.poll() is None
        yield place


def test_a_receiver_that_runs(receiving: Site) -> None:
    """Its disk is the server's here, which is the only warning."""
    document = receiving.ask("status", code=3)
    assert names(document) == ["same_disk"]
    (source,) = document["sources"]
    assert source["receiver"]["phase"] == "streaming"
    assert source["slot"]["is_active"]
    assert source["slot"]["name"] == "holdfast_main"
    assert source["rpo_seconds"] < 30
    assert source["rpo_bytes"] is not None
    assert re.fullmatch(r"[0-9A-F]+/[0-9A-F]+", source["safe_lsn"])
    for moment in (source["safe_until"], source["reachable_since"], source["server"]["clock"]):
        assert datetime.fromisoformat(moment).tzinfo is not None
    assert source["server"]["system_identifier"] == source["windows"][-1]["system_identifier"]
    shown = receiving.well("status", code=3)
    assert re.match(r"main: protected to \d\d:\d\d:\d\d \(.*\); any moment since .* can be reached\.\n", shown)
    assert "WAL is kept only on the server's own disk" in shown
    assert "runs here" in shown

    before = source["safe_lsn"]
    receiving.cluster.execute("insert into one select generate_series(1, 1000)")
    wanted = receiving.cluster.value("select pg_current_wal_lsn()::text")
    wait_until(
        lambda: receiving.cluster.value(
            f"select '{receiving.ask('status', code=3)['sources'][0]['safe_lsn']}' >= '{wanted}'::pg_lsn"
        ),
        "what was written is safe",
    )
    assert before != wanted


def test_nagios(receiving: Site, tmp_path: Path) -> None:
    ended = receiving("status", "--nagios")
    assert ended.returncode == 1
    assert len(ended.stdout.splitlines()) == 1
    text, bar, numbers = ended.stdout.rstrip("\n").partition(" | ")
    assert bar
    assert text.startswith("HOLDFAST WARNING - main: WAL is kept only")
    labels = dict(word.split("=") for word in numbers.split())
    assert re.fullmatch(r"[\d.]+s;30;300", labels["rpo"])
    assert re.fullmatch(r"\d+B", labels["rpo_bytes"])
    assert re.fullmatch(r"\d+B;8000000000;12800000000;0;16000000000", labels["slot"])
    assert re.fullmatch(r"[\d.]+s;604800", labels["snapshot_age"])


def test_nagios_when_all_is_well_or_nothing_is(place: Site, tmp_path: Path) -> None:
    place.well("backup")
    text = place.configuration.read_text()
    place.configuration.write_text(
        re.sub(r"^(connection = .*)$", r'\1\nwal = "off"', text, count=1, flags=re.MULTILINE)
    )
    assert place.well("status", "--nagios").startswith("HOLDFAST OK - main: protected to its newest snapshot")
    with moved_away(place.repository):
        ended = place("status", "--nagios")
        assert ended.returncode == 2
        assert ended.stdout.startswith("HOLDFAST CRITICAL - main: no repository can be read")
    for wrong in (("status", "nobody", "--nagios"), ("--config", tmp_path / "none.toml", "status", "--nagios")):
        ended = place(*wrong) if wrong[0] == "status" else run(*wrong)
        assert ended.returncode == 3, ended.stdout
        assert ended.stdout.startswith("HOLDFAST UNKNOWN - ")
        assert "Traceback" not in ended.stderr


def test_a_repository_that_is_away(place: Site) -> None:
    place.well("backup")
    with moved_away(place.repository):
        document = place.ask("status", code=1)
        assert names(document)[:2] == ["unknown", "receiver"]
        assert place.well("status", code=1).startswith("main: nobody knows how well it is protected")


def test_offline_asks_no_server(place: Site) -> None:
    place.well("backup")
    other = place.rewrite(connection='"host=127.0.0.1 port=1 user=holdfast"')
    other.configuration.write_text(place.configuration.read_text().replace(str(place.cluster.port), "1"))
    document = place.ask("status", "--offline")
    assert document["sources"][0]["server"] is None
    assert document["sources"][0]["receiver"] is None
    assert names(document) == []
    assert names(other.ask("status", code=3)) == ["receiver_unknown", "server"]


def test_an_unknown_source(place: Site) -> None:
    failed(place("status", "nobody"), 2, "there is no source nobody", "main")


def test_it_is_quick(site: Site) -> None:
    """The start of the program included; the machine may be busy."""
    site("status")
    begin = time.monotonic()
    site("status")
    assert time.monotonic() - begin < 10


def test_check_says_that_wal_is_on_the_same_disk(place: Site) -> None:
    findings = {one["name"]: one for one in place.ask("check", code=3)["findings"]}
    assert "every commit would be lost" in findings["same_disk"]["what"]
    assert findings["slot"]["status"] == "ok"
    text = place.configuration.read_text()
    place.configuration.write_text(
        re.sub(r"^(connection = .*)$", r'\1\nwal = "archive"', text, count=1, flags=re.MULTILINE)
    )
    findings = {one["name"]: one for one in place.ask("check", code=1)["findings"]}
    assert findings["archive_mode"]["status"] == "failed"
    assert "--source main" in findings["archive_command"]["remedy"]
    place.configuration.write_text(
        re.sub(r"^(connection = .*)$", r'\1\nwal = "off"', text, count=1, flags=re.MULTILINE)
    )
    findings = {one["name"]: one for one in place.ask("check", code=3)["findings"]}
    assert "every commit" not in findings["same_disk"]["what"]
