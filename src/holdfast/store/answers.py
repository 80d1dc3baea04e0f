"""What opendal's exceptions mean: the one place that reads their text.

They share no base class, and whether trying again may help, which status the service answered and which error code
stand only in the text (opendal 0.47.12)::

    NotFound (permanent) at read => S3Error { code: "NoSuchKey", message: "…", … }
    …
       response: Parts { status: 404, version: HTTP/1.1, … }

Pure: an exception in, a verdict out. Sources: opendal's ``core/src/types/error.rs`` and ``services/*/src/error.rs``;
the codes are those of "Error responses" in the Amazon S3 API reference and in the manuals of OSS, COS and OBS, "Blob
Storage error codes" of Azure and "Error handling" of B2's native API. Google's JSON has a ``reason`` instead; WebDAV
has the status alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus

from holdfast.messages import _
from holdfast.store.answer_hints import hint_for


class Verdict(Enum):
    MISSING = auto()
    """The service itself said that there is no such object."""
    MAYBE_MISSING = auto()
    """Not found, but it may be a proxy or the wrong address that says so: ask in another way."""
    EXISTS = auto()
    BEYOND_END = auto()
    """The range begins behind the object's last byte."""
    OTHER_LENGTH = auto()
    """More or fewer bytes came than the range has: the object ends in it, or the service ignored it."""
    BUSY = auto()
    REFUSED = auto()
    FULL = auto()
    UNSUPPORTED = auto()
    """The service does not know what was asked of it, as a condition of a put."""
    NO_CREDENTIALS = auto()
    """None were given, and this machine has none of its own: nothing was asked."""
    NO_TLS = auto()
    """The endpoint answers a TLS handshake in plain words."""
    WANTS_TLS = auto()
    """The endpoint speaks TLS, and was spoken to without."""
    UNREACHABLE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    verdict: Verdict
    reason: str
    """For people: one line, without secrets."""
    hint: str = ""
    answered: bool = True
    """False where no answer came: nobody there, or too late."""


