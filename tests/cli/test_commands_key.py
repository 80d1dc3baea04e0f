"""``holdfast key``: what it adds, shows, removes and refuses, as people and their scripts run it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast.clock import SystemClock
from holdfast.repository.keys import MadeSecret, SecretKind
from holdfast.repository.opening import open_repository
from holdfast.repository.repository import Repository
from holdfast.store.folder import FolderStore
from tests.cli.site import Ended, at_terminal, failed, run

SECRET = re.compile(r"hf(?:pass|rec)(?:-[a-z2-7]{5})+")
CHOSEN = "期权交易二号 2026"


@dataclass(frozen=True)
class Place:
    """A configuration of repositories and nothing else."""

    folder: Path

    @property
    def configuration(self) -> Path:
        return self.folder / "holdfast.toml"

    def __call__(self, *arguments: str | Path) -> Ended:
        return run("--config", self.configuration, *arguments)

    def well(self, *arguments: str | Path, code: int = 0) -> str:
        ended = self(*arguments)
        assert ended.returncode == code, f"{arguments}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def ask(self, *arguments: str | Path, code: int = 0) -> Any:
        return json.loads(self.well(*arguments, "--json", code=code))

    def listed(self, *options: str | Path, code: int = 0) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("key", "list", *options, code=code)["keys"]
        return found

    def file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text + "\n", "utf-8")
        path.chmod(0o600)
        return path

    def opened(self, name: str, secret: str) -> Repository:
        store = FolderStore(self.folder / name, clock=SystemClock())
        return open_repository(store, secret, pin=None, clock=SystemClock())


def new_place(folder: Path, *options: str, names: tuple[str, ...] = ("one",)) -> Place:
    place = Place(folder)
    sections = "".join(f"[repository.{name}]\nurl = 'file:{name}'\n" for name in names)
    place.configuration.write_text("passphrase = { file = 'passphrase' }\ntimezone = 'UTC'\n" + sections)
    place.well("init", *(options or ("--no-recovery-key",)))
    return place


def test_a_made_passphrase_is_shown_once_and_opens(tmp_path: Path) -> None:
    place = new_place(tmp_path)
    said = place.well("key", "add", "--note", "desk drawer")
    (secret,) = SECRET.findall(said)
    assert secret.startswith("hfpass-")
    file = place.file("other", secret)
    first, second = place.listed("--passphrase-file", file)
    assert (first["opened"], second["opened"]) == (False, True)
    assert (second["note"], second["kind"], second["made"], second["state"]) == (
        "desk drawer", "passphrase", True, "good",
    )  # fmt: skip
    assert second["host"]
    assert second["user"]
    assert second["created"].startswith("20")
    shown = place.well("key", "list")
    assert secret not in shown
    for told in (second["short_id"], "desk drawer", "passphrase, made by Holdfast", "opened this", "+00:00"):
        assert told in shown
    assert "holdfast kit" in said


def test_a_recovery_key_into_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    place = new_place(tmp_path)
    out = tmp_path / "secrets" / "recovery"
    document = place.ask("key", "add", "--recovery", "--out", out)
    assert "secret" not in document
    assert out.stat().st_mode & 0o777 == 0o600
    assert out.read_text().startswith("hfrec-")
    assert [key["kind"] for key in place.listed("--recovery-key-file", out) if key["opened"]] == ["recovery key"]
    before = place.listed()
    failed(place("key", "add", "--out", out), 6, "never overwritten", "that does not exist yet: --out FILE")
    failed(place("key", "add", "--out", "/proc/nothing/here"), 1, "cannot write", "another file with --out")
    assert place.listed() == before


def test_as_json_the_secret_is_in_the_document(tmp_path: Path) -> None:
    place = new_place(tmp_path)
    document = place.ask("key", "add", "--recovery")
    assert SECRET.fullmatch(document["secret"])
    assert document["short_id"] == document["id"][:8] == document["name"][5:13]


def test_a_chosen_passphrase_from_a_file_or_typed_twice(tmp_path: Path) -> None:
    place = new_place(tmp_path)
    chosen = place.file("chosen", CHOSEN)
    said = place.well("key", "add", "--new-passphrase-file", chosen)
    assert "passphrase, chosen" in said
    assert CHOSEN not in said
    assert [key["made"] for key in place.listed("--passphrase-file", chosen) if key["opened"]] == [False]
    failed(place("key", "add", "--new-passphrase-file", chosen), 6, "opens", "already: key")
    for text, code, told in (("short", 2, "too short"), ("", 2, "empty secret"), ("hfrec-aaaaa", 2, "slip")):
        failed(place("key", "add", "--new-passphrase-file", place.file("bad", text)), code, told)
    failed(place("key", "add", "--ask"), 2, "no terminal")
    failed(place("key", "add", "--ask", "--recovery"), 2, "give one of")
    failed(place("key", "add", "--new-passphrase-file", chosen, "--out", tmp_path / "x"), 2, "--out is for")
    failed(place("key", "add", "--note", "a\nb"), 2, "--note is one line")
    assert len(place.listed()) == 2
    ended = at_terminal(
        *("--config", place.configuration, "key", "add", "--ask"),
        answers=[
            ("New passphrase", "correct horse battery\n"),
            ("The same again", "correct house battery\n"),
            ("They differ.\nNew passphrase", "correct horse battery\n"),
            ("They differ.\nNew passphrase: \nThe same again", "correct horse battery\n"),
        ],
    )
    assert ended.returncode == 0, ended.stderr
    typed = place.file("typed", "correct horse battery")
    assert place.listed("--passphrase-file", typed)[2]["opened"]


def test_init_refuses_the_same_passphrases(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.configuration.write_text("passphrase = { file = 'passphrase' }\n[repository.one]\nurl = 'file:one'\n")
    place.file("passphrase", "short")
    failed(place("init", "--no-recovery-key"), 2, "too short")
    place.file("passphrase", CHOSEN)
    place.well("init", "--no-recovery-key")
    assert [(key["kind"], key["made"]) for key in place.listed()] == [("passphrase", False)]


def test_a_changed_passphrase_step_by_step(tmp_path: Path) -> None:
    """As the documentation tells it: add, put it in place, see that it opens, remove the old one."""
    place = new_place(tmp_path, "--json")
    (old,) = [key for key in place.listed() if key["opened"]]
    failed(place("key", "remove", old["short_id"]), 6, "is in use", "holdfast key add")
    place.well("key", "add", "--out", tmp_path / "new")
    (tmp_path / "passphrase").rename(tmp_path / "old")
    failed(place("key", "remove", old["short_id"], "--passphrase-file", tmp_path / "new"), 2, "does not exist")
    (tmp_path / "new").rename(tmp_path / "passphrase")
    assert [key["opened"] for key in place.listed() if key["id"] == old["id"]] == [False]
    failed(place("key", "remove", old["short_id"], "--passphrase-file", tmp_path / "old"), 6, "is in use")
    said = place.well("key", "remove", old["short_id"])
    for told in ("does not revoke", "make a new repository", "holdfast kit"):
        assert told in " ".join(said.split())
    ended = place("list", "--passphrase-file", tmp_path / "old")
    failed(ended, 6, "wrong passphrase", f"the one in {tmp_path}/old", "--recovery-key-file FILE")
    assert "where the configuration takes" not in ended.stderr
    failed(place("key", "remove", old["short_id"]), 2, "was removed already", "holdfast key list")
    document = place.ask("key", "list")
    assert [removed["id"] for removed in document["removed"]] == [old["id"]]
    assert place.ask("verify")["good"]
    failed(place("key", "remove", "ffff"), 2, "there is no key ffff (repository file:", "`holdfast key list` shows")
    (left,) = [key for key in place.listed() if key["opened"]]
    for digits in ("", left["id"][:1], left["name"][:8]):  # the least are four
        failed(place("key", "remove", digits), 2, f'"{digits}" is too short', "Give 4 of its digits")
    failed(place("key", "remove", left["id"][:4]), 6, "is in use")


def test_what_the_configuration_opens_with_is_not_removed_by_somebody_with_a_recovery_key(tmp_path: Path) -> None:
    place = new_place(tmp_path)
    (key,) = place.listed()
    failed(place("key", "remove", key["id"]), 6, "the only one")
    recovery = tmp_path / "recovery"
    place.well("key", "add", "--recovery", "--out", recovery)
    failed(place("key", "remove", key["id"], "--recovery-key-file", recovery), 6, "is in use")
    (other,) = [one for one in place.listed() if one["id"] != key["id"]]
    failed(place("key", "remove", other["id"]), 6, "the last recovery key", "--last-recovery-key")
    document = place.ask("key", "remove", other["id"], "--last-recovery-key")
    assert (document["id"], document["revoked"]) == (other["id"], False)
    ended = place("list", "--recovery-key-file", recovery)
    failed(ended, 6, f"wrong recovery key for file://{tmp_path}/one: the one in {recovery}", "not removed")
    assert "where the configuration takes" not in ended.stderr


def test_a_lost_passphrase_is_replaced_by_means_of_the_recovery_key(tmp_path: Path) -> None:
    place = new_place(tmp_path, "--json")
    recovery = place.ask("key", "add", "--recovery")["secret"]
    lost = next(key for key in place.listed() if key["opened"])
    (tmp_path / "passphrase").unlink()
    failed(place("key", "list"), 2, "does not exist")
    known = place.file("recovery", recovery)
    place.well("key", "add", "--recovery-key-file", known, "--out", tmp_path / "passphrase")
    place.well("key", "remove", lost["id"])
    assert place.listed()[-1]["opened"]


def test_on_a_bare_machine(tmp_path: Path) -> None:
    place = new_place(tmp_path)
    bare = ("--from", f"file://{tmp_path}/one", "--passphrase-file", tmp_path / "passphrase")
    added = json.loads(run("key", "add", *bare, "--json").stdout)
    assert [key["id"] for key in place.listed()][-1] == added["id"]
    (mine,) = [key for key in place.listed() if key["opened"]]
    failed(run("key", "remove", mine["id"], *bare), 6, "is in use")
    assert run("key", "remove", added["id"], *bare).returncode == 0
    failed(run("key", "list", "--from", f"file://{tmp_path}/one"), 2, "no passphrase")


def test_a_bare_machine_is_not_sent_to_a_configuration(tmp_path: Path) -> None:
    place = new_place(tmp_path)
    bare = ("key", "list", "--from", f"file://{tmp_path}/one")
    other = MadeSecret.new(SecretKind.PASSPHRASE)
    for option in ("--passphrase-file", "--recovery-key-file"):
        for path, told in ((tmp_path / "none", "does not exist"), (tmp_path, "cannot read")):
            ended = run(*bare, option, path)
            failed(ended, 2, told, str(path), f"name another file: {option} FILE")
            assert "holdfast.toml" not in ended.stderr
        failed(run(*bare, option, place.file("other", other)), 6, f"the one in {tmp_path}/other", "of this repository")
    ended = run(*bare, variables={"HOLDFAST_PASSPHRASE": other})
    failed(ended, 6, "wrong passphrase", "the one in the variable HOLDFAST_PASSPHRASE", "of this repository")
    ended = at_terminal(*bare, answers=[("Passphrase or recovery key of", other + "\n")])
    failed(ended, 6, "wrong passphrase or recovery key for", "that was typed", "--recovery-key-file FILE")
    failed(
        place("key", "add", "--new-passphrase-file", tmp_path / "none"), 2, "name another file: --new-passphrase-file"
    )


def test_a_repository_that_is_not_where_the_configuration_says(tmp_path: Path) -> None:
    """A slip in its url must not look like a repository that was never made."""
    place = new_place(tmp_path)
    opened = place.opened("one", (tmp_path / "passphrase").read_text().strip())
    FolderStore(tmp_path / "on", clock=SystemClock(), create=True)
    configured = place.configuration.read_text()
    place.configuration.write_text(configured.replace("file:one", "file:on"))
    ended = place("list")
    failed(ended, 2, "there is no repository in", str(place.configuration), opened.id, "correct its url", "given up")
    pin = ("--id", opened.id, "--key", opened.key_id, "--passphrase-file", tmp_path / "passphrase")
    ended = run("list", "--from", f"file://{tmp_path}/on", *pin)
    failed(ended, 2, opened.id, "correct the URL")
    assert "init" not in ended.stderr
    failed(run("list", "--from", f"file://{tmp_path}/on", *pin[4:]), 2, "`holdfast init` makes a repository")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("url = 's33://b'", "no store speaks s33://"),
        ("url = 'file:two'\nendpoint = 'http://x'", "unknown option endpoint"),
        ("url = 's3://b'\naccess_key_id = { env = 'HF_NOT_SET' }", "variable HF_NOT_SET is not set"),
    ],
)
def test_what_is_wrong_with_a_store_names_the_repository(tmp_path: Path, line: str, told: str) -> None:
    place = new_place(tmp_path, names=("one", "two"))
    configured = place.configuration.read_text()
    place.configuration.write_text(configured.replace("url = 'file:two'", line))
    failed(place("list", "--repository", "two"), 2, "repository two: ", told)
    place.well("list")


def test_what_is_wrong_with_keys_is_named(tmp_path: Path) -> None:
    place = new_place(tmp_path)
    damaged, missing = (place.ask("key", "add") for _number in range(2))
    folder = tmp_path / "one"
    object_ = json.loads((folder / damaged["name"]).read_text())
    planted = "keys/" + "0" * 32
    (folder / planted).write_text(json.dumps({**object_, "note": "\x1b[2Jtrust me"}))
    assert {key["state"] for key in place.listed(code=3)} == {"good", "foreign"}
    shown = place("key", "list")
    assert "trust me" not in shown.stdout + shown.stderr
    assert f"key object {planted} was not made with this repository's key" in shown.stderr
    (folder / damaged["name"]).write_text(json.dumps({**object_, "note": "else"}))
    (folder / missing["name"]).unlink()
    states = {key["name"]: key["state"] for key in place.listed(code=5)}
    assert states[damaged["name"]] == "damaged"
    assert states[missing["name"]] == "missing"
    assert states[planted] == "foreign"
    for name, state in states.items():
        if state != "good":
            place.well("key", "remove", name)
    assert {key["state"] for key in place.listed()} == {"good"}


@pytest.mark.parametrize("at_once", [True, False])
def test_repositories_of_one_owner_name_content_alike(tmp_path: Path, *, at_once: bool) -> None:
    """Made by one init or by two: so that a copy reads no chunk that the other has. The sealing keys differ."""
    place = new_place(tmp_path, names=("one", "two") if at_once else ("one",))
    if not at_once:
        with place.configuration.open("a") as file:
            file.write("[repository.two]\nurl = 'file:two'\n")
        place.well("init", "--no-recovery-key")
    secret = (tmp_path / "passphrase").read_text().strip()
    one, two = place.opened("one", secret), place.opened("two", secret)
    assert one.ids.chunk_id(b"content") == two.ids.chunk_id(b"content")
    assert one.master.secret != two.master.secret
    assert one.id != two.id
    place.well("key", "add", "--repository", "two")
    assert [len(place.listed("--repository", name)) for name in ("one", "two")] == [1, 2]
    assert "--repository NAME" in place.well("key", "add")
    elsewhere = place.listed("--repository", "two")[-1]["short_id"]
    told = (f"there is no key {elsewhere} (repository file:", "holdfast key list --repository NAME", "one, two")
    failed(place("key", "remove", elsewhere), 2, *told)


def test_a_made_secret_of_the_owner_can_be_added_to_another_repository(tmp_path: Path) -> None:
    """One recovery key for all repositories."""
    place = new_place(tmp_path, names=("one", "two"))
    recovery = place.file("recovery", MadeSecret.new(SecretKind.RECOVERY))
    for name in ("one", "two"):
        place.well("key", "add", "--new-passphrase-file", recovery, "--repository", name)
        assert place.listed("--repository", name)[-1]["kind"] == "recovery key"
        place.well("list", "--recovery-key-file", recovery, "--repository", name)
