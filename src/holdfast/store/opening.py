"""From a repository's URL to a store, with its limits and its patience around it."""

from __future__ import annotations

import difflib
import getpass
import os
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from holdfast.clock import Clock
from holdfast.errors import ConfigError, StoreBusy
from holdfast.messages import _
from holdfast.store.folder import FolderStore
from holdfast.store.limited import LimitedStore
from holdfast.store.port import Store
from holdfast.store.retrying import Patience, RetryingStore
from holdfast.store.service import refuse_unknown
from holdfast.store.services import SERVICES, service_of

_SUPPORTED = ("file", *SERVICES, "sftp")
_MEANT = {"gcs": "gs", "azure": "azblob", "az": "azblob", "wasb": "azblob", "s3a": "s3"}
_MEANT |= dict.fromkeys(("http", "https", "webdav", "webdavs", "dav", "davs"), "webdav+https")
"""What other programs call the same."""
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


def open_store(
    url: str,
    options: Mapping[str, str],
    *,
    clock: Clock,
    create: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    trying_again: Callable[[StoreBusy], None] = lambda _error: None,
    patience: Patience | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Store:
    """The store at ``url``: ``file:///folder``, ``s3://bucket/prefix`` …, limited and retried.

    ``create`` makes and marks a folder; a bucket must exist. An object store is not spoken to yet. The machine's own
    identity, where ``options`` hold no credentials, may stand in the ``environment``. ``stopped`` ends
    the waiting between attempts; ``trying_again`` hears why there are more of them; ``patience`` says how many. Raises
    ``ConfigError``, and for folders ``StoreUnreachable`` or what hinders them.
    """
    parts = _split(url)
    store: Store
    if parts.scheme == "file":
        refuse_unknown(options, known=(), scheme="file")
        store = FolderStore(_folder(parts), clock=clock, create=create)
    elif parts.scheme == "sftp":
        store = _sftp_store(parts, options, create=create)
    else:
        store = _object_store(parts, options, clock=clock, environment=environment)
    jitter = random.Random()  # noqa: S311  spreads retries, guards nothing
    return RetryingStore(
        LimitedStore(store),
        clock=clock,
        jitter=jitter,
        patience=patience,
        stopped=stopped,
        trying_again=trying_again,
    )


def _object_store(
    parts: SplitResult, options: Mapping[str, str], *, clock: Clock, environment: Mapping[str, str]
) -> Store:
    from holdfast.store.aliyun import own_identity
    from holdfast.store.objects import ObjectStore

    service = service_of(parts.scheme, options)
    bucket, prefix = _bucket(parts, is_host=service.is_host)
    identity = own_identity(environment, clock=clock) if service.scheme == "oss" else None
    return ObjectStore(service, bucket=bucket, prefix=prefix, options=options, identity=identity)


def _sftp_store(parts: SplitResult, options: Mapping[str, str], *, create: bool) -> Store:
    from holdfast.store.sftp import SftpStore
    from holdfast.store.sftp_access import OPTIONS, access

    refuse_unknown(options, known=OPTIONS, scheme="sftp")
    user, home = _who_runs_this()
    return SftpStore(access(parts, options, user=user, home=home), create=create)


def _who_runs_this() -> tuple[str, Path]:
    """Name and home folder. asyncssh asks for both when it connects, whatever url and options say."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):
        raise ConfigError(
            _("the user {uid}, who runs this, has no name, and SSH needs one").format(uid=os.getuid()),
            hint=_(
                "Set the environment variable LOGNAME to any name, and write the server's user into the url: "
                "sftp://user@host/folder."
            ),
        ) from None
    try:
        return name, Path.home()
    except RuntimeError:
        raise ConfigError(
            _("the user {uid}, who runs this, has no home folder, and SSH needs one").format(uid=os.getuid()),
            hint=_(
                "Set the environment variable HOME to a folder of that user, and give the repository the option "
                "known_hosts."
            ),
        ) from None


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError(_("not a store's url"), hint=_("Write file:///folder or s3://bucket/prefix.")) from None
    if "://" not in url and parts.scheme not in _SUPPORTED:
        shown = Path(url).absolute().as_uri() if url.startswith("/") else "file:///folder"
        raise ConfigError(_("a store's url without a scheme"), hint=_("Write {shown}.").format(shown=shown))
    if parts.scheme not in _SUPPORTED:
        raise ConfigError(_("no store speaks {scheme}://").format(scheme=parts.scheme), hint=_near(parts.scheme))
    if ("@" in parts.netloc and parts.scheme != "sftp") or parts.query or parts.fragment:
        raise ConfigError(
            _("a store's url holds more than its place"),
            hint=_("Leave out user, password and what follows '?' or '#': give them as options of the repository."),
        )
    return parts


def _near(scheme: str) -> str:
    supported = ", ".join(f"{name}://" for name in _SUPPORTED)
    near = _MEANT.get(scheme) or next(iter(difflib.get_close_matches(scheme, _SUPPORTED, n=1, cutoff=0.7)), "")
    if near:
        return _("Did you mean {near}://?").format(near=near)
    return _("This version supports {supported}.").format(supported=supported)


def _folder(parts: SplitResult) -> Path:
    path = Path(unquote(parts.path))
    if parts.netloc or not path.is_absolute() or "\0" in str(path) or ".." in path.parts or path == path.parent:
        raise ConfigError(
            _("{url} is not a folder of this machine").format(url=parts.geturl()),
            hint=_("Write file:// and the absolute path, three slashes in all: file:///var/lib/holdfast/repository."),
        )
    return path


def _bucket(parts: SplitResult, *, is_host: bool) -> tuple[str, str]:
    prefix = unquote(parts.path).strip("/")
    strange = any(piece in {"", ".", ".."} for piece in prefix.split("/")) if prefix else False
    known = (_HOST if is_host else _BUCKET).fullmatch(parts.netloc)
    if known and not strange and prefix.isprintable():
        return parts.netloc, prefix
    if is_host:
        raise ConfigError(
            _("{url} does not name a server and a folder").format(url=parts.geturl()),
            hint=_("Write {scheme}://host/folder.").format(scheme=parts.scheme),
        )
    raise ConfigError(
        _("{url} does not name a bucket and a prefix").format(url=parts.geturl()),
        hint=_("Write {scheme}://bucket/prefix; the server's address is the option endpoint.").format(
            scheme=parts.scheme
        ),
    )