_BY_CODE = {
    **dict.fromkeys(("NoSuchKey", "BlobNotFound", "no_such_file"), Verdict.MISSING),
    **dict.fromkeys(
        (
            *("NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled", "ResourceNotFound"),
            *("bad_bucket_id", "PermanentRedirect", "InvalidObjectState", "BlobArchived"),
        ),
        Verdict.UNREACHABLE,
    ),
    **dict.fromkeys(
        ("PreconditionFailed", "FileAlreadyExists", "BlobAlreadyExists", "ConditionNotMet", "conditionNotMet"),
        Verdict.EXISTS,
    ),
    "InvalidRange": Verdict.BEYOND_END,
    **dict.fromkeys(
        (
            *("ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "SlowDown", "ServiceUnavailable"),
            *("InternalError", "ServerBusy", "OperationTimedOut", "service_unavailable", "internal_error"),
            *("expired_auth_token", "request_timeout", "too_many_requests", "QpsLimitExceeded"),
        ),
        Verdict.BUSY,
    ),
    **dict.fromkeys(
        (
            *("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "ExpiredToken"),
            *("InvalidToken", "InvalidSecurityToken", "SecurityTokenExpired", "SecurityTokenNotSupported"),
            *("SecondLevelDomainForbidden", "UserDisable", "AuthenticationFailed", "AuthorizationFailure"),
            *("AuthorizationPermissionMismatch", "AccountIsDisabled", "FileImmutable", "BlobImmutableDueToPolicy"),
            *("ObjectImmutable", "unauthorized", "bad_auth_token", "access_denied"),
        ),
        Verdict.REFUSED,
    ),
    **dict.fromkeys(
        (
            *("XMinioStorageFull", "InsufficientStorage", "QuotaExceeded", "InsufficientStorageSpace"),
            *("storage_cap_exceeded", "cap_exceeded", "AccountQuotaExceeded"),
        ),
        Verdict.FULL,
    ),
    "NotImplemented": Verdict.UNSUPPORTED,
}
_BY_KIND = {
    "NotFound": Verdict.MAYBE_MISSING,
    "ConditionNotMatch": Verdict.EXISTS,
    "AlreadyExists": Verdict.EXISTS,
    "RangeNotSatisfied": Verdict.BEYOND_END,
    "PermissionDenied": Verdict.REFUSED,
    "RateLimited": Verdict.BUSY,
    "Unsupported": Verdict.UNSUPPORTED,
}
_BY_STATUS = {
    401: Verdict.REFUSED,
    403: Verdict.REFUSED,
    405: Verdict.MAYBE_MISSING,  # a folder has the name
    408: Verdict.BUSY,
    412: Verdict.EXISTS,
    416: Verdict.BEYOND_END,
    423: Verdict.BUSY,
    429: Verdict.BUSY,
    501: Verdict.UNSUPPORTED,
    507: Verdict.FULL,
}

_WANTING_TLS = (
    "Client sent an HTTP request to an HTTPS server",  # Go's net/http: MinIO, rclone, Caddy, Traefik
    "The plain HTTP request was sent to HTTPS port",  # nginx
    "speaking plain HTTP to an SSL-enabled server port",  # Apache httpd
)
"""What servers say to a plain request on a port for TLS, with status 400."""


def read_answer(error: Exception, *, secrets: Collection[str] = ()) -> Answer:
    """What ``error``, opendal's or a ``TimeoutError``, says; ``secrets`` are blotted out of the reason."""
    if isinstance(error, TimeoutError):
        return Answer(verdict=Verdict.BUSY, reason=_("no answer in time"), answered=False)
    text = str(error)
    code = _first(r'code: "([^"\\]+)"', text).strip() or _first(r'\breason: "([A-Za-z]+)"', text)
    status = int(_first(r"\bstatus: (\d{3})\b", text) or 0)
    verdict = _verdict(type(error).__name__, text, code, status)
    reason = _reason(text, code, status)
    for secret in secrets:
        reason = reason.replace(secret, "…")
    return Answer(
        verdict=verdict,
        reason=_reasons().get(verdict, reason),
        hint=hint_for(code, status, text),
        answered=status > 0,
    )


def _verdict(kind: str, text: str, code: str, status: int) -> Verdict:
    told = _by_words(text, code, status)
    if told is not None:
        return told
    if code in _BY_CODE:
        return _BY_CODE[code]
    if code and status == 409:  # a conflict that is not the name's: opendal calls all of them alike
        return Verdict.UNREACHABLE
    known = _BY_KIND.get(kind) or _BY_STATUS.get(status)
    if known is not None:
        return known
    if "certificate" in text:
        return Verdict.UNREACHABLE
    return Verdict.BUSY if "(temporary)" in text.partition("\n")[0] else Verdict.UNREACHABLE


def _by_words(text: str, code: str, status: int) -> Verdict | None:
    """Of what has neither a code nor a status of its own."""
    if "reader got too much data" in text or "reader got too little data" in text:
        return Verdict.OTHER_LENGTH
    if not status and "failed to load signing credential" in text:
        return Verdict.NO_CREDENTIALS
    if "(Connect): received corrupt message of type InvalidContentType" in text:
        return Verdict.NO_TLS
    if status == HTTPStatus.BAD_REQUEST and not code and any(words in text for words in _WANTING_TLS):
        return Verdict.WANTS_TLS
    return None


def _reasons() -> Mapping[Verdict, str]:
    """Where opendal's own words say nothing to an operator."""
    return {
        Verdict.NO_CREDENTIALS: _("no credentials are given, and this machine has none of its own"),
        Verdict.NO_TLS: _("the endpoint does not speak TLS"),
        Verdict.WANTS_TLS: _("the endpoint speaks TLS only"),
    }


def _reason(text: str, code: str, status: int) -> str:
    if code:
        message = " ".join(_first(r'message: "((?:[^"\\]|\\.)*)"', text).split())
        return f"{code}: {message}"[:300] if message else code
    if status:
        return _("the service answered with status {status}").format(status=status)
    source = _first(r"Source:\s*\n\s*([^\n]+)", text) or text.partition("\n")[0].rpartition("=> ")[2]
    return source.strip()[:300]


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""
