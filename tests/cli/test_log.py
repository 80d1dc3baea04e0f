"""``holdfast log``: a bad DELETE, a TRUNCATE and a DROP are found in real WAL, with the server up and gone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.cli.site import Site, failed, new_site, run
from tests.servers import Cluster, Servers


@dataclass(frozen=True, kw_only=True)
class Accident:
    """What happened, in its order: the positions just before each."""

    site: Site
    cluster: Cluster
    oid: int
    """Of the database."""
    delete_xid: int
    file: int
    """The relfilenode of the table before it was truncated."""
    other: int
    """The one that the other table had at first."""
    before: datetime
    wal_level: str
    table: int
    """OID of the table."""


def accident(servers: Servers, folder: Path, *, wal_level: str) -> Accident:
    cluster = servers.make_cluster(15, fresh=True, conf=f"wal_level = {wal_level}")
    site = new_site(folder, cluster)
    cluster.psql(
        "create table daily_blueprints (id int primary key, text text, big text);"
        "create table other (id int);"
        "insert into daily_blueprints select g, 'x', repeat(md5(g::text), 300) from generate_series(1, 200) g;"
        "checkpoint; select pg_switch_wal();"
    )
    site.well("backup")
    before = cluster.value("select clock_timestamp()")
    delete_xid = int(
        cluster.psql(
            "begin; insert into other select generate_series(1, 7); savepoint s;"
            "delete from daily_blueprints where id <= 12; release s;"
            "savepoint s; delete from daily_blueprints; rollback to s;"
            "update daily_blueprints set text = 'y' where id > 190; select pg_current_xact_id(); commit"
        )
    )
    cluster.psql("begin; delete from daily_blueprints; rollback")
    file = int(cluster.value("select pg_relation_filenode('daily_blueprints')"))
    other = int(cluster.value("select pg_relation_filenode('other')"))
    cluster.psql("truncate daily_blueprints")
    cluster.psql("vacuum full other")
    cluster.psql("drop table other")
    last = cluster.value("select pg_walfile_name(pg_switch_wal())")
    table = int(cluster.value("select 'daily_blueprints'::regclass::oid"))
    oid = int(cluster.value("select oid from pg_database where datname = current_database()"))
    for path in sorted((cluster.data_dir / "pg_wal").iterdir()):
        if len(path.name) == 24 and path.name <= last:
            site.well("wal", "push", path)
    return Accident(
        site=site,
        cluster=cluster,
        oid=oid,
        delete_xid=delete_xid,
        file=file,
        other=other,
        before=before,
        wal_level=wal_level,
        table=table,
    )


@pytest.fixture(scope="module", params=["replica", "logical"])
def known(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Accident]:
    made = accident(servers, tmp_path_factory.mktemp("log"), wal_level=request.param)
    yield made
    servers.remove(made.cluster)


def changes(entry: Any) -> dict[tuple[str, str], int | None]:
    return {(change["kind"], change["relation"]): change["rows"] for change in entry["changes"]}


def test_who_removed_what_and_where_to_go_back_to(known: Accident) -> None:
    """The other table was rewritten by VACUUM FULL, which removes nothing, and dropped: nobody knows its name."""
    since = known.before.isoformat()
    found = known.site.ask("log", "--since", since)
    removed, truncated, dropped = found["transactions"]
    assert removed["xid"] == known.delete_xid
    assert removed["complete"]
    assert changes(removed) == {
        ("insert", f"{known.oid}/{known.other}"): 7,
        ("delete", "public.daily_blueprints"): 12,
        ("update", "public.daily_blueprints"): 10,
    }
    assert {change["database"] for change in removed["changes"]} == {"postgres"}
    assert changes(truncated) == {("truncate", "public.daily_blueprints"): None}
    ((kind, relation),) = changes(dropped)
    assert (kind, dropped["changes"][0]["files"]) == ("drop", 1)
    assert relation.startswith(f"{known.oid}/")
    for entry in found["transactions"]:
        when = datetime.fromisoformat(entry["time"])
        assert known.before <= when <= known.before + timedelta(minutes=1)
        words = shlex.split(entry["restore"])
        assert words[:3] == ["holdfast", "restore", found["source"]]
        assert words[-3:] == ["--at", f"lsn:{entry['lsn']}", "--exclusive"]
    text = known.site.well("log", "--since", since)
    assert f"xid {known.delete_xid}  " in text
    assert "12 rows deleted from public.daily_blueprints in postgres" in text
    assert "public.daily_blueprints in postgres truncated" in text
    assert f"holdfast restore {found['source']} --to DIR --at lsn:{removed['lsn']} --exclusive" in text


def test_a_table_that_is_as_it_was_has_its_name(known: Accident) -> None:
    found = known.site.ask("log", "--since", "1 day ago", "--until", known.before.isoformat())
    shown = [key for entry in found["transactions"] for key in changes(entry)]
    assert ("insert", "public.daily_blueprints") in shown
    assert not any(name.startswith("pg_") for _kind, name in shown)


def test_the_server_is_gone(known: Accident) -> None:
    site = known.site.rewrite(connection="'host=127.0.0.1 port=1 user=nobody'")
    ended = site("log", "--since", known.before.isoformat(), "--json")
    assert ended.returncode == 0
    removed, truncated, dropped = json.loads(ended.stdout)["transactions"]
    assert removed["xid"] == known.delete_xid
    found = changes(removed)
    assert found["delete", f"{known.oid}/{known.file}"] == 12
    ((kind, relation),) = changes(truncated)
    assert kind == "truncate"
    assert truncated["changes"][0]["may_be_rewrite"] is (known.wal_level == "replica")
    assert relation == f"{known.oid}/{known.file if known.wal_level == 'replica' else known.table}"
    assert [change["kind"] for change in dropped["changes"]] == ["drop"]
    assert "names are missing: " in ended.stderr


def test_a_bare_machine(known: Accident) -> None:
    """The URL and the passphrase are all there is. The TOAST table's rows cannot be told from others."""
    options = ("--from", known.site.repository, "--passphrase-file", known.site.passphrase)
    ended = run("log", *options, "--since", known.before.isoformat(), "--kind", "delete", "--json")
    assert ended.returncode == 0, ended.stderr
    (removed,) = json.loads(ended.stdout)["transactions"]
    assert (removed["xid"], changes(removed)["delete", f"{known.oid}/{known.file}"]) == (known.delete_xid, 12)


