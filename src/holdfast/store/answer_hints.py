"""What to change when a service refuses: by its error code, its status, or what kept the question from reaching it."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.messages import _

_WORDS = ("certificate", "invalid HTTP version parsed", "(Connect)", "dns error")


def hint_for(code: str, status: int, text: str) -> str:
    """``text`` is opendal's whole; empty where there is nothing useful to say."""
    told = [code, str(status), *(word for word in _WORDS if word in text)]
    hints = _hints()
    return next((hints[word] for word in told if word in hints), "")


def _hints() -> Mapping[str, str]:
    bucket = _("Create the bucket, or correct the repository's url.")
    region = _("Set the region, and the endpoint, of the bucket under its repository.")
    key = _("Correct the access key of the repository.")
    rights = _("Allow this access key to list, read and write the bucket.")
    room = _("Raise the quota of the bucket, or make room in it.")
    clock = _("Set this machine's clock.")
    archived = _("The object lies in an archive tier: restore it there first, and keep backups out of such tiers.")
    kept = _("A retention rule of the bucket protects the object until it ends.")
    endpoint = _("See that the endpoint is right and that this machine can reach it.")
    token = _("Renew the session token of the repository, or use a key without one.")
    return {
        **dict.fromkeys(("NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "bad_bucket_id"), bucket),
        **dict.fromkeys(
            ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"), region
        ),
        "PublicEndpointForbidden": _(
            "This account reaches OSS only from inside Aliyun's network (endpoint -internal) or by a domain of its own."
        ),
        "SecondLevelDomainForbidden": _('Set addressing = "virtual" under the repository.'),
        "VirtualHostDomainRequired": _('Set addressing = "virtual" under the repository.'),
        **dict.fromkeys(("RequestTimeTooSkewed", "RequestTimeTooLarge"), clock),
        **dict.fromkeys(("InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthenticationFailed", "unauthorized"), key),
        **dict.fromkeys(("ExpiredToken", "InvalidToken", "InvalidSecurityToken", "SecurityTokenExpired"), token),
        **dict.fromkeys(("AuthorizationPermissionMismatch", "AuthorizationFailure", "access_denied"), rights),
        **dict.fromkeys(("InvalidObjectState", "BlobArchived"), archived),
        **dict.fromkeys(("FileImmutable", "BlobImmutableDueToPolicy", "ObjectImmutable"), kept),
        **dict.fromkeys(
            ("XMinioStorageFull", "InsufficientStorage", "InsufficientStorageSpace", "QuotaExceeded"), room
        ),
        **dict.fromkeys(("storage_cap_exceeded", "cap_exceeded", "AccountQuotaExceeded"), room),
        "301": region,
        "401": key,
        "403": rights,
        "507": room,
        "certificate": _("Correct the endpoint, or install the certificate of the authority that signed its own."),
        "invalid HTTP version parsed": _(
            "What answers there does not speak plain HTTP: see that the port is right, and whether it wants https://."
        ),
        "(Connect)": endpoint,
        "dns error": endpoint,
    }
