from __future__ import annotations

import getpass
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from holdfast.errors import (
    ConfigError,
    Damaged,
    HoldfastError,
    NoSpace,
    PermissionRefused,
    ServerUnreachable,
    TryLater,
)
from holdfast.postgres.connection import (
    Server,
    connect,
    connect_replication,
    quote_identifier,
    refusal,
    sql_error,
    sql_errors,
)
from holdfast.postgres.hba import HbaLine
from tests.servers import PASSWORD, Cluster, Servers, every_version, wait_until

SERVER = Server(host="db.example", port="5432", user="holdfast")


@pytest.fixture(scope="module")
def cluster(servers: Servers) -> Iterator[Cluster]:
    made = servers.make_cluster(15)
    yield made
    servers.remove(made)


@every_version
def test_a_session_never_times_out_and_says_who_it_is(make_cluster: Callable[..., Cluster], major: int) -> None:
    made = make_cluster(major, conf="statement_timeout = 1234\nidle_session_timeout = 1234\ntcp_keepalives_idle = 1")
    for dsn in (made.dsn(), made.tcp_dsn(), made.dsn() + " options='-c work_mem=1MB'"):
        with closing(connect(dsn)) as session:
            rows = session.execute("select name, setting from pg_settings where name ~ 'timeout$|^application_name$'")
            settings: dict[str, str] = dict(rows.fetchall())
            assert settings["application_name"] == "holdfast"
            assert settings["statement_timeout"] == settings["idle_session_timeout"] == "0"
            assert session.autocommit
    with closing(connect_replication(made.dsn())) as session:
        state = made.value("select count(*) from pg_stat_replication where application_name = 'holdfast'")
        assert state == 1


def test_the_callers_own_words_win(cluster: Cluster) -> None:
    dsn = cluster.dsn() + " application_name=mine options='-c work_mem=1MB'"
    with closing(connect(dsn)) as session:
        assert session.execute("select current_setting('work_mem')").fetchone() == ("1MB",)
        assert session.execute("select current_setting('application_name')").fetchone() == ("mine",)


def test_a_uri_is_taken_too(cluster: Cluster) -> None:
    with closing(connect(f"postgresql://postgres@/postgres?host={cluster.socket_dir}&port={cluster.port}")) as session:
        assert Server.of(session.pgconn) == Server(
            host=str(cluster.socket_dir), port=str(cluster.port), user="postgres"
        )


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ServerUnreachable, match=f"127.0.0.1:{port}: Connection refused") as caught:
            connect(f"host=127.0.0.1 port={port} user=x password=geheim")
    assert f"pg_isready -h 127.0.0.1 -p {port}" in caught.value.hint


def test_a_socket_that_is_not_there() -> None:
    with pytest.raises(ServerUnreachable, match=r"/nowhere/\.s\.PGSQL\.5432: No such file"):
        connect("host=/nowhere user=x")


def test_a_socket_path_that_is_too_long() -> None:
    with pytest.raises(ServerUnreachable, match="too long") as caught:
        connect(f"host=/{'x' * 120} user=x")
    assert caught.value.hint


def test_a_server_that_accepts_and_says_nothing_is_given_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ServerUnreachable, match="timeout expired"):
            connect(f"host=127.0.0.1 port={silent.getsockname()[1]} user=x connect_timeout=2")


def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(ServerUnreachable, match=r"no-such-host\.invalid:5432"):
        connect("host=no-such-host.invalid user=x")


