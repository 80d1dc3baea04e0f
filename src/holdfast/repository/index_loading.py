"""Reading the index as it is in the store, beside a listing of the packs.

What the index names and the listing lacks (or shows with another size) is *lost*: never reused, and named when somebody
needs it. What is listed and in no index object is learned from the pack's own directory. So neither an interrupted
backup nor a lost or damaged index object costs more than time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.errors import Damaged, ObjectMissing
from holdfast.messages import _
from holdfast.repository.crew import each
from holdfast.repository.damage import decode_damage
from holdfast.repository.index import Index, decode_index
from holdfast.repository.objects import PACK_KINDS, Kind, ObjectRef, parse_name
from holdfast.repository.packing import Directory, directory_span, read_directory, trailer_span
from holdfast.repository.repository import DEFAULT_WORKERS, Problem, Repository

_TAIL_BYTES = 16 * 1024
"""Read at once from a pack's end: holds the directory of most packs."""


@dataclass(frozen=True, slots=True)
class LoadedIndex:
    present: Index = field(default_factory=Index)
    damaged: Index = field(default_factory=Index)
    """Parts that a verification found damaged: not reused, and read only where nothing else is left."""
    lost: Index = field(default_factory=Index)
    learned: list[Directory] = field(default_factory=list)
    """Directories of packs that no index object names."""
    problems: list[Problem] = field(default_factory=list)


def load_index(repository: Repository) -> LoadedIndex:
    # Index objects are listed before the packs: a pack is always older than the index object that names it.
    index_names = [listed.name for listed in repository.store.list(Kind.INDEX.prefix)]
    listed = {
        ref: item.size
        for kind in PACK_KINDS
        for item in repository.store.list(kind.prefix)
        if (ref := parse_name(item.name)) is not None
    }
    loaded = LoadedIndex()
    bad = _noted_damage(repository, loaded.problems)
    for directory in _indexed(repository, index_names, loaded.problems):
        if listed.get(directory.pack) == directory.size:
            _add_present(loaded, directory, bad)
        else:
            loaded.lost.add(directory)
    unknown = [ref for ref in listed if ref not in loaded.present.packs and ref not in loaded.lost.packs]
    loaded.learned.extend(_learn(repository, {ref: listed[ref] for ref in unknown}, loaded.problems))
    for directory in loaded.learned:
        _add_present(loaded, directory, bad)
    for ref, directory in loaded.lost.packs.items():
        loaded.problems.append(_lost(ref, directory.size, listed.get(ref)))
    return loaded


def _add_present(loaded: LoadedIndex, directory: Directory, bad: dict[ObjectRef, set[int]]) -> None:
    ordinals = bad.get(directory.pack)
    if ordinals is None:
        loaded.present.add(directory)
    else:
        everyone = range(len(directory.parts))
        loaded.present.add(directory, [ordinal for ordinal in everyone if ordinal not in ordinals])
        loaded.damaged.add(directory, [ordinal for ordinal in everyone if ordinal in ordinals])


def _noted_damage(repository: Repository, problems: list[Problem]) -> dict[ObjectRef, set[int]]:
    bad: dict[ObjectRef, set[int]] = {}
    for listed in repository.store.list(Kind.DAMAGE.prefix):
        ref = parse_name(listed.name)
        try:
            for pack, ordinal in decode_damage(repository.get_object(ref)) if ref else ():
                bad.setdefault(pack, set()).add(ordinal)
        except (Damaged, ObjectMissing) as error:
            problems.append(Problem(listed.name, str(error)))
    return bad


def _indexed(repository: Repository, names: list[str], problems: list[Problem]) -> list[Directory]:
    found: list[Directory] = []

    def read(name: str) -> None:
        ref = parse_name(name)
        try:
            if ref is None:
                raise Damaged(_("{name} has a name that Holdfast does not write").format(name=name))
            found.extend(decode_index(repository.get_object(ref)))
        except (Damaged, ObjectMissing) as error:
            problems.append(Problem(name, str(error)))

    each(read, names, workers=DEFAULT_WORKERS)
    return found


def _learn(repository: Repository, packs: dict[ObjectRef, int], problems: list[Problem]) -> list[Directory]:
    found: list[Directory] = []

    def read(pack: ObjectRef) -> None:
        try:
            found.append(fetch_directory(repository, pack, packs[pack]))
        except (Damaged, ObjectMissing) as error:
            problems.append(Problem(pack.name, str(error)))

    each(read, packs, workers=DEFAULT_WORKERS)
    return found


def fetch_directory(repository: Repository, pack: ObjectRef, size: int) -> Directory:
    """Reads a pack's directory from its end, with one request where it is short."""
    tail_start = max(size - _TAIL_BYTES, 0)
    tail = repository.store.get(pack.name, tail_start, size - tail_start)
    trailer_start, trailer_length = trailer_span(size)
    start, length = directory_span(size, tail[trailer_start - tail_start :][:trailer_length])
    sealed = (
        tail[start - tail_start :][:length] if start >= tail_start else repository.store.get(pack.name, start, length)
    )
    return read_directory(repository.master, pack, size, sealed)


def _lost(pack: ObjectRef, size: int, listed_size: int | None) -> Problem:
    if listed_size is None:
        return Problem(pack.name, _("{name} is missing from the store").format(name=pack.name))
    return Problem(
        pack.name,
        _("{name} is {listed} bytes long instead of {size}").format(name=pack.name, listed=listed_size, size=size),
    )
