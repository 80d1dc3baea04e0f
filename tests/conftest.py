"""Fixtures that more than one package's tests use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.requirements import require
from tests.servers import Cluster, Servers

settings.register_profile("house", deadline=None)  # machines are shared: how long a step takes says nothing
settings.load_profile("house")


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Makes throwaway PostgreSQL clusters; what a test leaves running is ended when the session ends."""
    made = Servers()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def make_cluster(servers: Servers) -> Iterator[Callable[..., Cluster]]:
    """:meth:`Servers.make_cluster`, but what it makes is gone when the test ends."""
    made: list[Cluster] = []

    def make(*arguments: object, **options: object) -> Cluster:
        made.append(servers.make_cluster(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for cluster in reversed(made):
        servers.remove(cluster)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sample", type=int, help="run that many of the chosen tests, spread evenly (none is no error)")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--sample")
    if wanted is None or wanted >= len(items):
        return
    chosen = {number * len(items) // wanted for number in range(wanted)}
    config.hook.pytest_deselected(items=[item for number, item in enumerate(items) if number not in chosen])
    items[:] = [item for number, item in enumerate(items) if number in chosen]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if session.config.getoption("--sample") is not None and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


@pytest.fixture(scope="session")
def catalogues() -> None:
    """The message catalogues compiled as they stand now, not as they stood when the package was installed."""
    try:
        from babel.messages.mofile import write_mo
        from babel.messages.pofile import read_po
    except ImportError:
        require(False, "babel is not installed")
        raise
    for po in Path(__file__).parents[1].glob("src/holdfast/locale/*/LC_MESSAGES/holdfast.po"):
        made = po.with_suffix(f".{os.getpid()}")
        with po.open("rb") as text, made.open("wb") as compiled:
            write_mo(compiled, read_po(text))
        made.replace(po.with_suffix(".mo"))  # others may be reading it
