from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.config import FilesSource, PostgresSource, Secret, parse_configuration, read_configuration
from holdfast.errors import ConfigError
from tests.privileges import as_nobody

FOLDER = Path("/etc/holdfast")

EXAMPLE = """
timezone = "Asia/Shanghai"
passphrase = { file = "/etc/holdfast/passphrase" }
state_dir = "/var/lib/holdfast/state"

[source.tracker]
type = "postgres"
connection = "postgresql://holdfast@localhost/option_tracker_prod"
wal = { from = "stream", to = ["remote"] }
stop = "systemctl stop tracker"
start = "systemctl start tracker"
checks = [{ sql = "select count(*) from daily_blueprints", expect = "> 0" }]

[source.blueprints]
type = "files"
path = "images"
include = ["*.jpg"]
mirror = { to = "oss://option-tracker-backup", like = "remote", key = "blueprints/{stem[0:4]}/{stem[4:6]}/{name}" }

[repository.local]
url = "file:///var/lib/holdfast/repository"
[repository.remote]
url = "oss://option-tracker-backup/holdfast"
endpoint = "https://oss-cn-shanghai.aliyuncs.com"
access_key_id = { env = "OSS_ACCESS_KEY_ID" }
access_key_secret = { env = "OSS_ACCESS_KEY_SECRET" }
[repository.archive]
url = "s3://bucket"

[tier.hourly]
schedule = "0 * * * *"
repository = "local"
[tier.daily]
schedule = "0 2 * * *"
[verify]
budget = "20 GB"
[drill]
schedule = "0 4 1 * *"
[web]
listen = "127.0.0.1:8420"
[notify.dingtalk]
webhook = { env = "DINGTALK_WEBHOOK" }
"""

POSTGRES = '[source.t]\ntype = "postgres"\nconnection = "host=localhost"\n'
REPOSITORY = '[repository.r]\nurl = "s3://b"\n'


def mistakes_in(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_configuration(text, FOLDER)
    return f"{caught.value}\n{caught.value.hint}"


def test_the_example_of_the_manual_is_read_whole() -> None:
    configuration = parse_configuration(EXAMPLE, FOLDER)
    tracker, blueprints = configuration.source["tracker"], configuration.source["blueprints"]
    assert isinstance(tracker, PostgresSource)
    assert isinstance(blueprints, FilesSource)
    assert tracker.wal.via == "stream"
    assert tracker.wal.to == ("remote",)
    assert tracker.checks[0].expect == "> 0"
    assert blueprints.path == Path("/etc/holdfast/images")
    assert configuration.zone == ZoneInfo("Asia/Shanghai")
    assert configuration.repository["remote"].access_key_id == Secret(env="OSS_ACCESS_KEY_ID")
    assert configuration.passphrase_of("remote") == Secret(file="/etc/holdfast/passphrase")
    assert configuration.later["tier"]["daily"] == {"schedule": "0 2 * * *"}


def test_parts_that_are_not_built_yet_warn_once_each() -> None:
    warnings = parse_configuration(EXAMPLE, FOLDER).warnings
    assert len(warnings) == 6
    for part in ("[tier]", "[verify]", "[drill]", "[web]", "[notify]", "source.blueprints: mirror"):
        assert sum(part in warning for warning in warnings) == 1, part


def test_a_source_of_logical_dumps_is_set_aside_with_a_warning() -> None:
    configuration = parse_configuration('[source.d]\ntype = "dump"\nwhatever = 1', FOLDER)
    assert configuration.later["source.d"] == {"type": "dump", "whatever": 1}
    assert not configuration.source
    assert len(configuration.warnings) == 1


def test_wal_has_a_short_form_and_a_default() -> None:
    source = parse_configuration(POSTGRES + 'wal = "archive"', FOLDER).source["t"]
    assert isinstance(source, PostgresSource)
    assert source.wal.via == "archive"
    source = parse_configuration(POSTGRES, FOLDER).source["t"]
    assert isinstance(source, PostgresSource)
    assert source.wal.via == "stream"
    source = parse_configuration(POSTGRES + 'wal = { every = "10 s" }', FOLDER).source["t"]
    assert isinstance(source, PostgresSource)
    assert source.wal.every == timedelta(seconds=10)


@pytest.mark.parametrize(
    ("written", "wanted"),
    [("500 MB", 500 * 10**6), ("16 GB", 16 * 10**9), ("1.5GiB", 3 * 2**29), ("2 tb", 2 * 10**12), ("1 B", 1)],
)
def test_how_much_wal_may_wait_on_the_server(written: str, wanted: int) -> None:
    source = parse_configuration(POSTGRES + f'wal = {{ retain = "{written}", synchronous = true }}', FOLDER).source["t"]
    assert isinstance(source, PostgresSource)
    assert source.wal.retain == wanted
    assert source.wal.synchronous


@pytest.mark.parametrize("written", ['"16"', "16", '"0 GB"', '"many"', '"-1 GB"', '"1 GBB"'])
def test_a_size_that_is_none_is_refused(written: str) -> None:
    with pytest.raises(ConfigError, match="retain must be a size"):
        parse_configuration(POSTGRES + f"wal = {{ retain = {written} }}", FOLDER)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("file:repository", "file:///etc/holdfast/repository"),
        ("file:/srv/x", "file:///srv/x"),
        ("file:///srv/备份 1", "file:///srv/备份 1"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
    ],
)
def test_relative_file_urls_count_from_the_configuration_folder(url: str, expected: str) -> None:
    assert parse_configuration(f'[repository.r]\nurl = "{url}"', FOLDER).repository["r"].url == expected


