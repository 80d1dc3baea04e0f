"""Writes a golden repository: ``python -m tests.golden.make FOLDER``, a new folder beside the others.

Run it for a version that writes something new, into a folder of its own. Once the format is called stable, no folder
that is there is ever made again: fixtures are only added, since what they prove is that bytes which an *earlier*
version wrote are still restored. The same code with the same zstd makes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast import __version__
from holdfast.entry import Entry, EntryKind
from holdfast.repository.objects import PACK_KINDS, Kind
from holdfast.repository.snapshots import Snapshot
from holdfast.store.memory import MemoryStore
from tests.golden.damages import STEPS, T1, Damage, Expected, Touched, Ways
from tests.golden.whole import CHOSEN, CHOSEN_NOTE, PASSPHRASE, RECOVERY_KEY, REMOVED, Life

WARNING = "Test secrets, known to everybody: they protect nothing."


def main(folder: Path) -> None:
    folder.mkdir()
    life = Life()
    pack(life.store, folder / "whole.zip")
    write(folder / "manifest.json", manifest(life))
    kept = [step for step in STEPS if step != T1]
    labels = {step: life.snapshots[step].label for step in kept}
    mended = [life.one("blueprints 2", "data/")]
    write(folder / "damages.json", [damage_document(damage, labels, mended) for damage in Ways(life).all()])


def pack(store: MemoryStore, path: Path) -> None:
    """An uncompressed archive; the moments in it are the store's, UTC, to 2 s."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for item in sorted(store.list(""), key=lambda item: item.name):
            written = zipfile.ZipInfo(item.name, item.modified.timetuple()[:6])
            written.external_attr = 0o600 << 16
            archive.writestr(written, store.get(item.name))


def manifest(life: Life) -> dict[str, object]:
    repository = life.open()
    left = ("killed", "killed again")
    unneeded = [name for step in left for name in life.made[step] if name.startswith(("data/", "meta/"))]
    unneeded.append(life.one(T1, "meta/"))  # the removed snapshot's own leaf
    return {
        "holdfast": __version__,
        "secrets_are": WARNING,
        "opened_by": {"passphrase": PASSPHRASE, "recovery_key": RECOVERY_KEY, "chosen_passphrase": CHOSEN},
        "removed_passphrase": REMOVED,
        "key_notes": sorted(["init", "init", CHOSEN_NOTE]),
        "repository": repository.id,
        "key": repository.key_id,
        "snapshots": [
            snapshot_document(snapshot, life.given[step]) for step, snapshot in life.snapshots.items() if step != T1
        ],
        "removed": life.snapshots[T1].id,
        "killed_backup_lease": life.one("killed again", "leases/"),
        "marked": [life.ref("killed", kind.prefix).name for kind in PACK_KINDS],
        "mended": life.one("blueprints 2", "data/"),
        "unneeded": sorted(unneeded),
        "kinds": sorted(kind.name for kind in Kind if any(life.store.list(kind.prefix))),
    }


def snapshot_document(snapshot: Snapshot, given: Sequence[tuple[Entry, bytes]]) -> dict[str, object]:
    """What was put in, not what was read back: sorted by the bytes of the paths."""
    entries = []
    for entry, content in sorted(given, key=lambda one: os.fsencode(one[0].path)):
        what = hashlib.sha256(content).hexdigest() if entry.kind is EntryKind.FILE else entry.link_target
        entries.append([entry.path, entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.size, what])
    return {
        "id": snapshot.id,
        "label": snapshot.label,
        "source": snapshot.source,
        "host": snapshot.host,
        "warnings": list(snapshot.warnings),
        "predecessors": list(snapshot.predecessors),
        "entries": entries,
    }


def damage_document(damage: Damage, labels: Mapping[str, str], mended: Sequence[str]) -> dict[str, object]:
    def told(expected: Expected, packs: Sequence[str]) -> dict[str, object]:
        def by_label(touched: Touched) -> list[str]:
            return [labels[touched[0]], touched[1]]

        return {
            "problems": dict(expected.problems),
            "touched": sorted(map(by_label, expected.touched)),
            "mended": [name for name in packs if expected.mended],
        }

    return {
        "name": damage.name,
        "changes": list(damage.changes),
        "opens_with": damage.opens_with,
        "refused": dict(damage.refused),
        "quick": told(damage.quick, ()),
        "full": told(damage.full, mended),
        "remembered": dict(damage.remembered),
    }


def write(path: Path, document: Any) -> None:
    """An entry, and a change, a line: what is flat stands in one."""
    path.write_text(render(document) + "\n", encoding="ascii")


def render(value: Any, indent: str = "") -> str:
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if not any(isinstance(item, (dict, list)) for item in items):
        return json.dumps(value)
    inner = indent + " "
    if isinstance(value, dict):
        rows = [f"{inner}{json.dumps(name)}: {render(item, inner)}" for name, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + render(item, inner) for item in value) + f"\n{indent}]"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
