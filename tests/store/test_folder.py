"""The folder backend: what disks, mounts, permissions and the kernel's SIGKILL do to it."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import HoldfastError, NoSpace, ObjectExists, PermissionRefused, StoreBusy, StoreUnreachable
from holdfast.store.folder import MARK, FolderStore
from tests.privileges import NOBODY, require_root
from tests.requirements import require


def make(root: Path) -> FolderStore:
    return FolderStore(root, clock=SystemClock(), create=True)


def leftovers(root: Path) -> list[str]:
    return [path.name for path in (root / MARK).iterdir()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "some" / "store"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode == 0  # fmt: skip
    require(mounted, "mounting a tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were synced, in order; the syncs are carried out."""
    synced: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return synced


def test_modes(root: Path) -> None:
    old = os.umask(0)
    try:
        make(root).put("packs/aa/1", b"1")
    finally:
        os.umask(old)
    for path, mode in {"": 0o700, MARK: 0o700, "packs": 0o700, "packs/aa": 0o700, "packs/aa/1": 0o600}.items():
        assert stat.S_IMODE((root / path).stat().st_mode) == mode


@pytest.mark.parametrize("if_absent", [False, True])
def test_everything_that_changed_is_synced(root: Path, syncs: list[str], if_absent: bool) -> None:
    store = make(root)
    assert set(syncs) == {str(root.parent.parent), str(root.parent), str(root)}
    syncs.clear()
    store.put("packs/aa/1", b"1", if_absent=if_absent)
    assert MARK in syncs[0]
    assert syncs[1:] == [str(root), str(root / "packs"), str(root / "packs/aa")]
    syncs.clear()
    store.put("packs/aa/2", b"1", if_absent=if_absent)
    assert MARK in syncs[0]
    assert syncs[1:] == [str(root / "packs/aa")]
    syncs.clear()
    make(root).put("packs/aa/3", b"1", if_absent=if_absent)
    assert syncs[1:] == [str(root), str(root / "packs"), str(root / "packs/aa")], "another process may have made them"
    syncs.clear()
    store.delete("packs/aa/1")
    assert syncs == [str(root / "packs/aa")]
    assert leftovers(root) == []


def test_after_a_failed_sync_the_retry_writes_another_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(root)
    store.put("a", b"1")
    real = os.fsync
    synced: list[int] = []

    def fail_once(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        if len(synced) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail_once)
    with pytest.raises(StoreBusy):
        store.put("b", b"1")
    assert leftovers(root) == []
    assert not (root / "b").exists()
    store.put("b", b"1")
    assert (root / "b").read_bytes() == b"1"


def test_after_a_failed_sync_of_the_folder_the_retry_makes_the_entry_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(root)
    real = os.fsync
    failing = [True]

    def fail_folder(descriptor: int) -> None:
        if failing and stat.S_ISDIR(os.fstat(descriptor).st_mode):
            failing.clear()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail_folder)
    with pytest.raises(StoreBusy):
        store.put("b", b"1", if_absent=True)
    before = (root / "b").stat().st_ino
    store.put("b", b"1", if_absent=True)
    assert (root / "b").stat().st_ino != before


def test_a_root_that_is_not_there_is_unreachable(root: Path) -> None:
    with pytest.raises(StoreUnreachable):
        FolderStore(root, clock=SystemClock())
    root.mkdir(parents=True)
    with pytest.raises(StoreUnreachable, match="no store at") as caught:
        FolderStore(root, clock=SystemClock())
    assert str(root) in caught.value.hint


