"""Where an SFTP store is and how one gets in: what its URL and its options mean. Pure, but for reading key files.

``sftp://[user@]host[:port]/absolute/path``. Nothing is taken from ``~/.ssh/config``: what holds is what stands in
holdfast.toml, so that the same repository opens on another machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote

import asyncssh

from holdfast.errors import ConfigError
from holdfast.messages import _

OPTIONS = ("user", "port", "private_key", "private_key_passphrase", "password", "known_hosts")
"""``private_key`` and ``known_hosts`` are paths on this machine."""

DEFAULT_PORT = 22
_SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    host: str
    port: int
    user: str
    root: str
    """The store's folder on the server: absolute, no ``/`` at its end."""
    private_key: Path | None = None
    """Without one, and without a password: the agent, then the usual keys in ``~/.ssh``."""
    private_key_passphrase: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    known_hosts: Path
    system_known_hosts: Path | None = None
    """Read too, if it is there."""

    @property
    def address(self) -> str:
        """As known_hosts names it: ``host``, or ``[host]:port``."""
        return self.host if self.port == DEFAULT_PORT else f"[{self.host}]:{self.port}"

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORT else f":{self.port}"
        return f"sftp://{quote(self.user)}@{host}{port}{quote(self.root)}"

    @property
    def secrets(self) -> Sequence[str]:
        return [secret for secret in (self.private_key_passphrase, self.password) if secret]


def access(parts: SplitResult, options: Mapping[str, str], *, user: str, home: Path) -> Access:
    """``options``: of ``OPTIONS`` only. ``user`` and ``home``: of whom this process runs as. Raises ``ConfigError``."""
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    root = unquote(parts.path).rstrip("/")
    strange = any(part in {"", ".", ".."} for part in root.split("/")[1:])
    if not parts.hostname or not root or strange or not root.isprintable() or parts.query or parts.fragment:
        raise ConfigError(
            _("{url} does not name a server and a folder").format(url=place),
            hint=_("Write sftp://user@host/absolute/path."),
        )
    if parts.password is not None:
        raise ConfigError(
            _("the url of {url} holds a password").format(url=place),
            hint=_("Leave it out, and give it as the option password of the repository, or better use a private_key."),
        )
    written = options.get("known_hosts")
    return Access(
        host=parts.hostname,
        port=_port(parts, options.get("port")),
        user=_user(parts, options.get("user")) or user,
        root=root,
        private_key=Path(options["private_key"]).expanduser() if options.get("private_key") else None,
        private_key_passphrase=options.get("private_key_passphrase", ""),
        password=options.get("password", ""),
        known_hosts=Path(written).expanduser() if written else home / ".ssh/known_hosts",
        system_known_hosts=None if written else _SYSTEM_KNOWN_HOSTS,
    )


def read_private_key(access: Access) -> asyncssh.SSHKey | None:
    """The key that ``private_key`` names. Raises ``ConfigError``."""
    path = access.private_key
    if path is None:
        return None
    try:
        return asyncssh.read_private_key(path, access.private_key_passphrase or None)
    except OSError as error:
        raise ConfigError(
            _("cannot read the private key {path}: {reason}").format(path=path, reason=error.strerror),
            hint=_("Correct private_key, or run as the user who may read that file."),
        ) from None
    except asyncssh.KeyEncryptionError:
        raise ConfigError(
            _("the passphrase of the private key {path} is wrong").format(path=path),
            hint=_("Correct private_key_passphrase; try it with: ssh-keygen -y -f {path}").format(path=path),
        ) from None
    except asyncssh.KeyImportError as error:
        if "passphrase" in str(error).lower():
            raise ConfigError(
                _("the private key {path} needs a passphrase").format(path=path),
                hint=_(
                    "Give it as private_key_passphrase (on a machine without configuration: set "
                    "SFTP_PRIVATE_KEY_PASSPHRASE), or load the key into an agent and leave private_key out."
                ),
            ) from None
        raise ConfigError(
            _("{path} is not a private key that can be used").format(path=path),
            hint=_("Make one with: ssh-keygen -t ed25519 -f {path}").format(path=path),
        ) from None


def read_known_hosts(access: Access) -> asyncssh.SSHKnownHosts:
    """What is known of servers; nothing where the files are absent. Raises ``ConfigError``."""
    found = asyncssh.SSHKnownHosts()
    for path in filter(None, (access.known_hosts, access.system_known_hosts)):
        try:
            found.load(path.read_text(encoding="utf-8", errors="replace"))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigError(
                _("cannot read the known hosts in {path}: {reason}").format(path=path, reason=error.strerror),
                hint=_("Name a file that this user may read with the option known_hosts."),
            ) from None
        except ValueError as error:
            raise ConfigError(
                _("the known hosts in {path} are no such file: {reason}").format(path=path, reason=error),
                hint=_("Correct it; each line is: host ssh-ed25519 AAAA…"),
            ) from None
    return found


def _port(parts: SplitResult, option: str | None) -> int:
    try:
        port = parts.port if option is None else int(option)
        fits = port is None or 0 < port < 1 << 16
    except ValueError:
        fits, port = False, None
    if not fits or (option is not None and parts.port not in (None, port)):
        raise ConfigError(
            _("sftp://{host} does not say one port").format(host=parts.hostname),
            hint=_("Write the port once: sftp://user@host:22/path, or as the option port."),
        )
    return port or DEFAULT_PORT


def _user(parts: SplitResult, option: str | None) -> str:
    written = unquote(parts.username or "")
    if written and option and written != option:
        raise ConfigError(
            _("sftp://{host} does not say one user").format(host=parts.hostname),
            hint=_("Write the user once: in the url, or as the option user."),
        )
    return written or option or ""
