from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from holdfast.clock import SystemClock
from holdfast.entry import Entry
from holdfast.postgres.basebackup import base_backup
from holdfast.postgres.configuration import Configuration, read_configuration
from holdfast.postgres.connection import Server, connect
from holdfast.postgres.finding import Status
from holdfast.postgres.requirements import check_server, create_role
from tests.postgres.writing import write_readings
from tests.servers import Cluster, Servers, debian_cluster, every_version, give, run

ELSEWHERE = Server(host="db.example", port="5432", user="holdfast")


def _read(dsn: str, server: Server | None = None) -> Configuration:
    with closing(connect(dsn)) as session:
        return read_configuration(session, server=server or Server.of(session.pgconn), clock=SystemClock())


def _contents(configuration: Configuration) -> dict[str, str]:
    found: dict[str, str] = {}
    entry: Entry
    for entry, content in configuration.readings(()):
        data = b"".join(content)
        assert len(data) == entry.size
        if data:
            found[entry.path] = data.decode()
    return found


def _hows(configuration: Configuration) -> dict[str, str]:
    return {file.path: file.how for file in configuration.files(())}


@contextmanager
def _leaving_nothing(etc: Path) -> Iterator[None]:
    """pg_dropcluster keeps a configuration folder in which it finds files that it did not make."""
    try:
        yield
    finally:
        for file in (etc / "conf.d").iterdir():
            file.unlink()


def test_a_debian_clusters_configuration_is_taken(servers: Servers, tmp_path: Path) -> None:
    shared = servers.new_folder() / "shared.conf"
    shared.write_text("work_mem = '5MB'\n")
    give(shared)
    with debian_cluster() as cluster, _leaving_nothing(etc := Path(cluster.value("show config_file")).parent):
        (etc / "conf.d" / "more.conf").write_text(f"include '{shared}'\ninclude_if_exists = 'absent.conf'\n")
        give(etc / "conf.d" / "more.conf")
        cluster.execute("select pg_reload_conf()")
        with base_backup(cluster.dsn(), label="debian") as backup:
            entries = write_readings(backup.entries(), tmp_path)
        files = {file.path: file for file in backup.facts.configuration}
        assert set(files) == {
            "holdfast-etc/postgresql.conf",
            "holdfast-etc/conf.d/more.conf",
            "holdfast-etc/conf.d/tests.conf",
            f"holdfast-etc/outside{shared}",
            "holdfast-etc/pg_hba.conf",
            "holdfast-etc/pg_ident.conf",
        }
        assert {file.how for file in files.values()} == {"read"}
        assert files["holdfast-etc/pg_hba.conf"].origin == str(etc / "pg_hba.conf")
        assert set(files) <= set(entries)
        assert (tmp_path / "holdfast-etc/postgresql.conf").read_text() == (etc / "postgresql.conf").read_text()
        more = (tmp_path / "holdfast-etc/conf.d/more.conf").read_text()
        assert more.startswith(f"include '../outside{shared}'  # include '{shared}'\n")
        assert not (tmp_path / "postgresql.conf").exists()
    assert not etc.exists()


@every_version
def test_what_is_rebuilt_says_the_same_to_the_server(
    make_cluster: Callable[..., Cluster], major: int, tmp_path: Path
) -> None:
    original = make_cluster(major, conf="search_path = '\"$user\", pub''lic'\nmy.setting = 'back\\\\slash'")
    build = run([original.bin / "pg_config", "--configure"]).stdout
    (original.data_dir / "pg_hba.conf").write_text(
        "local all all trust\n"
        "local replication all trust\n"
        'host "数据库","my db" +readers,"Some ""Body""" 10.0.0.0 255.0.0.0 md5\n'
        "host sameuser all samenet scram-sha-256\n"
        "local names holdfast peer map=names\n"
        "hostnossl all all .example.com reject\n"
        + ("hostssl all holdfast fd00::/8 cert map=names clientcert=verify-full\n" if "openssl" in build else "")
        + (
            'host all all 0.0.0.0/0 ldap ldapserver=a ldapprefix="cn=" ldapsuffix=", dc=example"\n'
            if "ldap" in build
            else ""
        )
    )
    (original.data_dir / "pg_ident.conf").write_text('names /^(.*)@example\\.com$ \\1\nnames "Some Body" holdfast\n')
    original.restart()
    configuration = _read(original.dsn(), ELSEWHERE)
    assert set(_hows(configuration).values()) == {"rebuilt"}
    contents = _contents(configuration)

    copy = make_cluster(major, started=False)
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        (copy.data_dir / name).write_text(contents[f"holdfast-etc/{name}"])
    copy.start()
    of_files = (
        "select name, setting from pg_settings where source in ('configuration file', 'command line') and name !~"
        " '^(config_file|data_directory|hba_file|ident_file|port|unix_socket_directories)$' order by name"
    )
    for query in (
        "select type, database, user_name, address, netmask, auth_method, options, error from pg_hba_file_rules",
        "select map_name, sys_name, pg_username, error from pg_ident_file_mappings",
        of_files,
        "select current_setting('my.setting')",
    ):
        assert copy.execute(query) == original.execute(query)
    assert len(copy.execute("select 1 from pg_hba_file_rules")) >= 6


