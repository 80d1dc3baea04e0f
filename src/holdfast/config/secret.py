"""Secrets live outside holdfast.toml: a file, an environment variable, or what a command prints.

A secret's text exists only in what :meth:`Secret.reveal` returns: not in a repr, not in an error, not in a warning.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shlex
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from holdfast.config.mistakes import mistake
from holdfast.errors import ConfigError
from holdfast.messages import _

COMMAND_SECONDS = 30.0
"""How long the command of a secret may take."""


class Secret(BaseModel):
    """``{ file = … }``, ``{ env = … }`` or ``{ command = … }``: exactly one of them."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    file: str | None = None
    env: str | None = None
    command: str | None = Field(default=None, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _says_where(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise mistake(
                _("must not hold the secret itself: more people and programs read this file than may know it"),
                hint=_("Write the secret into a file of mode 0600, and here {example}.").format(
                    example='{ file = "/etc/holdfast/…" }'
                ),
            )
        if isinstance(value, dict):
            ways = [name for name in ("file", "env", "command") if name in value]
            unknown = [name for name in value if name not in ("file", "env", "command")]
            if len(ways) != 1 and not unknown:
                raise mistake(
                    _("must name exactly one place of the secret"),
                    hint=_("Write one of {ways}.").format(ways='{ file = "…" }, { env = "…" }, { command = "…" }'),
                )
            if not unknown and value[ways[0]] == "":
                raise mistake(_("names no place: the text is empty"))
        return value

    def reveal(self, folder: Path) -> str:
        """The secret, less one newline at its end; a relative ``file`` counts from ``folder``.

        Raises ``ConfigError`` where there is none, or an empty one, naming the place and never the content.
        """
        if self.file is not None:
            place, content = _("the secret's file {path}").format(path=folder / self.file), _read(folder / self.file)
        elif self.env is not None:
            place, content = _("the environment variable {name}").format(name=self.env), _variable(self.env)
        else:
            assert self.command is not None
            place = _("the secret's command {program}").format(program=_program(self.command))
            content = _run(self.command, place, folder)
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            raise ConfigError(
                _("{place} gives bytes that are not UTF-8 text").format(place=place),
                hint=_("A secret is one line of text; make a new one with: openssl rand -base64 32"),
            ) from None
        text = text.removesuffix("\n").removesuffix("\r")
        if not text:
            raise ConfigError(
                _("{place} gives an empty secret").format(place=place), hint=_("Put the secret there, then try again.")
            )
        return text

    def concern(self, folder: Path) -> str:
        """Why the secret is less secret than it should be: one line for the operator, or empty."""
        if self.file is None:
            return ""
        path = folder / self.file
        try:
            status = path.stat()
        except OSError:
            return ""
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o077:
            return ""
        return _("the secret's file {path} can be read by others (mode {mode:04o}): chmod 600 {quoted}").format(
            path=path, mode=stat.S_IMODE(status.st_mode), quoted=shlex.quote(str(path))
        )


def owner_name(uid: int) -> str:
    """The user's name, or the number where the system knows none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            _("the secret's file {path} does not exist").format(path=path),
            hint=_("Put the secret there (mode 0600), or correct the path in holdfast.toml."),
        ) from None
    except PermissionError:
        raise ConfigError(
            _("the secret's file {path} may not be read by the user {user}").format(
                path=path, user=owner_name(os.geteuid())
            ),
            hint=_("Run the command as the user to whom the file belongs, for example: sudo -u postgres holdfast …"),
        ) from None
    except OSError as error:
        raise ConfigError(
            _("cannot read the secret's file {path}: {reason}").format(path=path, reason=error.strerror),
            hint=_("Correct the path in holdfast.toml."),
        ) from None


def _variable(name: str) -> bytes:
    try:
        return os.fsencode(os.environ[name])
    except KeyError:
        raise ConfigError(
            _("the environment variable {name} is not set").format(name=name),
            hint=_("Set {name} where holdfast runs, or name a file instead: {example}.").format(
                name=name, example='{ file = "…" }'
            ),
        ) from None


def _program(command: str) -> str:
    """The command's first word: the rest may hold what nobody should read."""
    with contextlib.suppress(ValueError):
        words = shlex.split(command)
        if words:
            return words[0]
    return "…"


def _run(command: str, place: str, folder: Path) -> bytes:
    with subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            raise ConfigError(
                _("{place} did not end within {seconds:g} seconds").format(place=place, seconds=COMMAND_SECONDS),
                hint=_("Run the command by hand and see what it waits for; it gets no input."),
            ) from None
        finally:
            if process.returncode is None:  # out of time, or interrupted: the shell's children too hold the pipes
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        lines = errors.decode("utf-8", "replace").strip().splitlines()
        raise ConfigError(
            _("{place} failed with exit code {code}: {reason}").format(
                place=place, code=process.returncode, reason=lines[-1] if lines else _("it said nothing")
            ),
            hint=_("Run the command by hand, as the same user, until it prints the secret."),
        )
    return output
