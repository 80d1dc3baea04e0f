"""``holdfast init``: what it makes, what it never touches, and what stands after it failed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.cli.places import machine_zone
from holdfast.cli.server_access import render
from tests.cli.running import command, environment
from tests.cli.site import Site, at_terminal, failed, new_site, run
from tests.servers import PASSWORD, Cluster, wait_until

SmallDisk = Callable[[int], Path]
RECOVERY = re.compile(r"hfrec(?:-[a-z2-7]{5})+")


def test_without_a_terminal_what_is_missing_is_named(tmp_path: Path) -> None:
    ended = run("--config", tmp_path / "holdfast.toml", "init")
    failed(ended, 2, "--connection, --repository-url", "holdfast init --connection")
    assert not list(tmp_path.iterdir())


def test_it_makes_everything_and_writes_no_secret_into_the_configuration(tmp_path: Path, cluster: Cluster) -> None:
    site = Site(folder=tmp_path / "etc", cluster=cluster)
    made = site.well("init", "--connection", cluster.tcp_dsn(), "--repository-url", site.repository, "--source", "db")
    (key,) = RECOVERY.findall(made)
    text = site.configuration.read_text()
    passphrase = site.passphrase.read_text().strip()
    assert passphrase.startswith("hfpass-")
    for secret in (key, passphrase, PASSWORD, "pässword"):
        assert secret not in text
    for file in (site.passphrase, site.folder / "pgpass"):
        assert file.stat().st_mode & 0o777 == 0o600
    assert site.configuration.stat().st_mode & 0o777 == 0o640
    assert "timezone = " in text
    assert "[source.db]" in text
    assert "holdfast check" in made
    assert site.ask("list")["snapshots"] == []
    key_file = tmp_path / "key"
    key_file.write_text(key.upper())
    assert "No snapshot" in site.well("list", "--recovery-key-file", key_file)
    site.well("backup", "db")  # with the password from the file


def test_a_role_that_cannot_back_up_yet_is_a_warning_and_is_told_again(tmp_path: Path, cluster: Cluster) -> None:
    site = Site(folder=tmp_path, cluster=cluster)
    absent = cluster.dsn(user="nobody_there")
    first = run("--config", site.configuration, "init", "--connection", absent, "--repository-url", site.repository)
    assert first.returncode == 3
    assert "CREATE ROLE" in first.stdout
    again = run("--config", site.configuration, "init")
    assert again.returncode == 3
    assert "CREATE ROLE" in again.stdout
    other = run("--config", site.configuration, "init", "--connection", cluster.dsn())
    failed(other, 2, "says otherwise than --connection", "Edit it")


def test_a_repository_inside_the_data_directory_is_no_place(tmp_path: Path, cluster: Cluster) -> None:
    site = Site(folder=tmp_path, cluster=cluster)
    place = cluster.data_dir / "repository"
    try:
        run("--config", site.configuration, "init", "--connection", cluster.dsn(), "--repository-url", place)
        checked = run("--config", site.configuration, "check")
        assert checked.returncode == 1
        assert (
            "lies inside the data directory" in checked.stdout
            or "lies inside the cluster's data directory" in checked.stdout
        )
    finally:
        shutil.rmtree(place, ignore_errors=True)


def test_as_json_the_recovery_key_is_in_the_document(tmp_path: Path, cluster: Cluster) -> None:
    site = Site(folder=tmp_path, cluster=cluster)
    made = site.ask("init", "--connection", cluster.dsn(), "--repository-url", site.repository)
    assert RECOVERY.fullmatch(made["recovery_key"])
    assert [repository["name"] for repository in made["repositories"]] == ["local"]
    assert made["repositories"][0]["id"] in site.configuration.read_text()


def test_a_second_init_is_refused(tmp_path: Path, cluster: Cluster) -> None:
    site = new_site(tmp_path / "one", cluster)
    before = site.configuration.read_bytes()
    failed(site("init"), 6, "nothing to make", "holdfast check")
    assert site.configuration.read_bytes() == before
    other = tmp_path / "two" / "holdfast.toml"
    options = ("--connection", cluster.dsn(), "--repository-url", site.repository)
    failed(run("--config", other, "init", *options), 6, "there is a repository")
    assert not other.parent.exists()
    ended = run("--config", other, "init", *options, "--passphrase-file", site.passphrase)
    failed(ended, 6, "The configured passphrase opens it", f'id = "{_pinned(site)["id"]}"')


def _pinned(site: Site) -> dict[str, str]:
    return dict(re.findall(r'^(id|key) = "([0-9a-f]{32})"', site.configuration.read_text(), re.MULTILINE))


def test_of_two_at_once_one_wins(tmp_path: Path, cluster: Cluster) -> None:
    sites = [Site(folder=tmp_path / name, cluster=cluster) for name in ("one", "two")]
    store = tmp_path / "repository"
    started = [
        subprocess.Popen(
            command(
                *("--config", str(site.configuration), "init", "--connection", cluster.dsn()),
                *("--repository-url", str(store), "--no-recovery-key"),
                module="holdfast",
            ),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        for site in sites
    ]
    ended = [(process.communicate(timeout=120), process.returncode) for process in started]
    assert sorted(code for _said, code in ended) == [0, 6], ended
    assert [site("list").returncode == 0 for site in sites] == [code == 0 for _said, code in ended]


def test_at_a_terminal_it_asks_and_wants_the_recovery_key_back(tmp_path: Path, cluster: Cluster) -> None:
    site = Site(folder=tmp_path, cluster=cluster)

    def retyped(said: str) -> str:
        found = RECOVERY.search(said)
        assert found
        return found[0].upper().replace("-", " ", 3).replace(" ", "-", 1) + "\n"

    ended = at_terminal(
        *("--config", site.configuration, "init"),
        answers=[
            ("Connection to PostgreSQL", f"{cluster.dsn()}\n"),
            ("Where the backups go", f"{site.repository}\n"),
            ("Type the recovery key", "hfrec-nonsense\n"),
            ("That is another one", retyped),
        ],
    )
    assert ended.returncode == 0, ended.stderr
    assert "Connection to PostgreSQL [postgresql://holdfast@localhost/postgres]" in ended.stderr
    assert "That is another one" in ended.stderr
    assert site("list").returncode == 0


def test_a_recovery_key_that_is_not_typed_back_costs_nothing(tmp_path: Path, cluster: Cluster) -> None:
    site = Site(folder=tmp_path, cluster=cluster)
    ended = at_terminal(
        *("--config", site.configuration, "init", "--connection", cluster.dsn(), "--repository-url", site.repository),
        answers=[("Type the recovery key", "a\nb\nhfrec-aaaaa\n")],
    )
    failed(ended, 2, "was not confirmed; nothing was made")
    assert not list(tmp_path.iterdir())


def test_admin_makes_the_role_and_a_password_of_its_own(tmp_path: Path, cluster: Cluster) -> None:
    site = Site(folder=tmp_path, cluster=cluster)
    role = f"backup_{os.getpid()}"
    wanted = f"host=127.0.0.1 port={cluster.port} dbname=postgres user={role}"
    made = site.well(
        *("init", "--connection", wanted, "--admin", cluster.dsn(), "--repository-url", site.repository),
        "--no-recovery-key",
    )
    assert f"ran: CREATE ROLE {role};" in made
    assert (tmp_path / "pgpass").stat().st_mode & 0o777 == 0o600
    findings = site.ask("check", code=3)["findings"]
    about_source = [finding for finding in findings if finding["about"] == "source main"]
    assert {one["name"] for one in about_source if one["status"] != "ok"} == {"max_slot_wal_keep_size"}
    site.well("init", "--admin", cluster.dsn())  # may be repeated
    site.well("backup")
    failed(site("init"), 6)


def test_admin_is_offered_a_limit_for_slots(tmp_path: Path, make_cluster: Callable[..., Cluster]) -> None:
    """Nothing is changed on the server unless somebody says so."""
    cluster = make_cluster(15)
    site = Site(folder=tmp_path, cluster=cluster)
    options = ("--connection", cluster.dsn(user="backup"), "--admin", cluster.dsn(), "--no-recovery-key")
    told = site("init", *options, "--repository-url", site.repository)
    assert told.returncode == 0, told.stderr
    assert "ALTER SYSTEM SET max_slot_wal_keep_size = '19GB';" in told.stderr
    assert "ran: ALTER" not in told.stdout.replace("ran: ALTER ROLE", "")
    assert cluster.value("show max_slot_wal_keep_size") == "-1"
    ended = at_terminal(
        *("--config", site.configuration, "init", "--admin", cluster.dsn()), answers=[("Run it now?", "y\n")]
    )
    assert ended.returncode == 0, ended.stderr
    assert "ran: ALTER SYSTEM SET max_slot_wal_keep_size = '19GB';" in ended.stdout
    wait_until(lambda: cluster.value("show max_slot_wal_keep_size") == "19GB", "the server has read its configuration")
    assert "max_slot_wal_keep_size" not in site("init", "--admin", cluster.dsn()).stderr


def test_what_a_role_needs_is_printed(tmp_path: Path, cluster: Cluster) -> None:
    site = Site(folder=tmp_path, cluster=cluster)
    wanted = f"host={cluster.socket_dir} port={cluster.port} user=nobody_yet dbname=postgres"
    made = site("init", "--connection", wanted, "--repository-url", site.repository, "--no-recovery-key")
    assert made.returncode == 3
    assert "cannot back up yet" in made.stderr
    assert "ALTER ROLE nobody_yet LOGIN REPLICATION;" in made.stdout
    assert "local replication nobody_yet" in made.stdout


def test_a_configuration_that_is_there_is_kept_but_for_the_pins(tmp_path: Path, cluster: Cluster) -> None:
    site = Site(folder=tmp_path, cluster=cluster)
    text = (
        "# 我的备份\npassphrase = { file = 'secret' }\n\n"
        f'[source.main]\ntype = "postgres"\nconnection = "{cluster.dsn()}"\n\n'
        "[repository.one]   # first\nurl = 'file:one'\n[repository.two]\nurl = 'file:two'\n"
    )
    site.configuration.write_text(text)
    made = site.ask("init", "--no-recovery-key")
    assert [repository["name"] for repository in made["repositories"]] == ["one", "two"]
    assert made["secret_files"] == [str(tmp_path / "secret")]
    after = site.configuration.read_text()
    assert [line for line in after.splitlines() if not line.startswith(("id =", "key ="))] == text.splitlines()
    assert (tmp_path / "one" / "repository.json").exists()
    site.well("backup", "--repository", "two")
    assert len(site.ask("list", "--repository", "two")["snapshots"]) == 1
    assert site.ask("list")["snapshots"] == []


def test_after_a_failure_the_next_run_goes_on(tmp_path: Path, cluster: Cluster) -> None:
    site = Site(folder=tmp_path / "etc", cluster=cluster)
    (tmp_path / "file").write_text("in the way")
    options = ("--connection", cluster.dsn(), "--repository-url")
    ended = site("init", *options, tmp_path / "file" / "repository")
    assert ended.returncode in (1, 4, 6)
    assert "What stands and is used by the next run" in ended.stderr
    assert "cross it out" in ended.stderr
    passphrase = site.passphrase.read_text()
    failed(site("init", *options, site.repository), 2, "says otherwise than --repository-url")
    text = site.configuration.read_text()
    site.configuration.write_text(text.replace(str(tmp_path / "file" / "repository"), str(site.repository)))
    site.well("init")
    assert site.passphrase.read_text() == passphrase
    assert site.ask("list")["snapshots"] == []


def test_a_configuration_that_cannot_be_written_gets_its_lines_printed(
    tmp_path: Path, cluster: Cluster, small_disk: SmallDisk
) -> None:
    site = Site(folder=small_disk(8), cluster=cluster)
    site.passphrase.write_text("correct horse battery staple\n")
    site.passphrase.chmod(0o600)
    text = f"passphrase = {{ file = 'passphrase' }}\n[repository.local]\nurl = 'file://{tmp_path}/store'\n"
    site.configuration.write_text(text)
    remount(site.folder, "ro")
    ended = site("init", "--no-recovery-key")
    failed(ended, 2, "cannot pin the repository", "[repository.local]\nid = ")
    lines = dict(re.findall(r'^(id|key) = "(\w+)"', ended.stderr, re.MULTILINE))
    failed(site("init", "--no-recovery-key"), 6, f'id = "{lines["id"]}"')
    remount(site.folder, "rw")
    site.configuration.write_text(text + "".join(f'{name} = "{value}"\n' for name, value in lines.items()))
    assert site.ask("list")["snapshots"] == []


def test_a_new_configuration_that_cannot_be_written_makes_nothing(
    tmp_path: Path, cluster: Cluster, small_disk: SmallDisk
) -> None:
    site = Site(folder=small_disk(8), cluster=cluster)
    remount(site.folder, "ro")
    ended = site("init", "--connection", cluster.dsn(), "--repository-url", tmp_path / "store")
    failed(ended, 1, "cannot write", "--config")
    assert not (tmp_path / "store").exists()


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"host": "localhost", "user": "a b"}, "host=localhost user='a b'"),
        ({"options": "", "password": "it's\\"}, "options='' password=it\\'s\\\\"),
    ],
)
def test_connection_words_survive(words: dict[str, str], text: str) -> None:
    from holdfast.postgres.connection import read_connection_string

    assert read_connection_string(render(words)) == words
    assert render(words) == text or "'" in text


def test_the_time_zone_of_the_machine(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert machine_zone({"TZ": ":Asia/Shanghai"}, link=absent, file=absent) == "Asia/Shanghai"
    assert machine_zone({"TZ": "nonsense"}, link=absent, file=absent) == "UTC"
    (tmp_path / "timezone").write_text("Europe/Berlin\n")
    assert machine_zone({}, link=absent, file=tmp_path / "timezone") == "Europe/Berlin"
    (tmp_path / "localtime").symlink_to("/usr/share/zoneinfo/Asia/Tokyo")
    assert machine_zone({}, link=tmp_path / "localtime", file=absent) == "Asia/Tokyo"
