"""Where it is in doubt which repository or snapshot is meant, nothing is chosen silently."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.config import read_configuration
from holdfast.jobs.backup import take_snapshot
from holdfast.jobs.progress import Silent
from holdfast.wiring import Wiring
from tests.cli.running import STATE
from tests.cli.site import Site, failed, new_site, run
from tests.servers import Cluster, Servers

MakeCluster = Callable[..., Cluster]


class WrongClock(SystemClock):
    """Goes an hour before the others."""

    def now(self) -> datetime:
        return super().now() + timedelta(hours=1)


def take_in_the_future(site: Site) -> str:
    """The label of a snapshot that a machine with a wrong clock took."""
    wiring = Wiring(configuration=read_configuration(site.configuration), clock=WrongClock())
    snapshot = take_snapshot(
        wiring.postgres(),
        wiring.repository(),
        clock=wiring.clock,
        zone=UTC,
        host="elsewhere",
        progress=Silent(),
        stopped=lambda: False,
    )
    return snapshot.label


def spoil(record: Path) -> None:
    data = bytearray(record.read_bytes())
    data[len(data) // 2] ^= 1
    record.write_bytes(data)


@pytest.fixture
def spoilt(tmp_path: Path, cluster: Cluster) -> tuple[Site, list[dict[str, str]]]:
    """A site whose newest record cannot be read, and what was listed before."""
    site = new_site(tmp_path / "site", cluster)
    for _time in range(2):
        site.well("backup")
    listed = site.ask("list")["snapshots"]
    spoil(site.repository / "snapshots" / listed[-1]["id"])
    return site, listed


def test_latest_is_refused_while_a_record_cannot_be_read(
    spoilt: tuple[Site, list[dict[str, str]]], tmp_path: Path
) -> None:
    site, (older, newest) = spoilt
    target = tmp_path / "back"
    for more in (("main",), ("--dry-run",)):
        failed(
            site("restore", "--to", target, *more),
            5,
            newest["id"],
            "--at snapshot:ID",
            f"{older['short_id']}  {older['label']}",
        )
    assert not target.exists()
    document = site.ask("restore", "--to", target, code=5)
    assert document["error"]["class"] == "Damaged"
    assert [one["name"] for one in document["unreadable"]] == [f"snapshots/{newest['id']}"]
    assert [one["id"] for one in document["snapshots"]] == [older["id"]]
    for command in ("show", "verify"):
        failed(site(command, "latest"), 5, newest["id"], older["short_id"])
    failed(site("restore", "--to", target, "--at", f"snapshot:{newest['short_id']}"), 5, newest["short_id"])
    failed(site("restore", "other", "--to", target), 5, newest["id"])  # perhaps a snapshot of it


def test_one_that_can_be_read_is_restored_when_it_is_named(
    spoilt: tuple[Site, list[dict[str, str]]], tmp_path: Path
) -> None:
    site, (older, newest) = spoilt
    named = ("restore", "--to", tmp_path / "back", "--at", f"snapshot:{older['short_id']}", "--dry-run")
    document = site.ask(*named)
    assert document["plan"]["snapshot"]["id"] == older["id"]
    assert [one["name"] for one in document["unreadable"]] == [f"snapshots/{newest['id']}"]
    assert site.ask("show", older["id"])["unreadable"] == document["unreadable"]
    assert "may be the newest" in site(*named).stderr


def test_a_backup_warns_of_records_that_cannot_be_read(spoilt: tuple[Site, list[dict[str, str]]]) -> None:
    site, (_older, newest) = spoilt
    ended = site("backup")
    assert ended.returncode == 3
    assert f"snapshots/{newest['id']} cannot be read" in ended.stderr
    recorded = site.ask("list", code=5)["snapshots"][-1]["warnings"]
    assert any(newest["id"] in warning for warning in recorded)
    assert newest["id"] in site.well("check", code=1)
    kit = site("kit")
    assert kit.returncode == 3
    assert newest["id"] in kit.stdout


def test_a_snapshot_from_the_future_is_an_alarm(tmp_path: Path, cluster: Cluster) -> None:
    site = new_site(tmp_path, cluster)
    site.well("backup")
    assert not any(finding["name"] == "clock" for finding in site.ask("check", code=3)["findings"])
    label = take_in_the_future(site)
    (finding,) = (one for one in site.ask("check", code=3)["findings"] if one["name"] == "clock")
    assert finding["status"] == "warning"
    assert label in finding["what"]
    assert "elsewhere" in finding["what"]
    assert "timedatectl" in finding["remedy"]
    ended = site("backup", "--json")
    assert ended.returncode == 3
    assert label in ended.stderr
    (taken,) = json.loads(ended.stdout)["snapshots"]
    assert any(label in warning for warning in taken["warnings"])


def test_another_repository_in_its_place_is_refused_by_what_the_kit_prints(
    tmp_path: Path, cluster: Cluster, servers: Servers
) -> None:
    """One passphrase opens both, as for all repositories of one owner."""
    ours, other = new_site(tmp_path / "a", cluster), Site(folder=tmp_path / "b", cluster=cluster)
    other.folder.mkdir()
    shutil.copy2(ours.passphrase, other.passphrase)
    other.well(
        *("init", "--connection", cluster.dsn(), "--repository-url", other.repository, "--no-recovery-key"),
        *("--passphrase-file", other.passphrase),
    )
    for site in (ours, other):
        site.well("backup")
    target = servers.new_folder("pinned") / "data"
    (line,) = (line for line in ours.well("kit").splitlines() if "holdfast restore" in line)
    words = shlex.split(line)[1:]
    for option, value in (("--passphrase-file", ours.passphrase), ("--to", target)):
        words[words.index(option) + 1] = str(value)
    words[words.index("--start")] = "--dry-run"
    (repository,) = ours.ask("kit")["repositories"]
    shown = run(*words)
    assert shown.returncode == 0, shown.stderr
    assert f"{repository['id']}, key {repository['key']}\n" in shown.stdout
    ours.repository.rename(tmp_path / "away")
    other.repository.rename(ours.repository)
    failed(run(*words), 6, repository["id"])
    del words[words.index("--id") : words.index("--key") + 2]
    shown = run(*words, "--json")
    assert json.loads(shown.stdout)["repository_id"] != repository["id"]
    assert "compare with the recovery kit" in run(*words).stdout
    bare = ("--from", ours.repository, "--passphrase-file", ours.passphrase)
    for command in (("list",), ("show", "latest"), ("verify", "--quick")):
        failed(run(*command, *bare, "--id", repository["id"], "--key", repository["key"].upper()), 6, repository["id"])


def test_the_pin_is_whole_and_goes_with_a_url(site: Site) -> None:
    (repository,) = site.ask("kit")["repositories"]
    pin = ("--id", repository["id"].upper(), "--key", f" {repository['key']}")
    bare = ("list", "--from", site.repository, "--passphrase-file", site.passphrase)
    assert run(*bare, *pin).returncode == 0
    failed(run(*bare, *pin[:2]), 2, "both --id and --key")
    failed(run(*bare, *pin[2:]), 2, "both --id and --key")
    failed(run(*bare, "--id", "x", *pin[2:]), 2, "--id x is not an id", "recovery kit")
    failed(site("list", *pin), 2, "go with --from")


def test_an_option_that_would_be_passed_over_is_refused(site: Site, cluster: Cluster, tmp_path: Path) -> None:
    plan = ("restore", "--to", tmp_path / "back", "--dry-run")
    failed(site(*plan, "--bin", "/nonexistent"), 2, "--bin /nonexistent does not hold postgres", "leave out --bin")
    site.well(*plan, "--bin", cluster.bin)
    twice = ("--tablespace", f"ts={tmp_path}/1", "--tablespace", f"ts={tmp_path}/2")
    failed(site(*plan, *twice), 2, "--tablespace ts=… is given twice")
    bare = ("list", "--from", "s3://bucket/x", "--option", "region=a", "--option", "region=b")
    failed(run(*bare, variables={"HOLDFAST_PASSPHRASE": "x"}), 2, "--option region=… is given twice")


def test_programs_of_another_version_are_refused(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("postgres", "pg_ctl", "initdb"):
        (folder / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 99.1'\n")
        (folder / name).chmod(0o755)
    plan = ("restore", "--to", tmp_path / "back", "--dry-run", "--bin", folder)
    failed(site(*plan), 2, "holds PostgreSQL 99, and the snapshot runs with 15 alone")


def test_a_configured_folder_without_the_programs_is_told(site: Site) -> None:
    connection = next(line for line in site.configuration.read_text().splitlines() if line.startswith("connection"))
    other = site.rewrite(connection=f'{connection.partition(" = ")[2]}\nbin = "/nonexistent"')
    (finding,) = (one for one in other.ask("check", code=3)["findings"] if one["name"] == "programs")
    assert finding["status"] == "warning"
    assert "/nonexistent" in finding["what"]


@pytest.mark.parametrize("option", ["--connection", "--admin", None])
def test_a_password_on_the_command_line_is_warned_of(option: str | None, tmp_path: Path, cluster: Cluster) -> None:
    site = Site(folder=tmp_path, cluster=cluster)
    wanted = ["--connection", cluster.tcp_dsn() if option == "--connection" else cluster.dsn()]
    wanted += ["--admin", f"{cluster.dsn()} password=unused"] if option == "--admin" else []
    ended = site("init", *wanted, "--no-recovery-key", "--repository-url", site.repository)
    assert ended.returncode == 0, ended.stderr
    told = "can be read by everybody on this machine"
    assert (told in ended.stderr) is (option is not None), ended.stderr
    assert option is None or f"the password in {option} {told}" in ended.stderr
    assert "password=unused" not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("list", "list [OPTIONS] [SOURCE]\n"),
        ("restore", "restore [OPTIONS] [SOURCE]\n"),
        ("backup", "backup [OPTIONS] [SOURCE]...\n"),
        ("verify", "verify [OPTIONS] [SNAPSHOT]...\n"),
    ],
)
def test_what_may_be_left_out_has_one_pair_of_brackets(command: str, usage: str) -> None:
    assert usage in run(command, "--help").stdout


def test_the_options_of_init_speak_of_init() -> None:
    helped = run("init", "--help").stdout
    assert "--option" in helped
    assert "--from" not in helped


def test_a_store_that_was_set_back_is_noticed_by_every_command(tmp_path: Path, cluster: Cluster) -> None:
    """The newest record is gone, nobody names it as a predecessor yet: this machine remembers, and the kit does."""
    site = new_site(tmp_path / "site", cluster)
    for _time in range(2):
        site.well("backup")
    older, newest = site.ask("list")["snapshots"]
    assert newest["digest"] in site.well("kit")
    (site.repository / "snapshots" / newest["id"]).unlink()

    def alarmed(command: str, code: int) -> None:
        ended = site(command)
        assert ended.returncode == code, ended.stdout + ended.stderr
        for text in ("is gone, and nobody removed it", newest["id"][:12], "newest.json"):
            assert text in ended.stdout + ended.stderr, text

    alarmed("list", 5)
    alarmed("check", 1)
    alarmed("verify", 5)
    document = site.ask("restore", "--to", tmp_path / "back", "--dry-run")
    assert document["plan"]["snapshot"]["id"] == older["id"]
    assert [one["name"] for one in document["missing"]] == [f"snapshots/{newest['id']}"]
    ended = site("restore", "--to", tmp_path / "back")
    assert ended.returncode == 3
    assert ended.stderr.count("is gone, and nobody removed it") == 2, "before the plan, and at the end"
    alarmed("backup", 3)
    alarmed("list", 5)
    (STATE / "holdfast/repositories" / document["repository_key"] / "newest.json").unlink()
    assert len(site.ask("list")["snapshots"]) == 2, "forgotten on purpose"