def test_other_relative_paths_count_from_there_too() -> None:
    configuration = parse_configuration('state_dir = "state"\n' + POSTGRES + 'bin = "../pg/bin"', FOLDER)
    assert configuration.state_dir == Path("/etc/holdfast/state")
    source = configuration.source["t"]
    assert isinstance(source, PostgresSource)
    assert source.bin == Path("/etc/holdfast/../pg/bin")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('timezon = "UTC"', ["timezon is not a setting", 'Did you mean "timezone"?', "/etc/holdfast/holdfast.toml"]),
        ("[teir.hourly]", ["teir is not a setting", '"tier"']),
        ("xyzzy = 1", ["xyzzy is not a setting", "The settings here are: drill, notify"]),
        (POSTGRES + 'conection = "x"', ["source.t.conection is not a setting", '"connection"']),
        (POSTGRES + 'wal = { form = "stream" }', ["source.t.wal.form is not a setting", '"from"']),
        (POSTGRES + 'checks = [{ sql = "x", expct = "y" }]', ["source.t.checks[0].expct", '"expect"']),
        (REPOSITORY + 'acces_key_id = "x"', ["repository.r.acces_key_id", '"access_key_id"']),
        (REPOSITORY + 'username = { evn = "x" }', ["repository.r.username.evn", '"env"']),
        (REPOSITORY + "account_name = 1", ["repository.r.account_name must be"]),
        (REPOSITORY + 'sas_token = { evn = "x" }', ["repository.r.sas_token.evn", '"env"']),
        (REPOSITORY + 'password = "hunter2"', ["repository.r.password must not hold the secret itself"]),
        (REPOSITORY + 'signature = "v2"', ['repository.r.signature must be one of "v4" or "v1"']),
        (REPOSITORY + 'access_key_id = { evn = "x" }', ["repository.r.access_key_id.evn", '"env"']),
        ("timezone = 8", ["timezone must be text in quotes, not a number"]),
        ("timezone = true", ["timezone must be text in quotes, not true or false"]),
        ("timezone = 2026-11-22", ["timezone must be text in quotes, not a date or time"]),
        ('timezone = "Asia/Shangai"', ["timezone is not a time zone", '"Asia/Shanghai"']),
        ('timezone = "../../etc/passwd"', ["timezone is not a time zone"]),
        ('timezone = ""', ["timezone must not be empty"]),
        ("state_dir = 1", ["state_dir"]),
        ("source = 1", ["source must be a table { … }, not a number"]),
        ("[source]\nt = 1", ["source.t"]),
        ('[[source.t]]\ntype = "postgres"', ["source.t"]),
        ('[source.Tracker]\ntype = "files"\npath = "x"', ["source.Tracker is not a name"]),
        ('[source."a b"]\ntype = "files"\npath = "x"', ['source."a b" is not a name']),
        (f'[source.{"a" * 41}]\ntype = "files"\npath = "x"', ["is not a name"]),
        ('[repository.1]\nurl = "s3://b"', ["repository.1 is not a name"]),
        ("[source.t]\n", ["source.t.type is missing", 'type = "postgres"']),
        ('[source.t]\ntype = "postgresql"', ["source.t.type must be one of", '"postgres"']),
        ('[source.t]\ntype = "postgres"', ["source.t.connection is missing"]),
        ('[source.t]\ntype = "files"', ["source.t.path is missing"]),
        ('[source.t]\ntype = "files"\npath = 1', ["source.t.path"]),
        (
            '[source.t]\ntype = "files"\npath = "x"\ninclude = "*.jpg"',
            ["source.t.include must be a list [ … ], not text"],
        ),
        ('[source.t]\ntype = "files"\npath = "x"\ninclude = [1]', ["source.t.include[0] must be text"]),
        (POSTGRES + 'wal = "steam"', ['source.t.wal.from must be one of "stream", "archive" or "off"']),
        (POSTGRES + "wal = 1", ["source.t.wal must be a table"]),
        (POSTGRES + 'wal = { every = "soon" }', ["source.t.wal.every must be a length of time"]),
        (POSTGRES + 'wal = { every = "0 s" }', ["source.t.wal.every must be a length of time"]),
        (POSTGRES + 'wal = { to = ["q"] }\n' + REPOSITORY, ["source.t.wal.to[0]", "there is no [repository.q]"]),
        (POSTGRES + 'wal = { to = ["rr"] }\n' + REPOSITORY, ['Did you mean "r"?']),
        (POSTGRES + 'stop = ""', ["source.t.stop must not be empty"]),
        (POSTGRES + 'stop = ["systemctl"]', ["source.t.stop must be text in quotes, not a list"]),
        (POSTGRES + "checks = [{}]", ["source.t.checks[0].sql is missing"]),
        ("[repository.r]", ["repository.r.url is missing"]),
        ('[repository.r]\nurl = "/var/x"', ["repository.r.url", 'url = "file:///var/x"']),
        ('[repository.r]\nurl = "file://relative/x"', ["repository.r.url", "host"]),
        ('[repository.r]\nurl = "file:"', ["repository.r.url"]),
        (REPOSITORY + 'addressing = "paths"', ['repository.r.addressing must be one of "path" or "virtual"']),
        (REPOSITORY + 'access_key_secret = "hunter2"', ["must not hold the secret itself", "0600"]),
        ('passphrase = "hunter2"', ["passphrase must not hold the secret itself"]),
        ("passphrase = {}", ["passphrase must name exactly one place"]),
        ('passphrase = { env = "A", file = "b" }', ["passphrase must name exactly one place"]),
        ('passphrase = { env = "" }', ["passphrase names no place"]),
        ('passphrase = { flie = "b" }', ["passphrase.flie is not a setting", '"file"']),
        ("passphrase = { env = 1 }", ["passphrase.env must be text"]),
        ("passphrase = 1", ["passphrase must be a table"]),
        (
            '[repository.a]\nurl = "s3://b/"\n[repository.c]\nurl = "s3://b"',
            ["repository.c.url is the same as", "repository.a"],
        ),
        ("timezone = UTC", ["not TOML", "line 1"]),
        ('timezone = "UTC"\ntimezone = "UTC"', ["not TOML", "line 2"]),
        ("timezone = “UTC”", ["not TOML", "“", "plain ASCII"]),
        ('a = {\n"x', ["not TOML"]),
        ("a = " + "[" * 5000, ["not TOML"]),
    ],
)
def test_a_mistake_is_told_by_file_and_dotted_key(text: str, expected: list[str]) -> None:
    told = mistakes_in(text)
    for part in expected:
        assert part in told
    assert "hunter2" not in told
    assert "pydantic" not in told.lower()
    assert "input" not in told.lower()


