"""What every command has at hand: the configuration, the output, the progress."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from holdfast.errors import ConfigError, HoldfastError
from holdfast.messages import _

if TYPE_CHECKING:
    import typer

    from holdfast.cli.output import Output
    from holdfast.cli.progress import Watched
    from holdfast.clock import Clock
    from holdfast.config import Configuration
    from holdfast.wiring import Wiring


_TELL_EVERY_SECONDS = 10.0
"""Between two texts about asking again …"""
_REPEAT_EVERY_SECONDS = 30.0
"""… and between two that are the same."""


@dataclass(frozen=True, kw_only=True)
class Session:
    config_file: Path | None
    """What ``--config`` names."""
    json: bool
    verbose: bool
    output: Output

    @staticmethod
    def of(ctx: typer.Context) -> Session:
        return cast("Session", ctx.find_root().obj)

    def find_configuration(self) -> Path | None:
        """The configuration file, if there is any. Raises ``ConfigError`` as ``config.find_configuration`` does."""
        from holdfast.config import find_configuration

        return find_configuration(self.config_file, at_terminal=at_terminal())

    def configuration(self) -> Configuration:
        """The configuration, its warnings told. Raises ``ConfigError``, also where there is none."""
        from holdfast.config import read_configuration, searched_places

        path = self.find_configuration()
        if path is None:
            raise ConfigError(
                _("there is no configuration in {places}").format(places=", ".join(map(str, searched_places()))),
                hint=_("Write one with: holdfast init; or name one with --config."),
            )
        configuration = read_configuration(path)
        for warning in configuration.warnings:
            self.output.warning(warning)
        self.output.zone = configuration.zone
        return configuration

    def wiring(self, *, hurried: bool = False, configuration: Configuration | None = None) -> Wiring:
        """What the configuration describes, ready to be made."""
        from holdfast.cli import interruption
        from holdfast.clock import SystemClock
        from holdfast.wiring import Wiring

        return Wiring(
            configuration=configuration or self.configuration(),
            clock=SystemClock(),
            stopped=interruption.requested,
            trying_again=self.trying_again(),
            hurried=hurried,
        )

    def trying_again(self, clock: Clock | None = None) -> Callable[[HoldfastError], None]:
        """Tells why a store is asked again, from any thread, but not more often than is read."""
        from holdfast.clock import SystemClock

        monotonic = (clock or SystemClock()).monotonic
        lock = threading.Lock()
        told: tuple[str, float] | None = None

        def tell(error: HoldfastError) -> None:
            nonlocal told
            text = _("{error}; trying again").format(error=error)
            with lock:
                if told is not None:
                    pause = _REPEAT_EVERY_SECONDS if text == told[0] else _TELL_EVERY_SECONDS
                    if monotonic() - told[1] < pause:
                        return
                told = text, monotonic()
                self.output.warning(text)

        return tell

    def progress(self) -> Watched:
        """A ``Progress`` for one job, as a context: ``with session.progress() as progress``."""
        from holdfast.cli.progress import watched

        return watched(self.output)


def at_terminal() -> bool:
    """Whether a person sits there: what a file in the working directory may then configure, and who may be asked."""
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
