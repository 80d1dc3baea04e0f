"""What opendal's exceptions mean: the one place that reads their text.

They share no base class, and whether trying again may help, which status the service answered and which error code
stand only in the text (opendal 0.47.12)::

    NotFound (permanent) at read => S3Error { code: "NoSuchKey", message: "…", … }
    …
       response: Parts { status: 404, version: HTTP/1.1, … }

Pure: an exception in, a verdict out. Sources: opendal's ``core/src/types/error.rs`` and ``services/s3/src/error.rs``;
the codes are those of "Error responses" in the Amazon S3 API reference, and what OSS and MinIO add to them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto

from holdfast.messages import _


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
    UNREACHABLE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    verdict: Verdict
    reason: str
    """For people: one line, without secrets."""
    hint: str = ""


_BY_CODE = {
    "NoSuchKey": Verdict.MISSING,
    "NoSuchBucket": Verdict.UNREACHABLE,
    "PreconditionFailed": Verdict.EXISTS,
    "FileAlreadyExists": Verdict.EXISTS,
    "InvalidRange": Verdict.BEYOND_END,
    "ConditionalRequestConflict": Verdict.BUSY,
    "OperationAborted": Verdict.BUSY,
    "RequestTimeout": Verdict.BUSY,
    "SlowDown": Verdict.BUSY,
    "ServiceUnavailable": Verdict.BUSY,
    "InternalError": Verdict.BUSY,
    "XMinioStorageFull": Verdict.FULL,
    "InsufficientStorage": Verdict.FULL,
    "QuotaExceeded": Verdict.FULL,
}
_BY_KIND = {
    "NotFound": Verdict.MAYBE_MISSING,
    "ConditionNotMatch": Verdict.EXISTS,
    "AlreadyExists": Verdict.EXISTS,
    "RangeNotSatisfied": Verdict.BEYOND_END,
    "PermissionDenied": Verdict.REFUSED,
    "RateLimited": Verdict.BUSY,
}
_BY_STATUS = {
    401: Verdict.REFUSED,
    403: Verdict.REFUSED,
    408: Verdict.BUSY,
    412: Verdict.EXISTS,
    429: Verdict.BUSY,
    507: Verdict.FULL,
}


def read_answer(error: Exception, *, secrets: Collection[str] = ()) -> Answer:
    """What ``error``, opendal's or a ``TimeoutError``, says; ``secrets`` are blotted out of the reason."""
    if isinstance(error, TimeoutError):
        return Answer(verdict=Verdict.BUSY, reason=_("no answer in time"))
    text = str(error)
    code = _first(r'code: "([A-Za-z0-9.]+)"', text)
    status = int(_first(r"\bstatus: (\d{3})\b", text) or 0)
    reason = _reason(text, code, status)
    for secret in secrets:
        reason = reason.replace(secret, "…")
    return Answer(
        verdict=_verdict(type(error).__name__, text, code, status), reason=reason, hint=_hint(code, status, text)
    )


def _verdict(kind: str, text: str, code: str, status: int) -> Verdict:
    if "reader got too much data" in text or "reader got too little data" in text:
        return Verdict.OTHER_LENGTH
    known = _BY_CODE.get(code) or _BY_KIND.get(kind) or _BY_STATUS.get(status)
    if known is not None:
        return known
    if "certificate" in text:
        return Verdict.UNREACHABLE
    return Verdict.BUSY if "(temporary)" in text.partition("\n")[0] else Verdict.UNREACHABLE


def _reason(text: str, code: str, status: int) -> str:
    if code:
        message = _first(r'message: "((?:[^"\\]|\\.)*)"', text)
        return f"{code}: {message}"[:300] if message else code
    if status:
        return _("the service answered with status {status}").format(status=status)
    source = _first(r"Source:\s*\n\s*([^\n]+)", text) or text.partition("\n")[0].rpartition("=> ")[2]
    return source.strip()[:300]


def _hint(code: str, status: int, text: str) -> str:
    bucket = _("Create the bucket, or correct the repository's url.")
    region = _("Set the region, and the endpoint, of the bucket under its repository.")
    key = _("Correct the access key of the repository.")
    room = _("Raise the quota of the bucket, or make room in it.")
    hints = {
        "NoSuchBucket": bucket,
        "PermanentRedirect": region,
        "AuthorizationHeaderMalformed": region,
        "IllegalLocationConstraintException": region,
        "SecondLevelDomainForbidden": _('Set addressing = "virtual" under the repository.'),
        "RequestTimeTooSkewed": _("Set this machine's clock."),
        "ExpiredToken": key,
        "InvalidAccessKeyId": key,
        "SignatureDoesNotMatch": key,
        "XMinioStorageFull": room,
        "InsufficientStorage": room,
        "QuotaExceeded": room,
        "301": region,
        "401": key,
        "403": _("Allow this access key to list, read and write the bucket."),
        "507": room,
        "certificate": _("Correct the endpoint, or install the certificate of the authority that signed its own."),
        "(Connect)": _("See that the endpoint is right and that this machine can reach it."),
    }
    told = [code, str(status), *(word for word in ("certificate", "(Connect)") if word in text)]
    return next((hints[word] for word in told if word in hints), "")


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""
