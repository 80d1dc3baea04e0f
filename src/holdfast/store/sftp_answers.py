"""What asyncssh's exceptions mean, in the store's own errors. Pure, but for a look at which files are there.

SFTP's version 3, which nearly all servers speak, knows few answers: most of what can go wrong on the server, a full
disk too, is "Failure". What the other side calls an error is in "draft-ietf-secsh-filexfer-02", section 7.
"""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Sequence

import asyncssh

from holdfast.errors import HoldfastError, NoSpace, PermissionRefused, Refused, StoreBusy, StoreUnreachable
from holdfast.messages import _
from holdfast.store.failures import Operation, cannot
from holdfast.store.sftp_access import Access

OURS = (asyncssh.Error, OSError)
"""What a call can raise that this module reads; ``TimeoutError`` is an ``OSError``."""

_SPACE = (asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded)
_UNSUITABLE = (asyncssh.ChannelOpenError, asyncssh.ProtocolNotSupported, asyncssh.KeyExchangeFailed)


def failure(error: Exception, access: Access, operation: Operation, name: str) -> HoldfastError:
    """The error to raise for ``error``, one of ``OURS``."""
    kind, reason, hint = _read(error, access)
    for secret in access.secrets:
        reason = reason.replace(secret, "…")
    return kind(cannot(operation, name, access.url, reason), hint=hint)


def _read(error: Exception, access: Access) -> tuple[type[HoldfastError], str, str]:
    """Class, reason, hint."""
    if isinstance(error, asyncssh.PermissionDenied):
        reason = _("the server does not let the user {user} in").format(user=access.user)
        return PermissionRefused, reason, _login_hint(access)
    if isinstance(error, asyncssh.SFTPPermissionDenied | asyncssh.SFTPWriteProtect):
        hint = _("On the server, give {root} to the user {user}.").format(root=access.root, user=access.user)
        return PermissionRefused, _("the server refuses it to the user {user}").format(user=access.user), hint
    if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
        reason = _("there is no machine of the name {host}").format(host=access.host)
        return StoreUnreachable, reason, _("Correct the repository's url.")
    reason = _("no answer in time") if isinstance(error, TimeoutError) else _text(error)
    for kinds, raised, hint in (
        (_SPACE, NoSpace, _("Make room on the server.")),
        (asyncssh.SFTPOpUnsupported, StoreUnreachable, _("Use a server that can do this, such as OpenSSH's.")),
        (_UNSUITABLE, StoreUnreachable, _("See that the server offers SFTP to this user.")),
        (asyncssh.SFTPFailure, StoreBusy, _("Look into the server's log, and at its disk.")),
    ):
        if isinstance(error, kinds):
            return raised, reason, hint
    return StoreBusy, reason, _("See that the server runs, and that this machine can reach it.")


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)
    return str(error).partition("\n")[0][:300] or type(error).__name__


def _login_hint(access: Access) -> str:
    if access.private_key is not None:
        return _("Put the public key of {key} into ~/.ssh/authorized_keys of that user on the server.").format(
            key=access.private_key
        )
    if access.password:
        return _("Correct the password; some servers take keys only: then give a private_key.")
    return _(
        "Give the repository a private_key or a password: it has neither, and no key of the agent or in ~/.ssh fits. "
        "On a machine without configuration, add --option private_key=FILE, or set SFTP_PASSWORD."
    )


def refused_host(
    access: Access,
    error: asyncssh.HostKeyNotVerifiable | asyncssh.KeyExchangeFailed,
    *,
    offered: asyncssh.SSHKey | None,
    known: Sequence[asyncssh.SSHKey],
) -> Refused | None:
    """The error for a server whose key is not one of the ``known``; None where keys are not the trouble."""
    if isinstance(error, asyncssh.KeyExchangeFailed):
        return _changed(access, None, known) if known and "host key" in str(error).lower() else None
    if known or offered is None:
        return _changed(access, offered, known)
    return Refused(
        _("{store}: the server's host key is not known: {key}").format(store=access.url, key=_shown(offered)),
        hint=_(
            "See that this is the fingerprint that the server's operator gives you, then add to {file} the line\n"
            "{line}\n"
            "or, if you trust the way to the server now, run: {command}"
        ).format(file=access.known_hosts, line=_line(access, offered), command=_scan(access)),
    )


def _changed(access: Access, offered: asyncssh.SSHKey | None, known: Sequence[asyncssh.SSHKey]) -> Refused:
    now = _shown(offered) if offered is not None else _("a key of another type")
    return Refused(
        _("{store}: THE SERVER'S HOST KEY HAS CHANGED: known is {known}, offered is {now}").format(
            store=access.url, known=", ".join(map(_shown, known)) or _("none"), now=now
        ),
        hint=_(
            "Somebody may be pretending to be that server, or it was made anew. Ask its operator; "
            "only if the new key is right, run: {command}"
        ).format(command=_forget(access) + _scan(access)),
    )


def _shown(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


def _line(access: Access, key: asyncssh.SSHKey) -> str:
    algorithm, content, *_comment = key.export_public_key("openssh").decode().split()
    return f"{access.address} {algorithm} {content}"


def _forget(access: Access) -> str:
    """What takes the server out of the user's own file, to be run before something else; empty where there is none."""
    if not os.access(access.known_hosts, os.F_OK):  # the key stands in the system's file; ssh-keygen would fail
        return ""
    return f"ssh-keygen -R {shlex.quote(access.address)} -f {shlex.quote(str(access.known_hosts))} && "


def _scan(access: Access) -> str:
    folder, file = access.known_hosts.parent, shlex.quote(str(access.known_hosts))
    scan = f"ssh-keyscan -p {access.port} {shlex.quote(access.host)} >> {file}"
    return scan if os.access(folder, os.F_OK) else f"mkdir -p -m 700 {shlex.quote(str(folder))} && {scan}"
