"""Writers, prune, compaction and removal on several machines at once, in every order that chance finds."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from holdfast.repository import packing
from tests.repository.machines import make_small
from tests.repository.world import World

SEEDS = tuple(range(1, 11))
STEPS = 200
CHECKED_WHOLE_EVERY = 10


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


def live(seed: int, steps: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    monkeypatch.setattr(os, "urandom", random.Random(seed).randbytes)
    monkeypatch.setattr(packing, "PACK_TARGET", 6_000 if seed % 2 else 600)  # the latter: full ones of lists as well
    world = World(seed, folder / str(seed))
    at = 0
    try:
        for at in range(1, steps + 1):
            world.step()
            world.clear_doubts()
            world.check(everything=at % CHECKED_WHOLE_EVERY == 0)
        world.end()
    except BaseException:
        print(f"seed {seed}, step {at}, and before it:", *world.told[-60:], sep="\n")
        raise
    finally:
        for job in world.jobs:
            job.kill()
    return world.seen


def test_nothing_published_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each seed by itself again: ``live(seed, STEPS, …)``; what happened before a failure is printed with its seed."""
    seen = Counter[str]()
    for seed in SEEDS:
        seen += live(seed, STEPS, tmp_path, monkeypatch)
    for what in ("marked", "repacked", "deleted", "saved", "unmarked", "compacted"):
        assert seen[what], f"{what}: never, so nothing was tried"
    for job in ("backup", "restore", "removal", "marking", "sweep", "compaction"):
        assert seen[f"{job} done"], job
        assert seen[f"{job} Killed"] or job == "removal", job
    assert seen["backup TryLater"], "no writer ever came too late"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1000, 1100))
def test_nothing_published_is_lost_in_the_long_run(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live(seed, STEPS, tmp_path, monkeypatch)
