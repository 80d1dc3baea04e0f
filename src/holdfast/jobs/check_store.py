"""What a repository's store can and cannot do, in an operator's words: what is missing, what that costs, what to do.

The store is probed (:mod:`holdfast.store.probing`); what the findings say of it is pure.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from holdfast.clock import Clock
from holdfast.messages import _
from holdfast.postgres.finding import Finding, Status
from holdfast.store.aliyun import internal_endpoint
from holdfast.store.ecs import ecs_region
from holdfast.store.policy import SCHEMES, JSONObject, Role, policy
from holdfast.store.port import Store
from holdfast.store.probing import Abilities, Deletes, probe

CLOCKS_APART = timedelta(minutes=5)
"""More, and prune refuses."""
SLOW_BYTES_PER_SECOND = 500_000


def check_store(store: Store, *, clock: Clock) -> list[Finding]:
    """Probes the store. Raises what keeps it from being used at all."""
    return store_findings(probe(store, clock=clock), store.url)


def store_findings(abilities: Abilities, url: str) -> list[Finding]:
    found = [
        *_content(abilities, url),
        *_listing(abilities, url),
        *_deletes(abilities, url),
        *_noticed(abilities, url),
        _created(abilities),
        _speed(abilities),
    ]
    if all(finding.status is not Status.FAILED for finding in found) and abilities.deletes is Deletes.GONE:
        found.insert(0, _finding("store", Status.OK, _("writing, reading and removing an object works")))
    return found


def _finding(name: str, status: Status, what: str, remedy: str = "") -> Finding:
    return Finding(name=name, status=status, what=what, remedy=remedy)


def _content(abilities: Abilities, url: str) -> list[Finding]:
    found: list[Finding] = []
    if not (abilities.reads_back and abilities.reads_ranges and abilities.large.intact):
        what = _("{url} gives back other bytes than were written").format(url=url)
        remedy = _("Do not use this store; look into its disk or its service.")
        found.append(_finding("store", Status.FAILED, what, remedy))
    if abilities.replaces is False:
        what = _(
            "{url} still gives back the old content of an object that was replaced: a cache lies before it"
        ).format(url=url)
        remedy = _("Let the endpoint be the store itself, not a cache or a content delivery network.")
        found.append(_finding("replaces", Status.WARNING, what, remedy))
    if abilities.replaces is None:
        what = _("objects cannot be written over, which guards the backups")
        found.append(_finding("replaces", Status.OK, what))
    return found


def _listing(abilities: Abilities, url: str) -> list[Finding]:
    found: list[Finding] = []
    if not abilities.lists_at_once:
        what = _("{url} does not list at once what was written: what is not listed counts as lost").format(url=url)
        remedy = _("Do not use this store, or leave out what caches its listings.")
        found.append(_finding("listing", Status.FAILED, what, remedy))
    ahead = abilities.clock_ahead
    if ahead is not None and abs(ahead) > CLOCKS_APART:
        text = (
            _("the store's clock is {time} ahead of this machine's: prune will refuse to remove anything")
            if ahead > timedelta(0)
            else _("the store's clock is {time} behind this machine's: prune will refuse to remove anything")
        )
        what = text.format(time=timedelta(seconds=round(abs(ahead).total_seconds())))
        remedy = _("Set this machine's clock, or that of the server: timedatectl")
        found.append(_finding("clocks", Status.WARNING, what, remedy))
    return found


def _deletes(abilities: Abilities, url: str) -> list[Finding]:
    if abilities.deletes is Deletes.REFUSED:
        what = _("this access may not remove objects: with it nothing is ever expired, and small probes stay behind")
        remedy = _(
            "That is as it should be if another key prunes, or the store has a retention of its own; "
            "a writer should still be allowed to withdraw its leases: holdfast check --policy"
        )
        return [_finding("deletes", Status.WARNING, what, remedy)]
    if abilities.deletes is Deletes.STILL_READ:
        what = _("{url} still gives back an object that was removed").format(url=url)
    elif abilities.deletes is Deletes.STILL_LISTED:
        what = _("{url} still lists an object that was removed").format(url=url)
    elif abilities.traits.keeps_versions:
        what = _("removed objects stay in {url} as older versions, and are paid for").format(url=url)
    else:
        return []
    remedy = _("Old versions are kept there: give the bucket a lifecycle rule that removes them.")
    return [_finding("deletes", Status.WARNING, what, remedy)]


def _noticed(abilities: Abilities, url: str) -> list[Finding]:
    found: list[Finding] = []
    if abilities.traits.ranges is False:
        what = _(
            "{url} answers with whole objects where parts are asked for: restores are right, "
            "but fetch far more than they need"
        ).format(url=url)
        remedy = _("Give the service's own endpoint, without a proxy between; else expect restores to take longer.")
        found.append(_finding("ranges", Status.WARNING, what, remedy))
    if abilities.traits.syncs is False:
        what = _(
            "the server cannot be told to bring a file to its disk: if it loses power, the newest backups may be lost, "
            "though they were reported as done"
        )
        remedy = _("Use OpenSSH's SFTP server, which can (fsync@openssh.com), or keep a second repository elsewhere.")
        found.append(_finding("syncs", Status.WARNING, what, remedy))
    return found


def _created(abilities: Abilities) -> Finding:
    if abilities.creates_exclusively:
        return _finding("create_if_absent", Status.OK, _("the store creates only what is absent"))
    what = _("the store cannot create only what is absent: two `holdfast init` at once may both give up, no more")
    return _finding("create_if_absent", Status.OK, what)


def _speed(abilities: Abilities) -> Finding:
    large = abilities.large
    put, get = (large.size / max(seconds, 1e-6) for seconds in (large.put_s, large.get_s))
    what = _("{size} MiB went there at {put} MB/s and came back at {get} MB/s").format(
        size=large.size >> 20, put=_rounded(put), get=_rounded(get)
    )
    if min(put, get) >= SLOW_BYTES_PER_SECOND:
        return _finding("speed", Status.OK, what)
    hours = round(100e9 / min(put, get) / 3600)
    remedy = _("At that rate 100 GB take {hours} hours: look at the network between, or take a nearer store.").format(
        hours=hours
    )
    return _finding("speed", Status.WARNING, what, remedy)


def _rounded(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e6:.3g}"


def check_endpoint(url: str, endpoint: str, *, region: Callable[[], str] = ecs_region) -> list[Finding]:
    """Of a bucket in OSS: whether this machine could reach it free of traffic charges. ``region``: where it runs."""
    twin = internal_endpoint(endpoint) if url.startswith("oss:") and endpoint else None
    if twin is None:
        return []
    here = region()
    if not here or f"oss-{here}-internal." not in twin:
        return []
    what = _("this machine is in the bucket's own region of Aliyun, and reaches it over the public network")
    remedy = _("Write {line}: it is faster, and free of traffic charges.").format(line=f'endpoint = "{twin}"')
    return [_finding("endpoint", Status.WARNING, what, remedy)]


def policies(url: str) -> dict[Role, JSONObject] | None:
    """For each role the least policy that the store at ``url`` must grant; None for a store without policies."""
    scheme, _separator, place = url.partition("://")
    if scheme not in SCHEMES:
        return None
    bucket, _slash, prefix = place.partition("/")
    return {role: policy(scheme, bucket, prefix.strip("/"), role) for role in Role}