def test_all_mistakes_are_told_at_once_and_none_twice() -> None:
    told = mistakes_in('timezon = "UTC"\n[source.t]\ntype = "postgres"\nconection = "x"\n[repository.r]\n')
    assert "has 3 mistakes" in told
    assert "connection is missing" not in told  # the misspelled key says it already
    assert "repository.r.url is missing" in told


def test_a_misspelled_key_does_not_hide_that_the_right_one_is_wrong() -> None:
    told = mistakes_in('[source.t]\ntype = "postgres"\nconection = "x"\nconnection = 1\n')
    assert "source.t.connection must be text" in told


def test_secrets_stay_out_of_reprs_and_warnings() -> None:
    configuration = parse_configuration(
        'passphrase = { command = "echo hunter2" }\n[source.t]\ntype = "postgres"\n'
        'connection = "postgresql://holdfast:hunter2@localhost/x"',
        FOLDER,
    )
    assert "hunter2" not in repr(configuration)
    assert "hunter2" not in "".join(configuration.warnings)
    assert any("source.t.connection holds a password" in warning for warning in configuration.warnings)


def test_a_repository_without_any_passphrase_says_what_to_write() -> None:
    with pytest.raises(ConfigError, match=r"repository\.r has no passphrase"):
        parse_configuration(REPOSITORY, FOLDER).passphrase_of("r")


