"""What to change when a service's answer has to do with how the repository speaks to it. Pure."""

from __future__ import annotations

from holdfast.messages import _
from holdfast.store import aliyun
from holdfast.store.answers import Answer, Verdict
from holdfast.store.service import Service, credentials_hint


def what_to_change(answer: Answer, service: Service, *, endpoint: str, lets_in: bool) -> str:
    """A hint, or empty. ``lets_in``: there are credentials, of the repository or of this machine."""
    if answer.verdict in (Verdict.NO_TLS, Verdict.WANTS_TLS):
        return tls_hint(service, endpoint, tls=answer.verdict is Verdict.WANTS_TLS)
    unknown = answer.verdict is Verdict.REFUSED and service.is_host and not lets_in
    if answer.verdict is Verdict.NO_CREDENTIALS or unknown:
        return credentials_hint(service)
    return answer.hint if answer.answered else aliyun.unreachable_hint(endpoint) or answer.hint


def tls_hint(service: Service, endpoint: str, *, tls: bool) -> str:
    """How to speak to ``endpoint`` with, or without, TLS, if that is meant."""
    rest, scheme = endpoint.rpartition("://")[2] or "…", "https" if tls else "http"
    if service.is_host:
        line = f"{service.scheme.partition('+')[0]}+{scheme}://{rest}"
        return _("See that host and port are right; if they are, begin the repository's url with {line}").format(
            line=line
        )
    return _("See that host and port are right; if they are, write: {line}").format(
        line=f'endpoint = "{scheme}://{rest}"'
    )
