"""The process of every command that is not lean: signals, language, errors, exit codes.

Nothing here is imported at module level that ``holdfast --help`` does not need: each command imports its job inside its
function.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn, Protocol, TextIO, runtime_checkable

from holdfast import messages
from holdfast.cli import interruption, lean
from holdfast.cli.lean import COMMON_FLAGS, COMMON_WITH_VALUE
from holdfast.errors import HoldfastError, Interrupted, UsageError
from holdfast.messages import _

if TYPE_CHECKING:
    from holdfast.cli.output import Output


@runtime_checkable
class _Complaint(Protocol):
    """What the command line's parser raises: typer's own class lies in a different place from version to version."""

    exit_code: int

    def format_message(self) -> str: ...


def main(arguments: Sequence[str], commands: Mapping[str, str]) -> NoReturn:
    """Installs what a process needs, runs the command line, and ends with its exit code."""
    if lean.is_fetch(arguments):
        sys.exit(lean.fetch_code(run(arguments, commands)))  # ended by SIGTERM, PostgreSQL wants to see just that
    interruption.install()
    code = run(arguments, commands)
    if code == Interrupted.exit_code:
        interruption.end_now()  # worker threads may hang in the network for minutes
    sys.exit(code)


def run(arguments: Sequence[str], commands: Mapping[str, str]) -> int:
    """Runs one command line and gives its exit code; errors are printed, none gets out."""
    from holdfast.cli.output import Output, OutputClosed

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file's name must not end a listing
    # before anything is parsed: an error of parsing, too, is told in the language and the form asked for
    flags = list(arguments)[: list(arguments).index("--")] if "--" in arguments else list(arguments)
    output = Output(json="--json" in flags, verbose="--verbose" in flags)
    code = 1
    try:
        try:
            messages.use_language()
            gathered = gather(arguments)
            choose_language(gathered)
            code = _invoke(gathered, commands, output)
        except KeyboardInterrupt:
            code = Interrupted.exit_code
            output.error(Interrupted(_("interrupted")))
        except HoldfastError as error:
            code = error.exit_code
            output.error(error)
        finally:
            output.flush()
    except OutputClosed:
        _drop(sys.stdout)  # the reader, `head` perhaps, has seen enough: silence, not a traceback at exit
    return code


def gather(arguments: Sequence[str]) -> list[str]:
    """The arguments with the options that every command takes moved to the front, up to ``--``."""
    common: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            rest += [argument, *waiting]
        elif argument in COMMON_WITH_VALUE:
            value = next(waiting, None)
            if value is None:
                raise UsageError(_("the option {name} needs a value").format(name=argument))
            common.append(f"{argument}={value}")
        elif argument in COMMON_FLAGS or argument.startswith(tuple(f"{name}=" for name in COMMON_WITH_VALUE)):
            common.append(argument)
        else:
            rest.append(argument)
    return common + rest


def choose_language(gathered: Sequence[str]) -> None:
    """Speaks the language that ``--lang`` names. Raises ``UsageError`` for one that there is not."""
    language = next((word.partition("=")[2] for word in reversed(gathered) if word.startswith("--lang=")), None)
    if language is None:
        return
    if language.partition(".")[0].replace("-", "_").lower().partition("_")[0] not in ("en", "zh"):
        raise UsageError(
            _("there is no language {name}").format(name=language),
            hint=_("The languages are: {names}.").format(names="en, zh_CN"),
        )
    messages.use_language(language)


def _invoke(arguments: list[str], commands: Mapping[str, str], output: Output) -> int:
    import typer

    from holdfast.cli.app import build

    try:
        with build(commands).make_context("holdfast", arguments, obj=output) as context:
            context.command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        from holdfast.cli.output import OutputClosed

        if isinstance(error, HoldfastError | OutputClosed):
            raise
        if isinstance(error, _Complaint):
            return _complain(error, output)
        if isinstance(error, BrokenPipeError) and output.reader_gone():
            raise OutputClosed from None  # the parser's own printing of help
        output.unexpected(error)
        return 1
    return 0


def _complain(complaint: _Complaint, output: Output) -> int:
    if type(complaint).__name__ == "NoArgsIsHelpError":
        output.help(complaint.format_message())
        return UsageError.exit_code
    text = complaint.format_message().rstrip(".")
    context = getattr(complaint, "ctx", None)
    path = context.command_path if context is not None else "holdfast"
    error = UsageError(
        text[:1].lower() + text[1:], hint=_("Its options are shown by: {command}").format(command=f"{path} --help")
    )
    output.error(error)
    return error.exit_code


def _drop(stream: TextIO) -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, stream.fileno())
    finally:
        os.close(devnull)