def test_the_command_line_is_rebuilt_too(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15, started=False, conf="work_mem = '3MB'")
    cluster.start("-c work_mem=7MB -c max_connections=33")
    contents = _contents(_read(cluster.dsn(), ELSEWHERE))["holdfast-etc/postgresql.conf"]
    lines = [line for line in contents.splitlines() if line.startswith(("work_mem", "max_connections"))]
    assert lines[-1] in ("work_mem = '7168'", "max_connections = '33'")
    assert {line.partition(" =")[0] for line in lines} == {"work_mem", "max_connections"}
    assert "work_mem = '7168'" in lines


def test_a_file_of_that_name_that_is_not_the_servers_is_not_taken(make_cluster: Callable[..., Cluster]) -> None:
    """As with a container whose port is published here and whose paths exist here too."""
    cluster = make_cluster(15)
    config = cluster.data_dir / "postgresql.conf"
    whole = config.read_text()
    hows = _hows(_read(cluster.dsn()))
    assert hows["holdfast-etc/postgresql.conf"] == "read"
    create_role(cluster.dsn(), "limited", None)
    for view in ("pg_show_all_file_settings()", "pg_hba_file_rules()"):
        cluster.execute(f"revoke execute on function {view} from limited")
    config.write_text("# another server's\n" + whole)
    found = {file.path: file for file in _read(cluster.dsn(user="limited")).files(())}
    assert found["holdfast-etc/postgresql.conf"].how == "rebuilt"
    assert "not what the server has loaded" in found["holdfast-etc/postgresql.conf"].note


def test_what_is_impossible_is_named(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    cluster.execute("create role bare login replication")
    files = {file.path: file for file in _read(cluster.dsn(user="bare"), ELSEWHERE).files(())}
    assert files["holdfast-etc/pg_hba.conf"].how == "impossible"
    assert "pg_hba_file_rules" in files["holdfast-etc/pg_hba.conf"].note
    assert "GRANT pg_monitor" in files["holdfast-etc/pg_hba.conf"].note
    # In the data directory, so they come with it all the same.
    with base_backup(cluster.dsn(user="bare"), label="bare") as backup:
        assert "pg_hba.conf" in [entry.path for entry, _content in backup.entries()]
    assert not backup.facts.configuration
    assert {
        finding.status for finding in check_server(cluster.dsn(user="bare")) if finding.name == "configuration"
    } == {Status.WARNING}


def test_a_link_out_of_the_data_directory_is_noticed(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """The server leaves links out, with a warning: the name says inside, the backup does not have it."""
    cluster = make_cluster(15)
    hba = cluster.data_dir / "pg_hba.conf"
    outside = cluster.data_dir.parent / "hba"
    hba.rename(outside)
    hba.symlink_to(outside)
    with base_backup(cluster.dsn(), label="linked") as backup:
        entries = write_readings(backup.entries(), tmp_path)
    assert "pg_hba.conf" not in entries
    assert [(file.path, file.how) for file in backup.facts.configuration] == [("holdfast-etc/pg_hba.conf", "read")]
    assert (tmp_path / "holdfast-etc/pg_hba.conf").read_text() == outside.read_text()
    assert any("pg_hba.conf" in warning for warning in backup.facts.warnings)


def test_a_main_file_that_includes_from_elsewhere_is_taken_whole(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = make_cluster(15, started=False)
    outside = cluster.data_dir.parent / "common.conf"
    outside.write_text("work_mem = '6MB'\n")
    give(outside)
    with (cluster.data_dir / "postgresql.conf").open("a") as file:
        file.write(f"include '{outside}'\n")
    cluster.start()
    with base_backup(cluster.dsn(), label="including") as backup:
        write_readings(backup.entries(), tmp_path)
    taken = {file.path for file in backup.facts.configuration}
    assert taken == {"holdfast-etc/postgresql.conf", f"holdfast-etc/outside{outside}"}
