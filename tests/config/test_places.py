from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.config import default_configuration_file, default_data_folder, default_state_folder, find_configuration
from holdfast.config.places import searched_places
from holdfast.errors import ConfigError
from tests.privileges import NOBODY, as_nobody, require_root


class Machine:
    """A home, a working directory and a system folder of the test's own."""

    def __init__(self, root: Path) -> None:
        self.here, self.home, self.system = root / "here", root / "home", root / "etc"
        for folder in (self.here, self.home / ".config/holdfast", self.system):
            folder.mkdir(parents=True)
        self.environment = {"HOME": str(self.home)}

    def find(self, named: Path | None = None, *, at_terminal: bool = True) -> Path | None:
        return find_configuration(
            named,
            at_terminal=at_terminal,
            working_folder=self.here,
            environment=self.environment,
            system_folder=self.system,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def written(path: Path, mode: int = 0o640) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    path.chmod(mode)
    return path


def test_the_order(machine: Machine, tmp_path: Path) -> None:
    assert machine.find() is None
    system = written(machine.system / "holdfast.toml")
    assert machine.find() == system
    user = written(machine.home / ".config/holdfast/holdfast.toml")
    assert machine.find() == user
    machine.environment["XDG_CONFIG_HOME"] = str(tmp_path / "xdg")
    assert machine.find() == system
    user = written(tmp_path / "xdg/holdfast/holdfast.toml")
    assert machine.find() == user
    here = written(machine.here / "holdfast.toml")
    assert machine.find() == here
    variable = written(tmp_path / "variable.toml")
    machine.environment["HOLDFAST_CONFIG"] = str(variable)
    assert machine.find() == variable
    option = written(tmp_path / "option.toml")
    assert machine.find(option) == option


def test_the_working_directory_counts_only_at_a_terminal(machine: Machine) -> None:
    written(machine.here / "holdfast.toml")
    assert machine.find(at_terminal=False) is None
    written(machine.here / "holdfast.toml", 0o666)
    assert machine.find(at_terminal=False) is None


@pytest.mark.parametrize("mode", [0o660, 0o646, 0o666])
def test_a_file_there_that_others_may_write_is_refused(machine: Machine, mode: int) -> None:
    path = written(machine.here / "holdfast.toml", mode)
    written(machine.system / "holdfast.toml")
    with pytest.raises(ConfigError, match=f"{mode:04o}") as caught:
        machine.find()
    assert f"chmod go-w {path}" in caught.value.hint
    path.chmod(mode & ~0o022)
    assert machine.find() == path


def test_a_file_there_that_somebody_else_owns_is_refused(machine: Machine) -> None:
    path = written(machine.here / "holdfast.toml")
    require_root()
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(ConfigError, match="belongs to"):
        machine.find()
    assert machine.find(path) == path  # named, it is the operator's own decision


def test_a_link_there_that_somebody_else_made_is_refused(machine: Machine) -> None:
    target = written(machine.here / "mine.toml")
    link = machine.here / "holdfast.toml"
    link.symlink_to(target)
    assert machine.find() == link
    require_root()
    os.lchown(link, NOBODY, NOBODY)
    with pytest.raises(ConfigError, match="belongs to"):
        machine.find()


def test_a_named_file_that_is_not_there_is_an_error_and_nothing_else_is_taken(machine: Machine) -> None:
    written(machine.system / "holdfast.toml")
    with pytest.raises(ConfigError, match=r"--config names .*absent"):
        machine.find(machine.here / "absent.toml")
    machine.environment["HOLDFAST_CONFIG"] = "/absent.toml"
    with pytest.raises(ConfigError, match="HOLDFAST_CONFIG names"):
        machine.find()


def test_a_file_that_may_not_be_looked_at_is_not_passed_over(open_folder: Path) -> None:
    machine = Machine(open_folder)
    path = written(machine.system / "holdfast.toml")
    machine.system.chmod(0o700)
    with as_nobody():
        assert machine.find(at_terminal=False) == path


def test_default_places() -> None:
    environment = {"HOME": "/home/li"}
    assert default_configuration_file(root=True) == Path("/etc/holdfast/holdfast.toml")
    assert default_state_folder(root=True) == Path("/var/lib/holdfast/state")
    assert default_data_folder(root=True) == Path("/var/lib/holdfast")
    assert default_configuration_file(root=False, environment=environment) == Path(
        "/home/li/.config/holdfast/holdfast.toml"
    )
    assert default_state_folder(root=False, environment=environment) == Path("/home/li/.local/state/holdfast")
    environment["XDG_STATE_HOME"] = "relative/is/ignored"
    assert default_state_folder(root=False, environment=environment) == Path("/home/li/.local/state/holdfast")
    environment["XDG_STATE_HOME"] = "/state"
    assert default_state_folder(root=False, environment=environment) == Path("/state/holdfast")
    assert Path("/etc/holdfast/holdfast.toml") in searched_places(environment)
