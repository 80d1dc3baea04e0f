"""``holdfast check``: every prerequisite, each failure with the command or line that mends it."""

from __future__ import annotations

import json
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.app import App
from holdfast.cli.session import Session
from holdfast.errors import HoldfastError, NotReachable
from holdfast.messages import _

if TYPE_CHECKING:
    from holdfast.cli.output import Output
    from holdfast.config import Configuration
    from holdfast.postgres.finding import Finding
    from holdfast.wiring import Wiring

_MARKS = {"ok": "✓", "warning": "!", "failed": "✗"}
_CODES = {"ok": 0, "warning": 3, "failed": 1}


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """What was found of one thing; ``code`` is its share in the exit code."""

    about: str
    """``configuration``, ``source tracker``, ``repository local``."""
    findings: Sequence[Finding]
    unreachable: bool = False

    @property
    def codes(self) -> Iterator[int]:
        for finding in self.findings:
            code = _CODES[finding.status]
            yield NotReachable.exit_code if self.unreachable and code == 1 else code


def register(app: App) -> None:
    app.command("check", help=_("Check every prerequisite, and say what mends each that is not met."))(check)


def check(
    ctx: typer.Context,
    policy: Annotated[
        bool,
        typer.Option(
            "--policy", help=_("Only print the least policy (IAM, RAM) for the keys of each s3:// and oss://.")
        ),
    ] = False,
) -> None:
    session = Session.of(ctx)
    wiring = session.wiring(hurried=True)
    if policy:
        _print_policies(session.output, wiring.configuration)
        return
    checked = [_configuration(wiring.configuration)]
    directories: dict[str, Path] = {}
    for name in wiring.configuration.source:
        found, directory = _source(wiring, name)
        checked.append(found)
        directories |= {name: directory} if directory else {}
    checked += [_repository(wiring, name, directories) for name in wiring.configuration.repository]
    code = _worst([code for one in checked for code in one.codes])
    session.output.result(_document(checked, code), lambda: _show(session.output, checked, code))
    if code:
        raise typer.Exit(code)


def _worst(codes: Sequence[int]) -> int:
    return max(codes, key=(0, 3, 1, 4).index, default=0)


def _configuration(configuration: Configuration) -> _Checked:
    from holdfast.postgres.finding import Finding, Status

    path = configuration.path
    found = [Finding(name="file", status=Status.OK, what=_("{path} can be read").format(path=path))]
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o022:
        found.append(
            Finding(
                name="file_mode",
                status=Status.FAILED,
                what=_("others may write to {path} (mode {mode:04o}), and it runs commands").format(
                    path=path, mode=mode
                ),
                remedy=_("Look through it, then: chmod go-w {path}").format(path=shlex.quote(str(path))),
            )
        )
    for kind, there in (("source", configuration.source), ("repository", configuration.repository)):
        if not there:
            what = _("{path} has no section [{kind}.NAME]").format(path=path, kind=kind)
            found.append(Finding(name=kind, status=Status.FAILED, what=what, remedy=_("Write such a section there.")))
    for repository in configuration.repository.values():
        secrets = [repository.passphrase, repository.access_key_secret, repository.session_token]
        secrets += [configuration.passphrase] if repository.passphrase is None else []
        for concern in (secret.concern(configuration.folder) for secret in secrets if secret):
            what, _colon, remedy = concern.rpartition(": ")
            one = Finding(name="secret", status=Status.WARNING, what=what, remedy=remedy)
            found += [one] if concern and one not in found else []
    for section in configuration.later:
        what = _("[{section}] is not acted on: this version does not have that part yet").format(section=section)
        found.append(Finding(name="later", status=Status.WARNING, what=what, remedy=""))
    return _Checked(about=_("configuration"), findings=found)


def _source(wiring: Wiring, name: str) -> tuple[_Checked, Path | None]:
    from holdfast.jobs.check import check_source, wanted_wal
    from holdfast.postgres.finding import Finding, Status

    about = _("source {name}").format(name=name)
    source = wiring.configuration.source[name]
    if source.type != "postgres":
        what = _("a folder, which this version does not back up yet")
        return _Checked(about=about, findings=[Finding(name="type", status=Status.WARNING, what=what)]), None
    wal = wanted_wal(wiring.wal(name)) if wiring.configuration.repository else None
    seen = check_source(source.connection, [source.bin] if source.bin else [], wal)
    return _Checked(about=about, findings=seen.findings, unreachable=seen.unreachable), seen.data_directory


def _repository(wiring: Wiring, name: str, data_directories: Mapping[str, Path]) -> _Checked:
    """``data_directories``: by source, of those on this machine."""
    from holdfast.jobs.check import check_disk, check_repository, failed
    from holdfast.jobs.check_store import check_endpoint

    about = _("repository {name}").format(name=name)
    configured = wiring.configuration.repository[name]
    wal_only = [
        directory for source, directory in data_directories.items() if _is_only(wiring, name, source, directory)
    ]
    disk = check_disk(configured.url, list(data_directories.values()), wal_only)
    try:
        repository = wiring.repository(name)
    except HoldfastError as error:
        return _Checked(about=about, findings=[failed("opens", error)], unreachable=isinstance(error, NotReachable))
    near = check_endpoint(configured.url, configured.endpoint or "")
    return _Checked(about=about, findings=[*check_repository(repository), *disk, *near])


def _is_only(wiring: Wiring, name: str, source: str, directory: Path) -> bool:
    """Whether WAL of ``source`` goes to the repository ``name``, and to none that is on another disk."""
    from holdfast.jobs.check import shares_disk

    wal = wiring.wal(source)
    urls = [wiring.configuration.repository[place].url for place in wal.to if place in wiring.configuration.repository]
    return wal.via != "off" and name in wal.to and all(shares_disk(url, directory) for url in urls)


def _print_policies(output: Output, configuration: Configuration) -> None:
    """The documents alone are for machines; for people each says whose key it is for."""
    from holdfast.jobs.check_store import policies

    found = {name: policies(repository.url) for name, repository in configuration.repository.items()}
    document = {"repositories": {name: by_role for name, by_role in found.items() if by_role is not None}}

    def show() -> None:
        titles = {
            "writer": _("repository {name}: for the key on the machine that is backed up"),
            "operator": _("repository {name}: for the key that removes, prunes and changes keys, kept elsewhere"),
        }
        for name, by_role in found.items():
            if by_role is None:
                output.line(_("repository {name}: its store has no policies that Holdfast knows").format(name=name))
            for role, policy in (by_role or {}).items():
                output.line(titles[role].format(name=name))
                output.line(json.dumps(policy, indent=2))

    output.result(document, show)


def _document(checked: Sequence[_Checked], code: int) -> dict[str, object]:
    return {
        "exit_code": code,
        "findings": [{"about": one.about, **_finding(finding)} for one in checked for finding in one.findings],
    }


def _finding(finding: Finding) -> dict[str, object]:
    return {"name": finding.name, "status": finding.status, "what": finding.what, "remedy": finding.remedy}


def _show(output: Output, checked: Sequence[_Checked], code: int) -> None:
    for one in checked:
        output.line(one.about)
        for finding in one.findings:
            output.line(f"  {_MARKS[finding.status]} {finding.what}")
            for line in finding.remedy.splitlines():
                output.line(f"      {line}")
    output.line()
    if code == 0:
        output.line(_("All is well. Next: holdfast backup"))
    elif code == _CODES["warning"]:
        output.line(_("Backups can be taken; mend the lines marked with ! when you can."))
    else:
        output.line(_("Mend the lines marked with ✗, then run holdfast check again."))