def test_the_options_of_a_store_are_revealed_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEY_SECRET", "hunter2")
    repository = parse_configuration(
        REPOSITORY + 'region = "auto"\naccess_key_id = "AKIA"\naccess_key_secret = { env = "KEY_SECRET" }', tmp_path
    ).repository["r"]
    assert repository.store_options(tmp_path) == {
        "region": "auto",
        "access_key_id": "AKIA",
        "access_key_secret": "hunter2",
    }
    assert "hunter2" not in repr(repository)


def test_the_options_of_every_kind_of_store_are_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("S", "hunter2")
    repository = parse_configuration(
        REPOSITORY
        + 'checksum = "md5"\nsignature = "v1"\naccount_name = { env = "S" }\nusername = "u"\n'
        + "\n".join(
            f'{name} = {{ env = "S" }}' for name in ("account_key", "sas_token", "credential", "token", "password")
        ),
        tmp_path,
    ).repository["r"]
    options = repository.store_options(tmp_path)
    assert options == {
        "checksum": "md5", "signature": "v1", "account_name": "hunter2", "username": "u", "account_key": "hunter2",
        "sas_token": "hunter2", "credential": "hunter2", "token": "hunter2", "password": "hunter2",
    }  # fmt: skip
    assert repository.plain_options() == {"checksum": "md5", "signature": "v1", "username": "u"}
    assert [secret.env for secret in repository.secrets()] == ["S"] * 6
    assert "hunter2" not in repr(repository)


def test_containers_of_two_accounts_are_two_places() -> None:
    text = '[repository.{}]\nurl = "azblob://b"\naccount_name = "{}"\n'
    assert len(parse_configuration(text.format("a", "one") + text.format("b", "two"), FOLDER).repository) == 2
    assert "is the same as" in mistakes_in(text.format("a", "one") + text.format("b", "one"))


def test_a_file_is_read_with_and_without_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "holdfast.toml"
    for mark in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(mark + b'timezone = "UTC"\r\n')
        configuration = read_configuration(path)
        assert configuration.timezone == "UTC"
        assert configuration.path == path


def test_a_file_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "holdfast.toml"
    path.write_bytes('timezone = "UTC"\n# 备份\n'.encode("gbk"))
    with pytest.raises(ConfigError, match="line 2 is not UTF-8") as caught:
        read_configuration(path)
    assert "iconv" in caught.value.hint


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_configuration(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="directory"):
        read_configuration(tmp_path)


def test_a_file_of_another_user_says_whose_it_is(open_folder: Path) -> None:
    path = open_folder / "holdfast.toml"
    path.write_text("")
    path.chmod(0o600)
    with as_nobody(), pytest.raises(ConfigError, match="may not be read by the user") as caught:
        read_configuration(path)
    assert "sudo -u" in caught.value.hint


@given(st.text())
def test_any_text_is_a_configuration_or_a_configuration_error(text: str) -> None:
    try:
        parse_configuration(text, FOLDER)
    except ConfigError as error:
        assert str(error)  # noqa: PT017  either outcome is right


VALUES = st.recursive(
    st.one_of(
        st.integers(-3, 3).map(str), st.booleans().map(lambda yes: str(yes).lower()), st.just('"x"'), st.just("1.5")
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(st.sampled_from(["env", "sql", "to", "type", "url"]), inner, max_size=2).map(
            lambda table: "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + "}"
        ),
    ),
    max_leaves=4,
)
KEYS = st.sampled_from([
    "timezone", "passphrase", "state_dir", "source", "repository", "source.t.type", "source.t.wal", "source.t.checks",
    "source.t.connection", "source.t.path", "source.t.mirror", "repository.r.url", "repository.r.access_key_id", "tier",
])  # fmt: skip


@given(
    st.dictionaries(KEYS, VALUES, max_size=4),
    st.sampled_from(["", 'source.u.type = "postgres"', 'source.u.type = "files"']),
)
def test_any_shape_is_a_configuration_or_a_configuration_error(settings: dict[str, str], more: str) -> None:
    text = "\n".join([*(f"{key} = {value}" for key, value in settings.items()), more])
    try:
        parse_configuration(text, FOLDER)
    except ConfigError as error:
        assert "is not what belongs here" not in str(error)  # noqa: PT017  every kind of mistake has its own words