def test_only_what_is_asked_for(known: Accident) -> None:
    since = ("--since", known.before.isoformat())

    def kinds(*options: str) -> list[str]:
        found = known.site.ask("log", *since, *options)
        return [change["kind"] for entry in found["transactions"] for change in entry["changes"]]

    assert kinds("--kind", "truncate,drop") == ["truncate", "drop"]
    assert kinds("--table", "daily_blueprints") == ["delete", "update", "truncate", "drop"], "the dropped may be it"
    assert kinds("--table", "public.daily_blueprints", "--kind", "truncate") == ["truncate"]
    assert kinds("--table", f"{known.oid}/{known.other}", "--kind", "insert") == ["insert"]
    assert kinds("--table", "other", "--kind", "delete") == []
    assert known.site.ask("log", *since, "--limit", "1")["left_out"] == 2
    assert "2 older transactions are left out" in known.site.well("log", *since, "--limit", "1")
    assert "No transaction" in known.site.well("log", "--since", "2 days ago", "--until", "1 day ago")


def test_what_makes_no_sense(known: Accident, tmp_path: Path) -> None:
    for text in ("lsn:0/3000060", "blah", "latest"):
        ended = known.site("log", "--since", text)
        failed(ended, 2, f"--since takes a time, not {text!r}")
        assert "lsn:" not in ended.stderr.replace(text, "")
    failed(known.site("log", "--kind", "delete,remove"), 2, "no kind of change 'remove'", "truncate")
    failed(known.site("log", "nothing"), 2, "nothing")
    empty = new_site(tmp_path, known.cluster)
    failed(empty("log"), 2, "no WAL of main is held", "holdfast wal receive main")


def test_where_no_snapshot_leads_to_no_command_is_shown(known: Accident) -> None:
    """What was written before the first snapshot can be read, and not gone back to."""
    until = ("--until", known.before.isoformat())
    early = known.site.ask("log", "--since", "1 day ago", *until)["transactions"]
    assert early
    assert {entry["restore"] for entry in early} == {None}
    text = known.site.well("log", "--since", "1 day ago", *until)
    assert "There is no snapshot from which" in text
    assert "holdfast restore" not in text
