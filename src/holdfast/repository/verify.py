"""Verifying: is every byte that a snapshot needs still what was written?

*Whole*: every object is read back and authenticated, every chunk's id computed again, every reference resolved.
*Quick*: the packs are only listed, beside the index; records and trees are read, and every reference resolved.
Damage is reported by object, and by the snapshots and files that it touches. WAL is verified too (``wal.checking``).

Prune may be at work at the same time. A lease keeps what is new from being marked; what is not there when it is read is
looked for once more beside a newer listing, and counts as lost only if some snapshot needs it and it is nowhere else.
Noted as damaged is what was read and is wrong, and what is listed and cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from holdfast.errors import Damaged, NoSpace, NotReachable, ObjectMissing, PermissionRefused, Refused, StoreUnreachable
from holdfast.messages import _
from holdfast.repository.damage import BadPart, encode_damage
from holdfast.repository.index import Index
from holdfast.repository.index_loading import LoadedIndex, list_packs, load_index
from holdfast.repository.keyring import key_problems
from holdfast.repository.leases import decode_renewal
from holdfast.repository.marks import decode_mark
from holdfast.repository.objects import REPOSITORY_OBJECT, Kind, ObjectRef, parse_name
from holdfast.repository.pack_checks import PackChecks, Wholeness
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.repository import DEFAULT_WORKERS, Problem, Records, Repository
from holdfast.repository.resolving import Resolver, Touched
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.versions import decode_writer
from holdfast.repository.wal.checking import CheckPages, WalVerification, no_pages, verify_wal
from holdfast.repository.watch import Lease
from holdfast.store.port import Listed

__all__ = ["Touched", "Verification", "verify_repository"]

_LOOKS = 4
"""As long as each finds other things missing, so often is everything listed."""
_NO_LEASE = (NotReachable, Refused, NoSpace)
"""Why a lease may not be had: none of it keeps anybody from reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    snapshots: int
    objects: int
    """Objects read or, when quick, listed."""
    read: int
    """Bytes read back from the store."""
    problems: tuple[Problem, ...]
    mended: tuple[Problem, ...]
    """Damaged packs whose every chunk is whole in another pack: nothing is lost."""
    touched: tuple[Touched, ...]
    unneeded: int
    """Packs that no snapshot needs: what an interrupted backup uploaded, or what a lost record named."""
    wal: WalVerification = field(default_factory=WalVerification)
    """Its problems are among the others."""

    @property
    def good(self) -> bool:
        return not self.problems and not self.touched


def verify_repository(
    repository: Repository,
    *,
    quick: bool = False,
    only: Callable[[Snapshot], bool] = lambda _snapshot: True,
    progress: Callable[[int], None] = lambda _size: None,
    workers: int = DEFAULT_WORKERS,
    host: str = "",
    check_pages: CheckPages = no_pages,
) -> Verification:
    """``progress`` hears the bytes of each pack when done; ``only`` chooses the snapshots whose files are resolved;
    ``check_pages`` looks at the pages of WAL.

    Damage that was not known is noted in the repository, so that the next backup does not reuse it. ``host``
    is named in the lease.
    """
    with _leased(repository, host) as beat:
        verifying = _Verifying(repository, PackChecks(repository, progress, workers=workers), beat, quick=quick)
        found = verifying.verify(only)
        wal = verify_wal(
            repository, quick=quick, check_pages=check_pages, progress=progress, beat=beat, workers=workers
        )
        return replace(
            found,
            objects=found.objects + wal.objects,
            read=found.read + wal.read,
            problems=tuple(sorted({*found.problems, *wal.problems}, key=lambda problem: (problem.name, problem.what))),
            wal=wal,
        )


