"""The commands on good days: what they show, and what of it is for machines."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path

from holdfast.cli.access import as_url
from holdfast.cli.backup import worst
from holdfast.jobs.start import is_same_machine
from tests.cli.site import Site, at_terminal, failed, new_site, run
from tests.servers import Cluster, Servers


def test_list_shows_what_there_is(site: Site) -> None:
    first, second = site.ask("list")["snapshots"]
    assert datetime.fromisoformat(first["started"]) < datetime.fromisoformat(second["started"])
    assert second["totals"]["added_content"] < first["totals"]["added_content"]
    shown = site.well("list", "main")
    assert first["label"] in shown
    assert second["short_id"] in shown
    failed(site("list", "mian"), 2, "there is no source mian", "main")


def test_show_tells_all_of_a_snapshot(site: Site, cluster: Cluster) -> None:
    newest = site.ask("list")["snapshots"][-1]
    shown = site.well("show", newest["label"])
    for told in (newest["id"], str(cluster.value("select system_identifier from pg_control_system()")), "template1"):
        assert told in shown
    document = site.ask("show", newest["id"][:8], "--files")
    assert document["facts"]["stop_lsn"]
    files = {file["path"]: file for file in document["files"]}
    assert files["PG_VERSION"]["size"] == 3
    assert "PG_VERSION" in site.well("show", "latest", "--files")
    failed(site("show", "nonsense"), 2, "there is no snapshot nonsense", "holdfast list")


def test_verify_counts(site: Site) -> None:
    found = site.ask("verify")
    assert (found["good"], found["snapshots"], found["problems"]) == (True, 2, [])
    assert found["read_bytes"] >= sum(path.stat().st_size for path in site.packs())
    assert site.ask("verify", "latest")["snapshots"] == 1
    quick = site.ask("verify", "--quick")
    assert (quick["good"], quick["read_bytes"]) == (True, 0)
    assert "as it was written" in site.well("verify")


def test_check_names_each_thing_and_what_mends_it(site: Site) -> None:
    checked = site("check", "--json")
    document = json.loads(checked.stdout)
    statuses = {(finding["about"], finding["name"]): finding["status"] for finding in document["findings"]}
    assert statuses["configuration", "file"] == "ok"
    assert statuses["source main", "wal_level"] == "ok"
    assert statuses["source main", "role"] == "warning"  # a superuser
    assert statuses["repository local", "store"] == "ok"
    assert checked.returncode == document["exit_code"] == 3
    shown = site("check")
    assert "✓" in shown.stdout
    assert "holdfast init makes one" in shown.stdout
    assert not (site.repository / "probes").exists() or not any((site.repository / "probes").iterdir())


def test_check_finds_what_is_wrong(site: Site) -> None:
    other = site.rewrite(connection=f'"host={site.folder} port=1 user=postgres"', key='"' + "0" * 32 + '"')
    other.configuration.chmod(0o666)
    site.passphrase.chmod(0o644)
    try:
        document = other.ask("check", code=4)
    finally:
        site.passphrase.chmod(0o600)
    bad = {(finding["about"], finding["name"]): finding for finding in document["findings"] if finding["remedy"]}
    assert "pg_isready" in bad["source main", "connection"]["remedy"]
    assert "chmod go-w" in bad["configuration", "file_mode"]["remedy"]
    assert "chmod 600" in bad["configuration", "secret"]["remedy"]
    assert "pinned id" in bad["repository local", "opens"]["remedy"]


def test_the_kit_has_everything_but_the_secret(site: Site, tmp_path: Path) -> None:
    kit = site.well("kit")
    newest = site.ask("list")["snapshots"][-1]["label"]
    for told in (f"file://{site.repository}", newest, "postgresql-15", "./holdfast-", "NOT IN THIS KIT", "wrapped"):
        assert told in kit
    assert site.passphrase.read_text().strip() not in kit
    document = site.ask("kit")
    assert document["repositories"][0]["sources"][0]["postgres_major"] == 15
    assert site.passphrase.read_text().strip() not in json.dumps(document)
    file = tmp_path / "kit.txt"
    for _time in range(2):
        assert str(file) in site.well("kit", "--output", file)
        assert "HOLDFAST RECOVERY KIT" in file.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["kit.txt"]


def test_a_kit_of_a_repository_that_is_away_says_what_is_missing(site: Site) -> None:
    other = site.rewrite(url='"file:///nonexistent/repository"')
    ended = other("kit")
    assert ended.returncode == 3
    assert "INCOMPLETE: repository local: no store at" in ended.stdout


def test_lost_key_objects_are_put_back_from_the_kit(tmp_path: Path, cluster: Cluster) -> None:
    site = new_site(tmp_path, cluster)
    keys = site.ask("kit")["repositories"][0]["key_objects"]
    shutil.rmtree(site.repository / "keys")
    assert site("list").returncode != 0
    (site.repository / "keys").mkdir()
    for name, content in keys.items():
        (site.repository / name).write_text(content)
    site.well("list")


def test_a_dry_run_shows_the_plan_and_touches_nothing(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "back"
    document = site.ask("restore", "--to", target, "--dry-run")
    assert document["restored"] is False
    assert document["plan"]["target"] == str(target)
    assert document["plan"]["wal"]
    shown = site.well("restore", "--to", target, "--dry-run", "--at", f"snapshot:{document['plan']['snapshot']['id']}")
    assert "Nothing was touched." in shown
    assert not target.exists()


def test_a_bare_machine_has_the_url_and_the_passphrase(site: Site, servers: Servers, tmp_path: Path) -> None:
    """Without configuration: by file, by variable, at a terminal, and without any secret."""
    url = f"file://{site.repository}"
    target = servers.new_folder("bare") / "data"
    ended = run("restore", "main", "--from", url, "--passphrase-file", site.passphrase, "--to", target)
    assert ended.returncode == 0, ended.stderr
    assert "pg_ctl start" in ended.stdout
    assert (target / "recovery.signal").exists()
    assert not (target / "holdfast-restore-incomplete").exists()
    secret = site.passphrase.read_text().strip()
    assert run("list", "--from", str(site.repository), variables={"HOLDFAST_PASSPHRASE": secret}).returncode == 0
    asked = at_terminal("list", "--from", url, answers=[("Passphrase or recovery key", f"{secret}\n")], cwd=tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert f"Passphrase or recovery key of {url}" in asked.stderr
    assert secret not in asked.stderr + asked.stdout
    failed(run("list", "--from", url), 2, "no passphrase", "HOLDFAST_PASSPHRASE")
    failed(run("list", "--from", url, variables={"HOLDFAST_PASSPHRASE": "wrong"}), 6, "wrong passphrase")
    option = ("--option", "access_key_secret=abc")
    failed(
        run("list", "--from", "s3://bucket/x", *option, variables={"HOLDFAST_PASSPHRASE": "x"}),
        2,
        "AWS_SECRET_ACCESS_KEY",
    )
    failed(run("list", "--from", f"{url}x", variables={"HOLDFAST_PASSPHRASE": "x"}), 4, "no store at")


def test_a_source_must_be_named_where_there_are_several(tmp_path: Path, cluster: Cluster) -> None:
    site = new_site(tmp_path, cluster)
    with site.configuration.open("a") as file:
        file.write(f'[source.second]\ntype = "postgres"\nconnection = "{cluster.dsn()}"\n')
    taken = site.ask("backup")["snapshots"]
    assert [snapshot["source"] for snapshot in taken] == ["main", "second"]
    failed(site("restore", "--to", tmp_path / "back", "--dry-run"), 2, "main, second", "holdfast restore main")
    planned = site.ask("restore", "second", "--to", tmp_path / "back", "--dry-run")["plan"]
    assert planned["snapshot"]["id"] == taken[1]["id"]
    failed(site("restore", "third", "--to", tmp_path / "back"), 2, "no snapshot of third")
    failed(site("restore", "main", "--to", tmp_path / "b", "--at", f"snapshot:{taken[1]['id']}"), 2, "no snapshot")


def test_one_source_that_fails_does_not_stop_the_others(tmp_path: Path, cluster: Cluster) -> None:
    site = new_site(tmp_path, cluster)
    with site.configuration.open("a") as file:
        file.write(f'[source.away]\ntype = "postgres"\nconnection = "host={tmp_path} port=1 user=postgres"\n')
        file.write('[source.images]\ntype = "files"\npath = "images"\n')
    ended = site("backup", "away", "main", "--json")
    assert ended.returncode == 4
    entries = json.loads(ended.stdout)["snapshots"]
    assert entries[0]["error"]["exit_code"] == 4
    assert entries[1]["label"].startswith("main_")
    ended = site("backup")
    assert ended.returncode == 4
    assert "source images is a folder" in ended.stderr
    assert "main_" in ended.stdout
    failed(site("backup", "images"), 2, "not a PostgreSQL cluster")
    failed(site("backup", "--tier", "daily"), 2, "tiers are not built yet")
    failed(site("backup", "mian"), 2, "there is no source mian")


def test_the_language_and_the_time_zone_are_the_operators(site: Site, catalogues: None) -> None:
    other = site.rewrite(timezone='"Asia/Shanghai"')
    assert "+08:00" in other.well("list")
    assert all(snapshot["started"].endswith("+08:00") for snapshot in other.ask("list")["snapshots"])
    assert site("--lang", "zh_CN", "list").returncode == 0


def test_the_worst_exit_code_counts() -> None:
    assert [worst([]), worst([0, 3]), worst([3, 1, 0]), worst([1, 4, 3])] == [0, 3, 1, 4]


def test_which_machines_run_which_data() -> None:
    assert is_same_machine("x86_64-pc-linux-gnu", "x86_64")
    assert is_same_machine("aarch64-apple-darwin23", "arm64")
    assert is_same_machine("", "x86_64")
    assert not is_same_machine("aarch64-unknown-linux-gnu", "x86_64")


def test_a_path_as_people_type_it_is_a_url() -> None:
    assert as_url("/srv/备份 1%") == "file:///srv/备份 1%25"
    assert as_url("./here") == f"file://{Path.cwd()}/here"
    assert as_url("s3://bucket/x") == "s3://bucket/x"
