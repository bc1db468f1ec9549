"""The entry point: parses, runs one command, turns every error into a message and an exit code.

Imports nothing heavy: `voltool --help` must answer at once.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from voltool.cli.arguments import globals_first
from voltool.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, InterruptedByUser, Interruption, UsageError, VoltoolError

if TYPE_CHECKING:
    from voltool.backup.ports import World
    from voltool.cli.invocation import Invocation


def main(arguments: Sequence[str] | None = None, make_world: Callable[[Invocation], World] | None = None) -> int:
    """Run voltool with ``arguments`` (without the program's name); the exit code. Tests pass a world of their own."""
    # Imports make many objects and no cycles: to look for some each 700 objects is a tenth of the time a command takes to start.
    gc.set_threshold(50_000)
    from voltool.cli.invocation import Invocation
    from voltool.cli.output import Output
    from voltool.cli.signals import interruptible

    words = globals_first(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # not a real file in some tests
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    output = Output(json="--json" in words)
    try:
        with Invocation(output, os.environ, make_world or _real_world) as invocation, interruptible():
            return _run(words, invocation)
    except BrokenPipeError:  # whoever read our output has gone; nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _real_world(invocation: Invocation) -> World:
    from voltool.cli.world import build_world

    return build_world(invocation)


def _run(words: list[str], invocation: Invocation) -> int:
    from voltool.cli.app import app

    if "_VOLTOOL_COMPLETE" in os.environ:  # the shell asks at the TAB key; completions/ has its side
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    try:
        result = app(args=words, prog_name="voltool", standalone_mode=False, obj=invocation)
    except VoltoolError as error:
        return _report(error, invocation)
    except Interruption as interruption:
        return _report(interruption.error, invocation)
    except KeyboardInterrupt:
        return _report(InterruptedByUser("interrupted"), invocation)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the last line of defence: a person gets a message, not a traceback
        return _report(_translate(error, invocation), invocation)
    return result if isinstance(result, int) else EXIT_DONE


def _report(error: VoltoolError, invocation: Invocation) -> int:
    """Say what ended the command. What it had done before is still part of the result."""
    invocation.output.error(error)
    invocation.errors.insert(0, error)
    if error.exit_code == EXIT_USAGE and not invocation.fields:
        invocation.codes.clear()
    invocation.codes.append(error.exit_code)
    return invocation.finish()


def _translate(error: Exception, invocation: Invocation) -> VoltoolError:
    """An error of the parser, or one that nobody foresaw."""
    format_message = getattr(error, "format_message", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        if not invocation.output.json:
            invocation.output.line(error.format_message())  # type: ignore[attr-defined]
        return UsageError("no command was given", remedy="voltool --help")
    if format_message is not None:
        remedy = "voltool --help" if not invocation.command else f"voltool {invocation.command} --help"
        context = getattr(error, "ctx", None)
        if context is not None:
            remedy = f"{context.command_path} --help"
        return UsageError(str(format_message()).rstrip("."), remedy=remedy)
    if invocation.output.verbose:
        traceback.print_exception(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return VoltoolError(
        "voltool failed in a way it did not foresee",
        where=f"{os.path.basename(where.filename)}, line {where.lineno}",
        why=f"{type(error).__name__}: {error}",
        remedy="the same with --verbose, and report what it prints",
    )