@pytest.mark.parametrize("text", ["secret-word", "postgresql://u:secret-word@[::1/db", "password=secret-word nonsense"])
def test_an_unreadable_connection_string_is_not_quoted(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        connect(text)
    assert "secret-word" not in str(caught.value) + caught.value.hint + repr(caught.value.__cause__)


def test_a_wrong_password_is_refused_and_never_shown(cluster: Cluster) -> None:
    for dsn in (cluster.tcp_dsn(password="geheim-123"), cluster.tcp_dsn(password="geheim-123", user="geheim-123")):
        with pytest.raises(PermissionRefused, match="password authentication failed") as caught:
            connect(dsn)
        assert "geheim-123" not in str(caught.value).replace("role geheim-123", "")
    with pytest.raises(PermissionRefused, match="no password supplied"):
        connect(f"host=127.0.0.1 port={cluster.port} user=postgres passfile=/nonexistent")


def test_a_role_or_a_database_that_is_not_there(cluster: Cluster) -> None:
    with pytest.raises(PermissionRefused, match="refuses role nobody_knows"):
        connect(cluster.dsn(user="nobody_knows"))
    with pytest.raises(ConfigError, match="no database 没有"):
        connect(cluster.dsn("没有"))
    with pytest.raises(ConfigError, match="no database 没有"):
        connect(cluster.tcp_dsn("没有"))


def test_a_role_without_replication(cluster: Cluster) -> None:
    cluster.execute("create role plain login")
    with pytest.raises(PermissionRefused, match="lacks REPLICATION") as caught:
        connect_replication(cluster.dsn(user="plain"))
    assert caught.value.hint.endswith("ALTER ROLE plain REPLICATION;")


def test_pg_hba_conf_is_answered_by_the_line_that_mends_it(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    cluster.execute("create role holdfast login replication password 'x'")
    hba = cluster.data_dir / "pg_hba.conf"
    hba.write_text("local all postgres trust\nhost all postgres 127.0.0.1/32 scram-sha-256\n")
    _reload(cluster)
    lines = []
    over_tcp, over_socket = cluster.tcp_dsn(user="holdfast", password="x"), cluster.dsn(user="holdfast")
    for dsn in (over_tcp, over_socket):
        for opened in (connect, connect_replication):
            with pytest.raises(PermissionRefused, match=r"pg_hba\.conf") as caught:
                opened(dsn)
            lines.append(caught.value.hint.splitlines()[-1])
    assert lines == [
        "host postgres holdfast 127.0.0.1/32 scram-sha-256",
        "host replication holdfast 127.0.0.1/32 scram-sha-256",
        "local postgres holdfast scram-sha-256",
        "local replication holdfast scram-sha-256",
    ]
    # The lines do what is promised.
    hba.write_text(hba.read_text() + "\n".join(lines) + "\n")
    _reload(cluster)
    for opened in (connect, connect_replication):
        opened(over_tcp).close()
        opened(over_socket + " password=x").close()


def _reload(cluster: Cluster) -> None:
    """Wait until a new session is judged by the file as it is now."""
    before = cluster.value("select pg_conf_load_time()")
    cluster.execute("select pg_reload_conf()")
    wait_until(lambda: cluster.value("select pg_conf_load_time()") > before, "the reload")


def test_a_stopped_server(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15)
    cluster.stop()
    with pytest.raises(ServerUnreachable):
        connect(cluster.dsn())
    with pytest.raises(ServerUnreachable):
        connect_replication(cluster.tcp_dsn())


def test_a_server_that_is_full(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15, conf="max_connections = 5\nsuperuser_reserved_connections = 1\nmax_wal_senders = 1")
    cluster.execute("create role holdfast login replication")
    with ExitStack() as stack:

        def fill() -> None:
            for _number in range(9):
                stack.enter_context(closing(connect(cluster.dsn(user="holdfast"))))

        with pytest.raises(TryLater, match="no connection left"):
            fill()
    with closing(connect_replication(cluster.dsn(user="holdfast"))), pytest.raises(TryLater, match="max_wal_senders"):
        connect_replication(cluster.dsn(user="holdfast"))


def test_errors_of_a_session_become_holdfasts(cluster: Cluster) -> None:
    cluster.execute("create role plain2 login")
    with closing(connect(cluster.dsn(user="plain2"))) as session:
        with pytest.raises(PermissionRefused, match="permission denied"), sql_errors(Server.of(session.pgconn)):
            session.execute("select * from pg_authid")
        with pytest.raises(HoldfastError, match="syntax error"), sql_errors(Server.of(session.pgconn)):
            session.execute("selec 1")
        cluster.execute(f"select pg_terminate_backend({session.info.backend_pid})")
        with pytest.raises(ServerUnreachable, match="was lost"), sql_errors(Server.of(session.pgconn)):
            session.execute("select 1")


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("42501", PermissionRefused),
        ("57P01", ServerUnreachable),
        ("08006", ServerUnreachable),
        ("", ServerUnreachable),
        ("53100", NoSpace),
        ("53400", TryLater),
        ("XX001", Damaged),
        ("55000", HoldfastError),
    ],
)
def test_a_sqlstate_has_its_class(state: str, kind: type[HoldfastError]) -> None:
    assert type(sql_error(state, "words", server=SERVER)) is kind


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        ("FATAL:  unsupported startup parameter: options", ConfigError, "own port"),
        ("FATAL:  unsupported startup parameter in options: statement_timeout", ConfigError, "own port"),
        ('FATAL:  unrecognized configuration parameter "idle_session_timeout"', HoldfastError, "15 to 19"),
        ("FATAL:  the database system is starting up", ServerUnreachable, "Wait"),
        ("FATAL:  the database system is not accepting connections", ServerUnreachable, "Wait"),
        ("FATAL:  sorry, too many clients already", TryLater, "max_connections"),
        (
            '致命错误:  没有用于主机 "10.1.2.3", 用户 "holdfast", 没有加密的pg_hba.conf记录',
            PermissionRefused,
            "host replication holdfast 10.1.2.3/32 scram-sha-256",
        ),
        (
            'FATAL:  no pg_hba.conf entry for replication connection from host "fd00::7", user "holdfast", SSL on',
            PermissionRefused,
            "host replication holdfast fd00::7/128 scram-sha-256",
        ),
        (
            'FATAL:  pg_hba.conf rejects replication connection for host "10.1.2.3", user "holdfast", no encryption',
            PermissionRefused,
            "above the others",
        ),
    ],
)
def test_a_refusal_is_understood(text: str, kind: type[HoldfastError], line: str) -> None:
    whole = f'connection failed: connection to server at "db.example" (10.0.0.5), port 5432 failed: {text}'
    error = refusal(whole, server=SERVER, database="replication")
    assert type(error) is kind
    assert line in error.hint


def test_a_refusal_in_another_language_after_a_password_is_about_the_role() -> None:
    error = refusal('用户 "holdfast" Password 认证失败', server=SERVER, database="app", used_password=True)
    assert type(error) is PermissionRefused


def test_hba_lines_quote_what_must_be_quoted() -> None:
    assert HbaLine(database="replication", role="all").render().startswith("local replication all")
    assert HbaLine(database="my db", role='a"b', address="10.0.0.0/8").render() == (
        'host "my db" "a""b" 10.0.0.0/8 scram-sha-256'
    )
    assert HbaLine(database="x", role=getpass.getuser()).render().endswith(" peer")
    assert HbaLine(database="x", role="y", address="::1", method="trust").render() == "host x y ::1/128 trust"
    assert quote_identifier('Plain "Role"') == '"Plain ""Role"""'


def test_addresses_are_told_apart() -> None:
    assert Server(host="/var/run/postgresql", port="5432", user="x").is_local
    assert Server(host="127.0.0.1", port="5432", user="x").is_local
    assert Server(host="::1", port="5432", user="x").is_local
    assert not SERVER.is_local
    assert str(Server(host="::1", port="5433", user="x")) == "[::1]:5433"
    assert PASSWORD not in str(SERVER)
