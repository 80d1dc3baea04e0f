"""What opendal's exceptions are read as; the texts are those of opendal 0.47.12."""

from __future__ import annotations

import opendal.exceptions as opendals
import pytest

from holdfast.store.answers import Verdict, read_answer


def said(status: int, code: str = "", message: str = "", *, temporary: bool = False) -> str:
    return (
        f'X ({"temporary" if temporary else "permanent"}) at read => S3Error {{ code: "{code}", '
        f'message: "{message}", resource: "", request_id: "" }}\n\nContext:\n   service_operation: GetObject\n'
        f'   response: Parts {{ status: {status}, version: HTTP/1.1, headers: {{"a": "b"}} }}\n   service: s3\n'
    )


GOOGLE = (
    'X (permanent) at read => GcsErrorResponse {{ error: GcsError {{ code: {}, message: "No such object: b/o", errors: '
    '[GcsErrorDetail {{ domain: "global", location: "", location_type: "", message: "No such object: b/o", '
    'reason: "{}" }}] }} }}\n\nContext:\n   response: Parts {{ status: {}, version: HTTP/1.1 }}\n   service: gcs\n'
)
SENT = "X ({}) at read => send http request\n\nContext:\n   url: a\n\nSource:\n   error sending: {}\n\nBacktrace:"


def plain(body: str) -> str:
    """What a server answers that wants TLS, and got none."""
    return f"X (permanent) at read => {body}\n\nContext:\n   response: Parts {{ status: 400, version: HTTP/1.0 }}\n"