CALLS: dict[str, Callable[[FolderStore], object]] = {
    "put": lambda store: store.put("packs/new", b"1"),
    "create": lambda store: store.put("packs/new", b"1", if_absent=True),
    "get": lambda store: store.get("packs/1"),
    "get elsewhere": lambda store: store.get("never/there"),
    "list": lambda store: list(store.list("")),
    "list elsewhere": lambda store: list(store.list("never/")),
    "delete": lambda store: store.delete("packs/1"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_an_unmounted_disk_is_unreachable_not_empty(small_disk: Path, call: Callable[[FolderStore], object]) -> None:
    store = make(small_disk)
    store.put("packs/1", b"1")
    subprocess.run(["umount", str(small_disk)], check=True)
    with pytest.raises(StoreUnreachable) as caught:
        call(store)
    assert not isinstance(caught.value, StoreBusy)
    assert "Mount the disk" in caught.value.hint
    assert [*small_disk.iterdir()] == [], "nothing is written under the mount point"


@pytest.mark.parametrize("call", [CALLS["put"], CALLS["create"], CALLS["delete"]])
def test_a_read_only_disk_refuses(small_disk: Path, call: Callable[[FolderStore], object]) -> None:
    store = make(small_disk)
    store.put("packs/1", b"1")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(PermissionRefused) as caught:
        call(store)
    assert "read-only" in caught.value.hint
    assert FolderStore(small_disk, clock=SystemClock()).get("packs/1") == b"1"


def test_a_full_disk_says_where_and_how_much_is_free(small_disk: Path) -> None:
    store = make(small_disk)
    store.put("small", bytes(100_000))
    for if_absent in (False, True):
        with pytest.raises(NoSpace, match=r"packs/large in file://.*bytes free") as caught:
            store.put("packs/large", bytes(2 << 20), if_absent=if_absent)
        assert str(small_disk) in caught.value.hint
    assert leftovers(small_disk) == []
    assert [listed.name for listed in store.list("")] == ["small"]
    store.put("packs/fits", bytes(100_000))


def test_a_file_that_may_not_grow_is_no_space(root: Path) -> None:
    store = make(root)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(NoSpace):
            store.put("large", bytes(20_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert leftovers(root) == []
    assert [*store.list("")] == []


def test_a_stranger_is_refused(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "becoming another user needs root")
    root = tmp_path / "store"
    make(root).put("a", b"1")
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    script = (
        "import os, sys; from pathlib import Path\n"
        "from holdfast.clock import SystemClock; from holdfast.store.folder import FolderStore\n"
        "from holdfast.errors import PermissionRefused\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: FolderStore(Path(sys.argv[1]), clock=SystemClock())\n"
        "except PermissionRefused as error: print(error.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(root)], env=environment(), capture_output=True, text=True, check=True
    )
    assert "Run as the user who owns" in done.stdout


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


WRITER = """
import sys, itertools
from pathlib import Path
from holdfast.clock import SystemClock
from holdfast.store.folder import FolderStore
store = FolderStore(Path(sys.argv[1]), clock=SystemClock())
for number in itertools.count():
    store.put(f"packs/{number}", bytes([number % 256]) * 8_000_000, if_absent=True)
    print(number, flush=True)
"""


def test_what_root_writes_belongs_to_the_owner_of_the_store(root: Path) -> None:
    """A restore as root leaves a lease behind: the user whose backups go there must be able to list it."""
    require_root()
    make(root)
    for path in (root, root / MARK, root.parent):
        os.chown(path, NOBODY, NOBODY)
    FolderStore(root, clock=SystemClock()).put("leases/ab/one", b"root was here")
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in root.rglob("*")}
    assert owners == {(NOBODY, NOBODY)}


def test_sigkill_in_the_middle_leaves_nothing_half(root: Path) -> None:
    store = make(root)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        while not leftovers(root):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        acknowledged = 3 + len(process.stdout.read().splitlines())
    names = [listed.name for listed in store.list("")]
    assert acknowledged <= len(names) <= acknowledged + 1
    for name in names:
        assert store.get(name) == bytes([int(name.removeprefix("packs/"))]) * 8_000_000


def test_leftovers_of_yesterday_are_removed(root: Path) -> None:
    store = make(root)
    store.put("a", b"1")
    old, new = root / MARK / "old.tmp", root / MARK / "new.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    yesterday = (datetime.now(UTC) - timedelta(days=1, minutes=1)).timestamp()
    os.utime(old, (yesterday, yesterday))
    os.utime(root / "a", (yesterday, yesterday))
    assert FolderStore(root, clock=SystemClock()).get("a") == b"1"
    assert leftovers(root) == ["new.tmp"]


def test_what_is_not_the_stores_is_not_listed(root: Path) -> None:
    store = make(root)
    store.put("packs/1", b"1")
    (root / "lost+found").mkdir()
    (root / "lost+found" / "x").write_bytes(b"")
    (root / "README.txt").write_bytes(b"")
    (root / "packs" / ".hidden").write_bytes(b"")
    os.mkfifo(root / "packs" / "pipe")
    (root / "packs" / "dangling").symlink_to("nowhere")
    assert [listed.name for listed in store.list("")] == ["packs/1"]


def test_what_vanishes_during_a_listing_is_left_out(root: Path) -> None:
    store = make(root)
    for number in range(20):
        store.put(f"{number}/object", b"1")
    listing = store.list("")
    first = next(listing).name
    for number in range(20):
        (root / f"{number}" / "object").unlink()
        (root / f"{number}").rmdir()
    assert [*listing] == []
    assert first.endswith("/object")
    store.put("3/object", b"1", if_absent=True)
    assert store.get("3/object") == b"1"


def test_a_listing_that_may_not_look_everywhere_fails(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(root)
    store.put("packs/1", b"1")
    real = os.scandir

    def scan(path: Path) -> object:
        if Path(path).name == "packs":
            raise PermissionError(errno.EACCES, "permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(PermissionRefused):
        list(store.list(""))


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_hard_links_it_says_so_and_still_writes_whole_objects(
    root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def no_links(_self: Path, _target: Path) -> None:
        raise OSError(code, os.strerror(code))

    store = make(root)
    monkeypatch.setattr(Path, "hardlink_to", no_links)
    store.put("a", b"1", if_absent=True)
    with pytest.raises(ObjectExists):
        store.put("a", b"2", if_absent=True)
    assert store.get("a") == b"1"
    assert leftovers(root) == []


def test_a_folder_in_the_way_is_named(root: Path) -> None:
    store = make(root)
    store.put("a/b", b"1")
    for name, if_absent in (("a", True), ("a", False), ("a/b/c", False)):
        with pytest.raises(HoldfastError, match="cannot write a"):
            store.put(name, b"1", if_absent=if_absent)
    assert store.get("a/b") == b"1"
    assert leftovers(root) == []
