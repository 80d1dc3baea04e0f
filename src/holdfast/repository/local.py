"""The folder of this machine's state about a repository: private, and never root's where its user is somebody else."""

from __future__ import annotations

import os
from pathlib import Path


def make_folder(folder: Path) -> None:
    """With those above it; made by root, each belongs to the owner of the folder it lies in. Raises ``OSError``."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    hand_over(folder)


def hand_over(path: Path) -> None:
    """What root has just made in a folder of another user's becomes that user's: they work with it next."""
    owner = path.parent.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