@pytest.mark.parametrize(
    ("error", "verdict", "reason"),
    [
        (opendals.NotFound(said(404, "NoSuchKey", "gone")), Verdict.MISSING, "NoSuchKey: gone"),
        (opendals.NotFound(said(404)), Verdict.MAYBE_MISSING, "status 404"),
        (opendals.NotFound(said(404, "SomethingElse")), Verdict.MAYBE_MISSING, "SomethingElse"),
        (opendals.ConfigInvalid(said(404, "NoSuchBucket")), Verdict.UNREACHABLE, "NoSuchBucket"),
        (opendals.NotFound(said(404, "NoSuchBucket")), Verdict.UNREACHABLE, "NoSuchBucket"),
        (opendals.ConditionNotMatch(said(412, "PreconditionFailed")), Verdict.EXISTS, "PreconditionFailed"),
        (opendals.Unexpected(said(412)), Verdict.EXISTS, "412"),
        (opendals.Unexpected(said(409, "FileAlreadyExists")), Verdict.EXISTS, "FileAlreadyExists"),
        (opendals.Unexpected(said(409, "ConditionalRequestConflict")), Verdict.BUSY, "ConditionalRequestConflict"),
        (opendals.Unexpected(said(409)), Verdict.UNREACHABLE, "409"),
        (opendals.PermissionDenied(said(403, "AccessDenied")), Verdict.REFUSED, "AccessDenied"),
        (opendals.Unexpected(said(401)), Verdict.REFUSED, "401"),
        (opendals.RangeNotSatisfied(said(416, "InvalidRange")), Verdict.BEYOND_END, "InvalidRange"),
        (opendals.RateLimited(said(503, "SlowDown", temporary=True)), Verdict.BUSY, "SlowDown"),
        (opendals.Unexpected(said(503, temporary=True)), Verdict.BUSY, "503"),
        (opendals.Unexpected(said(408)), Verdict.BUSY, "408"),
        (opendals.Unexpected(said(507)), Verdict.FULL, "507"),
        (opendals.Unexpected(said(400, "XMinioStorageFull")), Verdict.FULL, "XMinioStorageFull"),
        (opendals.Unexpected(said(301, "PermanentRedirect")), Verdict.UNREACHABLE, "PermanentRedirect"),
        (opendals.Unexpected(SENT.format("temporary", "Connection refused")), Verdict.BUSY, "Connection refused"),
        (
            opendals.Unexpected(SENT.format("temporary", "invalid peer certificate: UnknownIssuer")),
            Verdict.UNREACHABLE,
            "UnknownIssuer",
        ),
        (
            opendals.Unexpected(
                SENT.format("temporary", "client error (Connect): received corrupt message of type InvalidContentType")
            ),
            Verdict.NO_TLS,
            "does not speak TLS",
        ),
        (opendals.Unexpected(SENT.format("temporary", "tls handshake eof")), Verdict.BUSY, "eof"),
        (opendals.Unexpected(SENT.format("temporary", "invalid HTTP version parsed")), Verdict.BUSY, "version"),
        (opendals.Unexpected(plain("Client sent an HTTP request to an HTTPS server.")), Verdict.WANTS_TLS, "TLS only"),
        (opendals.Unexpected(plain("The plain HTTP request was sent to HTTPS port")), Verdict.WANTS_TLS, "TLS only"),
        (
            opendals.Unexpected(plain("You're speaking plain HTTP to an SSL-enabled server port.")),
            Verdict.WANTS_TLS,
            "TLS only",
        ),
        (opendals.Unexpected(plain("Bad Request")), Verdict.UNREACHABLE, "400"),
        (
            opendals.Unexpected("X (permanent) at read => sign\n\nSource:\n   failed to load signing credential\n\n"),
            Verdict.NO_CREDENTIALS,
            "no credentials",
        ),
        (opendals.Unexpected("Unexpected (permanent) at  => reader got too much data\n"), Verdict.OTHER_LENGTH, "much"),
        (
            opendals.Unexpected("Unexpected (permanent) at  => reader got too little data\n"),
            Verdict.OTHER_LENGTH,
            "little",
        ),
        (opendals.Unexpected("Unexpected (permanent) at read => new words\n"), Verdict.UNREACHABLE, "new words"),
        (opendals.ConditionNotMatch(said(409, "FileImmutable")), Verdict.REFUSED, "FileImmutable"),
        (opendals.ConditionNotMatch(said(409, "SomethingElse")), Verdict.UNREACHABLE, "SomethingElse"),
        (opendals.ConditionNotMatch(said(409, "BlobAlreadyExists")), Verdict.EXISTS, "BlobAlreadyExists"),
        (opendals.Unexpected(said(501, "NotImplemented")), Verdict.UNSUPPORTED, "NotImplemented"),
        (opendals.Unsupported("Unsupported (permanent) at write => no if_not_exists\n"), Verdict.UNSUPPORTED, "if_not"),
        (opendals.NotFound(said(404, "BlobNotFound")), Verdict.MISSING, "BlobNotFound"),
        (opendals.NotFound(said(404, "ContainerNotFound")), Verdict.UNREACHABLE, "ContainerNotFound"),
        (opendals.PermissionDenied(said(403, "SecondLevelDomainForbidden")), Verdict.REFUSED, "SecondLevel"),
        (opendals.PermissionDenied(said(403, "RequestTimeTooSkewed")), Verdict.REFUSED, "RequestTimeTooSkewed"),
        (opendals.PermissionDenied(said(403, "InvalidObjectState")), Verdict.UNREACHABLE, "InvalidObjectState"),
        (opendals.Unexpected(said(503, "ServerBusy", temporary=True)), Verdict.BUSY, "ServerBusy"),
        (opendals.Unexpected(said(416)), Verdict.BEYOND_END, "416"),
        (opendals.Unexpected(said(423)), Verdict.BUSY, "423"),
        (opendals.NotFound(GOOGLE.format(404, "notFound", 404)), Verdict.MAYBE_MISSING, "notFound: No such object"),
        (opendals.PermissionDenied(GOOGLE.format(403, "forbidden", 403)), Verdict.REFUSED, "forbidden"),
        (opendals.ConditionNotMatch(GOOGLE.format(412, "conditionNotMet", 412)), Verdict.EXISTS, "conditionNotMet"),
        (opendals.Unexpected(""), Verdict.UNREACHABLE, ""),
        (TimeoutError(), Verdict.BUSY, "no answer in time"),
    ],
)
def test_verdicts(error: Exception, verdict: Verdict, reason: str) -> None:
    answer = read_answer(error)
    assert answer.verdict is verdict
    assert reason in answer.reason
    assert "\n" not in answer.reason


def test_hints_say_what_to_change() -> None:
    for code, hint in {
        "NoSuchBucket": "Create the bucket",
        "AuthorizationHeaderMalformed": "region",
        "SecondLevelDomainForbidden": "virtual",
        "RequestTimeTooSkewed": "clock",
        "SignatureDoesNotMatch": "access key",
        "AuthenticationFailed": "access key",
        "ContainerNotFound": "Create the bucket",
        "SecurityTokenExpired": "token",
        "InvalidObjectState": "archive",
        "FileImmutable": "retention",
    }.items():
        assert hint in read_answer(opendals.Unexpected(said(403, code))).hint


def test_a_quoted_message_is_read_to_its_end_and_secrets_are_blotted_out() -> None:
    text = said(400, "InvalidArgument", r"the \"key\" hush is wrong")
    assert read_answer(opendals.Unexpected(text), secrets=["hush"]).reason == r"InvalidArgument: the \"key\" … is wrong"


def test_what_is_no_http_gets_a_hint() -> None:
    error = opendals.Unexpected(SENT.format("temporary", "invalid HTTP version parsed"))
    assert "https://" in read_answer(error).hint


def test_our_own_words_are_not_blotted_out() -> None:
    error = opendals.Unexpected(plain("The plain HTTP request was sent to HTTPS port"))
    assert read_answer(error, secrets=["TLS"]).reason == "the endpoint speaks TLS only"
