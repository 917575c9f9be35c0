"""Errors that a user can act on, and the one way in which a command line of this project ends."""

import difflib
import functools
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from .signals import Stopped


class UserError(Exception):
    """Bad input: one line that says what is wrong and what to do. Programs end with exit code 2."""


def exit_with(message: object, code: int = 2) -> NoReturn:
    """Print one line on stderr and leave with an exit code."""
    print(message, file=sys.stderr)
    raise SystemExit(code)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint such as " Did you mean 'epochs'?", or nothing when no known name is close."""
    match = difflib.get_close_matches(name, list(known), 1)
    return f" Did you mean {match[0]!r}?" if match else ""


def program(*commands: Callable[..., None] | tuple[str, Callable[..., None]]) -> None:
    """Run a command line of annotated functions; a bad end is one line and exit code 2, a stop's 128 + its signal."""
    import typer  # a quarter of a second that notebooks need not wait for

    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    for command in commands:
        name, function = command if isinstance(command, tuple) else (None, command)
        app.command(name)(ending_in_one_line(function))
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        message = getattr(error, "format_message", None)  # wrong usage: of click, or of the click inside newer typers
        if message is None:
            raise
        exit_with(f"error: {' '.join(message().split())} (--help lists what there is)")
    raise SystemExit(code or 0)


def ending_in_one_line(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose errors and stops are one line and an exit code; typer itself would swallow their messages."""

    @functools.wraps(command)
    def run(*arguments: object, **options: object) -> None:
        try:
            command(*arguments, **options)
        except UserError as error:
            exit_with(f"error: {error}")
        except Stopped as stop:
            exit_with(stop, stop.exit_code)
        except KeyboardInterrupt:
            exit_with("stopped; the same command goes on where this one stopped", 130)

    return run
