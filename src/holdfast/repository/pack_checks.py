"""Reading packs back whole: which of their parts are what was written, which are not, and which packs are gone.

A pack that the store says it does not have is not damaged: it may have been pruned since it was listed. Whoever asks
looks at a newer listing, and lets the packs be checked again (:meth:`PackChecks.check`), before anything is claimed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet

from holdfast.errors import Damaged, ObjectMissing
from holdfast.messages import _
from holdfast.repository.crew import each
from holdfast.repository.damage import BadPart
from holdfast.repository.ids import ChunkId
from holdfast.repository.index import Index
from holdfast.repository.objects import ObjectRef
from holdfast.repository.packing import Directory, Location, directory_span, read_directory, read_part, trailer_span
from holdfast.repository.repository import Problem, Repository
from holdfast.repository.sealing import HEAD


class PackChecks:
    """Reads packs from many threads."""

    def __init__(self, repository: Repository, progress: Callable[[int], None], *, workers: int) -> None:
        """``progress`` hears the bytes of each pack when done."""
        self._repository = repository
        self._progress = progress
        self._workers = workers
        self._checked: list[Index] = []
        self._lock = threading.Lock()
        self.bad: dict[BadPart, str] = {}
        """Each part that cannot be read, and why."""
        self.damaged: dict[ObjectRef, str] = {}
        """Each pack with such a part."""
        self.frames: dict[ObjectRef, str] = {}
        """Packs whose parts are whole and whose frame is not."""
        self.gone: dict[ObjectRef, str] = {}
        """Packs that the index last checked shows, and that the store does not have."""
        self.read = 0

    def check(self, index: Index, beat: Callable[[], None]) -> None:
        """All packs that ``index`` shows, but for those that were read before. ``beat`` is called now and then."""
        again = frozenset(self.gone)
        self.gone.clear()
        each(self._check, self._unchecked(index, again, beat), workers=self._workers)
        self._checked.append(index)

    def condemn(self, listed: AbstractSet[ObjectRef], index: Index) -> None:
        """Those that are gone and ``listed`` all the same are damaged."""
        for ref in [ref for ref in self.gone if ref in listed]:
            self._report(ref, self.gone.pop(ref), range(len(index.directory(ref))))

    def _unchecked(self, index: Index, again: AbstractSet[ObjectRef], beat: Callable[[], None]) -> Iterator[Directory]:
        for directory in index.directories():
            if directory.pack in again or not any(former.shows(directory.pack) for former in self._checked):
                beat()
                yield directory

    def _check(self, directory: Directory) -> None:
        ref = directory.pack
        try:
            data = memoryview(self._repository.store.get(ref.name))
        except ObjectMissing as error:
            with self._lock:
                self.gone[ref] = str(error)
            return
        bad = [
            ordinal
            for ordinal, part in enumerate(directory.parts)
            if not self._whole(Location(ref, ordinal, part), data[part.offset :][: part.sealed_length])
        ]
        if bad:
            self._report(ref, _("{name} is damaged: {n} of {all} chunks in it cannot be read").format(
                name=ref.name, n=len(bad), all=len(directory)), bad)  # fmt: skip
        else:
            self._check_frame(directory, data)
        with self._lock:
            self.read += len(data)
        self._progress(len(data))

    def _whole(self, place: Location, sealed: memoryview) -> bool:
        try:
            read_part(self._repository.cipher(place.pack), place, sealed, self._repository.ids)
        except Damaged:
            return False
        return True

    def _check_frame(self, directory: Directory, data: memoryview) -> None:
        """Head, trailer and the pack's own directory, which must say what the index says."""
        ref = directory.pack
        try:
            self._repository.cipher(ref).check_head(data[: HEAD.size])
            at, length = trailer_span(len(data))
            start, size = directory_span(len(data), bytes(data[at : at + length]))
            own = read_directory(self._repository.master, ref, len(data), data[start : start + size])
            if own != directory:
                raise Damaged(_("{name} holds other chunks than the index says").format(name=ref.name))
        except Damaged as error:
            with self._lock:
                self.frames[ref] = str(error)

    def _report(self, ref: ObjectRef, what: str, ordinals: Iterable[int]) -> None:
        with self._lock:
            self.bad.update({(ref, ordinal): what for ordinal in ordinals})
            self.damaged[ref] = what


class Wholeness:
    """Which places of chunks are whole, as far as was looked."""

    def __init__(self, index: Index, packs: PackChecks, *, quick: bool) -> None:
        self.index = index
        self._packs = packs
        self._quick = quick

    def places(self, chunk_id: ChunkId) -> Iterator[tuple[Location, str]]:
        """Each place of a chunk, and what is wrong with it, if anything."""
        for place in self.index.places(chunk_id):
            noted = self._quick and place.ordinal in self.index.noted.get(place.pack, ())
            why = _("{name} is damaged").format(name=place.pack.name) if noted else ""
            why = why or self._packs.gone.get(place.pack, "")
            yield place, why or self._packs.bad.get((place.pack, place.ordinal), "")

    def lost(self, chunk_id: ChunkId) -> Iterator[ObjectRef]:
        """The packs that had a chunk and are not there."""
        yield from (place.pack for place in self.index.losses(chunk_id))
        yield from (place.pack for place in self.index.places(chunk_id) if place.pack in self._packs.gone)

    def judge(self) -> tuple[list[Problem], tuple[Problem, ...]]:
        """Damaged packs: those that are a loss, and those whose chunks are all whole elsewhere.

        Those that are not there any more are neither.
        """
        shown = {ref: what for ref, what in self._packs.frames.items() if self.index.shows(ref)}
        problems = [Problem(ref.name, what) for ref, what in shown.items()]
        mended: list[Problem] = []
        for ref, what in self._packs.damaged.items():
            if self.index.shows(ref):
                parts = self.index.directory(ref).parts
                ordinals = [ordinal for pack, ordinal in self._packs.bad if pack == ref]
                whole = all(any(not why for _place, why in self.places(parts[ordinal].id)) for ordinal in ordinals)
                (mended if whole else problems).append(Problem(ref.name, what))
        return problems, tuple(mended)