@contextmanager
def _leased(repository: Repository, host: str) -> Iterator[Callable[[], None]]:
    """Holds a lease, to be renewed by what this gives. Where none can be had, none is held."""
    lease = Lease(repository, work="verify", host=host)
    held = False

    def beat() -> None:
        if held:
            with suppress(*_NO_LEASE):
                lease.beat()

    try:
        with suppress(*_NO_LEASE):
            lease.renew()
            held = True
        yield beat
    finally:
        lease.end()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What is found once, beside one listing."""

    records: Records
    snapshots: Sequence[Snapshot]
    loaded: LoadedIndex
    wholeness: Wholeness
    resolver: Resolver
    gone: frozenset[ObjectRef]
    """Packs that are listed, and were not there when they were read."""

    @property
    def everything(self) -> bool:
        """Whether it is known of each pack whether some snapshot needs it."""
        records = self.records
        all_chosen = len(self.snapshots) == len(records.snapshots)
        return all_chosen and self.resolver.complete and not records.problems and not records.missing

    @property
    def absences(self) -> frozenset[object]:
        """What seems to be missing; prune may have deleted it since it was listed."""
        vague = () if self.everything else self.loaded.missing
        return frozenset([*self.gone, *self.resolver.missed, *vague])

    def missed(self) -> Iterator[Problem]:
        """Of what loading the index found, all but packs that are gone and that nobody needs: those were pruned."""
        pruned = {ref.name for ref in self.loaded.missing if self.everything and ref not in self.resolver.lost}
        yield from (problem for problem in self.loaded.problems if problem.name not in pruned)


class _Verifying:
    def __init__(self, repository: Repository, packs: PackChecks, beat: Callable[[], None], *, quick: bool) -> None:
        self._repository, self._packs, self._beat, self._quick = repository, packs, beat, quick
        self._noted: set[BadPart] = set()
        self._unnoted: list[Problem] = []

    def verify(self, only: Callable[[Snapshot], bool]) -> Verification:
        look = self._look(only)
        for _again in range(_LOOKS - 1):
            if not look.absences:
                break
            former, look = look, self._look(only)
            if look.absences == former.absences:
                break
        self._condemn(look)
        problems = [*_about_keys(self._repository, look.records), *look.records.problems, *look.records.missing]
        problems += [*look.missed(), *_about_signals(self._repository), *self._unnoted]
        problems += [
            Problem(ref.name, what)
            for ref, what in self._packs.gone.items()
            if ref in look.resolver.lost or not look.everything
        ]
        found, mended = look.wholeness.judge()
        index, snapshots = look.loaded.index, look.snapshots
        return Verification(
            snapshots=len(snapshots),
            objects=index.pack_count + len(look.records.snapshots),
            read=self._packs.read,
            problems=tuple(sorted({*problems, *found}, key=lambda problem: (problem.name, problem.what))),
            mended=mended,
            touched=tuple(look.resolver.touched),
            unneeded=(
                index.pack_count - look.resolver.used_packs if len(snapshots) == len(look.records.snapshots) else 0
            ),
        )

    def _look(self, only: Callable[[Snapshot], bool]) -> _Look:
        """Each part was read after those above it. Packs that were read before are not read again."""
        records = self._repository.records()
        loaded = load_index(self._repository)
        if not self._quick:
            self._packs.check(loaded.index, self._beat)
            self._note(loaded.index)
        wholeness = Wholeness(loaded.index, self._packs, quick=self._quick)
        snapshots = [snapshot for snapshot in records.snapshots if only(snapshot)]
        resolver = Resolver(SnapshotReader(self._repository, loaded=loaded), wholeness, self._beat)
        resolver.resolve(snapshots)
        return _Look(
            records=records,
            snapshots=snapshots,
            loaded=loaded,
            wholeness=wholeness,
            resolver=resolver,
            gone=frozenset(self._packs.gone),
        )

    def _condemn(self, look: _Look) -> None:
        """What is still not there when it is read, and listed even now, is damaged."""
        if self._packs.gone:
            listing = list_packs(self._repository)
            self._packs.condemn({ref for ref in self._packs.gone if ref in listing}, look.loaded.index)
            self._note(look.loaded.index)

    def _note(self, index: Index) -> None:
        """Notes what is damaged, once; a problem only if the note could not be made."""
        new = {part for part in self._packs.bad if part[1] not in index.noted.get(part[0], ())} - self._noted
        if not new:
            return
        self._noted |= new
        try:
            encoded = encode_damage(sorted(new, key=lambda part: (part[0].id, part[1])))
            self._repository.put_object(Kind.DAMAGE, encoded)
        except (NoSpace, PermissionRefused, StoreUnreachable) as error:
            text = _("the damage could not be noted, so the next backup may reuse what is damaged: {why}")
            self._unnoted.append(Problem(Kind.DAMAGE.prefix, text.format(why=error)))


def _about_keys(repository: Repository, records: Records) -> Iterator[Problem]:
    """The plain objects: a repository that opens with one secret may have lost the others."""
    try:
        repository.store.get(REPOSITORY_OBJECT)
    except ObjectMissing as error:
        yield Problem(REPOSITORY_OBJECT, str(error))
    yield from key_problems(repository, [snapshot.keys for snapshot in records.snapshots])


def _about_signals(repository: Repository) -> Iterator[Problem]:
    """Marks, leases and demands of a version. What cannot be unsealed was forged, or is damaged."""
    ignored = _("{name} is not of this repository, or damaged: it is ignored")
    unknown = _("{name} is not of this repository, or damaged: who is at work there is not known")
    decoders: tuple[tuple[Kind, Callable[[bytes], object], str], ...] = (
        (Kind.MARK, decode_mark, ignored),
        (Kind.LEASE, decode_renewal, unknown),
        (Kind.WRITERS, decode_writer, ignored),
    )
    for kind, decode, what in decoders:
        for listed in repository.store.list(kind.prefix):
            problem = _about_signal(repository, listed, decode, what)
            if problem is not None:
                yield problem


def _about_signal(
    repository: Repository, listed: Listed, decode: Callable[[bytes], object], what: str
) -> Problem | None:
    try:
        plain = repository.get_listed(listed)
    except ObjectMissing:
        return None  # a lease that was renewed, a mark whose packs are gone
    except Damaged as error:
        strange = parse_name(listed.name) is None
        return Problem(listed.name, str(error) if strange else what.format(name=listed.name))
    try:
        decode(plain)
    except Damaged as error:
        text = _("{name} is sealed and not understood ({why}): a newer version may have written it")
        return Problem(listed.name, text.format(name=listed.name, why=error))
    return None
