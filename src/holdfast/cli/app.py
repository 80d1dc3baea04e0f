"""The tree of commands, built when the language is known; a command's module is imported when it is asked for."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

import holdfast
from holdfast.cli.session import Session
from holdfast.errors import UsageError
from holdfast.messages import _

if TYPE_CHECKING:
    from holdfast.cli.output import Output

Function = TypeVar("Function", bound=Callable[..., Any])


class Command(TyperCommand):
    def get_help(self, ctx: Any) -> str:
        return in_language(super().get_help(ctx))


class Commands(TyperGroup):
    """A group whose commands lie in ``modules`` (name: module), if it has any; else the ordinary kind."""

    modules: Mapping[str, str] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.modules) or super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in self.modules and cmd_name not in self.commands:
            part = App()
            importlib.import_module(self.modules[cmd_name]).register(part)
            self.commands.update(get_group(part).commands)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            from difflib import get_close_matches

            near = get_close_matches(name, self.list_commands(ctx), n=1)
            raise UsageError(
                _("there is no command {name}").format(name=f"{ctx.command_path} {name}"),
                hint=_("Did you mean {name}?").format(name=near[0])
                if near
                else _("The commands are shown by: {command}").format(command=f"{ctx.command_path} --help"),
            )
        return super().resolve_command(ctx, args)

    def get_help(self, ctx: Any) -> str:
        return in_language(super().get_help(ctx))


class App(typer.Typer):
    """What a command's module registers in: ``def register(app: App) -> None`` with ``@app.command(help=_("…"))``.

    A group of commands is ``group = App(name="key", help=_("…")); app.add_typer(group)``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            **{"cls": Commands, "add_completion": False, "rich_markup_mode": None, "no_args_is_help": True, **settings}
        )

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Function], Function]:
        epilog = _("--config, --lang, --json and --verbose work here too: see holdfast --help")
        return super().command(name, **{"cls": Command, "epilog": epilog, **settings})


def _show_version(ctx: typer.Context, wanted: bool) -> None:
    if wanted:
        output: Output = ctx.obj
        output.result({"version": holdfast.__version__}, lambda: output.line(f"holdfast {holdfast.__version__}"))
        raise typer.Exit


def _common(
    ctx: typer.Context,
    *,
    config: Annotated[
        Path | None, typer.Option(help=_("The configuration file; else HOLDFAST_CONFIG, else the usual places."))
    ] = None,
    lang: Annotated[  # noqa: ARG001  chosen before anything is built
        str | None, typer.Option(help=_("The language of messages: en or zh_CN; else that of the locale."))
    ] = None,
    json: Annotated[bool, typer.Option("--json", help=_("Print one JSON document on standard output."))] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help=_("Say more; show where an unexpected error arose."))
    ] = False,
    version: Annotated[  # noqa: ARG001  acts by its callback
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help=_("Print the version."))
    ] = False,
) -> None:
    ctx.obj = Session(config_file=config, json=json, verbose=verbose, output=ctx.obj)


def build(commands: Mapping[str, str]) -> Any:
    """The command ``holdfast``, for a context whose ``obj`` is an ``Output``; ``commands`` as in ``cli.COMMANDS``."""
    app = App(help=_("PostgreSQL backups that prove themselves."))
    app.callback()(_common)
    root = get_group(app)
    assert isinstance(root, Commands)
    root.modules = commands
    return root


def in_language(text: str) -> str:
    """A help text with the words that come from the parser in the language, too."""
    words = {
        "Usage:": _("Usage:"),
        "Options:": _("Options:"),
        "Commands:": _("Commands:"),
        "Arguments:": _("Arguments:"),
        "Show this message and exit.": _("Show this message and exit."),
        "[required]": _("[required]"),
    }
    pattern = r"^(?:Usage|Options|Commands|Arguments):|Show this message and exit\.$|\[required\]$"
    return re.sub(pattern, lambda found: words[found[0]], text, flags=re.MULTILINE)
